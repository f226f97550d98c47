"""Delivers one job: finds the events that the upstream refuses, rejects them and delivers the rest.

If the upstream refuses the job without naming an item, one or two single events are sent, to learn whether
the job or the whole account is at fault. If it is the job, halving it finds the events.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from sluice import contract, runtime
from sluice.delivery.backoff import Retry
from sluice.delivery.lone_refusals import LoneRefusal, LoneRefusals
from sluice.delivery.rate_limiter import NoSlotBeforeDeadline, OthersGoFirst
from sluice.delivery.responses import Accepted, AccountRejected, Fault, JobRejected, Transient
from sluice.errors import Retryable
from sluice.klaviyo import optional_fields, packing, responses
from sluice.klaviyo.ledger import EventLedger, event_name
from sluice.klaviyo.packing import Job, JobEntry, PackedEvent
from sluice.klaviyo.responses import ItemsRejected
from sluice.klaviyo.sender import NO_ANSWER, JobSender, Reply, is_processed
from sluice.rejection import Reason

SEARCH_REQUESTS: Final = 60  # per job, after the first request
SAMPLES: Final = 2  # sent alone, to tell a job's fault from its account's
RECORDED_SAMPLES: Final = 20  # sent alone, to tell a recorded message from one with bad events
MAX_FIELDS_LEFT_OUT: Final = 10  # per event or profile; each costs a request
LONG_PAUSE_SECONDS: Final = 61.0  # longer than any rate limit takes to recover

_NO_FIELD: Final = frozenset({"", "/", "/attributes"})  # pointers within an event

type _UnexplainedRefusal = JobRejected | Transient | AccountRejected
type _Samples = dict[tuple[int, int | None], tuple[Job, Reply]]  # by an entry's index and an event's


class JobDelivery:
    """Delivers one job's events; a `long_failing` job has messages that have been failing for long."""

    def __init__(
        self, sender: JobSender, ledger: EventLedger, lone_refusals: LoneRefusals, *, long_failing: bool
    ) -> None:
        self._sender = sender
        self._ledger = ledger
        self._lone_refusals = lone_refusals
        self._long_failing = long_failing
        self._requests_left = SEARCH_REQUESTS
        self._job_faults: set[type[_UnexplainedRefusal]] = set()  # these refusals have their cause in the job
        self._sent_again: Job | None = None
        self._refused_after: int | None = None  # the last request sent when the job was first refused
        self._not_taken: set[tuple[str, str]] = set()  # of what was refused then, by keys and ids
        self._delivered_before = 0  # the account's last delivered request when the latest was sent
        self._has_sampled = False
        self._fields_left_out: Counter[tuple[str, str]] = Counter()  # by an event's key and id

    async def deliver(self, job: Job) -> bool:
        """Delivers or rejects every event of a job; returns True if the upstream took all of it as it was."""
        if job.size > contract.MAX_BODY_BYTES_OUT and job.events > 1:
            return all([await self.deliver(half) for half in packing.halves(job)])
        rest: Job | None = job
        while rest is not None:
            reply = await self._send(rest)
            if isinstance(reply, Accepted):
                await self._mark_accepted(rest, reply.ignored)
                return rest is job
            rest = None if reply is None else await self._handle_refusal(rest, reply)
        return False

    async def _send(self, job: Job) -> Reply | None:
        """Returns the answer to a job, or None if there is none now and its messages wait."""
        self._delivered_before = self._lone_refusals.delivered
        try:
            reply = await self._sender.send(job)
        except NoSlotBeforeDeadline as error:
            if isinstance(error, OthersGoFirst) or not self._is_rate_limited_for_long(error.after or 0.0):
                self._ledger.keep(job, Retry(error.after, rate_limited=True))
                return None
            self._sender.account_error, reply = 429, None
        except Retryable as error:
            self._ledger.keep(job, Retry(error.after))
            return None
        if reply is None:
            self._ledger.park(job)
        elif isinstance(reply, Transient):
            self._ledger.mark_unanswered(job)
        return reply

    def _is_rate_limited_for_long(self, seconds: float) -> bool:
        throttled_only = self._sender.rate_limited and not self._sender.last_processed
        return seconds > LONG_PAUSE_SECONDS or (throttled_only and self._long_failing)

    async def _handle_refusal(self, job: Job, reply: ItemsRejected | _UnexplainedRefusal) -> Job | None:
        """Does what an answer calls for that is not 'taken'; what is to be sent at once, if anything."""
        if isinstance(reply, JobRejected) and self._refused_after is None:
            self._refused_after = self._sender.last_sent
            self._not_taken = _names(job)
        match reply:
            case ItemsRejected():
                return await self._remove_named(job, reply)
            case Transient(after=after) if not self._long_failing or job.events == 1:
                self._ledger.keep(job, Retry(after))
            case Transient() | AccountRejected() if type(reply) not in self._job_faults:
                await self._check_account(job, reply)
            case AccountRejected() if job.events == 1 and job is not self._sent_again:
                self._sent_again = job  # the fault may have been the account's after all, and be over
                return job
            case JobRejected() | AccountRejected() if job.events == 1:
                return await self._handle_lone_refusal(job, reply)
            case JobRejected() if self._lone_refusals.is_account_suspect:
                await self._send_samples_or_wait(job)
            case JobRejected(fault) if self._ledger.is_probably_recorded_whole(job):
                await self._check_recorded(job, fault, reply.status)
            case _:
                await self._bisect(job)
        return None

    async def _handle_lone_refusal(self, job: Job, refusal: JobRejected | AccountRejected) -> Job | None:
        """Settles an event that is refused alone, if it is not taken without its phone number."""
        [entry] = job.entries
        [event] = entry.events
        if event.profile != entry.profile:
            return packing.alone(job, event)  # perhaps the merged profile of another entry is at fault
        if (without := optional_fields.without_phone_number(entry)) is not None:
            # The upstream checks that a number is real, which nobody else can, and may not point at it.
            changed = packing.job_of(job.number, [without])
            reply = await self._send(changed)
            if isinstance(reply, Accepted):
                await self._mark_accepted(changed, "")
                self._ledger.mark_left_out([event], optional_fields.PHONE_NUMBER, of_profile=True)
            if reply is None or isinstance(reply, Accepted):
                return None
            if not isinstance(reply, JobRejected | AccountRejected):
                return await self._handle_refusal(changed, reply)
        reject = partial(self._reject_refused, event, refusal.fault)
        if (
            isinstance(refusal, AccountRejected)
            or refusal.is_named
            or self._ledger.refusal_reason(event) is Reason.DUPLICATE_ID
        ):
            reject()
        else:
            was_unanswered = partial(self._ledger.was_unanswered, event)
            self._add_lone_refusal(event_name(event), job, refusal.status, reject, was_unanswered)
        return None

    def _reject_refused(self, event: PackedEvent, fault: Fault) -> None:
        reason = self._ledger.refusal_reason(event)
        self._ledger.reject([event], event.profile, reason, fault, whole_entry=False)

    def _add_lone_refusal(
        self,
        name: str,
        job: Job,
        status: int,
        reject: Callable[[], None],
        was_unanswered: Callable[[], bool],
    ) -> None:
        refused_after = self._refused_after
        is_likely_bad = refused_after is not None and self._delivered_before > refused_after
        self._lone_refusals.add(
            LoneRefusal(
                name,
                job.messages(),
                status,
                request=self._sender.last_sent,
                reject=reject,
                send_again=partial(self.deliver, job),
                was_unanswered=was_unanswered,
                is_likely_bad=is_likely_bad,
                is_bad=is_likely_bad and job.events == 1 and self._not_taken == _names(job),
            )
        )

    async def _mark_accepted(self, job: Job, ignored: str) -> None:
        self._not_taken -= _names(job)
        await self._ledger.mark_accepted(job, ignored)

    async def _send_samples_or_wait(self, job: Job) -> None:
        """Searches a job whose account may be at fault, but only if a single event of it is taken."""
        drawn = [] if self._has_sampled else _sample_positions(job)
        self._has_sampled = True
        sent: list[tuple[int, int]] = []
        for entry, event in drawn:
            sample = packing.alone(job, job.entries[entry].events[event])
            reply = await self._send(sample)
            if reply is None:
                break
            sent.append((entry, event))
            await self._settle(sample, reply)
            if not self._lone_refusals.is_account_suspect:
                break
        if (rest := packing.without(job, sent)) is None:
            return
        if self._lone_refusals.is_account_suspect:
            self._ledger.keep(rest, Retry())
        else:
            await self._bisect_or_send(rest)

    async def _check_recorded(self, job: Job, fault: Fault, status: int) -> None:
        """Finds out whether a refused job is recorded already, and looks for its fault only if it is not.

        It is one message, which was taken whole or not at all. So several events that are refused alone speak
        for the others. Where there are not so many to send, each is asked about.
        """
        asked: _Samples = {}
        drawn = _of_many_profiles(_drawn_positions(job))[:RECORDED_SAMPLES]
        if len(drawn) < RECORDED_SAMPLES:
            await self._bisect(job)
            return
        for entry, event in drawn:
            sample = packing.alone(job, job.entries[entry].events[event])
            reply = await self._send(sample)
            if reply is None:
                return  # the message waits
            self._requests_left -= 1
            asked[entry, event] = sample, reply
            if not isinstance(reply, JobRejected | ItemsRejected):
                break
        else:
            [number] = job.messages()
            reject = partial(self._reject_recorded, job, fault)
            name = self._ledger.message_name(number)
            self._add_lone_refusal(name, job, status, reject, lambda: True)
            return
        for sample, reply in reversed(asked.values()):  # the one that is not refused first: it tells most
            await self._settle(sample, reply)
        if (rest := packing.without(job, asked.keys())) is not None:
            await self._bisect_or_send(rest)

    def _reject_recorded(self, job: Job, fault: Fault) -> None:
        for part in (part for entry in job.entries for part in packing.unmerged(entry)):
            self._ledger.reject(part.events, part.profile, Reason.PROBABLY_RECORDED, fault, whole_entry=False)

    async def _settle(self, job: Job, reply: Reply) -> None:
        """Settles the events of a job by the answer to it, and sends again what is left of them."""
        if isinstance(reply, Accepted):
            await self._mark_accepted(job, reply.ignored)
        elif (rest := await self._handle_refusal(job, reply)) is not None:
            await self.deliver(rest)

    async def _remove_named(self, job: Job, reply: ItemsRejected) -> Job | None:
        """Removes the items that the upstream named; the rest is to be sent at once.

        The upstream may name an event because another of its unique_id is in the same job, whatever their
        metrics, and have neither. Such events are sent again, apart from each other.
        """
        faults = {
            position: fault
            for position, fault in reply.faults.items()
            if position[1] is not None or not responses.may_be_one_event(fault.tail)
        }
        if not faults and not reply.duplicates:
            return await self._search_entry(job, reply)
        repeats = packing.positions_of_repeats(job)
        apart = repeats & (
            reply.duplicates.keys() | {at for at, fault in faults.items() if fault.tail in _NO_FIELD}
        )
        instead: dict[int, list[JobEntry]] = {}
        changed: dict[tuple[int, int], PackedEvent] = {}
        for (entry_index, event_index), fault in faults.items():
            entry = job.entries[entry_index]
            if event_index is None:
                instead[entry_index] = self._without_fault(entry, fault)
            elif (entry_index, event_index) in apart:
                continue
            elif (event := self._mend_event(entry.events[event_index], fault)) is not None:
                changed[entry_index, event_index] = event
        duplicates = sorted(reply.duplicates.keys() - apart)
        await self._ledger.mark_duplicates(
            [(job.entries[entry].events[n], reply.duplicates[entry, n]) for entry, n in duplicates]
        )
        for part in packing.spread(job, [job.entries[entry].events[n] for entry, n in sorted(apart)]):
            await self.deliver(part)
        removed = (faults.keys() | reply.duplicates.keys()) - changed.keys()
        return packing.without(job, removed, instead, changed)

    def _without_fault(self, entry: JobEntry, fault: Fault) -> list[JobEntry]:
        """Returns what is to be sent of an entry whose profile is refused; what is not, is rejected."""
        if len(parts := packing.unmerged(entry)) > 1:
            return parts  # perhaps only one of the profiles merged here is at fault
        without = optional_fields.without_profile_field(entry, fault.tail)
        if without is not None and self._may_leave_out(entry.events[0]):
            self._ledger.mark_left_out(entry.events, fault.tail, of_profile=True)
            return [without]
        self._ledger.reject(entry.events, entry.profile, Reason.REFUSED, fault, whole_entry=True)
        return []

    def _mend_event(self, event: PackedEvent, fault: Fault) -> PackedEvent | None:
        """Returns an event without the field that is refused; rejects it if it needs that field."""
        without = optional_fields.without_event_field(event, fault.tail)
        if without is not None and self._may_leave_out(event):
            self._ledger.mark_left_out([event], fault.tail, of_profile=False)
            return without
        reason = self._ledger.refusal_reason(event) if fault.tail in _NO_FIELD else Reason.REFUSED
        self._ledger.reject([event], event.profile, reason, fault, whole_entry=False)
        return None

    def _may_leave_out(self, event: PackedEvent) -> bool:
        """Counts a field that is left out; False if there were too many."""
        self._fields_left_out[event.key, event.id] += 1
        return self._fields_left_out[event.key, event.id] <= MAX_FIELDS_LEFT_OUT

    async def _search_entry(self, job: Job, reply: ItemsRejected) -> Job | None:
        """Finds the fault in the first entry that the upstream names; returns what comes after it."""
        (entry, _), fault = min(reply.faults.items(), key=lambda named: named[0][0])
        before, named, after = packing.cut(job, entry)
        if before is not None:
            await self.deliver(before)
        await self._settle(named, JobRejected(fault, is_named=True))
        return after

    async def _check_account(self, job: Job, refusal: Transient | AccountRejected) -> None:
        """Finds out whether a job or its account is refused, and goes on from there.

        Where nothing can be compared, a refusal is taken at its word if it is all that was heard.
        """
        # An answer to a request that was sent before the refusal says nothing: the fault may have begun in
        # between.
        asker, before = self._sender, self._sender.last_sent
        async with asker.account_check:
            samples = await self._send_samples(job, before)
            works = asker.last_processed > before
            is_known = bool(samples) or not asker.last_processed
            if isinstance(refusal, Transient) and len(asker.failing_messages) == 1:
                is_known = False  # the events of one request fail, perhaps no others
            if is_known and not works:
                asker.account_error = asker.account_error or refusal.status or NO_ANSWER
        if works:
            self._job_faults.add(type(refusal))
            await self._deliver_rest(job, refusal, samples)
        elif asker.account_error is not None:
            self._ledger.park(job)
        else:
            self._ledger.keep(job, Retry(refusal.after if isinstance(refusal, Transient) else None))

    async def _send_samples(self, job: Job, before: int) -> _Samples:
        """Sends single events until the upstream looks at one; returns those that were answered, by
        position.
        """
        samples: _Samples = {}
        for entry, event in _sample_positions(job) if job.events > 1 else ():
            if self._sender.last_processed > before:
                break  # perhaps by another job's sample
            sample = packing.alone(job, job.entries[entry].events[event])
            try:
                reply = await self._sender.send(sample, sample=True)
            except Retryable:
                break
            if reply is not None:
                samples[entry, event] = sample, reply
            if isinstance(reply, Transient):
                self._ledger.mark_unanswered(sample)
        self._requests_left -= len(samples)
        return samples

    async def _deliver_rest(self, job: Job, refusal: Transient | AccountRejected, samples: _Samples) -> None:
        """Finds the fault in a job that is at fault itself, after its samples are delivered or rejected."""
        for sample, reply in samples.values():
            await self._settle(sample, reply)
        rest = packing.without(job, samples.keys())
        if rest is None:
            return
        explained = not all(is_processed(reply) for _, reply in samples.values())
        if explained or isinstance(refusal, Transient):
            await self.deliver(rest)  # perhaps only that sample was refused, or the fault has passed
        else:
            await self._bisect_or_send(rest)

    async def _bisect(self, job: Job) -> None:
        """Finds what is wrong in a job of several events, of which it is known that something is."""
        left, right = packing.halves(job)
        if not self._take_from_budget():
            self._ledger.keep(job, Retry())
        elif await self.deliver(left):
            # The left half was fine, so the fault must be in the right one, which need not be sent.
            await self._bisect_or_send(right)
        elif not self._lone_refusals.is_account_suspect and self._take_from_budget():
            await self.deliver(right)
        else:
            self._ledger.keep(right, Retry())

    async def _bisect_or_send(self, job: Job) -> None:
        # A single event is sent in any case, because a combination may have been refused.
        if job.events == 1:
            await self.deliver(job)
        else:
            await self._bisect(job)

    def _take_from_budget(self) -> bool:
        """Takes one request from the budget of the search."""
        self._requests_left -= 1
        return self._requests_left >= 0


