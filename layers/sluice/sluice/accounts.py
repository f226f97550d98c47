"""Reads the accounts document: who may send, and how each account is reached upstream.

An account is one of Klaviyo's (`KlaviyoAccount`) or an app at Pipeless (`PipelessApp`). Each has an `id` that
no other account has and that may be part of a key. It names the account on the queue, in the state table and
in the archive.

The document is JSON in S3, and nothing in it is secret: `private_keys` are elsewhere, and an account only
refers to its own. `accounts_cache` keeps a process's copy of the document.
"""

import functools
import hashlib
import re
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, Final

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
from sluice.validation.json_text import NOT_DECODED, encode_text

_SITE_ID: Final = r"^[A-Za-z0-9]{6}\Z"
_APP: Final = re.compile(r"pipeless-[1-9][0-9]{0,18}")
# Anybody who may send to the queue; a sender by SQS's id; or objects whose names begin so.
_PRODUCER: Final = r"^(queue|sender:[A-Za-z0-9-]+|s3://[a-z0-9.-]{3,63}/.*)\Z"
_HEADER_VALUE: Final = r"^[\x21-\x7e]+\Z"  # a key that was pasted with a line end can never be sent
_PLACE: Final = r"^(klaviyo|pipeless)-[1-9][0-9]{0,3}\Z"

KEY: Final = "accounts.json"  # of the document in the configuration bucket
EMPTY: Final = b'{"accounts": []}'

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
    """Holds a key with which callers authenticate, only by its SHA-256 (hex).

    `expires` is when it ends by itself, in epoch seconds.
    """

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: frozenset[str] = frozenset()
    expires: int | None = None


class KeyReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Says where a private key is: in which secret of the stack, and under which id there."""

    secret: Annotated[str, msgspec.Meta(pattern=_PLACE)]
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]


class KlaviyoAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds one Klaviyo account: its public site id, where its private key is, and the callers' keys."""

    site_id: Annotated[str, msgspec.Meta(pattern=_SITE_ID)]
    private_key: KeyReference
    base_url: str = KLAVIYO_BASE_URL
    keys: tuple[IngestKey, ...] = ()
    limit_metrics: bool = False  # whether it is held to `MAX_METRICS`
    producers: Producers | None = None  # None: all, if it is the only account
    shared_unique_ids: bool = False  # whether anonymous callers' ids mean the same as others'

    @property
    def id(self) -> str:
        """Returns the account's id among all accounts."""
        return self.site_id

    @property
    def key_reference(self) -> KeyReference:
        """Says where the key is that the upstream is called with."""
        return self.private_key

    def __repr__(self) -> str:
        return f"Account({self.site_id!r})"  # a representation may end up in a log, and hashes need not


