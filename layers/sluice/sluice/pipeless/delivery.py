"""Delivers one app's messages: in calls of ten, one after the other, each in its turn.

As with Klaviyo every event ends delivered, rejected or parked, or its message stays on the queue. But a
call that is sent again writes again: what of a message is done is noted when the rest of it has to wait.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Final

import msgspec

from sluice import contract
from sluice.accounts import PipelessApp
from sluice.delivery import backoff
from sluice.delivery.backoff import Retry
from sluice.delivery.outcome import AccountBatch, Outcome, Refusal, close_circuit, open_circuit, park
from sluice.delivery.rate_limiter import NoSlotBeforeDeadline
from sluice.delivery.responses import Accepted, AccountRejected, Fault, JobRejected, RateLimited, Transient
from sluice.errors import Retryable
from sluice.jsonapi import pointer
from sluice.klaviyo.delivery import Ports
from sluice.message import PipelessMessage
from sluice.pipeless import packing
from sluice.pipeless.packing import PackedEvent, Thing, Value
from sluice.pipeless.responses import classify
from sluice.rejection import Reason, Rejection, rejection_id

MAX_FAILED_CALLS: Final = 2  # calls one after the other that come to nothing: the next would as well


async def deliver(
    app: PipelessApp, share: AccountBatch[PipelessMessage], ports: Ports, outcome: Outcome
) -> None:
    """Sees to every message of a share: each is delivered, refused, parked or kept for a retry."""
    await _Delivery(app, share, ports, outcome).run()


class _Delivery:
    """Delivers one app's part of a batch."""

    def __init__(
        self, app: PipelessApp, share: AccountBatch[PipelessMessage], ports: Ports, outcome: Outcome
    ) -> None:
        self._app = app
        self._batch = share
        self._ports = ports
        self._outcome = outcome
        self._rate_limiter = ports.rate_limiter(app)
        self._account_error: AccountRejected | None = None
        self._has_answered = False  # the app's calls are looked at, whatever becomes of them
        self._failures = 0  # calls in a row that came to nothing
        self._waiting: defaultdict[Thing, set[Value]] = defaultdict(set)  # what is left would write
        self._delivered: defaultdict[int, set[int]] = defaultdict(set)  # indexes, by message
        self._to_park: set[int] = set()

    async def run(self) -> None:
        """Sees to every message: each is delivered, refused, parked or kept for a retry."""
        try:
            done = await self._completed_events()
            if await self._ports.circuits.is_open(self._app.id):
                await self._probe(done)
            else:
                await self._send(self._batch.messages, done)
            if self._account_error is not None:
                await open_circuit(
                    self._app.id, self._account_error.status, self._ports.circuits, self._outcome
                )
        except Retryable as error:
            for number in self._batch.messages:
                self._outcome.retry.setdefault(number, Retry(error.after))
        await self._record_progress()
        parked = {number: self._batch.messages[number] for number in self._to_park}
        await park(self._app.id, parked, self._ports.circuits, self._outcome)

    async def _completed_events(self) -> Mapping[int, Set[int]]:
        """Returns the completed events of redelivered messages, by their messages' numbers."""
        again = {
            n: batch.receipt for n, batch in self._batch.messages.items() if n in self._batch.redelivered
        }
        if not again:
            return {}
        by_receipt = await self._ports.receipts.completed(list(set(again.values())))
        done = {number: by_receipt.get(receipt, frozenset()) for number, receipt in again.items()}
        self._outcome.counts["SkippedEvents"] += sum(map(len, done.values()))
        return done

    async def _probe(self, done: Mapping[int, Set[int]]) -> None:
        """Tries only what was sent back for that, while the circuit is open; parks all else."""
        messages, probes = self._batch.messages, self._batch.probes
        rest = {number: batch for number, batch in messages.items() if number not in probes}
        await self._send({n: batch for n, batch in messages.items() if n in probes}, done)
        works = self._has_answered and self._account_error is None
        if works and await close_circuit(self._app.id, self._ports.circuits, self._outcome):
            await self._send(rest, done)
        else:
            # Probes that were not looked at, too: on the queue they would be tried between the minutes.
            self._to_park.update(rest, self._batch.probes & self._outcome.retry.keys())

    async def _send(self, messages: Mapping[int, PipelessMessage], done: Mapping[int, Set[int]]) -> None:
        for call in packing.pack(messages.items(), done):
            await self._deliver(call)

    async def _deliver(self, call: Sequence[PackedEvent]) -> bool:
        """Sees to every event of a call; True if all of it was taken as it was."""
        verdict = await self._send_in_slot(call)
        match verdict:
            case Accepted():
                self._outcome.counts["Calls"] += 1
                self._outcome.counts["CallEvents"] += len(call)
                self._mark_delivered(call)
                return True
            case JobRejected(fault) if len(call) == 1:
                self._reject(call[0], fault)
            case JobRejected():
                await self._bisect(call)
            case AccountRejected():
                self._to_park |= packing.messages_of(call)
            case Retry():
                self._keep(call, verdict)
        return False

    async def _send_in_slot(
        self, call: Sequence[PackedEvent]
    ) -> Accepted | JobRejected | AccountRejected | Retry:
        """Sends a call when it is its turn, again after a throttle; a wait if nothing is known of it yet."""
        if any(packing.must_follow(each.event, self._waiting) for each in call):
            return Retry()
        body = packing.body(call)
        while self._account_error is None:
            if self._failures >= MAX_FAILED_CALLS:
                return Retry()
            try:
                await self._rate_limiter.acquire()
            except Retryable as error:
                return Retry(error.after, rate_limited=isinstance(error, NoSlotBeforeDeadline))
            self._outcome.counts["UpstreamRequests"] += 1
            verdict = classify(await self._ports.create_events(self._app, body))
            match verdict:
                case RateLimited(after):
                    self._outcome.counts["Throttles"] += 1
                    await self._rate_limiter.pause(after)
                case Transient(_, after):
                    self._outcome.counts["TransientFaults"] += 1
                    self._failures += 1
                    return Retry(after)
                case AccountRejected():
                    self._account_error = verdict
                case _:
                    self._has_answered = True
                    self._failures = 0
                    return verdict
        return self._account_error

    async def _bisect(self, call: Sequence[PackedEvent]) -> None:
        """Finds what is bad in a call of several events."""
        middle = len(call) // 2
        left, right = call[:middle], call[middle:]
        # If the left half is fine what is bad is in the right one, and nobody needs to be asked about all of
        # it. One event alone is asked about, since what was refused may have been a combination.
        if await self._deliver(left) and len(right) > 1:
            await self._bisect(right)
        else:
            await self._deliver(right)

    def _mark_delivered(self, call: Sequence[PackedEvent]) -> None:
        for origin in (origin for each in call for origin in each.origins):
            self._delivered[origin.message].add(origin.event)
            self._outcome.counts["DeliveredEvents"] += 1

    def _keep(self, call: Sequence[PackedEvent], wait: Retry) -> None:
        """Leaves a call's messages on the queue; what must follow its events waits, too."""
        for number in packing.messages_of(call):
            self._outcome.retry[number] = backoff.longest(self._outcome.retry.get(number, wait), wait)
        for each in call:
            for thing, value in packing.writes(each.event).items():
                self._waiting[thing].add(value)

    def _reject(self, refused: PackedEvent, fault: Fault) -> None:
        for origin in refused.origins:
            source = self._batch.messages[origin.message]
            rejection = Rejection(
                Reason.REFUSED,
                fault.detail,
                msgspec.Raw(msgspec.json.encode({"events": [refused.event]})),
                self._ports.now(),
                account=self._app.id,
                pointer=pointer("events", origin.event),
                surface=contract.PIPELESS_SURFACE,
                receipt=source.receipt,
                accepted=source.accepted,
                line=source.line,
                id=rejection_id(source.receipt, (origin.event,)),
            )
            places = (origin.event,)
            self._outcome.refusals.append(Refusal(origin.message, rejection, source.receipt, places))

    async def _record_progress(self) -> None:
        """Records the delivered events of messages that come again, because sending them again would write
        them again.

        A message with a rejection comes again if the rejection cannot be stored.
        """
        refused = {refusal.record for refusal in self._outcome.refusals}
        for number in (self._outcome.retry.keys() | self._to_park | refused) & self._delivered.keys():
            receipt = self._batch.messages[number].receipt
            try:
                await self._ports.receipts.record_delivered(receipt, sorted(self._delivered[number]))
            except Retryable:
                self._outcome.counts["ReceiptsNotNoted"] += 1
