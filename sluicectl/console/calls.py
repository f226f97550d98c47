"""Declares what the page may ask for. Each call is a command of operate, or work on one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import click
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluice import __version__
from sluice.operate import accounts, door, job_commands, mend, pauses, rejections, replay_commands, sources
from sluice.operate.command import Access, AnyCommand, Command
from sluicectl import job_counts
from sluicectl.console import edits
from sluicectl.console.watch import Door, Watch
from sluicectl.errors import Failure
from sluicectl.moments import MOMENT
from sluicectl.replays import changes_of, mend_of
from sluicectl.sources import as_yaml, decoded, named, parsed, try_payload

MAX_TRIED: Final = 2 * 2**20  # characters of a payload that is tried

_COMMANDS: Final[tuple[AnyCommand, ...]] = (
    rejections.GROUPS,
    rejections.LIST,
    replay_commands.DISCARD,
    replay_commands.RESTORE,
    accounts.LIST,
    pauses.PAUSE,
    pauses.RESUME,
)
_JOB_COMMANDS: Final[tuple[Command[Any, job_commands.JobResult], ...]] = (
    replay_commands.RUN,
    job_commands.SHOW,
    job_commands.WORK,
    job_commands.CANCEL,
)
_TIMES: Final = ("since", "until")  # which may be written as on the command line


@dataclass(frozen=True)
class Console:
    """Answers the calls of the page for one deployment, named for people."""

    door: Door
    deployment: str
    watch: Watch

    def answer(self, name: str, arguments: object) -> dict[str, Any]:
        """Returns the answer to a call, or raises `Failure`."""
        call = CALLS.get(name)
        if call is None:
            raise Failure(f"The console has no call '{name[:100]}'.")
        if not isinstance(arguments, dict):
            raise Failure("The arguments of a call are an object.")
        try:
            return call(self, arguments)
        except ValidationError as error:
            raise Failure(door.first_mistake(error)) from None


type Call = Callable[[Console, dict[str, Any]], dict[str, Any]]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Edit(_Asked):
    """Holds the text of a record's payload, as it was shown and as it was edited."""

    id: str
    shown: str
    text: str
    masked: bool


class _Changes(_Asked):
    """Holds how many records are mended, as texts of JSON: no number then passes through a browser's.

    `set` has lines POINTER=JSON, and `remove` has lines POINTER.
    """

    fault: str = ""
    set: str = ""
    remove: str = ""


class _Try(_Asked):
    """Holds a payload that is to be tried with a source, and the lines of its headers."""

    source: str
    payload: Annotated[str, Field(max_length=MAX_TRIED)]
    headers: Annotated[str, Field(max_length=20_000)] = ""


def _command(command: AnyCommand) -> Call:
    def call(console: Console, arguments: dict[str, Any]) -> dict[str, Any]:
        asked = command.arguments.model_validate(_with_times(arguments))
        result = console.door.call(command, asked)
        if command.access is Access.ADMIN:
            console.watch.forget()
        return dict(result.model_dump(mode="json"))

    return call


def _job_command(command: Command[Any, job_commands.JobResult]) -> Call:
    def call(console: Console, arguments: dict[str, Any]) -> dict[str, Any]:
        asked = command.arguments.model_validate(arguments)
        return {"job": _shown_job(console.door.call(command, asked).job)}

    return call


def _shown_job(job: job_commands.JobShown) -> dict[str, Any]:
    """Returns a job with its counts in words, as the command line has them."""
    counts = [
        {"name": name, "count": count, "words": words} for name, count, words in job_counts.counted(job)
    ]
    return {**job.model_dump(mode="json"), "counts": counts, "summary": job_counts.summary(job)}


def _jobs(console: Console, arguments: dict[str, Any]) -> dict[str, Any]:
    asked = job_commands.ListArguments.model_validate(arguments)
    return {"jobs": [_shown_job(job) for job in console.door.call(job_commands.LIST, asked).jobs]}


