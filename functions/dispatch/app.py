"""Delivers batches of EventsQueue. Lambda's and SQS's side only: what is decided, `sluice` decides."""

import asyncio
import contextlib
import functools
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import accounts, dispatch, message, receipts, rejection, runtime, settings
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp
from sluice.aws import clients, s3, sqs
from sluice.delivery import backoff, circuit_breaker, http, parking, poison, rate_limiter
from sluice.delivery.outcome import Circuits, Outcome, Receipts
from sluice.delivery.rate_limiter import RateLimiter
from sluice.dispatch import Record
from sluice.errors import Misconfigured, Retryable
from sluice.klaviyo import delivery
from sluice.producers import s3_objects
from sluice.producers.envelopes import Object
from sluice.settings import DispatchSettings

_WAIT_SECONDS: Final = 20.0  # for a turn: longer would keep other accounts' events from this worker
_WRAP_UP_SECONDS: Final = 8.0  # for rejections, visibilities and the answer, after the last request
_LAST_SECONDS: Final = 4.0  # of these, in which no more is noted in receipts
_TOO_LATE_TO_NOTE: Final = "there is no time left to note it"
_NOTES_AT_ONCE: Final = 8  # so that threads are left for what sending waits for
_MEMORY_SHARE: Final = 4  # of the memory, for messages unpacked at the same time: jobs are made of them
_NOT_TRIED: Final = backoff.Retry(rate_limited=True)

type ObjectReader = Callable[[Object, Accounts, Counter[str]], Awaitable[backoff.Retry | None]]

logger = Logger()
metrics = Metrics()


class _Times(msgspec.Struct, frozen=True):
    """Until when (epoch seconds) requests are sent, and outcomes noted in receipts."""

    last_send: float
    last_note: float


@functools.cache
def _runner() -> runtime.Runner:
    # One loop for the life of the process: the upstream's connections belong to it.
    return runtime.new_runner(clients.MAX_CONCURRENT_CALLS)


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Lambda's entry: a batch of EventsQueue."""
    configuration = settings.load(DispatchSettings)
    end = runtime.time() + context.get_remaining_time_in_millis() / 1_000
    last_send = end - _WRAP_UP_SECONDS - http.TOTAL_SECONDS
    records = dict(enumerate(event["Records"]))
    died_with = _died_with(records, configuration.claim_bucket)
    sizes = {number: message.unpacked_size(record["body"]) for number, record in records.items()}
    memory = int(context.memory_limit_in_mb) * 2**20
    parts = poison.split_batch(sizes, died_with, memory // _MEMORY_SHARE, runtime.chance())
    counts: Counter[str] = Counter(Messages=len(records))
    kept: set[int] = set()
    for position, part in enumerate(parts):
        if position and runtime.time() > last_send:
            left = {number for later in parts[position:] for number in later}
            _postpone(dict.fromkeys(left, _NOT_TRIED), records, configuration)
            kept |= left
            break
        deadline = min(last_send, runtime.time() + _WAIT_SECONDS)
        with _in_hand([records[number] for number in part], configuration, end) as culprit:
            batch = {number: _record(records[number], culprit=culprit) for number in part}
            times = _Times(deadline, end - _LAST_SECONDS)
            staying = _dispatch(batch, configuration, times, counts)
            _postpone(staying, records, configuration)
            kept |= staying.keys()
            if len(parts) > 1:
                # The next part may end this process, and the answer with it.
                done = [records[number]["receiptHandle"] for number in part if number not in staying]
                sqs.delete_messages(configuration.events_queue_url, done)
    if kept:
        sent = min(int(records[number]["attributes"]["SentTimestamp"]) for number in kept) / 1_000
        metrics.add_metric("OldestKeptSeconds", MetricUnit.Seconds, runtime.time() - sent)
    _report(counts, len(kept))
    kept_ids = [records[number]["messageId"] for number in sorted(kept)]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in kept_ids]}


