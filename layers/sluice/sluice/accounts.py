"""Reads the accounts document: who may send, and how each account is reached upstream.

An account is one of Klaviyo's (`KlaviyoAccount`) or an app at Pipeless (`PipelessApp`). Each has an `id` that
no other account has and that may be part of a key. It names the account on the queue, in the state table and
in the archive.

The document is JSON in Secrets Manager, cached for `CACHE_SECONDS`, so a new key works within that time.
"""

import functools
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from sluice import runtime
from sluice.contract import (
    CALLS_PER_MINUTE,
    KLAVIYO_BASE_URL,
    MAX_INTEGER,
    MIN_CALLS_PER_MINUTE,
    PIPELESS_BASE_URL,
)
from sluice.errors import Misconfigured, Retryable
from sluice.validation.json_text import encode_text

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

CACHE_SECONDS: Final = 60
_SITE_ID: Final = r"^[A-Za-z0-9]{6}\Z"
_APP: Final = re.compile(r"pipeless-[1-9][0-9]{0,18}")
_HEADER_VALUE: Final = r"^[\x21-\x7e]+\Z"  # a key that was pasted with a line end can never be sent


class IngestKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds a key with which callers authenticate, only by its SHA-256 (hex)."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: frozenset[str] = frozenset()


class KlaviyoAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds one Klaviyo account: its public site id, the key to call it with, and the callers' keys."""

    site_id: Annotated[str, msgspec.Meta(pattern=_SITE_ID)]
    private_key: Annotated[str, msgspec.Meta(pattern=_HEADER_VALUE)]
    base_url: str = KLAVIYO_BASE_URL
    keys: tuple[IngestKey, ...] = ()
    limit_metrics: bool = False  # whether it is held to `MAX_METRICS`

    @property
    def id(self) -> str:
        """Returns the account's id among all accounts."""
        return self.site_id

    def __repr__(self) -> str:
        return (
            f"Account({self.site_id!r})"  # a representation may end up in a log, and a private key must not
        )


class PipelessApp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds one app at Pipeless: the key to call it with, the callers' keys, and its rate.

    `object_types` and `relationship_types` are names that the vendor has added for it to the documented ones.
    """

    app_id: Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
    api_key: Annotated[str, msgspec.Meta(pattern=_HEADER_VALUE)]
    base_url: str = PIPELESS_BASE_URL
    keys: tuple[IngestKey, ...] = ()
    calls_per_minute: Annotated[int, msgspec.Meta(ge=MIN_CALLS_PER_MINUTE, le=6_000)] = CALLS_PER_MINUTE
    object_types: frozenset[str] = frozenset()
    relationship_types: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Returns the app's id among all accounts."""
        return f"pipeless-{self.app_id}"

    def __repr__(self) -> str:
        return f"App({self.app_id})"  # as above


class Accounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds every account of this deployment; `pipeless` are the apps, and ids and ingest keys are unique."""

    accounts: tuple[KlaviyoAccount, ...]
    pipeless: tuple[PipelessApp, ...] = ()

    def names(self, account_id: str) -> bool:
        """Tells whether this is the `id` of an account or an app of the document."""
        ids = [*(account.id for account in self.accounts), *(app.id for app in self.pipeless)]
        return account_id in ids

    def by_site_id(self, site_id: str) -> KlaviyoAccount | None:
        """Returns the account with this public site id."""
        return next((account for account in self.accounts if account.site_id == site_id), None)

    def by_key(self, key: str) -> tuple[KlaviyoAccount, IngestKey] | None:
        """Returns the account of an ingest key; looks at every key in constant time, found or not."""
        return _holder(key, self.accounts)

    def single_account(self) -> KlaviyoAccount | None:
        """Returns the account, if there is exactly one."""
        return self.accounts[0] if len(self.accounts) == 1 else None

    def account_of(self, named: str | None) -> str | None:
        """Returns the account's `id` that a producer named; without a valid one, that of the only account."""
        if named and is_account_id(named):
            return named
        only = self.single_account()
        return None if only is None else only.id

    def by_app_id(self, app_id: int) -> PipelessApp | None:
        """Returns the app with this id."""
        return next((app for app in self.pipeless if app.app_id == app_id), None)

    def by_app_key(self, key: str) -> tuple[PipelessApp, IngestKey] | None:
        """Returns the app of an ingest key, as `by_key` does for accounts."""
        return _holder(key, self.pipeless)

    def app(self, named: str | None) -> PipelessApp | None:
        """Returns the app with this `id`; without one, the app if there is exactly one."""
        apps = [app for app in self.pipeless if named in {None, app.id}]
        return apps[0] if len(apps) == 1 else None


