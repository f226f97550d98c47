"""Reads the lines of a stream of bytes, plain or gzipped, in no more memory than one line may have.

A line may hold several JSON values with nothing between them, as Firehose writes them. Each is then a line
of its own.
"""

import codecs
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

import msgspec

from sluice.contract import MAX_BODY_BYTES_IN
from sluice.validation.structure import KNOWN_CALLERS

GZIP: Final = b"\x1f\x8b"  # no text in UTF-8 begins so
PIECE_BYTES: Final = 2**20
MAX_LINE_BYTES: Final = MAX_BODY_BYTES_IN
SAMPLE_BYTES: Final = 64 * 1024  # kept of a line that is too long
# A gzipped stream may hold this beside its content: headers, empty members, padding between them.
MAX_OVERHEAD_BYTES: Final = 2**24
_BLANKS: Final = re.compile("\ufeff?[ \t\r]*")
_BETWEEN_OBJECTS: Final = re.compile(rb"}[ \t\r]*{")
# Numbers stay text: none matters here, and `int` refuses very long ones.
_json: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


class CorruptGzip(Exception):
    """Says that a stream begins as gzip does and goes on otherwise, or ends too early."""


class Line(msgspec.Struct, frozen=True):
    """Holds a line without its end; it ends before the byte `end` of the stream, counted as unpacked.

    Of a line that is too long, `content` is the beginning.
    """

    number: int
    end: int
    content: bytes
    is_too_long: bool = False


def split(pieces: Iterable[bytes], number: int, start: int) -> Iterator[Line]:
    """Yields the lines of pieces of a stream that begin with the line `number`, at the byte `start`.

    Of blank lines it yields the last of a piece, so that its caller sees it get on.
    """
    lines = _Lines(number, start)
    for each in pieces:
        piece = each
        if not lines.held and piece.isspace() and b"\n" in piece:
            piece = lines.skip_blanks(piece)  # a gibibyte of them must not take minutes
        *ends, rest = piece.split(b"\n")
        for index, end in enumerate(ends):
            if index < len(ends) - 1 and not lines.held and (not end or end.isspace()):
                lines.number += 1
                lines.start += len(end) + 1
                continue
            yield from lines.add(end)
            yield from lines.finish(len(b"\n"))
        yield from lines.add(rest)
    if lines.held:
        yield from lines.finish(0)


class _Lines:
    """Holds the line that is being read, which begins at the byte `start` of the stream."""

    def __init__(self, number: int, start: int) -> None:
        self.number, self.start = number, start
        self.held = bytearray()
        self._dropped = 0  # bytes of the line that are not held, because it is too long

    def skip_blanks(self, piece: bytes) -> bytes:
        """Passes over the blank lines of a piece that holds nothing else; returns the last of them."""
        last = piece.rfind(b"\n", 0, piece.rfind(b"\n")) + 1
        self.number += piece.count(b"\n", 0, last)
        self.start += last
        return piece[last:]

    def add(self, part: bytes) -> Iterator[Line]:
        """Adds a part to the line. If it gets too long, yields the JSON values at its beginning."""
        if self._dropped:
            self._dropped += len(part)
            return
        self.held += part
        if len(self.held) > MAX_LINE_BYTES:
            yield from self._cut()
            if len(self.held) > MAX_LINE_BYTES:
                self._dropped = len(self.held) - SAMPLE_BYTES
                del self.held[SAMPLE_BYTES:]

    def finish(self, end_bytes: int) -> Iterator[Line]:
        """Yields the line, or each JSON value in it; `end_bytes` is the length of the line's end."""
        if not self._dropped:
            yield from self._cut()
        end = self.start + len(self.held) + self._dropped + end_bytes
        yield Line(self.number, end, self._content(bytes(self.held)), bool(self._dropped))
        self.number, self.start, self._dropped = self.number + 1, end, 0
        self.held.clear()

    def _cut(self) -> Iterator[Line]:
        """Yields all JSON values of the line but the last, and holds that one."""
        *values, last = _values(bytes(self.held))
        for value in values:
            self.start += len(value)
            yield Line(self.number, self.start, self._content(value))
            self.number += 1
        if values:
            self.held[:] = last

    def _content(self, line: bytes) -> bytes:
        # A file may begin with a byte order mark, but JSON may not.
        return line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line


def _values(line: bytes) -> list[bytes]:
    """Returns the JSON objects of a line that has several, with the blanks after each; else the line.

    Where no further object can be read, the rest of the line is the last one.
    """
    if not _BETWEEN_OBJECTS.search(line) or KNOWN_CALLERS.excess(line):
        return [line]
    text = line.decode("utf-8", "surrogateescape")
    ends: list[int] = []
    begin = _BLANKS.match(text).end()  # type: ignore[union-attr]
    while begin < len(text):
        try:
            _, end = _json.raw_decode(text, begin) if text.startswith("{", begin) else (None, len(text))
        except (ValueError, RecursionError):
            end = len(text)
        begin = _BLANKS.match(text, end).end()  # type: ignore[union-attr]
        ends.append(begin)
    return [
        text[start:end].encode("utf-8", "surrogateescape")
        for start, end in pairwise([0, *ends[:-1], len(text)])
    ]


def unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the content of gzipped pieces, all members of them; raises `CorruptGzip`."""
    unpacker = zlib.decompressobj(wbits=31)
    packed_bytes = unpacked_bytes = 0
    for packed in pieces:
        piece = packed
        packed_bytes += len(packed)
        while piece:
            if packed_bytes - len(piece) > MAX_OVERHEAD_BYTES + 2 * unpacked_bytes:
                raise CorruptGzip("it has too little content for its size, such as empty members")
            if unpacker.eof:
                # Between members there may be padding.
                piece = piece.lstrip(b"\0")
                unpacker = zlib.decompressobj(wbits=31) if piece else unpacker
                continue
            try:
                content = unpacker.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise CorruptGzip(_fault(error, unpacked_bytes)) from error
            unpacked_bytes += len(content)
            if content:
                yield content
            piece = unpacker.unconsumed_tail or unpacker.unused_data
    if not unpacker.eof:
        raise CorruptGzip("it ends too early")


def _fault(error: zlib.error, unpacked_bytes: int) -> str:
    if unpacked_bytes and "header" in str(error):
        return "after its end there is something that is not gzip"
    return f"it is damaged ({error})"


def without(pieces: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Yields pieces without their first bytes."""
    for piece in pieces:
        if count < len(piece):
            yield piece[count:]
        count = max(0, count - len(piece))


def until(pieces: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Yields pieces up to the first that goes beyond so many bytes. Without a line's end there may be no
    other.
    """
    for piece in pieces:
        yield piece
        count -= len(piece)
        if count < 0:
            return
