"""Numbers an event's position in its caller's document."""

from sluice.contract import MAX_EVENTS_PER_REQUEST
from sluice.message import StoredMessage


def position(entry: int, event: int) -> int:
    """Returns one number for an event's position in the caller's document."""
    return entry * MAX_EVENTS_PER_REQUEST + event


def positions(message: StoredMessage) -> list[int]:
    """Returns the positions of all events of a message."""
    return [
        position(at_entry, at_event)
        for index, entry in enumerate(message.entries)
        for at_entry, at_event, _ in entry.positioned(index)
    ]
