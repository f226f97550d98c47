"""Delivers one batch of a queue of events: part after part, and each part account by account."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Final, Protocol

import msgspec

from sluice import message, rejection, runtime
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp, Producer, is_site_id
from sluice.delivery import backoff, half_open, poison
from sluice.delivery.backoff import Retry
from sluice.delivery.outcome import AccountBatch, Outcome, Refusal
from sluice.delivery.ports import Ports as DeliveryPorts
from sluice.errors import Misconfigured, Retryable, Undeliverable, place_of
from sluice.klaviyo import delivery
from sluice.message import PipelessMessage, StoredMessage
from sluice.pipeless import delivery as pipeless
from sluice.producers import accept as producers
from sluice.producers import envelopes
from sluice.producers.envelopes import Body, Object, Objects
from sluice.rejection import Reason, Rejection
from sluice.telemetry import Log

CONCURRENT_CLAIMS: Final = 8
SLOT_WAIT_SECONDS: Final = 20.0  # a longer wait would keep other accounts' events from this worker
BACKGROUND_SLOT_WAIT_SECONDS: Final = 30.0  # so that it finds a slot after those that live events wait for
NOT_TRIED: Final = Retry(rate_limited=True)
# A message that fails in a way that nobody foresaw is given up only after this, and only if others succeed.
UNFORESEEN_RECEIVES: Final = 12
UNFORESEEN_AGE: Final = timedelta(hours=1)
_NOT_SEALED: Final = (
    "It has the form of a stored request, but no seal of Sluice's, or a wrong one. Only Sluice stores"
    " requests: send a body of one of the routes."
)


class Unforeseen(msgspec.Struct, frozen=True):
    """Names an error that nobody foresaw, by its type and place."""

    error: str


type _Content = StoredMessage | PipelessMessage | Objects | Undeliverable | Retryable | Unforeseen


class Record(msgspec.Struct, frozen=True):
    """Holds one received queue message. `account` and `surface` are a producer's message attributes, and
    `sender` is SQS's id of it.

    `seal` is what it was sent with. A `redelivered` message may be delivered in part. A probe was sent back
    to the queue to find out whether its account is processed again. A poison message has ended its process
    each time it was received. A worn one has waited for slots for very long.
    """

    id: str
    body: str
    sent: datetime
    receives: int = 1
    handle: str = ""
    account: str | None = None
    surface: str | None = None
    sender: str | None = None
    seal: str | None = None
    redelivered: bool = False
    is_probe: bool = False
    is_released: bool = False
    is_poison: bool = False
    is_worn: bool = False


class PartPorts(Protocol):
    """Reaches what a part needs. Methods may raise `Retryable`, `accounts` also `Misconfigured`."""

    @property
    def delivery(self) -> DeliveryPorts:
        """Returns the ports of delivering."""
        ...

    def accounts(self) -> Accounts:
        """Returns the accounts."""
        ...

    async def load_private_keys(self, *, accounts: Sequence[KlaviyoAccount | PipelessApp]) -> Set[str]:
        """Reads the keys that upstreams are called with; returns the ids of accounts without one."""
        ...

    def is_own_message(self, *, body: str, seal: str | None, sent: datetime) -> bool:
        """Tells whether Sluice itself sent a message."""
        ...

    def fetch_claim(self, key: str) -> bytes:
        """Returns the bytes of a claim check."""
        ...

    async def read_object(self, *, object: Object, accounts: Accounts, counts: Counter[str]) -> Retry | None:
        """Puts the next lines of an S3 object on the queue, as requests of their own, and counts.

        Returns why it has to be called again, if it has to.
        """
        ...


class Deadlines(msgspec.Struct, frozen=True):
    """Holds moments in epoch seconds: the last for a request, the last for a receipt, the process's end.

    `slot_wait` is how many seconds each part of a batch waits for slots at most.
    """

    last_send: float
    last_record: float
    end: float
    slot_wait: float = SLOT_WAIT_SECONDS


class Queue(Protocol):
    """Settles received messages of a queue. Failing is harmless: a message only comes again later."""

    def delete(self, *, handles: Sequence[str]) -> None:
        """Deletes messages."""
        ...

    def change_visibility(self, *, delays: Sequence[tuple[str, int]]) -> None:
        """Makes messages, by handle, visible again after so many seconds."""
        ...


class Journal(Protocol):
    """Keeps the in-flight journal, by which poison messages are found. Methods may raise `Retryable`."""

    def entry(self, *, message_ids: Sequence[str], end: float) -> AbstractContextManager[None]:
        """Names messages for the length of a block, and longer if the process ends within it."""
        ...

    def crashed_groups(self) -> list[frozenset[str]]:
        """Returns the ids of messages that were being processed when a process ended, by process."""
        ...

    def start_solo(self, *, message_id: str) -> int:
        """Records that a message is handled alone; returns how many processes that has ended."""
        ...

    def finish_solo(self, *, message_id: str) -> None:
        """Records that a message was handled alone and its process lives."""
        ...


class RejectedQueue(Protocol):
    """Stores rejections, and records them in receipts."""

    def store(self, *, rejections: Sequence[Rejection]) -> Set[int]:
        """Stores rejections; returns the indexes of those that could not be stored."""
        ...

    def record(self, *, rejected: Mapping[str, Set[int]], last: float) -> int:
        """Records positions in receipts until `last` (epoch seconds); returns how many receipts failed."""
        ...


class BatchPorts(Protocol):
    """Reaches what dispatching a batch needs."""

    @property
    def queue(self) -> Queue:
        """Returns the queue that the batch came from."""
        ...

    @property
    def journal(self) -> Journal:
        """Returns the in-flight journal."""
        ...

    @property
    def rejected_queue(self) -> RejectedQueue:
        """Returns RejectedQueue."""
        ...

    @property
    def log(self) -> Log:
        """Returns the log."""
        ...

    def dispatch_part(self, *, records: Mapping[int, Record], deadlines: Deadlines) -> Outcome:
        """Runs the function of this name in the process's event loop."""
        ...


