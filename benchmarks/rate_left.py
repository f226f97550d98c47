"""Measures how much of the rate that other clients of an account leave is used, and what learning it costs.

Workers that always have something to send take their slots by the rate limiter, for a simulated hour. The
upstream counts in fixed windows and answers as documented: RateLimit-* beside a 202, Retry-After beside a
429. Refused requests are counted, too. The same is measured without RateLimit-*.
"""

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec

from sluice.delivery import rate_limiter
from sluice.delivery.rate_limiter import SLOT_TOLERANCE_SECONDS, SlotWindow

HOUR: Final = 3_600
WORKERS: Final = 4
WAIT_SECONDS: Final = 20.0  # a worker's longest wait for a slot
START: Final = 1_800_000_000.0

type Left = tuple[int, int]  # requests in a second and in a minute
type LeftAt = Callable[[float], Left]  # by the seconds since the start


class Use(msgspec.Struct, frozen=True):
    """Holds what share of the rate that was left was used, and how often the upstream answered 429."""

    share: float
    throttles: int


def run() -> dict[str, Any]:
    """Returns the use of each way in which others may leave something, with RateLimit headers and without."""
    return {
        name: {
            "with_headers": msgspec.to_builtins(hour(left)),
            "without_headers": msgspec.to_builtins(hour(left, has_headers=False)),
        }
        for name, left in WAYS.items()
    }


def constantly(*left: int) -> LeftAt:
    """Leaves the same all the time."""
    second, minute = left
    return lambda _: (second, minute)


def in_steps(*levels: Left, seconds: float) -> LeftAt:
    """Leaves one level after the other, each for so long."""
    return lambda moment: levels[int(moment // seconds) % len(levels)]


def at_random(*levels: Left) -> LeftAt:
    """Leaves any of the levels in each minute."""
    return lambda moment: random.Random(int(moment // 60)).choice(levels)


WAYS: Final[dict[str, LeftAt]] = {
    "1 a second, 6 a minute": constantly(1, 6),
    "2 a second, 12 a minute": constantly(2, 12),
    "1 a second, 54 a minute": constantly(1, 54),
    "5 a second, 75 a minute": constantly(5, 75),
    "all: 10 a second, 150 a minute": constantly(10, 150),
    "in steps of 15 minutes: 12, 150, 60 and 6 a minute": in_steps(
        (2, 12), (10, 150), (5, 60), (1, 6), seconds=900
    ),
    "at random, another in each minute: 150, 120, 90, 60 or 30": at_random(
        (10, 150), (8, 120), (8, 90), (5, 60), (4, 30)
    ),
    "at random, another in each minute: 150, 120, 60, 30, 12 or 6": at_random(
        (10, 150), (8, 120), (5, 60), (3, 30), (2, 12), (1, 6)
    ),
    "at random, another in each minute: 150 or 6": at_random((10, 150), (1, 6)),
}


def hour(left_at: LeftAt, seed: int = 0, *, has_headers: bool = True) -> Use:
    """Simulates an hour in which others leave so much; an answer says what is left if it `has_headers`."""
    simulation = _Hour(left_at, random.Random(seed), has_headers=has_headers)
    simulation.run()
    left = sum(min(minute, 60 * second) for second, minute in map(left_at, range(0, HOUR, 60)))
    return Use(simulation.taken / left, simulation.throttles)


class _Hour:
    def __init__(self, left_at: LeftAt, chance: random.Random, *, has_headers: bool) -> None:
        self._has_headers = has_headers
        self.taken = self.throttles = 0
        self._left_at = left_at
        self._chance = chance
        self._window = SlotWindow()
        self._seconds: Counter[int] = Counter()
        self._minutes: Counter[int] = Counter()
        self._order = itertools.count()
        self._steps: list[tuple[float, int, Callable[[float], None]]] = []

    def run(self) -> None:
        for _ in range(WORKERS):
            self._at(START + self._chance.random(), self._reserve)
        while self._steps[0][0] < START + HOUR:
            moment, _, step = heapq.heappop(self._steps)
            step(moment)

    def _at(self, moment: float, step: Callable[[float], None]) -> None:
        heapq.heappush(self._steps, (moment, next(self._order), step))

    def _reserve(self, moment: float) -> None:
        now = int(moment * 1_000)
        slots, window = rate_limiter.reserve(self._window, now, 1, now + int(WAIT_SECONDS * 1_000))
        if slots:
            self._window = window
            [slot] = slots
            self._at(max(moment, slot / 1_000), lambda later: self._send(later, slot))
        else:
            after = (rate_limiter.next_slot(self._window, now) - now) / 1_000
            self._at(moment + min(30.0, max(0.5, after)), self._reserve)

    def _send(self, moment: float, slot: int) -> None:
        is_late = moment - slot / 1_000 > SLOT_TOLERANCE_SECONDS
        if is_late or not rate_limiter.is_still_valid(self._window, slot):
            self._reserve(moment)
            return
        arrived = moment + self._chance.uniform(0.01, 0.06)
        of_second, of_minute = self._left_at(arrived - START)
        self._seconds[int(arrived)] += 1
        self._minutes[int(arrived // 60)] += 1
        remaining = of_minute - self._minutes[int(arrived // 60)]
        reset = math.ceil(60 - arrived % 60)
        answered = moment + self._chance.uniform(0.1, 0.6)
        if remaining < 0:
            self._at(answered, lambda later: self._throttled(later, slot, reset))
        elif self._seconds[int(arrived)] > of_second:
            self._at(answered, lambda later: self._throttled(later, slot, 1))
        else:
            self.taken += 1
            self._at(answered, lambda later: self._accepted(later, slot, remaining, reset))

    def _accepted(self, moment: float, slot: int, remaining: int, reset: int) -> None:
        if self._has_headers:
            until = int((moment + reset) * 1_000)
            self._window = rate_limiter.observe(self._window, slot, remaining, until) or self._window
        self._reserve(moment)

    def _throttled(self, moment: float, slot: int, seconds: int) -> None:
        self.throttles += 1
        self._window = rate_limiter.refuse(self._window, slot, int(moment * 1_000), seconds * 1_000)
        self._reserve(moment)
