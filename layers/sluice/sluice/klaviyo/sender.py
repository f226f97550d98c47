"""Asks the upstream about one account's jobs, each in its turn, and keeps what that says of the account."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from sluice.accounts import Account
from sluice.delivery.rate_limiter import LATE_SECONDS, Pace
from sluice.delivery.responses import AccountFault, Answer, Taken, Throttled, Transient, Unattributed
from sluice.errors import Retryable
from sluice.klaviyo import responses
from sluice.klaviyo.packing import Job
from sluice.klaviyo.responses import Attributed

type Turn = Callable[[], Awaitable[float]]
type Reply = Taken | Attributed | Unattributed | Transient | AccountFault

NO_ANSWER: Final = 0  # the status of a fault where none came


def is_looked_at(reply: Reply) -> bool:
    """Whether the upstream looked at what is in the job, whatever it thinks of it."""
    return isinstance(reply, Taken | Attributed | Unattributed)


class _Refused(Exception):
    """All of the account's jobs are refused, so there are no more turns."""


class Asker:
    """An account, as one invocation comes to know it.

    Its requests are numbered as they get their turns: `sent` is the latest, `looked_at` the latest whose
    job was looked at (0 for none). `failing` are the messages of jobs that the upstream failed on, by
    number. `throttled` is True after a 429. `fault` is the status with which all of its jobs are refused;
    once it is set nothing more is asked. Whoever holds `in_doubt` is finding that out, and only samples
    are sent meanwhile.
    """

    def __init__(
        self,
        account: Account,
        pace: Pace,
        create_job: Callable[[Account, bytes, Turn], Awaitable[Answer]],
        counts: Counter[str],
    ) -> None:
        self.sent = 0
        self.looked_at = 0
        self.failing: set[int] = set()
        self.throttled = False
        self.fault: int | None = None
        self.in_doubt = asyncio.Lock()
        self._account = account
        self._pace = pace
        self._create_job = create_job
        self._counts = counts

    async def ask(self, job: Job, *, sample: bool = False) -> Reply | None:
        """Sends a job when it is its turn, again after a throttle, and judges the answer.

        None if no job of this account is looked at for now. Raises `OutOfTime` where there is no turn.
        """
        body = job.body()
        while True:
            try:
                number, verdict = await self._send(job, body, sample)
            except _Refused:
                return None
            match verdict:
                case Throttled(after):
                    self._counts["Throttles"] += 1
                    self.throttled = True
                    await self._pace.pause(after)
                case AccountFault(status) if verdict.is_certain:
                    self.fault = status
                case _:
                    if isinstance(verdict, Transient):
                        self._counts["TransientFaults"] += 1
                        self.failing |= job.messages()
                    if is_looked_at(verdict):
                        self.looked_at = max(self.looked_at, number)
                    return verdict

    async def _turn(self, sample: bool) -> int:
        while self.fault is None:
            if not sample:
                async with self.in_doubt:
                    pass  # it is over
            slot = await self._pace.turn()
            if self.fault is not None:
                break
            if sample or not self.in_doubt.locked():
                return slot
        raise _Refused

    async def _send(self, job: Job, body: bytes, sample: bool) -> tuple[int, responses.Verdict]:
        """The number under which a job was sent in its turn, and what the answer means."""
        slot = number = 0

        async def turn() -> float:
            nonlocal slot, number
            if number:
                self._counts["MissedTurns"] += 1
            slot = await self._turn(sample)
            self.sent = number = self.sent + 1
            return slot / 1_000 + LATE_SECONDS

        answer = await self._create_job(self._account, body, turn)
        self._counts["UpstreamRequests"] += 1
        if (left := responses.rate_left(answer)) is not None:
            with contextlib.suppress(Retryable):  # what became of the job matters more
                await self._pace.observe(slot, *left)
        return number, responses.judge(answer, job)
