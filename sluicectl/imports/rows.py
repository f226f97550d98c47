"""Reads the rows of a text, CSV or JSON lines, in no more memory than one row may have.

A row that cannot be read costs nothing but itself: reading goes on in the line after its first one.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

import msgspec

from sluice.operate.imports import BadEvent
from sluice.rejection import Reason
from sluice.validation.json_text import NOT_DECODED
from sluicectl.imports.files import Damaged

MAX_ROW_CHARACTERS: Final = 5 * 2**20
SAMPLE_CHARACTERS: Final = 64 * 1024  # kept of a row that is too long
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_QUOTED: Final = re.compile(r'"[^"]*"')

type Separator = Literal["comma", "semicolon", "tab", "pipe", "blanks"]
_SEPARATORS: Final[dict[Separator, str]] = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}


@dataclass(frozen=True)
class Row:
    """Holds one row: the line where it begins, counted from 1, its values by name, and its text."""

    line: int
    values: dict[str, Any]
    text: str


type Rows = Iterator[Row | BadEvent]


class _TooLong(Exception):
    pass


class Lines(Iterator[str]):
    """Gives the lines of a text, and takes back those of a row that cannot be read."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._returned: deque[str] = deque()
        self._row: list[str] = []
        self._row_characters = 0
        self.number = 1  # of the next line

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else self._read()
        if not line:
            raise StopIteration
        self._row.append(line)
        self._row_characters += len(line)
        self.number += 1
        if self._row_characters > MAX_ROW_CHARACTERS:
            raise _TooLong
        return line

    def begin_row(self) -> int:
        """Begins a row at the next line, and returns its number."""
        self._row, self._row_characters = [], 0
        return self.number

    def row_text(self) -> str:
        """Returns the text of the row so far."""
        return "".join(self._row)

    def give_up_row(self) -> str:
        """Takes back all lines of the row but its first one, and returns that."""
        first, *others = self._row
        self._returned.extendleft(reversed(others))
        self.number -= len(others)
        self._row = [first]
        return first

    def peek(self) -> str:
        """Returns the next line that is not blank, and stays before it."""
        while not self._returned:
            line = self._read()
            if not line or line.strip():
                self._returned.append(line)
            else:
                self.number += 1
        return self._returned[0]

    def _read(self) -> str:
        try:
            line = self._text.readline(MAX_ROW_CHARACTERS + 1)
            rest = line
            while len(rest) > MAX_ROW_CHARACTERS and not rest.endswith(("\n", "\r")):
                rest = self._text.readline(MAX_ROW_CHARACTERS + 1)
        except UnicodeError:
            raise Damaged("its letters are damaged") from None
        return line


def read(text: TextIO, columns: Sequence[str] | None, separator: Separator | None) -> Rows:
    """Yields the rows of a text: of JSON lines if it begins with an object, else of CSV.

    The `columns` are those of its first line unless they are given. Raises `Damaged`.
    """
    lines = Lines(text)
    first = lines.peek()
    if first.lstrip().startswith("{"):
        return _json_rows(lines)
    if first.lstrip().startswith("["):
        raise Damaged("it is a JSON array: write one object a line, as jq -c '.[]' does")
    if "\0" in first:
        raise Damaged("it is no text")
    return _csv_rows(lines, columns, separator or _detect(first))


def _detect(line: str) -> Separator:
    """Returns the separator of a header: the one that it has most of, outside of quotes."""
    bare = _QUOTED.sub("", line)
    best = max(_SEPARATORS, key=lambda name: bare.count(_SEPARATORS[name]))
    if _SEPARATORS[best] in bare:
        return best
    return "blanks" if len(line.split()) > 1 and '"' not in line else "comma"


def _json_rows(lines: Lines) -> Rows:
    while True:
        number = lines.begin_row()
        try:
            text = next(lines)
        except StopIteration:
            return
        except _TooLong:
            yield _too_long(number, lines)
            continue
        if not text.strip():
            continue
        try:
            values = msgspec.json.decode(text.encode("utf-8", "surrogateescape"), type=dict[str, Any])
        except NOT_DECODED:
            yield _bad(number, text, "The line is not a JSON object.")
        else:
            yield Row(number, values, text)


def _csv_rows(lines: Lines, columns: Sequence[str] | None, separator: Separator) -> Rows:
    if separator == "blanks":
        reader = csv.reader(
            (f"{line.strip()}\n" for line in iter(lines)), delimiter=" ", skipinitialspace=True, strict=True
        )
    else:
        reader = csv.reader(lines, delimiter=_SEPARATORS[separator], strict=True)
    for number, values in _records(lines, reader):
        if isinstance(values, BadEvent):
            if columns is None:
                raise Damaged(f"its line {number} names no columns: {values.detail}")
            yield values
        elif columns is None:
            columns = _header(values)
        elif len(values) != len(columns):
            many = f"{len(values)} values" if len(values) > 1 else "one value"
            yield _bad(number, lines.row_text(), f"The row has {many} for {len(columns)} columns.")
        elif _SURROGATES.search("".join(values)):
            detail = "The row is not in UTF-8. In this text U+FFFD stands for what is not."
            yield _bad(number, lines.row_text(), detail)
        else:
            named = zip(columns, values, strict=True)
            # An empty cell says nothing, as null does.
            yield Row(number, {name: value or None for name, value in named if name}, lines.row_text())


def _records(lines: Lines, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | BadEvent]]:
    """Yields the values of each row that is not blank, after its number, or why it cannot be read."""
    while True:
        number = lines.begin_row()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, _bad(number, lines.give_up_row(), f"The row cannot be read: {error}.")
        except _TooLong:
            yield number, _too_long(number, lines)
        else:
            if values and (len(values) > 1 or lines.row_text().strip()):
                yield number, values


def _header(values: Sequence[str]) -> list[str]:
    names = [name.strip() for name in values]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise Damaged(f"its first line names the column '{twice[0]}' twice")
    if not any(names):
        raise Damaged("its first line names no columns")
    return names


def _too_long(number: int, lines: Lines) -> BadEvent:
    first = lines.give_up_row()
    detail = f"The row exceeds {MAX_ROW_CHARACTERS} characters. This is its beginning."
    return _bad(number, first[:SAMPLE_CHARACTERS], detail, Reason.OVERSIZED)


def _bad(
    number: int,
    text: str,
    detail: str,
    reason: Literal[Reason.MALFORMED, Reason.OVERSIZED] = Reason.MALFORMED,
) -> BadEvent:
    return BadEvent(line=number, text=_SURROGATES.sub("\ufffd", text), reason=reason, detail=detail)
