"""Packs batches into calls of ten: as few calls as possible, every event in its order.

Calls go out one after the other, so objects are written in the order in which they were first seen, and no
two writes of one object change places. Two events may change places if neither changes what the other writes.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import batched
from typing import Final

import msgspec

from sluice.contract import MAX_EVENTS_PER_CALL
from sluice.message import PipelessEvent, PipelessMessage, PipelessObject

type Thing = tuple[str, ...]
type Value = tuple[object, ...]

_ADDED: Final[Value] = ("added",)  # another one each time, so writing it again changes nothing


class Origin(msgspec.Struct, frozen=True):
    """Says where an event came from: a message's number, and its index in its caller's document."""

    message: int
    event: int


class PackedEvent(msgspec.Struct):
    """Holds an event on its way; repeats that change nothing have collapsed into it and share its outcome."""

    event: PipelessEvent
    origins: list[Origin]


type Call = tuple[PackedEvent, ...]


def pack(messages: Iterable[tuple[int, PipelessMessage]], done: Mapping[int, Set[int]]) -> list[Call]:
    """Packs messages, by number, into calls, without the events that are `done` (indexes, by number)."""
    packed: list[PackedEvent] = []
    known: dict[tuple[str, int] | bytes, PackedEvent] = {}
    current: dict[Thing, Value] = {}
    for number, batch in sorted(messages, key=lambda each: each[1].accepted):
        for index, event in enumerate(batch.events):
            if index in done.get(number, ()):
                continue
            written = writes(event)
            origin = Origin(number, index)
            same = known.get((batch.receipt, index)) or (
                known.get(msgspec.json.encode(event)) if _changes_nothing(event, written, current) else None
            )
            if same is not None:
                same.origins.append(origin)
                continue
            current |= written
            fresh = PackedEvent(event, [origin])
            known[batch.receipt, index] = known[msgspec.json.encode(event)] = fresh
            packed.append(fresh)
    return list(batched(packed, MAX_EVENTS_PER_CALL, strict=False))


def body(call: Iterable[PackedEvent]) -> bytes:
    """Returns a call as Pipeless takes it."""
    return msgspec.json.encode({"events": [each.event for each in call], "synchronous": False})


def messages_of(call: Iterable[PackedEvent]) -> set[int]:
    """Returns the numbers of the messages whose events are in a call."""
    return {origin.message for each in call for origin in each.origins}


def writes(event: PipelessEvent) -> dict[Thing, Value]:
    """Returns what an event writes to which objects, and to the relationship between them."""
    found: dict[Thing, Value] = {}
    for each in (event.start_object, event.end_object):
        thing = _thing(each)
        found[thing] = (*found.get(thing, ()), each.created_on, each.modified_on)
    relationship = event.relationship
    between = (*_thing(event.start_object), relationship.type, *_thing(event.end_object))
    found[between] = (relationship.created_on,) if relationship.single else _ADDED
    return found


def must_follow(event: PipelessEvent, waiting: Mapping[Thing, Set[Value]]) -> bool:
    """Tells whether an event must wait for waiting ones, because they write something differently."""
    return any(waiting.get(thing, {value}) != {value} for thing, value in writes(event).items())


def independent(call: Sequence[PackedEvent]) -> list[PackedEvent]:
    """Returns the events of a call that may be sent before the others of it."""
    before: dict[Thing, set[Value]] = {}
    found = []
    for each in call:
        if not must_follow(each.event, before):
            found.append(each)
        for thing, value in writes(each.event).items():
            before.setdefault(thing, set()).add(value)
    return found


def _changes_nothing(
    event: PipelessEvent, written: Mapping[Thing, Value], current: Mapping[Thing, Value]
) -> bool:
    """Tells whether an event, sent once more, would leave everything as it is."""
    return event.relationship.single and all(current.get(thing) == value for thing, value in written.items())


def _thing(each: PipelessObject) -> Thing:
    return each.type, each.id
