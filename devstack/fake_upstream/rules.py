"""Defines Klaviyo's rules for a bulk job, as a table of fields and their checks.

They are read from the vendor's documents and share no code with the gateway that they test, because a mistake
in one must not hide the same mistake in the other. A check is a function of a value, the pointer to it and
the current inspection. It notes the mistakes it finds and never raises.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from devstack.fake_upstream.answers import Problem

ENTRIES = "/data/attributes/events-bulk-create/data"
IDENTIFIERS = ("id", "email", "phone_number", "external_id", "anonymous_id", "_kx")

MAX_EVENTS = 1_000
MAX_BODY_BYTES = 5 * 1024 * 1024
MAX_PROFILE_BYTES = 95 * 1024
MAX_STRING_BYTES = 100 * 1024
MAX_ELEMENTS = 4_000
MAX_DEPTH = 10
MAX_EMAIL = 99
MAX_METRIC_NAME = 127
MAX_UNIQUE_ID = 255
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**63 - 1
YEAR_SECONDS = 365 * 24 * 3600

_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.ASCII)


@dataclass(slots=True)
class Inspection:
    """Inspects one document: holds the values that depend on revision and time, and the problems found so
    far.
    """

    earliest: float
    latest: float
    max_properties: int
    may_be_null: bool
    may_be_unknown: bool
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, pointer: str, detail: str) -> None:
        self.problems.append(Problem(pointer, detail))


type Check = Callable[[Any, str, Inspection], None]


def inspect(
    document: object, revision: str, now: float, *, may_be_null: bool = True, may_be_unknown: bool = False
) -> list[Problem]:
    """Returns every mistake of a job's document, in document order; `now` in epoch seconds.

    `may_be_null` says whether null is taken where the specification allows it and gives no reason to,
    `may_be_unknown` whether a field is taken that the specification does not know.
    """
    first_year = 1990 if revision >= "2026-07-15" else 2000
    inspection = Inspection(
        earliest=datetime(first_year, 1, 1, tzinfo=UTC).timestamp(),
        latest=now + YEAR_SECONDS,
        max_properties=400 if revision >= "2025-04-15" else 300,
        may_be_null=may_be_null,
        may_be_unknown=may_be_unknown,
    )
    _DOCUMENT(document, "", inspection)
    return inspection.problems


def entries_of(document: Any) -> Iterator[tuple[int, Any]]:
    """Yields each entry's index and attributes; the document has passed inspection."""
    for index, entry in enumerate(document["data"]["attributes"]["events-bulk-create"]["data"]):
        yield index, entry["attributes"]


def events_of(document: Any) -> Iterator[tuple[int, int, Any, Any]]:
    """Yields each event as (entry index, event index, entry attributes, event attributes)."""
    for index, entry in entries_of(document):
        for position, event in enumerate(entry["events"]["data"]):
            yield index, position, entry, event["attributes"]


def moment(text: str) -> float | None:
    """Returns a date-time's epoch seconds, without an offset read as UTC; None if it is no date-time."""
    if not _DATE_TIME.fullmatch(text):
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _literal(expected: str) -> Check:
    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        if value != expected:
            inspection.refuse(pointer, f"'{expected}' is the only valid value.")

    return check


def _text(shortest: int = 0, longest: int | None = None) -> Check:
    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        if type(value) is not str:
            inspection.refuse(pointer, "Not a valid string.")
        elif len(value) < shortest or (longest is not None and len(value) > longest):
            inspection.refuse(pointer, f"Must have between {shortest} and {longest} characters.")

    return check


def _pattern(pattern: re.Pattern[str], detail: str, longest: int) -> Check:
    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        if type(value) is not str or len(value) > longest or not pattern.fullmatch(value):
            inspection.refuse(pointer, detail)

    return check


def _either(*types: type, detail: str) -> Check:
    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        if type(value) not in types:
            inspection.refuse(pointer, detail)
        elif type(value) is int and not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
            inspection.refuse(pointer, "An integer must fit into 64 bits.")

    return check


def _nullable(inner: Check) -> Check:
    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        if value is not None:
            inner(value, pointer, inspection)

    return check


