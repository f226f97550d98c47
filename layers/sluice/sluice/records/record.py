"""Describes the record of a rejection: what was refused, why, and what has become of it since.

The payload stays in the archive, of any size. A record says where it is there. It holds nothing of a person
but keyed hashes of what identifies one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Any, Final

import msgspec

from sluice.accounts import is_account_id
from sluice.contract import Surface
from sluice.jsonapi import pointer_parts
from sluice.records import person
from sluice.records.cause import Cause, cause_of, shortened
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection
from sluice.validation.json_text import NOT_DECODED

ARCHIVE_PREFIX: Final = "rejections/"
MAX_PROFILE_HASHES: Final = 3
MAX_GAP_BYTES: Final = 64 * 1024
# An item of at most 1,024 bytes takes one write unit; a test adds these up.
_MAX_DETAIL_BYTES: Final = 100
_MAX_PLACE_BYTES: Final = 100
_MAX_NAME_BYTES: Final = 32
_MAX_RECEIPT_BYTES: Final = 64
ANONYMOUS: Final = frozenset({Surface.CLIENT_EVENT, Surface.CLIENT_BULK})
_ID: Final = re.compile(r"[0-9a-f]{32}")
_LAST_MILLISECOND: Final = 253_402_300_799_999  # of the year 9999
# Pointers into callers' documents, and where the same is in a payload of the archive.
_PROFILE_POINTER: Final = re.compile(
    r"/data(?:/attributes/events-bulk-create/data)?(?:/\d+)?/attributes/profile/data"
)
_EVENT_POINTER: Final = re.compile(
    r"/data/attributes/events-bulk-create/data/\d+/attributes/events/data/\d+/attributes"
    r"|/data/attributes/events/data/\d+/attributes"
    r"|/data(?:/\d+)?/attributes"
)
_PIPELESS_POINTER: Final = re.compile(r"/events/\d+")


class State(StrEnum):
    """Names what has become of a refused event."""

    OPEN = "open"  # nobody has done anything about it
    REPLAYING = "replaying"  # a job has sent it again, and its outcome is not known yet
    DELIVERED = "delivered"  # accepted upstream after it was sent again
    REJECTED_AGAIN = "rejected_again"  # `successor` is the record of the newer rejection
    DISCARDED = "discarded"  # somebody decided that it is not needed


class Location(msgspec.Struct, frozen=True):
    """Says where a rejection's line is in the archive: the object's name, and the line's bytes in it."""

    name: str
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Returns the offset after its last byte."""
        return self.offset + self.length


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """Holds one rejection's record.

    `detail` is in the refusal's words without values. `place` leads into the archived payload, or is None
    where nobody named a place. `events` is the number of events in the payload. `who`, `why`, `changed_at`
    and `job` tell of its last change of state. The rest of what is known stands in the archive.
    """

    id: str
    account: str
    group: str
    reason: Reason
    detail: str
    rejected_at: datetime
    location: Location
    state: State = State.OPEN
    events: int = 1
    code: str | None = None
    place: str | None = None
    metric: str | None = None
    source: str | None = None
    surface: str | None = None
    receipt: str | None = None
    profiles: tuple[str, ...] = ()
    predecessor: str | None = None
    successor: str | None = None
    job: str | None = None
    who: str | None = None
    why: str | None = None
    changed_at: datetime | None = None

    @property
    def is_anonymous(self) -> bool:
        """Tells whether a caller without a key sent it."""
        return self.surface in ANONYMOUS

    @property
    def accepted_at(self) -> datetime:
        """Returns the time of acceptance, which its id holds."""
        return datetime.fromtimestamp(int(self.id[:12], 16) / 1_000, UTC)

    @property
    def archive_key(self) -> str:
        """Returns the key of the object of the archive that holds its line."""
        return archive_key(self.account, self.rejected_at, self.location.name)


def is_record_id(text: str) -> bool:
    """Tells whether a text has the form of a record's id."""
    return _ID.fullmatch(text) is not None and int(text[:12], 16) <= _LAST_MILLISECOND


def archive_key(account: str, rejected_at: datetime, name: str) -> str:
    """Returns the key of an object of the archive: one account's rejections of one day."""
    return f"{ARCHIVE_PREFIX}account={account}/day={rejected_at:%Y-%m-%d}/{name}.jsonl"


def known_account(named: str) -> str:
    """Returns an account's id, or `unknown` for any other text that a producer may have named."""
    return named if is_account_id(named) else UNKNOWN_ACCOUNT