class BatchResult(msgspec.Struct, frozen=True):
    """Holds the records that stay on the queue, by number, and the counts of everything."""

    kept: frozenset[int]
    counts: Counter[str]


def dispatch_batch(
    records: Mapping[int, Record], ports: BatchPorts, deadlines: Deadlines, memory_bytes: int
) -> BatchResult:
    """Delivers one batch of a queue, part after part, so that no message harms another.

    A part unpacks to at most `memory_bytes`. Suspects of a crash are handled last, a few at a time.
    """
    sizes = {number: message.unpacked_size(record.body) for number, record in records.items()}
    parts = poison.split_batch(sizes, _crash_groups(records, ports.journal), memory_bytes, runtime.chance())
    counts: Counter[str] = Counter(Messages=len(records))
    kept: set[int] = set()
    for index, part in enumerate(parts):
        if index and runtime.time() > deadlines.last_send:
            left = {number for later in parts[index:] for number in later}
            _postpone(dict.fromkeys(left, NOT_TRIED), records, ports)
            kept |= left
            break
        batch = {number: records[number] for number in part}
        limits = msgspec.structs.replace(
            deadlines, last_send=min(deadlines.last_send, runtime.time() + deadlines.slot_wait)
        )
        with _journaled(batch, ports.journal, deadlines.end) as is_poison:
            if is_poison:
                batch = {n: msgspec.structs.replace(record, is_poison=True) for n, record in batch.items()}
            outcome = ports.dispatch_part(records=batch, deadlines=limits)
            for error, times in outcome.unforeseen.items():
                ports.log.error("unforeseen failure", error=error, messages=times)
            for field in outcome.left_out:
                ports.log.info("field left out", **msgspec.structs.asdict(field))
            _store_rejections(outcome, ports, limits)
            counts.update(outcome.counts)
            _postpone(outcome.retry, records, ports)
            kept |= outcome.retry.keys()
            if len(parts) > 1:
                # The next part may end this process, and the answer with it.
                done = [records[number].handle for number in part if number not in outcome.retry]
                ports.queue.delete(handles=done)
    counts["RetriedMessages"] = len(kept)
    return BatchResult(frozenset(kept), counts)


