"""Tests how payloads are mended: what is asked for happens, and nothing else. Errors are one sentence."""

import copy
from typing import Any

import jsonpointer
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sluice.contract import MAX_BODY_BYTES_IN
from sluice.operate import mend
from sluice.operate.mend import DoesNotApply, Mend

PAYLOAD: dict[str, Any] = {
    "profile": {"type": "profile", "attributes": {"email": "ann@example.com", "phone_number": "12"}},
    "events": [{"value": 5.0, "value_currency": "EURO"}, {"value": 6.0}],
    "backfill": False,
}
PLACE = "/events/0/value_currency"


def mended(payload: Any = PAYLOAD, place: str | None = PLACE, **wish: Any) -> Any:
    encoded = msgspec.json.encode(payload)
    return msgspec.json.decode(mend.apply(Mend.model_validate(wish), encoded, place))


def with_value(pointer: str, value: Any) -> Any:
    changed = copy.deepcopy(PAYLOAD)
    jsonpointer.set_pointer(changed, pointer, value)
    return changed


def test_without_a_wish_the_bytes_are_as_they_were() -> None:
    assert mend.apply(Mend(), b'{"a":  1e400}', None) == b'{"a":  1e400}'


def test_a_faults_value_is_set_at_the_records_own_place() -> None:
    assert mended(fault={"value": "EUR"}) == with_value(PLACE, "EUR")
    assert mended(fault={"value": None}, place="/events/1/value") == with_value("/events/1/value", None)


def test_a_value_may_be_new_in_an_object_and_replaces_an_item_of_an_array() -> None:
    assert mended(set=[{"pointer": "/events/1/value_currency", "value": "EUR"}]) == {
        **PAYLOAD,
        "events": [PAYLOAD["events"][0], {"value": 6.0, "value_currency": "EUR"}],
    }
    assert mended(set=[{"pointer": "/events/0", "value": {}}]) == with_value("/events/0", {})
    assert mended(set=[{"pointer": "/events/-", "value": {}}])["events"][2:] == [{}]
    assert mended(set=[{"pointer": "", "value": [1]}]) == [1]


def test_the_patch_comes_first_then_removing_then_setting_then_the_fault() -> None:
    document = mended(
        patch=[{"op": "add", "path": "/steps", "value": ["patch"]}],
        remove=["/steps/0", "/profile"],
        set=[{"pointer": "/steps/-", "value": "set"}],
        fault={"value": "fault"},
        place="/steps/-",
    )
    assert document == {"events": PAYLOAD["events"], "backfill": False, "steps": ["set", "fault"]}


def test_what_is_set_in_one_payload_is_not_changed_by_another() -> None:
    wish = Mend.model_validate(
        {
            "patch": [{"op": "add", "path": "/new", "value": {}}],
            "set": [{"pointer": "/new/list", "value": []}, {"pointer": "/new/list/-", "value": 1}],
        }
    )
    assert [mend.apply(wish, b"{}", None) for _ in range(3)] == [b'{"new":{"list":[1]}}'] * 3


def test_text_is_mended_as_the_json_it_holds_and_stays_text() -> None:
    assert mended('{"data": {"type": "evnt"}}', set=[{"pointer": "/data/type", "value": "event"}]) == (
        '{"data":{"type":"event"}}'
    )


def test_text_that_is_no_json_can_only_be_replaced_whole() -> None:
    with pytest.raises(DoesNotApply, match="text that is no JSON"):
        mended("{", remove=["/a"])
    assert mended("{", set=[{"pointer": "", "value": {"data": 1}}]) == '{"data":1}'


