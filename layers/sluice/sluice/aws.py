"""Thin adapters to SQS and S3. Clients are made once, on first use: Lambda bills initialisation."""

import functools
from collections.abc import Iterable, Sequence
from itertools import batched
from typing import TYPE_CHECKING, Any, Final

from sluice.errors import Retryable
from sluice.message import Body

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

BATCH: Final = 10  # entries of one SQS batch call
BATCH_BYTES: Final = 1_048_576  # all bodies of one SQS batch call
MAX_VISIBILITY_SECONDS: Final = 43_200


def _client(service: str) -> Any:
    import boto3  # noqa: PLC0415 - importing it costs more than a warm request
    from botocore.config import Config  # noqa: PLC0415

    retries: Any = {"mode": "standard", "total_max_attempts": 3}
    return boto3.client(
        service,  # type: ignore[call-overload]
        config=Config(connect_timeout=2, read_timeout=5, retries=retries, max_pool_connections=32),
    )


@functools.cache
def sqs() -> "SQSClient":
    """The process's SQS client."""
    return _client("sqs")  # type: ignore[no-any-return]


@functools.cache
def s3() -> "S3Client":
    """The process's S3 client."""
    return _client("s3")  # type: ignore[no-any-return]


@functools.cache
def dynamodb() -> "DynamoDBClient":
    """The process's DynamoDB client."""
    return _client("dynamodb")  # type: ignore[no-any-return]


def store(body: Body, account: str, *, queue_url: str, claim_bucket: str) -> None:
    """Puts one message on the queue, its claim into S3 first. `Retryable` if it is not safe there."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        if body.claim_key is not None:
            s3().put_object(Bucket=claim_bucket, Key=body.claim_key, Body=body.claim_bytes)
        # The group makes a standard queue fair between accounts; it does not order anything.
        sqs().send_message(QueueUrl=queue_url, MessageBody=body.text, MessageGroupId=account)
    except (BotoCoreError, ClientError) as error:
        raise Retryable("the events queue cannot be reached") from error


def fetch_claim(key: str, *, claim_bucket: str) -> bytes:
    """The bytes of a claim. `Retryable` if S3 does not give them, whatever the cause: they exist."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        return s3().get_object(Bucket=claim_bucket, Key=key)["Body"].read()
    except (BotoCoreError, ClientError) as error:
        raise Retryable("a claim cannot be read") from error


def send_all(queue_url: str, bodies: Sequence[str]) -> set[int]:
    """Sends messages in batches and returns the indexes of those that did not get there."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    unsent: set[int] = set()
    for chunk in _batches(bodies):
        entries: Any = [{"Id": str(index), "MessageBody": bodies[index]} for index in chunk]
        try:
            answer = sqs().send_message_batch(QueueUrl=queue_url, Entries=entries)
        except (BotoCoreError, ClientError):
            unsent.update(chunk)
        else:
            unsent.update(int(failed["Id"]) for failed in answer.get("Failed", []))
    return unsent


def postpone(queue_url: str, delays: Iterable[tuple[str, int]]) -> None:
    """Makes received messages visible again after so many seconds, by receipt handle.

    A message this fails for stays invisible for the queue's own timeout: later, but not lost.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    for chunk in batched(delays, BATCH, strict=False):
        entries: Any = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for number, (handle, seconds) in enumerate(chunk)
        ]
        try:
            sqs().change_message_visibility_batch(QueueUrl=queue_url, Entries=entries)
        except (BotoCoreError, ClientError):
            continue


def _batches(bodies: Sequence[str]) -> Iterable[list[int]]:
    chunk: list[int] = []
    size = 0
    for index, body in enumerate(bodies):
        length = len(body.encode())
        if chunk and (len(chunk) == BATCH or size + length > BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += length
    if chunk:
        yield chunk
