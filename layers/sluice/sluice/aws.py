"""Thin adapters to SQS, S3 and DynamoDB. Clients are made on first use: Lambda bills initialisation."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluice.errors import Retryable
from sluice.message import MESSAGE_BYTES, Body

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

BATCH_ENTRIES: Final = 10  # entries of one SQS batch call
BATCH_BYTES: Final = MESSAGE_BYTES  # all bodies of one: the limit is that of a message, attributes included
CALLS_AT_ONCE: Final = 16  # ten thousand messages take a thousand batch calls, and there are seconds for them
SLOW_FAILURE_SECONDS: Final = 0.4  # what takes this long to fail would take it again
FAIL_FAST_SECONDS: Final = 5.0  # for which it is not asked

_failing_until: Final[dict[Callable[[], Any], float]] = {}
_one_at_a_time: Final = threading.Lock()


def _client(service: str, *, connect_timeout: float = 2, read_timeout: float = 5, attempts: int = 3) -> Any:
    import boto3  # noqa: PLC0415 - importing it costs more than a warm request
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
    )
    with _one_at_a_time:  # clients may be used by several threads, but not made by them
        return boto3.client(service, config=config)  # type: ignore[call-overload]


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
    return _client("dynamodb", read_timeout=2)  # type: ignore[no-any-return]  # it answers in milliseconds


@functools.cache
def low_latency_dynamodb() -> "DynamoDBClient":
    """The process's DynamoDB client for what a caller should not wait for: it asks once, and not for long."""
    return _client("dynamodb", connect_timeout=0.5, read_timeout=0.5, attempts=1)  # type: ignore[no-any-return]


@functools.cache
def low_latency_s3() -> "S3Client":
    """The process's S3 client for what it has a copy of, which it would lose if it were ended for waiting."""
    return _client("s3", connect_timeout=1, read_timeout=2, attempts=2)  # type: ignore[no-any-return]


@contextlib.contextmanager
def translating_errors(otherwise: str) -> Iterator[None]:
    """Turns the SDK's errors into `Retryable`: what is asked for here is right, or an operator's to mend."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise Retryable(otherwise) from error


@contextlib.contextmanager
def failing_fast[Client](service: Callable[[], Client], otherwise: str) -> Iterator[Client]:
    """As `reaching` with a service's client, and for a while all fails at once where something failed slowly.

    So a service that hangs is waited for once, and not by each of the many who want something of it.
    """
    client = service()
    begin = time.monotonic()
    if begin < _failing_until.get(service, 0.0):
        raise Retryable(otherwise)
    try:
        with translating_errors(otherwise):
            yield client
    except Retryable:
        now = time.monotonic()
        if now - begin >= SLOW_FAILURE_SECONDS:
            _failing_until[service] = now + FAIL_FAST_SECONDS
        raise


def retrying_closed_connection[T](call: Callable[[], T]) -> T:
    """A call of a client that asks once: once more if its connection was closed while the process froze."""
    from botocore.exceptions import ConnectionClosedError  # noqa: PLC0415

    try:
        return call()
    except ConnectionClosedError:
        return call()


def map_concurrently[T, R](call: Callable[[T], R], arguments: Iterable[T]) -> list[R]:
    """What a call answers to each argument, some calls at a time."""
    with ThreadPoolExecutor(CALLS_AT_ONCE) as threads:
        return list(threads.map(call, arguments))


def send_message(body: Body, account: str, *, queue_url: str, claim_bucket: str) -> None:
    """Puts one message on the queue, its claim into S3 first. `Retryable` if it is not safe there."""
    _store_claim(body, claim_bucket)
    with translating_errors("the events queue cannot be reached"):
        # The group makes a standard queue fair between accounts; it does not order anything.
        sqs().send_message(QueueUrl=queue_url, MessageBody=body.text, MessageGroupId=account)


def put_object(bucket: str, key: str, content: bytes) -> None:
    """Writes one object. `Retryable` if it is not safe there."""
    with translating_errors("an object cannot be written"):
        s3().put_object(Bucket=bucket, Key=key, Body=content)


def delete_object(bucket: str, key: str) -> None:
    """Deletes one object, if it is there. `Retryable` if that is not sure."""
    with translating_errors("an object cannot be deleted"):
        s3().delete_object(Bucket=bucket, Key=key)


def get_object_if_changed(bucket: str, key: str, etag: str | None) -> tuple[str, bytes] | None:
    """An object's ETag and bytes, or None if it still has the given ETag. Of one that does not exist both are
    empty. `Retryable` if S3 does not answer soon.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415

    condition: Any = {"IfNoneMatch": etag} if etag else {}
    try:
        with translating_errors("an object cannot be read"):
            answer = low_latency_s3().get_object(Bucket=bucket, Key=key, **condition)
            return answer["ETag"], answer["Body"].read()
    except Retryable as error:
        cause = error.__cause__
        code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else ""
        if code in {"304", "NotModified"}:
            return None
        if code == "NoSuchKey":
            return "", b""
        raise


