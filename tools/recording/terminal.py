"""Follows what a terminal shows, as far as rich uses one.

rich moves the cursor up, clears the line it is in and returns to its start. It never writes over text that it
has not cleared. Colours stay in the lines as they were written.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_CONTROL: Final = re.compile(r"\x1b\[(\d*)([AK])|\x1b\[\?\d+[hl]|([\r\n])")


@dataclass
class Terminal:
    """Holds the lines that are shown, with their colours as escape sequences."""

    lines: list[str] = field(default_factory=lambda: [""])
    _row: int = 0

    def write(self, text: str) -> None:
        """Takes what was written; control sequences have to be complete."""
        end = 0
        for found in _CONTROL.finditer(text):
            self._put(text[end : found.start()])
            self._control(found)
            end = found.end()
        self._put(text[end:])

    def _put(self, text: str) -> None:
        self.lines[self._row] += text

    def _control(self, found: re.Match[str]) -> None:
        number, command, character = found.groups()
        if command == "A":
            self._row = max(0, self._row - int(number or 1))
        elif command == "K":
            self.lines[self._row] = ""
        elif character == "\n":
            self._row += 1
            if self._row == len(self.lines):
                self.lines.append("")


def screens(written: Iterator[tuple[float, str]]) -> Iterator[tuple[float, tuple[str, ...]]]:
    """Yields the screen after each piece that was written, with its time."""
    terminal = Terminal()
    for time, text in written:
        terminal.write(text)
        yield time, tuple(terminal.lines)
