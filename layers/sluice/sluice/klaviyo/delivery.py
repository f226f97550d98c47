"""Delivers one account's messages: packs them into jobs, and sends those in order.

Every event ends in one of four ways: delivered (the upstream has it), rejected (with the reason), parked
(safe until its account's circuit closes), or its message is in `Outcome.retry` and stays on the queue.
"""

import asyncio
from collections.abc import Iterable, Mapping, Set
from datetime import timedelta
from typing import Final

from sluice import contract
from sluice.accounts import KlaviyoAccount
from sluice.delivery import half_open
from sluice.delivery.backoff import Retry
from sluice.delivery.lone_refusals import LoneRefusals
from sluice.delivery.outcome import AccountBatch, Outcome
from sluice.delivery.ports import Ports
from sluice.delivery.responses import Fault
from sluice.klaviyo import packing
from sluice.klaviyo.bisection import JobDelivery
from sluice.klaviyo.ledger import EventLedger
from sluice.klaviyo.packing import Job
from sluice.klaviyo.sender import JobSender
from sluice.message import StoredMessage
from sluice.rejection import Reason

CONCURRENT_JOBS: Final = 8  # of one account, in one invocation
YIELDS_FOR: Final = timedelta(hours=1)  # since its acceptance, a message of an anonymous caller


async def deliver(account: KlaviyoAccount, batch: AccountBatch, ports: Ports, outcome: Outcome) -> None:
    """Brings every message of a batch to an outcome: delivered, rejected, parked or kept for a retry."""
    delivery = _Delivery(account, batch, ports, outcome)
    await half_open.deliver(account.id, batch, delivery, ports.circuits, outcome)


class _Delivery:
    """Delivers one account's part of a batch."""

    def __init__(self, account: KlaviyoAccount, batch: AccountBatch, ports: Ports, outcome: Outcome) -> None:
        self._batch = batch
        self._ports = ports
        self.lone_refusals = LoneRefusals(lambda: ports.now().timestamp())
        self._ledger = EventLedger(batch.messages, outcome, ports.receipts, self.lone_refusals, ports.now)
        self._sender = JobSender(account, ports, outcome.counts, self.lone_refusals)
        self.to_park = self._ledger.to_park

    @property
    def account_error(self) -> int | None:
        """Returns the status with which Klaviyo refuses the account itself, if it does."""
        return self._sender.account_error

    @property
    def is_processed(self) -> bool:
        """Tells whether Klaviyo processed any job."""
        return self._sender.last_processed > 0

    async def prepare(self) -> Mapping[int, StoredMessage]:
        """Returns the messages without the events that are completed; may raise `Retryable`."""
        await self._ledger.skip_completed(self._batch.redelivered)
        return self._ledger.messages

    async def record_progress(self) -> None:
        """Does nothing more: each job's events are recorded when it is accepted."""

    async def send(self, messages: Mapping[int, StoredMessage], *, one_at_a_time: bool) -> None:
        """Packs messages into jobs and delivers these, each after those that it must follow."""
        self._sender.yielding = self._yielding(messages)
        packed = packing.pack(messages.items())
        for event in packed.oversized:
            detail = f"One event must not exceed {contract.MAX_BODY_BYTES_OUT} bytes as sent upstream."
            fault = Fault("invalid", detail)
            self._ledger.reject([event], event.profile, Reason.OVERSIZED, fault, whole_entry=True)
        tasks: dict[int, asyncio.Task[Retry | None]] = {}
        concurrent = asyncio.Semaphore(1 if one_at_a_time else CONCURRENT_JOBS)
        async with asyncio.TaskGroup() as group:
            for job in packed.jobs:
                before = [tasks[number] for number in job.after]
                tasks[job.number] = group.create_task(self._deliver_in_order(before, job, concurrent))

    def _yielding(self, messages: Mapping[int, StoredMessage]) -> Set[int]:
        """Returns the anonymous callers' messages whose jobs let those of others go first, for a while."""
        since = self._ports.now() - YIELDS_FOR
        return {number for number in packing.strangers(messages) if messages[number].accepted > since}

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
                delivery = JobDelivery(self._sender, self._ledger, self.lone_refusals, long_failing=lasting)
                await delivery.deliver(left)
                await self.lone_refusals.send_again()  # or what must follow this job waits for it
        return self._ledger.pending_reason(job)
