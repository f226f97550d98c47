"""Delivers one account's messages: in full calls, each in its slot; a bad event is found by halving."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from functools import partial
from typing import Protocol

import msgspec

from sluice import receipts, rejection
from sluice.delivery import half_open
from sluice.delivery.backoff import Retry
from sluice.delivery.lone_refusals import LoneRefusal, LoneRefusals, name_of
from sluice.delivery.outcome import AccountBatch, Outcome, Refusal
from sluice.delivery.ports import Circuits, Receipts
from sluice.delivery.rate_limiter import NoSlotBeforeDeadline, RateLimiter
from sluice.delivery.responses import Accepted, AccountRejected, JobRejected, RateLimited, Response, Transient
from sluice.errors import Retryable
from sluice.jsonapi import pointer
from sluice.rejection import Reason

from . import packing
from .message import AcmeAccount, AcmeMessage
from .packing import PackedEvent
from .responses import classify


class Ports(Protocol):
    """Reaches what this delivery needs; `sluice.delivery.ports` gets a method for each vendor's call."""

    @property
    def circuits(self) -> Circuits:
        """Returns the circuit breakers."""
        ...

    @property
    def receipts(self) -> Receipts:
        """Returns the receipts."""
        ...

    async def create_events(self, *, account: AcmeAccount, body: bytes) -> Response:
        """Sends a call to Acme."""
        ...

    def rate_limiter(self, *, account: AcmeAccount) -> RateLimiter:
        """Returns the rate limiter of an account."""
        ...

    def now(self) -> datetime:
        """Returns the time."""
        ...


async def deliver(
    account: AcmeAccount, batch: AccountBatch[AcmeMessage], ports: Ports, outcome: Outcome
) -> None:
    """Brings every message of a batch to an outcome: delivered, rejected, parked or kept for a retry."""
    delivery = _Delivery(account, batch, ports, outcome)
    await half_open.deliver(account.id, batch, delivery, ports.circuits, outcome)


class _Delivery:
    """Is what `half_open.VendorDelivery` asks for."""

    def __init__(
        self, account: AcmeAccount, batch: AccountBatch[AcmeMessage], ports: Ports, outcome: Outcome
    ) -> None:
        self._account = account
        self._batch = batch
        self._ports = ports
        self._outcome = outcome
        self._rate_limiter = ports.rate_limiter(account=account)
        self._completed: Mapping[int, Set[int]] = {}  # indexes of events, by message
        self._delivered: defaultdict[int, set[int]] = defaultdict(set)
        self._requests = 0
        self.account_error: int | None = None
        self.is_processed = False
        self.lone_refusals = LoneRefusals(lambda: ports.now().timestamp())
        self.to_park: set[int] = set()

    async def prepare(self) -> Mapping[int, AcmeMessage]:
        """Finds the completed events of redelivered messages; may raise `Retryable`."""
        messages = self._batch.messages
        scoped = {number: _receipt(messages[number]) for number in self._batch.redelivered}
        if scoped:
            known = await self._ports.receipts.completed(receipts=sorted(set(scoped.values())))
            self._completed = {number: known.get(name, frozenset()) for number, name in scoped.items()}
        return messages

    async def send(self, messages: Mapping[int, AcmeMessage], *, one_at_a_time: bool) -> None:  # noqa: ARG002
        """Sends messages, one call after another."""
        for call in packing.pack(messages, self._completed):
            await self._deliver(call)

    async def record_progress(self) -> None:
        """Records the delivered events of messages that come again."""
        refused = {refusal.record for refusal in self._outcome.refusals}
        for number in (self._outcome.retry.keys() | self.to_park | refused) & self._delivered.keys():
            receipt, positions = _receipt(self._batch.messages[number]), sorted(self._delivered[number])
            try:
                await self._ports.receipts.record_delivered(receipt=receipt, positions=positions)
            except Retryable:
                self._outcome.counts["ReceiptWriteFailures"] += 1

    async def _deliver(self, call: Sequence[PackedEvent]) -> bool:
        """Brings every event of a call to an outcome; returns True if the whole call was taken."""
        match await self._send_in_slot(call):
            case Accepted():
                self.lone_refusals.mark_delivered(self._requests)
                for each in call:
                    self._delivered[each.message].add(each.index)
                    self._outcome.counts["DeliveredEvents"] += 1
                return True
            case JobRejected() if len(call) > 1:
                middle = len(call) // 2
                await self._deliver(call[:middle])
                await self._deliver(call[middle:])
            case JobRejected() as verdict:
                self._refuse(call[0], verdict)
            case AccountRejected(status):
                self.account_error = status
                self.to_park |= {each.message for each in call}
            case Retry() as wait:
                self._outcome.retry.update({each.message: wait for each in call})
        return False

    async def _send_in_slot(
        self, call: Sequence[PackedEvent]
    ) -> Accepted | JobRejected | AccountRejected | Retry:
        """Sends a call in its slot, again after a 429; returns a wait if nothing is known of it yet."""
        while True:
            try:
                await self._rate_limiter.acquire()
            except Retryable as error:
                return Retry(error.after, rate_limited=isinstance(error, NoSlotBeforeDeadline))
            self._requests += 1
            self._outcome.counts["UpstreamRequests"] += 1
            answer = await self._ports.create_events(account=self._account, body=packing.body(call))
            match classify(answer):
                case RateLimited(after):
                    await self._rate_limiter.pause(after)
                case Transient(_, after):
                    return Retry(after)
                case AccountRejected() as verdict:
                    return verdict
                case verdict:
                    self.is_processed = True
                    return verdict

    def _refuse(self, refused: PackedEvent, verdict: JobRejected) -> None:
        """Leaves it to `settle` whether the event is bad or its account: nobody says why it was refused."""
        self.lone_refusals.add(
            LoneRefusal(
                name_of(msgspec.json.encode(refused.event)),
                frozenset({refused.message}),
                verdict.status,
                request=self._requests,
                reject=partial(self._reject, refused, verdict),
                send_again=partial(self._deliver, [refused]),
            )
        )

    def _reject(self, refused: PackedEvent, verdict: JobRejected) -> None:
        message = self._batch.messages[refused.message]
        positions = (refused.index,)
        rejected = rejection.for_refused_events(
            message,
            msgspec.json.encode({"events": [refused.event]}),
            reason=Reason.REFUSED,
            code=verdict.fault.code,
            detail=verdict.fault.detail,
            index=refused.index,
            pointer=pointer("events", refused.index),
            line=message.line,
            now=self._ports.now(),
            positions=positions,
        )
        self._outcome.refusals.append(Refusal(refused.message, rejected, _receipt(message), positions))


def _receipt(message: AcmeMessage) -> str:
    return receipts.scoped(message.account, message.receipt)
