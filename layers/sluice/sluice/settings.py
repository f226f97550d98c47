"""Reads the functions' configuration from environment variables, once on first use, never at import."""

import functools
import os
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from sluice.contract import MAX_BODY_BYTES_IN, MAX_CLIENT_BODY_BYTES
from sluice.errors import Misconfigured

_PREFIX: Final = "SLUICE_"


class IngestSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds ingest's settings: where requests and rejections go, where receipts, accounts and sources are.

    `account_secrets` is the prefix of the names of the secrets of private keys. `sealing_secret` holds the
    keys by which functions know each other's messages and objects.
    `webhook_secrets` is the prefix of the names of all webhook sources' secrets. `allowed_origins` are the
    origins of the web pages that may call the client routes, by commas, or `*`. `client_body_bytes` is the
    most that a body may have there.
    """

    events_queue_url: str
    rejected_queue_url: str
    state_table: str
    claim_bucket: str
    account_secrets: str
    sealing_secret: str
    config_bucket: str
    webhook_secrets: str
    allowed_origins: str
    inbound_limits: Literal["off", "documented"]
    client_body_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_BODY_BYTES_IN)] = MAX_CLIENT_BODY_BYTES


class DispatchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds dispatch's settings: the queues it backs off on, where rejections go, accounts, shared state.

    `account_secrets` is the prefix of the names of the secrets of private keys. `import_buckets` are the
    buckets that it may read objects of, by commas.
    """

    events_queue_url: str
    background_queue_url: str
    rejected_queue_url: str
    state_table: str
    claim_bucket: str
    config_bucket: str
    account_secrets: str
    sealing_secret: str
    import_buckets: str = ""

    def is_background(self, queue_arn: str) -> bool:
        """Tells whether a queue, by its ARN, is BackgroundQueue."""
        return queue_arn.rpartition(":")[2] == self.background_queue_url.rpartition("/")[2]


class ResumeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds resume's settings: where messages are parked, where they go back to, and which accounts are
    known.
    """

    events_queue_url: str
    background_queue_url: str
    state_table: str
    claim_bucket: str
    config_bucket: str
    sealing_secret: str


class RejectSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds reject's settings: the archive and its records, dead letters' claim checks, the receipts.

    `state_table` has the receipts. `records_secret` holds the key of the hashes of personal data.
    `archive_days` is how long an archived rejection is kept.
    """

    archive_bucket: str
    claim_bucket: str
    state_table: str
    sealing_secret: str
    records_table: str
    records_secret: str
    archive_days: Annotated[int, msgspec.Meta(ge=1)]


class OperateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds operate's settings: everything that operators look at or change.

    `webhook_secrets` is the prefix of the names of all webhook sources' secrets, and `account_secrets` that
    of private keys. `records_secret` and `archive_days` are reject's.
    """

    events_queue_url: str
    events_dead_letter_queue_url: str
    background_queue_url: str
    background_dead_letter_queue_url: str
    rejected_queue_url: str
    rejected_dead_letter_queue_url: str
    state_table: str
    records_table: str
    claim_bucket: str
    archive_bucket: str
    config_bucket: str
    account_secrets: str
    sealing_secret: str
    webhook_secrets: str
    records_secret: str
    archive_days: Annotated[int, msgspec.Meta(ge=1)]


def parse[T: msgspec.Struct](kind: type[T], environment: Mapping[str, str]) -> T:
    """Parses settings of a `kind` from an environment; `Misconfigured` names every variable that is wrong."""
    given = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(_PREFIX)
    }
    fields = msgspec.structs.fields(kind)
    missing = sorted(f.name for f in fields if f.required and not given.get(f.name, "").strip())
    unknown = sorted(given.keys() - {f.name for f in fields})
    if missing or unknown:
        faults = [f"{_PREFIX}{name.upper()} is not set" for name in missing]
        faults += [f"{_PREFIX}{name.upper()} is not a setting of this function" for name in unknown]
        raise Misconfigured("; ".join(faults))
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"a setting is not valid: {error}") from error


@functools.cache
def load[T: msgspec.Struct](kind: type[T]) -> T:
    """Returns settings of a `kind` from this process's environment, read once."""
    return parse(kind, os.environ)