def _names(job: Job) -> set[tuple[str, str]]:
    """Returns the keys and ids of a job's events."""
    return {(event.key, event.id) for entry in job.entries for event in entry.events}


def _sample_positions(job: Job) -> list[tuple[int, int]]:
    """Returns the positions of events to send alone, of different messages if there are several."""
    drawn = _drawn_positions(job)
    by_message = {job.entries[e].events[n].origins[0].message: (e, n) for e, n in drawn}
    of_each = set(by_message.values())
    return sorted(drawn, key=lambda place: place not in of_each)[:SAMPLES]


def _of_many_profiles(positions: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns positions with one of each entry first: all events of one profile may be bad alike."""
    seen: Counter[int] = Counter()
    ranked = []
    for position in positions:
        ranked.append((seen[position[0]], position))
        seen[position[0]] += 1
    return [position for _, position in sorted(ranked, key=lambda pair: pair[0])]


def _drawn_positions(job: Job) -> list[tuple[int, int]]:
    """Returns the positions of events that may be sent alone, in an order that chance decides.

    So a bad event is not drawn again and again. Only events that say of their profile what its first one says
    are drawn, because newer attributes must not go before older ones.
    """
    firsts = {entry.key: index for index, entry in reversed(list(enumerate(job.entries)))}
    drawn = [
        (index, number)
        for index in firsts.values()
        for number, event in enumerate(job.entries[index].events)
        if event.profile == job.entries[index].events[0].profile
    ]
    runtime.chance().shuffle(drawn)
    return drawn
