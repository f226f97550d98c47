"""Delivers batches of queues of events: Lambda's event in, the use case `sluice.dispatch`, the answer out."""

from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import __version__, dispatch, message, runtime, seals, settings
from sluice.delivery import backoff, http
from sluice.dispatch import Deadlines, Record
from sluice.settings import DispatchSettings
from sluice.wiring import dispatch as wiring

_WRAP_UP_SECONDS: Final = 8.0  # reserved after the last request for rejections, visibilities and the answer
_LAST_SECONDS: Final = 4.0  # the last of these, in which no receipt is written any more
_MEMORY_SHARE: Final = 4  # share of the memory for messages unpacked at the same time

logger = Logger(version=__version__)
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Delivers a batch of EventsQueue or BackgroundQueue and returns the messages that stay on it."""
    configured = settings.load(DispatchSettings)
    is_background = any(configured.is_background(each["eventSourceARN"]) for each in event["Records"][:1])
    end = runtime.time() + context.get_remaining_time_in_millis() / 1_000
    deadlines = Deadlines(
        end - _WRAP_UP_SECONDS - http.TOTAL_SECONDS,
        end - _LAST_SECONDS,
        end,
        dispatch.BACKGROUND_SLOT_WAIT_SECONDS if is_background else dispatch.SLOT_WAIT_SECONDS,
    )
    records = {number: _record(record, is_background) for number, record in enumerate(event["Records"])}
    memory_bytes = int(context.memory_limit_in_mb) * 2**20 // _MEMORY_SHARE
    ports = wiring.dispatch_ports(configured, logger, is_background=is_background)
    result = dispatch.dispatch_batch(records, ports, deadlines, memory_bytes)
    if result.kept:
        oldest = min(records[number].sent for number in result.kept)
        metrics.add_metric(
            "OldestBackgroundMessageAge" if is_background else "OldestRetriedMessageAge",
            MetricUnit.Seconds,
            runtime.time() - oldest.timestamp(),
        )
    for name, count in result.counts.items():
        metrics.add_metric(name, MetricUnit.Count, count)
    logger.info("dispatched", counts=result.counts, background=is_background)
    return {"batchItemFailures": [{"itemIdentifier": records[number].id} for number in sorted(result.kept)]}


def _record(record: dict[str, Any], is_background: bool) -> Record:
    named = record.get("messageAttributes", {})
    attributes = record["attributes"]
    receives = int(attributes["ApproximateReceiveCount"])
    sent = datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1_000, UTC)
    # The words of resume are believed only in a stored message, whose seal is checked.
    said = named if message.is_stored(record["body"]) else {}
    return Record(
        record["messageId"],
        record["body"],
        sent,
        receives,
        record["receiptHandle"],
        account=named.get("account", {}).get("stringValue"),
        surface=named.get("surface", {}).get("stringValue"),
        sender=attributes.get("SenderId", "").partition(":")[0] or None,
        seal=named.get(seals.NAME, {}).get("stringValue"),
        redelivered=receives > 1 or "resumed" in said,
        is_probe="probe" in said,
        is_released="released" in said,
        is_worn=is_background and backoff.is_worn(receives, runtime.now() - sent),
    )
