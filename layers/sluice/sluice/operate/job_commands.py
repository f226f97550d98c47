"""Implements the commands that look at jobs, let them go on, and cancel them.

Jobs go on without anybody who waits: a schedule calls `jobs tick` each minute.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Final

from pydantic import BaseModel, Field

from sluice import runtime
from sluice.operate import erase, jobs, replay
from sluice.operate.command import Access, Arguments, Command, Context, Failed, Result
from sluice.operate.jobs import Job, JobState, LeaseLost, Worker
from sluice.operate.ports import Ports

WORK_SECONDS: Final = 5.0  # of one call, after which whoever waits is told how far it is
TICK_SECONDS: Final = 50.0
TICKED_JOBS: Final = 100
PLAN_LIFE: Final = timedelta(days=1)  # after which a plan that nobody confirmed is cancelled

type JobId = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
type Work = Callable[[Worker, Ports, Callable[[], bool]], None]

# Of the jobs that operate itself does. An import is done by its client.
KINDS: Final[Mapping[str, Work]] = {replay.KIND: replay.work, erase.KIND: erase.work}


class Cause(BaseModel):
    """Says for how many records one thing is the reason that they are not sent."""

    why: str
    count: int


class JobShown(BaseModel):
    """Describes a job. The counts of a replay are of records, but for `events` and `repeatable`.

    - `matched` are open and meant, and `ready` of them can be sent, with so many `events`; `repeatable` are
      relationships of Pipeless that may be there twice.
    - `still_refused`, `not_addressable` and `gone` cannot be sent. `taken` ones are in another state by now.
    - `sent` ones are `delivered`, `rejected_again`, `reopened` after a day without an outcome, or `waiting`.

    An erasure counts what it found of a person: `archived` lines, `records` without a line, `parked`
    messages, `imported` lines, `replayed` messages and `mends` of jobs. Parked objects that cannot be read
    are `not_sealed`.

    An import counts the `events` and `bad_lines` of the `parts` that its client has sent.
    """

    id: str
    kind: str
    state: str
    who: str
    created_at: datetime
    changed_at: datetime | None
    confirmed_by: str | None
    cancelled_by: str | None
    matched: int = 0
    ready: int = 0
    events: int = 0
    repeatable: int = 0
    still_refused: int = 0
    not_addressable: int = 0
    gone: int = 0
    taken: int = 0
    sent: int = 0
    delivered: int = 0
    rejected_again: int = 0
    reopened: int = 0
    waiting: int = 0
    archived: int = 0
    records: int = 0
    parked: int = 0
    imported: int = 0
    replayed: int = 0
    mends: int = 0
    not_sealed: int = 0
    parts: int = 0
    bad_lines: int = 0
    reasons: list[Cause] = []


class JobArguments(Arguments):
    """Names one job."""

    job: JobId


class ListArguments(Arguments):
    """Says how many jobs are wanted."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = 20


class NoArguments(Arguments):
    """Holds no argument."""


class ListResult(Result):
    """Holds jobs, the newest first."""

    jobs: list[JobShown]


class JobResult(Result):
    """Holds one job."""

    job: JobShown

    def counts(self) -> dict[str, int]:
        shown = (
            ("matched", "sent", "delivered", "rejected_again")
            if self.job.kind == replay.KIND
            else erase.COUNTS
        )
        return {name: getattr(self.job, name) for name in shown}


class TickResult(Result):
    """Says how many jobs were worked on, and how many of them are not over."""

    worked: int
    left: int

    def counts(self) -> dict[str, int]:
        return {"worked": self.worked, "left": self.left}


def shown(job: Job) -> JobShown:
    """Returns a job as operators see it."""
    done = sum(job.counts.get(name, 0) for name in ("delivered", "rejected_again", "reopened"))
    return JobShown(
        id=job.id,
        kind=job.kind,
        state=job.state,
        who=job.who,
        created_at=job.created_at,
        changed_at=job.changed_at,
        confirmed_by=job.confirmed_by,
        cancelled_by=job.cancelled_by,
        **{name: count for name, count in job.counts.items() if name in JobShown.model_fields},
        waiting=job.counts.get("sent", 0) - done,
        reasons=[Cause(why=why, count=count) for why, count in job.reasons.items()],
    )


def found(job_id: str, context: Context) -> Job:
    """Returns a job, or raises `Failed` if there is none."""
    job = context.ports.jobs.find(job_id=job_id)
    if job is None:
        raise Failed("not_found", f"There is no job {job_id}, or it has expired.")
    return job


def time_left(seconds: float) -> Callable[[], bool]:
    """Returns a function that tells whether so many seconds are not over yet."""
    end = runtime.monotonic() + seconds
    return lambda: runtime.monotonic() < end


def worked(job: Job, context: Context, has_time: Callable[[], bool]) -> Job:
    """Lets a job that runs go on while there is time, and returns it."""
    work = KINDS.get(job.kind)
    if work is None or job.state not in {JobState.RUNNING, JobState.SETTLING}:
        return job
    return jobs.drive(context.ports.jobs, job, lambda worker: work(worker, context.ports, has_time))


def _list(arguments: ListArguments, context: Context) -> ListResult:
    return ListResult(jobs=list(map(shown, context.ports.jobs.newest(limit=arguments.limit))))


def _show(arguments: JobArguments, context: Context) -> JobResult:
    return JobResult(job=shown(found(arguments.job, context)))


def _work(arguments: JobArguments, context: Context) -> JobResult:
    return JobResult(job=shown(worked(found(arguments.job, context), context, time_left(WORK_SECONDS))))


def _cancel(arguments: JobArguments, context: Context) -> JobResult:
    while True:
        job = found(arguments.job, context)
        if job.state.is_over or job.is_cancelled:
            return JobResult(job=shown(job))
        try:
            cancelled = jobs.cancel(context.ports.jobs, job, context.who, at_once=job.kind not in KINDS)
        except LeaseLost:
            continue  # a worker has written it in between
        return JobResult(job=shown(worked(cancelled, context, time_left(WORK_SECONDS))))


def _tick(_: NoArguments, context: Context) -> TickResult:
    has_time = time_left(TICK_SECONDS)
    done = []
    for job in context.ports.jobs.newest(limit=TICKED_JOBS):
        is_plan = job.state in {JobState.PLANNING, JobState.PLANNED}
        if is_plan and context.now - job.created_at > PLAN_LIFE:
            jobs.drive(context.ports.jobs, job, lambda worker: _forget(worker, context.who))
        elif not is_plan and not job.state.is_over and job.kind in KINDS:
            done.append(worked(job, context, has_time))
    return TickResult(worked=len(done), left=sum(not job.state.is_over for job in done))


def _forget(worker: Worker, who: str) -> None:
    worker.save(state=JobState.CANCELLED, cancelled_by=who)


LIST: Final = Command("jobs list", Access.READ, ListArguments, ListResult, _list)
SHOW: Final = Command("jobs show", Access.READ, JobArguments, JobResult, _show)
WORK: Final = Command("jobs work", Access.ADMIN, JobArguments, JobResult, _work)
CANCEL: Final = Command("jobs cancel", Access.ADMIN, JobArguments, JobResult, _cancel)
TICK: Final = Command("jobs tick", Access.ADMIN, NoArguments, TickResult, _tick)
