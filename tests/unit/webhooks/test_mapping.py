"""Tests the events that a payload becomes: none, one or many, each by itself, and never more than allowed."""

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.contract import MAX_EVENTS_PER_REQUEST
from sluice.webhooks import mapping, presets
from sluice.webhooks.mapping import Mapped
from tests.support.webhook_samples import document, mapped, own, source

PAYLOAD: dict[str, Any] = {
    "id": "d-1",
    "email": "ann@example.com",
    "items": [{"id": 1, "name": "Lamp"}, {"id": 2, "name": "Desk"}],
    "zero": 0,
    "empty": "",
}
HASH = hashlib.sha256(json.dumps(PAYLOAD).encode()).hexdigest()


def become(payload: Any = PAYLOAD, **event: Any) -> Mapped:
    return mapped(source(own(**event)), payload)


def attributes(payload: Any = PAYLOAD, **event: Any) -> list[dict[str, Any]]:
    outcome = become(payload, **event)
    assert outcome.problems == []
    assert all(not each.left_out for each in outcome.events)
    return [each.body["data"]["attributes"] for each in outcome.events]


def test_the_least_mapping_makes_a_whole_event() -> None:
    assert [each.body for each in become().events] == [
        {
            "data": {
                "type": "event",
                "attributes": {
                    "properties": {},
                    "unique_id": f"{HASH}:0",
                    "profile": {"data": {"type": "profile", "attributes": {"email": "ann@example.com"}}},
                    "metric": {"data": {"type": "metric", "attributes": {"name": "Seen"}}},
                },
            }
        }
    ]


def test_every_part_of_an_event_can_be_mapped() -> None:
    [event] = attributes(
        metric={"expression": "concat('Saw ', items[0].name)"},
        profile={
            "id": "'01H'",
            "_kx": "id",
            "properties": {"a": {"b": "zero"}},
            "location": {"city": "'Oslo'"},
        },
        value="zero",
        value_currency="'EUR'",
        time="unix_time(zero)",
        unique_id="id",
        backfill="`true`",
        properties={"names": "items[].name", "fixed": [1, True, {"x": "zero"}], "none": "missing"},
    )

    assert event["metric"]["data"]["attributes"]["name"] == "Saw Lamp"
    assert event["profile"]["data"] == {
        "type": "profile",
        "id": "01H",
        "attributes": {"_kx": "d-1", "properties": {"a": {"b": 0}}, "location": {"city": "Oslo"}},
    }
    assert (event["value"], event["value_currency"], event["backfill"]) == (0, "EUR", True)
    assert (event["time"], event["unique_id"]) == ("1970-01-01T00:00:00+00:00", "d-1")
    assert event["properties"] == {"names": ["Lamp", "Desk"], "fixed": [1, True, {"x": 0}]}


@pytest.mark.parametrize(
    ("when", "count"),
    [
        ("email", 1),
        ("zero", 1),
        ("zero == `0`", 1),
        ("missing", 0),
        ("empty", 0),
        ("zero == `1`", 0),
        ("items[?id == `3`]", 0),
    ],
)
def test_a_condition_decides(when: str, count: int) -> None:
    assert len(attributes(when=when)) == count


def test_each_item_becomes_an_event_that_knows_the_whole() -> None:
    found = attributes(
        each="items", profile={"email": "payload().email"}, properties={"name": "name"}, delivery=None
    )

    assert [each["properties"]["name"] for each in found] == ["Lamp", "Desk"]
    assert [each["unique_id"] for each in found] == [f"{HASH}:0", f"{HASH}:1"]
    assert {each["profile"]["data"]["attributes"]["email"] for each in found} == {"ann@example.com"}


@pytest.mark.parametrize("each", ["missing", "items[?id == `3`]"])
def test_nothing_in_the_list_is_no_event(each: str) -> None:
    assert attributes(each=each) == []


def test_what_is_no_list_is_a_problem() -> None:
    [problem] = become(each="email").problems

    assert (problem.pointer, problem.detail) == ("/events/seen/each", "'each' must give an array.")


def test_an_empty_string_says_nothing_of_a_profile_but_something_in_properties() -> None:
    profile = {
        "email": "email",
        "first_name": "empty",
        "location": {"city": "empty"},
        "properties": {"a": "empty"},
    }
    [event] = attributes(profile=profile, properties={"a": "empty"})

    assert event["profile"]["data"]["attributes"] == {"email": "ann@example.com", "properties": {"a": ""}}
    assert event["properties"] == {"a": ""}


