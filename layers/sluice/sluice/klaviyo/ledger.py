"""Keeps the outcome of each event of one account's part of a batch, and of its messages.

A message is done only when each of its events is delivered or rejected. One event that waits keeps its
message on the queue, and one that is parked has its message parked.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import datetime

import msgspec

from sluice import positions, receipts, rejection
from sluice.delivery import backoff
from sluice.delivery.backoff import Retry
from sluice.delivery.lone_refusals import LoneRefusals, name_of
from sluice.delivery.outcome import LeftOutField, Outcome, Refusal
from sluice.delivery.ports import Receipts
from sluice.delivery.responses import Fault
from sluice.errors import Retryable
from sluice.klaviyo import packing, pointers
from sluice.klaviyo.packing import Job, Origin, PackedEvent
from sluice.message import StoredMessage
from sluice.rejection import Reason, UpstreamPayload


class EventLedger:
    """Keeps the outcomes of one account's part of a batch; `messages` are those left to do, by number."""

    def __init__(
        self,
        messages: Mapping[int, StoredMessage],
        outcome: Outcome,
        ledger: Receipts,
        lone_refusals: LoneRefusals,
        now: Callable[[], datetime],
    ) -> None:
        self.messages = dict(messages)
        self.to_park: set[int] = set()
        self._redelivered: Set[int] = frozenset()
        self._unanswered: set[tuple[str, str]] = set()  # keys and ids of what was sent and got no answer
        self._duplicates: dict[tuple[bytes, str], Fault] = {}  # by the profiles and ids that upstream has
        self._recorded: dict[tuple[str, str], bytes] = {}  # attributes of duplicates, by key and id
        self._accepted: list[tuple[StoredMessage, Set[int]]] = []  # positions, not in the index yet
        self._accepted_ids: dict[str, list[tuple[str, bytes]]] = defaultdict(list)  # by unique_id
        self._accepted_messages: set[int] = set()
        self._outcome = outcome
        self._receipts = ledger
        self._lone_refusals = lone_refusals
        self._now = now

    async def skip_completed(self, again: Set[int]) -> None:
        """Leaves out of redelivered and replayed messages the events that their receipts say are done."""
        self._redelivered = again
        found: dict[str, list[int]] = defaultdict(list)
        for number, message in self.messages.items():
            if (number in again or message.replayed) and _has_receipt(message):
                found[_receipt(message)].append(number)
        if found:
            for receipt, places in (await self._receipts.completed(receipts=list(found))).items():
                for number in found[receipt]:
                    self._accepted.append((self.messages[number], places))
                    self.messages[number] = _without(self.messages[number], places)
                    self._outcome.counts["SkippedEvents"] += len(places)

    async def mark_accepted(self, job: Job, ignored: str) -> None:
        """Records that a job is taken upstream, except the fields it `ignored`."""
        self._outcome.counts["Jobs"] += 1
        self._outcome.counts["JobEvents"] += job.events
        self._outcome.counts["PartialFailures"] += bool(ignored)
        by_message = await self._mark_delivered([event for entry in job.entries for event in entry.events])
        self._accepted += [(self.messages[number], set(places)) for number, places in by_message.items()]
        self._accepted_messages.update(by_message)

    def mark_unanswered(self, job: Job) -> None:
        """Records that a job was sent, and that no answer says whether it was taken."""
        self._unanswered.update((event.key, event.id) for entry in job.entries for event in entry.events)
        self._lone_refusals.mark_unanswered(map(self.message_name, job.messages()))

    def may_be_recorded(self, event: PackedEvent) -> bool:
        """Tells whether an event may have been sent before, so that the upstream may have it.

        An event that is replayed may have been taken before it was rejected or became a dead letter.
        """
        is_replayed = any(self.messages[origin.message].replayed for origin in event.origins)
        return is_replayed or self._may_be_sent_twice(event)

    def was_unanswered(self, event: PackedEvent) -> bool:
        """Tells whether an event was surely sent before, and no answer said whether it was taken."""
        return (event.key, event.id) in self._unanswered or any(
            origin.message in self._redelivered
            and self._lone_refusals.was_unanswered(self.message_name(origin.message))
            for origin in event.origins
        )

    def message_name(self, number: int) -> str:
        """Returns the name by which other invocations know a message."""
        return name_of(_receipt(self.messages[number]))

    def refusal_reason(self, event: PackedEvent) -> Reason:
        """Returns why an event is refused, where the upstream does not point at anything in it."""
        self._index_accepted()
        if self._accepted_ids.get(packing.unique_id(event.id)):
            return Reason.DUPLICATE_ID
        messages = {origin.message for origin in event.origins}
        is_probably_recorded = (
            self._may_be_sent_twice(event)
            and messages.isdisjoint(self._accepted_messages)
            and not self._lone_refusals.was_answered(event_name(event))
        )
        return Reason.PROBABLY_RECORDED if is_probably_recorded else Reason.REFUSED

    def is_probably_recorded_whole(self, job: Job) -> bool:
        """Tells whether a job is one message that was sent before, and perhaps taken."""
        messages = job.messages()
        events = (event for entry in job.entries for event in entry.events)
        return (
            len(messages) == 1
            and messages.isdisjoint(self._accepted_messages)
            and all(map(self.was_unanswered, events))
        )

    async def mark_duplicates(self, faults: Iterable[tuple[PackedEvent, Fault]]) -> None:
        """Settles events of which the upstream says that it has their unique_ids.

        An event that may have been sent before is delivered. Any other has the unique_id of another event,
        and is rejected.
        """
        recorded: list[PackedEvent] = []
        for event, fault in faults:
            self._duplicates[event.profile, event.id] = fault
            if self._is_recorded(event):
                self._recorded[event.key, event.id] = event.attributes
                recorded.append(event)
            else:
                self._outcome.counts["DuplicateIds"] += len(event.origins)
                self.reject([event], event.profile, Reason.DUPLICATE_ID, fault, whole_entry=False)
        self._outcome.counts["DuplicateEvents"] += sum(len(event.origins) for event in recorded)
        await self._mark_delivered(recorded)

    async def skip_duplicates(self, job: Job) -> Job | None:
        """Returns the rest of a job, without events whose id the upstream has already said that it has."""
        if not self._duplicates:
            return job
        repeats: dict[tuple[int, int | None], PackedEvent] = {
            (index, number): event
            for index, entry in enumerate(job.entries)
            for number, event in enumerate(entry.events)
            if (event.profile, event.id) in self._duplicates
        }
        known = self._duplicates
        await self.mark_duplicates([(event, known[event.profile, event.id]) for event in repeats.values()])
        return packing.without(job, repeats)

    def mark_left_out(self, events: Iterable[PackedEvent], tail: str, *, of_profile: bool) -> None:
        """Records a field that the upstream refused, and without which events are sent again.

        `tail` points to the field of these events, or of the profile that they share.
        """
        self._outcome.counts["PartialFailures"] += 1
        at_caller = {
            (origin.message, origin.entry, None if of_profile else origin.event): None
            for event in events
            for origin in event.origins
        }
        for number, entry, event_index in at_caller:
            source = self.messages[number]
            pointer = pointers.caller_pointer(source.surface, source.flat, entry, event_index, tail)
            line = pointers.caller_line(source.surface, source.line, entry)
            self._outcome.left_out.append(LeftOutField(source.account, source.receipt, pointer, line))
            self._outcome.counts["LeftOutFields"] += 1

    def keep(self, job: Job, wait: Retry) -> None:
        """Keeps a job's messages on the queue."""
        for number in job.messages():
            self._outcome.retry[number] = backoff.longest(self._outcome.retry.get(number, wait), wait)

    def park(self, job: Job) -> None:
        """Parks a job's messages until their account works again."""
        self.to_park |= job.messages()

    def pending_reason(self, job: Job) -> Retry | None:
        """Returns why some of a job's messages are not done; None if all are."""
        numbers = job.messages()
        waits = [wait for number in numbers if (wait := self._outcome.retry.get(number))]
        not_settled = self.to_park | self._lone_refusals.waiting()
        return waits[0] if waits else Retry() if numbers & not_settled else None

    def reject(
        self, events: list[PackedEvent], profile: bytes, reason: Reason, fault: Fault, *, whole_entry: bool
    ) -> None:
        """Rejects events, with a rejection for each of the callers' entries that they came from.

        The rejection points at an entry if the fault is the `whole_entry`'s, else at its first event.
        """
        by_entry: dict[tuple[int, int], list[tuple[Origin, PackedEvent]]] = defaultdict(list)
        for event in events:
            for origin in event.origins:
                by_entry[origin.message, origin.entry].append((origin, event))
        for (number, entry), found in by_entry.items():
            source = self.messages[number]
            at_event = None if whole_entry else found[0][0].event
            at_caller = pointers.caller_pointer(source.surface, source.flat, entry, at_event, fault.tail)
            places = tuple(positions.position(origin.entry, origin.event) for origin, _ in found)
            refused = rejection.for_refused_events(
                source,
                _payload(profile, [event for _, event in found]),
                reason=reason,
                code=fault.code,
                detail=fault.detail,
                index=entry,
                pointer=at_caller,
                line=pointers.caller_line(source.surface, source.line, entry),
                now=self._now(),
                positions=places,
                place=pointers.payload_pointer(fault.tail, whole_entry=whole_entry),
            )
            self._outcome.refusals.append(
                Refusal(number, refused, _receipt(source) if _has_receipt(source) else "", places)
            )

    def _may_be_sent_twice(self, event: PackedEvent) -> bool:
        """Tells whether an event may have been sent under the receipt of its message before.

        The lines of an S3 object may be put on the queue twice, each time in a new message.
        """
        return (event.key, event.id) in self._unanswered or any(
            origin.message in self._redelivered or self.messages[origin.message].line is not None
            for origin in event.origins
        )

    def _is_recorded(self, event: PackedEvent) -> bool:
        """Tells whether the upstream has this event, and not only another one with its unique_id.

        The upstream may compare unique_ids with the metric or without it.
        """
        self._index_accepted()
        if of_its_name := self._accepted_ids.get(packing.unique_id(event.id)):
            return (event.id, event.attributes) in of_its_name
        counted = self._recorded.get((event.key, event.id), event.attributes)
        return counted == event.attributes and self.may_be_recorded(event)

    def _index_accepted(self) -> None:
        while self._accepted:
            message, places = self._accepted.pop()
            for index, entry in enumerate(message.entries):
                for at_entry, at_event, event in entry.positioned(index):
                    if positions.position(at_entry, at_event) in places:
                        same_name = self._accepted_ids[packing.unique_id(event.id)]
                        same_name.append((event.id, bytes(event.attributes)))

    async def _mark_delivered(self, events: list[PackedEvent]) -> dict[int, list[int]]:
        """Counts events as delivered, and notes those of several events' messages in their receipts.

        Returns their positions, by message.
        """
        by_message: dict[int, list[int]] = defaultdict(list)
        for event in events:
            for origin in event.origins:
                by_message[origin.message].append(positions.position(origin.entry, origin.event))
        self._outcome.counts["DeliveredEvents"] += sum(map(len, by_message.values()))
        await asyncio.gather(
            *(
                self._record_delivered(_receipt(self.messages[number]), places)
                for number, places in by_message.items()
                if _has_receipt(self.messages[number])
            )
        )
        return by_message

    async def _record_delivered(self, receipt: str, places: list[int]) -> None:
        try:
            await self._receipts.record_delivered(receipt=receipt, positions=places)
        except Retryable:
            # An event whose delivery is not recorded may be sent again, which is harmless, so the message
            # need not stay.
            self._outcome.counts["ReceiptWriteFailures"] += 1


