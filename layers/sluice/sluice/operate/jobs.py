"""Keeps long work as jobs: planned, confirmed, done in slices, cancelled, and safe against any death.

A worker takes a job's lease and writes the job anew after each slice. Every write is conditional on the
version that was read. So a worker whose lease another took writes nothing more, and a slice counts once.
Two workers that begin the same slice both do what the first one wrote down.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from sluice import runtime
from sluice.errors import Retryable, SluiceError

LEASE_SECONDS: Final = 60.0  # after the last write of a worker that died, another goes on
OUTCOME_PATIENCE: Final = timedelta(days=1)  # after which a record without an outcome is open again


class JobState(StrEnum):
    """Names how far a job is."""

    PLANNING = "planning"  # it counts what it would do
    PLANNED = "planned"  # it waits to be confirmed
    RUNNING = "running"
    SETTLING = "settling"  # all is sent, and some outcomes are not known yet
    DONE = "done"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Tells whether nothing is to be done any more."""
        return self in {JobState.DONE, JobState.CANCELLED}


class Lease(msgspec.Struct, frozen=True):
    """Says which worker has a job, and until when (epoch seconds)."""

    worker: str
    until: float


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """Holds one job.

    `wish` is what its kind was asked for, as JSON. `cursor` is how far it has looked through what it is
    about, None at the beginning. `slices` is the number of slices that are done, and `unsettled` has those
    among them whose outcomes are not all known. Of a `contested` slice, another job was faster with some.
    `reasons` counts why things are not done.
    """

    id: str
    kind: str
    state: JobState
    created_at: datetime
    who: str
    wish: str
    version: int = 0
    cursor: str | None = None
    slices: int = 0
    unsettled: tuple[int, ...] = ()
    contested: tuple[int, ...] = ()
    counts: Mapping[str, int] = {}
    reasons: Mapping[str, int] = {}
    lease: Lease | None = None
    is_cancelled: bool = False
    cancelled_by: str | None = None
    confirmed_by: str | None = None
    changed_at: datetime | None = None

    def counted(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Returns its counts with others added."""
        return {name: self.counts.get(name, 0) + counts.get(name, 0) for name in {**self.counts, **counts}}


class Part(msgspec.Struct, frozen=True):
    """Describes one message of a slice: its account, and its records with their numbers of events.

    A part of one record that is `alone` may have any positions.
    """

    account: str
    surface: str
    records: list[tuple[str, int]]
    alone: bool = False


class Slice(msgspec.Struct, frozen=True):
    """Describes one slice of a job, as the first worker that began it wrote it down.

    `content` is the key of the object with its messages. `cursor` is where the next slice begins, None if
    this is the last. `counts` and `reasons` are those of what it looked at.
    """

    number: int
    content: str
    parts: list[Part]
    cursor: str | None
    begun_at: datetime
    counts: dict[str, int] = {}
    reasons: dict[str, int] = {}


class JobStore(Protocol):
    """Keeps jobs and their slices. All methods may raise `Retryable`."""

    def find(self, *, job_id: str) -> Job | None:
        """Returns a job, or None if there is none (any more)."""
        ...

    def newest(self, *, limit: int) -> Sequence[Job]:
        """Returns jobs, the newest first."""
        ...

    def save(self, *, job: Job, opened: Mapping[tuple[str, str], tuple[int, int]]) -> bool:
        """Writes a job if the one in the store has the version before it; tells whether it did.

        With it, and only with it, `opened` is added to the open events and records of groups, which are named
        by account and id.
        """
        ...

    def propose_slice(self, *, job_id: str, slice: Slice) -> Slice:
        """Writes a slice down unless there is one with its number; returns the one that is there."""
        ...

    def find_slices(self, *, job_id: str, numbers: Sequence[int]) -> Sequence[Slice]:
        """Returns slices by their numbers, as far as they are there."""
        ...


class LeaseLost(SluiceError):
    """Says that another worker has the job now."""


class Worker:
    """Writes the changes of one job that it has the lease of."""

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store = store
        self.job = job

    def save(self, opened: Mapping[tuple[str, str], tuple[int, int]] | None = None, **changes: object) -> Job:
        """Writes changes of the job, and renews the lease; raises `LeaseLost` if another has it."""
        lease = self.job.lease and msgspec.structs.replace(
            self.job.lease, until=runtime.time() + LEASE_SECONDS
        )
        known: dict[str, object] = {"lease": lease}
        self.job = _saved(self._store, self.job, opened or {}, **(known | changes))
        return self.job


def create(store: JobStore, kind: str, who: str, wish: str) -> Job:
    """Writes a new job, which is to be planned."""
    now = runtime.now()
    job_id = f"{int(now.timestamp() * 1_000):012x}{runtime.unique_id()[:8]}"
    job = Job(job_id, kind, JobState.PLANNING, now, who, wish, version=1, changed_at=now)
    if not store.save(job=job, opened={}):
        raise LeaseLost("a job with this id is there already")
    return job


def take(store: JobStore, job: Job) -> Worker | None:
    """Takes the lease of a job; returns None if another worker has it."""
    now = runtime.time()
    if job.lease is not None and job.lease.until > now:
        return None
    lease = Lease(runtime.unique_id()[:12], now + LEASE_SECONDS)
    try:
        return Worker(store, _saved(store, job, {}, lease=lease))
    except LeaseLost:
        return None


def confirm(store: JobStore, job: Job, who: str) -> Job:
    """Lets a planned job run; raises `LeaseLost` if it was changed meanwhile."""
    changes: dict[str, object] = {"cursor": None, "counts": {}, "reasons": {}, "lease": None}
    return _saved(store, job, {}, state=JobState.RUNNING, confirmed_by=who, **changes)


def follow(store: JobStore, job_id: str, state: JobState, counts: Mapping[str, int]) -> Job | None:
    """Writes how far a job is that a client does; returns it, or None if there is none (any more).

    A job that is over stays as it is.
    """
    while (job := store.find(job_id=job_id)) is not None and not job.state.is_over:
        with contextlib.suppress(LeaseLost):  # somebody has cancelled it in between
            return _saved(store, job, {}, state=state, counts=counts)
    return job


def cancel(store: JobStore, job: Job, who: str, *, at_once: bool = False) -> Job:
    """Cancels a job: it begins no other slice. Its messages that are sent stay sent.

    It is over `at_once` if no worker has to end a slice of it.
    """
    # The worker that has it now stops with its next write, and the next one ends the slice it has begun.
    changes: dict[str, object] = {"is_cancelled": True, "cancelled_by": who, "lease": None}
    if at_once or job.state in {JobState.PLANNING, JobState.PLANNED}:
        changes["state"] = JobState.CANCELLED
    return _saved(store, job, {}, **changes)


def forget_wish(store: JobStore, job: Job) -> None:
    """Removes what a job that is over was asked for; raises `LeaseLost` if it was changed meanwhile."""
    _saved(store, job, {}, wish="{}")


def drive(store: JobStore, job: Job, work: Callable[[Worker], None]) -> Job:
    """Lets a worker do some work of a job, if no other has it, and gives the lease back; returns the job."""
    worker = take(store, job)
    if worker is not None:
        try:
            work(worker)
        except LeaseLost:
            pass  # whoever has it now goes on from what is written
        finally:
            with contextlib.suppress(LeaseLost, Retryable):
                worker.save(lease=None)
    return store.find(job_id=job.id) or job


def _saved(
    store: JobStore, job: Job, opened: Mapping[tuple[str, str], tuple[int, int]], **changes: object
) -> Job:
    changed = msgspec.structs.replace(job, version=job.version + 1, changed_at=runtime.now(), **changes)
    if not store.save(job=changed, opened=opened):
        raise LeaseLost("another worker has changed the job")
    return changed