def _crash_groups(records: Mapping[int, Record], journal: Journal) -> list[set[int]]:
    """Returns the records that were being processed when a process ended, by number, per process."""
    again = {record.id: number for number, record in records.items() if record.receives > 1}
    if not again:
        return []
    with contextlib.suppress(Retryable):
        groups = journal.crashed_groups()
        return [{again[message_id] for message_id in group & again.keys()} for group in groups]
    return []  # no message is suspected for now


@contextlib.contextmanager
def _journaled(batch: Mapping[int, Record], journal: Journal, end: float) -> Iterator[bool]:
    """Names records in the journal while they are processed; tells whether the only one is poison.

    Messages that come for the first time are not named. It would cost requests for each batch, and nearly
    none ends a process.
    """
    message_ids = [record.id for record in batch.values()]
    if not any(record.receives > 1 for record in batch.values()):
        yield False
        return
    if len(message_ids) > 1:
        with journal.entry(message_ids=message_ids, end=end):
            yield False
        return
    crashes = 0
    with contextlib.suppress(Retryable):
        crashes = journal.start_solo(message_id=message_ids[0])
    yield crashes >= poison.MAX_SOLO_CRASHES
    if crashes < poison.MAX_SOLO_CRASHES:
        with contextlib.suppress(Retryable):
            journal.finish_solo(message_id=message_ids[0])


def _postpone(retry: Mapping[int, Retry], records: Mapping[int, Record], ports: BatchPorts) -> None:
    delays = [
        (records[number].handle, backoff.delay(records[number].receives, why, runtime.chance()))
        for number, why in retry.items()
    ]
    ports.queue.change_visibility(delays=delays)


def _store_rejections(outcome: Outcome, ports: BatchPorts, deadlines: Deadlines) -> None:
    """Stores the rejections of an outcome. The message of one that cannot be stored is kept."""
    not_stored = ports.rejected_queue.store(rejections=[refusal.rejection for refusal in outcome.refusals])
    rejected: defaultdict[str, set[int]] = defaultdict(set)
    for index, refusal in enumerate(outcome.refusals):
        if index in not_stored:
            if refusal.record not in outcome.parked:  # or it is refused again when it is back
                outcome.retry[refusal.record] = Retry()
            continue
        outcome.counts["RejectedEvents"] += max(1, len(refusal.positions))
        stored = refusal.rejection
        ports.log.info(
            "rejected",
            id=stored.id,
            reason=stored.reason,
            code=stored.code,
            account=stored.account,
            receipt=stored.receipt,
        )
        if refusal.receipt:
            rejected[refusal.receipt].update(refusal.positions)
    outcome.counts["ReceiptWriteFailures"] += ports.rejected_queue.record(
        rejected=rejected, last=deadlines.last_record
    )


async def dispatch_part(records: Mapping[int, Record], ports: PartPorts) -> Outcome:
    """Delivers the records that can be delivered now, and says what becomes of the rest."""
    try:
        accounts = ports.accounts()
    except (Misconfigured, Retryable):
        # An operator's mistake or a passing fault must not cost events: they wait for its end.
        return Outcome(dict.fromkeys(records, Retry()), counts=Counter(AccountsLoadFailures=1))
    outcome = Outcome(counts=Counter(AccountsLoadFailures=bool(accounts.flaws)))
    by_account: dict[str, dict[int, StoredMessage]] = defaultdict(dict)
    notified: dict[int, Objects] = {}
    by_app: dict[int, dict[int, PipelessMessage]] = defaultdict(dict)
    claims = await _read_claims(records, accounts, ports)
    not_read: dict[int, Unforeseen] = {}
    for number, record in records.items():
        match claims.pop(number, None) or _read(record, accounts, ports):
            case Unforeseen() as unforeseen:
                not_read[number] = unforeseen
            case Undeliverable() as error:
                refused = _undeliverable(record, error, accounts, ports.delivery.now())
                outcome.refusals.append(Refusal(number, refused))
            case Retryable() as error:
                outcome.retry[number] = Retry(error.after)
            case tuple() as objects:
                notified[number] = objects
            case PipelessMessage() as batch:
                by_app[batch.app_id][number] = batch
            case stored:
                by_account[stored.account][number] = stored
    _keep_or_give_up(not_read, records, accounts, ports, outcome)
    await _keep_without_private_key(by_account, by_app, accounts, ports, outcome)
    async with asyncio.TaskGroup() as group:
        for site_id, messages in by_account.items():
            work = _deliver(accounts.by_site_id(site_id), messages, records, ports, outcome)
            group.create_task(_guarded(work, messages, outcome))
        for app_id, batches in by_app.items():
            work = _deliver_batches(accounts.by_app_id(app_id), batches, records, ports, outcome)
            group.create_task(_guarded(work, batches, outcome))
        group.create_task(_read_objects(notified, accounts, ports, outcome))
    return outcome


