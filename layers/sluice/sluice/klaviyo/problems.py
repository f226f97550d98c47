"""Explains why a body is refused: every problem, each with a pointer into the caller's own document.

Only refused bodies come here, but strangers can send these too, so the work on each is bounded. It goes on
the parsed JSON part by part, because one bad part must not hide the problems of the others.
"""

import codecs
import contextlib
import re
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from sluice import contract
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.jsonapi import Problem, listed, pointer
from sluice.klaviyo import flat_event, rules
from sluice.klaviyo.rules import Path, Rules, Violation
from sluice.klaviyo.schemas import (
    BulkDocument,
    ClientBulkDocument,
    EventAttributes,
    Metric,
    MetricAttributes,
    MetricData,
    ProfileAttributes,
    ProfileData,
    SingleDocument,
)
from sluice.validation import date_times, structure, surrogates
from sluice.validation.duplicate_keys import has_repeated_key, repeated_keys
from sluice.validation.schema_errors import explain, fitting

ROOTS: Final[dict[Surface, tuple[str, ...]]] = {
    Surface.BULK: ("data", "attributes", "events-bulk-create", "data"),
    Surface.CLIENT_BULK: ("data",),
    Surface.EVENT: ("data",),
    Surface.CLIENT_EVENT: ("data",),
}
SINGLE: Final = frozenset({Surface.EVENT, Surface.CLIENT_EVENT})
CLIENT: Final = frozenset({Surface.CLIENT_BULK, Surface.CLIENT_EVENT})
DOCUMENTS: Final[dict[Surface, type]] = {
    Surface.BULK: BulkDocument,
    Surface.CLIENT_BULK: ClientBulkDocument,
    Surface.EVENT: SingleDocument,
    Surface.CLIENT_EVENT: SingleDocument,
}
_MAX_NAME: Final = 100
_UNEXPLAINED: Final = Problem("invalid", "The body does not have the documented shape.", "/data")


class ParsedBody(msgspec.Struct, frozen=True):
    """Holds a body that is JSON, `document` as sent and `current` in the current shape.

    Times of other forms of ISO 8601 are written as RFC 3339 has them in both. `damaged` are the texts that
    hold what is no character; in the documents U+FFFD stands in its place.
    """

    body: bytes
    document: Any
    current: Any
    is_flat: bool
    damaged: Sequence[Problem] = ()


def refused(surface: Surface, parsed: ParsedBody, limits: Rules) -> Refused:
    """Returns the refusal (400) of a body that cannot be accepted."""
    return Refused(400, listed(problems(surface, parsed, limits)) or [_UNEXPLAINED])


def problems(surface: Surface, parsed: ParsedBody, limits: Rules) -> Iterator[Problem]:
    """Yields every problem of a body."""
    if repeated := repeats(parsed.body, parsed.document):
        yield from repeated
        return
    yield from parsed.damaged
    found = _problems(surface, parsed.current, limits)
    yield from map(flat_event.to_caller, found) if parsed.is_flat else found


def check_density(body: bytes, surface: Surface | None = None) -> None:
    """Refuses a body (400) that would be out of proportion once it is decoded."""
    density = structure.ANYBODY if surface in CLIENT else structure.KNOWN_CALLERS
    if detail := density.excess(body):
        raise Refused(400, [Problem("invalid", f"{detail} Send it in parts.", "/")])


def parse_body(surface: Surface, body: bytes) -> ParsedBody:
    """Parses a body's JSON; raises `Refused` (400) if it has none."""
    damaged: list[Problem] = []
    try:
        document: Any = parse(body)
    except Refused:
        found = surrogates.parse(body)
        if found is None:
            raise
        document, damaged = found
        if document is None:
            raise Refused(400, damaged) from None
    current = flat_event.to_current(document) if surface is Surface.EVENT else None
    is_flat = current is not None
    current = current if is_flat else document
    _respell_times(surface, current)
    return ParsedBody(body, document, current, is_flat, damaged)


