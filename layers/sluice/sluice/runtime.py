"""Provides what differs from run to run: clocks, chance, unique ids, threads and the event loop.

The package asks this module for all of these, and nothing else for any of them. So a test that replaces
`current` decides the whole course of a run. Linting holds this: no other module may use the functions of the
standard library that are called here.
"""

import asyncio
import random
import time as system_time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final, Protocol

type Runner = asyncio.Runner


class Runtime(Protocol):
    """Names the sources of what differs from run to run."""

    @property
    def chance(self) -> random.Random:
        """Returns a source of random numbers."""

    def time(self) -> float:
        """Returns the seconds since the epoch. The clock may be wrong, and may be set."""

    def monotonic(self) -> float:
        """Returns seconds of a clock that nobody sets."""

    def processor_time(self) -> float:
        """Returns the seconds for which this thread has been computing."""

    def sleep(self, seconds: float) -> None:
        """Lets this thread wait."""

    def unique_id(self) -> str:
        """Returns 32 hexadecimal digits that nobody else has."""

    def new_runner(self, threads: int) -> Runner:
        """Returns a runner of an event loop of its own, which runs calls in so many threads."""

    def map_concurrently[T, R](
        self, call: Callable[[T], R], arguments: Iterable[T], *, threads: int
    ) -> list[R]:
        """Returns what a call returns for each argument, made in so many threads; raises what one raises."""


class System:
    """Uses the machine's own clocks, chance and threads."""

    chance: Final = random.SystemRandom()

    def time(self) -> float:
        return system_time.time()

    def monotonic(self) -> float:
        return system_time.monotonic()

    def processor_time(self) -> float:
        return system_time.thread_time()

    def sleep(self, seconds: float) -> None:
        system_time.sleep(seconds)

    def unique_id(self) -> str:
        return uuid.uuid4().hex

    def new_runner(self, threads: int) -> Runner:
        runner = asyncio.Runner()
        runner.get_loop().set_default_executor(ThreadPoolExecutor(threads))
        return runner

    def map_concurrently[T, R](
        self, call: Callable[[T], R], arguments: Iterable[T], *, threads: int
    ) -> list[R]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(call, arguments))


current: Runtime = System()


def chance() -> random.Random:
    """Returns the source of random numbers."""
    return current.chance


def time() -> float:
    """Returns the seconds since the epoch."""
    return current.time()


def now() -> datetime:
    """Returns the time in UTC."""
    return datetime.fromtimestamp(current.time(), UTC)


def monotonic() -> float:
    """Returns seconds of a clock that nobody sets."""
    return current.monotonic()


def processor_time() -> float:
    """Returns the seconds for which this thread has been computing."""
    return current.processor_time()


def sleep(seconds: float) -> None:
    """Lets this thread wait."""
    current.sleep(seconds)


def unique_id() -> str:
    """Returns 32 hexadecimal digits that nobody else has."""
    return current.unique_id()


def new_runner(threads: int) -> Runner:
    """Returns a runner of an event loop of its own, which runs calls in so many threads."""
    return current.new_runner(threads)


def map_concurrently[T, R](call: Callable[[T], R], arguments: Iterable[T], *, threads: int) -> list[R]:
    """Returns what a call returns for each argument, made in so many threads; raises what one raises."""
    return current.map_concurrently(call, arguments, threads=threads)