def _postpone(
    kept: dict[int, backoff.Retry], records: dict[int, Any], configuration: DispatchSettings
) -> None:
    delays = [
        (
            records[number]["receiptHandle"],
            backoff.delay(_receives(records[number]), wait, runtime.chance()),
        )
        for number, wait in kept.items()
    ]
    sqs.change_visibility(configuration.events_queue_url, delays)


@contextlib.contextmanager
def _in_hand(records: list[dict[str, Any]], configuration: DispatchSettings, end: float) -> Iterator[bool]:
    """Notes what is handled within, should it end this process; whether it is known to do so.

    What comes for the first time is not noted: that would cost requests for each batch, where nearly none
    ends a process.
    """
    if not any(_receives(record) > 1 for record in records):
        yield False
        return
    message_ids = [record["messageId"] for record in records]
    if len(message_ids) > 1:
        with poison.journal(configuration.claim_bucket, message_ids, end):
            yield False
        return
    ends = 0
    with contextlib.suppress(Retryable):
        ends = poison.start_solo(configuration.state_table, message_ids[0])
    yield ends >= poison.MAX_SOLO_CRASHES
    if ends < poison.MAX_SOLO_CRASHES:
        with contextlib.suppress(Retryable):
            poison.finish_solo(configuration.state_table, message_ids[0])


def _dispatch(
    batch: dict[int, Record], configuration: DispatchSettings, times: _Times, counts: Counter[str]
) -> dict[int, backoff.Retry]:
    """Dispatches a part of the batch and returns what stays on the queue, by number."""
    outcome = _runner().run(dispatch.dispatch(batch, _ports(configuration, times)))
    _store_rejections(outcome, configuration, times)
    counts.update(outcome.counts)
    return outcome.retry


def _died_with(records: dict[int, Any], claim_bucket: str) -> list[set[int]]:
    """The messages that processes had in hand when they ended, by number, each process's together."""
    again = {record["messageId"]: number for number, record in records.items() if _receives(record) > 1}
    if not again:
        return []
    with contextlib.suppress(Retryable):
        groups = poison.crashed_groups(claim_bucket, runtime.time())
        return [{again[message_id] for message_id in group & again.keys()} for group in groups]
    return []  # nobody is suspected for now


def _receives(record: dict[str, Any]) -> int:
    return int(record["attributes"]["ApproximateReceiveCount"])


def _ports(configuration: DispatchSettings, times: _Times) -> dispatch.Ports:
    table, bucket = configuration.state_table, configuration.claim_bucket

    def pace_of(account: KlaviyoAccount | PipelessApp) -> RateLimiter:
        rate = (
            rate_limiter.evenly_spaced(account.calls_per_minute)
            if isinstance(account, PipelessApp)
            else rate_limiter.KLAVIYO
        )
        return RateLimiter(table, account.id, times.last_send, rate=rate)

    return dispatch.Ports(
        accounts=functools.partial(_accounts, configuration),
        fetch_claim=s3.claim_reader(bucket),
        delivery=delivery.Ports(
            create_job=functools.partial(http.create_job, http.client()),
            create_events=functools.partial(http.create_events, http.client()),
            rate_limiter=pace_of,
            circuits=_circuits(table, bucket),
            receipts=_receipts(table, times.last_note),
            now=runtime.now,
        ),
        read_object=_object_reader(configuration, times.last_send),
    )


def _accounts(configuration: DispatchSettings) -> Accounts:
    try:
        return accounts.load(configuration.accounts_secret)
    except Misconfigured as error:
        logger.error("the accounts secret is not valid", cause=str(error))
        raise


def _circuits(table: str, bucket: str) -> Circuits:
    async def is_open(site_id: str) -> bool:
        return await asyncio.to_thread(circuit_breaker.is_open, table, site_id)

    async def open_circuit(site_id: str, status: int) -> bool:
        was_closed = await asyncio.to_thread(circuit_breaker.open_circuit, table, site_id, status)
        if was_closed:
            logger.error("circuit opened", account=site_id, status=status)
        return was_closed

    async def close_circuit(site_id: str) -> None:
        await asyncio.to_thread(circuit_breaker.close_circuit, table, site_id)
        logger.info("circuit closed", account=site_id)

    async def park(site_id: str, messages: list[bytes]) -> None:
        await asyncio.to_thread(parking.park, table, bucket, site_id, messages)

    return Circuits(is_open, open_circuit, close_circuit, park)


