"""Implements `sluicectl rejections`: groups, list, show and export."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sluice.jsonapi import pointer_step
from sluice.operate.index import INDEX, IndexArguments
from sluice.operate.rejections import (
    EXPORT,
    GROUPS,
    LIST,
    MAX_LISTED,
    SHOW,
    ExportArguments,
    GroupsArguments,
    GroupShown,
    ListArguments,
    RecordShown,
    RejectionShown,
    ShowArguments,
)
from sluicectl.deployment import Target, find
from sluicectl.errors import FAULTY, Failure
from sluicectl.moments import ago
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen, plain, table

# The controls of Unicode's bidirectional algorithm, which show a text in another order than it has, and
# halves of surrogate pairs. They only stand within the texts of a document.
_ESCAPED: Final = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
STATE_STYLES = {
    "open": "bold yellow",
    "replaying": "cyan",
    "delivered": "green",
    "rejected_again": "yellow",
    "discarded": "dim",
}


def groups(screen: Screen, target: Target, *, account: str | None, settled: bool) -> int:
    """Shows the groups of rejections."""
    arguments = GroupsArguments(account=account, settled=settled)
    found = OperateClient(find(target)).call(GROUPS, arguments).groups
    screen.show(
        {"groups": [group.model_dump(mode="json") for group in found]},
        lambda console: _draw_groups(console, found),
    )
    return 0


def listing(screen: Screen, target: Target, *, limit: int, after: str | None, **selection: Any) -> int:
    """Shows records, the last accepted ones first."""
    client = OperateClient(find(target))
    found: list[RecordShown] = []
    while True:
        arguments = ListArguments(limit=min(limit - len(found), MAX_LISTED), next=after, **selection)
        page = client.call(LIST, arguments)
        found += page.rejections
        after = page.next
        if after is None or len(found) >= limit:
            break
    document = {"rejections": [each.model_dump(mode="json") for each in found], "next": after}
    screen.show(document, lambda console: _draw_list(console, found, after))
    is_filtered = any(value is not None for name, value in selection.items() if name != "state")
    return FAULTY if is_filtered and not found else 0


def show(screen: Screen, target: Target, record_id: str, *, reveal: bool) -> int:
    """Shows one rejection with its payload."""
    client = OperateClient(find(target))
    shown = client.call(SHOW, ShowArguments(id=record_id, reveal=reveal)).rejection
    screen.show(shown.model_dump(mode="json"), lambda console: _draw_one(console, shown))
    return 0


def export(screen: Screen, target: Target, *, limit: int | None, reveal: bool, **selection: Any) -> int:
    """Writes rejections as JSON lines, each with its payload."""
    client = OperateClient(find(target))
    after, left, written = None, limit, 0
    while left is None or left > 0:
        arguments = ExportArguments(next=after, reveal=reveal, **selection)
        if left is not None:
            arguments = arguments.model_copy(update={"limit": min(left, arguments.limit)})
        page = client.call(EXPORT, arguments)
        for each in page.rejections:
            screen.write_line(each.model_dump_json())
        written += len(page.rejections)
        left = None if left is None else left - len(page.rejections)
        after = page.next
        if after is None:
            break
    if not written:
        raise Failure("No rejection is meant by this: look at sluicectl rejections list.")
    return 0


def index(screen: Screen, target: Target, *, after: str | None) -> int:
    """Writes the records that are missing, object after object of the archive."""
    client = OperateClient(find(target))
    total = {"objects": 0, "lines": 0, "added": 0, "unreadable": 0}
    while True:
        try:
            result = client.call(INDEX, IndexArguments(after=after))
        except Failure as failure:
            where = f" sluicectl rejections index --after {after} goes on." if after else ""
            raise type(failure)(f"{failure}{where}") from None
        total = {name: count + getattr(result, name) for name, count in total.items()}
        after = result.after
        if after is None:
            break
        _tell(screen, _indexed(total))
    screen.show(total, lambda console: console.print(f"[bold]{_indexed(total)}[/]"))
    return FAULTY if total["unreadable"] else 0


def _tell(screen: Screen, text: str) -> None:
    screen.draw(lambda console: console.print(text))


def _indexed(total: Mapping[str, int]) -> str:
    unreadable = f", {total['unreadable']:,} unreadable" if total["unreadable"] else ""
    return (
        f"{total['objects']:,} objects and {total['lines']:,} rejections read, "
        f"{total['added']:,} records written{unreadable}"
    )


def _draw_groups(console: Console, found: Sequence[GroupShown]) -> None:
    if not found:
        console.print("Nothing is open: no event is refused, or all refused ones are dealt with.")
        return
    rows = [
        (group.id, group.open, group.total, group.account, _why(group), ago(group.last_seen))
        for group in found
    ]
    console.print(table(["group", "open", "all", "account", "why", "last seen"], rows))
    console.print(
        "\n[dim]Look: sluicectl rejections list --group GROUP. "
        "Send again: sluicectl rejections replay --group GROUP.[/]"
    )


def _why(group: GroupShown) -> Text:
    metrics, sources = ", ".join(group.metrics), ", ".join(group.sources)
    return _lines_of(group.reason, group.detail, group.pointer, metrics, sources)


def _lines_of(first: str, *others: str | None) -> Text:
    """Returns a text of some lines, the first one marked, without those that say nothing."""
    return Text("\n").join([plain(first, "bold"), *(plain(each) for each in others if each)])


def _draw_list(console: Console, found: Sequence[RecordShown], following: str | None) -> None:
    if not found:
        console.print("No rejection is meant by this.")
        return
    several = len({each.account for each in found}) > 1
    rows = [
        (
            each.id,
            ago(each.rejected_at),
            _state(each.state),
            _lines_of(each.detail, each.metric, each.source, each.account if several else None),
        )
        for each in found
    ]
    console.print(table(["id", "rejected", "state", "why"], rows))
    if following:
        console.print(f"\n[dim]There are more: --limit, or --after {following}[/]")


def _draw_one(console: Console, shown: RejectionShown) -> None:
    heading = Text.assemble((shown.id, "bold"), "  ", _state(shown.state), "  ", (shown.reason, "bold"))
    console.print(heading)
    facts = {
        "account": shown.account,
        "metric": shown.metric,
        "source": shown.source,
        "surface": shown.surface,
        "receipt": shown.receipt,
        "line": shown.line,
        "group": shown.group,
        "accepted": f"{shown.accepted_at:%Y-%m-%d %H:%M:%S} UTC",
        "rejected": f"{shown.rejected_at:%Y-%m-%d %H:%M:%S} UTC",
        "events": f"{shown.events}",
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            grid.add_row(Text(name, "dim"), plain(value))
    console.print(grid)
    code = f" ({shown.code})" if shown.code else ""
    console.print(Text.assemble("\n", plain(shown.words, "bold"), plain(code)))
    if shown.pointer:
        console.print(plain(f"at {shown.pointer} of the caller's document", "dim"))
    if shown.gone:
        console.print("\nIts payload is not in the archive any more.")
    else:
        console.print()
        console.print(Padding(_marked(shown.payload, shown.place), (0, 0, 0, 2)))
        if shown.masked:
            console.print("[dim]  Texts that could name a person are hidden: --reveal shows them.[/]")
    console.print(f"\n{escape(shown.meaning)}\n[bold]{escape(shown.advice)}[/]", soft_wrap=True)
    console.print()
    for step in shown.history:
        parts = [
            f"{step.at:%Y-%m-%d %H:%M:%S}",
            step.state,
            step.who,
            step.why,
            step.job and f"job {step.job}",
        ]
        console.print(plain("  ".join(part for part in parts if part), "dim"))


def _marked(payload: Any, place: str | None) -> Text:
    """Returns a payload as JSON, with the line of the refused place marked."""
    text = Text()
    is_there = False
    for line, pointer in payload_lines(payload):
        if pointer == place:
            is_there = True
            text.append(f"{line}   ← here\n", "bold red")
        else:
            text.append(f"{line}\n")
    if place is not None and not is_there:
        text.append(f"{place} is missing\n", "bold red")
    text.rstrip()
    return text


def payload_lines(payload: Any) -> Iterable[tuple[str, str]]:
    """Yields the lines of a payload as indented JSON, each with the pointer of the value that begins there.

    Characters that cannot be shown as they are get escaped.
    """
    for line, pointer in _lines(payload, "", 0, None, ""):
        yield _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", line), pointer


def _lines(value: Any, pointer: str, depth: int, name: str | None, end: str) -> Iterable[tuple[str, str]]:
    start = "  " * depth + ("" if name is None else f"{json.dumps(name, ensure_ascii=False)}: ")
    parts: Mapping[Any, Any] = (
        value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    )
    if not parts:
        yield start + json.dumps(value, ensure_ascii=False) + end, pointer
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    yield start + opening, pointer
    for index, (key, held) in enumerate(parts.items()):
        below = pointer + pointer_step(key)
        comma = "," if index < len(parts) - 1 else ""
        yield from _lines(held, below, depth + 1, key if isinstance(key, str) else None, comma)
    yield "  " * depth + closing + end, ""


def _state(state: str) -> Text:
    return Text(state.replace("_", " "), STATE_STYLES.get(state, ""))
