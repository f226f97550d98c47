"""Reads how a deployment is doing, from AWS."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import batched, islice
from typing import Any, Final

import msgspec

from sluice import accounts, runtime
from sluice.accounts import StoredAccounts
from sluice.aws import clients, state_table
from sluice.delivery import circuit_breaker, parking, pause, rate_limiter
from sluice.delivery.parking import PARKED_PREFIX, UNKNOWN_PREFIX, ParkedMessages
from sluice.errors import Retryable
from sluice.operate.overview import AccountState, Alarm, Hour, Queue
from sluice.settings import OperateSettings
from sluice.wiring import accounts as wiring

HOUR: Final = timedelta(hours=1)
_BATCH_READ: Final = 100  # keys of one BatchGetItem
_BATCH_QUERIES: Final = 500  # of one GetMetricData
_ATTEMPTS: Final = 6
_PERIOD: Final = 60
_COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_METRICS: Final = {
    "sluice-ingest": ("AcceptedEvents",),
    "sluice-dispatch": (
        *("DeliveredEvents", "Jobs", "JobEvents", "Calls", "CallEvents", "UpstreamRateLimited"),
    ),
    "sluice-reject": ("RejectedEvents", "AnonymousRejectedEvents"),
}


class AwsOverview(msgspec.Struct, frozen=True):
    """Reads how the deployment of a stack is doing."""

    settings: OperateSettings
    stack: str

    def accounts(self) -> StoredAccounts:
        return accounts.read(wiring.read_document(self.settings.config_bucket).content)

    def states(self, *, account_ids: Collection[str]) -> Mapping[str, AccountState]:
        kinds = (state_table.CIRCUIT, state_table.PAUSE, state_table.RATE_LIMIT)
        keys = [kind.key(account) for account in account_ids for kind in kinds]
        chunks = clients.map_concurrently(self._items, batched(keys, _BATCH_READ, strict=False))
        items = {item["pk"]["S"]: item for chunk in chunks for item in chunk}

        def state(account: str) -> AccountState:
            circuit, paused, window = (items.get(kind.key(account)["pk"]["S"]) for kind in kinds)
            return AccountState(
                circuit_breaker.circuit_of(circuit) if circuit else None,
                pause.pause_of(paused) if paused else None,
                rate_limiter.window_of(window) if window else rate_limiter.SlotWindow(),
            )

        return {account: state(account) for account in account_ids}

    def parked(self) -> Mapping[str, ParkedMessages]:
        return self._parked(parking.parked_accounts(self.settings.claim_bucket), PARKED_PREFIX)

    def parked_unknown(self, *, limit: int) -> tuple[int, Mapping[str, ParkedMessages]]:
        unknown = parking.unknown_accounts(self.settings.claim_bucket)
        return len(unknown), self._parked(islice(unknown, limit), UNKNOWN_PREFIX)

    def queues(self) -> Sequence[Queue]:
        urls = {
            "events": self.settings.events_queue_url,
            "events_dead_letters": self.settings.events_dead_letter_queue_url,
            "background": self.settings.background_queue_url,
            "background_dead_letters": self.settings.background_dead_letter_queue_url,
            "rejected": self.settings.rejected_queue_url,
            "rejected_dead_letters": self.settings.rejected_dead_letter_queue_url,
        }
        ages = self._ages(urls)

        def queue(name: str) -> Queue:
            with clients.translating_errors("a queue cannot be reached"):
                answer = clients.sqs().get_queue_attributes(QueueUrl=urls[name], AttributeNames=list(_COUNTS))
            visible, in_flight, delayed = (int(answer["Attributes"][count]) for count in _COUNTS)
            return Queue(name, visible, in_flight, delayed, ages.get(name))

        return clients.map_concurrently(queue, urls)

    def hour(self, *, sources: Collection[str]) -> Hour:
        wanted: dict[tuple[str, ...], Any] = {
            ("sum", name): _metric("Sluice", name, {"service": service}, "Sum")
            for service, names in _METRICS.items()
            for name in names
        }
        wanted |= {
            ("refused", source): _metric(
                "Sluice", "RefusedDeliveries", {"service": "sluice-ingest", "source": source}, "Sum"
            )
            for source in sources
        }
        tick = ("tick",)
        wanted[tick] = _metric("Sluice", "OpenCircuits", {"service": "sluice-resume"}, "SampleCount")
        found = _data(wanted, HOUR)
        if not found:
            raise Retryable("CloudWatch has no metric of the last hour")
        sums = {key: sum(value for _, value in values) for key, values in found.items()}
        return Hour(
            {key[1]: int(value) for key, value in sums.items() if key[0] == "sum"},
            {key[1]: int(value) for key, value in sums.items() if key[0] == "refused"},
            max((moment for moment, _ in found.get(tick, [])), default=None),
            _minutes({key[1]: values for key, values in found.items() if key[0] == "sum"}),
        )

    def alarms(self) -> Sequence[Alarm]:
        # CloudFormation names them <stack>-<resource>-<digits>. A resource has no hyphen in its name, so the
        # alarms of a stack sluice-test are none of the stack sluice.
        ours = re.compile(rf"{re.escape(self.stack)}-([A-Za-z0-9]+)-[A-Za-z0-9]+")
        with clients.translating_errors("the alarms cannot be read"):
            pages = (
                clients.cloudwatch()
                .get_paginator("describe_alarms")
                .paginate(AlarmNamePrefix=f"{self.stack}-", AlarmTypes=["MetricAlarm"])
            )
            found = [alarm for page in pages for alarm in page["MetricAlarms"]]
        return [
            Alarm(named[1], alarm["StateUpdatedTimestamp"], alarm.get("AlarmDescription", ""))
            for alarm in found
            if alarm["StateValue"] == "ALARM" and (named := ours.fullmatch(alarm["AlarmName"]))
        ]

    def _items(self, keys: Sequence[state_table.Key]) -> list[Any]:
        table = self.settings.state_table
        wanted: Any = {table: {"Keys": keys}}
        found: list[Any] = []
        for attempt in range(_ATTEMPTS):
            with clients.translating_errors("the state table cannot be read"):
                answer = clients.dynamodb().batch_get_item(RequestItems=wanted)
            found += answer["Responses"].get(table, [])
            wanted = answer.get("UnprocessedKeys")
            if not wanted:
                return found
            runtime.sleep(0.05 * 2**attempt)
        raise Retryable("the state table is throttled")

    def _parked(self, account_ids: Iterable[str], prefix: str) -> dict[str, ParkedMessages]:
        bucket = self.settings.claim_bucket

        def read(account: str) -> tuple[str, ParkedMessages]:
            return account, parking.described(parking.parked_objects(bucket, account, prefix=prefix))

        return dict(clients.map_concurrently(read, account_ids))

    def _ages(self, urls: Mapping[str, str]) -> dict[str, int]:
        """Returns the age of the oldest message of each queue, as far as CloudWatch knows it."""
        wanted: dict[tuple[str, ...], Any] = {
            (name,): _metric(
                "AWS/SQS", "ApproximateAgeOfOldestMessage", {"QueueName": url.rsplit("/", 1)[1]}, "Maximum"
            )
            for name, url in urls.items()
        }
        # SQS writes it each minute, some minutes late.
        try:
            found = _data(wanted, timedelta(minutes=10))
        except Retryable:
            return {}  # the depths are worth more than the ages
        return {key[0]: int(max(values)[1]) for key, values in found.items()}


def _metric(namespace: str, name: str, dimensions: Mapping[str, str], statistic: str) -> Any:
    return {
        "Metric": {
            "Namespace": namespace,
            "MetricName": name,
            "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
        },
        "Period": _PERIOD,
        "Stat": statistic,
    }


def _minutes(found: Mapping[str, Sequence[tuple[datetime, float]]]) -> dict[datetime, dict[str, int]]:
    minutes: dict[datetime, dict[str, int]] = {}
    for name, values in found.items():
        for moment, value in values:
            minutes.setdefault(moment, {})[name] = int(value)
    return minutes


def _data(
    wanted: Mapping[tuple[str, ...], Any], since: timedelta
) -> dict[tuple[str, ...], list[tuple[datetime, float]]]:
    """Returns the values of metrics by their keys, each with its moment; not those without any."""
    now = runtime.now()
    found: dict[tuple[str, ...], list[tuple[datetime, float]]] = {}
    for chunk in batched(wanted, _BATCH_QUERIES, strict=False):
        request: Any = {
            "MetricDataQueries": [
                {"Id": f"m{number}", "MetricStat": wanted[key]} for number, key in enumerate(chunk)
            ],
            "StartTime": now - since,
            "EndTime": now,
        }
        while True:
            with clients.translating_errors("the metrics cannot be read"):
                answer = clients.cloudwatch().get_metric_data(**request)
            for result in answer["MetricDataResults"]:
                values = list(zip(result["Timestamps"], result["Values"], strict=True))
                if values:
                    found.setdefault(chunk[int(result["Id"][1:])], []).extend(values)
            if "NextToken" not in answer:
                break
            request["NextToken"] = answer["NextToken"]
    return found