def _nullable_if_set(inner: Check) -> Check:
    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        if value is not None or not inspection.may_be_null:
            inner(value, pointer, inspection)

    return check


def _each(inner: Check) -> Check:
    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        if type(value) is not list:
            inspection.refuse(pointer, "Not a valid list.")
            return
        for index, item in enumerate(value):
            inner(item, f"{pointer}/{index}", inspection)

    return check


def _every(*checks: Check) -> Check:
    """Combines checks, and stops at the first that finds something."""

    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        found = len(inspection.problems)
        for inner in checks:
            inner(value, pointer, inspection)
            if len(inspection.problems) > found:
                return

    return check


def _resource(name: str, required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    known = {**required, **(optional or {})}

    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        if type(value) is not dict:
            inspection.refuse(pointer, "Not a valid object.")
            return
        for key in required:
            if key not in value:
                inspection.refuse(
                    _below(pointer, key), f"'{key}' is a required field for the resource '{name}'."
                )
        for key, item in value.items():
            if key in known:
                known[key](item, f"{pointer}/{key}", inspection)
            elif not inspection.may_be_unknown:
                inspection.refuse(
                    _below(pointer, key), f"'{key}' is not a valid field for the resource '{name}'."
                )

    return check


def _data(inner: Check) -> Check:
    return _resource("relationship", {"data": inner})


def _one_or_each(inner: Check) -> Check:
    several = _each(inner)

    def check(value: Any, pointer: str, inspection: Inspection) -> None:
        (several if type(value) is list else inner)(value, pointer, inspection)

    return check


def _strings(*names: str) -> dict[str, Check]:
    return dict.fromkeys(names, _nullable(_text()))


def _at_most_all_events(value: Any, pointer: str, inspection: Inspection) -> None:
    events = sum(len(entry["attributes"]["events"]["data"]) for entry in value)
    if events > MAX_EVENTS:
        inspection.refuse(pointer, f"A job has at most {MAX_EVENTS} events, this one has {events}.")


def _identified(value: Any, pointer: str, inspection: Inspection) -> None:
    if not any(profile_identifiers(value)):
        inspection.refuse(pointer, "At least one identifier is required: " + ", ".join(IDENTIFIERS) + ".")


def profile_identifiers(profile: Any) -> tuple[str | None, ...]:
    """Returns the identifiers of a profile's data object, in the order of IDENTIFIERS."""
    attributes = profile["attributes"]
    return (profile.get("id"), *(attributes.get(name) for name in IDENTIFIERS[1:]))


def _light(value: Any, pointer: str, inspection: Inspection) -> None:
    if len(msgspec.json.encode(value)) > MAX_PROFILE_BYTES:
        inspection.refuse(pointer, f"A profile has at most {MAX_PROFILE_BYTES} bytes.")


def _time(value: Any, pointer: str, inspection: Inspection) -> None:
    when = moment(value) if type(value) is str else None
    if when is None:
        inspection.refuse(pointer, "Not a valid datetime.")
    elif not inspection.earliest <= when <= inspection.latest:
        inspection.refuse(pointer, "The time is too far in the past or the future.")


def _few(value: Any, pointer: str, inspection: Inspection) -> None:
    if len(value) > inspection.max_properties:
        inspection.refuse(pointer, f"An event has at most {inspection.max_properties} properties.")


def _free(value: Any, pointer: str, inspection: Inspection) -> None:
    """Checks a free-form object: any JSON within the bounds on depth, strings, arrays and integers."""
    if type(value) is dict:
        _tree(value, pointer, 1, inspection)
    else:
        inspection.refuse(pointer, "Not a valid object.")


def _tree(value: Any, pointer: str, depth: int, inspection: Inspection) -> None:
    if depth > MAX_DEPTH:
        inspection.refuse(pointer, f"Nested deeper than {MAX_DEPTH} levels.")
        return
    if type(value) is list and len(value) > MAX_ELEMENTS:
        inspection.refuse(pointer, f"An array has at most {MAX_ELEMENTS} elements.")
        return
    for key, item in value.items() if type(value) is dict else enumerate(value):
        if type(item) is dict or type(item) is list:
            _tree(item, _below(pointer, key), depth + 1, inspection)
        else:
            _scalar(item, pointer, key, inspection)


def _scalar(item: Any, pointer: str, key: object, inspection: Inspection) -> None:
    if type(item) is str:
        # No character has more than four bytes: only a long string is worth encoding.
        if len(item) * 4 > MAX_STRING_BYTES and len(item.encode()) > MAX_STRING_BYTES:
            inspection.refuse(_below(pointer, key), f"A string has at most {MAX_STRING_BYTES} bytes.")
    elif type(item) is int and not SMALLEST_INTEGER <= item <= LARGEST_INTEGER:
        inspection.refuse(_below(pointer, key), "An integer must fit into 64 bits.")


def _below(pointer: str, key: object) -> str:
    return f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"


_STRING = _nullable(_text())
_FLAG = _nullable(_either(bool, detail="Not a valid boolean."))
_NUMBER = _nullable(_either(int, float, detail="Not a valid number."))
_COORDINATE = _nullable(_either(str, int, float, detail="Not a valid coordinate."))

_LOCATION = _resource(
    "location",
    {},
    {
        **_strings("address1", "address2", "city", "country", "region", "zip", "timezone", "ip"),
        "latitude": _COORDINATE,
        "longitude": _COORDINATE,
    },
)


_META = _resource(
    "meta",
    {},
    {
        "patch_properties": _nullable_if_set(
            _resource(
                "patch_properties",
                {},
                {
                    "append": _nullable(_free),
                    "unappend": _nullable(_free),
                    "unset": _nullable(_one_or_each(_text())),
                },
            )
        ),
        "patch_identifiers": _nullable_if_set(
            _resource("patch_identifiers", {}, {"append": _free, "unappend": _free})
        ),
    },
)

_PROFILE_ATTRIBUTES = _resource(
    "profile",
    {},
    {
        "email": _nullable(_pattern(_EMAIL, "Invalid email address.", MAX_EMAIL)),
        "phone_number": _nullable(_pattern(_E164, "Invalid phone number format.", 16)),
        **_strings("external_id", "anonymous_id", "_kx"),
        **_strings("first_name", "last_name", "organization", "locale", "title", "image"),
        "location": _nullable_if_set(_LOCATION),
        "properties": _nullable(_free),
    },
)

_PROFILE = _every(
    _resource(
        "profile",
        {"type": _literal("profile"), "attributes": _PROFILE_ATTRIBUTES},
        {"id": _STRING, "meta": _nullable_if_set(_META)},
    ),
    _identified,
    _light,
)

_METRIC = _resource(
    "metric",
    {
        "type": _literal("metric"),
        "attributes": _resource("metric", {"name": _text(1, MAX_METRIC_NAME)}, {"service": _STRING}),
    },
)

_EVENT = _resource(
    "event",
    {
        "type": _literal("event"),
        "attributes": _resource(
            "event",
            {"properties": _every(_free, _few), "metric": _data(_METRIC)},
            {
                "time": _nullable(_time),
                "value": _NUMBER,
                "value_currency": _nullable(_pattern(_CURRENCY, "Not an ISO 4217 currency code.", 3)),
                "unique_id": _nullable(_text(1, MAX_UNIQUE_ID)),
                "backfill": _FLAG,
            },
        ),
    },
)

_ENTRY = _resource(
    "event-bulk-create",
    {
        "type": _literal("event-bulk-create"),
        "attributes": _resource(
            "event-bulk-create",
            {"profile": _data(_PROFILE), "events": _data(_each(_EVENT))},
            {"backfill": _FLAG},
        ),
    },
)

_DOCUMENT = _data(
    _resource(
        "event-bulk-create-job",
        {
            "type": _literal("event-bulk-create-job"),
            "attributes": _resource(
                "event-bulk-create-job",
                {"events-bulk-create": _data(_every(_each(_ENTRY), _at_most_all_events))},
            ),
        },
    )
)
