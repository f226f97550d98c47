"""Implements `sluicectl erase`: removes what the deployment stores of a person."""

import time
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console

from sluice.operate.erase import COUNTS
from sluice.operate.erase_commands import PLAN, RUN, EraseResult, PlanArguments
from sluice.operate.job_commands import CANCEL, WORK, JobArguments, JobShown
from sluicectl import job_counts
from sluicectl.deployment import Target, find
from sluicectl.errors import FAULTY, Failure
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen

PAUSE_SECONDS: Final = 0.5  # between two looks at a job that another worker has
_OVER: Final = frozenset({"planned", "done", "cancelled"})


def erase(screen: Screen, target: Target, profile: str, *, dry_run: bool, sure: bool) -> int:
    """Shows what is stored of a person, asks, and removes it."""
    client = OperateClient(find(target))
    with _Waiting(screen, "Looking …"):
        planned = client.call(PLAN, PlanArguments(profile=profile))
        while planned.job.state == "planning":
            planned = client.call(PLAN, PlanArguments(job=planned.job.id))
    screen.draw(lambda console: _draw(console, planned.job, "Stored of this person:"))
    if dry_run:
        client.call(CANCEL, JobArguments(job=planned.job.id))
        screen.show(_document(planned), lambda console: console.print("Nothing is removed: --dry-run."))
        return 0
    if not sure:
        _ask(screen, lambda: client.call(CANCEL, JobArguments(job=planned.job.id)))
    goes_on = f"The job {planned.job.id} goes on. Watch it: sluicectl jobs show {planned.job.id}."
    try:
        job = _run(client, screen, planned.job.id)
    except KeyboardInterrupt:
        raise Failure(goes_on) from None
    except Failure as failure:
        raise type(failure)(f"{failure} {goes_on}") from None
    erased = planned.model_copy(update={"job": job})
    screen.show(_document(erased), lambda console: _draw_result(console, erased))
    return FAULTY if job.state != "done" or job.not_sealed or job.reasons else 0


def _ask(screen: Screen, otherwise: Callable[[], object]) -> None:
    """Asks a person. A program has to say --yes."""
    question = "Remove it? It cannot be taken back, and what is on its way is not archived any more."
    if not screen.as_json and screen.agrees(question):
        return
    otherwise()
    if screen.as_json:
        raise Failure("This removes something for good: say --yes, or look first with --dry-run.")
    raise Failure("Nothing is removed.")


def _run(client: OperateClient, screen: Screen, job_id: str) -> JobShown:
    with _Waiting(screen, "Removing …"):
        job = client.call(RUN, JobArguments(job=job_id)).job
        while job.state not in _OVER:
            time.sleep(PAUSE_SECONDS)
            job = client.call(WORK, JobArguments(job=job_id)).job
    return job


class _Waiting:
    """Tells on a terminal what is waited for."""

    def __init__(self, screen: Screen, text: str) -> None:
        is_shown = not screen.as_json and screen.console.is_terminal
        self._status = screen.console.status(text) if is_shown else None

    def __enter__(self) -> None:
        if self._status is not None:
            self._status.start()

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def _draw(console: Console, job: JobShown, title: str) -> None:
    console.print(title)
    job_counts.draw(console, job, (*COUNTS, "not_sealed"))
    if not any(getattr(job, name) for name in COUNTS):
        console.print("  nothing")


def _draw_result(console: Console, result: EraseResult) -> None:
    console.print()
    _draw(
        console, result.job, "Removed:" if result.job.state == "done" else "Removed until it was cancelled:"
    )
    console.print(
        "\nNot reached:\n"
        "- Messages that are on a queue, and their claim checks. They are delivered, or refused and not\n"
        f"  archived. Nothing is left of them after {result.in_flight_until:%Y-%m-%d}. What an outage parks\n"
        "  until then, this command removes when it is run again.\n"
        "- Point-in-time backups of the tables, which hold 35 days. They have hashes, no payloads.\n"
        "- The profile at the upstream. Ask Klaviyo or Pipeless to delete it there.",
        soft_wrap=True,
    )


def _document(result: EraseResult) -> dict[str, Any]:
    return {
        "job": result.job.id,
        "state": result.job.state,
        **{name: getattr(result.job, name) for name in (*COUNTS, "not_sealed")},
        "reasons": [each.why for each in result.job.reasons],
        "in_flight_until": result.in_flight_until.isoformat(),
    }
