"""Sends refused events again, as a job: looks through the records, mends, reads again, sends, and waits.

Nothing is sent twice under two receipts. A slice is written down before the first record of it is claimed.
A record is claimed by a condition on its state and its job. A worker that goes on with the slice of one that
died sends the same messages, whose receipts tell dispatch what is done.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import batched
from typing import Any, Final

import msgspec
import zstandard

from sluice import message, positions, receipts, runtime
from sluice.contract import PIPELESS_SURFACE, Surface
from sluice.errors import SluiceError
from sluice.message import Entry, Event, Message, PipelessMessage, StoredMessage
from sluice.operate import jobs, mend, reread
from sluice.operate.jobs import Job, JobState, Part, Slice, Worker
from sluice.operate.mend import DoesNotApply, Mend
from sluice.operate.ports import Ports, Records
from sluice.operate.reread import Lookups, Replayable, StillRefused
from sluice.operate.selection import Chosen, ReplayWish, Selected, next_page
from sluice.receipts import Outcomes
from sluice.records import items
from sluice.records.record import Record, State
from sluice.rejection import Rejection
from sluice.validation.json_text import NOT_DECODED

KIND: Final = "replay"
SLICES_PREFIX: Final = "claims/replay/"  # in the claim bucket
SLICE_RECORDS: Final = 250
SLICE_GROUPS: Final = 90  # whose counters are written with the job, in one transaction of a hundred items
SLICE_BYTES: Final = 4 * 2**20  # of payloads
MAX_REASONS: Final = 20  # listed with a job
HISTORY: Final = timedelta(days=1)  # older events trigger no flow, unless that is asked for
SETTLED_AT_ONCE: Final = 50  # slices
_OTHER_REASONS: Final = "For other reasons."
_NO_OUTCOME: Final = "no outcome for a day"
_GONE: Final = "Its payload is not in the archive any more."


class Sample(msgspec.Struct, frozen=True):
    """Holds a record's payload before and after its mend, both as JSON."""

    id: str
    before: bytes
    after: bytes


@dataclass(frozen=True)
class Ready:
    """Holds a record that can be sent again."""

    record: Record
    found: Replayable
    accepted: datetime
    sample: Sample


@dataclass
class Looked:
    """Holds the result of looking at a page of records."""

    ready: list[Ready] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    cursor: str | None = None


def plan(worker: Worker, ports: Ports, has_time: Callable[[], bool]) -> Sample | None:
    """Looks at the records of a job while there is time, and counts; it changes none of them.

    Returns the first one that would be sent, if this call found it.
    """
    sample = None
    while worker.job.state is JobState.PLANNING and has_time():
        job = worker.job
        looked = look(job, ports)
        if looked.ready and not job.counts.get("ready"):
            sample = looked.ready[0].sample
        worker.save(
            state=JobState.PLANNED if looked.cursor is None else JobState.PLANNING,
            cursor=looked.cursor,
            counts=job.counted(looked.counts),
            reasons=_merged(job.reasons, looked.reasons),
        )
    return sample


def work(worker: Worker, ports: Ports, has_time: Callable[[], bool]) -> None:
    """Does slices of a running job while there is time, and records what is known of those that are sent."""
    while worker.job.state is JobState.RUNNING and has_time():
        run(worker, ports)
    settle(worker, ports, has_time)


