"""Tests every rule of the fake upstream, at its boundary and one step past it."""

import copy
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from devstack.fake_upstream.rules import YEAR_SECONDS, inspect, moment

NOW = datetime(2026, 7, 20, 12, tzinfo=UTC).timestamp()
REVISION = "2026-07-15"
ENTRY = "data/attributes/events-bulk-create/data/0"
PROFILE = f"{ENTRY}/attributes/profile/data"
WHO = f"{PROFILE}/attributes"
EVENT = f"{ENTRY}/attributes/events/data/0"
WHAT = f"{EVENT}/attributes"
METRIC = f"{WHAT}/metric/data"
GONE = object()

GOOD: dict[str, Any] = {
    "data": {
        "type": "event-bulk-create-job",
        "attributes": {
            "events-bulk-create": {
                "data": [
                    {
                        "type": "event-bulk-create",
                        "attributes": {
                            "profile": {
                                "data": {"type": "profile", "attributes": {"email": "ann@example.com"}}
                            },
                            "events": {
                                "data": [
                                    {
                                        "type": "event",
                                        "attributes": {
                                            "properties": {},
                                            "metric": {
                                                "data": {
                                                    "type": "metric",
                                                    "attributes": {"name": "Placed Order"},
                                                }
                                            },
                                        },
                                    }
                                ]
                            },
                        },
                    }
                ]
            }
        },
    }
}