@pytest.mark.parametrize(
    ("unique_id", "expected"),
    [
        ("id", "d-1"),
        ("items[0].id", "1"),
        ("missing", f"{HASH}:0"),
        ("empty", f"{HASH}:0"),
        ("'with space'", hashlib.sha256(b"with space").hexdigest()),
        ("'" + "x" * 255 + "'", "x" * 255),
        ("'" + "x" * 256 + "'", hashlib.sha256(b"x" * 256).hexdigest()),
    ],
)
def test_an_id_is_one_that_any_upstream_takes(unique_id: str, expected: str) -> None:
    [event] = attributes(unique_id=unique_id)

    assert event["unique_id"] == expected


@pytest.mark.parametrize("unique_id", ["items", "`true`", "`1.5`", "divide(`1`, `0`)"])
def test_what_is_no_id_is_told_and_gives_way_to_the_default(unique_id: str) -> None:
    [event] = become(unique_id=unique_id).events

    assert event.body["data"]["attributes"]["unique_id"] == f"{HASH}:0"
    assert [problem.pointer for problem in event.left_out] == ["/events/seen/unique_id"]


@pytest.mark.parametrize(
    ("expression", "headers", "expected"),
    [
        ("id", {}, "d-1"),
        ("header('x-id')", {"x-id": "h"}, "h"),
        ("header('x-id')", {}, HASH),
        ("items", {}, HASH),
        ("divide(`1`, `0`)", {}, HASH),
        ("zero == `0`", {}, HASH),
        ("empty", {}, HASH),
        ("zero", {}, "0"),
        ("items[1].id", {}, "2"),
    ],
)
def test_a_delivery_has_its_senders_id_or_the_hash_of_its_body(
    expression: str, headers: dict[str, str], expected: str
) -> None:
    of = source(document(delivery_id=expression))

    found = mapping.identify(of.delivery_id, None, PAYLOAD, json.dumps(PAYLOAD).encode(), headers)

    assert found.id == expected


BAD = "divide(`1`, `0`)"


@pytest.mark.parametrize(
    ("event", "where"),
    [
        ({"value": BAD}, "value"),
        ({"value_currency": "lower(items)"}, "value_currency"),
        ({"backfill": BAD}, "backfill"),
        ({"properties": {"a": {"b": [1, BAD]}}}, "properties/a/b/1"),
        ({"profile": {"email": "email", "first_name": "lower(zero)"}}, "profile/first_name"),
        ({"profile": {"email": "email", "phone_number": "lower(zero)"}}, "profile/phone_number"),
        ({"profile": {"email": "email", "location": {"city": BAD}}}, "profile/location/city"),
        ({"profile": {"email": "email", "properties": {"email": BAD}}}, "profile/properties/email"),
    ],
)
def test_an_expression_that_fails_leaves_out_its_field_alone(event: dict[str, Any], where: str) -> None:
    kept = {"properties": {"zero": "zero"}, "unique_id": "id"}

    outcome = become(**{**kept, **event})

    assert outcome.problems == []
    [made] = outcome.events
    assert [problem.pointer for problem in made.left_out] == [f"/events/seen/{where}"]
    attributes = made.body["data"]["attributes"]
    assert attributes["unique_id"] == "d-1"
    assert attributes["profile"]["data"]["attributes"]["email"] == "ann@example.com"


@pytest.mark.parametrize(
    ("event", "where"),
    [
        ({"time": BAD}, "time"),
        ({"metric": {"expression": BAD}}, "metric/expression"),
        ({"profile": {"email": BAD}}, "profile/email"),
        ({"profile": {"email": "missing", "external_id": BAD}}, "profile/external_id"),
        ({"when": BAD}, "when"),
        ({"each": BAD}, "each"),
    ],
)
def test_an_event_is_lost_for_identity_metric_or_time_or_for_not_being_known_as_one(
    event: dict[str, Any], where: str
) -> None:
    outcome = become(**event)

    assert outcome.events == []
    assert [problem.pointer for problem in outcome.problems] == [f"/events/seen/{where}"]


def test_one_bad_event_spoils_no_other() -> None:
    payload = {"email": "a@b.example", "items": [{"n": 2}, {"n": 0}, {"n": 4}]}
    profile = {"email": "payload().email"}

    outcome = become(payload, each="items", profile=profile, time="unix_time(divide(`8`, n))")

    assert [each.body["data"]["attributes"]["time"][17:19] for each in outcome.events] == ["04", "02"]
    assert [problem.pointer for problem in outcome.problems] == ["/events/seen/time"]