def run(worker: Worker, ports: Ports) -> None:
    """Does the next slice of a running job."""
    job = worker.job
    known = next(iter(ports.jobs.find_slices(job_id=job.id, numbers=[job.slices])), None)
    if known is None and job.is_cancelled:
        worker.save(state=JobState.SETTLING)
        return
    begun, again = (known, True) if known else _begin(job, ports)
    claimed = _claim(begun, job, ports.records)
    if claimed.to_send:
        messages = [
            left
            for each in unpacked(ports.slices.get(key=begun.content))
            if (left := _only(each, claimed.to_send)) is not None
        ]
        ports.events.send(messages=messages, again=again)
    is_last = begun.cursor is None or job.is_cancelled
    sent = len(claimed.ours)
    lost = sum(len(part.records) for part in begun.parts) - sent
    worker.save(
        claimed.opened,
        state=JobState.SETTLING if is_last else JobState.RUNNING,
        cursor=begun.cursor,
        slices=job.slices + 1,
        unsettled=(*job.unsettled, begun.number) if claimed.ours else job.unsettled,
        contested=(*job.contested, begun.number) if claimed.ours and lost else job.contested,
        counts=job.counted({**begun.counts, "sent": sent, "taken": begun.counts.get("taken", 0) + lost}),
        reasons=_merged(job.reasons, begun.reasons),
    )


def settle(worker: Worker, ports: Ports, has_time: Callable[[], bool]) -> None:
    """Records the outcomes that are known by now, some in any case, and ends the job once all are."""
    for index, numbers in enumerate(batched(worker.job.unsettled, SETTLED_AT_ONCE, strict=False)):
        if index and not has_time():
            break
        job = worker.job
        found = ports.jobs.find_slices(job_id=job.id, numbers=numbers)
        names = [
            _scoped(job, each.number, part, number)
            for each in found
            for number, part in enumerate(each.parts)
        ]
        known = ports.outcomes(names)
        settled = {each.number: _settle_slice(job, each, known, ports.records) for each in found}
        for number in numbers:
            # A slice that is not there has expired, long after the last outcome that it could have.
            outcome = settled.get(number, _Settled({}, {}))
            if outcome is not None:
                job = worker.job
                worker.save(
                    outcome.opened,
                    unsettled=tuple(each for each in job.unsettled if each != number),
                    counts=job.counted(outcome.counts),
                )
    job = worker.job
    if job.state is JobState.SETTLING and not job.unsettled:
        worker.save(state=JobState.CANCELLED if job.is_cancelled else JobState.DONE)


def look(job: Job, ports: Ports) -> Looked:
    """Looks at the next records of a job: as many as a slice may have."""
    wish = ReplayWish.model_validate_json(job.wish)
    page = next_page(wish.chosen, State.OPEN, job.created_at, job.cursor, ports.records, limit=SLICE_RECORDS)
    selected = _of_one_slice(page.selected)
    known = [each.record for each in selected if each.record is not None]
    lookups = ports.lookups(is_plan=job.state is JobState.PLANNING)
    reader = _Reader(wish, job.created_at, ports.archive.lines(records=known), lookups)
    looked = Looked(cursor=page.cursor if len(selected) == len(page.selected) else selected[-1].cursor)
    for each in selected:
        reader.look_at(each, looked)
    return looked


def check(record: Record, asked: Mend, now: datetime, ports: Ports) -> Replayable:
    """Returns what would be sent of one record after a mend; raises `DoesNotApply` or `StillRefused`."""
    lines = ports.archive.lines(records=[record])
    if record.id not in lines:
        raise StillRefused(_GONE)
    wish = ReplayWish(chosen=Chosen(ids=[record.id]), mend=asked)
    return _Reader(wish, now, lines, ports.lookups(is_plan=True)).read_again(record).found


def _of_one_slice(selected: Sequence[Selected]) -> Sequence[Selected]:
    """Returns the first records, at least one, whose payloads fit the memory, and their groups a slice."""
    groups: set[tuple[str, str]] = set()
    size = 0
    for number, each in enumerate(selected):
        if each.record is not None:
            groups.add((each.record.account, each.record.group))
            size += each.record.location.length
        if number and (size > SLICE_BYTES or len(groups) > SLICE_GROUPS):
            return selected[:number]
    return selected