class PipelessApp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds one app at Pipeless: where its private key is, the callers' keys, and its rate.

    `object_types` and `relationship_types` are names that the vendor has added for it to the documented ones.
    """

    app_id: Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
    api_key: KeyReference
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

    @property
    def key_reference(self) -> KeyReference:
        """Says where the key is that the upstream is called with."""
        return self.api_key

    def __repr__(self) -> str:
        return f"App({self.app_id})"  # as above


class Accounts(msgspec.Struct, frozen=True, dict=True):
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
            raise Retryable("the accounts document is not valid, and there is no copy of all its accounts")

    def check_not_empty(self) -> None:
        """Raises `Retryable` if there is no account yet."""
        if not self.every():
            raise Retryable("the accounts document names no account yet")

    def names(self, account_id: str) -> bool:
        """Tells whether this is the `id` of an account or an app of the document."""
        return account_id in self._by_id

    def every(self) -> list[KlaviyoAccount | PipelessApp]:
        """Returns the accounts and the apps."""
        return [*self.accounts, *self.pipeless]

    def by_site_id(self, site_id: str) -> KlaviyoAccount | None:
        """Returns the account with this public site id."""
        found = self._by_id.get(site_id)
        return found if isinstance(found, KlaviyoAccount) else None

    def by_key(self, key: str) -> tuple[KlaviyoAccount, IngestKey] | None:
        """Returns the account of an ingest key."""
        return _holder(key, self._accounts_by_hash)

    def single_account(self) -> KlaviyoAccount | None:
        """Returns the account, if there is exactly one."""
        return self.accounts[0] if len(self.accounts) == 1 and not self.unusable else None

    def may_send(self, producer: Producer | None, account_id: str) -> bool:
        """Tells whether a producer may send for an account. Without a producer it is an operator, who may.

        The only account of a vendor takes bodies of every producer, unless it names its own.
        """
        account = self._by_id.get(account_id)
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
        found = self._by_id.get(f"pipeless-{app_id}")
        return found if isinstance(found, PipelessApp) else None

    def by_app_key(self, key: str) -> tuple[PipelessApp, IngestKey] | None:
        """Returns the app of an ingest key, as `by_key` does for accounts."""
        return _holder(key, self._apps_by_hash)

    def app(self, named: str | None) -> PipelessApp | None:
        """Returns the app with this `id`; without one, the app if there is exactly one."""
        if named is not None:
            found = self._by_id.get(named)
            return found if isinstance(found, PipelessApp) else None
        return self.pipeless[0] if len(self.pipeless) == 1 and not self.unusable else None

    # A message and a request each ask once or more, and there may be thousands of keys.
    @functools.cached_property
    def _by_id(self) -> Mapping[str, KlaviyoAccount | PipelessApp]:
        return {each.id: each for each in self.every()}

    @functools.cached_property
    def _accounts_by_hash(self) -> "Mapping[str, tuple[KlaviyoAccount, IngestKey]]":
        return _by_hash(self.accounts)

    @functools.cached_property
    def _apps_by_hash(self) -> "Mapping[str, tuple[PipelessApp, IngestKey]]":
        return _by_hash(self.pipeless)


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
    """Reads the accounts of a stored document that are valid. A mistake in one costs no other, nor does an
    unknown field beside them.
    """
    return _read(document, lambda entry, _: entry)


def read_written(document: bytes | str, *, stored_keys: Collection[str] = ()) -> StoredAccounts:
    """Reads the accounts of an operator's document, which has private keys, that are valid.

    The accounts in `stored_keys`, by their ids, may be without one. The keys themselves are not returned.
    """

    def referring(entry: Any, kind: "_Kind") -> Any:
        field = KEY_FIELDS[kind]
        if not isinstance(entry, dict) or (field not in entry and id_of(entry) not in stored_keys):
            return entry
        if field in entry:
            msgspec.convert(entry, _WRITTEN_KEYS[kind])
        return {**entry, field: _SOME_REFERENCE}

    return _read(document, referring)


def read_edited(document: bytes | str) -> StoredAccounts:
    """Reads the accounts of a stored document in which private keys may stand that are not stored yet."""

    def referring(entry: Any, kind: "_Kind") -> Any:
        field = KEY_FIELDS[kind]
        if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
            return entry
        msgspec.convert(entry, _WRITTEN_KEYS[kind])
        return {**entry, field: _SOME_REFERENCE}

    return _read(document, referring)


type _Kind = type[KlaviyoAccount | PipelessApp]

KEY_FIELDS: Final[Mapping[_Kind, str]] = {KlaviyoAccount: "private_key", PipelessApp: "api_key"}
_SOME_REFERENCE: Final = {"secret": "klaviyo-1", "id": "0" * 32}  # stands where a key will have its own


class _KlaviyoKey(msgspec.Struct):
    private_key: Annotated[str, msgspec.Meta(pattern=_HEADER_VALUE)]


class _PipelessKey(msgspec.Struct):
    api_key: Annotated[str, msgspec.Meta(pattern=_HEADER_VALUE)]


_WRITTEN_KEYS: Final[Mapping[_Kind, type[msgspec.Struct]]] = {
    KlaviyoAccount: _KlaviyoKey,
    PipelessApp: _PipelessKey,
}


def _read(document: bytes | str, referring: Callable[[Any, _Kind], Any]) -> StoredAccounts:
    try:
        entries = msgspec.json.decode(encode_text(document) if isinstance(document, str) else document)
    except NOT_DECODED:
        return _unreadable("it is not JSON")
    if not isinstance(entries, dict) or not isinstance(entries.get("accounts"), list):
        return _unreadable("it has no list 'accounts'")
    if not isinstance(entries.get("pipeless", []), list):
        return _unreadable("'pipeless' is no list")
    reader = _Reader(referring)
    accounts = reader.read("accounts", entries["accounts"], KlaviyoAccount)
    apps = reader.read("pipeless", entries.get("pipeless", []), PipelessApp)
    unknown = sorted(entries.keys() - {"accounts", "pipeless"})
    flaws = (*reader.flaws, *(_flaw(f"'{name}' is not a field of it") for name in unknown))
    return StoredAccounts(Accounts(accounts, apps), flaws, tuple(reader.flawed))


class _Reader:
    """Reads entries one by one. Of two with the same id or ingest key, the later one is wrong."""

    def __init__(self, referring: Callable[[Any, _Kind], Any]) -> None:
        self._referring = referring
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
                account = msgspec.convert(self._referring(entry, kind), kind)
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
            raise Misconfigured(f"the accounts document has one {name} twice")
        if len(set(keys)) != len(keys) or not self._keys.isdisjoint(keys):
            raise Misconfigured("the accounts document has one key twice")
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
    return f"the accounts document is not valid: {what}"


def _by_hash[Holder: (KlaviyoAccount, PipelessApp)](
    holders: Iterable[Holder],
) -> dict[str, tuple[Holder, IngestKey]]:
    return {key.sha256: (holder, key) for holder in holders for key in holder.keys}


def _holder[Holder: (KlaviyoAccount, PipelessApp)](
    key: str, by_hash: Mapping[str, tuple[Holder, IngestKey]]
) -> tuple[Holder, IngestKey] | None:
    # How long it takes tells of the hash at most. No key can be found by that.
    found = by_hash.get(hashlib.sha256(encode_text(key)).hexdigest())
    if found is not None and found[1].expires is not None and found[1].expires <= runtime.time():
        return None
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
