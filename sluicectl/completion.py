"""Implements `sluicectl completion`: the script by which a shell completes commands and options."""

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from sluicectl.screen import Screen

SHELLS: Final[dict[str, type[ShellComplete]]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}
_PROGRAM: Final = "sluicectl"
_VARIABLE: Final = "_SLUICECTL_COMPLETE"  # by which a script asks the program for completions


def show(screen: Screen, command_line: click.Command, shell: str) -> int:
    """Shows the script of a shell."""
    script = SHELLS[shell](command_line, {}, _PROGRAM, _VARIABLE).source()
    screen.show({"shell": shell, "script": script}, lambda console: console.out(script, highlight=False))
    return 0
