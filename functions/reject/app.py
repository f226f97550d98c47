"""Archives rejections and dead letters: Lambda's event in, the use case `sluice.archive`, the answer out."""

from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import __version__, archive, runtime, seals, settings
from sluice.archive import QueuedMessage
from sluice.settings import RejectSettings
from sluice.wiring.reject import RejectPorts

_ARCHIVE_SECONDS: Final = 25.0  # for writing what was read: S3 is given up on only after 24

logger = Logger(version=__version__)
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Archives a batch and returns the messages that stay on their queue."""
    last_read = runtime.monotonic() + context.get_remaining_time_in_millis() / 1_000 - _ARCHIVE_SECONDS
    result = archive.archive_batch(
        list(map(_message, event["Records"])),
        RejectPorts(settings.load(RejectSettings)),
        logger,
        has_time=lambda: runtime.monotonic() <= last_read,
    )
    for name, count in result.counts.items():
        metrics.add_metric(name, MetricUnit.Count, count)
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in sorted(result.kept)]}


def _message(record: dict[str, Any]) -> QueuedMessage:
    attributes, named = record["attributes"], record.get("messageAttributes", {})
    return QueuedMessage(
        record["messageId"],
        record["body"],
        datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1_000, UTC),
        int(attributes["ApproximateReceiveCount"]),
        named.get(seals.NAME, {}).get("stringValue"),
    )
