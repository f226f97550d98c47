"""The least a front could be: the body goes on the queue as it is. What ingest's start is compared with."""

import os
from typing import Any

import boto3

sqs = boto3.client("sqs")


def handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    """Lambda's entry: a proxy request."""
    sqs.send_message(QueueUrl=os.environ["SLUICE_EVENTS_QUEUE_URL"], MessageBody=event["body"])
    return {"statusCode": 202, "body": ""}
