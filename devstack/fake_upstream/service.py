"""Keeps what both fake vendors have around their rules: a clock, settings, dealt faults and a log."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from devstack.fake_upstream.answers import Answer, Refused
from devstack.fake_upstream.settings import FaultDeck, PipelessSettings, Settings, Strike


class LogLine(msgspec.Struct, kw_only=True):
    """Holds one line of a log of requests: `status` is None without an answer, `events` are those taken."""

    time: float
    status: int | None = None
    events: int = 0
    faults: tuple[str, ...] = ()


class Service[Changeable: (Settings, PipelessSettings), Line: LogLine]:
    """Serves one vendor's requests. A holder of `lock` sees nothing change."""

    def __init__(self, settings: Changeable, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self._initial: Changeable = settings
        self.reset()

    def reset(self) -> None:
        """Empties the log, and returns to the settings of the start."""
        self.settings: Changeable = self._initial
        self._deal()
        self.log: list[Line] = []

    def configure(self, changes: dict[str, object]) -> Changeable:
        """Replaces the named settings; naming `faults` or `seed` deals the faults anew.

        Raises `msgspec.ValidationError`, which says what is wrong.
        """
        with self.lock:
            changed = {**msgspec.to_builtins(self.settings), **changes}
            self.settings = msgspec.convert(changed, type(self.settings))
            if changes.keys() & {"faults", "seed"}:
                self._deal()
            return self.settings

    def answer(self, line: Line, serve: Callable[[], Answer]) -> Answer:
        """Answers one request with `serve`, and logs it."""
        try:
            answer = serve()
        except Refused as refusal:
            answer = refusal.answer
        if answer.ending == "answered":
            line.status = answer.status
        self.log.append(line)
        return answer

    def strike(self, account: str, line: Line) -> Strike:
        """Returns the faults that strike a request, and names them in its line of the log."""
        strike = self._faults.strike(account, line.time)
        line.faults = tuple(fault.kind for fault in strike.faults)
        return strike

    def _deal(self) -> None:
        self._faults = FaultDeck(self.settings.faults, self.settings.seed)


def count_statuses(lines: Iterable[LogLine]) -> Counter[str]:
    """Counts requests by the status of their answer."""
    return Counter("no answer" if line.status is None else str(line.status) for line in lines)
