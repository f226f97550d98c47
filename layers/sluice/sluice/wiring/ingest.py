"""Builds the AWS-backed ports of ingest's API."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sluice import ingest, receipts, rejection, runtime, settings
from sluice.accounts import Accounts
from sluice.admission import rate_limit
from sluice.admission.metric_quota import MetricQuota
from sluice.aws import s3, secrets, sqs
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
        """Returns the accounts of the secret."""

        def report(cause: str) -> None:
            self._metrics.count("AccountsLoadFailures")
            self._log.critical("accounts not loaded", cause=cause)

        return accounts.load(self._settings.accounts_secret, report)

    def requests(self, *, tell_rate_limit: Callable[[Mapping[str, str]], None]) -> ingest.Ports:
        """Returns the ports of accepting one request."""
        configuration = self._settings
        table = configuration.state_table

        def consume_rate_limit(caller: str, surface: Surface, now: datetime) -> None:
            if configuration.inbound_limits == "documented":
                with self._optional("RateLimitCheckFailures", "request not counted"):
                    tell_rate_limit(rate_limit.consume(table, caller, surface, now).headers())

        def reserve_metrics(site_id: str, names: Iterable[str], partly: bool, is_anonymous: bool) -> Set[str]:
            with self._optional("MetricQuotaCheckFailures", "metrics not counted"):
                return self._metric_quota.reserve(
                    table, site_id, names, partly=partly, is_anonymous=is_anonymous
                )
            return frozenset()

        def open_receipt(
            receipt: str, account: str, created: datetime, total: int, rejected: list[int]
        ) -> None:
            with self._optional("ReceiptWriteFailures", "receipt not written", receipt=receipt):
                receipts.create(
                    table,
                    receipts.scoped(account, receipt),
                    account=account,
                    created=created,
                    total=total,
                    rejected=rejected,
                )

        return ingest.Ports(
            consume_rate_limit,
            reserve_metrics,
            self._store,
            self._reject,
            open_receipt,
            max_client_body_bytes=configuration.client_body_bytes,
        )

    def find_receipt(self, *, receipt: str) -> Receipt | None:
        """Returns a receipt of the state table."""
        return receipts.find(self._settings.state_table, receipt, runtime.now())

    def sources(self) -> "Sources":
        """Returns the sources of the configuration bucket, from the process's copy."""
        return self._sources_cache.sources()

    def webhooks(self, *, source: str) -> "WebhookPorts":
        """Returns the ports of accepting one delivery."""
        from sluice.webhooks.accept import Ports  # noqa: PLC0415 - most deployments have no webhooks

        return Ports(
            secret=self._webhook_secret,
            store=self._store,
            reject=self._reject,
            records=_Records(self._settings.state_table, source, self._optional),
        )

    @property
    def _settings(self) -> IngestSettings:
        loaded: IngestSettings = settings.load(IngestSettings)
        return loaded

    def _store(self, body: Body, account: str) -> None:
        queue_url, bucket = self._settings.events_queue_url, self._settings.claim_bucket
        sqs.send_message(body, account, queue_url=queue_url, claim_bucket=bucket)

    def _reject(self, rejections: list[Rejection]) -> None:
        queue_url, bucket = self._settings.rejected_queue_url, self._settings.claim_bucket
        if sqs.send_messages(queue_url, list(map(rejection.encode, rejections)), claim_bucket=bucket):
            raise Retryable("the rejected queue cannot be reached")

    def _webhook_secret(self, name: str) -> Any:
        full_name = self._settings.webhook_secrets + name
        return secrets.read_secret(full_name, f"the secret {full_name} cannot be read")

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


class _Records:
    """Reads and writes the records of a source's objects; events go on without them if the table is down."""

    def __init__(self, table: str, source: str, optional: Callable[..., Any]) -> None:
        self._table = table
        self._source = source
        self._optional = optional

    def open(self, object_id: str, people: "Mapping[str, Identity]") -> "ObjectRecord":
        from sluice.webhooks import object_records  # noqa: PLC0415

        with self._optional("ObjectRecordFailures", "object record not opened"):
            return object_records.open_record(self._table, self._source, object_id, people, runtime.now())
        return object_records.ObjectRecord()

    def mark_stored(self, object_id: str, event_ids: Collection[bytes]) -> None:
        from sluice.webhooks import object_records  # noqa: PLC0415

        with self._optional("ObjectRecordFailures", "object record not written"):
            object_records.mark_stored(self._table, self._source, object_id, event_ids, runtime.now())
