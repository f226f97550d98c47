"""Tests what patch an edited payload means."""

from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.operate.masking import MASK
from sluicectl.console import edits
from sluicectl.console.edits import Mistake, as_text, line_of, patch_of, read
from sluicectl.errors import Failure

# A number, a true and a text that look alike are different values.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 2.5, "1", "a", "~/", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "~0", "/", "", "0"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def patch(before: Any, after: Any, *, is_masked: bool = False) -> list[dict[str, Any]]:
    return patch_of(as_text(before), as_text(after), is_masked=is_masked)


@given(VALUES, VALUES)
def test_a_patch_makes_the_edited_of_the_shown(before: Any, after: Any) -> None:
    if isinstance(before, str) or isinstance(after, str):
        before, after = [before], [after]

    done = jsonpatch.apply_patch(before, patch(before, after))

    assert as_text(done) == as_text(after)


@given(VALUES)
def test_what_is_shown_reads_as_the_payload_and_needs_no_patch(payload: Any) -> None:
    text = as_text([payload])

    assert edits._key(read(text)) == edits._key([payload])
    assert patch_of(text, text, is_masked=True) == []
    assert patch_of(text, text.replace("\n", "\n "), is_masked=True) == []


@pytest.mark.parametrize(("before", "after"), [(1, True), (0, False), (1, 1.0), (None, False), ("1", 1)])
def test_values_of_different_types_differ(before: Any, after: Any) -> None:
    assert patch({"a": [before]}, {"a": [after]}) == [{"op": "replace", "path": "/a/0", "value": after}]


def test_a_patch_leaves_what_was_not_changed_alone() -> None:
    before = {"profile": {"email": MASK, "name": MASK}, "events": [{"note": MASK, "value": 1}]}
    after = {"profile": {"email": MASK}, "events": [{"note": MASK, "value": 2, "time": "now"}]}

    assert patch(before, after, is_masked=True) == [
        {"op": "remove", "path": "/profile/name"},
        {"op": "replace", "path": "/events/0/value", "value": 2},
        {"op": "add", "path": "/events/0/time", "value": "now"},
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"email": MASK}, {"mail": MASK}),
        ({"a": 1, "b": MASK}, {"a": MASK, "b": MASK}),
        (
            {"a": [{"x": MASK, "n": 1}, {"x": MASK, "n": 2}]},
            {"a": [{"x": MASK, "n": 2}, {"x": MASK, "n": 1}]},
        ),
        ({"a": [{"x": MASK, "n": 1}]}, {"a": [{"x": MASK, "n": 1}, {"x": MASK, "n": 2}]}),
        ({"a": [{"x": MASK, "n": 1}, {"x": MASK, "n": 2}]}, {"a": [{"x": MASK, "n": 3}]}),
    ],
)
def test_a_hidden_text_is_put_nowhere_else(before: Any, after: Any) -> None:
    with pytest.raises(Failure, match="Show the personal data first"):
        patch(before, after, is_masked=True)


def test_an_item_of_a_list_is_taken_out_without_touching_the_others() -> None:
    before = {"events": [{"x": MASK, "n": n} for n in range(3)]}
    after = {"events": [before["events"][0], before["events"][2]]}

    assert patch(before, after, is_masked=True) == [{"op": "remove", "path": "/events/1"}]


def test_three_stars_are_a_text_like_any_other_where_nothing_is_hidden() -> None:
    assert patch({"a": MASK}, {"b": MASK}) == [
        {"op": "remove", "path": "/a"},
        {"op": "add", "path": "/b", "value": MASK},
    ]


def test_large_numbers_stay_exact() -> None:
    number = 12_345_678_901_234_567_890_123

    assert patch({"id": 1, "other": number}, {"id": number, "other": number}) == [
        {"op": "replace", "path": "/id", "value": number}
    ]


class TestAPayloadThatIsText:
    def test_is_edited_as_the_json_in_it(self) -> None:
        text = as_text('{"b": 1, "a": "x"}')

        assert text == '{\n  "b": 1,\n  "a": "x"\n}'
        assert patch_of(text, text.replace("1", "2"), is_masked=False) == [
            {"op": "replace", "path": "/b", "value": 2}
        ]

    def test_that_is_no_json_can_only_be_replaced(self) -> None:
        assert as_text("{half") == "{half"
        assert patch_of("{half", '{"half": 1}', is_masked=False) == [
            {"op": "replace", "path": "", "value": {"half": 1}}
        ]
        assert patch_of("{half", "{half", is_masked=False) == []


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ('{"a": 1,\n "b": }', 2, 7, "no JSON: Expecting value"),
        ('{"a": 1, "a": 2}', 1, 1, "'a' stands twice"),
        ('{"a": NaN}', 1, 1, "JSON has no NaN"),
        ("[" * 100_000, 1, 1, "nested too deeply"),
        ("1" * 10_000, 1, 1, "a number that is too long"),
        ("", 1, 1, "no JSON"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, line: int, column: int, said: str) -> None:
    with pytest.raises(Mistake) as raised:
        read(text)

    assert (raised.value.line, raised.value.column) == (line, column)
    assert said in str(raised.value)


def test_the_line_of_a_place_is_found_in_any_layout() -> None:
    text = '{"profile": {},\n\n "events": [\n{"value": 1,\n"time": "x"}]}'

    assert line_of(text, "/events/0/time") == 5
    assert line_of(text, "/events/0/metric") == 4  # it is missing: the nearest thing around it
    assert line_of(text, None) is None
    assert line_of("{", "/a") is None
    assert line_of(" " * 300_000, "/a") is None


def test_characters_that_reorder_a_text_are_shown_as_escapes() -> None:
    text = as_text({"\u202egnp.exe": "\u2066a\u200f"})

    assert text == '{\n  "\\u202egnp.exe": "\\u2066a\\u200f"\n}'
    assert read(text) == {"\u202egnp.exe": "\u2066a\u200f"}