@dataclass(frozen=True)
class _Reader:
    """Decides about records, one after the other, and counts."""

    wish: ReplayWish
    planned_at: datetime
    lines: Mapping[str, bytes]
    lookups: Lookups

    def look_at(self, selected: Selected, looked: Looked) -> None:
        record = selected.record
        if record is None:
            looked.counts["taken"] += 1
            looked.reasons[selected.why] += 1
            return
        looked.counts["matched"] += 1
        if record.id not in self.lines:
            looked.counts["gone"] += 1
            looked.reasons[_GONE] += 1
        elif self.wish.mend.fault is not None and record.place is None:
            looked.counts["not_addressable"] += 1
        else:
            try:
                ready = self.read_again(record)
            except (DoesNotApply, StillRefused) as error:
                looked.counts["still_refused"] += 1
                looked.reasons[str(error)] += 1
            except SluiceError:
                raise
            except Exception as error:
                # It must not keep the others of its job from being sent.
                looked.counts["still_refused"] += 1
                looked.reasons[f"Reading it failed unexpectedly ({type(error).__name__})."] += 1
            else:
                found = ready.found
                looked.counts.update(ready=1, events=found.events, repeatable=found.repeatable_relationships)
                looked.ready.append(ready)

    def read_again(self, record: Record) -> Ready:
        """Returns a record as it would be sent; raises `DoesNotApply` or `StillRefused`."""
        try:
            rejection = msgspec.json.decode(self.lines[record.id], type=Rejection)
        except NOT_DECODED as error:
            raise StillRefused("Its line in the archive cannot be read.") from error
        before = bytes(rejection.payload)
        after = mend.apply(self.wish.mend, before, record.place)
        found = reread.read_again(record.id, rejection, after, self.lookups)
        if not self.wish.trigger_flows:
            found = _as_history(found, self.planned_at - HISTORY)
        accepted = rejection.accepted or rejection.rejected_at
        return Ready(record, found, accepted, Sample(record.id, before, after))


def _as_history(found: Replayable, older_than: datetime) -> Replayable:
    """Marks the older events of a record, which then trigger no flow."""
    content: Any = list(reread.with_backfill(found.entries, older_than))
    if isinstance(found.content, Message):
        content = msgspec.structs.replace(found.content, entries=content)
    return msgspec.structs.replace(found, content=content) if found.entries else found


def _begin(job: Job, ports: Ports) -> tuple[Slice, bool]:
    """Writes the next slice down; returns it, and whether another worker was first."""
    looked = look(job, ports)
    # Ids are in the order of acceptance, and so are the records of a message.
    parts, messages = _parts(job, sorted(looked.ready, key=lambda ready: ready.record.id))
    content = f"{SLICES_PREFIX}{job.id}/{job.slices}-{runtime.unique_id()}.json.zst" if parts else ""
    if parts:
        ports.slices.put(key=content, content=packed(messages))
    proposed = Slice(
        number=job.slices,
        content=content,
        parts=parts,
        cursor=looked.cursor,
        begun_at=runtime.now(),
        counts=dict(looked.counts),
        reasons=dict(looked.reasons.most_common(MAX_REASONS)),
    )
    begun = ports.jobs.propose_slice(job_id=job.id, slice=proposed)
    return begun, begun.content != content


def _parts(job: Job, ready: Iterable[Ready]) -> tuple[list[Part], list[StoredMessage | PipelessMessage]]:
    """Makes the messages of a slice: one for each account and way in, and one for each whole message.

    A record of Pipeless has a message of its own, because its events have no positions but those in it.
    """
    together: dict[tuple[str, str, str | None, str], list[Ready]] = {}
    for each in ready:
        found = each.found
        alone = each.record.id if found.is_whole or found.surface == PIPELESS_SURFACE else ""
        together.setdefault((found.account, found.surface, found.source, alone), []).append(each)
    parts: list[Part] = []
    messages: list[StoredMessage | PipelessMessage] = []
    for number, ((account, surface, _, alone), of_one) in enumerate(together.items()):
        counts = [(each.record.id, each.found.events) for each in of_one]
        parts.append(Part(account, surface, counts, alone=bool(alone)))
        messages.append(_message(receipts.of_replay(job.id, job.slices, number), of_one))
    return parts, messages