def _with_times(arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments with their times read as the command line reads them, such as `12h` ago."""
    read: dict[str, Any] = {}
    for name in _TIMES:
        if isinstance(given := arguments.get(name), str):
            try:
                read[name] = MOMENT.convert(given, None, None)
            except (click.BadParameter, OverflowError) as error:
                raise Failure(f"{name}: {error}") from None
    return {**arguments, **read}


def _about(console: Console, _: dict[str, Any]) -> dict[str, Any]:
    return {
        "deployment": console.deployment,
        "version": __version__,
        "may_change": console.door.may_change(),
    }


def _status(console: Console, _: dict[str, Any]) -> dict[str, Any]:
    return console.watch.look()


def _show(console: Console, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns a rejection with its payload as a text, and the line of the bad place in it."""
    asked = rejections.ShowArguments.model_validate(arguments)
    shown = console.door.call(rejections.SHOW, asked).rejection
    text = edits.as_text(shown.payload)
    return {
        **shown.model_dump(mode="json", exclude={"payload"}),
        "text": text,
        "place_line": edits.line_of(text, shown.place),
    }


def _plan(console: Console, arguments: dict[str, Any]) -> dict[str, Any]:
    """Plans a replay of one record after an `edit`, or of many after `changes`; or goes on with a plan."""
    given = _with_times(arguments)
    if (edit := given.pop("edit", None)) is not None:
        edited = _Edit.model_validate(edit)
        given |= {"ids": [edited.id], "mend": _mend_of_edit(edited)}
    elif (changes := given.pop("changes", None)) is not None:
        given["mend"] = _mend_of_changes(_Changes.model_validate(changes))
    asked = replay_commands.PlanArguments.model_validate(given)
    planned = console.door.call(replay_commands.PLAN, asked)
    sample = planned.sample
    return {
        "job": _shown_job(planned.job),
        "sample": None
        if sample is None
        else {"id": sample.id, "changes": [*map(list, changes_of(sample.before, sample.after))]},
    }


def _edit(console: Console, arguments: dict[str, Any]) -> dict[str, Any]:
    """Judges an edited payload: whether it is JSON, what was changed, and whether it would now be sent."""
    asked = _Edit.model_validate(arguments)
    try:
        wished = _mend_of_edit(asked)
    except edits.Mistake as mistake:
        return {"why": str(mistake), "line": mistake.line, "column": mistake.column, "passes": False}
    checked = console.door.call(
        replay_commands.CHECK, replay_commands.CheckArguments(id=asked.id, mend=wished)
    )
    return {
        **checked.model_dump(mode="json"),
        "line": edits.line_of(asked.text, checked.place),
        "changes": [_told(operation) for operation in wished.patch],
    }


def _mend_of_edit(asked: _Edit) -> mend.Mend:
    patch = edits.patch_of(asked.shown, asked.text, is_masked=asked.masked)
    if len(patch) > mend.MAX_STEPS:
        raise Failure(f"More than {mend.MAX_STEPS} changes at once cannot be planned.")
    return mend.Mend(patch=patch)


def _mend_of_changes(asked: _Changes) -> mend.Mend:
    try:
        return mend_of(
            changes=dict(map(_change, _lines(asked.set))),
            removed=tuple(_lines(asked.remove)),
            fault=(edits.read(asked.fault),) if asked.fault.strip() else (),
            patch=None,
        )
    except edits.Mistake as mistake:
        raise Failure(f"{mistake} A text is written with quotation marks.") from None
    except click.UsageError as error:
        raise Failure(error.message) from None


def _change(line: str) -> tuple[str, Any]:
    pointer, equals, value = line.partition("=")
    if not equals:
        raise Failure(f"A change is written POINTER=JSON, not '{line[:60]}'.")
    return pointer.strip(), edits.read(value)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _told(operation: edits.Operation) -> dict[str, str]:
    """Returns an operation with its value as a text."""
    value = {"value": json.dumps(operation["value"], ensure_ascii=False)} if "value" in operation else {}
    return {"op": operation["op"], "path": operation["path"], **value}


def _sources(console: Console, _: dict[str, Any]) -> dict[str, Any]:
    stored = console.door.call(sources.SHOW, sources.ShowArguments()).text
    if not stored:
        return {"sources": [], "flaws": {}, "document": None}
    found = decoded(stored, console.deployment)
    return {
        "sources": [
            {
                "name": each.name,
                "account": each.account,
                "scheme": each.scheme,
                "refuses": each.refuses,
                "events": [mapping.name for mapping in each.mappings],
            }
            for each in found.sources.values()
        ],
        "flaws": {name or "the document": flaw for name, flaw in found.flaws.items()},
        "document": as_yaml(parsed(stored)),
    }


def _try(console: Console, arguments: dict[str, Any]) -> dict[str, Any]:
    asked = _Try.model_validate(arguments)
    stored = console.door.call(sources.SHOW, sources.ShowArguments()).text
    if not stored:
        raise Failure(f"{console.deployment} has no sources document yet.")
    source = named(asked.source, decoded(stored, console.deployment))
    tried = try_payload(source, _headers(asked.headers), asked.payload.encode(), "This").document()
    return {**tried, "events": [_shown_event(each) for each in tried["events"]]}


def _shown_event(event: dict[str, Any]) -> dict[str, Any]:
    """Returns an event with its attributes as a text, because a browser rounds large numbers."""
    attributes = event["body"]["data"]["attributes"]
    rest = {name: value for name, value in event.items() if name != "body"}
    metric = attributes["metric"]["data"]["attributes"]["name"]
    return {**rest, "metric": metric, "text": edits.as_text(attributes)}


def _headers(lines: str) -> dict[str, str]:
    headers = {}
    for line in _lines(lines):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise Failure(f"A header is written NAME: VALUE, not '{line[:60]}'.")
        headers[name.strip().lower()] = value.strip()
    return headers


CALLS: Final[Mapping[str, Call]] = {
    "about": _about,
    "status": _status,
    "rejections/show": _show,
    "rejections/edit": _edit,
    "rejections/replay/plan": _plan,
    "jobs/list": _jobs,
    "sources/show": _sources,
    "sources/try": _try,
    **{each.name.replace(" ", "/"): _command(each) for each in _COMMANDS},
    **{each.name.replace(" ", "/"): _job_command(each) for each in _JOB_COMMANDS},
}
