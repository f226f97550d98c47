"""Takes a batch of queue messages apart by account and has each account's share delivered."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from sluice import contract, delivery, intake, message
from sluice.accounts import Account, Accounts, is_site_id
from sluice.backoff import Wait
from sluice.delivery import Outcome, Refusal, Share
from sluice.errors import Misconfigured, Refused, Retryable, Undeliverable
from sluice.message import Message, StoredMessage
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection

CLAIMS_AT_ONCE: Final = 8
UNKNOWN_ACCOUNT_STATUS: Final = 0  # opens a circuit where there is nobody to ask


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
    """What dispatch reaches the world through. `accounts` may raise `Misconfigured` as well."""

    accounts: Callable[[], Accounts]
    fetch_claim: Callable[[str], bytes]
    delivery: delivery.Ports


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
    claims = await _read_claims(records, accounts, ports)
    for number, record in records.items():
        match claims.pop(number, None) or _read(record, accounts, ports):
            case Undeliverable() as error:
                refused = _unreadable(record, error, accounts.only(), ports.delivery.now())
                outcome.refusals.append(Refusal(number, refused))
            case Retryable() as error:
                outcome.retry[number] = Wait(error.after)
            case stored:
                by_account[stored.account][number] = stored
    async with asyncio.TaskGroup() as group:
        for site_id, messages in by_account.items():
            account = accounts.with_site_id(site_id)
            if account is None:
                group.create_task(_park_unknown(site_id, messages, ports, outcome))
            else:
                again = {number for number in messages if records[number].again}
                probes = {number for number in messages if records[number].probe}
                share = Share(messages, again, probes)
                group.create_task(delivery.deliver(account, share, ports.delivery, outcome))
    return outcome


async def _park_unknown(
    site_id: str, messages: Mapping[int, StoredMessage], ports: Ports, outcome: Outcome
) -> None:
    """Parks what is for an account the secret does not name (any more): that may be a mistake."""
    try:
        if await ports.delivery.circuits.open(site_id, UNKNOWN_ACCOUNT_STATUS):
            outcome.counts["CircuitsOpened"] += 1
    except Retryable as error:
        outcome.retry.update(dict.fromkeys(messages, Wait(error.after)))
    else:
        await delivery.park(site_id, messages, ports.delivery, outcome)


async def _read_claims(
    records: Mapping[int, Record], accounts: Accounts, ports: Ports
) -> dict[int, StoredMessage | Undeliverable | Retryable]:
    """What the records that are claims say, read by some threads: each takes S3 a while."""
    some = asyncio.Semaphore(CLAIMS_AT_ONCE)

    async def read(record: Record) -> StoredMessage | Undeliverable | Retryable:
        async with some:
            return await asyncio.to_thread(_read, record, accounts, ports)

    claims = {number: record for number, record in records.items() if message.is_claim(record.body)}
    return dict(zip(claims, await asyncio.gather(*map(read, claims.values())), strict=True))


def _read(record: Record, accounts: Accounts, ports: Ports) -> StoredMessage | Undeliverable | Retryable:
    """What a record says, or why that cannot be told."""
    try:
        return _decode(record, accounts, ports)
    except (Undeliverable, Retryable) as error:
        return error


def _decode(record: Record, accounts: Accounts, ports: Ports) -> StoredMessage:
    if record.culprit:
        detail = f"Its process ended each of the {record.receives - 1} times it was tried."
        raise Undeliverable(Reason.DEAD_LETTER, detail)
    if message.is_stored(record.body):
        stored = message.decode(record.body, ports.fetch_claim)
        if not is_site_id(stored.account):
            raise Undeliverable(Reason.MALFORMED, "The message's account is not a site id.")
        return stored
    account = accounts.with_site_id(record.account) if record.account else accounts.only()
    if account is None:
        detail = (
            "Name the account in the message attribute 'account': its site id, one of the accounts secret."
        )
        raise Undeliverable(Reason.INVALID, detail)
    return _accept_from_producer(record, account)


def _accept_from_producer(record: Record, account: Account) -> StoredMessage:
    """What ingest would have stored of a body that a producer put on the queue itself."""
    body = record.body.encode("utf-8", "surrogatepass")
    surface = _surface(record, body)
    try:
        read = intake.read(surface, body, contract.UPSTREAM_REVISION, record.sent)
    except Refused as refused:
        first = refused.problems[0]
        detail = " ".join(problem.detail for problem in refused.problems[:10])
        reason = Reason.MALFORMED if first.code == "parse_error" else Reason.INVALID
        raise Undeliverable(reason, detail, first.pointer) from refused
    return message.as_stored(
        Message(record.id, account.site_id, surface, record.sent, read.entries, flat=read.flat)
    )


def _surface(record: Record, body: bytes) -> contract.Surface:
    try:
        named = contract.Surface(record.surface) if record.surface else None
        surface = named or intake.surface_of(msgspec.json.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Undeliverable(Reason.MALFORMED, "The message is not JSON.") from None
    except ValueError:
        names = ", ".join(contract.Surface)
        raise Undeliverable(Reason.INVALID, f"The attribute 'surface' must be one of {names}.") from None
    if surface is None:
        detail = "The message is no body of a known surface: 'data.type' names none."
        raise Undeliverable(Reason.INVALID, detail)
    return surface


def _unreadable(record: Record, error: Undeliverable, only: Account | None, now: datetime) -> Rejection:
    known = only.site_id if only else UNKNOWN_ACCOUNT
    return Rejection(
        Reason(error.reason),
        error.detail,
        msgspec.Raw(msgspec.json.encode(record.body)),
        now,
        account=record.account if record.account and is_site_id(record.account) else known,
        pointer=error.pointer,
        surface=record.surface,
        id=record.id,
    )
