"""Points to an event in its caller's own document: its JSON pointer, and its line in an S3 object."""

from typing import Final

from sluice.contract import Surface
from sluice.jsonapi import pointer
from sluice.klaviyo import flat_event, problems

_ATTRIBUTES: Final = "/attributes"
_PROFILE: Final = "/attributes/profile/data"


def caller_pointer(surface: Surface, is_flat: bool, entry: int, event: int | None, tail: str = "") -> str:
    """Returns the pointer to an entry (or one event of it) in the caller's document.

    `tail` is a pointer within the upstream's entry or event, such as `/attributes/time`.
    """
    if surface is Surface.WEBHOOK:
        return pointer("data", entry) + tail
    root = pointer(*problems.ROOTS[surface])
    if is_flat:
        return root + flat_event.caller_tail(tail)
    if surface in problems.SINGLE:
        return root + tail
    at_entry = f"{root}/{entry}" if surface is Surface.BULK else root
    return at_entry + tail if event is None else f"{at_entry}/attributes/events/data/{event}{tail}"


def caller_line(surface: Surface, line: str | None, entry: int) -> str | None:
    """Returns the line of the S3 object that an entry of a message was in, if it came from one."""
    return f"{line}:{entry}" if line and surface in problems.SINGLE else line


def payload_pointer(tail: str, *, whole_entry: bool) -> str | None:
    """Returns the pointer into a rejection's payload for one within the upstream's entry or event.

    It is None if `tail` names no place in the profile or in an event.
    """
    if not whole_entry:
        return f"/events/0{tail.removeprefix(_ATTRIBUTES)}" if tail.startswith(f"{_ATTRIBUTES}/") else None
    return f"/profile{tail.removeprefix(_PROFILE)}" if tail.startswith(f"{_PROFILE}/") else None
