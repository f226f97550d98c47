"""Prints the output of a command: for people on a terminal, or as one JSON document for programs."""

import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from sluicectl.errors import Failure


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

    def fail(self, failure: Failure) -> None:
        """Says why a command ends early: to people beside what it is for."""
        if self.as_json:
            self.show({"error": str(failure)}, lambda _: None)
        else:
            shown = Console(stderr=True, highlight=False)
            shown.print("[bold red]error:[/] ", end="")
            shown.print(str(failure), markup=False, soft_wrap=True)
