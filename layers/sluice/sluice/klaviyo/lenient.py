"""Takes the bad events out of a bulk body, so that the good ones can be accepted without them.

It is only for callers that ask for it (`Prefer: handling=lenient`). A fault of a body as a whole, such as too
many events, is a fault of each event, so such a body cannot be separated.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from sluice.contract import MAX_BODY_BYTES_IN, MAX_EVENTS_PER_REQUEST, Surface
from sluice.jsonapi import Problem
from sluice.klaviyo import problems
from sluice.klaviyo.rules import Rules

# A profile goes with each of its bad events, so the rejections may be larger than the request.
MAX_BAD_BYTES: Final = 4 * MAX_BODY_BYTES_IN
MAX_PROBLEMS: Final = 10_000  # of all bad events
_PLACE: Final = re.compile(
    "/data/attributes/events-bulk-create/data/([0-9]+)(?:/attributes/events/data/([0-9]+))?(?:/.*)?",
    re.DOTALL,
)

type _ByEvent = dict[int | None, list[Problem]]  # None is for the entry itself


class InvalidEvents(msgspec.Struct, frozen=True):
    """Holds one bad event, or all of a bad entry, by their indexes in the caller's document.

    An entry in which no event can be found counts as one. `payload` is JSON: the profile and the events'
    attributes as the caller sent them, or the entry as it is if it has none.
    """

    entry: int
    events: tuple[int, ...]
    problems: list[Problem]
    payload: bytes


class Separated(msgspec.Struct, frozen=True):
    """Holds a body of the good events alone, where each stood (entry, its events), and the bad ones."""

    body: bytes
    places: list[tuple[int, list[int]]]
    bad: list[InvalidEvents]


def separate(body: bytes, limits: Rules) -> Separated | None:
    """Separates the good and the bad events of a bulk body; returns None if all of it is bad."""
    parsed = problems.parse_body(Surface.BULK, body)
    found = _by_place(problems.problems(Surface.BULK, parsed, limits))
    if not found:
        return None
    document: Any = parsed.document
    holder = document["data"]["attributes"]["events-bulk-create"]
    entries = holder["data"]
    if sum(len(_events(entry)) or 1 for entry in entries) > MAX_EVENTS_PER_REQUEST:
        return None
    bad = [each for index, faults in sorted(found.items()) for each in _bad(index, entries[index], faults)]
    places = []
    holder["data"] = []
    for index, entry in enumerate(entries):
        faults = found.get(index, {})
        events = _events(entry)
        good = [] if None in faults else [number for number in range(len(events)) if number not in faults]
        if good:
            places.append((index, good))
            entry["attributes"]["events"]["data"] = [events[number] for number in good]
            holder["data"].append(entry)
    if not places or sum(len(each.payload) for each in bad) > MAX_BAD_BYTES:
        return None
    return Separated(msgspec.json.encode(document), places, bad)


def _by_place(problems: Iterable[Problem]) -> dict[int, _ByEvent] | None:
    """Groups problems by the entry and event they are in; returns None if one is in neither, or they are
    too many.
    """
    found: dict[int, _ByEvent] = defaultdict(lambda: defaultdict(list))
    for count, problem in enumerate(problems):
        place = _PLACE.fullmatch(problem.pointer or "")
        if place is None or count == MAX_PROBLEMS:
            return None
        found[int(place[1])][int(place[2]) if place[2] else None].append(problem)
    return found


def _bad(index: int, entry: object, faults: _ByEvent) -> list[InvalidEvents]:
    events = _events(entry)
    if None in faults:
        everything = [problem for problems in faults.values() for problem in problems]
        return [InvalidEvents(index, tuple(range(len(events))) or (0,), everything, _payload(entry, events))]
    return [
        InvalidEvents(index, (number,), problems, _payload(entry, [events[number]]))
        for number, problems in faults.items()
        if number is not None
    ]


def _events(entry: object) -> list[Any]:
    match entry:
        case {"attributes": {"events": {"data": [*events]}}}:
            return events
        case _:
            return []


def _payload(entry: Any, events: list[Any]) -> bytes:
    if not events:
        return msgspec.json.encode(entry)
    attributes = entry["attributes"]
    return msgspec.json.encode(
        {
            "profile": _within(attributes.get("profile"), "data"),
            "events": [_within(event, "attributes") for event in events],
            "backfill": attributes.get("backfill") is True,
        }
    )


def _within(value: Any, name: str) -> Any:
    """Returns the member of an object by its name, or the value itself if it is no such object."""
    return value[name] if isinstance(value, dict) and name in value else value
