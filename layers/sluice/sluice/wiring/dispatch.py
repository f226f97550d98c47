"""Builds the AWS-backed ports of the use cases: the composition root."""

import asyncio
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Final

import msgspec

from sluice import dispatch, receipts, rejection, runtime
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp
from sluice.aws import clients, s3, sqs
from sluice.aws.sealing import Sealing
from sluice.delivery import circuit_breaker, http, lone_refusals, parking, poison, rate_limiter
from sluice.delivery.backoff import Retry
from sluice.delivery.circuit_breaker import CircuitState
from sluice.delivery.http import AcquireSlot
from sluice.delivery.lone_refusals import Change, RefusalRecord
from sluice.delivery.outcome import Outcome
from sluice.delivery.rate_limiter import RateLimiter
from sluice.delivery.responses import Response
from sluice.dispatch import BatchPorts, Deadlines, Record
from sluice.errors import Retryable
from sluice.klaviyo import api as klaviyo
from sluice.pipeless import api as pipeless
from sluice.producers import s3_objects
from sluice.producers.envelopes import Object
from sluice.rejection import Rejection
from sluice.settings import DispatchSettings
from sluice.telemetry import Log
from sluice.wiring import accounts

CONCURRENT_RECEIPT_WRITES: Final = 8  # so that threads are left for the calls that sending waits for
_TOO_LATE: Final = "there is no time left to record it"


@functools.cache
def _event_loop() -> runtime.Runner:
    # One loop for the life of the process: the connections to the upstreams belong to it.
    return runtime.new_runner(clients.MAX_CONCURRENT_CALLS)


def dispatch_ports(settings: DispatchSettings, log: Log, *, is_background: bool = False) -> BatchPorts:
    """Builds what dispatching a batch of EventsQueue reaches, or of BackgroundQueue if it `is_background`."""
    return _BatchPorts(
        _Queue(settings.background_queue_url if is_background else settings.events_queue_url),
        _Journal(settings.claim_bucket, settings.state_table),
        _RejectedQueue(settings, log),
        log,
        settings,
        is_background,
    )


class _BatchPorts(msgspec.Struct, frozen=True):
    queue: "_Queue"
    journal: "_Journal"
    rejected_queue: "_RejectedQueue"
    log: Log
    settings: DispatchSettings
    is_background: bool

    def dispatch_part(self, *, records: Mapping[int, Record], deadlines: Deadlines) -> Outcome:
        settings, log = self.settings, self.log
        sealing = Sealing(settings.sealing_secret)
        circuits = _Circuits(settings.state_table, settings.claim_bucket, sealing, log, self.is_background)
        receipts = _Receipts(settings.state_table, deadlines.last_record)
        delivery = _DeliveryPorts(circuits, receipts, settings, deadlines.last_send, self.is_background)
        reader = _ObjectReader(settings, self.queue.url, log, deadlines.last_send)
        ports = _PartPorts(delivery, settings, log, reader)
        return _event_loop().run(dispatch.dispatch_part(records, ports))


class _PartPorts(msgspec.Struct, frozen=True):
    delivery: "_DeliveryPorts"
    settings: DispatchSettings
    log: Log
    reader: "_ObjectReader"

    def accounts(self) -> Accounts:
        return accounts.load(self.settings.config_bucket, self._report)

    async def load_private_keys(self, *, accounts: Sequence[KlaviyoAccount | PipelessApp]) -> Set[str]:
        return await asyncio.to_thread(self._load_private_keys, accounts)

    def is_own_message(self, *, body: str, seal: str | None, sent: datetime) -> bool:
        return Sealing(self.settings.sealing_secret).is_own_message(body, seal, sent)

    def fetch_claim(self, key: str) -> bytes:
        return s3.claim_reader(self.settings.claim_bucket)(key)

    async def read_object(self, *, object: Object, accounts: Accounts, counts: Counter[str]) -> Retry | None:
        return await self.reader.read(object, accounts, counts)

    def _load_private_keys(self, wanted: Sequence[KlaviyoAccount | PipelessApp]) -> Set[str]:
        missing: set[str] = set()
        for account in wanted:
            try:
                accounts.private_key(self.settings.account_secrets, account)
            except Retryable as error:
                missing.add(account.id)
                self._report(str(error))
        return missing

    def _report(self, cause: str) -> None:
        self.log.critical("accounts not loaded", cause=cause)


class _DeliveryPorts(msgspec.Struct, frozen=True):
    circuits: "_Circuits"
    receipts: "_Receipts"
    settings: DispatchSettings
    last_send: float
    is_background: bool

    async def create_job(
        self, *, account: KlaviyoAccount, body: bytes, acquire_slot: AcquireSlot
    ) -> Response:
        key = accounts.private_key(self.settings.account_secrets, account)
        return await klaviyo.create_job(http.client(), account, key, body, acquire_slot)

    async def create_events(self, *, app: PipelessApp, body: bytes) -> Response:
        key = accounts.private_key(self.settings.account_secrets, app)
        return await pipeless.create_events(http.client(), app, key, body)

    def rate_limiter(self, *, account: KlaviyoAccount | PipelessApp) -> RateLimiter:
        rate = rate_limiter.KLAVIYO
        if isinstance(account, PipelessApp):
            rate = rate_limiter.evenly_spaced(account.calls_per_minute)
        return RateLimiter(
            self.settings.state_table,
            account.id,
            self.last_send,
            rate=rate,
            is_background=self.is_background,
        )

    def now(self) -> datetime:
        return runtime.now()


