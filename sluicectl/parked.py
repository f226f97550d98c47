"""Implements `sluicectl parked`: list, release, reroute and discard."""

from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from sluice.operate.command import Command
from sluice.operate.parked import (
    DISCARD,
    LIST,
    RELEASE,
    REROUTE,
    DiscardArguments,
    ListArguments,
    ParkedShown,
    RerouteArguments,
    WorkArguments,
    WorkResult,
)
from sluicectl.deployment import Target, find
from sluicectl.errors import FAULTY, Failure
from sluicectl.moments import ago
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen, table


def listing(screen: Screen, target: Target) -> int:
    """Shows what is parked, account by account."""
    found = OperateClient(find(target)).call(LIST, ListArguments()).parked

    def draw(console: Console) -> None:
        if not found:
            console.print("Nothing is parked.")
            return
        rows = [
            (each.account, each.state, _count(each), ago(each.oldest) if each.oldest else None)
            for each in found
        ]
        console.print(table(["account", "state", "messages", "oldest parked"], rows))

    screen.show({"parked": [each.model_dump(mode="json") for each in found]}, draw)
    return 0


def release(screen: Screen, target: Target, account: str, *, sure: bool) -> int:
    """Sends what is parked for a paused account."""
    arguments = WorkArguments(account=account, before=datetime.now(UTC))
    question = "Send them now, although the account is paused?"
    return _deal_with(screen, target, RELEASE, arguments, question, sure=sure)


def reroute(screen: Screen, target: Target, account: str, *, to: str, sure: bool) -> int:
    """Sends what is parked for an account to another one."""
    arguments = RerouteArguments(account=account, before=datetime.now(UTC), to=to)
    question = f"Send them to the account {to}? Events of a message may be at {account} already."
    return _deal_with(screen, target, REROUTE, arguments, question, sure=sure)


def discard(screen: Screen, target: Target, account: str, *, why: str, sure: bool) -> int:
    """Archives what is parked for an account as dead letters."""
    arguments = DiscardArguments(account=account, before=datetime.now(UTC), why=why)
    question = "Discard them? They are archived as dead letters, and can be replayed."
    return _deal_with(screen, target, DISCARD, arguments, question, sure=sure)


def _deal_with[A: WorkArguments](
    screen: Screen,
    target: Target,
    command: Command[A, WorkResult],
    arguments: A,
    question: str,
    *,
    sure: bool,
) -> int:
    """Shows what is parked for an account, asks, and repeats a command until it is done."""
    client, account = OperateClient(find(target)), arguments.account
    found = [each for each in client.call(LIST, ListArguments()).parked if each.account == account]
    if not found:
        raise Failure(f"Nothing is parked for {account}.")

    def draw_plan(console: Console) -> None:
        for each in found:
            oldest = f", the oldest {ago(each.oldest)}" if each.oldest else ""
            console.print(
                Text.assemble(f"{account} is {each.state}: ", _count(each), f" parked messages{oldest}")
            )

    screen.draw(draw_plan)
    if not sure and not screen.agrees(question):
        raise Failure("Nothing is done. Give --yes to do it without being asked.")
    messages = not_sealed = 0
    while True:
        result = client.call(command, arguments)
        messages += result.messages
        not_sealed = result.not_sealed
        if result.done:
            break

    def draw(console: Console) -> None:
        console.print(f"{messages:,} messages: done.")
        if not_sealed:
            console.print(f"{not_sealed:,} objects stay, because Sluice did not seal them.")

    screen.show({"account": account, "messages": messages, "not_sealed": not_sealed}, draw)
    return FAULTY if not_sealed else 0


def _count(parked: ParkedShown) -> Text:
    return Text(f"{parked.messages:,}{'+' if parked.more else ''}")
