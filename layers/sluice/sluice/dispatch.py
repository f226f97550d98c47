"""Delivers a batch of queue messages: decode, pack, pace, issue, triage.

Every event of the batch ends in one of three ways: delivered (the upstream has it), rejected (with
the reason), or its message is in `Outcome.retry` and stays on the queue. A message is done only when
none of its events is left to retry.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from sluice import contract, intake, message, packing, triage
from sluice.accounts import Account, Accounts
from sluice.errors import Refused, Retryable, Undeliverable
from sluice.message import Message, StoredMessage
from sluice.pace import Pace
from sluice.packing import Job, JobEntry, PackedEvent
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection, UpstreamPayload
from sluice.triage import Answer, Fault

CONCURRENT_JOBS: Final = 8  # of one account, in one invocation
BISECTION_REQUESTS: Final = 60  # that one job may cost beyond the first, to find what is wrong in it


class Record(msgspec.Struct, frozen=True):
    """One received queue message. `account` and `surface` are a producer's message attributes."""

    body: str
    sent: datetime
    account: str | None = None
    surface: str | None = None


class Outcome(msgspec.Struct):
    """What became of a batch, by the records' numbers.

    `retry` holds those to keep on the queue, with seconds to wait where they are known.
    """

    retry: dict[int, float | None] = {}
    rejections: list[tuple[int, Rejection]] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)


class Ports(msgspec.Struct, frozen=True):
    """What dispatch reaches the world through."""

    accounts: Callable[[], Accounts]
    fetch_claim: Callable[[str], bytes]
    create_job: Callable[[Account, bytes], Awaitable[Answer]]
    pace: Callable[[Account], Pace]
    now: Callable[[], datetime]


async def dispatch(records: Mapping[int, Record], ports: Ports) -> Outcome:
    """Delivers what can be delivered of `records` now, and says what is to become of the rest."""
    outcome = Outcome()
    try:
        accounts = ports.accounts()
    except Retryable as error:
        outcome.retry.update(dict.fromkeys(records, error.after))
        return outcome
    by_account: dict[str, dict[int, StoredMessage]] = defaultdict(dict)
    for number, record in records.items():
        try:
            stored = _decode(record, accounts, ports)
            by_account[stored.account][number] = stored
        except Undeliverable as error:
            outcome.rejections.append((number, _unreadable(record, error, ports.now())))
        except Retryable as error:
            outcome.retry[number] = error.after
    async with asyncio.TaskGroup() as group:
        for site_id, messages in by_account.items():
            account = accounts.with_site_id(site_id)
            if account is None:
                # Its secret entry may be on its way: an operator's mistake must not cost events.
                outcome.retry.update(dict.fromkeys(messages))
                outcome.counts["UnknownAccountMessages"] += len(messages)
            else:
                group.create_task(_Delivery(account, messages, ports, outcome).run())
    return outcome