class _Queue(msgspec.Struct, frozen=True):
    url: str

    def delete(self, *, handles: Sequence[str]) -> None:
        sqs.delete_messages(self.url, handles)

    def change_visibility(self, *, delays: Sequence[tuple[str, int]]) -> None:
        sqs.change_visibility(self.url, delays)


class _Journal(msgspec.Struct, frozen=True):
    bucket: str
    table: str

    def entry(self, *, message_ids: Sequence[str], end: float) -> AbstractContextManager[None]:
        return poison.journal(self.bucket, message_ids, end)

    def crashed_groups(self) -> list[frozenset[str]]:
        return poison.crashed_groups(self.bucket, runtime.time())

    def start_solo(self, *, message_id: str) -> int:
        return poison.start_solo(self.table, message_id)

    def finish_solo(self, *, message_id: str) -> None:
        poison.finish_solo(self.table, message_id)


class _RejectedQueue(msgspec.Struct, frozen=True):
    settings: DispatchSettings
    log: Log

    def store(self, *, rejections: Sequence[Rejection]) -> Set[int]:
        return sqs.send_messages(
            self.settings.rejected_queue_url,
            [rejection.encode(each) for each in rejections],
            claim_bucket=self.settings.claim_bucket,
            sealing=Sealing(self.settings.sealing_secret),
        )

    def record(self, *, rejected: Mapping[str, Set[int]], last: float) -> int:
        def record_one(item: tuple[str, Set[int]]) -> bool:
            receipt, positions = item
            try:
                if runtime.time() > last:
                    raise Retryable(_TOO_LATE)
                receipts.record_outcome(self.settings.state_table, receipt, rejected=positions)
            except Retryable as error:
                self.log.warning("receipt not recorded", receipt=receipt, cause=str(error))
                return False
            return True

        return clients.map_concurrently(record_one, rejected.items()).count(False)


class _Circuits(msgspec.Struct, frozen=True):
    table: str
    bucket: str
    sealing: Sealing
    log: Log
    is_background: bool

    async def state(self, *, account_id: str) -> CircuitState:
        return await asyncio.to_thread(circuit_breaker.state, self.table, account_id)

    async def record_refusals(self, *, account_id: str, change: Change) -> RefusalRecord:
        return await asyncio.to_thread(lone_refusals.update, self.table, account_id, change)

    async def open(self, *, account_id: str, status: int) -> bool:
        was_closed = await asyncio.to_thread(circuit_breaker.open_circuit, self.table, account_id, status)
        if was_closed:
            self.log.error("circuit opened", account=account_id, status=status)
        return was_closed

    async def close(self, *, account_id: str) -> None:
        await asyncio.to_thread(circuit_breaker.close_circuit, self.table, account_id)
        self.log.info("circuit closed", account=account_id)

    async def park(self, *, account_id: str, messages: list[bytes], is_known: bool = True) -> None:
        prefix = parking.PARKED_PREFIX if is_known else parking.UNKNOWN_PREFIX
        await asyncio.to_thread(
            parking.park,
            self.bucket,
            account_id,
            messages,
            sealing=self.sealing,
            prefix=prefix,
            is_background=self.is_background,
        )


class _Receipts:
    def __init__(self, table: str, last_record: float) -> None:
        self._table = table
        self._last_record = last_record
        self._writes = asyncio.Semaphore(CONCURRENT_RECEIPT_WRITES)

    async def completed(self, *, receipts: Iterable[str]) -> dict[str, frozenset[int]]:
        return await asyncio.to_thread(_completed, self._table, receipts)

    async def record_delivered(self, *, receipt: str, positions: list[int]) -> None:
        try:
            async with asyncio.timeout(self._last_record - runtime.time()), self._writes:
                await asyncio.to_thread(_record_delivered, self._table, receipt, positions)
        except TimeoutError as error:
            raise Retryable(_TOO_LATE) from error


def _completed(table: str, ids: Iterable[str]) -> dict[str, frozenset[int]]:
    return receipts.completed(table, ids)


def _record_delivered(table: str, receipt: str, positions: list[int]) -> None:
    receipts.record_outcome(table, receipt, delivered=positions)


class _ObjectReader:
    def __init__(self, settings: DispatchSettings, queue_url: str, log: Log, deadline: float) -> None:
        self._settings = settings
        self._queue_url = queue_url
        self._log = log
        self._deadline = deadline
        self._has_begun = False

    async def read(self, object: Object, accounts: Accounts, counts: Counter[str]) -> Retry | None:
        if self._has_begun and not self._has_time():
            return dispatch.NOT_TRIED
        self._has_begun = True
        try:
            is_done = await asyncio.to_thread(
                s3_objects.read,
                self._settings,
                object,
                accounts,
                counts,
                self._has_time,
                queue_url=self._queue_url,
            )
        except Retryable as error:
            # A missing permission is a frequent cause, and only this line says so.
            self._log.error("object not read", bucket=object.bucket, cause=str(error.__cause__ or error))
            raise
        return None if is_done else Retry(made_progress=True)

    def _has_time(self) -> bool:
        return runtime.time() < self._deadline