@pytest.mark.parametrize(
    ("wish", "place", "said"),
    [
        ({"fault": {"value": 1}}, None, "Nobody named the place of its fault."),
        ({"remove": ["/events/7"]}, None, "The payload has no such place: '/events/7'."),
        ({"remove": ["/events/0/value/x"]}, None, "The payload has no such place: '/events/0/value/x'."),
        ({"remove": ["/profile/type/0"]}, None, "The payload has no such place: '/profile/type/0'."),
        (
            {"set": [{"pointer": "/a/b", "value": 1}]},
            None,
            "The payload has no such place: '/a/b'.",
        ),
        (
            {"set": [{"pointer": "/events/2", "value": 1}]},
            None,
            "The payload has no such place: '/events/2'.",
        ),
        (
            {"patch": [{"op": "move", "from": "/nowhere", "path": "/a"}]},
            None,
            "The payload has no such place: '/nowhere'.",
        ),
        (
            {"patch": [{"op": "test", "path": "/backfill", "value": True}]},
            None,
            "A test of the patch fails at '/backfill'.",
        ),
    ],
)
def test_a_mend_that_does_not_apply_says_why(wish: dict[str, Any], place: str | None, said: str) -> None:
    with pytest.raises(DoesNotApply) as raised:
        mended(**wish, place=place)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    "wish",
    [
        {"patch": [{"op": "eat", "path": ""}]},
        {"patch": [{"op": "add", "path": "a", "value": 1}]},
        {"patch": [{"op": "add", "path": "/a"}]},
        {"patch": [{"op": "test", "path": "", "value": 1}] * (mend.MAX_STEPS + 1)},
        {"remove": ["events"]},
        {"set": [{"pointer": "~2", "value": 1}]},
        {"sett": []},
    ],
)
def test_what_is_no_mend_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mend.model_validate(wish)


def test_a_patch_cannot_make_a_payload_huge() -> None:
    bomb = [{"op": "add", "path": "/a", "value": "x" * 1_000}]
    bomb += [{"op": "copy", "from": "", "path": f"/{n}"} for n in range(99)]
    with pytest.raises(DoesNotApply, match=f"exceed {MAX_BODY_BYTES_IN} bytes"):
        mended({}, patch=bomb)


def test_a_value_that_nests_too_deeply_is_refused() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    steps: list[dict[str, Any]] = [{"op": "add", "path": "/a", "value": deep}]
    steps += [{"op": "move", "from": "/a", "path": "/b"}, {"op": "add", "path": "/a", "value": deep}]
    steps += [{"op": "move", "from": "/b", "path": "/a" + "/0" * 900}]
    with pytest.raises(DoesNotApply):
        mended({}, patch=steps)


_names = st.sampled_from(["a", "b", "~", "/", "0", "-", ""])
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("a/~", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)
_pointers = st.lists(st.sampled_from(["a", "b", "~0", "~1", "0", "1", "-", ""]), max_size=4).map(
    lambda parts: "".join(f"/{part}" for part in parts)
)


@given(_values, _pointers, _values)
def test_what_is_set_is_there_and_what_is_removed_is_not(document: Any, pointer: str, value: Any) -> None:
    try:
        changed = mended(document, set=[{"pointer": pointer, "value": value}])
    except DoesNotApply:
        changed = None
    if changed is not None and not isinstance(document, str) and not pointer.endswith("/-"):
        assert jsonpointer.resolve_pointer(changed, pointer) == value
    try:
        without = mended(document, remove=[pointer])
    except DoesNotApply:
        return
    if isinstance(document, dict | list) and pointer:
        parent = jsonpointer.resolve_pointer(document, pointer.rpartition("/")[0])
        left = jsonpointer.resolve_pointer(without, pointer.rpartition("/")[0])
        assert len(left) == len(parent) - 1


_operations = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
            "path": _pointers,
            "from": _pointers,
            "value": _values,
        }
    ),
    max_size=6,
)


@given(_values, _operations)
def test_any_patch_applies_or_says_in_a_sentence_why_not(document: Any, patch: list[dict[str, Any]]) -> None:
    said = "."
    try:
        mended(document, patch=patch)
    except DoesNotApply as error:
        said = str(error)
    assert said.endswith(".")
