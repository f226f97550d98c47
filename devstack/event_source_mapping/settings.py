"""Reads a mapping's settings through the Lambda, SQS and IAM APIs, and holds them to AWS's own rules."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .batches import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient

CONCURRENCY = 5
QUEUE_ACTIONS = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")


class RefusedError(Exception):
    """Says that AWS, or this runner, does not take a mapping; the text is the sentence for the user."""


@dataclass(frozen=True)
class Settings:
    """Holds the settings of a mapping that a runner needs; times are in seconds."""

    uuid: str
    queue_arn: str
    queue_url: str
    function_arn: str
    function_timeout: int
    batch_size: int
    window: int
    visibility: int
    concurrency: int
    reports_failures: bool

    @property
    def limits(self) -> Limits:
        """Returns the batch's limits, with a wait that leaves the function time to finish within the
        visibility.
        """
        longest = max(self.visibility - self.function_timeout, self.visibility / 2)
        return Limits(
            records=self.batch_size,
            hold_seconds=min(self.window, longest),
            visibility_seconds=self.visibility,
        )

    @property
    def label(self) -> str:
        """Returns the queue's and the function's name, for people."""
        return f"{self.queue_arn.split(':')[5]} -> {self.function_arn.split(':')[6]}"


def parse(
    mapping: Mapping[str, Any], function: Mapping[str, Any], queue_url: str, visibility: int
) -> Settings:
    """Makes settings of the answers of GetEventSourceMapping and GetFunctionConfiguration.

    Raises RefusedError, which names the first rule that is broken.
    """
    settings = Settings(
        uuid=mapping["UUID"],
        queue_arn=mapping["EventSourceArn"],
        queue_url=queue_url,
        function_arn=mapping["FunctionArn"],
        function_timeout=function["Timeout"],
        batch_size=mapping.get("BatchSize", 10),
        window=mapping.get("MaximumBatchingWindowInSeconds", 0),
        visibility=visibility,
        concurrency=mapping.get("ScalingConfig", {}).get("MaximumConcurrency", CONCURRENCY),
        reports_failures="ReportBatchItemFailures" in (mapping.get("FunctionResponseTypes") or ()),
    )
    for problem in _problems(mapping, settings):
        raise RefusedError(f"mapping {settings.uuid} ({settings.label}): {problem}")
    return settings


def _problems(mapping: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    if settings.queue_arn.endswith(".fifo"):
        yield "FIFO queues are not supported here"
    for unsupported in ("FilterCriteria", "ProvisionedPollerConfig"):
        if mapping.get(unsupported):
            yield f"{unsupported} is not supported here"
    if not 1 <= settings.batch_size <= 10_000:
        yield f"BatchSize is {settings.batch_size}, it goes from 1 to 10000"
    if not 0 <= settings.window <= 300:
        yield f"MaximumBatchingWindowInSeconds is {settings.window}, it goes from 0 to 300"
    if settings.batch_size > 10 and settings.window < 1:
        yield "a BatchSize above 10 needs a MaximumBatchingWindowInSeconds of at least 1"
    if not 2 <= settings.concurrency <= 1000:
        yield f"MaximumConcurrency is {settings.concurrency}, it goes from 2 to 1000"
    if settings.visibility < settings.function_timeout:
        yield (
            f"Queue visibility timeout: {settings.visibility} seconds is less than "
            f"Function timeout: {settings.function_timeout} seconds"
        )


def sqs_mappings(functions: LambdaClient) -> list[str]:
    """Returns the ids of all mappings whose source is a queue."""
    pages = functions.get_paginator("list_event_source_mappings").paginate()
    mappings = (mapping for page in pages for mapping in page["EventSourceMappings"])
    return [mapping["UUID"] for mapping in mappings if ":sqs:" in mapping.get("EventSourceArn", "")]


def read(uuid: str, functions: LambdaClient, sqs: SQSClient) -> Settings:
    """Reads a deployed mapping's settings; raises RefusedError."""
    mapping = functions.get_event_source_mapping(UUID=uuid)
    arn = mapping["EventSourceArn"]
    if ":sqs:" not in arn:
        raise RefusedError(f"mapping {uuid}: {arn} is not a queue")
    account, name = arn.split(":")[4:6]
    queue_url = sqs.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["VisibilityTimeout"])
    function = functions.get_function_configuration(FunctionName=mapping["FunctionArn"])
    return parse(mapping, function, queue_url, int(attributes["Attributes"]["VisibilityTimeout"]))


def keep_disabled(uuid: str, functions: LambdaClient) -> None:
    """Disables the emulator's own mapping, so that it leaves the messages to us."""
    if functions.get_event_source_mapping(UUID=uuid)["State"] != "Disabled":
        functions.update_event_source_mapping(UUID=uuid, Enabled=False)


def require_permissions(settings: Settings, functions: LambdaClient, iam: Any) -> None:
    """Refuses a mapping whose function's role may not poll the queue, as AWS does when a mapping is made."""
    role = functions.get_function_configuration(FunctionName=settings.function_arn)["Role"]
    results = iam.simulate_principal_policy(
        PolicySourceArn=role, ActionNames=QUEUE_ACTIONS, ResourceArns=[settings.queue_arn]
    )["EvaluationResults"]
    for result in results:
        if result["EvalDecision"] != "allowed":
            action = result["EvalActionName"].removeprefix("sqs:")
            raise RefusedError(
                f"mapping {settings.uuid} ({settings.label}): The function execution role does not have "
                f"permissions to call {action} on SQS"
            )


def enforces_policies(endpoint: str) -> bool:
    """Tells whether the emulator at an endpoint says that it enforces IAM policies."""
    try:
        with urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=5) as answer:
            return bool(json.load(answer).get("auth") == "enabled")
    except (OSError, ValueError):
        return False
