"""Stores private keys in the secrets of the stack, before a document refers to them.

A key is stored under a new id, and the document that refers to it is written afterwards. So each account of
the document has its key at any moment, and a change that ends halfway leaves a key that nobody uses. The next
change in the same secret takes such keys out.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from sluice import private_keys, runtime
from sluice.accounts import KeyReference
from sluice.aws.secrets import MAX_SECRET_BYTES
from sluice.operate import accounts_document
from sluice.operate.command import Failed
from sluice.operate.ports import Conflict, PrivateKeySecrets
from sluice.private_keys import PrivateKey

MAX_ACCOUNTS: Final = 100  # whose keys share a secret
NEW_ACCOUNT_BYTES: Final = MAX_SECRET_BYTES // 2  # of a secret; the rest is for keys that replace others
# A function that stores keys ends long before, and no process uses a copy of the document for longer.
UNUSED_SECONDS: Final = 7_200
_ATTEMPTS: Final = 5  # to write a secret, while others do


@dataclass(frozen=True)
class NewKey:
    """Holds a private key that an account is to have, and where it is sent."""

    account: str
    key: str = field(repr=False)
    base_url: str


@dataclass(frozen=True)
class StoredKeys:
    """Holds where keys were stored, by account, and which accounts' abandoned keys were taken out."""

    references: Mapping[str, KeyReference]
    abandoned: Sequence[str]


class Reader:
    """Reads private keys, each secret once. Its method may raise `Retryable`."""

    def __init__(self, secrets: PrivateKeySecrets) -> None:
        self._secrets = secrets
        self._read: dict[str, Mapping[str, PrivateKey]] = {}

    def find(self, reference: KeyReference) -> PrivateKey | None:
        """Returns the key that a document refers to, if it is there."""
        if reference.secret not in self._read:
            self._read[reference.secret] = _keys(self._secrets, reference.secret)[0]
        return self._read[reference.secret].get(reference.id)


def store(secrets: PrivateKeySecrets, new: Iterable[NewKey], used: Mapping[str, KeyReference]) -> StoredKeys:
    """Stores keys under new ids. `used` has what the stored document refers to, by account.

    An account's keys stay in one secret as long as they fit. May raise `Retryable`.
    """
    writer = _Writer(secrets, used)
    waiting: dict[str, dict[str, NewKey]] = {}
    for key in new:
        waiting.setdefault(accounts_document.kind_of(key.account).name, {})[key.account] = key
    for kind, keys in waiting.items():
        for name in _own_secrets(keys, used):
            own = [key for key in keys.values() if key.account in used and used[key.account].secret == name]
            writer.add(name, own, MAX_SECRET_BYTES)
        for name in (f"{kind}-{number}" for number in itertools.count(1)):
            left = [key for key in keys.values() if key.account not in writer.references]
            if not left:
                break
            is_new = writer.add(name, left, NEW_ACCOUNT_BYTES)
            if is_new and left[0].account not in writer.references:
                raise Failed("too_large", f"The private key of {left[0].account} is too long for a secret.")
    return StoredKeys(writer.references, writer.abandoned)


def remove(
    secrets: PrivateKeySecrets, unused: Collection[KeyReference], used: Mapping[str, KeyReference]
) -> None:
    """Removes keys that the stored document does not refer to. May raise `Retryable`."""
    for name in sorted({reference.secret for reference in unused}):
        ids = {reference.id for reference in unused if reference.secret == name}
        for _ in range(_ATTEMPTS):
            keys, etag = _keys(secrets, name)
            left, _abandoned = _without_unused(keys, used)
            left = {id: key for id, key in left.items() if id not in ids}
            if left == keys or _is_written(secrets, name, left, etag):
                break


def _own_secrets(keys: Iterable[str], used: Mapping[str, KeyReference]) -> list[str]:
    return sorted({used[account].secret for account in keys if account in used})


class _Writer:
    """Adds keys to secrets, and keeps where they are."""

    def __init__(self, secrets: PrivateKeySecrets, used: Mapping[str, KeyReference]) -> None:
        self.references: dict[str, KeyReference] = {}
        self.abandoned: list[str] = []
        self._secrets = secrets
        self._used = used
        self._members: dict[str, set[str]] = {}
        for account, reference in used.items():
            self._members.setdefault(reference.secret, set()).add(account)

    def add(self, name: str, new: Sequence[NewKey], max_bytes: int) -> bool:
        """Adds those of the keys that a secret has room for; tells whether the secret is new."""
        members = self._members.get(name, set())
        if len(members) >= MAX_ACCOUNTS and not any(key.account in members for key in new):
            return False
        for _ in range(_ATTEMPTS):
            stored, etag = _keys(self._secrets, name)
            keys, abandoned = _without_unused(stored, self._used)
            added = dict(self._fitting(name, keys, new, max_bytes))
            if not added or _is_written(self._secrets, name, keys, etag):
                self.references |= {account: KeyReference(name, id) for account, id in added.items()}
                self.abandoned += abandoned if added else []
                return etag is None
        raise Failed("conflict", "Others are changing private keys all the time. Try again.")

    def _fitting(
        self, name: str, keys: dict[str, PrivateKey], new: Sequence[NewKey], max_bytes: int
    ) -> Iterator[tuple[str, str]]:
        """Adds keys as long as they fit, and yields their accounts and ids."""
        now = int(runtime.time())
        size = len(private_keys.encode(keys).encode())
        accounts = self._members.get(name, set()) | {key.account for key in keys.values()}
        for each in new:
            key = PrivateKey(each.account, each.key, each.base_url, now)
            more = len(msgspec.json.encode({runtime.unique_id(): key}))
            if size + more > max_bytes or len(accounts | {each.account}) > MAX_ACCOUNTS:
                continue
            id = runtime.unique_id()
            old = self._used.get(each.account)
            if old is not None and old.secret == name and old.id in keys:
                keys[old.id] = msgspec.structs.replace(keys[old.id], replaced=now)
            keys[id] = key
            accounts.add(each.account)
            size += more
            yield each.account, id


def _without_unused(
    keys: Mapping[str, PrivateKey], used: Mapping[str, KeyReference]
) -> tuple[dict[str, PrivateKey], list[str]]:
    """Returns keys without those unused for long, and whose keys a change that ended halfway had left."""
    ids = {reference.id for reference in used.values()}
    end = runtime.time() - UNUSED_SECONDS
    gone = {id for id, key in keys.items() if id not in ids and max(key.written, key.replaced or 0) < end}
    abandoned = sorted({keys[id].account for id in gone if keys[id].replaced is None})
    return {id: key for id, key in keys.items() if id not in gone}, abandoned


def _keys(secrets: PrivateKeySecrets, name: str) -> tuple[dict[str, PrivateKey], str | None]:
    stored = secrets.read(name=name)
    return ({}, None) if stored is None else (private_keys.decode(stored.content.decode()), stored.etag)


def _is_written(
    secrets: PrivateKeySecrets, name: str, keys: Mapping[str, PrivateKey], etag: str | None
) -> bool:
    """Writes a secret, and tells whether that worked: not if somebody else changed it meanwhile."""
    try:
        secrets.write(name=name, content=private_keys.encode(keys).encode(), etag=etag)
    except Conflict:
        return False
    return True
