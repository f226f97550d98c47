"""Turns a caller's batch into events, or every problem in it: the same for HTTP and the queue."""

import re
from collections.abc import Iterator, Set
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import UNSET

from sluice import contract
from sluice.accounts import PipelessApp
from sluice.errors import Refused
from sluice.jsonapi import Problem, listed, pointer
from sluice.klaviyo import problems
from sluice.message import PipelessEvent
from sluice.pipeless.schemas import BatchDocument
from sluice.validation.schema_errors import explain

type _Path = tuple[str | int, ...]

DATE_FORMAT: Final = "%Y-%m-%dT%H:%M:%S"
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_DATE_FORM: Final = "'{}' must be a date of the form YYYY-MM-DDTHH:MM:SS, without an offset."
_COUNT: Final = f"A batch must hold 1 to {contract.MAX_EVENTS_PER_CALL} events."


def read(body: bytes, app: PipelessApp) -> BatchDocument:
    """Reads a batch for an app; raises `Refused` (400) with every problem, each pointing into the body."""
    problems.check_density(body)
    document = problems.parse(body)
    found = listed(_broken_rules(document, app))
    try:
        batch = msgspec.convert(document, BatchDocument)
    except msgspec.ValidationError:
        found = listed([*explain(BatchDocument, document), *found])
    if repeated := problems.repeats(body, document):
        raise Refused(400, repeated)
    if found:
        raise Refused(400, found)
    return batch


def stamped(events: list[PipelessEvent], accepted: datetime) -> list[PipelessEvent]:
    """Dates the relationship of each event that has no date yet, because waiting must not move an event.

    Objects are not dated: one that exists keeps its dates, and a date given here would change them.
    """
    now = accepted.astimezone(UTC).strftime(DATE_FORMAT)
    for event in events:
        if event.relationship.created_on is UNSET:
            event.relationship.created_on = now
    return events


def is_batch(document: object) -> bool:
    """Tells whether this parsed JSON is a batch, and no body of Klaviyo's."""
    return isinstance(document, dict) and "events" in document and "data" not in document


def _broken_rules(document: object, app: PipelessApp) -> Iterator[Problem]:
    """Yields the problems of those parts that have the right structure, which the structure cannot state."""
    events = document.get("events") if isinstance(document, dict) else None
    if not isinstance(events, list):
        return
    if not 1 <= len(events) <= contract.MAX_EVENTS_PER_CALL:
        yield Problem("invalid", _COUNT, pointer("events"))
    object_types = contract.OBJECT_TYPES | app.object_types
    relationship_types = contract.RELATIONSHIP_TYPES | app.relationship_types
    for index, event in enumerate(events[: contract.MAX_EVENTS_PER_CALL]):
        if isinstance(event, dict):
            for name in ("start_object", "end_object"):
                yield from _broken_by_part(event.get(name), object_types, ("events", index, name))
            name = "relationship"
            yield from _broken_by_part(event.get(name), relationship_types, ("events", index, name))


def _broken_by_part(part: object, types: Set[str], path: _Path) -> Iterator[Problem]:
    """Yields the rules that an object or a relationship breaks."""
    if not isinstance(part, dict):
        return
    given = part.get("type")
    if isinstance(given, str) and given not in types:
        yield Problem("invalid", f"'type' must be one of {', '.join(sorted(types))}.", pointer(*path, "type"))
    for name in ("created_on", "modified_on"):
        date = part.get(name)
        if isinstance(date, str) and not _is_date(date):
            yield Problem("invalid", _DATE_FORM.format(name), pointer(*path, name))


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
