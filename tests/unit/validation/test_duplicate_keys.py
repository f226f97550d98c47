"""Tests repeated keys: found wherever they are and however they are written, and never where there are
none.
"""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.contract import Surface
from sluice.validation import duplicate_keys
from tests.support.factories import bulk, encoded, entry, event, flat, single
from tests.support.parsing import read, refusal

NAMES = st.text('":\\ ab\u00e9', max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=4),
    max_leaves=12,
)


def spelled(text: str, escape: bool) -> str:
    if escape:
        return '"' + "".join(f"\\u{ord(character):04x}" for character in text) + '"'
    return json.dumps(text, ensure_ascii=False)


def written(value: Any, escape: bool) -> str:
    """Writes JSON in which a list of pairs is an object, so that it can have a key twice."""
    if isinstance(value, str):
        return spelled(value, escape)
    if isinstance(value, list) and value and all(isinstance(each, tuple) for each in value):
        pairs = (f"{spelled(name, escape)} : {written(each, escape)}" for name, each in value)
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(each, escape) for each in value) + "]"
    return json.dumps(value)


def truth(text: str) -> bool:
    found = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({name for name, _ in pairs}) < len(pairs))

    json.JSONDecoder(object_pairs_hook=look).decode(text)
    return any(found)


@pytest.mark.rule
@given(JSON, st.booleans())
def test_a_repeated_key_is_found_exactly_where_there_is_one(value: Any, escape: bool) -> None:
    text = written(value, escape)
    body = text.encode()
    rewritten = msgspec.json.encode(msgspec.json.decode(body))

    assert duplicate_keys.has_repeated_key(body, rewritten) == truth(text)
    assert bool(duplicate_keys.repeated_keys(body)) == truth(text)


REPEATS = [
    (Surface.BULK, bulk(), b'"type": "event"', b'"type": "event", "type": "event"'),
    (Surface.BULK, bulk(), b'"email": ', b'"email": "bob@example.com", "email": '),
    (Surface.BULK, bulk(), b'"product": ', b'"\\u0070roduct": 1, "product": '),
    (Surface.BULK, bulk(), b'"product": ', b'"quote": "\\u0022\\u0022", "product": 1, "product": '),
    (Surface.BULK, bulk(), b'"product": ', b'"product"\n:\t1 , "product": '),
    (Surface.BULK, bulk(), b'"product": ', b'"nested": [{"a": 1, "a": 1}], "product": '),
    (Surface.BULK, bulk(entry(event(value=1))), b'"value": 1', b'"value": "x", "value": 1'),
    (Surface.EVENT, single(), b'"properties": ', b'"properties": {"lost": 1}, "properties": '),
    (Surface.EVENT, flat(), b'"$email": ', b'"$email": "bob@example.com", "$email": '),
]


@pytest.mark.rule
@pytest.mark.parametrize(("surface", "document", "once", "twice"), REPEATS)
def test_a_body_with_a_repeated_key_is_refused(
    surface: Surface, document: dict[str, Any], once: bytes, twice: bytes
) -> None:
    body = encoded(document).replace(once, twice, 1)

    [problem] = refusal(surface, body)

    assert (problem.code, problem.pointer) == ("parse_error", "/")
    assert "stands more than once in one object" in problem.detail


@pytest.mark.parametrize(
    "text", ['":', "\\", '\\"', '{"a":1,"a":1}', "a : b", '"', "\u2028", "\x00", '\\u0022"']
)
def test_text_that_looks_like_keys_is_taken(text: str) -> None:
    document = bulk(entry(event(properties={"p": text, text: 1})))

    assert read(Surface.BULK, document).events == 1
    assert read(Surface.BULK, json.dumps(document).encode()).events == 1


def test_a_plain_body_costs_no_second_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: bytes) -> list[str]:
        raise AssertionError("the slow way was taken")

    monkeypatch.setattr(duplicate_keys, "repeated_keys", slow)

    assert read(Surface.BULK, bulk(entry(event(time="2026-03-02T09:15:27+00:00")))).events == 1
