"""Which messages were tried alone, and how often nothing was heard of it again: their process ended."""

import time
from typing import Final

from sluice import aws

KEEP_SECONDS: Final = 15 * 86_400  # a little longer than a message can live


def begin(table: str, message_id: str) -> int:
    """Notes that a message is tried alone; how often that ended its process before."""
    with aws.answering(aws.dynamodb, "the state table cannot be written") as client:
        answer = client.update_item(
            TableName=table,
            Key=_key(message_id),
            UpdateExpression="SET expires_at = :expiry ADD trials :one",
            ExpressionAttributeValues={
                ":expiry": {"N": str(int(time.time()) + KEEP_SECONDS)},
                ":one": {"N": "1"},
            },
            ReturnValues="UPDATED_NEW",
        )
    return int(answer["Attributes"]["trials"]["N"]) - 1


def end(table: str, message_id: str) -> None:
    """Notes that a message was tried and its process lives."""
    with aws.answering(aws.dynamodb, "the state table cannot be written") as client:
        client.delete_item(TableName=table, Key=_key(message_id))


def _key(message_id: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"trial#{message_id}"}}