def claim_reader(claim_bucket: str) -> Callable[[str], bytes]:
    """Gives a claim's bytes by key; `Retryable` if S3 does not, whatever the cause: they exist."""

    def fetch(key: str) -> bytes:
        with failing_fast(s3, "a claim cannot be read") as client:
            return client.get_object(Bucket=claim_bucket, Key=key)["Body"].read()

    return fetch


class OpenedObject(msgspec.Struct, frozen=True):
    """An S3 object that is being read: what its writer says of it, and its bytes in pieces."""

    metadata: Mapping[str, str]
    pieces: Iterator[bytes]


class ObjectGone(Exception):
    """The object that was meant is not there: deleted, or written anew since."""


def open_object(
    bucket: str, key: str, *, version: str | None, etag: str | None, start: int, piece_bytes: int
) -> OpenedObject:
    """An object from its byte `start` on: nothing, if it ends there.

    Raises `Gone`; this and reading on may raise `Retryable`.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415

    which: Any = {"VersionId": version} if version else {"IfMatch": f'"{etag}"'} if etag else {}
    if start:
        which["Range"] = f"bytes={start}-"
    with translating_errors("an object cannot be read"):
        try:
            answer = s3().get_object(Bucket=bucket, Key=key, **which)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "InvalidRange":
                return OpenedObject({}, iter(()))
            if code in _GONE:
                raise ObjectGone from error
            raise
    return OpenedObject(answer["Metadata"], _pieces(answer["Body"], piece_bytes))


_GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "PreconditionFailed"})


def _pieces(body: "StreamingBody", piece_bytes: int) -> Iterator[bytes]:
    while True:
        with translating_errors("an object cannot be read"):
            piece = body.read(piece_bytes)
        if not piece:
            return
        yield piece


def delete_messages(queue_url: str, receipt_handles: Iterable[str]) -> None:
    """Deletes received messages. One this fails for is received again, and found to be done."""

    def delete_batch(handles: Sequence[str]) -> None:
        entries: Any = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(handles)]
        with contextlib.suppress(Retryable), failing_fast(sqs, "a queue cannot be reached") as client:
            client.delete_message_batch(QueueUrl=queue_url, Entries=entries)

    map_concurrently(delete_batch, batched(receipt_handles, BATCH_ENTRIES, strict=False))


def send_messages(
    queue_url: str,
    bodies: Sequence[Body],
    *,
    claim_bucket: str,
    group: str | None = None,
    attributes: Mapping[str, str] | None = None,
) -> set[int]:
    """Sends messages in batches and returns the indexes of those that did not get there."""
    common: dict[str, Any] = {"MessageGroupId": group} if group else {}
    if attributes:
        common["MessageAttributes"] = {
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }

    def send_batch(indexes: list[int]) -> set[int]:
        entries: Any = [{"Id": str(index), "MessageBody": bodies[index].text, **common} for index in indexes]
        try:
            for index in indexes:
                _store_claim(bodies[index], claim_bucket)
            with failing_fast(sqs, "a queue cannot be reached") as client:
                answer = client.send_message_batch(QueueUrl=queue_url, Entries=entries)
        except Retryable:
            return set(indexes)
        return set(indexes) - {int(sent["Id"]) for sent in answer.get("Successful", [])}

    return set().union(*map_concurrently(send_batch, _batches(bodies)))


def change_visibility(queue_url: str, delays: Iterable[tuple[str, int]]) -> None:
    """Makes received messages visible again after so many seconds, by receipt handle.

    A message this fails for stays invisible for the queue's own timeout: later, but not lost.
    """

    def postpone_batch(chunk: Sequence[tuple[str, int]]) -> None:
        entries: Any = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for number, (handle, seconds) in enumerate(chunk)
        ]
        with contextlib.suppress(Retryable), failing_fast(sqs, "a queue cannot be reached") as client:
            client.change_message_visibility_batch(QueueUrl=queue_url, Entries=entries)

    map_concurrently(postpone_batch, batched(delays, BATCH_ENTRIES, strict=False))


def _store_claim(body: Body, claim_bucket: str) -> None:
    if body.claim_key is not None:
        put_object(claim_bucket, body.claim_key, body.claim_bytes)


def _batches(bodies: Sequence[Body]) -> Iterator[list[int]]:
    chunk: list[int] = []
    size = 0
    for index, body in enumerate(bodies):
        length = len(body.text.encode())
        if chunk and (len(chunk) == BATCH_ENTRIES or size + length > BATCH_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += length
    if chunk:
        yield chunk
