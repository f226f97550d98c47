"""Delivers batches of EventsQueue. Lambda's and SQS's side only: the rest is `sluice.dispatch`."""

import asyncio
import functools
import random
import time
from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import accounts, aws, dispatch, rejection, settings, upstream
from sluice.accounts import Account
from sluice.pace import Pace
from sluice.settings import DispatchSettings

_WRAP_UP_SECONDS: Final = 8.0  # for rejections, visibilities and the answer, after the last request
_FIRST_BACKOFF_SECONDS: Final = 4.0
_MAX_BACKOFF_SECONDS: Final = 900.0

logger = Logger()
metrics = Metrics()


@functools.cache
def _runner() -> asyncio.Runner:
    # One loop for the life of the process: the upstream's connections belong to it.
    return asyncio.Runner()


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Lambda's entry: a batch of EventsQueue."""
    configuration = settings.load(DispatchSettings)
    end = time.time() + context.get_remaining_time_in_millis() / 1_000
    records = dict(enumerate(event["Records"]))
    outcome = _runner().run(
        dispatch.dispatch(
            {number: _record(record) for number, record in records.items()},
            _ports(configuration, end - _WRAP_UP_SECONDS - upstream.TOTAL_SECONDS),
        )
    )
    retry = _store_rejections(outcome, configuration)
    for name, count in outcome.counts.items():
        metrics.add_metric(name, MetricUnit.Count, count)
    metrics.add_metric("RetriedMessages", MetricUnit.Count, len(retry))
    logger.info("dispatched", messages=len(records), retried=len(retry), counts=outcome.counts)
    aws.postpone(
        configuration.events_queue_url,
        [
            (records[number]["receiptHandle"], _delay(records[number], after))
            for number, after in retry.items()
        ],
    )
    return {"batchItemFailures": [{"itemIdentifier": records[number]["messageId"]} for number in retry]}


def _ports(configuration: DispatchSettings, deadline: float) -> dispatch.Ports:
    def pace(account: Account) -> Pace:
        return Pace(configuration.state_table, account.site_id, deadline)

    return dispatch.Ports(
        accounts=functools.partial(accounts.load, configuration.accounts_secret),
        fetch_claim=aws.claim_reader(configuration.claim_bucket),
        create_job=functools.partial(upstream.create_job, upstream.client()),
        pace=pace,
        now=functools.partial(datetime.now, UTC),
    )


def _record(record: dict[str, Any]) -> dispatch.Record:
    named = record.get("messageAttributes", {})
    return dispatch.Record(
        record["body"],
        datetime.fromtimestamp(int(record["attributes"]["SentTimestamp"]) / 1_000, UTC),
        account=named.get("account", {}).get("stringValue"),
        surface=named.get("surface", {}).get("stringValue"),
    )


def _store_rejections(outcome: dispatch.Outcome, configuration: DispatchSettings) -> dict[int, float | None]:
    """Puts rejections on their queue; returns what stays on ours, with what could not be put there.

    A message that stays is dispatched again, and its refused events are refused again: only then are
    they put on the queue, so that each is there once.
    """
    retry = dict(outcome.retry)
    final = [(number, refused) for number, refused in outcome.rejections if number not in retry]
    unsent = aws.send_all(
        configuration.rejected_queue_url,
        [rejection.encode(refused) for _, refused in final],
        claim_bucket=configuration.claim_bucket,
    )
    for index in unsent:
        retry[final[index][0]] = None
    for _, refused in final:
        logger.info(
            "rejected",
            id=refused.id,
            reason=refused.reason,
            code=refused.code,
            account=refused.account,
            receipt=refused.receipt,
        )
    return retry


def _delay(record: dict[str, Any], after: float | None) -> int:
    """Seconds until a message is tried again: as long as is known, else longer each time, jittered."""
    receives = int(record["attributes"]["ApproximateReceiveCount"])
    backoff = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(receives - 1, 10))
    wait = after if after is not None else backoff / 2
    # Jitter on top: never earlier than asked, and not everybody at once.
    return int(min(_MAX_BACKOFF_SECONDS, wait + random.uniform(0, backoff / 2)))  # noqa: S311
