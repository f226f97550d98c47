"""Implements the commands on parked messages of accounts that do not exist or are paused.

`parked release` sends them, past the pause. `parked reroute` sends them for another account. `parked discard`
archives them as dead letters, so that nothing vanishes: they can be replayed.

A call works for some seconds and says whether it came to the end, and the client calls again. Nothing is
deleted before it is safe elsewhere, so a call may be repeated.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec
from pydantic import AwareDatetime, BaseModel, Field

from sluice import message, rejection, runtime
from sluice.delivery import parking
from sluice.delivery.parking import NotSealed
from sluice.message import PipelessMessage, StoredMessage
from sluice.operate.command import Access, AccountId, Arguments, Command, Context, Failed, Result
from sluice.operate.pauses import Why
from sluice.rejection import Rejection

WORK_SECONDS: Final = 20.0  # of one call
MAX_UNKNOWN: Final = 1_000  # unknown accounts that are listed

type Stored = StoredMessage | PipelessMessage


class ListArguments(Arguments):
    """Holds no argument."""


class ParkedShown(BaseModel):
    """Describes what is parked for an account; with `more` there are more messages than were counted.

    `state` is `paused`, `unknown` to the accounts document, or `returning`: by itself, as the circuit allows.
    """

    account: str
    state: str
    messages: int
    more: bool
    oldest: datetime | None


class ListResult(Result):
    """Holds what is parked, account by account."""

    parked: list[ParkedShown]


class WorkArguments(Arguments):
    """Says of which account, and up to which moment of parking, messages are meant."""

    account: AccountId
    before: Annotated[AwareDatetime, Field()]


class RerouteArguments(WorkArguments):
    """Says for which account the messages are sent instead."""

    to: AccountId


class DiscardArguments(WorkArguments):
    """Says why the messages are discarded; their rejections say so."""

    why: Why


class WorkResult(Result):
    """Counts the messages that are dealt with, and the objects that nobody sealed; `done` at the end."""

    messages: int
    not_sealed: int
    done: bool

    def counts(self) -> dict[str, int]:
        return {"messages": self.messages, "not_sealed": self.not_sealed}


def _list(_: ListArguments, context: Context) -> ListResult:
    overview = context.ports.overview
    known = overview.parked()
    _count, unknown = overview.parked_unknown(limit=MAX_UNKNOWN)
    states = overview.states(account_ids={**known, **unknown}.keys())
    named = {account.id for account in overview.accounts().accounts.every()}

    def state(account: str) -> str:
        if account not in named:
            return "unknown"
        return "paused" if states[account].pause is not None else "returning"

    shown = [
        ParkedShown(
            account=account,
            state=state(account),
            messages=found.messages,
            more=found.is_more,
            oldest=found.oldest,
        )
        for parked in (known, unknown)
        for account, found in sorted(parked.items())
    ]
    return ListResult(parked=shown)


def _release(arguments: WorkArguments, context: Context) -> WorkResult:
    account = arguments.account
    if not _is_named(account, context):
        raise Failed(
            "unknown_account",
            f"The accounts document has no account {account}, so its messages would be parked again. "
            "Add it, or reroute them.",
        )
    _check(account, context)

    def send(messages: Sequence[Stored]) -> None:
        context.ports.parked.send(messages=messages, released=True)

    return _work(arguments, context, send)


def _reroute(arguments: RerouteArguments, context: Context) -> WorkResult:
    _check(arguments.account, context)
    if not _is_named(arguments.to, context):
        raise Failed("unknown_account", f"The accounts document has no account {arguments.to}.")
    if arguments.to == arguments.account:
        raise Failed("invalid_arguments", "This is the same account.")

    def send(messages: Sequence[Stored]) -> None:
        context.ports.parked.send(
            messages=[rerouted(each, arguments.to) for each in messages], released=False
        )

    return _work(arguments, context, send)


def rerouted(stored: Stored, account: str) -> Stored:
    """Returns a message for another account, which must be of the same vendor."""
    is_app = account.startswith("pipeless-")
    if isinstance(stored, PipelessMessage):
        if not is_app:
            raise Failed("invalid_arguments", f"The messages are for Pipeless, and {account} is no app.")
        return msgspec.structs.replace(stored, app_id=int(account.removeprefix("pipeless-")))
    if is_app:
        raise Failed("invalid_arguments", f"The messages are for Klaviyo, and {account} is an app.")
    return msgspec.structs.replace(stored, account=account)


def _discard(arguments: DiscardArguments, context: Context) -> WorkResult:
    _check(arguments.account, context)

    def reject(messages: Sequence[Stored]) -> None:
        context.ports.parked.discard(messages=messages, why=arguments.why)

    return _work(arguments, context, reject)


def letter(stored: Stored, body: str, why: str, now: datetime) -> Rejection:
    """Returns the dead letter of a discarded message, the same one each time."""
    detail = f"Discarded while it was parked: {why}"
    name = f"parked {stored.account}#{stored.receipt}"
    return rejection.for_dead_letter(body, detail, sent=stored.accepted, now=now, name=name)


def _is_named(account: str, context: Context) -> bool:
    return context.ports.overview.accounts().accounts.names(account)


def _check(account: str, context: Context) -> None:
    """Refuses to touch what comes back by itself: resume may be at work on it."""
    is_paused = context.ports.pauses.find(account_id=account) is not None
    if not is_paused and _is_named(account, context):
        raise Failed(
            "not_paused",
            f"{account} is not paused: its parked messages come back by themselves. To deal with them, "
            "pause it first.",
        )


def _work(
    arguments: WorkArguments, context: Context, deal_with: Callable[[Sequence[Stored]], None]
) -> WorkResult:
    """Deals with parked objects, the oldest first, as long as there is time."""
    parked = context.ports.parked
    end = runtime.monotonic() + WORK_SECONDS
    count = not_sealed = 0
    for key in parked.objects(account_id=arguments.account):
        described = parking.described([key])
        if described.oldest is None or described.oldest > arguments.before:
            continue
        if runtime.monotonic() > end:
            return WorkResult(messages=count, not_sealed=not_sealed, done=False)
        try:
            messages = [message.decode_plain(plain) for plain in parked.messages(key=key)]
        except NotSealed:
            not_sealed += 1
            continue
        deal_with(messages)
        parked.delete(key=key)
        count += len(messages)
    return WorkResult(messages=count, not_sealed=not_sealed, done=True)


LIST: Final = Command("parked list", Access.READ, ListArguments, ListResult, _list)
RELEASE: Final = Command("parked release", Access.ADMIN, WorkArguments, WorkResult, _release)
REROUTE: Final = Command("parked reroute", Access.ADMIN, RerouteArguments, WorkResult, _reroute)
DISCARD: Final = Command("parked discard", Access.ADMIN, DiscardArguments, WorkResult, _discard)
