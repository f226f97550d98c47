"""Tests the reading of files into rows: every form that exports have."""

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sluice.operate.imports import BadEvent
from sluicectl.imports import files, rows
from sluicectl.imports.files import Content, Damaged
from sluicectl.imports.rows import Row


@dataclass(frozen=True)
class Pieces:
    """Plays a file that is read in pieces of a few bytes."""

    content: bytes
    size: int = 7
    name: str = "file.csv"

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self.content), self.size):
            yield self.content[start : start + self.size]


def read(
    content: bytes, columns: list[str] | None = None, separator: rows.Separator | None = None
) -> list[Row | BadEvent]:
    """Reads a file as an import does."""
    file = Pieces(content)
    with Content(file).text(files.survey(file).encoding) as text:
        return list(rows.read(text, columns, separator))


def values(found: list[Row | BadEvent]) -> list[tuple[int, list[object]]]:
    return [(row.line, list(row.values.values())) for row in found if isinstance(row, Row)]


def bad(found: list[Row | BadEvent]) -> list[tuple[int, str]]:
    return [(row.line, row.detail) for row in found if isinstance(row, BadEvent)]


# Without the time, which would be another name of the test in another process.
gzipped = partial(gzip.compress, mtime=0)
PLAIN = "name,city\nAda,Köln\n\nZoë,Genève\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.encode("latin-1"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.rstrip().encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", "|").encode(),
        PLAIN.replace(",", "   ").replace("\n", " \r\n  ").encode(),
        PLAIN.replace("Ada", '"Ada"').encode(),
        gzipped(PLAIN.encode()),
        gzipped(PLAIN[:10].encode()) + gzipped(PLAIN[10:].encode()),
        zstandard.compress(PLAIN.encode()),
        zstandard.compress(PLAIN[:10].encode()) + zstandard.compress(PLAIN[10:].encode()),
        gzipped(PLAIN.replace("\n", "\r\n").replace(",", ";").encode("latin-1")),
    ],
)
def test_every_form_of_a_file_is_read_alike(content: bytes) -> None:
    assert values(read(content)) == [(2, ["Ada", "Köln"]), (4, ["Zoë", "Genève"])]


def test_json_lines_are_read_and_bad_ones_are_told() -> None:
    lines = b'\n{"a": 1}\n[2]\n{"a"\n\n{"b": {"c": "\xff"}}\n{"b": "\xc3\xa9"}'

    found = read(lines)

    assert [(row.line, row.values) for row in found if isinstance(row, Row)] == [
        (2, {"a": 1}),
        (7, {"b": "é"}),
    ]
    assert bad(found) == [(number, "The line is not a JSON object.") for number in (3, 4, 6)]
    assert [row.text for row in found if isinstance(row, BadEvent)] == [
        "[2]\n",
        '{"a"\n',
        '{"b": {"c": "\ufffd"}}\n',
    ]


def test_a_row_with_a_line_end_in_quotes_has_the_line_of_its_beginning() -> None:
    found = read(b'a,b\n"1\n2","x ""y"""\r\n3,"4\r\n5"\n6,7\n')

    assert values(found) == [(2, ["1\n2", 'x "y"']), (4, ["3", "4\r\n5"]), (6, ["6", "7"])]


@pytest.mark.parametrize("broken", ['"never closed,2', '"a"b,2', '"' + "x" * 200_000])
def test_a_broken_row_costs_only_itself(broken: str) -> None:
    found = read(f"a,b\n1,2\n{broken}\n3,4\n5,6\n".encode())

    assert values(found) == [(2, ["1", "2"]), (4, ["3", "4"]), (5, ["5", "6"])]
    [(line, detail)] = bad(found)
    assert line == 3
    assert detail.startswith("The row cannot be read: ")


def test_a_row_of_another_length_is_bad() -> None:
    found = read(b"a,b\n1\n1,2,3\n1,\n")

    assert values(found) == [(4, ["1", None])]
    assert bad(found) == [
        (2, "The row has one value for 2 columns."),
        (3, "The row has 3 values for 2 columns."),
    ]


def test_a_damaged_letter_in_utf8_costs_only_its_row() -> None:
    found = read("a,b\né,ü\nß,X\nà,ç\n".encode().replace(b"X", b"\xff"))
    assert values(found) == [(2, ["é", "ü"]), (4, ["à", "ç"])]
    assert [row.text for row in found if isinstance(row, BadEvent)] == ["ß,\ufffd\n"]


