"""Packs the events of several messages into as few calls as possible."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import batched
from typing import Final

import msgspec

from .message import AcmeEvent, AcmeMessage

MAX_EVENTS: Final = 100  # in a call


class PackedEvent(msgspec.Struct, frozen=True):
    """Holds an event, and where it is from: its message, by number, and its index there."""

    event: AcmeEvent
    message: int
    index: int


def pack(
    messages: Mapping[int, AcmeMessage], completed: Mapping[int, Set[int]]
) -> Iterator[Sequence[PackedEvent]]:
    """Yields calls of the events that are not completed, in the order of acceptance."""
    by_acceptance = sorted(messages.items(), key=lambda item: item[1].accepted)
    events = (
        PackedEvent(event, number, index)
        for number, message in by_acceptance
        for index, event in enumerate(message.events)
        if index not in completed.get(number, ())
    )
    return batched(events, MAX_EVENTS, strict=False)


def body(call: Iterable[PackedEvent]) -> bytes:
    """Returns the body of a call."""
    return msgspec.json.encode({"events": [each.event for each in call]})
