"""Implements the command `status`: how the deployment is doing, account by account and as a whole."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from sluice import __version__
from sluice.accounts import KlaviyoAccount, PipelessApp, StoredAccounts
from sluice.contract import STEADY_LIMIT
from sluice.delivery.parking import ParkedMessages
from sluice.delivery.rate_limiter import SlotWindow, believable
from sluice.errors import Misconfigured, Retryable
from sluice.operate import rejections
from sluice.operate.command import Access, Arguments, Command, Context, Result
from sluice.operate.overview import AccountState, Hour, Overview, Queue
from sluice.records.items import Group
from sluice.webhooks import sources

MINUTE: Final = timedelta(minutes=1)
MAX_UNKNOWN: Final = 100  # unknown accounts that are described; all of them are counted
MAX_JOBS: Final = 100  # looked at, the newest ones


class StatusArguments(Arguments):
    """Holds no argument."""


class Pace(BaseModel):
    """Says how many requests of an account left in the last minute, and how many may.

    `used` is None where no more than the last request is known. `paused_until` is when a 429 lets it go on.
    """

    used: int | None
    allowed: int
    paused_until: datetime | None


class AccountShown(BaseModel):
    """Describes an account. `circuit` is `closed`, `open`, `paused` by an operator, or `unknown`.

    `unknown` stands for an account that the document does not name. `waiting` counts the messages on the
    queue, None where it is not known whose they are. `parked` counts messages, with `oldest` the time since
    which one of them is parked; with `parked_more` there are more than were looked at.
    """

    id: str
    kind: str | None
    circuit: str
    since: datetime | None = None
    why: str | None = None
    who: str | None = None
    pace: Pace | None = None
    waiting: int | None = None
    parked: int = 0
    parked_more: bool = False
    oldest: datetime | None = None


class QueueShown(BaseModel):
    """Describes a queue: messages to be received, in flight, and delayed, and the age of the oldest one."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    visible: int
    in_flight: int
    delayed: int
    oldest_seconds: int | None


class CountsShown(BaseModel):
    """Holds what happened in a time; all but `jobs` and `rate_limited` count events.

    `fill` is the number of events in a job.
    """

    accepted: int
    delivered: int
    rejected: int
    jobs: int
    fill: float | None
    rate_limited: int


class MinuteShown(CountsShown):
    """Holds what happened in the minute from a moment on."""

    at: datetime


class HourShown(CountsShown):
    """Holds what happened in the last hour, and in those of its minutes in which something did.

    `refused_deliveries` are kept nowhere, and counted by source.
    """

    refused_deliveries: dict[str, int]
    minutes: list[MinuteShown] = []


class JobShown(BaseModel):
    """Describes a job that is not over."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: str
    state: str
    created_at: datetime


class AlarmShown(BaseModel):
    """Describes an alarm that sounds."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    since: datetime
    reason: str


class StatusResult(Result):
    """Holds the status. `not_known` says, in sentences, what could not be found out."""

    version: str
    at: datetime
    accounts: list[AccountShown]
    unknown_accounts: int
    queues: list[QueueShown]
    last_hour: HourShown | None
    open_groups: int | None
    open_events: int | None
    jobs: list[JobShown] | None
    last_tick: datetime | None
    alarms: list[AlarmShown] | None
    not_known: list[str]


