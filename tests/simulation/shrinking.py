"""Finds a short way to a broken invariant: few faults and requests with which a seed still breaks it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.simulation.runner import simulate
from tests.simulation.world import Result

MAX_RUNS = 150


@dataclass(frozen=True)
class Cut:
    """Says what is left out of a run: faults by the numbers of their calls, and requests by their indexes."""

    only_before: int | None = None
    spared: frozenset[int] = frozenset()
    left_out: frozenset[int] = frozenset()


class Shrinker:
    """Tries cuts of one seed that breaks an invariant."""

    def __init__(self, result: Result) -> None:
        assert result.broken is not None
        self._seed = result.seed
        self._invariant = result.broken.invariant
        self._runs = 0
        self.best = result
        self.cut = Cut()

    def shrink(self) -> Result:
        """Returns the shortest run that it finds in a bounded number of tries."""
        self._fewer_faults_at_the_end()
        # A cut changes the numbers of later calls, so requests go first.
        requests = list(range(self.best.actions))
        self._fewer(requests, lambda found: replace(self.cut, left_out=self.cut.left_out | found))
        self._fewer_faults_at_the_end()
        faults = list(self.best.faults.numbers)
        self._fewer(faults, lambda found: replace(self.cut, spared=self.cut.spared | found))
        return self.best

    def _fewer_faults_at_the_end(self) -> None:
        numbers = list(self.best.faults.numbers)
        low, high = 0, len(numbers)
        while low < high and self._runs < MAX_RUNS:
            middle = (low + high) // 2
            before = numbers[middle] if middle < len(numbers) else None
            if self._breaks(replace(self.cut, only_before=before)):
                high = middle
            else:
                low = middle + 1

    def _fewer(self, items: Sequence[int], without: Callable[[frozenset[int]], Cut]) -> None:
        size = max(1, len(items) // 2)
        while items and self._runs < MAX_RUNS:
            kept: list[int] = []
            for start in range(0, len(items), size):
                chunk = items[start : start + size]
                if self._runs >= MAX_RUNS or not self._breaks(without(frozenset(chunk))):
                    kept += chunk
            if size == 1:
                return
            items, size = kept, size // 2

    def _breaks(self, cut: Cut) -> bool:
        self._runs += 1
        result = simulate(self._seed, only_before=cut.only_before, spared=cut.spared, left_out=cut.left_out)
        if result.broken is None or result.broken.invariant != self._invariant:
            return False
        self.best, self.cut = result, cut
        return True
