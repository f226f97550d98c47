"""Puts the body on the queue as it is: the least that ingest could do, to compare its start with."""

import os
from typing import Any

import boto3

sqs = boto3.client("sqs")


def handler(event: dict[str, Any], _: object) -> dict[str, Any]:
    """Handles a proxy request for Lambda."""
    sqs.send_message(QueueUrl=os.environ["SLUICE_EVENTS_QUEUE_URL"], MessageBody=event["body"])
    return {"statusCode": 202, "body": ""}
