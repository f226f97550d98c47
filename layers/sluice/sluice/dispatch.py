"""Takes a batch of queue messages apart by account and has each account's share delivered."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from sluice import message
from sluice.accounts import Account, Accounts, App, is_account_id, is_site_id
from sluice.delivery import backoff
from sluice.delivery.backoff import Wait
from sluice.delivery.outcome import Outcome, Refusal, Share, park
from sluice.errors import Misconfigured, Retryable, Undeliverable
from sluice.klaviyo import delivery
from sluice.klaviyo.sender import NO_ANSWER
from sluice.message import Batch, StoredMessage
from sluice.pipeless import delivery as pipeless
from sluice.producers import accept as producers
from sluice.producers import envelopes
from sluice.producers.envelopes import Body, Object, Objects
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection

CLAIMS_AT_ONCE: Final = 8

type _Said = StoredMessage | Batch | Objects | Undeliverable | Retryable


class Record(msgspec.Struct, frozen=True):
    """One received queue message. `account` and `surface` are a producer's message attributes.

    One that comes `again` may be delivered in part. A `probe` was sent back to the queue to find out
    whether its account answers again; a `culprit` has ended the process each time it was received.
    """

    id: str
    body: str
    sent: datetime
    receives: int = 1
    account: str | None = None
    surface: str | None = None
    again: bool = False
    probe: bool = False
    culprit: bool = False


class Ports(msgspec.Struct, frozen=True):
    """What dispatch reaches the world through. All may raise `Retryable`, `accounts` also `Misconfigured`.

    `read_object` puts the lines of an S3 object on the queue as requests of their own, counting them, and
    says what to wait for before it is called again, if it has to be.
    """

    accounts: Callable[[], Accounts]
    fetch_claim: Callable[[str], bytes]
    delivery: delivery.Ports
    read_object: Callable[[Object, Accounts, Counter[str]], Awaitable[Wait | None]]


async def dispatch(records: Mapping[int, Record], ports: Ports) -> Outcome:
    """Delivers what can be delivered of `records` now, and says what is to become of the rest."""
    outcome = Outcome()
    try:
        accounts = ports.accounts()
    except (Misconfigured, Retryable):
        # An operator's mistake or a passing fault must not cost events: they wait for its end.
        outcome.retry.update(dict.fromkeys(records, Wait()))
        outcome.counts["AccountsNotRead"] += 1
        return outcome
    by_account: dict[str, dict[int, StoredMessage]] = defaultdict(dict)
    notified: dict[int, Objects] = {}
    by_app: dict[int, dict[int, Batch]] = defaultdict(dict)
    claims = await _read_claims(records, accounts, ports)
    for number, record in records.items():
        match claims.pop(number, None) or _read(record, accounts, ports):
            case Undeliverable() as error:
                refused = _unreadable(record, error, accounts.only(), ports.delivery.now())
                outcome.refusals.append(Refusal(number, refused))
            case Retryable() as error:
                outcome.retry[number] = Wait(error.after)
            case tuple() as objects:
                notified[number] = objects
            case Batch() as batch:
                by_app[batch.app_id][number] = batch
            case stored:
                by_account[stored.account][number] = stored
    async with asyncio.TaskGroup() as group:
        for site_id, messages in by_account.items():
            account = accounts.with_site_id(site_id)
            group.create_task(_deliver(account, messages, records, ports, outcome))
        for app_id, batches in by_app.items():
            app = accounts.with_app_id(app_id)
            group.create_task(_deliver_batches(app, batches, records, ports, outcome))
        group.create_task(_read_objects(notified, accounts, ports, outcome))
    return outcome


async def _deliver(
    account: Account | None,
    messages: dict[int, StoredMessage],
    records: Mapping[int, Record],
    ports: Ports,
    outcome: Outcome,
) -> None:
    if account is None:
        await _park_unknown(messages, ports, outcome)
    else:
        await delivery.deliver(account, _share(messages, records), ports.delivery, outcome)


async def _deliver_batches(
    app: App | None,
    batches: dict[int, Batch],
    records: Mapping[int, Record],
    ports: Ports,
    outcome: Outcome,
) -> None:
    if app is None:
        await _park_unknown(batches, ports, outcome)
    else:
        await pipeless.deliver(app, _share(batches, records), ports.delivery, outcome)


def _share[Kind: (StoredMessage, Batch)](
    messages: dict[int, Kind], records: Mapping[int, Record]
) -> Share[Kind]:
    return Share(
        messages,
        again={number for number in messages if records[number].again},
        probes={number for number in messages if records[number].probe},
        lasting={number for number in messages if records[number].receives >= backoff.LASTING},
    )


async def _park_unknown(
    messages: Mapping[int, StoredMessage | Batch], ports: Ports, outcome: Outcome
) -> None:
    """Parks what is for an account the secret does not name (any more): that may be a mistake."""
    account = next(iter(messages.values())).account
    try:
        if await ports.delivery.circuits.open(account, NO_ANSWER):
            outcome.counts["CircuitsOpened"] += 1
    except Retryable as error:
        outcome.retry.update(dict.fromkeys(messages, Wait(error.after)))
    else:
        await park(account, messages, ports.delivery.circuits, outcome)


async def _read_objects(
    notified: Mapping[int, Objects], accounts: Accounts, ports: Ports, outcome: Outcome
) -> None:
    """Has the lines of objects put on the queue, one object after the other, each as long as there is time.

    Word of them stays until there is nothing left to put.
    """
    for number, objects in notified.items():
        outcome.counts["Notifications"] += 1
        for each in objects:
            counts: Counter[str] = Counter()
            try:
                wait = await ports.read_object(each, accounts, counts)
            except Retryable as error:
                wait = Wait(error.after)
            outcome.counts.update(counts)
            if wait is not None:
                outcome.retry[number] = wait
                break


async def _read_claims(records: Mapping[int, Record], accounts: Accounts, ports: Ports) -> dict[int, _Said]:
    """What the records that are claims say, read by some threads: each takes S3 a while."""
    some = asyncio.Semaphore(CLAIMS_AT_ONCE)

    async def read(record: Record) -> _Said:
        async with some:
            return await asyncio.to_thread(_read, record, accounts, ports)

    claims = {number: record for number, record in records.items() if message.is_claim(record.body)}
    return dict(zip(claims, await asyncio.gather(*map(read, claims.values())), strict=True))


def _read(record: Record, accounts: Accounts, ports: Ports) -> _Said:
    """What a record says, or why that cannot be told."""
    try:
        return _decode(record, accounts, ports)
    except (Undeliverable, Retryable) as error:
        return error


def _decode(record: Record, accounts: Accounts, ports: Ports) -> StoredMessage | Batch | Objects:
    if record.culprit:
        detail = f"Its process ended each of the {record.receives - 1} times it was tried."
        raise Undeliverable(Reason.DEAD_LETTER, detail)
    if message.is_stored(record.body):
        stored = message.decode(record.body, ports.fetch_claim)
        if not isinstance(stored, Batch) and not is_site_id(stored.account):
            raise Undeliverable(Reason.MALFORMED, "The message's account is not a site id.")
        return stored
    opened = envelopes.opened(_body(record))
    if isinstance(opened, Body):
        return message.as_stored(producers.accept(opened, record.id, accounts))
    return opened


def _body(record: Record) -> Body:
    return Body(record.body, record.sent, record.account, record.surface)


def _unreadable(record: Record, error: Undeliverable, only: Account | None, now: datetime) -> Rejection:
    known = only.site_id if only else UNKNOWN_ACCOUNT
    body = _body(record)
    if not record.culprit and isinstance(opened := envelopes.opened(body), Body):
        body = opened
    return Rejection(
        Reason(error.reason),
        error.detail,
        msgspec.Raw(msgspec.json.encode(body.text)),
        now,
        account=body.account if body.account and is_account_id(body.account) else known,
        pointer=error.pointer,
        surface=body.surface,
        id=record.id,
    )
