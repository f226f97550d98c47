"""Delivers one account's messages: pack, pace, issue, triage.

Every event ends in one of four ways: delivered (the upstream has it), rejected (with the reason),
parked (safe until its account's circuit closes), or its message is in `Outcome.retry` and stays on the
queue. A message is done only when none of its events is left to retry.
"""

import asyncio
import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from datetime import datetime
from typing import Final

import msgspec

from sluice import backoff, contract, intake, packing, receipts, triage
from sluice.accounts import Account
from sluice.backoff import Wait
from sluice.errors import Retryable
from sluice.message import StoredMessage
from sluice.pace import OutOfTime, Pace
from sluice.packing import Job, JobEntry, Origin, PackedEvent
from sluice.rejection import Reason, Rejection, UpstreamPayload
from sluice.triage import Answer, Fault

CONCURRENT_JOBS: Final = 8  # of one account, in one invocation
BISECTION_REQUESTS: Final = 60  # that one job may cost beyond the first, to find what is wrong in it


class Refusal(msgspec.Struct, frozen=True):
    """A rejection that is due, of the events at these places of a record's message."""

    record: int
    rejection: Rejection
    receipt: str = ""
    places: tuple[int, ...] = ()


class Outcome(msgspec.Struct):
    """What became of a batch, by the records' numbers; `retry` holds those to keep on the queue, and why."""

    retry: dict[int, Wait] = {}
    parked: set[int] = set()
    refusals: list[Refusal] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)

    def due(self) -> list[Refusal]:
        """The rejections to store now.

        Of a message that is not done only those that its receipt can keep from being found again.
        """
        waiting = self.retry.keys() | self.parked
        return [refusal for refusal in self.refusals if refusal.receipt or refusal.record not in waiting]


class Circuits(msgspec.Struct, frozen=True):
    """The accounts' circuits, by site id. `open` takes the status that opens one; True if it was closed."""

    is_open: Callable[[str], Awaitable[bool]]
    open: Callable[[str, int], Awaitable[bool]]
    close: Callable[[str], Awaitable[None]]
    park: Callable[[str, list[bytes]], Awaitable[None]]


class Receipts(msgspec.Struct, frozen=True):
    """The ledger of bulk requests: what is done of each of these, and noting what was delivered."""

    done: Callable[[list[str]], Awaitable[dict[str, frozenset[int]]]]
    delivered: Callable[[str, list[int]], Awaitable[None]]


class Ports(msgspec.Struct, frozen=True):
    """What a delivery reaches the world through. All but `now` may raise `Retryable`.

    `create_job` answers None where it did not send the job, as its turn was over.
    """

    create_job: Callable[[Account, bytes], Awaitable[Answer | None]]
    pace: Callable[[Account], Pace]
    circuits: Circuits
    receipts: Receipts
    now: Callable[[], datetime]


class Share(msgspec.Struct):
    """One account's messages of a batch, by their records' numbers.

    Those that come `again` may be delivered in part; `probes` were sent back to the queue to find out
    whether the account answers again.
    """

    messages: dict[int, StoredMessage]
    again: Set[int] = frozenset()
    probes: Set[int] = frozenset()


async def deliver(account: Account, share: Share, ports: Ports, outcome: Outcome) -> None:
    """Sees to every message of a share: each is delivered, refused, parked or kept for a retry."""
    await _Delivery(account, share, ports, outcome).run()


async def park(site_id: str, messages: Mapping[int, StoredMessage], ports: Ports, outcome: Outcome) -> None:
    """Parks messages; on the queue stay those that cannot be."""
    if not messages:
        return
    try:
        await ports.circuits.park(site_id, [msgspec.json.encode(message) for message in messages.values()])
    except Retryable as error:
        outcome.retry.update(dict.fromkeys(messages, Wait(error.after)))
        return
    outcome.parked.update(messages)
    outcome.counts["ParkedMessages"] += len(messages)
    for number in messages:
        outcome.retry.pop(number, None)


