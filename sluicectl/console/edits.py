"""Reads a payload that an operator edited as text, and finds the patch that makes it of the one shown.

A text that is hidden, masked or nested too deeply, is left as it is: a patch has only what was changed.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from sluice.jsonapi import pointer_step
from sluice.operate.masking import MASK, TOO_DEEP
from sluicectl import documents
from sluicectl.errors import Failure
from sluicectl.rejections import payload_lines

MAX_PLACED: Final = 200_000  # characters of a text in which places are found: that takes a second

type Operation = dict[str, Any]


class Mistake(Failure):
    """Says why an edited text is no JSON, and where; lines and columns count from 1."""

    def __init__(self, detail: str, line: int = 1, column: int = 1) -> None:
        super().__init__(detail)
        self.line = line
        self.column = column


def as_text(payload: Any) -> str:
    """Returns a payload as it is edited. A text is shown as the JSON in it, if it has any."""
    if isinstance(payload, str):
        try:
            payload = read(payload)
        except Mistake:
            return str(payload)
    return "\n".join(line for line, _ in payload_lines(payload))


def line_of(text: str, place: str | None) -> int | None:
    """Returns the line of a place in an edited text, or of the nearest thing around it; None if unknown."""
    if place is None or len(text) > MAX_PLACED:
        return None
    try:
        return documents.parse(text).place(place).line
    except documents.Unreadable:
        return None


def patch_of(shown: str, edited: str, *, is_masked: bool) -> list[Operation]:
    """Returns the operations of RFC 6902 that make the edited payload of the one shown.

    Raises `Mistake` if the edited text is no JSON, and `Failure` if it puts hidden texts elsewhere.
    """
    if edited == shown:
        return []
    after = read(edited)
    try:
        before = read(shown)
    except Mistake:  # a text that is no JSON can only be replaced
        return [{"op": "replace", "path": "", "value": after}]
    operations = list(_differences(before, after, ""))
    hidden = {TOO_DEEP, *((MASK,) if is_masked else ())} & set(_texts(before))
    for operation in operations:
        if not hidden.isdisjoint(_texts(operation.get("value"))):
            raise Failure(
                f"'{operation['path']}' would get a text that is hidden here, and not the one behind it. "
                "Show the personal data first, and change it then."
            )
    return operations


def read(text: str) -> Any:
    """Returns the value of a JSON text, or raises `Mistake`."""
    try:
        return json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Mistake(f"This is no JSON: {error.msg}.", error.lineno, error.colno) from None
    except _NotJson as error:
        raise Mistake(str(error)) from None
    except (RecursionError, ValueError):  # Python reads no integers of more than some thousand digits
        raise Mistake("This is nested too deeply, or has a number that is too long.") from None


class _NotJson(Exception):
    """Says what JSON does not allow, and Python does."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _NotJson(f"'{twice}' stands twice in one object.")
    return members


def _no_constant(name: str) -> Any:
    raise _NotJson(f"JSON has no {name}.")


def _differences(before: Any, after: Any, pointer: str) -> Iterator[Operation]:
    match before, after:
        case dict(), dict():
            for name in before:
                if name not in after:
                    yield {"op": "remove", "path": pointer + pointer_step(name)}
            for name, value in after.items():
                below = pointer + pointer_step(name)
                if name in before:
                    yield from _differences(before[name], value, below)
                else:
                    yield {"op": "add", "path": below, "value": value}
        case list(), list() if _only_items_changed(before, after):
            for index, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from _differences(one, other, f"{pointer}/{index}")
        case list(), list():
            yield from _moved(before, after, pointer)
        case _ if type(before) is not type(after) or before != after:  # 1 is no true, and no 1.0
            yield {"op": "replace", "path": pointer, "value": after}


def _only_items_changed(before: list[Any], after: list[Any]) -> bool:
    """Tells whether items are where they were. Else one could get the hidden texts of another."""
    if len(before) != len(after):
        return False
    old, new = [*map(_key, before)], [*map(_key, after)]
    return not any(one != other and other in old for one, other in zip(old, new, strict=True))


def _moved(before: list[Any], after: list[Any], pointer: str) -> Iterator[Operation]:
    """Yields what removes and adds whole items, between those that are the same at both ends."""
    old, new = [*map(_key, before)], [*map(_key, after)]
    shorter = min(len(old), len(new))
    start = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    end = next(
        (index for index in range(shorter - start) if old[-1 - index] != new[-1 - index]), shorter - start
    )
    for index in reversed(range(start, len(old) - end)):
        yield {"op": "remove", "path": f"{pointer}/{index}"}
    for index in range(start, len(new) - end):
        yield {"op": "add", "path": f"{pointer}/{index}", "value": after[index]}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for held in value.values():
                yield from _texts(held)
        case list():
            for held in value:
                yield from _texts(held)
