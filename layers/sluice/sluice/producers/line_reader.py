"""Reads the lines of a stream of bytes, plain or gzipped, in no more memory than one line may have."""

import codecs
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from sluice.contract import MAX_BODY_BYTES_IN

GZIP: Final = b"\x1f\x8b"  # no text in UTF-8 begins so
PIECE_BYTES: Final = 2**20
MAX_LINE_BYTES: Final = MAX_BODY_BYTES_IN


class CorruptGzip(Exception):
    """Says that a stream begins as gzip does and goes on otherwise, or ends too early."""


class Line(msgspec.Struct, frozen=True):
    """Holds a line without its end; it ends before the byte `end` of the stream, counted as unpacked.

    `content` is None if the line is too long to be read.
    """

    number: int
    end: int
    content: bytes | None


def split(pieces: Iterable[bytes], number: int, start: int) -> Iterator[Line]:
    """Yields the lines of pieces of a stream that begin with the line `number`, at the byte `start`."""
    held = bytearray()
    length = 0  # of the line so far, bounded by the longest line that is read

    def add(part: bytes) -> None:
        nonlocal length
        length += len(part)
        if length <= MAX_LINE_BYTES:
            held.extend(part)

    def content() -> bytes | None:
        if length > MAX_LINE_BYTES:
            return None
        # A file may begin with a byte order mark, but JSON may not.
        return bytes(held.removeprefix(codecs.BOM_UTF8) if number == 1 else held)

    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            add(end)
            start += length + 1
            yield Line(number, start, content())
            number, length = number + 1, 0
            held.clear()
        add(rest)
    if length:
        yield Line(number, start + length, content())


def unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the content of gzipped pieces, all members of them; raises `CorruptGzip`."""
    unpacker = zlib.decompressobj(wbits=31)
    for packed in pieces:
        piece = packed
        while piece:
            if unpacker.eof:
                # Between members there may be padding.
                piece = piece.lstrip(b"\0")
                unpacker = zlib.decompressobj(wbits=31) if piece else unpacker
                continue
            try:
                yield unpacker.decompress(piece, PIECE_BYTES)
            except zlib.error as error:
                raise CorruptGzip(str(error)) from error
            piece = unpacker.unconsumed_tail or unpacker.unused_data
    if not unpacker.eof:
        raise CorruptGzip("it ends too early")


def without(pieces: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Yields pieces without their first bytes."""
    for piece in pieces:
        if count < len(piece):
            yield piece[count:]
        count = max(0, count - len(piece))


def until(pieces: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Yields pieces up to the first that goes beyond so many bytes: without a line's end there may be no
    other.
    """
    for piece in pieces:
        yield piece
        count -= len(piece)
        if count < 0:
            return
