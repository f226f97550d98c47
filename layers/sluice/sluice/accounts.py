"""The accounts document: who may send, and how each account is reached upstream.

One JSON document in Secrets Manager, cached for `CACHE_SECONDS`, so a new key works within that time.
"""

import functools
import hashlib
import hmac
import re
import urllib.parse
from typing import Annotated, Final

import msgspec

from sluice.contract import KLAVIYO_BASE_URL
from sluice.errors import Misconfigured, Retryable

CACHE_SECONDS: Final = 60
_SITE_ID: Final = r"^[A-Za-z0-9]{6}\Z"


class IngestKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key callers authenticate with, known only by the SHA-256 of it (hex)."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: frozenset[str] = frozenset()


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream account: its public site id, the key we call it with, the keys callers use."""

    site_id: Annotated[str, msgspec.Meta(pattern=_SITE_ID)]
    private_key: Annotated[str, msgspec.Meta(min_length=1)]
    base_url: str = KLAVIYO_BASE_URL
    keys: tuple[IngestKey, ...] = ()


class Accounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every account of this deployment; site ids and ingest keys are unique."""

    accounts: tuple[Account, ...]

    def with_site_id(self, site_id: str) -> Account | None:
        """The account with this public site id."""
        return next((account for account in self.accounts if account.site_id == site_id), None)

    def with_key(self, key: str) -> tuple[Account, IngestKey] | None:
        """Whose ingest key this is. Looks at every key in constant time, found or not."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for account in self.accounts:
            for candidate in account.keys:
                if hmac.compare_digest(digest, candidate.sha256):
                    found = account, candidate
        return found

    def only(self) -> Account | None:
        """The account, if there is exactly one."""
        return self.accounts[0] if len(self.accounts) == 1 else None


def is_site_id(text: str) -> bool:
    """Whether this has the form of a site id."""
    return re.search(_SITE_ID, text) is not None


def parse(document: bytes | str) -> Accounts:
    """Accounts from the secret's JSON; `Misconfigured` says what is wrong without quoting it."""
    try:
        accounts = msgspec.json.decode(document, type=Accounts)
    except msgspec.MsgspecError as error:
        raise Misconfigured(f"the accounts secret is not valid: {error}") from error
    _check_unique("site_id", [account.site_id for account in accounts.accounts])
    _check_unique("key", [key.sha256 for account in accounts.accounts for key in account.keys])
    for account in accounts.accounts:
        _check_base_url(account)
    return accounts


def load(secret: str) -> Accounts:
    """Accounts from Secrets Manager by the secret's name or ARN, cached."""
    # Powertools brings boto3: imported on first use, as no pure code needs either.
    from aws_lambda_powertools.utilities import parameters  # noqa: PLC0415

    try:
        document = parameters.get_secret(secret, max_age=CACHE_SECONDS)
    except parameters.GetParameterError as error:
        raise Retryable("the accounts secret cannot be read") from error
    return _parse_once(document)


def _check_unique(name: str, values: list[str]) -> None:
    if len(set(values)) != len(values):
        raise Misconfigured(f"the accounts secret has one {name} twice")


def _check_base_url(account: Account) -> None:
    url = urllib.parse.urlsplit(account.base_url)
    local = url.hostname in {"127.0.0.1", "localhost", "::1"}
    if url.scheme != "https" and not (url.scheme == "http" and local):
        raise Misconfigured(f"the base_url of account {account.site_id} must be https")


_parse_once: Final = functools.lru_cache(maxsize=1)(parse)
