"""Shows the demo: bars on a terminal, a line now and then elsewhere, and the table at the end."""

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from devstack.demo.result import Row

LINE_SECONDS = 2.0


class Bars:
    """Shows the progress of a few named counts."""

    def __init__(self, totals: dict[str, int], console: Console) -> None:
        self._totals = totals
        self._counts = dict.fromkeys(totals, 0)
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40, complete_style="cyan", finished_style="green"),
            TextColumn("{task.completed:>6,}/{task.total:,}"),
            console=console,
            disable=not _is_lively(console),
        )
        self._tasks = {name: self._progress.add_task(name, total=total) for name, total in totals.items()}
        self._line, self._said = "", time.monotonic()

    def add(self, name: str, count: int) -> None:
        self.set(name, self._counts[name] + count)

    def set(self, name: str, count: int) -> None:
        self._counts[name] = count
        self._progress.update(self._tasks[name], completed=count)
        if self._progress.disable and time.monotonic() - self._said > LINE_SECONDS:
            self._say()

    def say(self, text: str) -> None:
        """Shows a sentence, above the bars."""
        self._progress.console.print(text, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._progress.disable:
            self._say()

    def _say(self) -> None:
        counts = (f"{name} {self._counts[name]:,}/{total:,}" for name, total in self._totals.items())
        line = ", ".join(counts)
        if line != self._line:
            self._console.print(line, highlight=False, soft_wrap=True)
        self._line, self._said = line, time.monotonic()


def table(rows: Sequence[Row], console: Console) -> None:
    """Prints rows of a name, a figure and its meaning."""
    shown = Table.grid(padding=(0, 2))
    shown.add_column()
    shown.add_column(justify="right", style="bold")
    shown.add_column(style="dim", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print()
    console.print(shown)
    console.print()


def verdict(text: str, *, succeeded: bool, console: Console) -> None:
    """Prints how it ended, in a word, in colour and in a sentence."""
    word, style = ("PASSED", "bold green") if succeeded else ("FAILED", "bold red")
    console.print(f"[{style}]{word}[/]: {text}\n", highlight=False)


def _is_lively(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal
