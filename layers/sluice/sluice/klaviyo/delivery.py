"""Delivers one account's messages: packs them into jobs, sends those in order, heeds the account's circuit.

Every event ends in one of four ways: delivered (the upstream has it), rejected (with the reason),
parked (safe until its account's circuit closes), or its message is in `Outcome.retry` and stays on the
queue.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from sluice import contract
from sluice.accounts import KlaviyoAccount, PipelessApp
from sluice.delivery.backoff import Retry
from sluice.delivery.outcome import (
    AccountBatch,
    Circuits,
    Outcome,
    Receipts,
    close_circuit,
    open_circuit,
    park,
)
from sluice.delivery.rate_limiter import RateLimiter
from sluice.delivery.responses import Fault, Response
from sluice.errors import Retryable
from sluice.klaviyo import packing
from sluice.klaviyo.bisection import JobDelivery
from sluice.klaviyo.ledger import EventLedger
from sluice.klaviyo.packing import Job
from sluice.klaviyo.sender import AcquireSlot, JobSender
from sluice.message import StoredMessage
from sluice.rejection import Reason

CONCURRENT_JOBS: Final = 8  # of one account, in one invocation


class Ports(msgspec.Struct, frozen=True):
    """Holds everything through which a delivery reaches AWS and Klaviyo; all but `now` may raise `Retryable`.

    `create_job` waits for the slot it is given, sends the job in it or in a new one, and raises its errors.
    """

    create_job: Callable[[KlaviyoAccount, bytes, AcquireSlot], Awaitable[Response]]
    create_events: Callable[[PipelessApp, bytes], Awaitable[Response]]
    rate_limiter: Callable[[KlaviyoAccount | PipelessApp], RateLimiter]
    circuits: Circuits
    receipts: Receipts
    now: Callable[[], datetime]


async def deliver(account: KlaviyoAccount, share: AccountBatch, ports: Ports, outcome: Outcome) -> None:
    """Sees to every message of a share: each is delivered, refused, parked or kept for a retry."""
    await _Delivery(account, share, ports, outcome).run()


class _Delivery:
    """Delivers one account's part of a batch."""

    def __init__(self, account: KlaviyoAccount, share: AccountBatch, ports: Ports, outcome: Outcome) -> None:
        self._site_id = account.site_id
        self._batch = share
        self._ports = ports
        self._outcome = outcome
        self._ledger = EventLedger(share.messages, outcome, ports.receipts, ports.now)
        self._sender = JobSender(account, ports.rate_limiter(account), ports.create_job, outcome.counts)

    async def run(self) -> None:
        """Sees to every message: each is delivered, refused, parked or kept for a retry."""
        try:
            await self._ledger.skip_completed(self._batch.redelivered)
            if await self._ports.circuits.is_open(self._site_id):
                await self._probe()
            else:
                await self._send_jobs(self._ledger.messages)
            if self._sender.account_error is not None:
                await open_circuit(
                    self._site_id, self._sender.account_error, self._ports.circuits, self._outcome
                )
        except Retryable as error:
            for number in self._batch.messages:
                self._outcome.retry.setdefault(number, Retry(error.after))
        waiting = {number: self._ledger.messages[number] for number in self._ledger.to_park}
        await park(self._site_id, waiting, self._ports.circuits, self._outcome)

    async def _probe(self) -> None:
        """Tries only what was sent back for that, while the circuit is open; parks all else."""
        messages, probes = self._ledger.messages, self._batch.probes
        rest = {number: message for number, message in messages.items() if number not in probes}
        await self._send_jobs({n: message for n, message in messages.items() if n in probes}, at_once=1)
        works = self._sender.last_processed and self._sender.account_error is None
        if works and await close_circuit(self._site_id, self._ports.circuits, self._outcome):
            await self._send_jobs(rest)
        else:
            # Probes that were not looked at, too: on the queue they would be tried between the minutes.
            self._ledger.to_park.update(rest, probes & self._outcome.retry.keys())

    async def _send_jobs(self, messages: Mapping[int, StoredMessage], at_once: int = CONCURRENT_JOBS) -> None:
        packed = packing.pack(messages.items())
        for event in packed.oversized:
            detail = f"One event must not exceed {contract.MAX_BODY_BYTES_OUT} bytes as sent upstream."
            fault = Fault("invalid", detail)
            self._ledger.reject([event], event.profile, Reason.OVERSIZED, fault, whole_entry=True)
        tasks: dict[int, asyncio.Task[Retry | None]] = {}
        concurrent = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as group:
            for job in packed.jobs:
                before = [tasks[number] for number in job.after]
                tasks[job.number] = group.create_task(self._deliver_in_order(before, job, concurrent))

    async def _deliver_in_order(
        self, before: Iterable[asyncio.Task[Retry | None]], job: Job, concurrent: asyncio.Semaphore
    ) -> Retry | None:
        """Delivers a job after those that it must follow; returns why it is not completed, if so.

        A job that must follow a waiting one waits, too: otherwise older attributes would come after newer
        ones.
        """
        for task in before:
            if (wait := await task) is not None:
                self._ledger.keep(job, wait)
                return wait
        async with concurrent:
            lasting = not self._batch.long_failing.isdisjoint(job.messages())
            if (left := await self._ledger.skip_duplicates(job)) is not None:
                await JobDelivery(self._sender, self._ledger, long_failing=lasting).deliver(left)
        return self._ledger.pending_reason(job)
