"""Implements `sluicectl sources`: check, put, show, try, and the schema."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml
from rich.console import Console, Group
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from sluice.errors import Misconfigured, Refused
from sluice.jsonapi import Problem
from sluice.operate.sources import PUT, SHOW, PutArguments, PutResult, ShowArguments
from sluice.webhooks import accept, sources
from sluice.webhooks.accept import waits
from sluice.webhooks.event_validation import ValidatedEvent, validate_event
from sluice.webhooks.mapping import Delivery, Mapped, topics
from sluice.webhooks.sources import Source, Sources
from sluicectl import documents, sources_schema
from sluicectl.deployment import Target, find
from sluicectl.documents import Document, Place, Unreadable
from sluicectl.errors import FAULTY, Failure
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen


@dataclass(frozen=True)
class Flaw:
    """Describes one mistake of a document, and its place; `pointer` is None if it cannot be read at all."""

    place: Place
    detail: str
    pointer: str | None = None


@dataclass(frozen=True)
class Checked:
    """Holds a document that was checked; without flaws `stored` is what the deployment is to read."""

    file: str
    lines: Sequence[str]
    flaws: Sequence[Flaw]
    stored: bytes = b""
    names: Sequence[str] = ()


def check(screen: Screen, file: str) -> int:
    """Shows every problem of a document."""
    checked = _checked(file)
    document = {
        "file": file,
        "valid": not checked.flaws,
        "sources": list(checked.names),
        "problems": _told(checked),
    }
    screen.show(document, lambda console: _draw_checked(console, checked))
    return FAULTY if checked.flaws else 0


def put(screen: Screen, file: str, target: Target, *, dry_run: bool, sure: bool) -> int:
    """Stores a document that has no problems. Asks before sources are removed, unless `sure`."""
    checked = _checked(file)
    if checked.flaws:
        document = {"file": file, "stored": False, "changed": False, "problems": _told(checked)}
        screen.show(document, lambda console: _draw_checked(console, checked))
        return FAULTY
    deployment = find(target)
    client = OperateClient(deployment)
    before = client.call(SHOW, ShowArguments())
    text = checked.stored.decode()
    diff = _diff(before.text, text)
    arguments = PutArguments(text=text, etag=before.etag, remove=True, dry_run=True)
    put = client.call(PUT, arguments)
    if put.changed:
        screen.draw(lambda console: _draw_change(console, diff, put))
        if put.removed and not (sure or dry_run):
            _ask_to_remove(screen, put.removed)
        if not dry_run:
            put = client.call(PUT, arguments.model_copy(update={"dry_run": False}))
    document = {
        "file": file,
        "deployment": deployment.name,
        "stored": put.stored,
        "changed": put.changed,
        "removed": put.removed,
        "warnings": put.warnings,
        "problems": [],
        "diff": diff,
    }
    screen.show(document, lambda console: _draw_put(console, document, len(checked.names)))
    return 0


def show_schema(screen: Screen) -> int:
    """Shows the JSON Schema of the document, which is for programs in any case."""
    document = sources_schema.build()
    screen.show(document, lambda console: console.out(json.dumps(document, indent=2), highlight=False))
    return 0


def show(screen: Screen, target: Target) -> int:
    """Shows the stored document."""
    deployment = find(target)
    stored = OperateClient(deployment).call(SHOW, ShowArguments()).text
    document = parsed(stored) if stored else {"sources": {}}

    def draw(console: Console) -> None:
        if not stored:
            console.print(f"{deployment.name} has no sources document yet.", markup=False)
            return
        # Not wrapped: it is made to be redirected into a file.
        console.print(
            Syntax(as_yaml(document).rstrip(), "yaml", theme="ansi_dark", background_color="default"),
            soft_wrap=True,
        )

    screen.show(document, draw)
    return 0


def attempt(
    screen: Screen,
    name: str,
    payload_file: str,
    *,
    file: str | None,
    target: Target,
    headers: Mapping[str, str],
) -> int:
    """Shows what a payload would become. `headers` are by lower-case name."""
    source = named(name, _from_file(file) if file else _stored(target))
    attempted = try_payload(source, headers, documents.read_file(payload_file), payload_file)
    screen.show(
        attempted.document(),
        lambda console: _draw_attempt(
            console, source, attempted.delivery, attempted.events, attempted.mapped
        ),
    )
    return FAULTY if attempted.is_faulty else 0


def try_payload(source: Source, headers: Mapping[str, str], body: bytes, what: str) -> "Attempt":
    """Returns what a source makes of a payload, called `what`; raises `Failure` if it is none."""
    try:
        delivery, mapped = accept.map_payload(source, headers, body)
    except Refused as refused:
        raise Failure(f"{what} is no payload: {refused.problems[0].detail}") from None
    now = datetime.now(UTC)
    return Attempt(source, delivery, mapped, [_tried(validate_event(event, now)) for event in mapped.events])


@dataclass(frozen=True)
class Attempt:
    """Holds what a source makes of a payload."""

    source: Source
    delivery: Delivery
    mapped: Mapped
    events: "Sequence[_Event]"

    @property
    def is_faulty(self) -> bool:
        """Tells whether anything of the payload would be refused or left out."""
        return bool(self.mapped.problems) or any(each.problems or each.left_out for each in self.events)

    def document(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {
            "source": self.source.name,
            "account": self.source.account,
            "delivery_id": self.delivery.id,
            "topic": self.delivery.topic,
            "topics": topics(self.source.mappings),
            "events": [
                {
                    "body": each.body,
                    "valid": not each.problems,
                    "waits": each.waits,
                    "problems": list(map(_problem, each.problems)),
                    "left_out": list(map(_problem, each.left_out)),
                }
                for each in self.events
            ],
            "problems": list(map(_problem, self.mapped.problems)),
            "replaced": list(map(_problem, self.mapped.replaced)),
        }


@dataclass(frozen=True)
class _Event:
    """Holds one event that a payload became, as a body of Create Event, and why it would be refused."""

    body: dict[str, Any]
    problems: Sequence[Problem]
    left_out: Sequence[Problem]
    waits: bool


def _tried(validated: ValidatedEvent) -> _Event:
    event = validated.event
    problems = () if validated.entry or waits(event) else validated.problems
    return _Event(event.body, problems, [*event.left_out, *validated.left_out], waits(event))


def _checked(file: str) -> Checked:
    data = documents.read_file(file)
    lines = data.decode("utf-8", "replace").splitlines()
    try:
        document = documents.load(data)
    except Unreadable as error:
        return Checked(file, lines, [Flaw(error.place, error.detail)])
    flaws = sorted(
        (_flaw(problem, document) for problem in sources.problems(document.value)), key=lambda f: f.place
    )
    if flaws:
        return Checked(file, lines, flaws)
    stored = json.dumps(document.value, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        names = sorted(sources.decode(stored).sources)
    except Misconfigured as error:  # it is too large, say
        return Checked(file, lines, [Flaw(Place(1, 1), f"{error}.")])
    return Checked(file, lines, [], stored, names)


def _flaw(problem: Problem, document: Document) -> Flaw:
    return Flaw(document.place(problem.pointer), problem.detail, problem.pointer)


def _told(checked: Checked) -> list[dict[str, Any]]:
    return [
        {"line": each.place.line, "column": each.place.column, "pointer": each.pointer, "detail": each.detail}
        for each in checked.flaws
    ]


def _problem(problem: Problem) -> dict[str, Any]:
    return {"pointer": problem.pointer, "detail": problem.detail}


def _diff(before: str | None, after: str) -> list[str]:
    """Compares two documents as YAML, the first as it is where it is not JSON."""
    try:
        old = as_yaml(json.loads(before)) if before else ""
    except ValueError:
        old = before or ""
    lines = difflib.unified_diff(
        old.splitlines(), as_yaml(json.loads(after)).splitlines(), "stored", "new", lineterm=""
    )
    return list(lines)


def _ask_to_remove(screen: Screen, names: Sequence[str]) -> None:
    """Raises `Failure` unless the operator says yes."""
    what = f"the source{'s' if len(names) > 1 else ''} {', '.join(names)}"
    if not screen.agrees(f"This removes {what}: from then on what is posted there is answered 404. Remove?"):
        raise Failure(
            f"Nothing is stored, because it would remove {what}. Keep what is to stay, or give --yes."
        )


def parsed(stored: str) -> Any:
    """Returns a stored document; raises `Failure` if it is no JSON."""
    try:
        return json.loads(stored)
    except ValueError:
        raise Failure("The stored document is not JSON: put a good one in its place.") from None


def as_yaml(document: Any) -> str:
    """Returns a document as people write it."""
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text


def _from_file(file: str) -> Sources:
    checked = _checked(file)
    if checked.flaws:
        first = checked.flaws[0]
        at = f"{file}:{first.place.line}:{first.place.column}"
        more = (
            f" ({len(checked.flaws) - 1} more: sluicectl sources check {file})"
            if len(checked.flaws) > 1
            else ""
        )
        raise Failure(f"{at}: {first.detail}{more}")
    return sources.decode(checked.stored)


def _stored(target: Target) -> Sources:
    deployment = find(target)
    stored = OperateClient(deployment).call(SHOW, ShowArguments()).text
    if not stored:
        raise Failure(f"{deployment.name} has no sources document yet: put one, or give --file.")
    return decoded(stored, deployment.name)


def decoded(stored: str, where: str) -> Sources:
    """Returns the valid sources of a stored document; raises `Failure` if it has none to read."""
    try:
        return sources.decode_valid(stored.encode())
    except Misconfigured as error:
        raise Failure(f"The document that {where} has stored does not work: {error}.") from None


def named(name: str, all_of_them: Sources) -> Source:
    """Returns one source; raises `Failure` if there is none, or it does not work."""
    try:
        source = all_of_them.find(name)
    except Misconfigured as error:
        raise Failure(f"The source '{name}' that is stored does not work: {error}") from None
    if source is None:
        known = ", ".join(sorted(all_of_them.sources)) or "none"
        raise Failure(f"There is no source '{name}'. Those there are: {known}.")
    return source


def _draw_checked(console: Console, checked: Checked) -> None:
    for flaw in checked.flaws:
        where = f"{checked.file}:{flaw.place.line}:{flaw.place.column}:"
        # Not wrapped: editors and people find their way by these lines.
        console.print(Text.assemble((where, "bold"), " ", flaw.detail), soft_wrap=True)
        if console.is_terminal and flaw.place.line <= len(checked.lines):
            _draw_excerpt(console, checked.lines[flaw.place.line - 1], flaw.place)
    if checked.flaws:
        console.print(Text(f"{_counted(len(checked.flaws), 'problem')} in {checked.file}", "red"))
    else:
        names = ", ".join(checked.names) or "it has no source"
        console.print(f"{checked.file} is good: {names}.", markup=False)


def _draw_change(console: Console, diff: Sequence[str], put: PutResult) -> None:
    console.print(
        Syntax("\n".join(diff), "diff", theme="ansi_dark", background_color="default", word_wrap=True)
    )
    console.print()
    for name in put.removed:
        console.print(Text.assemble(("removed: ", "bold red"), name))
    for warning in put.warnings:
        console.print(Text.assemble(("warning: ", "bold yellow"), warning), soft_wrap=True)


def _draw_put(console: Console, document: Mapping[str, Any], count: int) -> None:
    name = document["deployment"]
    if not document["changed"]:
        said = f"{name} has this document already: nothing has changed."
    elif document["stored"]:
        said = f"{_counted(count, 'source')} stored in {name}. It is used within a minute."
    else:
        said = f"{_counted(count, 'source')} would be stored in {name}."
    console.print(said, markup=False)


def _draw_excerpt(console: Console, line: str, place: Place) -> None:
    margin = f"{place.line:>6} │ "
    room = console.width - len(margin)
    if place.column <= room:
        below = " " * 6 + " │ "
        console.print(Text.assemble((margin, "dim"), line.replace("\t", " ")[:room]))
        console.print(Text.assemble((below, "dim"), " " * (place.column - 1), ("^", "bold red")))


def _draw_attempt(
    console: Console, source: Source, delivery: Delivery, events: Sequence[_Event], mapped: Mapped
) -> None:
    count = _counted(len(events), "event")
    console.print(Text.assemble((source.name, "bold"), f" makes {count} of it, for {source.account}."))
    console.print(Text(f"delivery {delivery.id}", "dim"), soft_wrap=True)
    if (mapped_topics := topics(source.mappings)) is not None:
        console.print(Text(f"topic {delivery.topic or 'unknown'}", "dim"), soft_wrap=True)
        console.print(Text(f"topics of this source: {', '.join(mapped_topics)}", "dim"))
    for problem in mapped.replaced:
        console.print(Text.assemble(("replaced: ", "bold yellow"), problem.detail))
    for number, event in enumerate(events, 1):
        console.print(_drawn(number, event))
    for problem in mapped.problems:
        console.print(Text.assemble(("not mapped: ", "bold red"), f"{problem.pointer}: {problem.detail}"))
    if not events and not mapped.problems:
        console.print("No mapping of this source is meant for this payload.")
    # The parts of a delivery that cannot be mapped are one rejection.
    bad = bool(mapped.problems) + sum(bool(each.problems) for each in events)
    if bad and source.refuses:
        console.print(Text("The sender would be answered 400, and nothing kept.", "red"))
    elif bad:
        what = "rejection" if bad == 1 else "rejections"
        console.print(Text(f"{bad} {what} would be kept; the sender is answered 2xx.", "red"))


def _drawn(number: int, event: _Event) -> Panel:
    attributes = dict(event.body["data"]["attributes"])
    profile = attributes.pop("profile")["data"]
    metric = attributes.pop("metric")["data"]["attributes"]["name"]
    properties = attributes.pop("properties", {})
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in {**_flat(profile), **attributes}.items():
        grid.add_row(name, Text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    parts: list[Any] = [grid]
    if properties:
        shown = as_yaml(properties).rstrip()
        parts += [
            Text("properties", "dim"),
            Syntax(shown, "yaml", theme="ansi_dark", background_color="default", word_wrap=True),
        ]
    told = [("refused", "bold red", each) for each in event.problems]
    told += [("left out", "bold yellow", each) for each in event.left_out]
    parts += (
        Text.assemble((f"{what}: ", style), f"{each.pointer}: {each.detail}") for what, style, each in told
    )
    if event.waits:
        parts.append(Text("waits: a later delivery may say whose this is", "bold yellow"))
    title = Text(f" {number}  {metric} ", "bold")
    return Panel(
        Group(*parts), title=title, title_align="left", border_style="red" if event.problems else "green"
    )


def _flat(profile: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in profile.items() if name == "id"} | dict(profile["attributes"])


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
