"""Tests reading a delivery's body: half a character costs nothing but itself."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import Refused
from sluice.webhooks import payload

FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
HALF = "Half a surrogate pair, which is no character, was replaced by U+FFFD"


@pytest.mark.parametrize(
    ("text", "value", "count"),
    [
        (r'"gift \ud83c"', "gift \ufffd", 1),
        (r'"\uDF81 gift"', "\ufffd gift", 1),
        (r'"\ud83c\ud83c\udf81"', "\ufffd\U0001f381", 1),
        (r'"\ud83c\u0041\udf81"', "\ufffdA\ufffd", 2),
        (r'"\n\ud83c\n"', "\n\ufffd\n", 1),
        (r'"\\\ud83c"', "\\\ufffd", 1),
        (r'"\\ud83c \ud83c"', "\\ud83c \ufffd", 1),
        (r'"\\\\ud83c \ud83c"', "\\\\ud83c \ufffd", 1),
        (r'{"\ud83c": [1, {"a": "\udf81"}]}', {"\ufffd": [1, {"a": "\ufffd"}]}, 2),
    ],
)
def test_half_a_surrogate_pair_is_replaced_and_told(text: str, value: object, count: int) -> None:
    found, replaced = payload.read({}, text.encode())

    assert found == value
    assert [each.detail for each in replaced] == [f"{HALF} ({count} times)."]


@pytest.mark.parametrize("text", [r'"\ud83c\udf81"', r'"\\ud83c"', r'"\\\\udf81"', '"\ufffd"', "[]"])
def test_what_is_whole_stays_and_nothing_is_told(text: str) -> None:
    assert payload.read({}, text.encode()) == (json.loads(text), [])


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_every_text_of_json_is_read_as_python_reads_it(value: object) -> None:
    assert payload.read({}, json.dumps(value).encode()) == (value, [])


@given(st.text(st.characters(exclude_categories=[]), max_size=12))
def test_only_what_is_no_character_is_replaced(text: str) -> None:
    """Tests against Python, which keeps what is no character. JSON joins halves that stand side by side."""
    whole = json.loads(json.dumps(text))

    found, replaced = payload.read({}, json.dumps(text).encode())

    assert found == "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in whole)
    assert len(replaced) == (found != whole)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"note": "\xff"}', "not UTF-8"),
        (b'{"note": "\xed\xa0\xbc"}', "not UTF-8"),  # a surrogate in bytes
        (b"", "empty"),
        (b"gift", "cannot be read"),
        (rb'{"note": "\ud83c', "cannot be read"),
        (rb'{"note": "\ud8"}', "cannot be read"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(body: bytes, said: str) -> None:
    with pytest.raises(Refused) as raised:
        payload.read({"content-type": "application/json"}, body)

    assert said in raised.value.problems[0].detail


def test_a_form_is_its_fields() -> None:
    assert payload.read(FORM, b"a=1&b=%C3%A9&c=") == ({"a": "1", "b": "\u00e9", "c": ""}, [])


def test_a_byte_of_a_form_that_is_not_utf_8_is_replaced_and_told() -> None:
    found, replaced = payload.read(FORM, b"a=gift+%F0%9F&b=1&%FF=2")

    assert found == {"a": "gift \ufffd", "b": "1", "\ufffd": "2"}
    assert [each.detail for each in replaced] == [
        "Bytes of a field that are not UTF-8 were replaced by U+FFFD."
    ]


@pytest.mark.parametrize("body", [b"a=\xff", b"&".join([b"a=1"] * 1_001)])
def test_what_is_no_form_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(Refused) as raised:
        payload.read(FORM, body)

    assert "must be a form" in raised.value.problems[0].detail
