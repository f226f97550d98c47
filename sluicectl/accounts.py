"""Implements `sluicectl accounts`: check."""

import click
from rich.console import Console

from sluice import accounts
from sluicectl.errors import FAULTY, Failure
from sluicectl.screen import Screen


def check(screen: Screen, file: str) -> int:
    """Shows every mistake of an accounts document, without quoting it: it holds keys."""
    try:
        with click.open_file(file, "rb") as stream:
            stored = accounts.read(stream.read())
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}") from None
    names = [each.id for each in stored.accounts.every()]
    document = {
        "file": file,
        "valid": not stored.flaws,
        "accounts": names,
        "problems": [{"detail": flaw} for flaw in stored.flaws],
    }

    def draw(console: Console) -> None:
        for flaw in stored.flaws:
            console.print(f"{file}: {flaw}", markup=False, soft_wrap=True)
        if not stored.flaws:
            console.print(f"{file} is valid: {', '.join(names) or 'no accounts'}.", markup=False)

    screen.show(document, draw)
    return FAULTY if stored.flaws else 0