class _Doubts:
    """Collects what cannot be found out, so that it costs nothing else of the status."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def known[T](self, what: str, look: Callable[[], T]) -> T | None:
        """Returns what a look finds, or None if it fails."""
        try:
            return look()
        except (Retryable, Misconfigured) as error:
            self.sentences.append(f"{what}: {error}.")
            return None


def _status(_: StatusArguments, context: Context) -> StatusResult:
    ports, doubts = context.ports, _Doubts()
    overview = ports.overview
    stored = doubts.known("The accounts", overview.accounts) or StoredAccounts.empty()
    doubts.sentences += [f"The accounts: {flaw}." for flaw in stored.flaws]
    queues = doubts.known("The queues", overview.queues) or []
    hour = doubts.known("The last hour", lambda: overview.hour(sources=_refusing_sources(context)))
    groups = doubts.known("The rejections", lambda: _groups(context))
    jobs = doubts.known("The jobs", lambda: ports.jobs.newest(limit=MAX_JOBS))
    alarms = doubts.known("The alarms", overview.alarms)
    accounts, unknown = _accounts(overview, stored, queues, doubts, context.now)
    return StatusResult(
        version=__version__,
        at=context.now,
        accounts=accounts,
        unknown_accounts=unknown,
        queues=[QueueShown.model_validate(each) for each in queues],
        last_hour=None if hour is None else _hour(hour),
        open_groups=None if groups is None else len(groups),
        open_events=None if groups is None else sum(group.open for group in groups),
        jobs=None
        if jobs is None
        else [JobShown.model_validate(job) for job in jobs if not job.state.is_over],
        last_tick=None if hour is None else hour.last_tick,
        alarms=None if alarms is None else [AlarmShown.model_validate(each) for each in alarms],
        not_known=doubts.sentences,
    )


def _accounts(
    overview: Overview, stored: StoredAccounts, queues: Sequence[Queue], doubts: _Doubts, now: datetime
) -> tuple[list[AccountShown], int]:
    """Returns the accounts of the document and those that only have something parked, those in need first."""
    named = {account.id: account for account in stored.accounts.every()}
    parked = doubts.known("What is parked", overview.parked) or {}
    unknown, parked_unknown = doubts.known(
        "Unknown accounts", lambda: overview.parked_unknown(limit=MAX_UNKNOWN)
    ) or (0, {})
    ids = {**named, **parked, **parked_unknown}.keys()
    states = doubts.known("The circuits", lambda: overview.states(account_ids=ids)) or {}
    waiting = _queue_depth(queues) if len(named) == 1 else None
    shown = [
        described(
            id,
            named.get(id),
            states.get(id, AccountState()),
            [each for each in (parked.get(id), parked_unknown.get(id)) if each is not None],
            now,
        ).model_copy(update={"waiting": waiting if id in named else None})
        for id in ids
    ]
    return sorted(shown, key=lambda each: (each.circuit == "closed", -each.parked, each.id)), unknown


def described(
    id: str,
    account: KlaviyoAccount | PipelessApp | None,
    state: AccountState,
    parked: Iterable[ParkedMessages],
    now: datetime,
) -> AccountShown:
    """Describes an account by all that is known of it."""
    found = list(parked)
    shown = AccountShown(
        id=id,
        kind=None if account is None else "pipeless" if isinstance(account, PipelessApp) else "klaviyo",
        circuit="closed" if account is not None else "unknown",
        pace=None if account is None else _pace(account, state.window, now),
        parked=sum(each.messages for each in found),
        parked_more=any(each.is_more for each in found),
        oldest=min((moment for each in found if (moment := each.oldest) is not None), default=None),
    )
    if state.pause is not None:
        since = datetime.fromtimestamp(state.pause.at, UTC)
        return shown.model_copy(
            update={"circuit": "paused", "since": since, "why": state.pause.why, "who": state.pause.who}
        )
    if state.circuit is not None:
        since = datetime.fromtimestamp(state.circuit.opened_at, UTC)
        return shown.model_copy(update={"circuit": "open", "since": since, "why": _why(state.circuit.status)})
    return shown


def _why(status: int) -> str:
    return f"the upstream answered {status}" if status else "the upstream did not answer"


def _pace(account: KlaviyoAccount | PipelessApp, window: SlotWindow, now: datetime) -> Pace:
    milliseconds = int(now.timestamp() * 1_000)
    window = believable(window, milliseconds)
    is_paused = window.paused_until > milliseconds
    paused_until = datetime.fromtimestamp(window.paused_until / 1_000, UTC) if is_paused else None
    if isinstance(account, PipelessApp):
        # Its window holds the last slot only, because its slots lie evenly.
        return Pace(used=None, allowed=account.calls_per_minute, paused_until=paused_until)
    minute = int(MINUTE.total_seconds() * 1_000)
    used = sum(milliseconds - minute < slot <= milliseconds for slot in window.slots)
    learned = window.learned.per_minute if window.learned is not None else 0
    return Pace(used=used, allowed=learned or STEADY_LIMIT, paused_until=paused_until)


def _queue_depth(queues: Sequence[Queue]) -> int | None:
    """Returns all messages that wait to be delivered, which are the account's if there is only one."""
    found = [
        each.visible + each.in_flight + each.delayed
        for each in queues
        if each.name in {"events", "background"}
    ]
    return sum(found) if found else None


def _hour(hour: Hour) -> HourShown:
    return HourShown(
        **_counts(hour.sums),
        refused_deliveries={source: count for source, count in hour.refused.items() if count},
        minutes=[MinuteShown(at=at, **_counts(sums)) for at, sums in sorted(hour.minutes.items())],
    )


def _counts(sums: Mapping[str, int]) -> dict[str, Any]:
    jobs = sums.get("Jobs", 0)
    return {
        "accepted": sums.get("AcceptedEvents", 0),
        "delivered": sums.get("DeliveredEvents", 0),
        "rejected": sums.get("RejectedEvents", 0) + sums.get("AnonymousRejectedEvents", 0),
        "jobs": jobs + sums.get("Calls", 0),
        "fill": round(sums.get("JobEvents", 0) / jobs, 1) if jobs else None,
        "rate_limited": sums.get("UpstreamRateLimited", 0),
    }


def _groups(context: Context) -> list[Group]:
    """Returns the groups with something open."""
    return [group for group in rejections.all_groups(context.ports.records) if group.open > 0]


def _refusing_sources(context: Context) -> list[str]:
    stored = context.ports.sources.read()
    if stored is None:
        return []
    found = sources.decode_valid(stored.content).sources.values()
    return [source.name for source in found if source.refuses]


STATUS: Final = Command("status", Access.READ, StatusArguments, StatusResult, _status)