class _Delivery:
    """One account's share of a batch."""

    def __init__(
        self, account: Account, messages: dict[int, StoredMessage], ports: Ports, outcome: Outcome
    ) -> None:
        self._account = account
        self._messages = messages
        self._ports = ports
        self._outcome = outcome
        self._pace = ports.pace(account)
        self._stopped: Retryable | None = None
        self._concurrent = asyncio.Semaphore(CONCURRENT_JOBS)

    async def run(self) -> None:
        packed = packing.pack(self._messages.items())
        for event in packed.oversized:
            detail = f"One event must not exceed {contract.MAX_BODY_BYTES_OUT} bytes as sent upstream."
            self._reject([event], event.profile, Reason.OVERSIZED, Fault("invalid", detail), None)
        done: dict[int, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for job in packed.jobs:
                before = [done[number] for number in job.after]
                done[job.number] = group.create_task(self._deliver_after(before, job))

    async def _deliver_after(self, before: Iterable[asyncio.Task[None]], job: Job) -> None:
        for task in before:
            await task
        async with self._concurrent:
            budget = _Budget(BISECTION_REQUESTS)
            await self._deliver(job, budget)

    async def _deliver(self, job: Job, budget: "_Budget") -> bool:
        """Sees to every event of a job; True if the upstream took all of it as it was."""
        if job.size > contract.MAX_BODY_BYTES_OUT and job.events > 1:
            return all([await self._deliver(half, budget) for half in packing.halves(job)])
        try:
            verdict = await self._ask(job)
        except Retryable as error:
            self._keep(job, error.after)
            return False
        match verdict:
            case triage.Taken():
                self._count_delivered(job)
                return True
            case triage.Attributed():
                await self._excise(job, verdict, budget)
            case triage.Unattributed(fault):
                await self._bisect(job, fault, budget)
            case triage.AccountFault(status):
                self._stopped = Retryable(f"the upstream answers {status} for this account")
                self._outcome.counts["AccountFaults"] += 1
                self._keep(job, None)
            case triage.Transient(_, after):
                self._keep(job, after)
        return False

    async def _ask(self, job: Job) -> triage.Verdict:
        """Sends a job when it is its turn, again after a throttle, and judges the answer."""
        body = job.body()
        while True:
            if self._stopped is not None:
                raise self._stopped
            slot = await self._pace.turn()
            self._outcome.counts["UpstreamRequests"] += 1
            answer = await self._ports.create_job(self._account, body)
            verdict = triage.judge(answer, job)
            if (left := triage.rate_left(answer)) is not None:
                await self._pace.observe(slot, *left)
            if not isinstance(verdict, triage.Throttled):
                return verdict
            self._outcome.counts["Throttles"] += 1
            await self._pace.pause(verdict.after)

    async def _excise(self, job: Job, verdict: triage.Attributed, budget: "_Budget") -> None:
        """Takes out what the upstream named, and sends the rest at once."""
        again: list[JobEntry] = []
        for (entry_index, event_index), fault in verdict.faults.items():
            entry = job.entries[entry_index]
            if event_index is not None:
                event = entry.events[event_index]
                self._reject([event], event.profile, Reason.REFUSED, fault, event_index)
            elif len(parts := packing.unmerged(entry)) > 1:
                again += parts  # perhaps only one of the profiles merged here is at fault
            else:
                self._reject(entry.events, entry.profile, Reason.REFUSED, fault, None)
        for entry_index, event_index in verdict.duplicates:
            self._outcome.counts["DuplicateEvents"] += len(
                job.entries[entry_index].events[event_index].origins
            )
        rest = packing.without(job, verdict.faults.keys() | verdict.duplicates)
        entries = [*(rest.entries if rest else []), *again]
        if entries:
            await self._deliver(packing.job_of(job.number, entries), budget)

    async def _bisect(self, job: Job, fault: Fault, budget: "_Budget") -> None:
        """Finds what is wrong in a job of which the upstream only says that something is."""
        if job.events == 1:
            entry = job.entries[0]
            self._reject(entry.events, entry.profile, Reason.REFUSED, fault, None)
            return
        left, right = packing.halves(job)
        if not budget.spend():
            self._keep(job, None)
        elif await self._deliver(left, budget):
            # The left half was fine, so the fault is known to be in the right one: no need to ask.
            await self._narrow(right, fault, budget)
        elif budget.spend():
            await self._deliver(right, budget)
        else:
            self._keep(right, None)

    async def _narrow(self, job: Job, fault: Fault, budget: "_Budget") -> None:
        # One event alone is asked about, since what was refused may have been a combination.
        if job.events == 1:
            await self._deliver(job, budget)
        else:
            await self._bisect(job, fault, budget)

    def _count_delivered(self, job: Job) -> None:
        counts = self._outcome.counts
        counts["Jobs"] += 1
        counts["JobEvents"] += job.events
        counts["DeliveredEvents"] += sum(
            len(event.origins) for entry in job.entries for event in entry.events
        )

    def _keep(self, job: Job, after: float | None) -> None:
        """Leaves a job's messages on the queue; of several reasons to wait, the longest counts."""
        for entry in job.entries:
            for event in entry.events:
                for origin in event.origins:
                    known = self._outcome.retry.get(origin.message)
                    waits = [wait for wait in (known, after) if wait is not None]
                    self._outcome.retry[origin.message] = max(waits, default=None)

    def _reject(
        self,
        events: list[PackedEvent],
        profile: bytes,
        reason: Reason,
        fault: Fault,
        event_index: int | None,
    ) -> None:
        """Notes a rejection for each of the callers' entries that the refused events came from."""
        by_entry: dict[tuple[int, int], list[tuple[int, PackedEvent]]] = defaultdict(list)
        for event in events:
            for origin in event.origins:
                by_entry[origin.message, origin.entry].append((origin.event, event))
        for (number, entry), found in by_entry.items():
            source = self._messages[number]
            at_event = found[0][0] if event_index is not None else None
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
            )
            self._outcome.rejections.append((number, rejection))
            self._outcome.counts["RejectedEvents"] += len(found)


