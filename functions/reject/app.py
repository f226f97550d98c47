"""Archives what was refused, and what nobody could bring to an outcome, before SQS drops it."""

import functools
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import __version__, archive, receipts, runtime, settings
from sluice.aws import clients, s3
from sluice.errors import Retryable
from sluice.rejection import Reason, Rejection
from sluice.settings import RejectSettings

_GROUP_BYTES: Final = 32 * 2**20  # bytes of unpacked rejections held at the same time

_ARCHIVE_SECONDS: Final = 25.0  # reserved for writing; a call to S3 may take 24

logger = Logger(version=__version__)
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handles a batch of RejectedQueue or of a dead-letter queue for Lambda."""
    configuration = settings.load(RejectSettings)
    last_read = runtime.monotonic() + context.get_remaining_time_in_millis() / 1_000 - _ARCHIVE_SECONDS
    failed = {record["messageId"] for record in event["Records"]}
    archived = dead = 0
    for rejections in _groups(event["Records"], configuration, last_read):
        try:
            objects = archive.objects(rejections.values())
            clients.map_concurrently(functools.partial(_put, configuration.archive_bucket), objects.items())
        except Retryable as error:
            # Objects written already are written again with the same key, or known by their lines' ids.
            logger.error("archive not written", cause=str(error))
            continue
        failed -= rejections.keys()
        archived += len(rejections)
        dead += sum(rejection.reason is Reason.DEAD_LETTER for rejection in rejections.values())
        _log(rejections.values())
        undelivered = filter(None, map(archive.undelivered_positions, rejections.values()))
        clients.map_concurrently(functools.partial(_note, configuration.state_table), undelivered)
    metrics.add_metric("ArchivedRejections", MetricUnit.Count, archived)
    metrics.add_metric("DeadLetters", MetricUnit.Count, dead)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in sorted(failed)]}


def _put(bucket: str, archived: tuple[str, bytes]) -> None:
    key, lines = archived
    s3.put_object(bucket, key, lines)


def _groups(
    records: list[dict[str, Any]], configuration: RejectSettings, last_read: float
) -> Iterator[dict[str, Rejection]]:
    """Yields the rejections that can be read in time, by message id, in groups that fit the memory."""
    now = runtime.now()
    fetch_claim = s3.claim_reader(configuration.claim_bucket)
    group: dict[str, Rejection] = {}
    size = 0
    for record in records:
        if runtime.monotonic() > last_read:
            break
        try:
            rejection = archive.read(_letter(record), fetch_claim, now)
        except Retryable as error:
            logger.warning("claim not read", cause=str(error))
            continue
        group[record["messageId"]] = rejection
        size += len(rejection.payload)
        if size >= _GROUP_BYTES:
            yield group
            group, size = {}, 0
    yield group


def _note(table: str, undelivered: tuple[str, list[int]]) -> None:
    receipt, places = undelivered
    try:
        receipts.record_outcome(table, receipt, rejected=places)
    except Retryable as error:
        metrics.add_metric("ReceiptWriteFailures", MetricUnit.Count, 1)
        logger.warning("receipt not recorded", receipt=receipt, cause=str(error))


def _log(rejections: Iterable[Rejection]) -> None:
    for rejection in rejections:
        logger.info(
            "archived",
            id=rejection.id,
            reason=rejection.reason,
            account=rejection.account,
            receipt=rejection.receipt,
            code=rejection.code,
        )


def _letter(record: dict[str, Any]) -> archive.QueuedMessage:
    attributes = record["attributes"]
    return archive.QueuedMessage(
        record["messageId"],
        record["body"],
        datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1_000, UTC),
        int(attributes["ApproximateReceiveCount"]),
    )
