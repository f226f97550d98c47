"""Finds which lines of the package a seed runs, so that a mutant is simulated in worlds that get to it."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType

from tests.simulation.image import code_of

_TOOL = sys.monitoring.COVERAGE_ID

type Lines = frozenset[tuple[Path, int]]


class Reach:
    """Watches the code of some files of the package, whichever process of the simulation runs it."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._found: set[tuple[Path, int]] = set()
        monitoring = sys.monitoring
        monitoring.use_tool_id(_TOOL, "reach")
        monitoring.register_callback(_TOOL, monitoring.events.LINE, self._note)
        for file in files:
            for code in _codes(code_of(file)):
                monitoring.set_local_events(_TOOL, code, monitoring.events.LINE)

    def of(self, run: Callable[[], object]) -> Lines:
        """Returns the lines that a run gets to, each with its file."""
        self._found = set()
        sys.monitoring.restart_events()
        run()
        return frozenset(self._found)

    def close(self) -> None:
        """Stops watching."""
        sys.monitoring.free_tool_id(_TOOL)

    def _note(self, code: CodeType, line: int) -> object:
        self._found.add((Path(code.co_filename), line))
        return sys.monitoring.DISABLE  # once in a run is enough


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yields a code object and all that are defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