class _Budget:
    """Requests that may still be spent on finding what is wrong in one job."""

    def __init__(self, requests: int) -> None:
        self._left = requests

    def spend(self) -> bool:
        """Takes one request from the budget; False if none is left."""
        self._left -= 1
        return self._left >= 0


def _payload(profile: bytes, events: list[PackedEvent]) -> msgspec.Raw:
    attributes = [msgspec.Raw(event.attributes) for event in events]
    return msgspec.Raw(msgspec.json.encode(UpstreamPayload(msgspec.Raw(profile), attributes)))


def _decode(record: Record, accounts: Accounts, ports: Ports) -> StoredMessage:
    if message.is_stored(record.body):
        return message.decode(record.body, ports.fetch_claim)
    account = accounts.with_site_id(record.account) if record.account else accounts.only()
    if account is None:
        detail = (
            "Name the account in the message attribute 'account': its site id, one of the accounts secret."
        )
        raise Undeliverable(Reason.INVALID, detail)
    return _accept_from_producer(record, account)


def _accept_from_producer(record: Record, account: Account) -> StoredMessage:
    """What ingest would have stored of a body that a producer put on the queue itself."""
    body = record.body.encode("utf-8", "surrogatepass")
    surface = _surface(record, body)
    try:
        read = intake.read(surface, body, contract.UPSTREAM_REVISION, record.sent)
    except Refused as refused:
        first = refused.problems[0]
        detail = " ".join(problem.detail for problem in refused.problems[:10])
        reason = Reason.MALFORMED if first.code == "parse_error" else Reason.INVALID
        raise Undeliverable(reason, detail, first.pointer) from refused
    return message.as_stored(Message("", account.site_id, surface, record.sent, read.entries, flat=read.flat))


def _surface(record: Record, body: bytes) -> contract.Surface:
    try:
        named = contract.Surface(record.surface) if record.surface else None
        surface = named or intake.surface_of(msgspec.json.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Undeliverable(Reason.MALFORMED, "The message is not JSON.") from None
    except ValueError:
        names = ", ".join(contract.Surface)
        raise Undeliverable(Reason.INVALID, f"The attribute 'surface' must be one of {names}.") from None
    if surface is None:
        detail = "The message is no body of a known surface: 'data.type' names none."
        raise Undeliverable(Reason.INVALID, detail)
    return surface


def _unreadable(record: Record, error: Undeliverable, now: datetime) -> Rejection:
    return Rejection(
        Reason(error.reason),
        error.detail,
        msgspec.Raw(msgspec.json.encode(record.body)),
        now,
        account=record.account or UNKNOWN_ACCOUNT,
        pointer=error.pointer,
        surface=record.surface,
    )