async def _keep_without_private_key(
    by_account: dict[str, dict[int, StoredMessage]],
    by_app: dict[int, dict[int, PipelessMessage]],
    accounts: Accounts,
    ports: PartPorts,
    outcome: Outcome,
) -> None:
    """Keeps the records of accounts whose private key cannot be read, and takes them out."""
    klaviyo = [account for site_id in by_account if (account := accounts.by_site_id(site_id))]
    apps = [app for app_id in by_app if (app := accounts.by_app_id(app_id))]
    missing = await ports.load_private_keys(accounts=[*klaviyo, *apps])
    outcome.counts["AccountsLoadFailures"] += bool(missing)
    kept: set[int] = set()
    for account in klaviyo:
        if account.id in missing:
            kept |= by_account.pop(account.site_id).keys()
    for app in apps:
        if app.id in missing:
            kept |= by_app.pop(app.app_id).keys()
    outcome.retry.update(dict.fromkeys(kept, Retry()))


def _keep_or_give_up(
    not_read: Mapping[int, Unforeseen],
    records: Mapping[int, Record],
    accounts: Accounts,
    ports: PartPorts,
    outcome: Outcome,
) -> None:
    """Keeps records that fail in a way that nobody foresaw, and rejects those that have failed for long.

    Where no record of the batch can be read the fault is this version's, and all of them wait.
    """
    now = ports.delivery.now()
    others_succeed = len(not_read) < len(records)
    for number, unforeseen in not_read.items():
        outcome.counts["UnforeseenFailures"] += 1
        outcome.unforeseen[unforeseen.error] += 1
        record = records[number]
        is_old = record.receives >= UNFORESEEN_RECEIVES and now - record.sent >= UNFORESEEN_AGE
        if is_old and others_succeed:
            detail = f"Handling it failed unexpectedly {record.receives} times ({unforeseen.error})."
            gone = Undeliverable(Reason.DEAD_LETTER, detail)
            refused = _rejection(_body(record), record, gone, accounts, now)
            outcome.refusals.append(Refusal(number, refused))
        else:
            outcome.retry[number] = Retry()


async def _guarded(work: Awaitable[None], numbers: Iterable[int], outcome: Outcome) -> None:
    """Waits for work on some records. They are kept if it fails in a way that nobody foresaw."""
    try:
        await work
    except Exception as error:
        for number in numbers:
            outcome.counts["UnforeseenFailures"] += 1
            outcome.unforeseen[_described(error)] += 1
            outcome.retry.setdefault(number, Retry())


def _described(error: Exception) -> str:
    return f"{type(error).__name__} at {place_of(error)}"


async def _deliver(
    account: KlaviyoAccount | None,
    messages: dict[int, StoredMessage],
    records: Mapping[int, Record],
    ports: PartPorts,
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
    ports: PartPorts,
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
        released={number for number in messages if records[number].is_released},
        long_failing={number for number in messages if records[number].receives >= backoff.FAST_RETRIES},
        worn={number for number in messages if records[number].is_worn},
    )


