"""Implements `sluicectl status`."""

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from sluice.operate.status import STATUS, AccountShown, Pace, StatusArguments, StatusResult
from sluicectl.deployment import Target, find
from sluicectl.moments import ago, length, length_of
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Cell, Screen, table

WATCH_SECONDS: Final = 5.0
MAX_QUIET: Final = 20  # accounts without trouble that are shown; --json has all
_STYLES: Final = {"closed": "green", "open": "bold red", "paused": "bold yellow", "unknown": "bold yellow"}
_QUEUES: Final = {
    "events": "events",
    "events_dead_letters": "dead letters",
    "background": "background",
    "background_dead_letters": "dead letters of background",
    "rejected": "rejections",
    "rejected_dead_letters": "dead letters of rejections",
}


def show(screen: Screen, target: Target, *, watch: bool) -> int:
    """Shows how the deployment is doing, once or again and again until it is interrupted."""
    deployment = find(target)
    client = OperateClient(deployment)
    try:
        while True:
            found = client.call(STATUS, StatusArguments())
            if not watch:
                _show_once(screen, found, deployment.name)
                break
            if screen.as_json:
                screen.write_line(found.model_dump_json())
            else:
                screen.console.clear()
                draw(screen.console, found, deployment.name)
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        pass
    return 0


def _show_once(screen: Screen, found: StatusResult, name: str) -> None:
    screen.show(found.model_dump(mode="json"), lambda console: draw(console, found, name))


def draw(console: Console, found: StatusResult, name: str) -> None:
    """Draws a status in 80 columns."""
    console.print(Text(f"{name}, Sluice {found.version}, {found.at:%Y-%m-%d %H:%M:%S} UTC", "bold"))
    for alarm in found.alarms or []:
        console.print(
            Text(f"{alarm.name}, since {length_of(alarm.since, found.at)}: {alarm.reason}", "bold red")
        )
    console.print()
    _draw_accounts(console, found)
    rows = [
        (
            _QUEUES.get(queue.name, queue.name),
            queue.visible,
            queue.in_flight,
            queue.delayed,
            None if queue.oldest_seconds is None else length(queue.oldest_seconds),
        )
        for queue in found.queues
    ]
    console.print(table(["queue", "messages", "in flight", "delayed", "oldest"], rows))
    for line in _lines(found):
        console.print(line, highlight=False, markup=False)
    for sentence in found.not_known:
        console.print(Text(f"Not known: {sentence}", "dim"))


def _draw_accounts(console: Console, found: StatusResult) -> None:
    if not found.accounts:
        console.print("There is no account yet: docs/accounts.md says how to add one.\n")
        return
    troubled = [account for account in found.accounts if account.circuit != "closed" or account.parked]
    quiet = [account for account in found.accounts if account.circuit == "closed" and not account.parked]
    rows = [_row(account, found.at) for account in [*troubled, *quiet[:MAX_QUIET]]]
    console.print(table(["account", "circuit", "since", "pace", "waiting", "parked", "oldest"], rows))
    if len(quiet) > MAX_QUIET:
        console.print(Text(f"and {len(quiet) - MAX_QUIET:,} more without trouble", "dim"))
    for account in troubled:
        if account.why is not None:
            by = f" ({account.who})" if account.who else ""
            console.print(Text(f"{account.id} is {account.circuit}: {account.why}{by}"))
    if found.unknown_accounts:
        some = "1 account" if found.unknown_accounts == 1 else f"{found.unknown_accounts:,} accounts"
        console.print(Text(f"Not in the accounts document, with messages parked: {some}"))


def _row(account: AccountShown, now: datetime) -> list[Cell]:
    parked: Cell = account.parked
    if account.parked_more:
        parked = Text(f"{account.parked:,}+")
    return [
        account.id,
        Text(account.circuit, _STYLES.get(account.circuit, "")),
        None if account.since is None else length_of(account.since, now),
        None if account.pace is None else _pace(account.pace, now),
        account.waiting,
        parked,
        None if account.oldest is None else length_of(account.oldest, now),
    ]


def _pace(pace: Pace, now: datetime) -> str:
    if pace.paused_until is not None:
        return f"429, {length_of(now, pace.paused_until)}"
    return f"{pace.used} of {pace.allowed}" if pace.used is not None else f"of {pace.allowed}"


def _lines(found: StatusResult) -> Iterable[str]:
    if (hour := found.last_hour) is not None:
        yield (
            f"last hour    {hour.accepted:,} accepted, {hour.delivered:,} delivered, "
            f"{hour.rejected:,} rejected"
        )
        fill = "" if hour.fill is None else f" of {hour.fill:,} events"
        yield f"             {hour.jobs:,} jobs{fill}, {hour.rate_limited:,} times 429"
        for source, count in hour.refused_deliveries.items():
            yield f"             {count:,} deliveries of the source {source} refused, and kept nowhere"
    if found.open_groups is not None:
        yield f"rejections   {found.open_events or 0:,} open in {found.open_groups:,} groups"
    if found.jobs is not None:
        running = ", ".join(f"{job.id} ({job.kind}, {job.state})" for job in found.jobs)
        yield f"jobs         {running or 'none'}"
    if found.last_tick is not None:
        yield f"resume       last tick {ago(found.last_tick, found.at)}"
    if found.alarms is not None:
        yield f"alarms       {len(found.alarms) or 'none'}"
