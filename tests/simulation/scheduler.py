"""Keeps the simulated time, and decides what runs next in it: one thread, one order, decided by the seed.

A `Strand` plays a thread. It runs as a greenlet until it waits; then the strand whose moment is next runs.
Strands with the same moment run in an order drawn from the seed. A `Process` plays a Lambda environment: its
strands end together when it is killed, and it has its own, perhaps wrong, clock.
"""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import greenlet

STEPS = 8  # between two looks at whether a run is over, while there is something to do
QUIET_SECONDS = 1.0
START = 1_793_491_200.0  # 2026-11-01T00:00:00Z: when pretended time is 0


class Killed(BaseException):
    """Ends the process of a strand: nothing of it runs any more."""


class Stuck(Exception):
    """Says that nothing is due, although a strand is being waited for."""


class Process:
    """Holds the strands of one environment; `skew` is how far its clock is off, in seconds."""

    def __init__(self, scheduler: "Scheduler", name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.skew = 0.0
        self.stalled_until = 0.0
        self.began = 0.0  # its latest invocation
        self.alive = True
        self.strands: list[Strand] = []

    def time(self) -> float:
        """Returns the seconds since the epoch by the clock of this process."""
        return START + self.scheduler.now + self.skew

    def spawn(self, call: Callable[[], Any], *, after: float = 0.0) -> "Strand":
        """Starts a strand of this process."""
        if not self.alive:
            raise Killed
        return Strand(self, call, after)

    def kill(self) -> None:
        """Ends the process and with it every strand that waits; the one that runs ends at its next wait."""
        self.alive = False
        current = self.scheduler.current
        for strand in list(self.strands):
            if strand is not current:
                self.scheduler.end(strand)


class Strand:
    """Runs one line of execution within a process."""

    __slots__ = ("_call", "done", "error", "greenlet", "loop", "process", "result", "token", "waiter")

    def __init__(self, process: Process, call: Callable[[], Any], after: float = 0.0) -> None:
        self.process = process
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.loop: asyncio.AbstractEventLoop | None = None  # the one that runs in it, as asyncio knows it
        self.token = 0  # which of its wake-up times counts
        self.waiter: Callable[[], None] | None = None  # is called when it is done
        self._call = call
        scheduler = process.scheduler
        self.greenlet = greenlet.greenlet(self._run, scheduler.greenlet)
        process.strands.append(self)
        scheduler.wake(self, scheduler.now + after)

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Killed as error:
            self.error = error
        except Exception as error:
            self.error = error
        self.done = True
        self.process.strands.remove(self)
        if self.waiter is not None:
            self.waiter()


class Scheduler:
    """Moves pretended time from one strand's moment to the next. `now` is in seconds since the start."""

    def __init__(self, chance: random.Random) -> None:
        self.now = 0.0
        self.current: Strand | None = None
        self.greenlet = greenlet.getcurrent()
        self.switches = 0
        self._chance = chance
        self._numbers = itertools.count()
        self._due: list[tuple[float, float, int, Strand | None, Any]] = []

    def wake(self, strand: Strand, when: float) -> None:
        """Sets the moment at which a strand goes on; one that was set before does not count any more."""
        strand.token += 1
        entry = (when, self._chance.random(), next(self._numbers), strand, strand.token)
        heapq.heappush(self._due, entry)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Calls a function, which must not wait, at a moment."""
        heapq.heappush(self._due, (when, self._chance.random(), next(self._numbers), None, call))

    def sleep(self, seconds: float) -> None:
        """Lets the current strand wait for so long."""
        strand = self._running()
        self.wake(strand, self.now + seconds)
        self._switch(strand)

    def park(self) -> None:
        """Lets the current strand wait until it is woken."""
        strand = self._running()
        strand.token += 1
        self._switch(strand)

    def join(self, strand: Strand) -> Any:
        """Waits for a strand and returns its result, or raises what ended it."""
        if not strand.done:
            current = self._running()
            strand.waiter = lambda: self.wake(current, self.now)
            self.park()
        if strand.error is not None:
            raise strand.error
        return strand.result

    def run(self, done: Callable[[], bool], limit: float) -> bool:
        """Lets strands run until `done` or a moment is reached; returns whether it was `done`."""
        while not done():
            if not self._due:
                raise Stuck("nothing is due any more")
            if self._due[0][0] > limit:
                self.now = limit
                return False
            self._step()
            for _ in range(STEPS):
                if not self._due or self._due[0][0] > self.now + QUIET_SECONDS:
                    break
                self._step()
        return True

    def end(self, strand: Strand) -> None:
        """Lets a waiting strand of a dead process end now."""
        strand.token += 1
        if not strand.done and strand.greenlet:
            self._enter(strand, Killed)
        elif not strand.done:  # it has not begun
            strand.done, strand.error = True, Killed()
            strand.process.strands.remove(strand)
            if strand.waiter is not None:
                strand.waiter()

    def _step(self) -> None:
        when, _, _, strand, token = heapq.heappop(self._due)
        if strand is None:
            self.now = max(self.now, when)
            token()
            return
        if token != strand.token or strand.done:
            return
        self.now = max(self.now, when)
        if strand.process.stalled_until > self.now:
            self.wake(strand, strand.process.stalled_until)
            return
        self.switches += 1
        self._enter(strand, None)

    def _enter(self, strand: Strand, thrown: type[BaseException] | None) -> None:
        before, loop = self.current, asyncio._get_running_loop()
        self.current = strand
        asyncio._set_running_loop(strand.loop)
        # A strand that is ended by another one returns to it, and else to the scheduler.
        strand.greenlet.parent = greenlet.getcurrent()
        if thrown is None:
            strand.greenlet.switch()
        else:
            strand.greenlet.throw(thrown)
        self.current = before
        asyncio._set_running_loop(loop)

    def _switch(self, strand: Strand) -> None:
        strand.loop = asyncio._get_running_loop()
        parent = strand.greenlet.parent
        assert parent is not None
        parent.switch()
        if not strand.process.alive:
            raise Killed

    def _running(self) -> Strand:
        strand = self.current
        assert strand is not None, "only strands can wait"
        if not strand.process.alive:
            raise Killed
        return strand
