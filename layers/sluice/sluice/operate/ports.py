"""Declares what the commands of operators reach."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sluice.accounts import Accounts
from sluice.delivery.pause import Pause
from sluice.message import PipelessMessage, StoredMessage
from sluice.operate.jobs import JobStore
from sluice.operate.overview import Overview
from sluice.operate.reread import Lookups
from sluice.receipts import Outcomes
from sluice.records.cause import Cause
from sluice.records.items import Group
from sluice.records.record import Record, State
from sluice.records.table import Filter, Page
from sluice.rejection import Rejection


class Conflict(Exception):
    """Says that somebody else has stored something since it was read."""


@dataclass(frozen=True)
class StoredDocument:
    """Holds a stored document, and the tag that names this writing of it."""

    content: bytes
    etag: str


@dataclass(frozen=True)
class Link:
    """Holds a presigned URL for one object, and when it expires."""

    key: str
    url: str
    expires_at: datetime


class SourcesDocument(Protocol):
    """Keeps the sources document. Its methods may raise `Retryable`."""

    def read(self) -> StoredDocument | None:
        """Returns the document, or None if there is none yet."""
        ...

    def replace(self, *, content: bytes, etag: str | None) -> None:
        """Writes the document in place of the one with this tag, or where there is none yet.

        Raises `Conflict` if another one is stored.
        """
        ...


class AccountsStore(Protocol):
    """Keeps the accounts document. Its methods may raise `Retryable`."""

    def read(self) -> StoredDocument:
        """Returns the document as it is stored now. If there is none yet, its tag is empty."""
        ...

    def replace(self, *, content: bytes, etag: str) -> None:
        """Writes the document in place of the one with this tag.

        Raises `Conflict` if another one is stored.
        """
        ...


class PrivateKeySecrets(Protocol):
    """Keeps private keys in secrets, named as in a `KeyReference`. Its methods may raise `Retryable`."""

    def read(self, *, name: str) -> StoredDocument | None:
        """Returns the content of a secret, or None if there is none of this name."""
        ...

    def write(self, *, name: str, content: bytes, etag: str | None) -> None:
        """Writes a secret in place of the one with this tag; makes it if there is none.

        Raises `Conflict` if another one is stored.
        """
        ...


class Backlog(Protocol):
    """Looks for messages that wait. Its methods may raise `Retryable`."""

    def queued(self) -> int:
        """Returns about how many messages of all accounts are on the events queue."""
        ...

    def parked(self, *, account_id: str) -> int:
        """Returns how many objects of parked messages an account has, up to 2,000."""
        ...


class Secrets(Protocol):
    """Looks at secrets. Its methods may raise `Retryable`."""

    def accounts(self) -> Accounts:
        """Returns the valid accounts of the document; raises `Misconfigured` if nothing of it can be read."""
        ...

    def full_name(self, *, secret: str) -> str:
        """Returns the name in Secrets Manager of a webhook source's secret."""
        ...

    def has_value(self, *, secret: str) -> bool:
        """Tells whether a webhook source's secret exists and has a value."""
        ...


class Transfers(Protocol):
    """Keeps requests and answers that exceed an invocation. Its methods may raise `Retryable`."""

    def store_answer(self, *, content: bytes) -> Link:
        """Stores an answer, and returns where it can be read for a short time."""
        ...

    def offer_upload(self, *, size: int) -> Link:
        """Returns where the arguments of a request, of this many bytes, can be written for a short time."""
        ...

    def fetch_request(self, *, key: str) -> bytes | None:
        """Returns uploaded arguments, or None if there are none under this key."""
        ...


class Imports(Protocol):
    """Keeps the parts of imports, and how far each import is. Its methods may raise `Retryable`."""

    def read(self, *, id: str) -> StoredDocument | None:
        """Returns the state of an import, or None if there is none (any more)."""
        ...

    def write(self, *, id: str, content: bytes, etag: str | None) -> None:
        """Writes a state in place of the one with this ETag, or where there is none yet.

        Raises `Conflict` if another one is stored.
        """
        ...

    def has_part(self, *, key: str) -> bool:
        """Tells whether a part is uploaded."""
        ...

    def offer_part(self, *, key: str, size: int, metadata: Mapping[str, str]) -> Link:
        """Returns where a part of this many bytes, with this metadata, can be written for a short time."""
        ...

    def announce(self, *, key: str, written: datetime) -> None:
        """Tells dispatch of a part, as S3 would. Telling it again changes nothing."""
        ...

    def reject(self, *, rejections: Sequence[Rejection]) -> None:
        """Sends rejections to their queue."""
        ...


class Identities(Protocol):
    """Asks STS who somebody is."""

    def whose(self, *, url: str) -> str | None:
        """Returns the ARN of who presigned this `GetCallerIdentity` for this function; None if STS does not
        say so.
        """
        ...


class Pauses(Protocol):
    """Pauses accounts. Its methods may raise `Retryable`."""

    def begin(self, *, account_id: str, who: str, why: str) -> bool:
        """Pauses an account; returns False if it is paused already, and leaves that pause as it is."""
        ...

    def end(self, *, account_id: str) -> bool:
        """Ends the pause of an account; returns False if there is none."""
        ...

    def find(self, *, account_id: str) -> Pause | None:
        """Returns the pause of an account, if there is one."""
        ...