def _message(receipt: str, ready: Sequence[Ready]) -> StoredMessage | PipelessMessage:
    """Makes the message of records that travel together; each entry says which record it is of."""
    found = ready[0].found
    ids = [each.record.id for each in ready]
    if isinstance(found.content, Message | PipelessMessage):
        return msgspec.structs.replace(found.content, receipt=receipt, replayed=ids)
    accepted = min(each.accepted for each in ready)
    if found.surface == PIPELESS_SURFACE:
        app_id = int(found.account.removeprefix("pipeless-"))
        return PipelessMessage(receipt, app_id, accepted, list(found.pipeless_events), replayed=ids)
    entries = [entry for index, each in enumerate(ready) for entry in _placed(each.found, index)]
    surface = Surface(found.surface)
    made: Message[Any] = Message(
        receipt, found.account, surface, accepted, entries, source=found.source, replayed=ids
    )
    return message.as_stored(made)


def _placed(found: Replayable, index: int) -> Iterator[Entry[Any]]:
    """Yields the entries of a record, with positions by which its outcome is known."""
    number = 0
    for entry in found.entries:
        events: list[Event[Any]] = []
        for event in entry.events:
            events.append(msgspec.structs.replace(event, entry_index=index, event_index=number))
            number += 1
        yield msgspec.structs.replace(entry, events=events)


_decoder: Final[msgspec.json.Decoder[list[StoredMessage | PipelessMessage]]] = msgspec.json.Decoder(
    list[Message[msgspec.Raw] | PipelessMessage]
)


def packed(messages: Sequence[StoredMessage | PipelessMessage]) -> bytes:
    """Returns the messages of a slice as its object holds them."""
    return zstandard.ZstdCompressor(level=1).compress(msgspec.json.encode(messages))


def unpacked(content: bytes) -> list[StoredMessage | PipelessMessage]:
    """Returns the messages of a slice from the content of its object."""
    return _decoder.decode(zstandard.ZstdDecompressor().decompress(content))


def _only(
    stored: StoredMessage | PipelessMessage, ids: frozenset[str]
) -> StoredMessage | PipelessMessage | None:
    """Returns a message without what is of other records; None if nothing is left."""
    replayed = stored.replayed or []
    if ids.issuperset(replayed):
        return stored
    if isinstance(stored, PipelessMessage):
        return None
    entries = [
        entry
        for entry in stored.entries
        if message.record_of(replayed, entry.events[0].entry_index or 0) in ids
    ]
    return msgspec.structs.replace(stored, entries=entries) if entries else None


class _Claimed(msgspec.Struct, frozen=True):
    """Holds the records of a slice that are the job's: those to be sent, and what that means for groups."""

    ours: frozenset[str]
    to_send: frozenset[str]
    opened: items.Opened


def _claim(begun: Slice, job: Job, records: Records) -> _Claimed:
    """Claims the records of a slice, except those that another job has, or that somebody discarded."""
    ids = [record_id for part in begun.parts for record_id, _ in part.records]
    if not ids:
        return _Claimed(frozenset(), frozenset(), {})
    free, ours = [], {}
    for record in records.find_many(ids):
        if record.state is State.OPEN:
            claimed = {"state": State.REPLAYING, "job": job.id, "who": job.confirmed_by, "why": None}
            free.append(msgspec.structs.replace(record, changed_at=runtime.now(), **claimed))
        elif record.job == job.id:
            ours[record.id] = record  # by a worker that died
    taken = {record.id for record in free} - records.change_all(free, only_if=State.OPEN)
    ours |= {record.id: record for record in free if record.id not in taken}
    to_send = frozenset(each.id for each in ours.values() if each.state is State.REPLAYING)
    return _Claimed(frozenset(ours), to_send, items.opened(ours.values(), -1))


