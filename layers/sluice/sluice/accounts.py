"""Reads the accounts document: who may send, and how each account is reached upstream.

An account is one of Klaviyo's (`KlaviyoAccount`) or an app at Pipeless (`PipelessApp`). Each has an `id` that
no other account has and that may be part of a key. It names the account on the queue, in the state table and
in the archive.

The document is JSON in Secrets Manager. `accounts_cache` keeps a process's copy of it.
"""

import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec

from sluice.contract import (
    CALLS_PER_MINUTE,
    KLAVIYO_BASE_URL,
    MAX_INTEGER,
    MIN_CALLS_PER_MINUTE,
    PIPELESS_BASE_URL,
)
from sluice.errors import Misconfigured, Retryable
from sluice.validation.json_text import NOT_DECODED, encode_text

_SITE_ID: Final = r"^[A-Za-z0-9]{6}\Z"
_APP: Final = re.compile(r"pipeless-[1-9][0-9]{0,18}")
# Anybody who may send to the queue; a sender by SQS's id; or objects whose names begin so.
_PRODUCER: Final = r"^(queue|sender:[A-Za-z0-9-]+|s3://[a-z0-9.-]{3,63}/.*)\Z"
_HEADER_VALUE: Final = r"^[\x21-\x7e]+\Z"  # a key that was pasted with a line end can never be sent


type Producers = tuple[Annotated[str, msgspec.Meta(pattern=_PRODUCER)], ...]


class Producer(msgspec.Struct, frozen=True):
    """Names who brings a body: the sender of its message, or the object that it is a line of."""

    sender: str | None = None  # the id that SQS has of it
    object: str | None = None  # s3://bucket/key

    def is_named(self, grants: Iterable[str]) -> bool:
        """Tells whether one of an account's `producers` means this one."""
        if self.object is not None:
            return any(self.object.startswith(grant) for grant in grants)
        return any(grant in {"queue", f"sender:{self.sender}"} for grant in grants)

    def __str__(self) -> str:
        return self.object or f"sender:{self.sender}"


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
    producers: Producers | None = None  # None: all, if it is the only account
    shared_unique_ids: bool = False  # whether anonymous callers' ids mean the same as others'

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
    producers: Producers | None = None
    calls_per_minute: Annotated[int, msgspec.Meta(ge=MIN_CALLS_PER_MINUTE, le=6_000)] = CALLS_PER_MINUTE
    object_types: frozenset[str] = frozenset()
    relationship_types: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Returns the app's id among all accounts."""
        return f"pipeless-{self.app_id}"

    def __repr__(self) -> str:
        return f"App({self.app_id})"  # as above


class Accounts(msgspec.Struct, frozen=True):
    """Holds every account of this deployment; `pipeless` are the apps, and ids and ingest keys are unique.

    `flaws` are the mistakes of the stored document, and `unusable` is how many accounts are missing here
    because of them.
    """

    accounts: tuple[KlaviyoAccount, ...]
    pipeless: tuple[PipelessApp, ...] = ()
    flaws: tuple[str, ...] = ()
    unusable: int = 0

    def check_complete(self) -> None:
        """Raises `Retryable` if an account that is not found here may only be missing by mistake."""
        if self.unusable:
            raise Retryable("the accounts secret is not valid, and there is no copy of all its accounts")

    def check_not_empty(self) -> None:
        """Raises `Retryable` if there is no account yet."""
        if not self.every():
            raise Retryable("the accounts document names no account yet")

    def names(self, account_id: str) -> bool:
        """Tells whether this is the `id` of an account or an app of the document."""
        return any(each.id == account_id for each in self.every())

    def every(self) -> list[KlaviyoAccount | PipelessApp]:
        """Returns the accounts and the apps."""
        return [*self.accounts, *self.pipeless]

    def by_site_id(self, site_id: str) -> KlaviyoAccount | None:
        """Returns the account with this public site id."""
        return next((account for account in self.accounts if account.site_id == site_id), None)

    def by_key(self, key: str) -> tuple[KlaviyoAccount, IngestKey] | None:
        """Returns the account of an ingest key; looks at every key in constant time, found or not."""
        return _holder(key, self.accounts)

    def single_account(self) -> KlaviyoAccount | None:
        """Returns the account, if there is exactly one."""
        return self.accounts[0] if len(self.accounts) == 1 and not self.unusable else None

    def may_send(self, producer: Producer | None, account_id: str) -> bool:
        """Tells whether a producer may send for an account. Without a producer it is an operator, who may.

        The only account of a vendor takes bodies of every producer, unless it names its own.
        """
        account = next((each for each in self.every() if each.id == account_id), None)
        if account is None or producer is None:
            return account is not None
        if account.producers is not None:
            return producer.is_named(account.producers)
        alike = self.accounts if isinstance(account, KlaviyoAccount) else self.pipeless
        return len(alike) == 1 and not self.unusable

    def account_of(self, named: str | None, producer: Producer | None) -> str | None:
        """Returns the `id` that a producer named, if it may send for it, or that of the only account."""
        if named and self.may_send(producer, named):
            return named
        only = self.single_account()
        return only.id if only and self.may_send(producer, only.id) else None

    def by_app_id(self, app_id: int) -> PipelessApp | None:
        """Returns the app with this id."""
        return next((app for app in self.pipeless if app.app_id == app_id), None)

    def by_app_key(self, key: str) -> tuple[PipelessApp, IngestKey] | None:
        """Returns the app of an ingest key, as `by_key` does for accounts."""
        return _holder(key, self.pipeless)

    def app(self, named: str | None) -> PipelessApp | None:
        """Returns the app with this `id`; without one, the app if there is exactly one."""
        apps = [app for app in self.pipeless if named in {None, app.id}]
        return apps[0] if len(apps) == 1 and (named or not self.unusable) else None


