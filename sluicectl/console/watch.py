"""Remembers how the status was while the console ran, because a deployment keeps no history of its queues."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sluice.operate.command import Arguments, Command, Result
from sluice.operate.status import STATUS, StatusArguments, StatusResult

FRESH_SECONDS: Final = 3.0  # for which several pages get the same status
KEPT: Final = 720  # an hour of looks at five seconds each


class Door(Protocol):
    """Does what operators ask a deployment for; its methods raise `Failure`."""

    def call[A: Arguments, R: Result](self, command: Command[A, R], arguments: A) -> R:
        """Runs a command, and returns its result."""
        ...

    def may_change(self) -> bool:
        """Tells whether commands that change something are allowed."""
        ...


@dataclass
class Watch:
    """Looks at the status of a deployment for every page that asks, and keeps a sample of each look."""

    door: Door
    _samples: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    _last: StatusResult | None = None
    _looked: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> dict[str, Any]:
        """Returns the status, with the samples of it so far as `samples`."""
        with self._lock:
            if self._last is None or time.monotonic() - self._looked > FRESH_SECONDS:
                self._last = self.door.call(STATUS, StatusArguments())
                self._looked = time.monotonic()
                self._samples.append(sample(self._last))
            return {**self._last.model_dump(mode="json"), "samples": list(self._samples)}

    def forget(self) -> None:
        """Lets the next look be a fresh one, because something was changed."""
        with self._lock:
            self._last = None


def sample(status: StatusResult) -> dict[str, Any]:
    """Returns the numbers of a status that are drawn over time; None stands for what is not known."""
    paces = [each.pace for each in status.accounts if each.pace is not None and each.pace.used is not None]
    queues = [each for each in status.queues if each.name in {"events", "background"}]
    return {
        "at": status.at.isoformat(),
        "queue": sum(each.visible + each.in_flight + each.delayed for each in queues) if queues else None,
        "parked": sum(each.parked for each in status.accounts),
        "used": sum(each.used or 0 for each in paces) if paces else None,
        "allowed": sum(each.allowed for each in paces) if paces else None,
        "open": sum(each.circuit in {"open", "paused"} for each in status.accounts),
        "refused": status.open_events,
    }
