"""Tests that no body, whatever a stranger makes of it, costs work or memory out of proportion.

Work is counted in calls of functions, which are the same on every machine.
"""

import contextlib
import tracemalloc
from typing import Any

import msgspec
import pytest

from sluice.contract import Surface
from sluice.errors import Refused
from sluice.klaviyo import parser
from tests.support.factories import NEWEST, NOON, client_bulk, encoded, event, single
from tests.support.work import calls_of

SIZE = 512 * 1024
SURFACES = [Surface.CLIENT_EVENT, Surface.CLIENT_BULK, Surface.EVENT, Surface.BULK]


def filled(document: dict[str, Any], piece: bytes, size: int = SIZE, last: bytes = b"0") -> bytes:
    """Encodes a document with as many pieces as fit a size in place of its text FILL."""
    before, after = encoded(document).split(b'"FILL"')
    return before + piece * ((size - len(before) - len(after)) // len(piece)) + last + after


IN_PROPERTY = single(properties={"p": ["FILL"]})
EVENTS = {"data": {"type": "event-bulk-create", "attributes": {"profile": {}, "events": {"data": ["FILL"]}}}}
ENTRIES = {
    "data": {"type": "event-bulk-create-job", "attributes": {"events-bulk-create": {"data": ["FILL"]}}}
}
KEYS = single(properties={"p": "FILL"})
ONE_EVENT = encoded(event())
BODIES: dict[str, bytes] = {
    "lists in lists": filled(IN_PROPERTY, b"[[[[[[[[]]]]]]]],"),
    "empty lists": filled(IN_PROPERTY, b"[],"),
    "empty objects": filled(IN_PROPERTY, b"{},"),
    "objects": filled(IN_PROPERTY, b'{"a":0},'),
    "integers": filled(IN_PROPERTY, b"0,"),
    "large integers": filled(IN_PROPERTY, b"18446744073709551616,"),
    "floats": filled(IN_PROPERTY, b"9e9,"),
    "short texts": filled(IN_PROPERTY, b'"ab",'),
    "events that are none": filled(EVENTS, b"{},"),
    "events that are numbers": filled(EVENTS, b"0,"),
    "events with something unknown": filled(EVENTS, b'{"type":"event","x":1},'),
    "too many good events": filled(EVENTS, ONE_EVENT + b","),
    "entries that are none": filled(ENTRIES, b"{},"),
    "entries of nothing": filled(ENTRIES, b'{"type":"event-bulk-create","attributes":{}},'),
    "unknown fields": b'{"data":{' + b",".join(b'"x%d":0' % n for n in range(SIZE // 12)) + b"}}",
    "quotes": filled(KEYS, b"\\u0022", last=b'"').replace(b'"p": \\', b'"p": "\\'),
    "backslashes and quotes": filled(KEYS, b"\\\\\\u0022", last=b'"').replace(b'"p": \\', b'"p": "\\'),
    "repeated keys": filled(IN_PROPERTY, b'{"a":0,"a":0},'),
    "repeated keys in few objects": filled(single(properties={"p": {"a": "FILL"}}), b'0,"a":'),
    "halves of pairs": filled(IN_PROPERTY, b'"\\ud83c",'),
    "whole pairs and one half": filled(KEYS, b"\\ud83c\\udf89", last=b'\\ud83c"').replace(
        b'"p": \\', b'"p": "\\'
    ),
    "a half, deep": b'{"data":' * 900 + b'"\\ud83c"' + b"}" * 900 + b" " * (SIZE - 9_000),
    # Found by make search-worst:
    "a half among integers": filled(IN_PROPERTY, b"0,", last=b'"\\ud83c"'),
    "a half among texts": filled(IN_PROPERTY, b'"ab",', last=b'"\\ud83c"'),
    "a half among lists": filled(IN_PROPERTY, b"[" + b"0," * 60 + b"0],", last=b'"\\ud83c"'),
    "halves among everything": filled(
        IN_PROPERTY, b'[[null,"\\ud83c",null,"\\ud83c"],9e9,[],' + ONE_EVENT + b"],"
    ),
    "one number": filled(KEYS, b"9", last=b"9"),
    "one float": filled(KEYS, b"9", last=b".9"),
    "deep": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "open": b"[" * SIZE,
    "blanks": b" " * SIZE,
    "one text": filled(KEYS, b"x", last=b'x"').replace(b'"p": x', b'"p": "x'),
    "one name": b'{"' + b"x" * SIZE + b'":1}',
    "names to unset": filled(
        single(
            {"data": {"type": "profile", "attributes": {"meta": {"patch_properties": {"unset": ["FILL"]}}}}}
        ),
        b"0,",
    ),
    "dates": filled(EVENTS, b'{"type":"event","attributes":{"time":"20261120T081500"}},'),
}


def attempt(surface: Surface, body: bytes) -> None:
    with contextlib.suppress(Refused):
        parser.read(surface, body, NEWEST, NOON)


@pytest.mark.rule
@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_costs_a_bounded_number_of_steps(name: str, surface: Surface) -> None:
    assert calls_of(lambda: attempt(surface, BODIES[name])) < 60_000


@pytest.mark.rule
@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_costs_memory_in_proportion(name: str) -> None:
    # Arrays of short texts are what takes most memory for its size among valid bodies.
    texts = {f"p{number}": ["ab"] * 4_000 for number in range(4)}
    events = [event(properties=texts)] * (SIZE // len(encoded(texts)))
    valid = encoded(client_bulk(*events)).replace(b", ", b",")
    assert parser.read(Surface.CLIENT_BULK, valid, NEWEST, NOON).entries
    tracemalloc.start()
    try:
        document = msgspec.json.decode(valid)
        _, usual = tracemalloc.get_traced_memory()
        del document
        tracemalloc.reset_peak()
        attempt(Surface.CLIENT_EVENT, BODIES[name])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak <= usual * SIZE / len(valid) + 3 * SIZE
