"""Tests that a rule of events costs an event of a delivery no more than the field that breaks it."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from sluice.webhooks.event_validation import validate_event
from sluice.webhooks.mapping import MappedEvent

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LONG = "x" * 102_401


def event(profile: dict[str, Any] | None = None, metric: Any = "Seen", **attributes: Any) -> MappedEvent:
    """Makes an event of a mapping "seen" with a good value and a good property."""
    person = {"email": "ann@mail.example", "external_id": "7"} if profile is None else profile
    body = {
        "properties": {"ok": 1},
        "value": 5,
        "unique_id": "d-1:0",
        **attributes,
        "profile": {"data": {"type": "profile", "attributes": person}},
        "metric": {"data": {"type": "metric", "attributes": {"name": metric}}},
    }
    return MappedEvent("seen", {"data": {"type": "event", "attributes": body}})


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"value": "much"}, ["value"]),
        ({"value": 2**63}, ["value"]),
        ({"value_currency": "euro"}, ["value_currency"]),
        ({"value_currency": 5}, ["value_currency"]),
        ({"backfill": "yes"}, ["backfill"]),
        ({"properties": {"ok": 1, "a/b": LONG}}, ["properties/a~1b"]),
        ({"properties": {"ok": 1, "$extra": {"ok": 2, "note": LONG}}}, ["properties/$extra/note"]),
        ({"properties": {"ok": 1, "Items": ["a", LONG]}}, ["properties/Items/1"]),
        ({"properties": {"ok": 1, "Items": ["a"] * 4_001}}, ["properties/Items"]),
        (
            {"profile": {"email": "ann@mail.example", "first_name": 5, "last_name": []}},
            ["profile/first_name", "profile/last_name"],
        ),
        ({"profile": {"email": "ann@mail.example", "location": {"city": 5}}}, ["profile/location/city"]),
        ({"profile": {"email": "ann@mail.example", "location": "Oslo"}}, ["profile/location"]),
        ({"profile": {"email": "n/a", "external_id": "7"}}, ["profile/email"]),
        ({"profile": {"email": {"a": 1}, "external_id": "7"}}, ["profile/email"]),
        ({"profile": {"email": "ann@mail.example", "external_id": [7]}}, ["profile/external_id"]),
        ({"value": "much", "value_currency": "euro"}, ["value", "value_currency"]),
    ],
)
def test_a_field_that_breaks_a_rule_is_left_out_alone(bad: dict[str, Any], where: list[str]) -> None:
    found = validate_event(event(**bad), NOW)

    assert found.entry is not None
    assert sorted(each.pointer or "" for each in found.left_out) == [f"/events/seen/{each}" for each in where]
    kept = msgspec.to_builtins(found.entry.events[0].attributes)
    assert kept["properties"]["ok"] == 1
    assert kept.get("value") == (None if "value" in where else 5)
    assert found.event.body["data"]["attributes"].keys() >= {"properties", "unique_id", "profile", "metric"}


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"profile": {}}, "profile/data/attributes"),
        ({"profile": {"email": "n/a"}}, "profile/data/attributes/email"),
        ({"profile": {"email": "n/a", "external_id": [7]}}, "profile/data/attributes/email"),
        ({"metric": ""}, "metric/data/attributes/name"),
        ({"metric": 5}, "metric/data/attributes/name"),
        ({"metric": "x" * 128}, "metric/data/attributes/name"),
        ({"time": "yesterday"}, "time"),
        ({"time": "1989-12-31T00:00:00Z"}, "time"),
        ({"time": "yesterday", "value": "much"}, "time"),
        ({"properties": {str(each): each for each in range(401)}}, "properties"),
    ],
)
def test_an_event_is_refused_for_what_it_cannot_do_without(bad: dict[str, Any], where: str) -> None:
    given = event(**bad)

    found = validate_event(given, NOW)

    assert found.entry is None
    assert found.event is given
    assert f"/data/attributes/{where}" in [each.pointer for each in found.problems]
    assert found.left_out == ()


def test_more_bad_fields_than_are_listed_are_left_out_too() -> None:
    properties = {f"p{each}": LONG[: 102_401 if each else 5] for each in range(40)}

    found = validate_event(event(properties=properties), NOW)

    assert found.entry is not None
    assert len(found.left_out) == 39


def test_a_good_event_is_as_it_was() -> None:
    given = event()

    found = validate_event(given, NOW)

    assert found.event is given
    assert (found.problems, found.left_out) == ((), [])
