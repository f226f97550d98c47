"""Compares the table of modules in docs/architecture.md with the package."""

import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path("layers/sluice/sluice")
GROUP = re.compile(r"\| \*\*`(sluice[\w.]*)`: .+\*\* \| \|")
ROW = re.compile(r"\| `(\w+)` \| \w+s\b.+ \|")


def listed() -> Iterator[str]:
    """Yields the modules of the table, by their whole names."""
    table = Path("docs/architecture.md").read_text().partition("| Module | Task |\n")[2].partition("\n\n")[0]
    group = ""
    for line in table.splitlines()[1:]:
        if found := GROUP.fullmatch(line):
            group = found[1]
        elif found := ROW.fullmatch(line):
            yield f"{group}.{found[1]}"
        else:
            raise AssertionError(f"neither a group nor a module and its task: {line}")


def existing() -> Iterator[str]:
    """Yields the modules of the package; a folder that holds code in itself counts as one."""
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] != "__init__":
            yield ".".join(parts)
        elif "\ndef " in file.read_text():
            yield ".".join(parts[:-1])


def test_each_module_stands_in_the_table_once() -> None:
    assert sorted(listed()) == sorted(existing())
