"""Counts requests in fixed windows, as the upstream does, and in the sliding view that a test wants."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class FixedWindow:
    """Counts requests in windows of whole seconds aligned on the wall clock."""

    seconds: int
    _counts: Counter[int] = field(default_factory=Counter)

    def count(self, now: float) -> int:
        """Counts one more request at `now`, and returns the count of its window."""
        window = int(now // self.seconds)
        self._counts[window] += 1
        return self._counts[window]

    def ends_in(self, now: float) -> int:
        """Returns the whole seconds, at least one, until the window of `now` is over."""
        return max(1, math.ceil(self.seconds - now % self.seconds))


def busiest(times: Iterable[float], seconds: float) -> int:
    """Returns the most times that fall into any half-open window of that length, whatever its alignment."""
    ordered = sorted(times)
    most = left = 0
    for right, now in enumerate(ordered):
        while now - ordered[left] >= seconds:
            left += 1
        most = max(most, right - left + 1)
    return most
