"""Finds keys that stand twice in one object: decoders keep the last silently, and the other value is lost."""

import json
from collections import Counter
from typing import Any, Final

_QUOTE: Final = b'"'
_ESCAPED_QUOTE: Final = b"\\u0022"  # the one other way to write a quote; JSON encoders write \"


def has_repeated_key(body: bytes, rewritten: bytes) -> bool:
    """Tells whether some object of a valid JSON text holds a key twice.

    `rewritten` is `body` decoded and encoded. The same strings stand in both, between two quotes each and
    with the same quotes in them, except those that were dropped with a repeated key.
    """
    if b"\\" in body and _ESCAPED_QUOTE in body:
        return bool(repeated_keys(body))
    return body.count(_QUOTE) != rewritten.count(_QUOTE)


def repeated_keys(body: bytes) -> list[str]:
    """Returns the keys that some object of a valid JSON text holds more than once; slow, because it builds
    everything.
    """
    found: dict[str, None] = {}

    def look(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            found.update((name, None) for name, count in counts.items() if count > 1)

    # As strings, since no number matters here and `int` refuses very long ones.
    json.JSONDecoder(object_pairs_hook=look, parse_int=str, parse_float=str).decode(body.decode())
    return list(found)
