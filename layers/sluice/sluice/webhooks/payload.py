"""Reads the body of a delivery: JSON, or a form. A damaged character is replaced and reported."""

import re
import urllib.parse
from collections.abc import Mapping
from typing import Final

from sluice.errors import Refused
from sluice.jsonapi import Problem
from sluice.klaviyo.problems import parse as parse_json

REPLACEMENT: Final = "\ufffd"  # stands for what is no character
_MAX_FIELDS: Final = 1_000  # of a form
# The escape of a lone surrogate, or of a pair, behind backslashes that escape each other.
_SURROGATES: Final = re.compile(
    rb"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\u[dD][89a-fA-F][\da-fA-F]{2})"
)


def read(headers: Mapping[str, str], body: bytes) -> tuple[object, list[Problem]]:
    """Reads a delivery's JSON, or the fields of a form, and tells what was replaced in it.

    Raises `Refused` (400) if the body is neither, or is not UTF-8.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        return _json(body)
    return _form(body)


def _form(body: bytes) -> tuple[object, list[Problem]]:
    """Reads a form. A byte of a field that is not UTF-8 is replaced, and told."""
    try:
        fields = urllib.parse.parse_qsl(
            body.decode(), keep_blank_values=True, errors="surrogateescape", max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        detail = f"The body must be a form in UTF-8 with at most {_MAX_FIELDS} fields."
        raise Refused(400, [Problem("parse_error", detail, "/")]) from None
    whole = {_utf8(name): _utf8(value) for name, value in fields}
    if whole == dict(fields):
        return whole, []
    return whole, [Problem("invalid", "Bytes of a field that are not UTF-8 were replaced by U+FFFD.", "/")]


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _json(body: bytes) -> tuple[object, list[Problem]]:
    """Reads JSON. Half a surrogate pair, such as a note cut in the middle of an emoji, is replaced."""
    try:
        return parse_json(body), []
    except Refused:
        whole, count = _without_lone_surrogates(body)
        if not count:
            raise
    detail = f"Half a surrogate pair, which is no character, was replaced by U+FFFD ({count} times)."
    return parse_json(whole), [Problem("invalid", detail, "/")]


def _without_lone_surrogates(body: bytes) -> tuple[bytes, int]:
    """Replaces the escapes of lone surrogates in a JSON text, and counts them."""
    count = 0

    def replaced(found: re.Match[bytes]) -> bytes:
        nonlocal count
        if len(found[2]) > len(rb"\ud800"):  # a pair, which is a character
            return found[0]
        count += 1
        return found[1] + rb"\ufffd"

    return _SURROGATES.sub(replaced, body), count
