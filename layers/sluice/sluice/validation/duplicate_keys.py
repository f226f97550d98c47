"""Finds keys that stand twice in one object: decoders keep the last silently, and the other value is lost."""

import contextlib
import json
from collections import Counter
from typing import Any, Final

MAX_OBJECTS: Final = 5_000  # looked into for names: a bound on the work for one refusal
MAX_MEMBERS: Final = 50_000
MAX_NAMES: Final = 20
_QUOTE: Final = b'"'
_ESCAPED_QUOTE: Final = b"\\u0022"  # the one other way to write a quote; JSON encoders write \"


class _Enough(Exception):
    pass


def has_repeated_key(body: bytes, rewritten: bytes) -> bool:
    """Tells whether some object of a valid JSON text holds a key twice.

    `rewritten` is `body` decoded and encoded. The same strings stand in both, between two quotes each and
    with the same quotes in them, except those that were dropped with a repeated key.
    """
    quotes = body.count(_QUOTE)
    if b"\\" in body and _ESCAPED_QUOTE in body:
        # Without pairs of backslashes, one that is left begins an escape.
        quotes += body.replace(b"\\\\", b"").count(_ESCAPED_QUOTE)
    return quotes != rewritten.count(_QUOTE)


def repeated_keys(body: bytes) -> list[str]:
    """Returns keys that some object of a valid JSON text holds more than once, as far as it looks.

    It is slow, because it builds everything. So it looks at no more than `MAX_OBJECTS`.
    """
    found: dict[str, None] = {}
    objects = 0

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal objects
        objects += 1
        if len(dict(pairs)) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            found.update((name, None) for name, count in counts.items() if count > 1)
        if objects == MAX_OBJECTS or len(found) >= MAX_NAMES:
            raise _Enough

    if body.count(b",") > MAX_MEMBERS:
        return []
    with contextlib.suppress(_Enough):
        # As strings, since no number matters here and `int` refuses very long ones.
        json.JSONDecoder(object_pairs_hook=look, parse_int=str, parse_float=str).decode(body.decode())
    return list(found)[:MAX_NAMES]
