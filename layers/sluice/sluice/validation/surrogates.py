"""Finds halves of surrogate pairs: JSON can write them, but they are no characters and UTF-8 has none.

Most come from text that was cut in the middle of an emoji.
"""

import json
import re
from typing import Any, Final

import msgspec

from sluice.jsonapi import MAX_PROBLEMS_LISTED, Problem, pointer

MAX_NODES: Final = 5_000  # looked at one by one: a bound on the work for one refusal
MAX_DEPTH: Final = 30
_FEW: Final = 8  # members of an object that only wraps others: to look at each is quicker than to encode it
_NO_TEXT: Final = frozenset({int, float, bool, type(None)})
_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF: Final = re.compile("[\ud800-\udfff]")
_DETAIL: Final = (
    "This text holds half of a surrogate pair (U+{:04X}), which is no character: an emoji was cut in two."
    r" Send both halves, or \ufffd."
)

_SOMEWHERE: Final = (
    "Some text holds half of a surrogate pair, which is no character: an emoji was cut in two."
    r" Send both halves, or \ufffd."
)

type _Path = tuple[str | int, ...]


def parse(body: bytes) -> tuple[Any, list[Problem]] | None:
    """Parses JSON that no decoder takes because of such halves; returns None if it holds none or is no JSON.

    In the document each half is replaced by U+FFFD. There is a problem for each text that had some.
    """
    if not _ESCAPE.search(body):
        return None
    try:
        document = json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    mending = _Mending()
    try:
        mended = mending.mend(document, ())
    except _TooLarge:
        return None, [Problem("parse_error", _SOMEWHERE, "/")]
    return (mended, mending.problems) if mending.problems else None


class _TooLarge(Exception):
    pass


class _Mending:
    """Replaces halves of surrogate pairs in a document, and notes where they were."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._nodes = MAX_NODES

    def mend(self, node: Any, path: _Path) -> Any:
        """Returns the same node without such halves."""
        self._nodes -= 1
        if self._nodes < 0 or len(path) > MAX_DEPTH:
            raise _TooLarge
        if isinstance(node, str):
            return self._mend_text(node, path)
        if isinstance(node, dict) and (len(node) <= _FEW or not _is_whole(node)):
            return {
                self._mend_text(name, path): self.mend(item, (*path, name)) for name, item in node.items()
            }
        if isinstance(node, list) and not _is_whole(node):
            return [
                item if item.__class__ in _NO_TEXT else self._mend_item(item, (*path, index))
                for index, item in enumerate(node)
            ]
        return node

    def _mend_item(self, item: Any, path: _Path) -> Any:
        # To look whether it is whole is work, too.
        self._nodes -= 1
        if self._nodes < 0:
            raise _TooLarge
        return item if _is_whole(item) else self.mend(item, path)

    def _mend_text(self, text: str, path: _Path) -> str:
        half = _HALF.search(text)
        if half is None:
            return text
        if len(self.problems) <= MAX_PROBLEMS_LISTED:
            where = pointer(*(_HALF.sub("\ufffd", str(part)) for part in path)) or "/"
            self.problems.append(Problem("parse_error", _DETAIL.format(ord(half[0])), where))
        return _HALF.sub("\ufffd", text)


def _is_whole(node: Any) -> bool:
    try:
        msgspec.json.encode(node)
    except UnicodeEncodeError:
        return False
    return True


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError
    return number