def is_site_id(text: str) -> bool:
    """Tells whether this has the form of a site id."""
    return re.search(_SITE_ID, text) is not None


def is_account_id(text: str) -> bool:
    """Tells whether this has the form of an account's `id`."""
    return is_site_id(text) or _APP.fullmatch(text) is not None


class StoredAccounts(msgspec.Struct, frozen=True):
    """Holds what can be read of a document: the accounts that are valid, and what is wrong with the rest.

    `flawed` has the id of each entry that is not valid, or None where that cannot be told. Without
    `is_readable` there are no entries at all.
    """

    accounts: Accounts
    flaws: tuple[str, ...] = ()
    flawed: tuple[str | None, ...] = ()
    is_readable: bool = True

    @classmethod
    def empty(cls) -> "StoredAccounts":
        """Returns a document without accounts."""
        return cls(Accounts(()))


def valid(document: bytes | str) -> Accounts:
    """Reads the accounts that are valid; raises `Misconfigured` if nothing of the document can be read."""
    stored = read(document)
    if not stored.is_readable:
        raise Misconfigured(stored.flaws[0])
    return stored.accounts


def read(document: bytes | str) -> StoredAccounts:
    """Reads the accounts that are valid. A mistake in one costs no other, nor does an unknown field beside
    them.
    """
    try:
        entries = msgspec.json.decode(encode_text(document) if isinstance(document, str) else document)
    except NOT_DECODED:
        return _unreadable("it is not JSON")
    if not isinstance(entries, dict) or not isinstance(entries.get("accounts"), list):
        return _unreadable("it has no list 'accounts'")
    if not isinstance(entries.get("pipeless", []), list):
        return _unreadable("'pipeless' is no list")
    reader = _Reader()
    accounts = reader.read("accounts", entries["accounts"], KlaviyoAccount)
    apps = reader.read("pipeless", entries.get("pipeless", []), PipelessApp)
    unknown = sorted(entries.keys() - {"accounts", "pipeless"})
    flaws = (*reader.flaws, *(_flaw(f"'{name}' is not a field of it") for name in unknown))
    return StoredAccounts(Accounts(accounts, apps), flaws, tuple(reader.flawed))


class _Reader:
    """Reads entries one by one. Of two with the same id or ingest key, the later one is wrong."""

    def __init__(self) -> None:
        self.flaws: list[str] = []
        self.flawed: list[str | None] = []
        self._ids: set[str] = set()
        self._keys: set[str] = set()

    def read[Kind: (KlaviyoAccount, PipelessApp)](
        self, name: str, entries: list[Any], kind: type[Kind]
    ) -> tuple[Kind, ...]:
        """Returns the entries that are valid."""
        valid: list[Kind] = []
        for index, entry in enumerate(entries):
            try:
                account = msgspec.convert(entry, kind)
                self._check(account)
            except (msgspec.ValidationError, Misconfigured) as error:
                self.flaws.append(_flaw(f"{name}[{index}]: {error}"))
                self.flawed.append(id_of(entry))
            else:
                self._ids.add(account.id)
                self._keys.update(key.sha256 for key in account.keys)
                valid.append(account)
        return tuple(valid)

    def _check(self, account: KlaviyoAccount | PipelessApp) -> None:
        keys = [key.sha256 for key in account.keys]
        if account.id in self._ids:
            name = "site_id" if isinstance(account, KlaviyoAccount) else "app_id"
            raise Misconfigured(f"the accounts secret has one {name} twice")
        if len(set(keys)) != len(keys) or not self._keys.isdisjoint(keys):
            raise Misconfigured("the accounts secret has one key twice")
        if not _is_safe(account.base_url):
            raise Misconfigured(f"the base_url of account {account.id} must be https")


def id_of(entry: object) -> str | None:
    """Returns the id of an entry of the document, valid or not, if that much of it is."""
    match entry:
        case {"site_id": str(id)}:
            return id
        case {"app_id": int(number)}:
            return f"pipeless-{number}"
        case _:
            return None


def _unreadable(what: str) -> StoredAccounts:
    return StoredAccounts(Accounts(()), (_flaw(what),), is_readable=False)


def _flaw(what: str) -> str:
    return f"the accounts secret is not valid: {what}"


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


def _is_safe(base_url: str) -> bool:
    try:
        url = urllib.parse.urlsplit(base_url)
        url.port  # noqa: B018 - raises for one that cannot be
    except ValueError:
        return False
    # Names below localhost are this machine's own, too (RFC 6761).
    local = url.hostname in {"127.0.0.1", "localhost", "::1"} or (url.hostname or "").endswith(".localhost")
    return bool(url.hostname) and (url.scheme == "https" or (url.scheme == "http" and local))