def parse(body: bytes) -> object:
    """Parses JSON; raises `Refused` (400) with what the decoder found if it is none."""
    try:
        return msgspec.json.decode(body)
    except UnicodeDecodeError:
        detail = _not_utf8(body)
    except RecursionError:
        detail = _TOO_DEEP
    except msgspec.ValidationError:
        detail = "A number in the body is too large to be represented; send it as a string."
    except msgspec.DecodeError as error:
        detail = _not_json(body, error)
    raise Refused(400, [_parse_error(detail)])


def _respell_times(surface: Surface, document: Any) -> None:
    for path, attributes in islice(_holders(surface, document), contract.MAX_EVENTS_PER_REQUEST):
        for _, event in islice(_events(surface, path, attributes), contract.MAX_EVENTS_PER_REQUEST):
            holder = attributes if surface in SINGLE else event
            time = _at(event, "time")
            found = date_times.parse(time) if isinstance(time, str) else None
            if found is not None and isinstance(holder, dict):
                holder["time"] = found.isoformat()


_FORM_BODY: Final = re.compile(rb"[\w.%+\[\]-]+=[^\s{}]*", re.ASCII)


def _not_utf8(body: bytes) -> str:
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in body[:2]:
        return "The body is UTF-16, it seems: send it in UTF-8."
    try:
        body.decode()
    except UnicodeDecodeError as error:
        place = f"(byte {body[error.start]:#04x} at {error.start})"
        return rf"The body is not UTF-8 {place}. A U+FFFD that is meant has to be written as \ufffd."
    return "The body is not UTF-8."


_TOO_DEEP: Final = "The body is nested too deeply."


def _not_json(body: bytes, error: msgspec.DecodeError) -> str:
    if not body.strip():
        return "The body is empty."
    if body.startswith(codecs.BOM_UTF8):
        return "The body starts with a byte order mark, which JSON must not: send it without."
    if b"\0" in body[:4]:
        return "The body is UTF-16 or UTF-32, it seems: send it in UTF-8."
    if _FORM_BODY.match(body[:1_000]):
        return "The body is a form (name=value), it seems: send JSON."
    return f"The body cannot be read: {error}."


def repeats(body: bytes, document: object) -> list[Problem]:
    """Returns a problem for each key that stands twice in an object of a JSON text, as far as it looks.

    `document` is the text parsed.
    """
    if not has_repeated_key(body, msgspec.json.encode(document)):
        return []
    names = repeated_keys(body)
    if not names:
        return [_parse_error("A key stands more than once in one object: send each once.")]
    detail = "'{}' stands more than once in one object: send it once."
    return [_parse_error(detail.format(name[:_MAX_NAME])) for name in names]


def _parse_error(detail: str) -> Problem:
    return Problem("parse_error", detail, "/")


def _problems(surface: Surface, document: object, limits: Rules) -> Iterator[Problem]:
    """Yields every problem of the structure, and the rules broken by those parts that have none of it."""
    yield from explain(DOCUMENTS[surface], document)
    total = 0
    for path, attributes in _holders(surface, document):
        total += yield from _broken_rules(surface, path, attributes, limits)
        if total > contract.MAX_EVENTS_PER_REQUEST:
            break
    root = ROOTS[surface]
    if _at(document, *root) == []:
        yield Problem("invalid", _NO_EVENT, pointer(*root))
    if total > contract.MAX_EVENTS_PER_REQUEST:
        total = sum(_count(surface, attributes) for _, attributes in _holders(surface, document))
        held = root if surface is Surface.BULK else (*root, "attributes", "events", "data")
        detail = f"A request must not hold more than {contract.MAX_EVENTS_PER_REQUEST} events."
        yield Problem("invalid", f"{detail} This one holds {total}: send it in parts.", pointer(*held))


