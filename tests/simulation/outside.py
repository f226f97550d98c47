"""Guards the border between a process and the world: every call across it takes time, and meets the
weather.
"""

import contextlib
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.simulation.faults import CRASHES, Fault, Faults
from tests.simulation.scheduler import Killed, Process, Scheduler
from tests.simulation.trace import Trace

if TYPE_CHECKING:
    from tests.simulation.causes import Causes

REMEMBERED_SECONDS = 5.0  # for which a process makes no call to a service that was slow to fail
_NO_FAILURES = ("", "killed", "ConditionalCheckFailedException")
_SLOW = frozenset({Fault.HUNG, Fault.HUNG_DONE, Fault.SLOW})


@dataclass(slots=True)
class Call:
    """Describes one call on its way: the fault that meets it, if any, and chance for the details."""

    scheduler: Scheduler
    latency: float
    fault: Fault | None
    chance: random.Random

    def take_time(self) -> None:
        """Waits as long as such a call usually takes."""
        self.scheduler.sleep(self.latency)

    def wait(self, seconds: float) -> None:
        """Waits for so long."""
        self.scheduler.sleep(seconds)


class Outside:
    """Makes all calls of all processes to the outside."""

    def __init__(self, scheduler: Scheduler, faults: Faults, trace: Trace, chance: random.Random) -> None:
        self.scheduler = scheduler
        self.faults = faults
        self.trace = trace
        self.counts: dict[str, int] = {}
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.causes: Causes | None = None
        self.undeleted: set[Process] = set()  # whose deletions of messages may have failed
        self._disturbed: dict[Process, float] = {}  # when a call to AWS met its last fault
        self._chance = chance

    @contextlib.contextmanager
    def call(self, process: Process, operation: str, to: str, of: tuple[str, ...]) -> Iterator[Call]:
        """Surrounds one call: draws its fault, crashes the process if it is a crash, notes how it went."""
        if not process.alive:
            raise Killed
        began = self.scheduler.now
        if self.causes is not None:
            self.causes.begins(process, operation, to)
        fault, chance = self.draw(process, operation, of)
        if fault is Fault.CRASH_BEFORE:
            self.crash(process, operation, to, fault)
        if fault is not None:
            self._disturbed[process] = self.scheduler.now
        if fault is Fault.STALL:
            self.stall(process, chance)
        how = ""
        self.at_once[operation] += 1
        self.most_at_once[operation] = max(self.most_at_once[operation], self.at_once[operation])
        try:
            yield Call(self.scheduler, self._chance.uniform(0.002, 0.02), _of_call(fault), chance)
        except Killed:
            how = "killed"
            raise
        except Exception as error:
            how = type(error).__name__
            raise
        finally:
            self.at_once[operation] -= 1
            if self.causes is not None:
                self.causes.ends(process, operation, to, began, failed=how not in _NO_FAILURES)
            self._note(process, operation, to, fault, how)
        if fault is Fault.CRASH_AFTER:
            self.crash(process, operation, to, fault)

    def draw(
        self, process: Process, operation: str, of: tuple[str, ...]
    ) -> tuple[Fault | None, random.Random]:
        """Counts a call and draws its fault."""
        self.counts[operation] = self.counts.get(operation, 0) + 1
        drawn = self.faults.draw(operation, self.scheduler.now, of)
        if drawn is None:
            return None, self._chance
        fault, _ = drawn
        if self.causes is not None:
            self.causes.faulty(process, operation)
        if operation == "sqs.delete_message_batch" or (operation.startswith("sqs.") and fault in _SLOW):
            self.undeleted.add(process)
        return drawn

    def crash(self, process: Process, operation: str, to: str, fault: Fault) -> None:
        """Ends the process within this call."""
        self.trace.add(self.scheduler.now, process.name, operation, to, fault)
        process.kill()
        raise Killed

    def stall(self, process: Process, chance: random.Random) -> None:
        """Lets the whole process stand still for a while."""
        process.stalled_until = self.scheduler.now + chance.choice((0.1, 0.3, 1.0, 4.0, 20.0))
        self.scheduler.sleep(0.0)

    def is_disturbed(self, process: Process) -> bool:
        """Tells whether a fault of AWS met the invocation of a process, or is remembered in it."""
        return self._disturbed.get(process, -math.inf) >= process.began - REMEMBERED_SECONDS

    def _note(self, process: Process, operation: str, to: str, fault: Fault | None, how: str) -> None:
        if fault is not None:
            self._disturbed[process] = self.scheduler.now
        self.trace.add(self.scheduler.now, process.name, operation, to, f"[{fault}] {how}" if fault else how)


def _of_call(fault: Fault | None) -> Fault | None:
    """Returns the fault as the call itself sees it."""
    return None if fault in CRASHES or fault is Fault.STALL else fault