async def _park_unknown(
    messages: Mapping[int, StoredMessage | PipelessMessage], ports: PartPorts, outcome: Outcome
) -> None:
    """Parks messages for an account that the document does not name (any more), which may be a mistake."""
    account = next(iter(messages.values())).account
    await half_open.park(account, messages, ports.delivery.circuits, outcome, is_known=False)


async def _read_objects(
    notified: Mapping[int, Objects], accounts: Accounts, ports: PartPorts, outcome: Outcome
) -> None:
    """Puts the lines of objects on the queue, one object after the other, each as long as there is time."""
    for number, objects in notified.items():
        outcome.counts["Notifications"] += 1
        await _guarded(_read_notified(number, objects, accounts, ports, outcome), [number], outcome)


async def _read_notified(
    number: int, objects: Objects, accounts: Accounts, ports: PartPorts, outcome: Outcome
) -> None:
    """Reads a notification's objects; the notification stays until there is nothing left to put."""
    if not objects:
        outcome.counts["IgnoredNotifications"] += 1
    for each in objects:
        counts: Counter[str] = Counter()
        try:
            wait = await ports.read_object(object=each, accounts=accounts, counts=counts)
        except Retryable as error:
            wait = Retry(error.after)
        finally:
            outcome.counts.update(counts)
        if wait is not None:
            outcome.retry[number] = wait
            break


async def _read_claims(
    records: Mapping[int, Record], accounts: Accounts, ports: PartPorts
) -> dict[int, _Content]:
    """Reads the records that are claim checks, in some threads, because each takes S3 a while."""
    some = asyncio.Semaphore(CONCURRENT_CLAIMS)

    async def read(record: Record) -> _Content:
        async with some:
            return await asyncio.to_thread(_read, record, accounts, ports)

    claims = {number: record for number, record in records.items() if message.is_claim(record.body)}
    return dict(zip(claims, await asyncio.gather(*map(read, claims.values())), strict=True))


def _read(record: Record, accounts: Accounts, ports: PartPorts) -> _Content:
    """Reads a record, or returns why it cannot be read."""
    try:
        return _decode(record, accounts, ports)
    except (Undeliverable, Retryable) as error:
        return error
    except Exception as error:
        return Unforeseen(_described(error))


def _decode(
    record: Record, accounts: Accounts, ports: PartPorts
) -> StoredMessage | PipelessMessage | Objects:
    is_stored = message.is_stored(record.body)
    if is_stored and not ports.is_own_message(body=record.body, seal=record.seal, sent=record.sent):
        raise Undeliverable(Reason.NOT_SEALED, _NOT_SEALED)
    if record.is_poison:
        detail = f"Its process ended each of the {record.receives - 1} times it was tried."
        raise Undeliverable(Reason.DEAD_LETTER, detail)
    if is_stored:
        stored = message.decode(record.body, ports.fetch_claim)
        if not isinstance(stored, PipelessMessage) and not is_site_id(stored.account):
            raise Undeliverable(Reason.MALFORMED, "The message's account is not a site id.")
        return stored
    opened = envelopes.unwrap(_body(record))
    if isinstance(opened, Body):
        return message.as_stored(producers.accept(opened, record.id, accounts, Producer(record.sender)))
    return opened


def _body(record: Record) -> Body:
    return Body(record.body, record.sent, record.account, record.surface)


def _undeliverable(record: Record, error: Undeliverable, accounts: Accounts, now: datetime) -> Rejection:
    body = _body(record)
    if not record.is_poison and isinstance(opened := envelopes.unwrap(body), Body):
        body = opened
    return _rejection(body, record, error, accounts, now)


def _rejection(
    body: Body, record: Record, error: Undeliverable, accounts: Accounts, now: datetime
) -> Rejection:
    return rejection.for_undeliverable_body(
        body.text,
        error,
        account=accounts.account_of(body.account, Producer(record.sender)),
        surface=body.surface,
        accepted=body.sent,
        now=now,
        name=record.id,
    )
