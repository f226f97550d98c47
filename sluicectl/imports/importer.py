"""Imports the rows of a file, or shows what they would become."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sluice.jsonapi import Problem
from sluice.operate.imports import BEGIN, BadEvent, BeginArguments, State
from sluicectl.deployment import Target, find
from sluicectl.errors import FAULTY, Failure
from sluicectl.imports import files, parts, rows
from sluicectl.imports.declaration import Declaration
from sluicectl.imports.events import Mapper, Outcome
from sluicectl.imports.files import Content, Damaged, File, Survey
from sluicectl.imports.rows import Rows
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen

SHOWN_EVENTS: Final = 3  # by a dry run
WRONG_ROWS: Final = 100  # at the beginning: then it is a file of another kind, or the mapping of another file


@dataclass(frozen=True)
class Input:
    """Holds a file that was looked at, and what its rows become."""

    file: File
    survey: Survey
    declaration: Declaration
    backfill: bool

    @property
    def digest(self) -> str:
        """Returns what names the import: it follows from the content of the file and the mappings alone."""
        both = f"{self.survey.digest} {self.declaration.digest}"
        return hashlib.blake2b(both.encode(), digest_size=16).hexdigest()

    def outcomes(self, content: Content, now: datetime, first_line: int = 1) -> Iterator[Outcome]:
        """Yields what each row from a line on becomes."""
        mapper = Mapper(self.declaration.mappings, self.digest, now, self.backfill)
        with content.text(self.survey.encoding) as text:
            read = rows.read(text, self.declaration.file.columns, self.declaration.file.separator)
            yield from mapper.outcomes(_from_line(read, first_line))


@dataclass
class Seen:
    """Counts what is seen of outcomes on their way into parts: what nobody is told of otherwise."""

    empty_rows: int = 0
    left_out: int = 0
    first_left_out: tuple[int, Problem] | None = None

    def watch(self, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        """Yields outcomes, and counts rows that become nothing, and fields that events do without."""
        for outcome in outcomes:
            self.empty_rows += not outcome.events and not outcome.bad
            for problem in outcome.left_out:
                self.left_out += 1
                self.first_left_out = self.first_left_out or (outcome.line, problem)
            yield outcome

    def draw(self, console: Console, name: str) -> None:
        """Says how many rows became nothing, and which fields are left out."""
        if self.empty_rows:
            _print(console, f"Rows that no mapping is for: {self.empty_rows:,}.")
        if self.first_left_out is not None:
            line, problem = self.first_left_out
            _print(
                console,
                f"Fields left out of events: {self.left_out:,}, the first at {name}:{line}: "
                f"{problem.pointer}: {problem.detail}",
            )


def run(
    screen: Screen,
    name: str,
    target: Target,
    declaration: Declaration,
    *,
    account: str | None,
    dry_run: bool,
    trigger_flows: bool,
) -> int:
    """Imports a file, or shows what it would become."""
    file = files.locate(name, target)
    try:
        given = Input(file, files.survey(file), declaration, not trigger_flows)
        _check_readable(given)
        return _show(screen, given) if dry_run else _import(screen, given, target, account)
    except Damaged as damaged:
        raise Failure(f"{file.name} cannot be imported: {damaged}.") from None


def _from_line(read: Rows, first: int) -> Rows:
    return (row for row in read if row.line >= first)


def _check_readable(given: Input) -> None:
    """Raises `Failure` for a file in which nothing can be read, so that its rows are no rejections."""
    first = list(islice(given.outcomes(Content(given.file), datetime.now(UTC)), WRONG_ROWS))
    if not first:
        raise Failure(f"{given.file.name} has no rows.")
    bad = [each for outcome in first for each in outcome.bad[:1]]
    # Rows that become nothing are no mistakes, but they do not show either that it is the right mapping.
    if 2 * len(bad) >= len(first) and not any(outcome.events for outcome in first):
        raise Failure(
            f"{given.file.name} is not imported: none of its first {len(first)} rows becomes an event. "
            f"Line {bad[0].line}: {bad[0].detail}"
        )


def _show(screen: Screen, given: Input) -> int:
    """Shows the first events and every bad row."""
    seen, shown, bad = Seen(), list[Any](), list[BadEvent]()
    events = 0
    bad_lines = 0
    outcomes = seen.watch(given.outcomes(Content(given.file), datetime.now(UTC)))
    for outcome in outcomes:
        events += len(outcome.events)
        bad_lines += bool(outcome.bad)
        for body in outcome.events[: SHOWN_EVENTS - len(shown)]:
            shown.append(json.loads(body))
            screen.draw(lambda console: console.print_json(data=shown[-1]))
        for each in outcome.bad:
            screen.draw(functools.partial(_print, text=_told(given, each)))
        if screen.as_json:
            bad += outcome.bad

    def draw(console: Console) -> None:
        seen.draw(console, given.file.name)
        _print(console, f"{events:,} events, {bad_lines:,} bad lines. Nothing is sent.")

    document = {
        "job": None,
        "file": given.file.name,
        "events": events,
        "bad_lines": bad_lines,
        "empty_rows": seen.empty_rows,
        "left_out_fields": seen.left_out,
        "first_events": shown,
        "problems": [each.model_dump(mode="json", include={"line", "detail", "pointer"}) for each in bad],
    }
    screen.show(document, draw)
    return FAULTY if bad_lines else 0


def _told(given: Input, bad: BadEvent) -> str:
    place = f"{bad.pointer}: " if bad.pointer else ""
    return f"{given.file.name}:{bad.line}: {place}{bad.detail}"


def _import(screen: Screen, given: Input, target: Target, account: str | None) -> int:
    client = OperateClient(find(target))
    begun = client.call(
        BEGIN, BeginArguments(digest=given.digest, file=given.file.name[-300:], account=account)
    )
    seen = Seen()
    state = begun
    if begun.finished is None:
        content = Content(given.file)
        outcomes = seen.watch(given.outcomes(content, begun.started, begun.next_line))
        with _progress(screen, given, content, begun) as progress:
            try:
                state = parts.send(client, begun, parts.gather(outcomes), progress)
            except KeyboardInterrupt:
                raise Failure("Interrupted. Run the same command again: it goes on there.") from None

    def draw(console: Console) -> None:
        if begun.finished is not None:
            _print(console, f"{state.file} was imported already, at {begun.finished:%Y-%m-%d %H:%M:%SZ}.")
        seen.draw(console, given.file.name)
        _print(console, f"{state.events:,} events for {state.account}, {state.bad_lines:,} bad lines.")
        if state.bad_lines:
            _print(console, f"sluicectl rejections groups --account {state.account} shows what is wrong.")

    document = {
        "job": state.job,
        "account": state.account,
        "file": state.file,
        "events": state.events,
        "bad_lines": state.bad_lines,
        "empty_rows": seen.empty_rows,
        "left_out_fields": seen.left_out,
        "sent_before": begun.events,
    }
    screen.show(document, draw)
    return 0


@contextlib.contextmanager
def _progress(screen: Screen, given: Input, content: Content, begun: State) -> Iterator[Any]:
    """Draws the progress of an import on a terminal; gives what reports a new state."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    is_shown = screen.console.is_terminal and not screen.as_json
    with Progress(*columns, console=screen.console, disable=not is_shown) as drawn:
        task = drawn.add_task(given.file.name, total=given.survey.size, said="")
        started = datetime.now(UTC)

        def report(state: State) -> None:
            seconds = max((datetime.now(UTC) - started).total_seconds(), 0.001)
            speed = (state.events - begun.events) / seconds
            said = f"{state.events:,} events, {speed:,.0f}/s"
            drawn.update(task, completed=content.read_bytes, said=said)

        yield report


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
