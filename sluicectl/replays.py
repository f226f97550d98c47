"""Implements `sluicectl rejections replay`, `discard` and `restore`."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from sluice.jsonapi import pointer_step
from sluice.operate.command import Command
from sluice.operate.job_commands import CANCEL, WORK, JobArguments, JobShown
from sluice.operate.mend import Change, Fault, Mend
from sluice.operate.replay_commands import (
    DISCARD,
    PLAN,
    RESTORE,
    RUN,
    ChangeArguments,
    ChangeResult,
    DiscardArguments,
    PlanArguments,
    SampleShown,
    sentence,
)
from sluicectl import job_counts
from sluicectl.deployment import Target, find
from sluicectl.errors import FAULTY, Failure
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen, plain

PATIENCE_SECONDS: Final = 60.0  # without any progress, after which a job goes on without anybody who waits
PAUSE_SECONDS: Final = 0.5  # between two looks at a job
_COUNTS: Final = (
    *("matched", "ready", "events", "sent", "delivered", "rejected_again", "waiting", "reopened"),
    *("still_refused", "not_addressable", "gone", "taken", "repeatable"),
)
_OVER: Final = frozenset({"done", "cancelled"})


def mend_of(
    *, changes: Mapping[str, Any], removed: tuple[str, ...], fault: tuple[Any, ...], patch: Any
) -> Mend:
    """Returns the mend that options ask for; raises `click.UsageError` if they ask for none that can be."""
    try:
        return Mend(
            patch=patch or [],
            remove=list(removed),
            set=[Change(pointer=pointer, value=value) for pointer, value in changes.items()],
            fault=Fault(value=fault[0]) if fault else None,
        )
    except ValidationError as error:
        raise click.UsageError(sentence(error)) from None


def replay(
    screen: Screen,
    target: Target,
    *,
    ids: tuple[str, ...],
    mend: Mend,
    trigger_flows: bool,
    dry_run: bool,
    sure: bool,
    **selection: Any,
) -> int:
    """Plans a replay, shows the plan, asks, sends, and waits for the outcomes."""
    client = OperateClient(find(target))
    job, sample = _plan(client, PlanArguments(ids=ids, mend=mend, trigger_flows=trigger_flows, **selection))
    screen.draw(lambda console: _draw_plan(console, job, sample))
    nothing = _why_nothing(job)
    if nothing or dry_run:
        client.call(CANCEL, JobArguments(job=job.id))
        if nothing:
            return _end(screen, _document(job, None), nothing)
        screen.show(_document(job, sample), lambda console: console.print("Nothing is sent: --dry-run."))
        return 0
    if not sure:
        _ask(screen, f"Send {_events(job)} again?", lambda: client.call(CANCEL, JobArguments(job=job.id)))
    goes_on = (
        f"The job {job.id} goes on. Watch it: sluicectl jobs show {job.id}. "
        f"Cancel it: sluicectl jobs cancel {job.id}."
    )
    job = client.call(RUN, JobArguments(job=job.id)).job
    try:
        job = wait(client, screen, job)
    except KeyboardInterrupt:
        raise Failure(goes_on) from None
    except Failure as failure:
        raise type(failure)(f"{failure} {goes_on}") from None
    screen.show(_document(job, sample), lambda console: _draw_result(console, job))
    return FAULTY if job.rejected_again or job.state == "cancelled" else 0


def wait(client: OperateClient, screen: Screen, job: JobShown) -> JobShown:
    """Lets a job go on until it is over, or nothing has happened for long."""
    last_progress = time.monotonic()
    seen: object = None
    with _Progress(screen, job) as told:
        while job.state not in _OVER and time.monotonic() - last_progress < PATIENCE_SECONDS:
            if (progress := (job.state, job.sent, job.waiting)) != seen:
                seen, last_progress = progress, time.monotonic()
                told(job)
            time.sleep(PAUSE_SECONDS)
            job = client.call(WORK, JobArguments(job=job.id)).job
        told(job)
    return job


def discard(
    screen: Screen,
    target: Target,
    *,
    ids: tuple[str, ...],
    why: str,
    dry_run: bool,
    sure: bool,
    **selection: Any,
) -> int:
    """Discards open rejections, after asking."""
    client = OperateClient(find(target))
    counted = DiscardArguments(ids=ids, why=why, dry_run=True, **selection)
    matched = _change_all(client, DISCARD, counted)["matched"]
    if not matched:
        return _end(screen, {"matched": 0, "discarded": 0}, "No open rejection is meant by this.")
    if dry_run:
        _show_change(screen, {"matched": matched, "discarded": 0}, f"This would discard {_records(matched)}.")
        return 0
    if not sure:
        _ask(screen, f"Discard {_records(matched)}? It can be taken back for a day.")
    done = _change_all(client, DISCARD, counted.model_copy(update={"dry_run": False}))["changed"]
    said = f"{_records(done)} discarded. For a day, sluicectl rejections restore takes it back."
    _show_change(screen, {"matched": matched, "discarded": done}, said)
    return 0


def restore(screen: Screen, target: Target, *, ids: tuple[str, ...], **selection: Any) -> int:
    """Opens again what was discarded within a day."""
    client = OperateClient(find(target))
    sums = _change_all(client, RESTORE, ChangeArguments(ids=ids, **selection))
    document = {"matched": sums["matched"], "restored": sums["changed"]}
    if not sums["changed"]:
        return _end(screen, document, "No rejection that was discarded within a day is meant by this.")
    _show_change(screen, document, f"{_records(sums['changed'])} open again.")
    return 0


def _plan(client: OperateClient, arguments: PlanArguments) -> tuple[JobShown, SampleShown | None]:
    sample = None
    while True:
        planned = client.call(PLAN, arguments)
        sample = sample or planned.sample
        if planned.job.state != "planning":
            return planned.job, sample
        arguments = PlanArguments(job=planned.job.id)


def _why_nothing(job: JobShown) -> str | None:
    """Returns why there is nothing to send; None if there is something."""
    if not job.matched:
        why = f" {job.reasons[0].why}" if job.reasons else ""
        return f"No open rejection is meant by this.{why}"
    if not job.ready:
        why = job.reasons[0].why if job.reasons else "Nobody named the places of their faults."
        return f"None of the {_records(job.matched)} can be sent: {why}"
    return None


def _ask(screen: Screen, question: str, otherwise: Callable[[], object] | None = None) -> None:
    """Asks a person. A program has to say --yes."""
    if not screen.as_json and screen.agrees(question):
        return
    if otherwise is not None:
        otherwise()
    if screen.as_json:
        raise Failure("This changes something: say --yes, or look first with --dry-run.")
    raise Failure("Nothing is changed.")


def _change_all[A: ChangeArguments](
    client: OperateClient, command: Command[A, ChangeResult], arguments: A
) -> dict[str, int]:
    sums = {"matched": 0, "changed": 0}
    while True:
        result = client.call(command, arguments)
        sums = {"matched": sums["matched"] + result.matched, "changed": sums["changed"] + result.changed}
        if result.next is None:
            return sums
        arguments = arguments.model_copy(update={"not_after": result.not_after, "next": result.next})


class _Progress:
    """Tells how far a job is: in one line that changes on a terminal, else not at all."""

    def __init__(self, screen: Screen, job: JobShown) -> None:
        is_shown = not screen.as_json and screen.console.is_terminal
        self._status = screen.console.status("") if is_shown else None
        self._ready = job.ready or job.matched

    def __enter__(self) -> "_Progress":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, job: JobShown) -> None:
        if self._status is not None:
            done = f"{job.delivered:,} delivered, {job.rejected_again:,} rejected again"
            self._status.update(f"{job.sent:,} of {self._ready:,} sent, {done} (job {job.id})")


def _document(job: JobShown, sample: SampleShown | None) -> dict[str, Any]:
    counts = {name: getattr(job, name) for name in _COUNTS}
    return {
        "job": job.id,
        "state": job.state,
        **counts,
        "reasons": [each.model_dump() for each in job.reasons],
        "sample": None if sample is None else sample.model_dump(mode="json"),
    }


def _end(screen: Screen, document: Mapping[str, Any], sentence: str) -> int:
    """Ends a command that finds nothing to do: programs get the document with the reason."""
    if not screen.as_json:
        raise Failure(sentence)
    screen.show({**document, "error": sentence}, lambda _: None)
    return FAULTY


def _show_change(screen: Screen, document: dict[str, int], sentence: str) -> None:
    screen.show(document, lambda console: console.print(sentence))


def _draw_plan(console: Console, job: JobShown, sample: SampleShown | None) -> None:
    job_counts.draw(
        console, job, ("matched", "ready", "still_refused", "not_addressable", "gone", "taken", "repeatable")
    )
    if sample is not None:
        changes = list(changes_of(sample.before, sample.after))
        console.print(f"\nThe first of them, {sample.id}{':' if changes else ', is sent as it was.'}")
        for pointer, before, after in changes:
            console.print(
                Text.assemble("  ", plain(pointer), "  ", (before, "red"), " → ", (after, "green")),
                soft_wrap=True,
            )
    if job.repeatable:
        console.print(
            f"\n[bold yellow]{job.repeatable:,} relationships are not `single`:[/] "
            "if Pipeless has taken them before, they will be there twice."
        )


def changes_of(before: Any, after: Any, pointer: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields the pointer of each value that differs, with the value before and after."""
    if before == after:
        return
    match before, after:
        case dict(), dict():
            for name in {**before, **after}:
                below = pointer + pointer_step(name)
                yield from changes_of(before.get(name, _NOTHING), after.get(name, _NOTHING), below)
        case list(), list() if len(before) == len(after):
            for index, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from changes_of(one, other, f"{pointer}/{index}")
        case _:
            yield pointer, _as_text(before), _as_text(after)


def _as_text(value: Any) -> str:
    return "nothing" if value is _NOTHING else json.dumps(value, ensure_ascii=False)


_NOTHING: Final = object()  # where there is no value


def _draw_result(console: Console, job: JobShown) -> None:
    console.print()
    job_counts.draw_job(console, job)
    if job.state not in _OVER:
        console.print(f"The job goes on. Watch it: sluicectl jobs show {job.id}")


def _events(job: JobShown) -> str:
    return f"{job.events:,} event{'s' * (job.events != 1)}"


def _records(count: int) -> str:
    return f"{count:,} rejection{'s' * (count != 1)}"
