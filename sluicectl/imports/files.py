"""Reads the bytes of a file to be imported: on this machine or in S3, plain, gzipped or in Zstandard."""

import codecs
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol, TextIO
from urllib.parse import urlsplit

import zstandard

from sluice.producers import line_reader
from sluice.producers.line_reader import CorruptGzip
from sluicectl.deployment import Target, find, reaching
from sluicectl.errors import Failure

PIECE_BYTES: Final = 2**20
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_PIECE_BYTES: Final = 1_024  # a few bytes may hold megabytes
_S3: Final = "s3"
_BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DAMAGED: Final = re.compile("[\udc80-\udcff]+")  # bytes that are no UTF-8, as surrogateescape shows them
_FOREIGN: Final = re.compile(r"[^\x00-\x7f\udc80-\udcff]+")


class Damaged(Exception):
    """Says that a file cannot be read to its end; the text says why."""


class File(Protocol):
    """Gives the bytes of a file, as often as they are asked for."""

    @property
    def name(self) -> str:
        """Returns its name without its folder."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """Yields its bytes in pieces."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """Reads a file of this machine."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def pieces(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as stream:
                while piece := stream.read(PIECE_BYTES):
                    yield piece
        except OSError as error:
            raise Failure(f"{self.path} cannot be read: {error.strerror}.") from None


@dataclass(frozen=True)
class S3File:
    """Reads an object of S3, with the operator's own permission; every time the same writing of it."""

    client: Any
    bucket: str
    key: str
    etag: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    def pieces(self) -> Iterator[bytes]:
        with reaching():
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key, IfMatch=self.etag)
            yield from answer["Body"].iter_chunks(PIECE_BYTES)


@dataclass(frozen=True)
class Survey:
    """Holds what has to be known of a file before its rows are read: `size` is that of its content."""

    digest: str
    size: int
    encoding: str


def locate(name: str, target: Target) -> File:
    """Returns the file of this name; raises `Failure` if there is none."""
    address = urlsplit(name)
    if address.scheme != _S3:
        path = Path(name)
        if not path.is_file():
            raise Failure(f"There is no file {name}.")
        return LocalFile(path)
    client = find(target).client("s3")
    key = address.path.removeprefix("/")
    with reaching():
        found = client.head_object(Bucket=address.netloc, Key=key)
    return S3File(client, address.netloc, key, found["ETag"])


def survey(file: File) -> Survey:
    """Reads a file once: for the digest of its content, and for what its letters are written in.

    Most of what is not ASCII decides: a few damaged letters do not make UTF-8 something else.
    """
    digest = hashlib.blake2b(digest_size=16)
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    size = damaged = sound = 0
    start = b""
    for piece in unpacked(file.pieces()):
        start = start or piece[:3]
        digest.update(piece)
        size += len(piece)
        text = decoder.decode(piece)
        if not text.isascii():
            damaged += sum(map(len, _DAMAGED.findall(text)))
            sound += sum(map(len, _FOREIGN.findall(text)))
    marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    # Files that are said to be in Latin-1 are nearly always in Windows' form of it.
    return Survey(digest.hexdigest(), size, marked or ("cp1252" if damaged > sound else "utf-8"))


def unpacked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the content of a file, whatever it is compressed with; raises `Damaged`."""
    first = next(pieces, b"")
    pieces = chain([first], pieces)
    if first.startswith(line_reader.GZIP):
        try:
            yield from line_reader.unpacked(pieces)
        except CorruptGzip as error:
            raise Damaged(f"it cannot be unpacked: {error}") from None
    elif first.startswith(_ZSTD):
        yield from _unzstd(pieces)
    else:
        yield from pieces


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the content of all frames; raises `Damaged`."""
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    try:
        for piece in pieces:
            for start in range(0, len(piece), _ZSTD_PIECE_BYTES):
                left = piece[start : start + _ZSTD_PIECE_BYTES]
                while left:
                    if unpacker.eof:
                        unpacker = zstandard.ZstdDecompressor().decompressobj()
                    if content := unpacker.decompress(left):
                        yield content
                    left = unpacker.unused_data
    except zstandard.ZstdError as error:
        raise Damaged(f"it cannot be unpacked: it is damaged ({error})") from None
    if not unpacker.eof:
        raise Damaged("it cannot be unpacked: it ends too early")


class Content(io.RawIOBase):
    """Gives the content of a file as a stream of bytes; `read_bytes` says how far it is read."""

    def __init__(self, file: File) -> None:
        self._pieces = unpacked(file.pieces())
        self._left = memoryview(b"")
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        self.read_bytes += size
        return size

    def text(self, encoding: str) -> TextIO:
        """Returns its text. Line ends stay as they are, and a damaged byte is a lone surrogate."""
        return io.TextIOWrapper(
            io.BufferedReader(self, PIECE_BYTES), encoding, errors="surrogateescape", newline=""
        )