class _Settled(msgspec.Struct, frozen=True):
    """Holds the outcomes of a slice, all of which are known, and what that means for groups."""

    counts: dict[str, int]
    opened: items.Opened


def _settle_slice(job: Job, begun: Slice, known: Mapping[str, Outcomes], records: Records) -> _Settled | None:
    """Writes the known outcomes of a slice into its records; returns None if some are not known yet.

    A record that is rejected again is linked to its successor when that one is archived.
    """
    by_outcome: dict[State, set[str]] = {
        State.DELIVERED: set(),
        State.REJECTED_AGAIN: set(),
        State.OPEN: set(),
    }
    for number, part in enumerate(begun.parts):
        found = known.get(_scoped(job, begun.number, part, number), Outcomes())
        for record_id, state in _states(part, found):
            by_outcome[state].add(record_id)
    delivered, waiting = by_outcome[State.DELIVERED], by_outcome[State.OPEN]
    is_overdue = runtime.now() - begun.begun_at > jobs.OUTCOME_PATIENCE
    looks_at_waiting = is_overdue or begun.number in job.contested
    found_records = _find(records, delivered | waiting if looks_at_waiting else delivered)
    ours = [record for record in found_records if record.job == job.id]
    if looks_at_waiting:
        waiting &= {record.id for record in ours}
    now = runtime.now()
    done = [
        msgspec.structs.replace(record, state=State.DELIVERED, changed_at=now)
        for record in ours
        if record.id in delivered and record.state is State.REPLAYING
    ]
    records.change_all(done, only_if=State.REPLAYING)
    if waiting and not is_overdue:
        return None
    late = [record for record in ours if record.id in waiting]
    records.change_all(
        [
            msgspec.structs.replace(record, state=State.OPEN, changed_at=now, why=_NO_OUTCOME)
            for record in late
            if record.state is State.REPLAYING
        ],
        only_if=State.REPLAYING,
    )
    # A worker may have opened some and died. A dead letter was counted when it was archived.
    opened = [record for record in late if record.state is State.REPLAYING or record.why == _NO_OUTCOME]
    counts = {
        "delivered": len(delivered),
        "rejected_again": len(by_outcome[State.REJECTED_AGAIN]),
        "reopened": len(waiting),
    }
    return _Settled(counts, items.opened(opened, 1))


def _find(records: Records, ids: Collection[str]) -> Sequence[Record]:
    return records.find_many(ids) if ids else ()


def _states(part: Part, found: Outcomes) -> Iterator[tuple[str, State]]:
    """Yields what becomes of each record of a part; it stays `OPEN` here while that is not known."""
    if part.alone:
        [(record_id, events)] = part.records
        known = len(found.delivered | found.rejected) >= events
        yield record_id, _state(known, found.rejected - found.delivered)
        return
    for index, (record_id, events) in enumerate(part.records):
        places = {positions.position(index, number) for number in range(events)}
        known = places <= found.delivered | found.rejected
        yield record_id, _state(known, places & (found.rejected - found.delivered))


def _state(known: bool, rejected: Collection[int]) -> State:
    if not known:
        return State.OPEN
    return State.REJECTED_AGAIN if rejected else State.DELIVERED


def _scoped(job: Job, slice_number: int, part: Part, number: int) -> str:
    return receipts.scoped(part.account, receipts.of_replay(job.id, slice_number, number))


def _merged(reasons: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Adds reasons up, the most frequent by name and the rest together."""
    sums = Counter(reasons)
    sums.update(more)
    others = sums.pop(_OTHER_REASONS, 0)
    listed = dict(sums.most_common(MAX_REASONS))
    others += sum(sums.values()) - sum(listed.values())
    return listed | ({_OTHER_REASONS: others} if others else {})
