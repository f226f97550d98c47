"""Runs coroutines in pretended time: a sleep costs none, and a thread takes none."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class Clock:
    """Keeps the simulated time in seconds; several loops may move it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now


class _Selector(selectors.SelectSelector):
    """Moves time on where a loop would wait; while a thread is at work for it, time stands still."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.working = 0

    def select(self, timeout: float | None = None) -> Any:
        if self.working:
            return super().select(0 if timeout == 0 else None)
        self._clock.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moving = _Selector(clock)
        super().__init__(self._moving)
        self._clock_resolution = 1e-6  # what seconds since the epoch can tell apart as a float

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        self._moving.working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._stop_working)
        return future

    def stop_time(self) -> None:
        """Lets what is left of its threads end in their own time."""
        self._moving.working += 1

    def _stop_working(self, _: object) -> None:
        self._moving.working -= 1


def run[T](coroutine: Coroutine[Any, Any, T], clock: Clock | None = None) -> T:
    """Runs a coroutine in pretended time, which begins at 0 or goes on where a clock is."""
    loop = _Loop(clock or Clock())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(coroutine)
        finally:
            loop.stop_time()
