"""Takes a batch of queue messages apart by account and has each account's share delivered."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from sluice import message
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp, is_account_id, is_site_id
from sluice.delivery import backoff
from sluice.delivery.backoff import Retry
from sluice.delivery.outcome import AccountBatch, Outcome, Refusal, park
from sluice.errors import Misconfigured, Retryable, Undeliverable
from sluice.klaviyo import delivery
from sluice.klaviyo.sender import NO_ANSWER
from sluice.message import PipelessMessage, StoredMessage
from sluice.pipeless import delivery as pipeless
from sluice.producers import accept as producers
from sluice.producers import envelopes
from sluice.producers.envelopes import Body, Object, Objects
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection

CLAIMS_AT_ONCE: Final = 8

type _Content = StoredMessage | PipelessMessage | Objects | Undeliverable | Retryable


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
    redelivered: bool = False
    is_probe: bool = False
    is_poison: bool = False


class Ports(msgspec.Struct, frozen=True):
    """What dispatch reaches the world through. All may raise `Retryable`, `accounts` also `Misconfigured`.

    `read_object` puts the lines of an S3 object on the queue as requests of their own, counting them, and
    says what to wait for before it is called again, if it has to be.
    """

    accounts: Callable[[], Accounts]
    fetch_claim: Callable[[str], bytes]
    delivery: delivery.Ports
    read_object: Callable[[Object, Accounts, Counter[str]], Awaitable[Retry | None]]


async def dispatch(records: Mapping[int, Record], ports: Ports) -> Outcome:
    """Delivers what can be delivered of `records` now, and says what is to become of the rest."""
    outcome = Outcome()
    try:
        accounts = ports.accounts()
    except (Misconfigured, Retryable):
        # An operator's mistake or a passing fault must not cost events: they wait for its end.
        outcome.retry.update(dict.fromkeys(records, Retry()))
        outcome.counts["AccountsNotRead"] += 1
        return outcome
    by_account: dict[str, dict[int, StoredMessage]] = defaultdict(dict)
    notified: dict[int, Objects] = {}
    by_app: dict[int, dict[int, PipelessMessage]] = defaultdict(dict)
    claims = await _read_claims(records, accounts, ports)
    for number, record in records.items():
        match claims.pop(number, None) or _read(record, accounts, ports):
            case Undeliverable() as error:
                refused = _undeliverable(record, error, accounts.single_account(), ports.delivery.now())
                outcome.refusals.append(Refusal(number, refused))
            case Retryable() as error:
                outcome.retry[number] = Retry(error.after)
            case tuple() as objects:
                notified[number] = objects
            case PipelessMessage() as batch:
                by_app[batch.app_id][number] = batch
            case stored:
                by_account[stored.account][number] = stored
    async with asyncio.TaskGroup() as group:
        for site_id, messages in by_account.items():
            account = accounts.by_site_id(site_id)
            group.create_task(_deliver(account, messages, records, ports, outcome))
        for app_id, batches in by_app.items():
            app = accounts.by_app_id(app_id)
            group.create_task(_deliver_batches(app, batches, records, ports, outcome))
        group.create_task(_read_objects(notified, accounts, ports, outcome))
    return outcome


async def _deliver(
    account: KlaviyoAccount | None,
    messages: dict[int, StoredMessage],
    records: Mapping[int, Record],
    ports: Ports,
    outcome: Outcome,
) -> None:
    if account is None:
        await _park_unknown(messages, ports, outcome)
    else:
        await delivery.deliver(account, _account_batch(messages, records), ports.delivery, outcome)


async def _deliver_batches(
    app: PipelessApp | None,
    batches: dict[int, PipelessMessage],
    records: Mapping[int, Record],
    ports: Ports,
    outcome: Outcome,
) -> None:
    if app is None:
        await _park_unknown(batches, ports, outcome)
    else:
        await pipeless.deliver(app, _account_batch(batches, records), ports.delivery, outcome)


def _account_batch[Kind: (StoredMessage, PipelessMessage)](
    messages: dict[int, Kind], records: Mapping[int, Record]
) -> AccountBatch[Kind]:
    return AccountBatch(
        messages,
        redelivered={number for number in messages if records[number].redelivered},
        probes={number for number in messages if records[number].is_probe},
        long_failing={number for number in messages if records[number].receives >= backoff.FAST_RETRIES},
    )


async def _park_unknown(
    messages: Mapping[int, StoredMessage | PipelessMessage], ports: Ports, outcome: Outcome
) -> None:
    """Parks what is for an account the secret does not name (any more): that may be a mistake."""
    account = next(iter(messages.values())).account
    try:
        if await ports.delivery.circuits.open(account, NO_ANSWER):
            outcome.counts["CircuitsOpened"] += 1
    except Retryable as error:
        outcome.retry.update(dict.fromkeys(messages, Retry(error.after)))
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
                wait = Retry(error.after)
            outcome.counts.update(counts)
            if wait is not None:
                outcome.retry[number] = wait
                break


async def _read_claims(
    records: Mapping[int, Record], accounts: Accounts, ports: Ports
) -> dict[int, _Content]:
    """What the records that are claims say, read by some threads: each takes S3 a while."""
    some = asyncio.Semaphore(CLAIMS_AT_ONCE)

    async def read(record: Record) -> _Content:
        async with some:
            return await asyncio.to_thread(_read, record, accounts, ports)

    claims = {number: record for number, record in records.items() if message.is_claim(record.body)}
    return dict(zip(claims, await asyncio.gather(*map(read, claims.values())), strict=True))


def _read(record: Record, accounts: Accounts, ports: Ports) -> _Content:
    """What a record says, or why that cannot be told."""
    try:
        return _decode(record, accounts, ports)
    except (Undeliverable, Retryable) as error:
        return error


def _decode(record: Record, accounts: Accounts, ports: Ports) -> StoredMessage | PipelessMessage | Objects:
    if record.is_poison:
        detail = f"Its process ended each of the {record.receives - 1} times it was tried."
        raise Undeliverable(Reason.DEAD_LETTER, detail)
    if message.is_stored(record.body):
        stored = message.decode(record.body, ports.fetch_claim)
        if not isinstance(stored, PipelessMessage) and not is_site_id(stored.account):
            raise Undeliverable(Reason.MALFORMED, "The message's account is not a site id.")
        return stored
    opened = envelopes.unwrap(_body(record))
    if isinstance(opened, Body):
        return message.as_stored(producers.accept(opened, record.id, accounts))
    return opened


def _body(record: Record) -> Body:
    return Body(record.body, record.sent, record.account, record.surface)


def _undeliverable(
    record: Record, error: Undeliverable, only: KlaviyoAccount | None, now: datetime
) -> Rejection:
    known = only.site_id if only else UNKNOWN_ACCOUNT
    body = _body(record)
    if not record.is_poison and isinstance(opened := envelopes.unwrap(body), Body):
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