def is_site_id(text: str) -> bool:
    """Tells whether this has the form of a site id."""
    return re.search(_SITE_ID, text) is not None


def is_account_id(text: str) -> bool:
    """Tells whether this has the form of an account's `id`."""
    return is_site_id(text) or _APP.fullmatch(text) is not None


def parse(document: bytes | str) -> Accounts:
    """Reads accounts from the secret's JSON; `Misconfigured` names the mistake without quoting the
    document.
    """
    try:
        accounts = msgspec.json.decode(document, type=Accounts)
    except msgspec.MsgspecError as error:
        raise Misconfigured(f"the accounts secret is not valid: {error}") from error
    except (UnicodeError, RecursionError):
        raise Misconfigured("the accounts secret is not valid: it is not JSON") from None
    _check_unique("site_id", [account.site_id for account in accounts.accounts])
    _check_unique("app_id", [app.app_id for app in accounts.pipeless])
    every: list[KlaviyoAccount | PipelessApp] = [*accounts.accounts, *accounts.pipeless]
    _check_unique("key", [key.sha256 for account in every for key in account.keys])
    for account in every:
        _check_base_url(account)
    return accounts


def load(secret: str) -> Accounts:
    """Reads accounts from Secrets Manager by the secret's name or ARN, cached."""
    return _parse_once(read_secret(secret, "the accounts secret cannot be read"))


def read_secret(secret: str, otherwise: str) -> str:
    """Reads a secret's text by its name or ARN, cached; raises `Retryable` with `otherwise` if there is
    none.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    cached = _secrets.get(secret)
    if cached is not None and runtime.monotonic() < cached.until:
        return cached.text
    try:
        text = secrets().get_secret_value(SecretId=secret)["SecretString"]
    except (BotoCoreError, ClientError) as error:
        raise Retryable(otherwise) from error
    _secrets[secret] = _CachedSecret(text, runtime.monotonic() + CACHE_SECONDS)
    return text


def forget_secrets() -> None:
    """Empties the cache of secrets."""
    _secrets.clear()


class _CachedSecret(msgspec.Struct, frozen=True):
    """Holds a secret's text, and until when it is believed, in seconds of the monotonic clock."""

    text: str
    until: float


_secrets: Final[dict[str, _CachedSecret]] = {}


@functools.cache
def secrets() -> "SecretsManagerClient":
    """Returns the process's Secrets Manager client."""
    # Imported on first use, as no pure code needs it.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    # Its own timeouts are minutes. A function that waited for them would time out, and its messages would
    # look like poison.
    retries: Any = {"mode": "standard", "total_max_attempts": 3}
    return boto3.client("secretsmanager", config=Config(connect_timeout=2, read_timeout=3, retries=retries))


def _holder[Holder: (KlaviyoAccount, PipelessApp)](
    key: str, holders: Iterable[Holder]
) -> tuple[Holder, IngestKey] | None:
    digest = hashlib.sha256(encode_text(key)).hexdigest()
    found = None
    for holder in holders:
        for candidate in holder.keys:
            if hmac.compare_digest(digest, candidate.sha256):
                found = holder, candidate
    return found


def _check_unique(name: str, values: list[str] | list[int]) -> None:
    if len(set(values)) != len(values):
        raise Misconfigured(f"the accounts secret has one {name} twice")


def _check_base_url(account: KlaviyoAccount | PipelessApp) -> None:
    if not _is_safe(account.base_url):
        raise Misconfigured(f"the base_url of account {account.id} must be https")


def _is_safe(base_url: str) -> bool:
    try:
        url = urllib.parse.urlsplit(base_url)
        url.port  # noqa: B018 - raises for one that cannot be
    except ValueError:
        return False
    local = url.hostname in {"127.0.0.1", "localhost", "::1"}
    return bool(url.hostname) and (url.scheme == "https" or (url.scheme == "http" and local))


_parse_once: Final = functools.lru_cache(maxsize=1)(parse)
