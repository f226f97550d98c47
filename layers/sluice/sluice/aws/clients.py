"""Makes the process's AWS clients on first use, as Lambda bills initialisation, and names their errors."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from sluice import runtime
from sluice.errors import Retryable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

MAX_CONCURRENT_CALLS: Final = 16  # ten thousand messages take a thousand batch calls, within seconds
SLOW_FAILURE_SECONDS: Final = 0.4  # a failure that takes longer makes further calls fail fast
FAIL_FAST_SECONDS: Final = 5.0  # the time for which calls then fail fast

_failing_until: Final[dict[Callable[[], Any], float]] = {}
_one_at_a_time: Final = threading.Lock()


def _client(
    service: str,
    *,
    connect_timeout: float = 2,
    read_timeout: float = 5,
    attempts: int = 3,
    signature: str | None = None,
) -> Any:
    import boto3  # noqa: PLC0415 - importing it costs more than a warm request
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
        signature_version=signature,
    )
    with _one_at_a_time:  # clients may be used by several threads, but not made by them
        return boto3.client(service, config=config)  # type: ignore[call-overload]


@functools.cache
def sqs() -> "SQSClient":
    """Returns the process's SQS client."""
    return _client("sqs")  # type: ignore[no-any-return]


@functools.cache
def s3() -> "S3Client":
    """Returns the process's S3 client."""
    return _client("s3")  # type: ignore[no-any-return]


@functools.cache
def dynamodb() -> "DynamoDBClient":
    """Returns the process's DynamoDB client."""
    return _client("dynamodb", read_timeout=2)  # type: ignore[no-any-return]  # it answers in milliseconds


@functools.cache
def cloudwatch() -> Any:
    """Returns the process's CloudWatch client."""
    return _client("cloudwatch")


@functools.cache
def low_latency_dynamodb() -> "DynamoDBClient":
    """Returns the process's DynamoDB client for optional calls: it asks once, and not for long."""
    return _client("dynamodb", connect_timeout=0.5, read_timeout=0.5, attempts=1)  # type: ignore[no-any-return]


@functools.cache
def low_latency_s3() -> "S3Client":
    """Returns the process's S3 client for objects that it has a copy of: waiting too long could end the
    process.
    """
    return _client("s3", connect_timeout=1, read_timeout=2, attempts=2)  # type: ignore[no-any-return]


@functools.cache
def presigning_s3() -> "S3Client":
    """Returns the process's S3 client for presigned URLs; in old regions boto3 signs them as S3 no longer
    recommends.
    """
    return _client("s3", signature="s3v4")  # type: ignore[no-any-return]


@functools.cache
def sts_endpoint() -> str:
    """Returns the URL of STS in this partition and region, or of the endpoint that is configured."""
    return _client("sts").meta.endpoint_url  # type: ignore[no-any-return]


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
    """Works like `translating_errors`, but after a slow failure it fails fast for 5 s.

    So a service that hangs is waited for only once, and not by each of its many callers.
    """
    client = service()
    begin = runtime.monotonic()
    if begin < _failing_until.get(service, 0.0):
        raise Retryable(otherwise)
    try:
        with translating_errors(otherwise):
            yield client
    except Retryable:
        now = runtime.monotonic()
        if now - begin >= SLOW_FAILURE_SECONDS:
            _failing_until[service] = now + FAIL_FAST_SECONDS
        raise


def retrying_closed_connection[T](call: Callable[[], T]) -> T:
    """Calls a client that asks once, and once more if its connection was closed while the process was
    frozen.
    """
    from botocore.exceptions import ConnectionClosedError  # noqa: PLC0415

    try:
        return call()
    except ConnectionClosedError:
        return call()


def map_concurrently[T, R](call: Callable[[T], R], arguments: Iterable[T]) -> list[R]:
    """Returns the result of a call for each argument, some calls at a time."""
    return runtime.map_concurrently(call, arguments, threads=MAX_CONCURRENT_CALLS)
