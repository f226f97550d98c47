"""Holds in memory everything that replaying reaches: records, archive, jobs, queue, upstream.

A worker that `World.start` starts stops before and after each call to the outside. Somebody else may then go
on, and the worker goes on later, or dies. Calls that write several things stop in between as well.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import greenlet
import msgspec

from sluice import positions, receipts, runtime
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp
from sluice.contract import Surface
from sluice.message import Message, PipelessMessage, StoredMessage, record_of
from sluice.operate import jobs, replay
from sluice.operate.jobs import Job, Slice, Worker
from sluice.operate.ports import Ports
from sluice.operate.replay import Sample
from sluice.operate.reread import Lookups
from sluice.operate.selection import ReplayWish
from sluice.receipts import Outcomes
from sluice.records.record import Location, Record, State
from sluice.records.table import Filter, Page
from sluice.rejection import Reason, Rejection
from tests.support.factories import APP, APP_ID, SITE_ID, encoded, event, happening, profile
from tests.support.parsing import read
from tests.support.stored_accounts import APP_REFERENCE, REFERENCE

START: Final = datetime(2026, 11, 2, 12, tzinfo=UTC)
OTHER_SITE: Final = "XyZ789"
HOUR: Final = 3_600.0


class Died(BaseException):
    """Ends a worker in the middle."""


@dataclass
class World(runtime.System):
    """Plays everything outside of a replay, its clock included."""

    now: float = START.timestamp()
    ids: int = 0
    workers: list[Any] = field(default_factory=list)  # greenlets, some of which nobody knows of any more
    kept: dict[str, Record] = field(default_factory=dict)
    archived: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    queue: list[StoredMessage | PipelessMessage] = field(default_factory=list)
    done: dict[str, Outcomes] = field(default_factory=dict)
    open: Counter[tuple[str, str]] = field(default_factory=Counter)  # events, by account and group
    delivered: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    samples: list[Sample] = field(default_factory=list)  # of the last plan
    refuses: Callable[[str], bool] = lambda _: False

    def __post_init__(self) -> None:
        self.jobs = MemoryJobs(self)

    def time(self) -> float:
        return self.now

    def unique_id(self) -> str:
        self.ids += 1
        return f"{self.ids:08x}" * 4

    def refuse(self, number: int, payload: object, *, place: str | None = None, **fields: Any) -> str:
        """Adds an open record of a refused payload; returns its id."""
        accepted = START - timedelta(days=3) + timedelta(minutes=number)
        known = Rejection(
            Reason.REFUSED,
            "No.",
            msgspec.Raw(encoded(payload)),
            accepted + timedelta(hours=1),
            account=SITE_ID,
            surface=Surface.BULK,
            accepted=accepted,
            id=f"{int(accepted.timestamp() * 1_000):012x}{number:020x}",
        )
        rejection = msgspec.structs.replace(known, **fields)
        self.archived[rejection.id] = msgspec.json.encode(rejection)
        location = Location("object", 0, len(self.archived[rejection.id]))
        events = len(payload["events"]) if isinstance(payload, dict) and "events" in payload else 1
        record = Record(
            rejection.id,
            rejection.account,
            f"group of {rejection.account}",
            rejection.reason,
            "No.",
            rejection.rejected_at,
            location,
            events=events,
            place=place,
            surface=rejection.surface,
        )
        self.kept[record.id] = record
        self.open[record.account, record.group] += events
        return record.id

    @contextmanager
    def outside(self) -> Iterator[None]:
        self._stop()
        yield
        self._stop()

    def _stop(self) -> None:
        current = greenlet.getcurrent()
        if current in self.workers:
            current.parent.switch()

    def start(self, job_id: str) -> None:
        """Starts a worker, which stops at its first call to the outside."""
        self.workers.append(worker := greenlet.greenlet(self.work))
        worker.switch(job_id)
        self._forget()

    def go_on(self, number: int) -> None:
        """Lets a worker go on to its next stop."""
        self.workers[number % len(self.workers)].switch()
        self._forget()

    def kill(self, number: int) -> None:
        """Ends a worker where it has stopped."""
        self.workers[number % len(self.workers)].throw(Died)
        self._forget()

    def _forget(self) -> None:
        self.workers = [worker for worker in self.workers if not worker.dead]

    @property
    def ports(self) -> Ports:
        accounts = Accounts(
            (KlaviyoAccount(SITE_ID, REFERENCE), KlaviyoAccount(OTHER_SITE, REFERENCE)),
            (PipelessApp(APP_ID, APP_REFERENCE),),
        )
        lookups = Lookups(accounts, lambda _: None, lambda *_: frozenset())
        reached: Any = self  # a replay asks for no other method of these
        nobody: Any = None  # asks for these
        return Ports(
            records=reached,
            archive=reached,
            hash_key=lambda: b"key",
            jobs=self.jobs,
            slices=self,
            files=nobody,
            events=self,
            outcomes=self.outcomes,
            lookups=lambda *, is_plan: lookups,
            overview=nobody,
            imports=nobody,
            parked=nobody,
            pauses=nobody,
            sources=nobody,
            accounts=nobody,
            private_keys=nobody,
            backlog=nobody,
            secrets=nobody,
            transfers=nobody,
            identities=nobody,
        )

    def page(self, wanted: Filter, *, before: str | None, limit: int) -> Page:
        until = wanted.until or START
        found = sorted(
            (
                record
                for record in self.kept.values()
                if record.state is wanted.state
                and wanted.account in {None, record.account}
                and record.rejected_at <= until
                and (before is None or record.id < before)
            ),
            key=lambda record: record.id,
            reverse=True,
        )
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    def find_many(self, record_ids: Collection[str]) -> Sequence[Record]:
        return [self.kept[record_id] for record_id in record_ids if record_id in self.kept]

    def change_all(self, changed: Sequence[Record], *, only_if: State) -> set[str]:
        written = set()
        for record in changed:
            with self.outside():
                there = self.kept[record.id]
                is_own = there.job == record.job
                if (there.state is only_if and (only_if is not State.REPLAYING or is_own)) or (
                    there.state is record.state and is_own
                ):
                    self.kept[record.id] = record
                    written.add(record.id)
        return written

    def lines(self, *, records: Sequence[Record]) -> Mapping[str, bytes]:
        return {record.id: self.archived[record.id] for record in records if record.id in self.archived}

    def put(self, *, key: str, content: bytes) -> None:
        with self.outside():
            self.objects[key] = content

    def get(self, *, key: str) -> bytes:
        return self.objects[key]

    def send(self, *, messages: Sequence[StoredMessage | PipelessMessage], again: bool) -> None:
        for each in messages:
            with self.outside():
                self.queue.append(each)

    def outcomes(self, names: Sequence[str]) -> Mapping[str, Outcomes]:
        return {name: self.done[name] for name in names if name in self.done}

    def dispatch(self) -> None:
        """Delivers or rejects what is on the queue, and takes of each receipt only what it does not say."""
        for stored in self.queue:
            name = receipts.scoped(stored.account, stored.receipt)
            known = self.done.get(name, Outcomes())
            for place, index in _places(stored):
                record_id = record_of(stored.replayed, index)
                assert record_id is not None
                if place in known.delivered | known.rejected:
                    continue
                if self.refuses(record_id):
                    known = Outcomes(known.delivered, known.rejected | {place})
                    self._link(record_id)
                else:
                    known = Outcomes(known.delivered | {place}, known.rejected)
                    self.delivered[record_id].append(stored.receipt)
            self.done[name] = known
        self.queue.clear()

    def _link(self, record_id: str) -> None:
        record = self.kept[record_id]
        if record.state is State.REPLAYING:
            again = msgspec.structs.replace(record, state=State.REJECTED_AGAIN, successor="next")
            self.kept[record_id] = again

    def plan(self, wish: dict[str, Any], who: str = "ann") -> Job:
        """Plans a job to its end."""
        checked = ReplayWish.model_validate(wish).model_dump_json()
        job = jobs.create(self.jobs, replay.KIND, who, checked)
        self.samples = []

        def plan(worker: Worker) -> None:
            sample = replay.plan(worker, self.ports, lambda: True)
            self.samples += [sample] if sample else []

        return jobs.drive(self.jobs, job, plan)

    def work(self, job_id: str, slices: int = 1) -> None:
        """Does some slices of a job, and settles, as one invocation; a worker may die in it."""
        left = iter(range(slices))

        def work(worker: Worker) -> None:
            replay.work(worker, self.ports, lambda: next(left, None) is not None)

        with contextlib.suppress(Died):
            jobs.drive(self.jobs, self.jobs.saved[job_id], work)

    def finish(self, *job_ids: str) -> None:
        """Lets jobs end, whatever became of their workers so far."""
        for _ in range(100):
            self.now += jobs.LEASE_SECONDS + 1
            for job_id in job_ids:
                self.work(job_id, 10)
            self.dispatch()
            if all(self.jobs.saved[job_id].state.is_over for job_id in job_ids):
                return
        raise AssertionError("a job does not end")


@dataclass
class MemoryJobs:
    """Keeps jobs as the table does."""

    world: World
    saved: dict[str, Job] = field(default_factory=dict)
    slices: dict[tuple[str, int], Slice] = field(default_factory=dict)

    def find(self, *, job_id: str) -> Job | None:
        return self.saved.get(job_id)

    def newest(self, *, limit: int) -> Sequence[Job]:
        return sorted(self.saved.values(), key=lambda job: job.id, reverse=True)[:limit]

    def save(self, *, job: Job, opened: Mapping[tuple[str, str], tuple[int, int]]) -> bool:
        with self.world.outside():
            known = self.saved.get(job.id)
            is_next = (known.version if known else 0) == job.version - 1
            if is_next:
                self.saved[job.id] = job
                self.world.open.update({group: events for group, (events, _) in opened.items()})
        return is_next

    def propose_slice(self, *, job_id: str, slice: Slice) -> Slice:
        with self.world.outside():
            as_stored = msgspec.json.decode(msgspec.json.encode(slice), type=Slice)
            return self.slices.setdefault((job_id, slice.number), as_stored)

    def find_slices(self, *, job_id: str, numbers: Sequence[int]) -> Sequence[Slice]:
        return [self.slices[job_id, n] for n in numbers if (job_id, n) in self.slices]


def _places(stored: StoredMessage | PipelessMessage) -> Iterator[tuple[int, int]]:
    """Yields each event's position in its receipt, and the index by which its record is found."""
    if isinstance(stored, PipelessMessage):
        yield from ((number, number) for number in range(len(stored.events)))
        return
    for index, entry in enumerate(stored.entries):
        for at_entry, at_event, _ in entry.positioned(index):
            yield positions.position(at_entry, at_event), at_entry


