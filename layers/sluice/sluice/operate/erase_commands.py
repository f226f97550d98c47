"""Implements the commands that remove what is stored of a person: first a plan, then the removal."""

from datetime import datetime
from typing import Final

from sluice.operate import erase, jobs
from sluice.operate.command import Access, Arguments, Command, Context, Failed, Name
from sluice.operate.erase import EraseWish
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
from sluice.operate.jobs import Job, JobState, LeaseLost
from sluice.records import person


class PlanArguments(Arguments):
    """Names a person by an identifier, or a `job` whose planning is to go on."""

    profile: Name | None = None
    job: JobId | None = None


class EraseResult(JobResult):
    """Holds a job, and when nothing is left of what was on its way as the job began."""

    in_flight_until: datetime


def _plan(arguments: PlanArguments, context: Context) -> EraseResult:
    job = _begun(arguments, context) if arguments.job is None else _found(arguments.job, context)
    has_time = time_left(WORK_SECONDS)
    if job.state is JobState.PLANNING:
        job = jobs.drive(context.ports.jobs, job, lambda worker: erase.plan(worker, context.ports, has_time))
    return _result(job)


def _begun(arguments: PlanArguments, context: Context) -> Job:
    if arguments.profile is None or not arguments.profile.strip():
        raise Failed("invalid_arguments", "Say whose data is to be erased: an identifier, or the job.")
    wish = EraseWish(profile=person.hashed(arguments.profile, context.ports.hash_key()))
    return jobs.create(context.ports.jobs, erase.KIND, context.who, wish.model_dump_json())


def _run(arguments: JobArguments, context: Context) -> EraseResult:
    job = _found(arguments.job, context)
    if job.state is JobState.PLANNED:
        try:
            job = jobs.confirm(context.ports.jobs, job, context.who)
        except LeaseLost:
            job = _found(arguments.job, context)  # somebody else confirmed or cancelled it
    if job.state in {JobState.PLANNING, JobState.CANCELLED}:
        raise Failed("conflict", f"The job {job.id} is {job.state}: it cannot be run.")
    return _result(worked(job, context, time_left(WORK_SECONDS)))


def _found(job_id: str, context: Context) -> Job:
    job = found(job_id, context)
    if job.kind != erase.KIND:
        raise Failed("conflict", f"The job {job.id} is no erasure, but: {job.kind}.")
    return job


def _result(job: Job) -> EraseResult:
    return EraseResult(job=shown(job), in_flight_until=job.created_at + erase.IN_FLIGHT)


PLAN: Final = Command("erase plan", Access.ADMIN, PlanArguments, EraseResult, _plan)
RUN: Final = Command("erase run", Access.ADMIN, JobArguments, EraseResult, _run)