def changed(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    *parents, last = path.split("/")
    place: Any = document
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return document


def pointers(document: object, revision: str = REVISION) -> list[str]:
    return [problem.pointer for problem in inspect(document, revision, NOW)]


@pytest.mark.parametrize(
    "path",
    [
        f"{WHO}/location",
        f"{PROFILE}/meta",
        f"{PROFILE}/meta/patch_properties",
        f"{PROFILE}/meta/patch_identifiers",
    ],
)
def test_a_null_that_says_nothing_is_taken_or_refused_as_it_is_set(path: str) -> None:
    document = changed(path, None)

    assert inspect(document, REVISION, NOW) == []
    [problem] = inspect(document, REVISION, NOW, may_be_null=False)
    assert problem.pointer == f"/{path}"


def deep(levels: int) -> dict[str, Any]:
    """Makes a properties object of that many levels, itself the first."""
    nested: dict[str, Any] = {}
    for _ in range(levels - 1):
        nested = {"a": nested}
    return nested


def at(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def weighing(size: int) -> dict[str, Any]:
    """Makes a profile's data object of exactly that many bytes."""
    attributes: dict[str, Any] = {"email": "ann@example.com", "properties": {"a": "", "b": ""}}
    empty = {"type": "profile", "attributes": attributes}
    missing = size - len(msgspec.json.encode(empty))
    attributes["properties"] = {"a": "x" * (missing // 2), "b": "x" * (missing - missing // 2)}
    return empty


BOUNDARIES = {
    # what: (path, the last valid value, the first that is not, where that is pointed at if not at the path)
    "e-mail length": (f"{WHO}/email", "a" * 93 + "@b.com", "a" * 94 + "@b.com"),
    "e-mail shape": (f"{WHO}/email", "a+b@c.co.uk", "a@b"),
    "e-mail spaces": (f"{WHO}/email", "a@b.com", "a b@c.com"),
    "e-mail dots": (f"{WHO}/email", "a@b.com", "a@b..com"),
    "phone digits": (f"{WHO}/phone_number", "+123456789012345", "+1234567890123456"),
    "phone plus": (f"{WHO}/phone_number", "+15005550006", "15005550006"),
    "phone zero": (f"{WHO}/phone_number", "+15005550006", "+05005550006"),
    "identifier": (WHO, {"external_id": "1"}, {"first_name": "Ann"}, PROFILE),
    "identifier null": (WHO, {"_kx": "1"}, {"email": None}, PROFILE),
    "identifier empty": (WHO, {"anonymous_id": "1"}, {"external_id": ""}, PROFILE),
    "profile id": (f"{PROFILE}/id", "01ABC", 7),
    "profile bytes": (PROFILE, weighing(97_280), weighing(97_281)),
    "profile name": (f"{WHO}/first_name", None, 5),
    "profile properties": (f"{WHO}/properties", {"any": [1, {"thing": None}]}, []),
    "location": (f"{WHO}/location", {"city": "Boston", "latitude": 1.5, "longitude": "2"}, []),
    "location field": (f"{WHO}/location/zip", "02110", 2110),
    "latitude": (f"{WHO}/location/latitude", "42.1", True),
    "patch properties": (f"{PROFILE}/meta/patch_properties", {"append": {"a": 1}, "unset": ["b"]}, []),
    "unset": (f"{PROFILE}/meta/patch_properties/unset", "a", 1),
    "patch identifiers": (f"{PROFILE}/meta/patch_identifiers", {"append": {"email": "a@b.co"}}, []),
    "metric name short": (f"{METRIC}/attributes/name", "x", ""),
    "metric name long": (f"{METRIC}/attributes/name", "x" * 127, "x" * 128),
    "metric service": (f"{METRIC}/attributes/service", None, 1),
    "unique_id short": (f"{WHAT}/unique_id", "x", ""),
    "unique_id long": (f"{WHAT}/unique_id", "x" * 255, "x" * 256),
    "unique_id type": (f"{WHAT}/unique_id", None, 1),
    "time first": (f"{WHAT}/time", "1990-01-01T00:00:00Z", "1989-12-31T23:59:59Z"),
    "time last": (f"{WHAT}/time", at(NOW + YEAR_SECONDS), at(NOW + YEAR_SECONDS + 1)),
    "time date": (f"{WHAT}/time", "2026-02-28T10:00:00.5+02:00", "2026-02-29T10:00:00Z"),
    "time naive": (f"{WHAT}/time", "2026-02-28T10:00:00.123456", "2026-02-28"),
    "time type": (f"{WHAT}/time", None, 1_700_000_000),
    "value": (f"{WHAT}/value", 9.99, "9.99"),
    "value flag": (f"{WHAT}/value", None, True),
    "value least": (f"{WHAT}/value", -(2**63), -(2**63) - 1),
    "value greatest": (f"{WHAT}/value", 2**63 - 1, 2**63),
    "currency": (f"{WHAT}/value_currency", "EUR", "EURO"),
    "currency case": (f"{WHAT}/value_currency", None, "eur"),
    "event backfill": (f"{WHAT}/backfill", False, "false"),
    "entry backfill": (f"{ENTRY}/attributes/backfill", None, 0),
    "properties": (f"{WHAT}/properties", {}, None),
    "properties count": (
        f"{WHAT}/properties",
        {str(n): n for n in range(400)},
        {str(n): n for n in range(401)},
    ),
    "string": (f"{WHAT}/properties/text", "x" * 102_400, "x" * 102_401),
    "string bytes": (f"{WHAT}/properties/text", "é" * 51_200, "é" * 51_201),
    "array": (f"{WHAT}/properties/list", [1] * 4_000, [1] * 4_001),
    "nesting": (f"{WHAT}/properties", deep(10), deep(11), f"{WHAT}/properties" + "/a" * 10),
    "integer in a list": (
        f"{WHAT}/properties/list",
        [2**63 - 1],
        [2**63],
        f"{WHAT}/properties/list/0",
    ),
    "pointer escapes": (f"{WHAT}/properties", {"a/~b": "x"}, {"a/~b": 2**63}, f"{WHAT}/properties/a~1~0b"),
    "types": (f"{EVENT}/type", "event", "events"),
}


@pytest.mark.parametrize("rule", BOUNDARIES.values(), ids=BOUNDARIES.keys())
def test_a_rule_holds_up_to_its_boundary_and_no_further(rule: tuple[Any, ...]) -> None:
    path, last_valid, first_invalid, *elsewhere = rule

    assert pointers(changed(path, last_valid)) == []
    assert pointers(changed(path, first_invalid)) == [f"/{elsewhere[0] if elsewhere else path}"]


@pytest.mark.parametrize(
    "path",
    [
        "data",
        "data/type",
        "data/attributes",
        "data/attributes/events-bulk-create",
        "data/attributes/events-bulk-create/data",
        f"{ENTRY}/type",
        f"{ENTRY}/attributes",
        f"{ENTRY}/attributes/profile",
        PROFILE,
        f"{PROFILE}/type",
        WHO,
        f"{ENTRY}/attributes/events",
        f"{ENTRY}/attributes/events/data",
        f"{EVENT}/type",
        WHAT,
        f"{WHAT}/properties",
        f"{WHAT}/metric",
        METRIC,
        f"{METRIC}/type",
        f"{METRIC}/attributes",
        f"{METRIC}/attributes/name",
    ],
)
def test_a_required_field_is_missed_by_name(path: str) -> None:
    [problem] = inspect(changed(path, GONE), REVISION, NOW)

    assert problem.pointer == f"/{path}"
    assert f"'{path.rsplit('/', 1)[-1]}' is a required field" in problem.detail


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("unknown", "relationship"),
        ("data/unknown", "event-bulk-create-job"),
        ("data/attributes/unknown", "event-bulk-create-job"),
        (f"{ENTRY}/unknown", "event-bulk-create"),
        (f"{ENTRY}/attributes/unknown", "event-bulk-create"),
        (f"{PROFILE}/unknown", "profile"),
        (f"{WHO}/unknown", "profile"),
        (f"{WHO}/location/unknown", "location"),
        (f"{PROFILE}/meta/unknown", "meta"),
        (f"{PROFILE}/meta/patch_properties/unknown", "patch_properties"),
        (f"{PROFILE}/meta/patch_identifiers/unknown", "patch_identifiers"),
        (f"{EVENT}/unknown", "event"),
        (f"{WHAT}/unknown", "event"),
        (f"{METRIC}/unknown", "metric"),
        (f"{METRIC}/attributes/unknown", "metric"),
    ],
)
def test_an_unknown_field_is_refused_with_its_resource(path: str, resource: str) -> None:
    [problem] = inspect(changed(path, 1), REVISION, NOW)

    assert problem.pointer == f"/{path}"
    assert problem.detail == f"'unknown' is not a valid field for the resource '{resource}'."


@pytest.mark.parametrize(
    "path", ["data/attributes/events-bulk-create/data", f"{ENTRY}/attributes/events/data"]
)
def test_lists_are_lists(path: str) -> None:
    assert pointers(changed(path, {})) == [f"/{path}"]


@pytest.mark.parametrize("document", [None, [], "text", 1])
def test_a_document_that_is_no_object_is_refused(document: object) -> None:
    assert pointers(document) == [""]


def test_events_are_counted_over_all_entries() -> None:
    entry = GOOD["data"]["attributes"]["events-bulk-create"]["data"][0]
    half = copy.deepcopy(entry)
    half["attributes"]["events"]["data"] *= 500
    path = "data/attributes/events-bulk-create/data"

    assert pointers(changed(path, [half, half])) == []
    assert pointers(changed(path, [half, half, entry])) == [f"/{path}"]


@pytest.mark.parametrize(
    ("path", "value", "before", "since"),
    [
        (f"{WHAT}/properties", {str(n): n for n in range(301)}, "2025-01-15", "2025-04-15"),
        (f"{WHAT}/time", "1999-12-31T23:59:59Z", "2026-04-15", "2026-07-15"),
    ],
)
def test_limits_that_came_with_a_revision(path: str, value: object, before: str, since: str) -> None:
    assert pointers(changed(path, value), before) == [f"/{path}"]
    assert pointers(changed(path, value), since) == []


def test_every_problem_is_found_in_document_order() -> None:
    document = changed(f"{WHO}/email", "nobody")
    document["data"]["attributes"]["events-bulk-create"]["data"][0]["attributes"]["events"]["data"].append({})

    assert pointers(document) == [
        f"/{WHO}/email",
        f"/{ENTRY}/attributes/events/data/1/type",
        f"/{ENTRY}/attributes/events/data/1/attributes",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01T00:00:01", 1),
        ("1970-01-01T02:00:01.500+02:00", 1.5),
        ("1970-01-01 00:00:01", None),
        ("1970-01-01T00:00", None),
        ("1970-01-01T25:00:00Z", None),
        ("١٩٧٠-01-01T00:00:00Z", None),
    ],
)
def test_a_moment_is_a_date_time_with_utc_as_default(text: str, seconds: float | None) -> None:
    assert moment(text) == seconds