_LOOKED_AT: Final = contract.MAX_EVENTS_PER_REQUEST + 1
_NO_EVENT: Final = "At least one event is needed here."


def _broken_rules(
    surface: Surface, path: Path, attributes: object, limits: Rules
) -> Generator[Problem, None, int]:
    """Yields the rules broken within one profile and its events; returns the number of events.

    Of more events than a request may hold it looks at as many.
    """
    found: list[Violation] = []
    profile = _profile(_at(attributes, "profile", "data"))
    profile_bytes = len(msgspec.json.encode(profile))
    if profile is not None:
        rules.check_profile(profile, profile_bytes, found)
        yield from _placed(found, (*path, "profile", "data"))
    events = _events(surface, path, attributes)
    for event_path, value in islice(events, contract.MAX_EVENTS_PER_REQUEST):
        found = []
        event = _event(value)
        rules.check_event(event, limits, found)
        rules.check_value(event.properties, ("properties",), found)
        rules.check_size(event, profile_bytes, found)
        yield from _placed(found, event_path)
    if _at(attributes, "events", "data") == []:
        yield Problem("invalid", _NO_EVENT, pointer(*path, "events", "data"))
    return len(events)


def _placed(found: list[Violation], path: Path) -> Iterator[Problem]:
    return (Problem("invalid", detail, pointer(*path, *where)) for where, detail in found)


# Rules look at whole parts. A mistake in the structure of one is explained already. It is left out, or
# replaced by a good value, so that the rest can be checked.
_ANY_METRIC: Final = Metric(MetricData("metric", MetricAttributes("any")))
_ANY_ID: Final = "any"
_IN_ATTRIBUTES: Final = contract.IDENTIFIERS[1:]


def _profile(value: object) -> ProfileData | None:
    given = _at(value, "attributes")
    if not isinstance(value, dict) or not isinstance(given, dict):
        return None
    attributes = ProfileAttributes(**fitting(given, ProfileAttributes))
    profile = ProfileData(**{**fitting(value, ProfileData), "type": "profile", "attributes": attributes})
    is_misfit = any(given.get(name) and not getattr(attributes, name.lstrip("_")) for name in _IN_ATTRIBUTES)
    if is_misfit or (value.get("id") and not profile.id):
        profile.id = _ANY_ID  # it exists, and its mistakes are explained already
    return profile


def _event(value: object) -> EventAttributes:
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(value, EventAttributes)
    return EventAttributes(**{"properties": {}, "metric": _ANY_METRIC, **fitting(value, EventAttributes)})


def _holders(surface: Surface, document: object) -> Iterator[tuple[Path, object]]:
    """Yields the attributes of each object that holds one profile, with their path, as far as they exist."""
    root = ROOTS[surface]
    node = _at(document, *root)
    if surface is not Surface.BULK:
        yield (*root, "attributes"), _at(node, "attributes")
    elif isinstance(node, list):
        for index, entry in enumerate(node):
            yield (*root, index, "attributes"), _at(entry, "attributes")


def _events(surface: Surface, path: Path, attributes: object) -> Sequence[tuple[Path, object]]:
    """Returns the attributes of the events of a holder, with their path: one more than there may be."""
    if surface in SINGLE:
        own = attributes if isinstance(attributes, dict) else {}
        return [(path, {name: value for name, value in own.items() if name != "profile"})]
    events = _at(attributes, "events", "data")
    return [
        ((*path, "events", "data", index, "attributes"), _at(event, "attributes"))
        for index, event in enumerate(events[:_LOOKED_AT] if isinstance(events, list) else [])
    ]


def _count(surface: Surface, attributes: object) -> int:
    events = [attributes] if surface in SINGLE else _at(attributes, "events", "data")
    return len(events) if isinstance(events, list) else 0


def _at(node: object, *names: str) -> object:
    for name in names:
        node = node.get(name) if isinstance(node, dict) else None
    return node
