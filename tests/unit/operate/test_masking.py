"""Tests that a masked payload names nobody, and still shows what is wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.operate.masking import MASK, MAX_LEVELS, bounded, masked, mended

SECRET = "Ann Example"
values = st.recursive(
    st.just(SECRET) | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(values, values, values)
def test_no_text_of_a_payload_is_left(profile: Any, properties: Any, other: Any) -> None:
    payload = {"profile": profile, "events": [{"properties": properties, "extra": other}], "more": other}

    for shown in (payload, [payload], {"entries": [payload]}, properties):
        assert SECRET not in json.dumps(masked(shown))


def test_what_happened_is_shown() -> None:
    payload = {
        "profile": {"type": "profile", "attributes": {"email": "ann@example.com", "age": 7}},
        "events": [
            {
                "metric": {"data": {"type": "metric", "attributes": {"name": "Placed Order"}}},
                "time": "2026-07-20T12:00:00Z",
                "value": 7.5,
                "value_currency": "EURO",
                "unique_id": "order:1",
                "properties": {"name": "Ann", "items": ["Lamp", 2]},
            }
        ],
        "backfill": False,
    }

    assert masked(payload) == {
        "profile": {"type": "profile", "attributes": {"email": MASK, "age": 7}},
        "events": [payload["events"][0] | {"properties": {"name": MASK, "items": [MASK, 2]}}],  # type: ignore[index]
        "backfill": False,
    }


@pytest.mark.parametrize("payload", ["a raw body of ann@example.com", None, 7, [], {"events": ["ann"]}])
def test_any_payload_can_be_masked(payload: Any) -> None:
    assert "ann" not in json.dumps(masked(payload))


@pytest.mark.parametrize("levels", [MAX_LEVELS, 300, 980])
def test_a_payload_that_is_nested_deeply_is_shown_as_far_as_it_can_be(levels: int) -> None:
    deep: Any = 1
    for _ in range(levels):
        deep = {"a": [deep]}
    payload = {"profile": {}, "events": [{"properties": deep, "value": 1}]}

    for shown in (masked(payload), bounded(payload), mended({}, payload), mended(payload, {})):
        assert depth(shown) <= MAX_LEVELS + 1
    assert masked(payload)["events"][0]["value"] == 1


def depth(value: Any) -> int:
    levels = 0
    layer = [value]
    while layer:
        levels += 1
        held = [each for each in layer if isinstance(each, dict | list)]
        layer = [one for each in held for one in (each.values() if isinstance(each, dict) else each)]
    return levels


def test_an_event_of_pipeless_shows_its_kind() -> None:
    event = {"start_object": {"id": "ada", "type": "user"}, "relationship": {"type": "liked"}}

    assert masked({"events": [event]}) == {
        "events": [{"start_object": {"id": MASK, "type": "user"}, "relationship": {"type": "liked"}}]
    }


def test_a_mend_shows_what_it_gave_and_nothing_else() -> None:
    before = {
        "profile": {"attributes": {"email": "ann@example.com", "phone_number": "+1555"}},
        "events": [{"properties": {"size": "XL", "tags": ["a", "b"]}, "value_currency": "EURO"}],
    }
    after = {
        "profile": {"attributes": {"email": "ann@example.com", "title": "Dr."}},
        "events": [{"properties": {"size": "L", "tags": ["a", "c"]}, "value_currency": "EUR"}],
    }

    assert mended(before, after) == {
        "profile": {"attributes": {"email": MASK, "title": "Dr."}},
        "events": [{"properties": {"size": "L", "tags": [MASK, "c"]}, "value_currency": "EUR"}],
    }
    assert mended(before, before) == masked(before)


@given(values)
def test_a_mend_of_something_else_reveals_nothing(payload: Any) -> None:
    before = {"profile": payload, "events": [{"properties": payload, "value": 1}]}
    after = {"profile": payload, "events": [{"properties": payload, "value": 2}]}

    assert SECRET not in json.dumps(mended(before, after))