def klaviyo_payload(*unique_ids: str, **attributes: Any) -> dict[str, Any]:
    events = [event(unique_id=each, **attributes)["attributes"] for each in unique_ids]
    return {"profile": profile()["data"], "events": events, "backfill": False}


def fill(world: World, kinds: Sequence[str]) -> Sequence[str]:
    """Adds a record of each kind; returns their ids."""
    ids = []
    for number, kind in enumerate(kinds):
        name = f"event-{number}"
        match kind:
            case "one":
                ids.append(world.refuse(number, klaviyo_payload(name)))
            case "three":
                ids.append(world.refuse(number, klaviyo_payload(*(f"{name}-{n}" for n in range(3)))))
            case "other":
                ids.append(world.refuse(number, klaviyo_payload(name), account=OTHER_SITE))
            case "app":
                batch = {"events": [happening(name), happening(f"{name}-b")]}
                ids.append(world.refuse(number, batch, account=APP, surface="pipeless"))
            case "letter":
                ids.append(world.refuse(number, _letter(name), reason=Reason.DEAD_LETTER))
            case _:
                ids.append(world.refuse(number, {**klaviyo_payload(name), "events": []}))
    return ids


def _letter(name: str) -> Any:
    attributes = {**klaviyo_payload(name)["events"][0], "profile": profile()}
    entries = read(Surface.EVENT, {"data": {"type": "event", "attributes": attributes}}).entries
    entries[0].events[0].entry_index = 77  # as the line of an object has it
    return msgspec.json.decode(msgspec.json.encode(Message("r", SITE_ID, Surface.EVENT, START, entries)))