def _object_reader(configuration: DispatchSettings, deadline: float) -> ObjectReader:
    begun = False

    def has_time() -> bool:
        return runtime.time() < deadline

    async def read(each: Object, known: Accounts, counts: Counter[str]) -> backoff.Retry | None:
        nonlocal begun
        if begun and not has_time():
            return _NOT_TRIED
        begun = True
        try:
            done = await asyncio.to_thread(s3_objects.read, configuration, each, known, counts, has_time)
        except Retryable as error:
            # Often a permission is missing, and only this line says so.
            logger.error("object not read", bucket=each.bucket, cause=str(error.__cause__ or error))
            raise
        return None if done else backoff.Retry(made_progress=True)

    return read


def _receipts(table: str, last_note: float) -> Receipts:
    some = asyncio.Semaphore(_NOTES_AT_ONCE)

    async def done(ids: list[str]) -> dict[str, frozenset[int]]:
        return await asyncio.to_thread(receipts.completed, table, ids)

    async def delivered(receipt: str, places: list[int]) -> None:
        try:
            async with asyncio.timeout(last_note - runtime.time()), some:
                await asyncio.to_thread(receipts.record_outcome, table, receipt, delivered=places)
        except TimeoutError as error:
            raise Retryable(_TOO_LATE_TO_NOTE) from error

    return Receipts(done, delivered)


def _record(record: dict[str, Any], *, culprit: bool = False) -> Record:
    named = record.get("messageAttributes", {})
    attributes = record["attributes"]
    return Record(
        record["messageId"],
        record["body"],
        datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1_000, UTC),
        _receives(record),
        account=named.get("account", {}).get("stringValue"),
        surface=named.get("surface", {}).get("stringValue"),
        redelivered=_receives(record) > 1 or "resumed" in named,
        is_probe="probe" in named,
        is_poison=culprit,
    )


def _store_rejections(outcome: Outcome, configuration: DispatchSettings, times: _Times) -> None:
    """Puts the rejections on their queue; messages of those it fails for are kept."""
    unsent = sqs.send_messages(
        configuration.rejected_queue_url,
        [rejection.encode(refusal.rejection) for refusal in outcome.refusals],
        claim_bucket=configuration.claim_bucket,
    )
    places: defaultdict[str, set[int]] = defaultdict(set)
    for index, refusal in enumerate(outcome.refusals):
        if index in unsent:
            if refusal.record not in outcome.parked:  # or it is refused again when it is back
                outcome.retry[refusal.record] = backoff.Retry()
            continue
        refused = refusal.rejection
        outcome.counts["RejectedEvents"] += max(1, len(refusal.positions))
        logger.info(
            "rejected",
            id=refused.id,
            reason=refused.reason,
            code=refused.code,
            account=refused.account,
            receipt=refused.receipt,
        )
        if refusal.receipt:
            places[refusal.receipt].update(refusal.positions)
    noted = clients.map_concurrently(functools.partial(_note_rejected, configuration, times), places.items())
    outcome.counts["ReceiptsNotNoted"] += noted.count(False)


def _note_rejected(configuration: DispatchSettings, times: _Times, refused: tuple[str, set[int]]) -> bool:
    receipt, places = refused
    try:
        if runtime.time() > times.last_note:
            raise Retryable(_TOO_LATE_TO_NOTE)
        receipts.record_outcome(configuration.state_table, receipt, rejected=places)
    except Retryable as error:
        logger.warning("receipt not noted", receipt=receipt, cause=str(error))
        return False
    return True


def _report(counts: Counter[str], retried: int) -> None:
    counts["RetriedMessages"] = retried
    for name, count in counts.items():
        metrics.add_metric(name, MetricUnit.Count, count)
    logger.info("dispatched", counts=counts)
