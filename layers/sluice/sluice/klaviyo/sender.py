"""Sends one account's jobs, each in its slot, and keeps what the answers say of the account."""

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Final

from sluice.accounts import KlaviyoAccount
from sluice.delivery.lone_refusals import LoneRefusals
from sluice.delivery.ports import Ports
from sluice.delivery.rate_limiter import SLOT_TOLERANCE_SECONDS
from sluice.delivery.responses import Accepted, AccountRejected, JobRejected, RateLimited, Transient
from sluice.errors import Retryable
from sluice.klaviyo import responses
from sluice.klaviyo.packing import Job
from sluice.klaviyo.responses import ItemsRejected

if TYPE_CHECKING:
    from collections.abc import Set

type Reply = Accepted | ItemsRejected | JobRejected | Transient | AccountRejected

NO_ANSWER: Final = 0  # the status of a fault where none came


def is_processed(reply: Reply) -> bool:
    """Tells whether the upstream looked at the content of the job, whatever it decided."""
    return isinstance(reply, Accepted | ItemsRejected | JobRejected)


class _AccountPaused(Exception):
    """Says that all of the account's jobs are refused, so no more slots are used."""


class JobSender:
    """Sends one account's jobs, and keeps what one invocation learns about the account.

    Its requests are numbered as they get their slots. `sent` is the latest number, `last_processed` the
    latest whose job the upstream looked at (0 for none). `failing` are the messages of jobs that the upstream
    failed on, by number. `throttled` is True after a 429. `account_error` is the status with which all of its
    jobs are refused; once it is set, nothing more is sent. A task that holds `account_check` is finding that
    out, and only samples are sent meanwhile.
    """

    def __init__(
        self,
        account: KlaviyoAccount,
        ports: Ports,
        counts: Counter[str],
        lone_refusals: LoneRefusals,
    ) -> None:
        self.last_sent = 0
        self.last_processed = 0
        self.failing_messages: set[int] = set()
        self.rate_limited = False
        self.yielding: Set[int] = frozenset()  # messages whose jobs let others go first
        self.account_error: int | None = None
        self.account_check = asyncio.Lock()
        self._account = account
        self._rate_limiter = ports.rate_limiter(account=account)
        self._ports = ports
        self._counts = counts
        self._lone_refusals = lone_refusals

    async def send(self, job: Job, *, sample: bool = False) -> Reply | None:
        """Sends a job in its slot, again after a 429, and classifies the answer.

        Returns None if no job of this account is sent for now. Raises `NoSlotBeforeDeadline` if there is no
        slot.
        """
        body = job.body()
        while True:
            try:
                number, verdict = await self._send_in_slot(job, body, sample)
            except _AccountPaused:
                return None
            match verdict:
                case RateLimited():
                    self._counts["UpstreamRateLimited"] += 1
                    self.rate_limited = True
                case AccountRejected(status) if verdict.is_certain:
                    self.account_error = status
                case _:
                    if isinstance(verdict, Transient):
                        self._counts["TransientFaults"] += 1
                        self.failing_messages |= job.messages()
                    if isinstance(verdict, Accepted) or (
                        isinstance(verdict, ItemsRejected) and verdict.duplicates
                    ):
                        self._lone_refusals.mark_delivered(number)
                    if is_processed(verdict):
                        self.last_processed = max(self.last_processed, number)
                    return verdict

    async def _acquire_slot(self, sample: bool, yields: bool) -> int:
        while self.account_error is None:
            if not sample:
                async with self.account_check:
                    pass  # it is over
            slot = await self._rate_limiter.acquire(yields=yields)
            if self.account_error is not None:
                break
            if sample or not self.account_check.locked():
                return slot
        raise _AccountPaused

    async def _send_in_slot(
        self, job: Job, body: bytes, sample: bool
    ) -> tuple[int, responses.Classification]:
        """Sends a job in its slot, and returns its number and the classification of the answer."""
        slot = number = 0
        yields = bool(self.yielding) and job.messages() <= self.yielding

        async def acquire_slot() -> float:
            nonlocal slot, number
            if number:
                self._counts["MissedSlots"] += 1
            slot = await self._acquire_slot(sample, yields)
            self.last_sent = number = self.last_sent + 1
            return slot / 1_000 + SLOT_TOLERANCE_SECONDS

        answer = await self._ports.create_job(account=self._account, body=body, acquire_slot=acquire_slot)
        self._counts["UpstreamRequests"] += 1
        if (left := responses.rate_left(answer)) is not None:
            with contextlib.suppress(Retryable):  # the outcome of the job matters more
                await self._rate_limiter.observe(slot, *left)
        verdict = responses.classify(answer, job)
        if isinstance(verdict, RateLimited):
            await self._rate_limiter.pause(verdict.after, slot)
        return number, verdict
