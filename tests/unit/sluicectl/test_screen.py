"""Tests the tables of `sluicectl`."""

import io

from rich.console import Console
from rich.text import Text

from sluicectl.screen import Cell, table


def drawn(columns: list[str], *rows: list[Cell], width: int = 60) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(columns, rows))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_numbers_are_grouped_and_end_in_one_line() -> None:
    header, _, first, second = drawn(["account", "open"], ["AbC123", 5], ["pipeless-7", 1_234_567])

    assert first.endswith("        5")
    assert second.endswith("1,234,567")
    assert header.endswith("     open")


def test_a_name_is_shown_as_it_is() -> None:
    assert "[red]Ordered[/red]" in drawn(["metric"], ["[red]Ordered[/red]"])[-1]
    assert "bold" in drawn(["metric"], [Text("bold", "bold")])[-1]


def test_a_missing_value_is_a_dash() -> None:
    assert drawn(["a", "b"], ["x", None])[-1].split() == ["x", "-"]


def test_nothing_of_a_long_text_is_cut_off() -> None:
    lines = drawn(["detail"], ["word" * 50], width=40)

    assert "".join(line.strip() for line in lines[2:]) == "word" * 50


def test_a_table_without_rows_has_its_header() -> None:
    assert drawn(["account", "open"])[0].split() == ["account", "open"]
