"""Archives what was refused, and what nobody could bring to an outcome, before SQS drops it."""

from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import archive, aws, settings
from sluice.errors import Retryable
from sluice.rejection import Reason, Rejection

logger = Logger()
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], _: LambdaContext) -> dict[str, Any]:
    """Lambda's entry: a batch of RejectedQueue or of a dead-letter queue."""
    configuration = settings.load(settings.RejectSettings)
    now = datetime.now(UTC)
    failed: set[str] = set()
    rejections: dict[str, Rejection] = {}
    for record in event["Records"]:
        try:
            rejections[record["messageId"]] = archive.read(
                _letter(record), aws.claim_reader(configuration.claim_bucket), now
            )
        except Retryable as error:
            logger.warning("claim not read", cause=str(error))
            failed.add(record["messageId"])
    try:
        for key, lines in archive.objects(rejections.values()).items():
            aws.put(configuration.archive_bucket, key, lines)
    except Retryable as error:
        # Objects written already are written again with the same key, or known by their lines' ids.
        logger.error("archive not written", cause=str(error))
        failed.update(rejections)
    archived = [rejection for message_id, rejection in rejections.items() if message_id not in failed]
    metrics.add_metric("ArchivedRejections", MetricUnit.Count, len(archived))
    dead = sum(rejection.reason is Reason.DEAD_LETTER for rejection in archived)
    metrics.add_metric("DeadLetters", MetricUnit.Count, dead)
    for rejection in archived:
        logger.info(
            "archived",
            id=rejection.id,
            reason=rejection.reason,
            account=rejection.account,
            receipt=rejection.receipt,
            code=rejection.code,
        )
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in sorted(failed)]}


def _letter(record: dict[str, Any]) -> archive.Letter:
    attributes = record["attributes"]
    return archive.Letter(
        record["messageId"],
        record["body"],
        datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1_000, UTC),
        int(attributes["ApproximateReceiveCount"]),
    )
