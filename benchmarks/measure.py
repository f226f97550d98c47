"""Measures times and memory.

A time is the best of several rounds, with all contestants in each. So a busy moment of the machine affects
all of them alike, and the rest is the time of the work. It is processor time, because other programs on the
machine must not count.
"""

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

type Work = Callable[[], object]

_CALLS: Final = 10  # of a tight loop: the first ones warm the caches


def best(contestants: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Returns each contestant's shortest time in seconds, without the first call of each.

    Each call follows a garbage collection, so it finds caches as cold as after other work.
    """
    found = dict.fromkeys(contestants, float("inf"))
    for work in contestants.values():
        work()
    for _ in range(rounds):
        for name, work in contestants.items():
            gc.collect()
            begin = time.process_time()
            work()
            found[name] = min(found[name], time.process_time() - begin)
    return found


def best_warm(contestants: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Returns the same for tight loops of several calls, alternating, without the garbage collector."""
    found = dict.fromkeys(contestants, float("inf"))
    gc.disable()
    try:
        for _ in range(rounds):
            for name, work in contestants.items():
                for _ in range(_CALLS):
                    begin = time.process_time()
                    work()
                    found[name] = min(found[name], time.process_time() - begin)
    finally:
        gc.enable()
    return found


def instructions(work: Work) -> int:
    """Counts the instructions that Python's interpreter carries out in a call: the same on every machine."""
    monitoring, tool, count = sys.monitoring, sys.monitoring.PROFILER_ID, 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    monitoring.use_tool_id(tool, "instructions")
    monitoring.register_callback(tool, monitoring.events.INSTRUCTION, note)
    monitoring.set_events(tool, monitoring.events.INSTRUCTION)
    try:
        work()
    finally:
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        monitoring.free_tool_id(tool)
    return count


def peak_growth(work: Work) -> int:
    """Returns the bytes of resident memory that a call needs at most, its result included.

    It holds for the first large call in a process: memory freed before may be used again unnoticed.
    """
    before = peak(forget=True)
    kept = work()
    after = peak()
    del kept
    return after - before


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the value that so many percent of the values do not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def peak(*, forget: bool = False) -> int:
    """Returns the peak of resident memory in bytes, so far or, on Linux, since it was last forgotten."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    # Not `ru_maxrss`: Linux hands it on to a child that is started, so there it may be the parent's.
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