def event_name(event: PackedEvent) -> str:
    """Returns the name by which other invocations know an event."""
    return name_of(event.key, event.id)


def _receipt(stored: StoredMessage) -> str:
    return receipts.scoped(stored.account, stored.receipt)


def _has_receipt(stored: StoredMessage) -> bool:
    """Tells whether the completed events of a message are recorded.

    They are where finding out again would cost much, or where a replay waits to know.
    """
    if stored.surface in receipts.SURFACES or stored.replayed:
        return True
    return sum(len(entry.events) for entry in stored.entries) > 1


def _without(stored: StoredMessage, done: frozenset[int]) -> StoredMessage:
    """Returns a message without the events at these positions; the others still say where they were."""
    entries = []
    for position, entry in enumerate(stored.entries):
        left = [
            msgspec.structs.replace(event, entry_index=at_entry, event_index=at_event)
            for at_entry, at_event, event in entry.positioned(position)
            if positions.position(at_entry, at_event) not in done
        ]
        if left:
            entries.append(msgspec.structs.replace(entry, events=left))
    return msgspec.structs.replace(stored, entries=entries)


def _payload(profile: bytes, events: list[PackedEvent]) -> bytes:
    attributes = [msgspec.Raw(event.attributes) for event in events]
    return msgspec.json.encode(UpstreamPayload(msgspec.Raw(profile), attributes, events[0].backfill))