@pytest.mark.parametrize(
    ("topics", "topic", "count"),
    [
        (None, "a", 1),
        (None, None, 1),
        (["a", "b"], "b", 1),
        (["a"], "c", 0),
        (["a"], None, 0),
        (["a"], 5, 0),
    ],
)
def test_a_mapping_is_for_its_topics(topics: Any, topic: Any, count: int) -> None:
    written = own(**({"topics": topics} if topics else {}))
    written["sources"]["shop"]["topic"] = "topic"
    of = source(written)

    assert len(mapped(of, PAYLOAD | {"topic": topic}).events) == count
    assert mapping.topics(of.mappings) == topics


def test_the_topics_of_a_source_are_those_of_all_its_mappings() -> None:
    texts = {"metric": "Seen", "profile": {"email": "email"}}
    events = {"one": {**texts, "topics": ["b", "a"]}, "two": {**texts, "topics": ["c", "b"]}}
    of = source(document(preset=None, signature={"scheme": "github"}, events=events))
    whole = source(document(preset=None, signature={"scheme": "github"}, events=events | {"three": texts}))

    assert mapping.topics(of.mappings) == ["a", "b", "c"]
    assert mapping.topics(whole.mappings) is None


@pytest.mark.parametrize(
    ("object_id", "expected"),
    [("id", "d-1"), ("items[1].id", "2"), ("missing", None), ("empty", None), ("items", None), (BAD, None)],
)
def test_events_name_the_object_they_tell_of(object_id: str, expected: str | None) -> None:
    mapping_of_items = {"each": "items", "profile": {"email": "payload().email"}, "object_id": object_id}

    events = become(**mapping_of_items, unique_id="id").events

    assert [event.object_id for event in events] == [expected, expected]
    assert [event.object_id for event in become(**mapping_of_items, unique_id="missing").events] == [None] * 2


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"each": "items"}, "1000 events"),
        ({"properties": {"a": "items[].payload()"}}, "bytes"),
        ({"each": "items[:100]", "properties": {"a": "payload()"}}, "bytes"),
        ({"when": "items[].payload().items[]"}, "elements"),
    ],
)
def test_of_what_is_too_much_nothing_is_taken(event: dict[str, Any], said: str) -> None:
    payload = {"items": [{"n": "x" * 100}] * (MAX_EVENTS_PER_REQUEST + 1)}

    outcome = become(payload, **event)

    assert outcome.events == []
    [problem] = outcome.problems
    assert said in problem.detail


NO_JSON = ["\ud800", float("nan"), 2**70, {"\ud800": 1}]


@pytest.mark.parametrize("value", NO_JSON)
def test_an_identity_that_json_cannot_carry_is_a_problem(value: Any) -> None:
    outcome = become({"email": value})

    assert outcome.events == []
    assert [problem.pointer for problem in outcome.problems] == ["/events/seen/profile/email"]


@pytest.mark.parametrize("value", NO_JSON)
def test_a_property_that_json_cannot_carry_is_left_out(value: Any) -> None:
    [event] = become({"email": "a@b.example", "n": [value]}, properties={"n": "n", "ok": "email"}).events

    assert event.body["data"]["attributes"]["properties"] == {"ok": "a@b.example"}
    assert [problem.pointer for problem in event.left_out] == ["/events/seen/properties/n"]


def test_a_thousand_events_are_not_too_many() -> None:
    assert len(attributes({"items": [1] * MAX_EVENTS_PER_REQUEST}, each="items")) == MAX_EVENTS_PER_REQUEST


@pytest.mark.parametrize("payload", [None, 1, "text", [], [1], {}, {"email": {"a": 1}}])
def test_any_payload_is_a_payload(payload: Any) -> None:
    assert len(attributes(payload)) == 1


WORDS = """id email customer line_items quantity price total_price created data object type refunds
    transactions amount currency tags phone status billing items"""
KEYS = st.sampled_from(WORDS.split())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["orders/create", "charge.refunded", "1e999", "nan", "usd", "jpy", "processing", "\ud800"]
    )
)
PAYLOADS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=30,
)


@given(PAYLOADS, st.sampled_from(["orders/create", "orders/updated", "refunds/create", "order.created"]))
def test_no_payload_at_all_breaks_a_mapping(payload: Any, topic: str) -> None:
    headers = {"x-shopify-topic": topic, "x-wc-webhook-topic": topic}
    for of in EVERY_PRESET:
        delivery = mapping.identify(of.delivery_id, of.topic, payload, b"", headers)
        outcome = mapping.events(of.mappings, payload, delivery)

        for event in outcome.events:
            assert msgspec.json.decode(msgspec.json.encode(event.body)).keys() == {"data"}


ALWAYS = {"when": "`true`"}
EVERY_PRESET = [source(document(preset=preset)) for preset in presets.names()] + [
    source(document(preset=preset, events=dict.fromkeys(presets.load(preset)["events"], ALWAYS)))
    for preset in presets.names()
]