class _Delivery:
    """One account's share of a batch."""

    def __init__(
        self,
        account: Account,
        share: Share,
        ports: Ports,
        outcome: Outcome,
    ) -> None:
        self._account = account
        self._messages = dict(share.messages)
        self._again = share.again
        self._probes = share.probes
        self._ports = ports
        self._outcome = outcome
        self._pace = ports.pace(account)
        self._concurrent = asyncio.Semaphore(CONCURRENT_JOBS)
        self._fault: triage.AccountFault | None = None
        self._answered = False  # the account's jobs are looked at, whatever becomes of them
        self._to_park: set[int] = set()

    async def run(self) -> None:
        """Sees to every message: each is delivered, refused, parked or kept for a retry."""
        try:
            await self._skip_what_is_done()
            if await self._ports.circuits.is_open(self._account.site_id):
                await self._probe()
            else:
                await self._send(self._messages)
            if self._fault is not None:
                await self._open_circuit(self._fault)
        except Retryable as error:
            for number in self._messages:
                self._outcome.retry.setdefault(number, Wait(error.after))
        waiting = {number: self._messages[number] for number in self._to_park}
        await park(self._account.site_id, waiting, self._ports, self._outcome)

    async def _skip_what_is_done(self) -> None:
        """Leaves out of redelivered bulk requests the events that their receipts say are done."""
        again: dict[str, list[int]] = defaultdict(list)
        for number, message in self._messages.items():
            if number in self._again and _has_receipt(message):
                again[message.receipt].append(number)
        if again:
            for receipt, places in (await self._ports.receipts.done(list(again))).items():
                for number in again[receipt]:
                    self._messages[number] = _without(self._messages[number], places)
                    self._outcome.counts["SkippedEvents"] += len(places)

    async def _probe(self) -> None:
        """Tries only what was sent back for that, while the circuit is open; parks all else."""
        probes = {n: message for n, message in self._messages.items() if n in self._probes}
        rest = {n: message for n, message in self._messages.items() if n not in probes}
        await self._send(probes)
        if self._answered and self._fault is None:
            await self._ports.circuits.close(self._account.site_id)
            self._outcome.counts["CircuitsClosed"] += 1
            await self._send(rest)
        else:
            self._to_park.update(rest)

    async def _open_circuit(self, fault: triage.AccountFault) -> None:
        if await self._ports.circuits.open(self._account.site_id, fault.status):
            self._outcome.counts["CircuitsOpened"] += 1

    async def _send(self, messages: Mapping[int, StoredMessage]) -> None:
        packed = packing.pack(messages.items())
        for event in packed.oversized:
            detail = f"One event must not exceed {contract.MAX_BODY_BYTES_OUT} bytes as sent upstream."
            self._reject([event], event.profile, Reason.OVERSIZED, Fault("invalid", detail), None)
        tasks: dict[int, asyncio.Task[Wait | None]] = {}
        async with asyncio.TaskGroup() as group:
            for job in packed.jobs:
                before = [tasks[number] for number in job.after]
                tasks[job.number] = group.create_task(self._deliver_in_order(before, job))

    async def _deliver_in_order(self, before: Iterable[asyncio.Task[Wait | None]], job: Job) -> Wait | None:
        """Sees to a job once those it must follow are settled; why it is not settled itself, if so.

        What must follow a job that waits, waits too: else older attributes would come after newer ones.
        """
        for task in before:
            if (wait := await task) is not None:
                self._keep(job, wait)
                return wait
        async with self._concurrent:
            await self._deliver(job, _Budget(BISECTION_REQUESTS))
        numbers = _message_numbers(job)
        waits = [wait for number in numbers if (wait := self._outcome.retry.get(number))]
        return waits[0] if waits else Wait() if numbers & self._to_park else None

    async def _deliver(self, job: Job, budget: "_Budget") -> bool:
        """Sees to every event of a job; True if the upstream took all of it as it was."""
        if job.size > contract.MAX_BODY_BYTES_OUT and job.events > 1:
            return all([await self._deliver(half, budget) for half in packing.halves(job)])
        rest: Job | None = job
        while rest is not None:
            try:
                verdict = await self._ask(rest)
            except Retryable as error:
                self._keep(rest, Wait(error.after, for_turn=isinstance(error, OutOfTime)))
                break
            if not isinstance(verdict, triage.Attributed):
                await self._settle(rest, verdict, budget)
                return rest is job and isinstance(verdict, triage.Taken)
            rest = await self._excise(rest, verdict, budget)
        return False

    async def _settle(
        self,
        job: Job,
        verdict: triage.Taken | triage.Unattributed | triage.Transient | None,
        budget: "_Budget",
    ) -> None:
        match verdict:
            case triage.Taken(ignored):
                self._outcome.counts["Jobs"] += 1
                self._outcome.counts["JobEvents"] += job.events
                self._outcome.counts["PartialFailures"] += bool(ignored)
                await self._note_delivered([event for entry in job.entries for event in entry.events])
            case triage.Unattributed(fault):
                await self._bisect(job, fault, budget)
            case triage.Transient(_, after):
                self._outcome.counts["TransientFaults"] += 1
                self._keep(job, Wait(after))
            case None:
                self._to_park.update(_message_numbers(job))

    async def _ask(
        self, job: Job
    ) -> triage.Taken | triage.Attributed | triage.Unattributed | triage.Transient | None:
        """Sends a job when it is its turn, again after a throttle, and judges the answer.

        None if no job of this account is looked at for now.
        """
        body = job.body()
        while self._fault is None:
            slot = await self._pace.turn()
            if self._fault is not None:
                break
            answer = await self._ports.create_job(self._account, body)
            if answer is None:
                continue
            self._outcome.counts["UpstreamRequests"] += 1
            verdict = triage.judge(answer, job)
            if (left := triage.rate_left(answer)) is not None:
                with contextlib.suppress(Retryable):  # what became of the job matters more
                    await self._pace.observe(slot, *left)
            match verdict:
                case triage.Throttled(after):
                    self._outcome.counts["Throttles"] += 1
                    await self._pace.pause(after)
                case triage.AccountFault():
                    self._fault = verdict
                case _:
                    self._answered |= not isinstance(verdict, triage.Transient)
                    return verdict
        return None

    async def _excise(self, job: Job, verdict: triage.Attributed, budget: "_Budget") -> Job | None:
        """Takes out what the upstream named; what is left is to be sent at once."""
        taken_apart: dict[int, list[JobEntry]] = {}
        for (entry_index, event_index), fault in verdict.faults.items():
            entry = job.entries[entry_index]
            if event_index is not None:
                event = entry.events[event_index]
                self._reject([event], event.profile, Reason.REFUSED, fault, event_index)
            elif len(parts := packing.unmerged(entry)) > 1:
                taken_apart[entry_index] = parts  # perhaps only one of the profiles merged here is at fault
            else:
                self._reject(entry.events, entry.profile, Reason.REFUSED, fault, None)
        named = [job.entries[entry].events[event] for entry, event in sorted(verdict.duplicates)]
        ids = Counter(event.id for entry in job.entries for event in entry.events)
        recorded = [event for event in named if ids[event.id] == 1]
        self._outcome.counts["DuplicateEvents"] += sum(len(event.origins) for event in recorded)
        await self._note_delivered(recorded)
        for event in named:
            if ids[event.id] > 1:
                # Two of one id may be one event to the upstream, and neither recorded: each is asked about.
                alone = JobEntry(event.key, event.profile, event.backfill, [event])
                await self._deliver(packing.job_of(job.number, [alone]), budget)
        return packing.without(job, verdict.faults.keys() | verdict.duplicates, taken_apart)

    async def _bisect(self, job: Job, fault: Fault, budget: "_Budget") -> None:
        """Finds what is wrong in a job of which the upstream only says that something is."""
        if job.events == 1:
            entry = job.entries[0]
            self._reject(entry.events, entry.profile, Reason.REFUSED, fault, None)
            return
        left, right = packing.halves(job)
        if not budget.spend():
            self._keep(job, Wait())
        elif await self._deliver(left, budget):
            # The left half was fine, so the fault is known to be in the right one: no need to ask.
            await self._narrow(right, fault, budget)
        elif budget.spend():
            await self._deliver(right, budget)
        else:
            self._keep(right, Wait())

    async def _narrow(self, job: Job, fault: Fault, budget: "_Budget") -> None:
        # One event alone is asked about, since what was refused may have been a combination.
        if job.events == 1:
            await self._deliver(job, budget)
        else:
            await self._bisect(job, fault, budget)

    async def _note_delivered(self, events: list[PackedEvent]) -> None:
        """Counts events as delivered, and notes those of bulk requests in their receipts."""
        by_message: dict[int, list[int]] = defaultdict(list)
        for event in events:
            for origin in event.origins:
                by_message[origin.message].append(receipts.place(origin.entry, origin.event))
        self._outcome.counts["DeliveredEvents"] += sum(map(len, by_message.values()))
        await asyncio.gather(
            *(
                self._note(self._messages[number].receipt, places)
                for number, places in by_message.items()
                if _has_receipt(self._messages[number])
            )
        )

    async def _note(self, receipt: str, places: list[int]) -> None:
        try:
            await self._ports.receipts.delivered(receipt, places)
        except Retryable:
            # Without its note an event may be sent again, which is harmless: the message need not stay.
            self._outcome.counts["ReceiptsNotNoted"] += 1

    def _keep(self, job: Job, wait: Wait) -> None:
        """Leaves a job's messages on the queue."""
        for number in _message_numbers(job):
            self._outcome.retry[number] = backoff.longer(self._outcome.retry.get(number, wait), wait)

    def _reject(
        self,
        events: list[PackedEvent],
        profile: bytes,
        reason: Reason,
        fault: Fault,
        event_index: int | None,
    ) -> None:
        """Notes a rejection for each of the callers' entries that the refused events came from."""
        by_entry: dict[tuple[int, int], list[tuple[Origin, PackedEvent]]] = defaultdict(list)
        for event in events:
            for origin in event.origins:
                by_entry[origin.message, origin.entry].append((origin, event))
        for (number, entry), found in by_entry.items():
            source = self._messages[number]
            at_event = found[0][0].event if event_index is not None else None
            places = tuple(receipts.place(origin.entry, origin.event) for origin, _ in found)
            rejection = Rejection(
                reason,
                fault.detail,
                _payload(profile, [event for _, event in found]),
                self._ports.now(),
                account=self._account.site_id,
                code=fault.code or None,
                pointer=intake.caller_pointer(source.surface, source.flat, entry, at_event, fault.tail),
                surface=source.surface,
                receipt=source.receipt,
                accepted=source.accepted,
                line=source.line,
                id=_rejection_id(source.receipt, places),
            )
            self._outcome.refusals.append(
                Refusal(number, rejection, source.receipt if _has_receipt(source) else "", places)
            )