def record_of(rejection: Rejection, location: Location, hash_key: bytes) -> tuple[Record, Cause]:
    """Returns the record of an archived rejection, and the cause that it shares with others."""
    payload = _payload(rejection)
    account = known_account(rejection.account)
    place = _existing(payload, rejection.place) or place_in(payload, rejection.pointer)
    value = None if place is None else resolve(payload, place)
    found = cause_of(rejection, account, place, value)
    receipt = rejection.receipt
    record = Record(
        rejection.id,
        account,
        found.group,
        rejection.reason,
        shortened(found.words, _MAX_DETAIL_BYTES),
        rejection.rejected_at,
        location,
        events=event_count(payload),
        code=found.code,
        place=place if place is None or len(place.encode()) <= _MAX_PLACE_BYTES else None,
        metric=shown_name(_metric(payload)),
        source=shown_name(rejection.source),
        surface=rejection.surface,
        receipt=receipt if receipt is None or len(receipt.encode()) <= _MAX_RECEIPT_BYTES else None,
        profiles=tuple(islice(profile_hashes(payload, hash_key), MAX_PROFILE_HASHES)),
        predecessor=rejection.replays,
    )
    return record, found


def neighbours(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yields the records of one object of the archive in parts whose lines are near one another.

    Reading a part at once takes one request, and little that is not wanted.
    """
    part: list[Record] = []
    for record in sorted(records, key=lambda each: each.location.offset):
        if part and record.location.offset - part[-1].location.end > MAX_GAP_BYTES:
            yield part
            part = []
        part.append(record)
    if part:
        yield part


def profile_hashes(payload: Any, hash_key: bytes) -> Iterator[str]:
    """Yields the hashes of what identifies the people of a payload, the most usual identifiers first."""
    for profile in _profiles(payload):
        holders = [profile, profile.get("attributes")] if isinstance(profile, dict) else []
        for name in person.IDENTIFIERS:
            for holder in holders:
                identifier = holder.get(name) if isinstance(holder, dict) else None
                if isinstance(identifier, str) and identifier.strip():
                    yield person.hashed(identifier, hash_key)


def place_in(payload: Any, pointer: str | None) -> str | None:
    """Returns the pointer into a payload for one into its caller's document; None if it names no place there.

    The named value may be missing, but not the object or array that it would be in.
    """
    if pointer is None:
        return None
    for pattern, start in (
        (_PROFILE_POINTER, "/profile"),
        (_EVENT_POINTER, "/events/0"),
        (_PIPELESS_POINTER, "/events/0"),
    ):
        if (found := pattern.match(pointer)) and (tail := pointer[found.end() :]).startswith("/"):
            return _existing(payload, start + tail)
    return None


def resolve(document: Any, pointer: str) -> Any:
    """Returns what a JSON pointer names in a document; None if there is no such thing."""
    value = document
    for name in pointer_parts(pointer):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


def event_count(payload: Any) -> int:
    """Returns the number of events in a payload, at least one."""
    match payload:
        case {"events": [*events]}:
            return len(events) or 1
        case {"entries": [*entries]}:
            return (
                sum(len(each["events"]) for each in entries if isinstance(each, dict) and "events" in each)
                or 1
            )
        case _:
            return 1


def _existing(payload: Any, place: str | None) -> str | None:
    """Returns a place if the object or array around it is there."""
    parent = None if place is None else resolve(payload, place.rpartition("/")[0])
    return place if isinstance(parent, dict | list) else None


def _payload(rejection: Rejection) -> Any:
    try:
        return msgspec.json.decode(rejection.payload)
    except NOT_DECODED:
        return None


def _profiles(payload: Any) -> Iterator[Any]:
    match payload:
        case {"profile": profile}:
            yield profile
        case {"entries": [*entries]}:
            yield from (each.get("profile") for each in entries if isinstance(each, dict))
        case {"events": [{"start_object": user}, *_]}:
            yield user


def shown_name(name: Any) -> str | None:
    """Returns as much of a name as a record holds; None if it is no name."""
    return shortened(name, _MAX_NAME_BYTES) if isinstance(name, str) and name else None


def _metric(payload: Any) -> str | None:
    attributes = resolve(payload, "/events/0")
    if attributes is None:
        attributes = resolve(payload, "/entries/0/events/0/attributes")
    name = resolve(attributes, "/metric/data/attributes/name")
    if name is None:
        name = resolve(attributes, "/metric/name")
    return name if isinstance(name, str) else None