@pytest.mark.parametrize("start", [b"a,b\n1,2\n", b'{"a": "1"}\n'])
def test_a_row_that_is_too_long_is_told_with_its_beginning(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_CHARACTERS", 50)
    monkeypatch.setattr(rows, "SAMPLE_CHARACTERS", 5)
    end = start.splitlines()[-1]

    found = read(start + b"x" * 333 + b"\n" + end)

    assert len(values(found)) == 2
    [oversized] = [row for row in found if isinstance(row, BadEvent)]
    assert (oversized.text, oversized.reason) == ("xxxxx", "oversized")
    assert oversized.line == len(start.splitlines()) + 1


def test_columns_without_a_name_are_left_out() -> None:
    [row] = [each for each in read(b" a ,,b,\n1,2,3,4\n") if isinstance(each, Row)]

    assert row.values == {"a": "1", "b": "3"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a,b,a\n1,2,3\n", "names the column 'a' twice"),
        (b",,\n1,2,3\n", "names no columns"),
        (b'"a" b,c\n1,2', "names no columns: The row cannot be read"),
        (b'[{"a": 1}]', "a JSON array"),
        (b"PK\x03\x04\0\0\n", "no text"),
        (gzipped(b"a,b\n1,2\n")[:-4], "it ends too early"),
        (gzipped(b"a,b\n1,2\n")[:-8] + bytes(8), "damaged"),
        (zstandard.compress(b"a,b\n1,2\n" * 9)[:-4], "it ends too early"),
        (zstandard.compress(b"a,b\n1,2\n") + b"rest", "damaged"),
        ("a,b\n".encode("utf-16") + b"\0\xd8\0\xd8", "its letters are damaged"),
    ],
)
def test_a_file_of_another_kind_is_one_mistake(content: bytes, why: str) -> None:
    with pytest.raises(Damaged, match=why):
        read(content)


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=5)
    ),
    separator=st.sampled_from(["comma", "semicolon", "tab", "pipe"]),
    end=st.sampled_from(["\r\n", "\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_pythons_csv_writes_is_read_back(
    table: list[list[str]], separator: rows.Separator, end: str, quoting: int
) -> None:
    written = io.StringIO(newline="")
    signs = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
    csv.writer(written, delimiter=signs[separator], lineterminator=end, quoting=quoting).writerows(table)  # type: ignore[arg-type]
    columns = [f"c{number}" for number in range(len(table[0]))]
    head = signs[separator].join(columns) + end

    found = read((head + written.getvalue()).encode(), separator=separator)

    # A row of one cell that has only blanks in it, and no quotes, is a blank line.
    kept = [row for row in table if len(row) > 1 or quoting == csv.QUOTE_ALL or row[0].strip() or not row[0]]
    assert [each for _, each in values(found)] == [[cell or None for cell in row] for row in kept]
    assert bad(found) == []


def test_a_long_file_is_read_in_bounded_memory() -> None:
    row = b"%d,Ada Lovelace,ada@example.com,19.99\n"

    @dataclass(frozen=True)
    class Long:
        name: str = "long.csv"

        def pieces(self) -> Iterator[bytes]:
            yield b"id,name,email,total\n"
            for start in range(0, 100_000, 1_000):
                yield b"".join(row % number for number in range(start, start + 1_000))

    tracemalloc.start()
    try:
        count = 0
        survey = files.survey(Long())
        with Content(Long()).text(survey.encoding) as text:
            for _ in rows.read(text, None, None):
                count += 1
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (count, survey.size) == (100_000, sum(len(row % number) for number in range(100_000)) + 20)
    assert most < survey.size
    assert most < 4 * 2**20


def test_a_text_without_line_ends_is_read_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_CHARACTERS", 10_000)

    @dataclass(frozen=True)
    class Endless:
        name: str = "endless.csv"

        def pieces(self) -> Iterator[bytes]:
            yield b"a,b\n"
            for _ in range(100):
                yield b"x" * 100_000

    tracemalloc.start()
    try:
        with Content(Endless()).text("utf-8") as text:
            [only] = rows.read(text, None, None)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(only, BadEvent)
    assert most < 4 * 2**20


def test_the_same_content_has_the_same_digest_whatever_it_is_compressed_with() -> None:
    content = json.dumps({"a": "1"}).encode()
    found = {
        files.survey(Pieces(each)).digest for each in (content, gzipped(content), zstandard.compress(content))
    }
    assert len(found) == 1
    assert found != {files.survey(Pieces(content + b" ")).digest}