def _message_numbers(job: Job) -> set[int]:
    return {origin.message for entry in job.entries for event in entry.events for origin in event.origins}


def _has_receipt(stored: StoredMessage) -> bool:
    return bool(stored.receipt) and stored.surface in receipts.SURFACES


def _without(stored: StoredMessage, done: frozenset[int]) -> StoredMessage:
    """A message without the events of these places, the others still saying where they were."""
    entries = []
    for position, entry in enumerate(stored.entries):
        at_entry = position if entry.at is None else entry.at
        left = [
            msgspec.structs.replace(event, at=at_event)
            for index, event in enumerate(entry.events)
            if receipts.place(at_entry, at_event := index if event.at is None else event.at) not in done
        ]
        if left:
            entries.append(msgspec.structs.replace(entry, events=left, at=at_entry))
    return msgspec.structs.replace(stored, entries=entries)


class _Budget:
    """Requests that may still be spent on finding what is wrong in one job."""

    def __init__(self, requests: int) -> None:
        self._left = requests

    def spend(self) -> bool:
        """Takes one request from the budget; False if none is left."""
        self._left -= 1
        return self._left >= 0


def _rejection_id(receipt: str, places: Iterable[int]) -> str:
    """The same for the same events, so that a rejection stored twice can be told from two."""
    return hashlib.blake2b(f"{receipt} {sorted(places)}".encode(), digest_size=16).hexdigest()


def _payload(profile: bytes, events: list[PackedEvent]) -> msgspec.Raw:
    attributes = [msgspec.Raw(event.attributes) for event in events]
    payload = UpstreamPayload(msgspec.Raw(profile), attributes, events[0].backfill)
    return msgspec.Raw(msgspec.json.encode(payload))
