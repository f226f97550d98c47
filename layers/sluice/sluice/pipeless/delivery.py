"""Delivers one app's messages: in calls of ten, one after the other, each in its slot.

As with Klaviyo, every event ends delivered, rejected or parked, or its message stays on the queue. But a call
that is sent again writes again. So the delivered events of a message are recorded when the rest of it waits.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Final

import msgspec

from sluice import receipts, rejection, runtime
from sluice.accounts import PipelessApp
from sluice.delivery import backoff, half_open
from sluice.delivery.backoff import Retry
from sluice.delivery.lone_refusals import LoneRefusal, LoneRefusals, name_of
from sluice.delivery.outcome import AccountBatch, Outcome, Refusal
from sluice.delivery.ports import Ports
from sluice.delivery.rate_limiter import NoSlotBeforeDeadline
from sluice.delivery.responses import Accepted, AccountRejected, Fault, JobRejected, RateLimited, Transient
from sluice.errors import Retryable
from sluice.jsonapi import pointer
from sluice.message import PipelessMessage
from sluice.pipeless import packing
from sluice.pipeless.packing import PackedEvent, Thing, Value
from sluice.pipeless.responses import classify
from sluice.rejection import Reason

MAX_FAILED_CALLS: Final = 2  # in a row; the next call would fail as well
MAX_REFUSED_CALLS: Final = 3  # in a row, while the app may be at fault


async def deliver(
    app: PipelessApp, batch: AccountBatch[PipelessMessage], ports: Ports, outcome: Outcome
) -> None:
    """Brings every message of a batch to an outcome: delivered, rejected, parked or kept for a retry."""
    await half_open.deliver(app.id, batch, _Delivery(app, batch, ports, outcome), ports.circuits, outcome)


class _Search:
    """Holds what a search for bad events began with: a refused call, and the last request sent by then."""

    def __init__(self, call: Sequence[PackedEvent], refused_after: int) -> None:
        self.refused_after = refused_after
        self.not_taken = list(call)

    def mark_delivered(self, call: Sequence[PackedEvent]) -> None:
        """Records that events of the call are taken by now."""
        self.not_taken = [each for each in self.not_taken if each not in call]


class _Delivery:
    """Delivers one app's part of a batch."""

    def __init__(
        self, app: PipelessApp, batch: AccountBatch[PipelessMessage], ports: Ports, outcome: Outcome
    ) -> None:
        self._app = app
        self._batch = batch
        self._ports = ports
        self._outcome = outcome
        self._rate_limiter = ports.rate_limiter(account=app)
        self._rejected_account: AccountRejected | None = None
        self._failures = 0  # failed calls in a row
        self._completed: Mapping[int, Set[int]] = {}  # indexes of events, by message
        self._waiting: defaultdict[Thing, set[Value]] = defaultdict(set)  # writes of the events that wait
        self._delivered: defaultdict[int, set[int]] = defaultdict(set)  # indexes of events, by message
        self._requests = 0
        self._later: list[tuple[Sequence[PackedEvent], _Search]] = []
        self.is_processed = False
        self.lone_refusals = LoneRefusals(lambda: ports.now().timestamp())
        self.to_park: set[int] = set()

    @property
    def account_error(self) -> int | None:
        """Returns the status with which Pipeless refuses the app itself, if it does."""
        return None if self._rejected_account is None else self._rejected_account.status

    async def prepare(self) -> Mapping[int, PipelessMessage]:
        """Finds the completed events of redelivered and replayed messages; may raise `Retryable`."""
        messages = self._batch.messages
        redelivered = {
            n: _receipt(each) for n, each in messages.items() if n in self._batch.redelivered or each.replayed
        }
        if redelivered:
            by_receipt = await self._ports.receipts.completed(receipts=list(set(redelivered.values())))
            self._completed = {n: by_receipt.get(receipt, frozenset()) for n, receipt in redelivered.items()}
            self._outcome.counts["SkippedEvents"] += sum(map(len, self._completed.values()))
        return messages

    async def send(self, messages: Mapping[int, PipelessMessage], *, one_at_a_time: bool) -> None:  # noqa: ARG002
        """Sends messages in calls of ten, one call after another."""
        refused = 0
        for call in packing.pack(messages.items(), self._completed):
            if refused < MAX_REFUSED_CALLS:
                await self._deliver(call)
            else:
                self._keep(call, Retry())
            refused = refused + 1 if self.lone_refusals.is_account_suspect else 0
        while self._later:
            put_off, search = self._later.pop()
            if self.lone_refusals.is_account_suspect:
                self._keep(put_off, Retry())
            else:
                await self._deliver(put_off, search)

    async def _deliver(self, call: Sequence[PackedEvent], search: _Search | None = None) -> bool:
        """Delivers or rejects every event of a call; returns True if all of it was taken as it was.

        `search` is that of a refused call with these events.
        """
        verdict = await self._send_in_slot(call)
        match verdict:
            case Accepted():
                self._outcome.counts["Calls"] += 1
                self._outcome.counts["CallEvents"] += len(call)
                self._mark_delivered(call)
                if search is not None:
                    search.mark_delivered(call)
                return True
            case JobRejected() if len(call) == 1:
                self._add_lone_refusal(call[0], verdict, search)
            case JobRejected():
                await self._bisect(call, search or _Search(call, self._requests))
            case AccountRejected():
                self.to_park |= packing.messages_of(call)
            case Retry():
                self._keep(call, verdict)
        return False

    async def _send_in_slot(
        self, call: Sequence[PackedEvent]
    ) -> Accepted | JobRejected | AccountRejected | Retry:
        """Sends a call in its slot, again after a 429; returns a wait if nothing is known of it yet."""
        if any(packing.must_follow(each.event, self._waiting) for each in call):
            return Retry()
        body = packing.body(call)
        while self._rejected_account is None:
            if self._failures >= MAX_FAILED_CALLS:
                return Retry()
            try:
                await self._rate_limiter.acquire()
            except Retryable as error:
                return Retry(error.after, rate_limited=isinstance(error, NoSlotBeforeDeadline))
            self._outcome.counts["UpstreamRequests"] += 1
            self._requests += 1
            verdict = classify(await self._ports.create_events(app=self._app, body=body))
            match verdict:
                case RateLimited(after):
                    self._outcome.counts["UpstreamRateLimited"] += 1
                    await self._rate_limiter.pause(after)
                case Transient(_, after):
                    self._outcome.counts["TransientFaults"] += 1
                    self._failures += 1
                    return Retry(after)
                case AccountRejected():
                    self._rejected_account = verdict
                case _:
                    self.is_processed = True
                    if isinstance(verdict, Accepted):
                        self.lone_refusals.mark_delivered(self._requests)
                    self._failures = 0
                    return verdict
        return self._rejected_account

    async def _bisect(self, call: Sequence[PackedEvent], search: _Search) -> None:
        """Finds the bad event in a call of several, unless the app seems to be at fault."""
        if self.lone_refusals.is_account_suspect:
            call = await self._send_sample(call, search)
        middle = len(call) // 2
        left, right = call[:middle], call[middle:]
        # If the left half is fine the fault is in the right one, which need not be sent whole. A single event
        # is sent in any case, because a combination may have been refused.
        if self.lone_refusals.is_account_suspect:
            self._put_off(call, search)
        elif left and await self._deliver(left, search) and len(right) > 1:
            await self._bisect(right, search)
        elif self.lone_refusals.is_account_suspect:
            self._put_off(right, search)
        else:
            await self._deliver(right, search)

    async def _send_sample(self, call: Sequence[PackedEvent], search: _Search) -> Sequence[PackedEvent]:
        """Sends one event of a call alone, which chance draws, and returns the others."""
        sample = runtime.chance().choice(packing.independent(call))
        await self._deliver([sample], search)
        return [each for each in call if each is not sample]

    def _put_off(self, call: Sequence[PackedEvent], search: _Search) -> None:
        """Leaves a call for later, when more is known of the app; what must follow its events waits."""
        self._later.append((call, search))
        self._hold_back(call)

    def _add_lone_refusal(self, refused: PackedEvent, verdict: JobRejected, search: _Search | None) -> None:
        """Leaves it to `settle` what becomes of a refused event; what must follow it waits."""
        name = name_of(msgspec.json.encode(refused.event))
        messages = packing.messages_of([refused])
        is_likely_bad = search is not None and self.lone_refusals.delivered > search.refused_after
        self.lone_refusals.add(
            LoneRefusal(
                name,
                messages,
                verdict.status,
                request=self._requests,
                reject=partial(self._reject, refused, verdict.fault),
                send_again=partial(self._deliver, [refused]),
                is_likely_bad=is_likely_bad,
                is_bad=is_likely_bad and search is not None and search.not_taken == [refused],
            )
        )
        if messages & self.lone_refusals.waiting():
            self._hold_back([refused])

    def _hold_back(self, call: Sequence[PackedEvent]) -> None:
        """Lets what must follow these events wait for them."""
        for each in call:
            for thing, value in packing.writes(each.event).items():
                self._waiting[thing].add(value)

    def _mark_delivered(self, call: Sequence[PackedEvent]) -> None:
        for origin in (origin for each in call for origin in each.origins):
            self._delivered[origin.message].add(origin.event)
            self._outcome.counts["DeliveredEvents"] += 1

    def _keep(self, call: Sequence[PackedEvent], wait: Retry) -> None:
        """Leaves a call's messages on the queue; what must follow its events waits, too."""
        for number in packing.messages_of(call):
            self._outcome.retry[number] = backoff.longest(self._outcome.retry.get(number, wait), wait)
        self._hold_back(call)

    def _reject(self, refused: PackedEvent, fault: Fault) -> None:
        for origin in refused.origins:
            source = self._batch.messages[origin.message]
            places = (origin.event,)
            rejected = rejection.for_refused_events(
                source,
                msgspec.json.encode({"events": [refused.event]}),
                reason=Reason.REFUSED,
                code=fault.code,
                detail=fault.detail,
                index=origin.event,
                pointer=pointer("events", origin.event),
                line=source.line,
                now=self._ports.now(),
                positions=places,
            )
            self._outcome.refusals.append(Refusal(origin.message, rejected, _receipt(source), places))

    async def record_progress(self) -> None:
        """Records the delivered events of messages that come again, because sending them again would write
        them again.

        A message with a rejection comes again if the rejection cannot be stored. Of a replayed message, the
        replay waits to know.
        """
        refused = {refusal.record for refusal in self._outcome.refusals}
        replayed = {number for number, message in self._batch.messages.items() if message.replayed}
        recorded = self._outcome.retry.keys() | self.to_park | refused | replayed
        for number in recorded & self._delivered.keys():
            receipt = _receipt(self._batch.messages[number])
            try:
                await self._ports.receipts.record_delivered(
                    receipt=receipt, positions=sorted(self._delivered[number])
                )
            except Retryable:
                self._outcome.counts["ReceiptWriteFailures"] += 1


def _receipt(batch: PipelessMessage) -> str:
    return receipts.scoped(batch.account, batch.receipt)
