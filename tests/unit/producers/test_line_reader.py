"""Tests lines of streams cut anywhere, packed or not, in bounded memory."""

import gzip
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.producers import line_reader
from sluice.producers.line_reader import CorruptGzip, Line

TEXTS = st.lists(st.sampled_from([b"", b"a", b"\r", b"{}", "ü".encode(), b"x" * 300])).map(b"\n".join)


def cut(stream: bytes, size: int) -> Iterator[bytes]:
    return (stream[start : start + size] for start in range(0, len(stream), size))


def contents(found: Iterator[Line]) -> list[bytes | None]:
    return [line.content for line in found]


@given(TEXTS, st.integers(1, 50))
def test_lines_are_what_lies_between_newlines_wherever_pieces_are_cut(stream: bytes, size: int) -> None:
    found = list(line_reader.split(cut(stream, size), 1, 0))

    expected = stream.split(b"\n")
    assert [line.content for line in found] == (expected if expected[-1] else expected[:-1])
    assert [line.number for line in found] == list(range(1, len(found) + 1))
    assert [line.end for line in found][-1:] == [len(stream)][: len(found)]
    assert all(stream[line.end - 1 : line.end] == b"\n" for line in found[:-1])


@given(TEXTS, st.integers(1, 50), st.data())
def test_reading_goes_on_where_a_line_ended(stream: bytes, size: int, data: st.DataObject) -> None:
    whole = list(line_reader.split(cut(stream, size), 1, 0))
    reached = data.draw(st.sampled_from([*whole, Line(0, 0, b"")]))

    plain = line_reader.split([stream[reached.end :]], reached.number + 1, reached.end)
    unpacked = line_reader.without(line_reader.unpacked(cut(gzip.compress(stream), size)), reached.end)
    packed = line_reader.split(unpacked, reached.number + 1, reached.end)

    assert list(plain) == list(packed) == whole[reached.number :]


def test_a_line_that_is_too_long_is_left_out_without_being_held() -> None:
    long = (b"x" * 2**20 for _ in range(100))

    def stream() -> Iterator[bytes]:
        yield b"first\n"
        yield from long
        yield b"\nlast"

    tracemalloc.start()
    found = list(line_reader.split(stream(), 1, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert [line.content for line in found] == [b"first", None, b"last"]
    assert found[1].end == 6 + 100 * 2**20 + 1
    assert peak < 20 * 2**20


def test_a_file_may_begin_with_a_byte_order_mark_and_only_a_file() -> None:
    first, second = line_reader.split([b"\xef\xbb", b"\xbfa\n\xef\xbb\xbfb"], 1, 0)

    assert (first.content, first.end) == (b"a", 5)
    assert (second.content, second.end) == (b"\xef\xbb\xbfb", 9)


def test_the_longest_line_is_read() -> None:
    most = b"x" * line_reader.MAX_LINE_BYTES

    assert contents(line_reader.split([most, b"\n", most, b"y"], 1, 0)) == [most, None]


def test_members_of_a_gzipped_stream_follow_each_other() -> None:
    stream = gzip.compress(b"a\nb") + gzip.compress(b"c\n") + b"\0" * 30 + gzip.compress(b"d")

    for size in (1, 7, 1_000):
        assert contents(line_reader.split(line_reader.unpacked(cut(stream, size)), 1, 0)) == [
            b"a",
            b"bc",
            b"d",
        ]


def test_what_unpacks_to_much_comes_in_pieces() -> None:
    packed = gzip.compress(b"\0" * 50 * 2**20)

    assert max(map(len, line_reader.unpacked([packed]))) <= line_reader.PIECE_BYTES
    assert sum(map(len, line_reader.unpacked([packed]))) == 50 * 2**20


@pytest.mark.parametrize(
    "damaged",
    [
        gzip.compress(b"a\nb\n" * 100, mtime=0)[:-9],
        gzip.compress(b"a\n", mtime=0)[:12] + b"\xff" * 20,
        gzip.compress(b"a\n", mtime=0) + b"garbage",
        line_reader.GZIP,
    ],
)
def test_a_damaged_stream_is_told_from_one_that_ends(damaged: bytes) -> None:
    with pytest.raises(CorruptGzip):
        list(line_reader.unpacked([damaged]))
