"""Implements `sluicectl jobs`: list, show and cancel."""

from collections.abc import Sequence

from rich.console import Console

from sluice.operate.job_commands import CANCEL, LIST, SHOW, JobArguments, JobShown, ListArguments
from sluicectl import job_counts
from sluicectl.deployment import Target, find
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen, table


def listing(screen: Screen, target: Target, *, limit: int) -> int:
    """Shows jobs, the newest first."""
    found = OperateClient(find(target)).call(LIST, ListArguments(limit=limit)).jobs
    screen.show(
        {"jobs": [job.model_dump(mode="json") for job in found]}, lambda console: _draw_list(console, found)
    )
    return 0


def show(screen: Screen, target: Target, job_id: str) -> int:
    """Shows one job."""
    job = OperateClient(find(target)).call(SHOW, JobArguments(job=job_id)).job
    screen.show(job.model_dump(mode="json"), lambda console: job_counts.draw_job(console, job))
    return 0


def cancel(screen: Screen, target: Target, job_id: str) -> int:
    """Cancels a job."""
    job = OperateClient(find(target)).call(CANCEL, JobArguments(job=job_id)).job
    screen.show(job.model_dump(mode="json"), lambda console: _draw_cancelled(console, job))
    return 0


def _draw_list(console: Console, found: Sequence[JobShown]) -> None:
    if not found:
        console.print("There is no job: nobody has replayed, imported or erased anything.")
        return
    rows = [
        (job.id, job.kind, job.state, f"{job.created_at:%Y-%m-%d %H:%M}", job.who, job_counts.summary(job))
        for job in found
    ]
    console.print(table(["job", "kind", "state", "begun", "who", "done"], rows))


def _draw_cancelled(console: Console, job: JobShown) -> None:
    job_counts.draw_job(console, job)
    if job.state == "done":
        console.print("It was done already.")
    elif job.sent:
        console.print(f"It sends nothing more. The {job.sent:,} that are sent stay sent.")
