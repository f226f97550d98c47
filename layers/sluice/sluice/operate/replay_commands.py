"""Implements the commands that replay rejections, discard them, and take that back."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from sluice.operate import jobs, masking, replay
from sluice.operate.command import Access, Arguments, Command, Context, Failed, Result
from sluice.operate.job_commands import (
    WORK_SECONDS,
    JobArguments,
    JobId,
    JobResult,
    found,
    shown,
    time_left,
    worked,
)
from sluice.operate.jobs import Job, JobState, LeaseLost, Worker
from sluice.operate.mend import DoesNotApply, Mend
from sluice.operate.rejections import RecordId, Selection, find_record
from sluice.operate.replay import Sample
from sluice.operate.reread import StillRefused
from sluice.operate.selection import MAX_IDS, Chosen, ReplayWish, next_page
from sluice.records.record import Record, State

WAY_BACK: Final = timedelta(days=1)  # for which a discarded record can be opened again
CHANGED_AT_ONCE: Final = 500  # records of one call; the next one goes on
MAX_WHY: Final = 60  # what a record holds of it


class Meant(Selection):
    """Says which records are meant: those with these ids, or those for which all that is given is true."""

    ids: Annotated[tuple[RecordId, ...], Field(max_length=MAX_IDS)] = ()

    def chosen(self, context: Context) -> Chosen:
        """Returns what is meant without anything of a person; raises `Failed` if it is nothing."""
        given = msgspec.structs.asdict(self.filter(context.ports.hash_key()))
        if given.pop("state") is not None:
            raise Failed("invalid_arguments", "The state cannot be chosen: the command decides it.")
        try:
            return Chosen.model_validate({**given, "ids": self.ids})
        except ValidationError as error:
            raise Failed("invalid_arguments", sentence(error)) from error


class PlanArguments(Meant):
    """Says what is to be replayed and how, or names a `job` whose planning is to go on."""

    mend: Mend = Mend()
    trigger_flows: bool = False
    job: JobId | None = None


class SampleShown(BaseModel):
    """Holds the payload of one record before and after its mend; texts that may name a person are masked."""

    id: str
    before: Any
    after: Any


class PlanResult(JobResult):
    """Holds a job that is planned, or is still being planned, and the first record that would be sent."""

    sample: SampleShown | None


class CheckArguments(Arguments):
    """Names one record, and how it would be mended."""

    id: RecordId
    mend: Mend = Mend()


class CheckResult(Result):
    """Says with how many `events` a record could be sent after a mend, or `why` it would still be refused.

    `place` leads into the mended payload, if one is known.
    """

    passes: bool
    events: int = 0
    why: str | None = None
    place: str | None = None


class ChangeArguments(Meant):
    """Says which records are to change; `not_after` and `next` are those that the first call returned.

    With `dry_run` they are only counted.
    """

    dry_run: bool = False
    not_after: AwareDatetime | None = None
    next: Annotated[str, Field(max_length=32)] | None = None


class DiscardArguments(ChangeArguments):
    """Says which open records are not needed, and why."""

    why: Annotated[str, Field(min_length=1, max_length=MAX_WHY)]


class ChangeResult(Result):
    """Says how many records were meant and how many changed; `next` begins the next call, None at the end."""

    matched: int
    changed: int
    not_after: datetime
    next: str | None

    def counts(self) -> dict[str, int]:
        return {"matched": self.matched, "changed": self.changed}


def _plan(arguments: PlanArguments, context: Context) -> PlanResult:
    job = _begun(arguments, context) if arguments.job is None else found(arguments.job, context)
    _check_kind(job)
    samples: list[Sample] = []
    has_time = time_left(WORK_SECONDS)

    def plan(worker: Worker) -> None:
        sample = replay.plan(worker, context.ports, has_time)
        samples.extend([sample] if sample else [])

    if job.state is JobState.PLANNING:
        job = jobs.drive(context.ports.jobs, job, plan)
    return PlanResult(job=shown(job), sample=_sample(samples[0]) if samples else None)


def _begun(arguments: PlanArguments, context: Context) -> Job:
    wish = ReplayWish(
        chosen=arguments.chosen(context), mend=arguments.mend, trigger_flows=arguments.trigger_flows
    )
    return jobs.create(context.ports.jobs, replay.KIND, context.who, wish.model_dump_json())


def _check(arguments: CheckArguments, context: Context) -> CheckResult:
    """Judges one record as a replay would, and changes nothing.

    It takes the access of those who replay: by its answers one could guess what a payload hides.
    """
    record = find_record(arguments.id, context)
    try:
        ready = replay.check(record, arguments.mend, context.now, context.ports)
    except StillRefused as refused:
        return CheckResult(passes=False, why=refused.detail, place=refused.pointer)
    except DoesNotApply as error:
        return CheckResult(passes=False, why=str(error))
    return CheckResult(passes=True, events=ready.events)


def _run(arguments: JobArguments, context: Context) -> JobResult:
    job = found(arguments.job, context)
    _check_kind(job)
    if job.state is JobState.PLANNED:
        try:
            job = jobs.confirm(context.ports.jobs, job, context.who)
        except LeaseLost:
            job = found(arguments.job, context)  # somebody else confirmed or cancelled it
    if job.state in {JobState.PLANNING, JobState.CANCELLED}:
        raise Failed("conflict", f"The job {job.id} is {job.state}: it cannot be run.")
    return JobResult(job=shown(worked(job, context, time_left(WORK_SECONDS))))


def _discard(arguments: DiscardArguments, context: Context) -> ChangeResult:
    changes = {"state": State.DISCARDED, "who": context.who, "why": arguments.why, "changed_at": context.now}
    return _change(arguments, context, State.OPEN, changes)


def _restore(arguments: ChangeArguments, context: Context) -> ChangeResult:
    changes = {"state": State.OPEN, "who": context.who, "why": None, "changed_at": context.now}
    return _change(arguments, context, State.DISCARDED, changes)


def _change(
    arguments: ChangeArguments, context: Context, before: State, changes: dict[str, Any]
) -> ChangeResult:
    """Brings the next records that are meant from one state into another."""
    records = context.ports.records
    not_after = arguments.not_after or context.now
    page = next_page(
        arguments.chosen(context), before, not_after, arguments.next, records, limit=CHANGED_AT_ONCE
    )
    meant = [
        each.record
        for each in page.selected
        if each.record is not None and (before is State.OPEN or _is_recent(each.record, context.now))
    ]
    changed: list[Record] = []
    if not arguments.dry_run:
        done = records.change_all(
            [msgspec.structs.replace(record, **changes) for record in meant], only_if=before
        )
        changed = [record for record in meant if record.id in done]
        records.count_open(changed, sign=-1 if before is State.OPEN else 1)
    return ChangeResult(matched=len(meant), changed=len(changed), not_after=not_after, next=page.cursor)


def _is_recent(record: Record, now: datetime) -> bool:
    return record.changed_at is not None and now - record.changed_at <= WAY_BACK


def _check_kind(job: Job) -> None:
    if job.kind != replay.KIND:
        raise Failed("conflict", f"The job {job.id} is no replay, but: {job.kind}.")


def _sample(sample: Sample) -> SampleShown:
    before, after = msgspec.json.decode(sample.before), msgspec.json.decode(sample.after)
    return SampleShown(id=sample.id, before=masking.masked(before), after=masking.mended(before, after))


def sentence(error: ValidationError) -> str:
    """Returns the first mistake, without its place."""
    text = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return f"{text[:1].upper()}{text[1:]}."


CHECK: Final = Command("rejections replay check", Access.ADMIN, CheckArguments, CheckResult, _check)
PLAN: Final = Command("rejections replay plan", Access.ADMIN, PlanArguments, PlanResult, _plan)
RUN: Final = Command("rejections replay run", Access.ADMIN, JobArguments, JobResult, _run)
DISCARD: Final = Command("rejections discard", Access.ADMIN, DiscardArguments, ChangeResult, _discard)
RESTORE: Final = Command("rejections restore", Access.ADMIN, ChangeArguments, ChangeResult, _restore)
