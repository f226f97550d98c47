"""Says in words what a job has counted: a replay, an erasure or an import."""

from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.text import Text

from sluice.operate.job_commands import JobShown
from sluicectl.screen import plain

_WORDS: Final = {
    "matched": "open and meant",
    "ready": "can be sent now",
    "events": "events in them",
    "sent": "sent",
    "delivered": "delivered",
    "rejected_again": "rejected again",
    "waiting": "outcome not known yet",
    "reopened": "open again, after a day without an outcome",
    "still_refused": "would still be refused",
    "not_addressable": "not addressable by --fault: nobody named a place",
    "gone": "payload not in the archive any more",
    "taken": "in another state",
    "repeatable": "relationships that may be there twice",
    "archived": "refused events and dead letters in the archive, with their records",
    "records": "records whose payloads are in the archive no more",
    "parked": "parked messages",
    "imported": "lines of import files",
    "replayed": "messages that a replay has written down",
    "mends": "mends of replays",
    "not_sealed": "parked objects that could not be read: Sluice did not seal them",
    "parts": "parts of the file, which are sent",
    "bad_lines": "bad lines, which are rejections",
}


def counted(job: JobShown, names: Iterable[str] = _WORDS) -> list[tuple[str, int, str]]:
    """Returns those of some counts that are not 0, each with its name and what it counts."""
    return [(name, count, _WORDS[name]) for name in names if (count := getattr(job, name))]


def draw(console: Console, job: JobShown, names: Iterable[str]) -> None:
    """Draws those of some counts that are not 0, and the reasons."""
    for _, count, words in counted(job, names):
        console.print(Text.assemble((f"{count:>9,}  ", "bold"), words))
    for reason in job.reasons:
        console.print(plain(f"{reason.count:>9,}  {reason.why}", "dim"), soft_wrap=True)


def draw_job(console: Console, job: JobShown) -> None:
    """Draws one job with its counts and reasons."""
    console.print(Text.assemble((job.id, "bold"), "  ", job.kind, "  ", (job.state, "cyan"), "  ", job.who))
    draw(console, job, _WORDS)


def summary(job: JobShown) -> str:
    """Returns what a job has done, in a few words."""
    match job.kind:
        case "replay":
            return f"{job.sent:,} sent, {job.delivered:,} delivered"
        case "import":
            return f"{job.events:,} events sent, {job.bad_lines:,} bad lines"
        case _:
            found = job.archived + job.records + job.parked + job.imported + job.replayed + job.mends
            return f"{found:,} found"
