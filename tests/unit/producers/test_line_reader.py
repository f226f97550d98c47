"""Tests lines of streams cut anywhere, packed or not, in bounded memory."""

import gzip
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.producers import line_reader
from sluice.producers.line_reader import CorruptGzip, Line

TEXTS = st.lists(st.sampled_from([b"", b"a", b"\r", b"{}", "ü".encode(), b"x" * 300])).map(b"\n".join)


def cut(stream: bytes, size: int) -> Iterator[bytes]:
    return (stream[start : start + size] for start in range(0, len(stream), size))


def contents(found: Iterable[Line]) -> list[bytes]:
    return [line.content for line in found]


def not_blank(found: Iterable[Line]) -> list[tuple[int, bytes]]:
    return [(line.number, line.content) for line in found if line.content.strip()]


@given(TEXTS, st.integers(1, 50))
def test_lines_are_what_lies_between_newlines_wherever_pieces_are_cut(stream: bytes, size: int) -> None:
    found = list(line_reader.split(cut(stream, size), 1, 0))

    expected = stream.split(b"\n")
    numbered = list(enumerate(expected if expected[-1] else expected[:-1], start=1))
    assert not_blank(found) == [(number, line) for number, line in numbered if line.strip()]
    assert [line.end for line in found][-1:] == [len(stream)][: len(found)]
    assert all(stream[line.end - 1 : line.end] == b"\n" for line in found[:-1])


@given(TEXTS, st.integers(1, 50), st.data())
def test_reading_goes_on_where_a_line_ended(stream: bytes, size: int, data: st.DataObject) -> None:
    whole = list(line_reader.split(cut(stream, size), 1, 0))
    reached = data.draw(st.sampled_from([*whole, Line(0, 0, b"")]))

    plain = line_reader.split([stream[reached.end :]], reached.number + 1, reached.end)
    unpacked = line_reader.without(line_reader.unpacked(cut(gzip.compress(stream), size)), reached.end)
    packed = line_reader.split(unpacked, reached.number + 1, reached.end)

    expected = not_blank(line for line in whole if line.number > reached.number)
    assert not_blank(plain) == not_blank(packed) == expected


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

    beginning = b"x" * line_reader.SAMPLE_BYTES
    assert [(line.content, line.is_too_long) for line in found] == [
        (b"first", False),
        (beginning, True),
        (b"last", False),
    ]
    assert found[1].end == 6 + 100 * 2**20 + 1
    assert peak < 20 * 2**20


def test_a_file_may_begin_with_a_byte_order_mark_and_only_a_file() -> None:
    first, second = line_reader.split([b"\xef\xbb", b"\xbfa\n\xef\xbb\xbfb"], 1, 0)

    assert (first.content, first.end) == (b"a", 5)
    assert (second.content, second.end) == (b"\xef\xbb\xbfb", 9)


def test_the_longest_line_is_read() -> None:
    most = b"x" * line_reader.MAX_LINE_BYTES

    found = list(line_reader.split([most, b"\n", most, b"y"], 1, 0))

    assert [(len(line.content), line.is_too_long) for line in found] == [
        (len(most), False),
        (line_reader.SAMPLE_BYTES, True),
    ]


OBJECTS = st.lists(
    st.sampled_from(
        [b'{"a":1}', b'{"b":"}{"}', b'{"c":[{},{"d":"\\"}{"}]}', '{"e":"ü"}'.encode(), b'{"f":1e400}']
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.rule
@given(
    OBJECTS,
    st.sampled_from([b"", b" ", b"\t", b"\r"]),
    st.sampled_from([b"", b"\n", b"\r\n"]),
    st.integers(1, 50),
)
def test_a_json_value_ends_by_itself(objects: list[bytes], between: bytes, end: bytes, size: int) -> None:
    stream = between.join(objects) + end

    found = list(line_reader.split(cut(stream, size), 1, 0))

    assert [line.content.strip() for line in found] == objects
    assert [line.number for line in found] == list(range(1, len(objects) + 1))
    assert found[-1].end == len(stream)
    for reached in found[:-1]:
        rest = line_reader.split([stream[reached.end :]], reached.number + 1, reached.end)
        assert not_blank(rest) == not_blank(found[reached.number :])


@pytest.mark.rule
def test_objects_without_lines_are_read_however_many_there_are() -> None:
    one = b'{"note":"' + b"x" * 1_000 + b'"}'
    count = 12 * 2**20 // len(one)

    tracemalloc.start()
    found = [len(line.content) for line in line_reader.split(cut(one * count, 2**20), 1, 0)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert found == [len(one)] * count
    assert peak < 40 * 2**20


def test_what_is_no_json_after_an_object_is_a_line_of_its_own() -> None:
    found = list(line_reader.split([b'{"a":1}{"b":2}{oops {"c":3}\n{"d":4}'], 1, 0))

    assert [line.content for line in found] == [b'{"a":1}', b'{"b":2}', b'{oops {"c":3}', b'{"d":4}']


def test_blank_lines_cost_next_to_nothing() -> None:
    found = list(line_reader.split([b"\n" * 2**20, b" \n" * 2**19, b"a"], 1, 0))

    assert len(found) == 3
    assert (found[-1].number, found[-1].content) == (2**20 + 2**19 + 1, b"a")


def test_members_of_a_gzipped_stream_follow_each_other() -> None:
    stream = gzip.compress(b"a\nb") + gzip.compress(b"c\n") + b"\0" * 30 + gzip.compress(b"d")

    for size in (1, 7, 1_000):
        assert contents(line_reader.split(line_reader.unpacked(cut(stream, size)), 1, 0)) == [
            b"a",
            b"bc",
            b"d",
        ]


@pytest.mark.rule
@pytest.mark.parametrize("member", [gzip.compress(b"", mtime=0), gzip.compress(b"x", mtime=0), b"\0" * 1_000])
def test_members_with_little_in_them_end_somewhere(member: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_reader, "MAX_OVERHEAD_BYTES", 100_000)
    read: list[int] = []

    def stream() -> Iterator[bytes]:
        yield gzip.compress(b"a\n")
        for _ in range(1_000):
            read.append(len(member) * 10)
            yield member * 10

    with pytest.raises(CorruptGzip, match="too little content"):
        list(line_reader.unpacked(stream()))

    assert sum(read) < 130_000


def test_many_members_of_one_line_are_read() -> None:
    line = b'{"data":{"type":"event","note":"as a logger writes them, one line in a member"}}\n'

    assert sum(map(len, line_reader.unpacked([gzip.compress(line)] * 3_000))) == 3_000 * len(line)


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
