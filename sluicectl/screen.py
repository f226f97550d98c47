"""Prints the output of a command: for people on a terminal, or as one JSON document for programs."""

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sluicectl.errors import Failure

_NONE: Final = "-"  # in a cell that has no value

type Cell = str | int | Text | None


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    """Returns a table in the style of all commands; numbers are grouped, and aligned on the right.

    No text in it is read as markup or by the terminal, because names and messages are often strangers'.
    """
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    cells = [list(row) for row in rows]
    for number, column in enumerate(columns):
        is_number = any(isinstance(row[number], int) for row in cells)
        drawn.add_column(Text(column), justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*map(_drawn, row))
    return drawn


def plain(text: str, style: str = "") -> Text:
    """Returns a text that a stranger may have written, with the control characters in it made visible.

    A terminal would obey some of them.
    """
    visible = "".join(
        repr(each)[1:-1] if unicodedata.category(each) == "Cc" and each != "\n" else each for each in text
    )
    return Text(visible, style)


def _drawn(cell: Cell) -> Text:
    match cell:
        case None:
            return Text(_NONE, "dim")
        case int():
            return Text(f"{cell:,}")
        case str():
            return plain(cell)
    return cell


class Screen:
    """Decides where a command writes to; colours are for terminals only."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=False)

    def show(self, document: Any, draw: Callable[[Console], None]) -> None:
        """Says the same to programs and to people."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
        else:
            draw(self.console)

    def draw(self, draw: Callable[[Console], None]) -> None:
        """Draws for people what comes before the end; programs find it in the one document."""
        if not self.as_json:
            draw(self.console)

    def write_line(self, document: str) -> None:
        """Writes one of many JSON documents, each on a line of its own, for people and programs."""
        sys.stdout.write(f"{document}\n")

    def agrees(self, question: str) -> bool:
        """Asks whether something is to be done. At the end of its input a script says no."""
        try:
            return click.confirm(question, err=True)
        except click.Abort:
            return False

    def fail(self, failure: Failure) -> None:
        """Says why a command ends early: to people beside what it is for."""
        if self.as_json:
            self.show({"error": str(failure)}, lambda _: None)
        else:
            shown = Console(stderr=True, highlight=False)
            shown.print("[bold red]error:[/] ", end="")
            shown.print(str(failure), markup=False, soft_wrap=True)
