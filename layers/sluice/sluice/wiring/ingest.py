"""Builds the AWS-backed ports of ingest's API."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from sluice import ingest, receipts, rejection, runtime, settings
from sluice.accounts import Accounts, PipelessApp
from sluice.admission import rate_limit
from sluice.admission.metric_quota import MetricQuota
from sluice.aws import s3, secrets, sqs
from sluice.aws.sealing import Sealing
from sluice.contract import Surface
from sluice.errors import Retryable
from sluice.message import Body
from sluice.receipts import Receipt
from sluice.rejection import Rejection
from sluice.settings import IngestSettings
from sluice.telemetry import Log, Metrics
from sluice.wiring import accounts

if TYPE_CHECKING:
    from sluice.webhooks.accept import Ports as WebhookPorts
    from sluice.webhooks.object_records import Identity, ObjectRecord
    from sluice.webhooks.sources import Sources, SourcesCache


class IngestPorts:
    """Reaches AWS for the API of one process."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._metric_quota = MetricQuota()

    @property
    def allowed_origins(self) -> str:
        """Returns the setting."""
        return self._settings.allowed_origins

    def accounts(self) -> Accounts:
        """Returns the accounts of the configuration bucket."""

        def report(cause: str) -> None:
            self._metrics.count("AccountsLoadFailures")
            self._log.critical("accounts not loaded", cause=cause)

        return accounts.load(self._settings.config_bucket, report)

    def private_key(self, *, app: PipelessApp) -> str:
        """Returns the key to call an app's upstream with; may raise `Retryable`."""
        return accounts.private_key(self._settings.account_secrets, app)

    def requests(self, *, tell_rate_limit: Callable[[Mapping[str, str]], None]) -> ingest.Ports:
        """Returns the ports of accepting one request."""
        return _RequestPorts(self._settings, self._optional, self._metric_quota, tell_rate_limit)

    def find_receipt(self, *, receipt: str) -> Receipt | None:
        """Returns a receipt of the state table."""
        return receipts.find(self._settings.state_table, receipt, runtime.now())

    def sources(self) -> "Sources":
        """Returns the sources of the configuration bucket, from the process's copy."""
        return self._sources_cache.sources()

    def webhooks(self, *, source: str) -> "WebhookPorts":
        """Returns the ports of accepting one delivery."""
        records = _Records(self._settings.state_table, source, self._optional)
        return _WebhookPorts(self._settings, records)

    @property
    def _settings(self) -> IngestSettings:
        loaded: IngestSettings = settings.load(IngestSettings)
        return loaded

    @contextlib.contextmanager
    def _optional(self, metric: str, warning: str, **fields: Any) -> Iterator[None]:
        """Wraps a step that a request can do without; counts where the state table cannot be reached."""
        try:
            yield
        except Retryable as error:
            self._metrics.count(metric)
            self._log.warning(warning, cause=str(error), **fields)

    @functools.cached_property
    def _sources_cache(self) -> "SourcesCache":
        from sluice.webhooks import sources  # noqa: PLC0415

        bucket = self._settings.config_bucket

        def report(cause: str) -> None:
            self._metrics.count("SourcesLoadFailures")
            self._log.critical("sources not loaded", cause=cause)

        return sources.SourcesCache(
            lambda etag: s3.get_object_if_changed(bucket, sources.KEY, etag),
            report=report,
            clock=runtime.monotonic,
        )


class _Storage(msgspec.Struct, frozen=True):
    """Stores what is accepted and what is rejected."""

    settings: IngestSettings

    def store(self, *, body: Body, account_id: str) -> None:
        queue_url, bucket = self.settings.events_queue_url, self.settings.claim_bucket
        sealing = Sealing(self.settings.sealing_secret)
        sqs.send_message(body, account_id, queue_url=queue_url, claim_bucket=bucket, sealing=sealing)

    def reject(self, *, rejections: Sequence[Rejection]) -> None:
        queue_url, bucket = self.settings.rejected_queue_url, self.settings.claim_bucket
        sealing, bodies = Sealing(self.settings.sealing_secret), list(map(rejection.encode, rejections))
        if sqs.send_messages(queue_url, bodies, claim_bucket=bucket, sealing=sealing):
            raise Retryable("the rejected queue cannot be reached")


class _RequestPorts(_Storage, frozen=True):
    optional: Callable[..., AbstractContextManager[None]]
    metric_quota: MetricQuota
    tell_rate_limit: Callable[[Mapping[str, str]], None]

    @property
    def max_client_body_bytes(self) -> int:
        return self.settings.client_body_bytes

    def consume_rate_limit(self, *, caller: str, surface: Surface, now: datetime) -> None:
        if self.settings.inbound_limits == "documented":
            with self.optional("RateLimitCheckFailures", "request not counted"):
                consumed = rate_limit.consume(self.settings.state_table, caller, surface, now)
                self.tell_rate_limit(consumed.headers())

    def reserve_metrics(
        self, *, site_id: str, names: Iterable[str], partly: bool, is_anonymous: bool
    ) -> Set[str]:
        with self.optional("MetricQuotaCheckFailures", "metrics not counted"):
            return self.metric_quota.reserve(
                self.settings.state_table, site_id, names, partly=partly, is_anonymous=is_anonymous
            )
        return frozenset()

    def open_receipt(
        self, *, receipt: str, account_id: str, created: datetime, total: int, rejected: list[int]
    ) -> None:
        with self.optional("ReceiptWriteFailures", "receipt not written", receipt=receipt):
            receipts.create(
                self.settings.state_table,
                receipts.scoped(account_id, receipt),
                account=account_id,
                created=created,
                total=total,
                rejected=rejected,
            )


class _WebhookPorts(_Storage, frozen=True):
    records: "_Records"

    def secret(self, *, name: str) -> str:
        full_name = self.settings.webhook_secrets + name
        return secrets.read_secret(full_name, f"the secret {full_name} cannot be read")


class _Records:
    """Reads and writes the records of a source's objects; events go on without them if the table is down."""

    def __init__(self, table: str, source: str, optional: Callable[..., Any]) -> None:
        self._table = table
        self._source = source
        self._optional = optional

    def open(self, *, object_id: str, people: "Mapping[str, Identity]") -> "ObjectRecord":
        from sluice.webhooks import object_records  # noqa: PLC0415

        with self._optional("ObjectRecordFailures", "object record not opened"):
            return object_records.open_record(self._table, self._source, object_id, people, runtime.now())
        return object_records.ObjectRecord(is_known=False)

    def mark_stored(self, *, object_id: str, event_ids: Collection[bytes]) -> None:
        from sluice.webhooks import object_records  # noqa: PLC0415

        with self._optional("ObjectRecordFailures", "object record not written"):
            object_records.mark_stored(self._table, self._source, object_id, event_ids, runtime.now())
