"""Fixed rate windows, as the upstream counts them, and the sliding view a test wants."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class FixedWindow:
    """Requests counted in windows of whole seconds aligned on the wall clock."""

    seconds: int
    _counts: Counter[int] = field(default_factory=Counter)

    def count(self, now: float) -> int:
        """Count one more request at `now`; how many its window has by then."""
        window = int(now // self.seconds)
        self._counts[window] += 1
        return self._counts[window]

    def ends_in(self, now: float) -> int:
        """Whole seconds, at least one, until the window of `now` is over."""
        return max(1, math.ceil(self.seconds - now % self.seconds))


def busiest(times: Iterable[float], seconds: float) -> int:
    """The most times that fall into any half-open window of that length, whatever its alignment."""
    ordered = sorted(times)
    most = left = 0
    for right, now in enumerate(ordered):
        while now - ordered[left] >= seconds:
            left += 1
        most = max(most, right - left + 1)
    return most