class Parked(Protocol):
    """Keeps parked messages. Its methods may raise `Retryable`."""

    def objects(self, *, account_id: str) -> Sequence[str]:
        """Returns the keys of an account's parked objects, the oldest first, until there are none."""
        ...

    def every_object(self, *, after: str | None) -> Iterator[str]:
        """Yields the keys of the parked objects of all accounts that come after a key, in order."""
        ...

    def messages(self, *, key: str) -> Sequence[bytes]:
        """Returns the messages of a parked object; raises `NotSealed` for one of others."""
        ...

    def keep_only(self, *, key: str, messages: Sequence[bytes]) -> None:
        """Leaves only these messages of a parked object."""
        ...

    def delete(self, *, key: str) -> None:
        """Deletes a parked object, once its messages are safe elsewhere."""
        ...

    def send(self, *, messages: Sequence[StoredMessage | PipelessMessage], released: bool) -> None:
        """Sends messages to be delivered, although their account is paused if they are `released`."""
        ...

    def discard(self, *, messages: Sequence[StoredMessage | PipelessMessage], why: str) -> None:
        """Rejects messages as dead letters."""
        ...


class Records(Protocol):
    """Keeps the records of rejections and their groups. Its methods may raise `Retryable`."""

    def find(self, record_id: str) -> Record | None:
        """Returns a record by its id; None if there is none (any more)."""
        ...

    def page(self, wanted: Filter, *, before: str | None, limit: int) -> Page:
        """Returns up to `limit` records that were accepted before the one with the id `before`."""
        ...

    def add(self, new: Sequence[tuple[Record, Cause]]) -> list[Record]:
        """Writes the records that are not there yet, counts them in their groups, and returns them."""
        ...

    def accounts(self) -> list[str]:
        """Returns the accounts that have groups."""
        ...

    def groups(self, account: str) -> list[Group]:
        """Returns the groups of an account."""
        ...

    def find_many(self, record_ids: Collection[str]) -> Sequence[Record]:
        """Returns the records that are there."""
        ...

    def change_all(self, changed: Sequence[Record], *, only_if: State) -> set[str]:
        """Writes records in their new states, each if the one that is there is in a given state.

        A replayed record is only written for its own job. Returns the ids of those that are written, or were
        claimed for the same job before.
        """
        ...

    def erase(self, record_id: str, *, left: Record | None) -> None:
        """Removes a record, or leaves only what is `left` of it. Without the record it does nothing."""
        ...

    def remember_erased(self, hashed: str) -> None:
        """Keeps what is of a person from coming back, for as long as records are kept."""
        ...

    def count_open(self, changed: Sequence[Record], *, sign: int) -> None:
        """Adds records to what is open in their groups (`sign` 1), or takes them out (-1)."""
        ...


class Archive(Protocol):
    """Reads the archive, and erases in it. It may raise `Retryable`."""

    def lines(self, *, records: Sequence[Record]) -> Mapping[str, bytes]:
        """Returns the archived lines of records by their ids, without those that are gone."""
        ...

    def keys(self, *, after: str | None) -> Iterator[str]:
        """Yields the keys of the objects of the archive that come after a key, in order."""
        ...

    def content(self, *, key: str) -> bytes:
        """Returns an object of the archive; it is empty if there is none (any more)."""
        ...

    def overwrite(self, *, key: str, content: bytes) -> None:
        """Writes an object of the archive in which something was erased."""
        ...


class Files(Protocol):
    """Reaches the parts of imports and the messages of slices as files. It may raise `Retryable`."""

    def keys(self, *, prefix: str, after: str | None) -> Iterator[str]:
        """Yields the keys below a prefix that come after a key, in order."""
        ...

    def content(self, *, key: str) -> bytes:
        """Returns a file; it is empty if there is none (any more)."""
        ...

    def overwrite(self, *, key: str, content: bytes) -> None:
        """Writes a file in which something was erased. Its metadata stays."""
        ...


class Slices(Protocol):
    """Keeps the messages of slices of jobs. Its methods may raise `Retryable`."""

    def put(self, *, key: str, content: bytes) -> None:
        """Stores the messages of a slice under a key of its own."""
        ...

    def get(self, *, key: str) -> bytes:
        """Returns the messages of a slice."""
        ...


class Events(Protocol):
    """Sends messages to be delivered."""

    def send(self, *, messages: Sequence[StoredMessage | PipelessMessage], again: bool) -> None:
        """Sends messages, each for its account; raises `Retryable` unless all of them are safe there.

        They may have been sent before if this is `again`.
        """
        ...


class LookUp(Protocol):
    """Looks up what reading a payload again asks about."""

    def __call__(self, *, is_plan: bool) -> Lookups:
        """Returns what is known now. A plan takes nothing from anybody. May raise `Retryable`."""
        ...


@dataclass(frozen=True)
class Ports:
    """Holds everything through which commands reach AWS.

    `hash_key` returns the key of the hashes under which records hold what identifies a person. `outcomes`
    reads receipts, and `lookups` what reading a payload again asks about. All three may raise `Retryable`.
    """

    records: Records
    archive: Archive
    hash_key: Callable[[], bytes]
    jobs: JobStore
    slices: Slices
    files: Files
    events: Events
    outcomes: Callable[[Sequence[str]], Mapping[str, Outcomes]]
    lookups: LookUp
    overview: Overview
    imports: Imports
    parked: Parked
    pauses: Pauses
    sources: SourcesDocument
    accounts: AccountsStore
    private_keys: PrivateKeySecrets
    backlog: Backlog
    secrets: Secrets
    transfers: Transfers
    identities: Identities
