"""Reads and writes S3 objects, claims among them."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluice.aws import clients
from sluice.errors import Retryable

if TYPE_CHECKING:
    from botocore.response import StreamingBody

_VERSIONS: Final = 10  # of a key are listed, the newest first; names that only begin with it come after
_OTHERS_WROTE: Final = frozenset({"PreconditionFailed", "ConditionalRequestConflict"})
_GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchBucket", "PreconditionFailed"})


def put_object(
    bucket: str, key: str, content: bytes, metadata: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Writes one object. `Retryable` if it is not safe there."""
    more: Any = {"Metadata": metadata} if metadata else {}
    with clients.translating_errors("an object cannot be written"):
        clients.s3().put_object(Bucket=bucket, Key=key, Body=content, **more)


def delete_object(bucket: str, key: str) -> None:
    """Deletes one object, if it is there. `Retryable` if that is not sure."""
    with clients.translating_errors("an object cannot be deleted"):
        clients.s3().delete_object(Bucket=bucket, Key=key)


def folders(bucket: str, prefix: str) -> Iterator[str]:
    """Yields the names of the folders directly below a prefix that ends in a slash, in order."""
    wanted: Any = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
    while True:
        with clients.translating_errors("a bucket cannot be listed"):
            answer = clients.s3().list_objects_v2(**wanted)
        for found in answer.get("CommonPrefixes", []):
            yield found["Prefix"].removeprefix(prefix).removesuffix("/")
        if not answer["IsTruncated"]:
            return
        wanted["ContinuationToken"] = answer["NextContinuationToken"]


def keys(bucket: str, prefix: str, *, after: str = "") -> Iterator[str]:
    """Yields the keys of objects below a prefix that come after a key, in order."""
    wanted: Any = {"Bucket": bucket, "Prefix": prefix} | ({"StartAfter": after} if after else {})
    while True:
        with clients.translating_errors("a bucket cannot be listed"):
            answer = clients.s3().list_objects_v2(**wanted)
        for found in answer.get("Contents", []):
            yield found["Key"]
        if not answer["IsTruncated"]:
            return
        wanted["ContinuationToken"] = answer["NextContinuationToken"]


class ObjectChanged(Exception):
    """Says that an object is not the one that was to be replaced."""


def replace_object(bucket: str, key: str, content: bytes, *, etag: str | None) -> None:
    """Writes an object in place of the one with this ETag; without one, where there is none.

    Raises `ObjectChanged`, and `Retryable` if it is not safe there.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415

    condition: Any = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
    with clients.translating_errors("an object cannot be written"):
        try:
            clients.s3().put_object(Bucket=bucket, Key=key, Body=content, **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] in _OTHERS_WROTE:
                raise ObjectChanged from error
            raise


def get_object(bucket: str, key: str) -> tuple[str, bytes] | None:
    """Returns an object's ETag and bytes, or None if there is none. Raises `Retryable`."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    with clients.translating_errors("an object cannot be read"):
        try:
            answer = clients.s3().get_object(Bucket=bucket, Key=key)
            return answer["ETag"], answer["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise


def get_range(bucket: str, key: str, start: int, end: int) -> bytes | None:
    """Returns the bytes of an object from `start` to before `end`; None if there is no such object.

    Raises `Retryable` if S3 does not answer.
    """
    client = clients.s3()
    with clients.translating_errors("an object cannot be read"):
        try:
            answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")
            return answer["Body"].read()
        except client.exceptions.NoSuchKey:
            return None


def presign_get(bucket: str, key: str, *, seconds: int) -> str:
    """Returns a URL by which anybody can read an object for so many seconds."""
    return clients.presigning_s3().generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
    )


def presign_put(
    bucket: str,
    key: str,
    *,
    size: int,
    seconds: int,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Returns a URL by which anybody can write an object of this many bytes for so many seconds.

    Its metadata are signed: they have to be sent as the headers that they are.
    """
    parameters = {"Bucket": bucket, "Key": key, "ContentLength": size, "Metadata": dict(metadata)}
    return clients.presigning_s3().generate_presigned_url("put_object", Params=parameters, ExpiresIn=seconds)


def get_object_if_changed(bucket: str, key: str, etag: str | None) -> tuple[str, bytes] | None:
    """Returns an object's ETag and bytes, or None if it still has the given ETag.

    Both are empty if the object does not exist. Raises `Retryable` if S3 does not answer soon.
    """
    found = get_version_if_changed(bucket, key, etag)
    return None if found is None else (found.etag, found.content)


class ObjectVersion(msgspec.Struct, frozen=True):
    """Holds a version of an object: its ETag, its bytes, and when it was written (epoch seconds)."""

    etag: str
    content: bytes
    written: float


def get_version_if_changed(bucket: str, key: str, etag: str | None) -> ObjectVersion | None:
    """Returns an object as it is now, or None if it still has the given ETag.

    ETag and bytes are empty if the object does not exist. Raises `Retryable` if S3 does not answer soon.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415

    condition: Any = {"IfNoneMatch": etag} if etag else {}
    try:
        with clients.translating_errors("an object cannot be read"):
            answer = clients.low_latency_s3().get_object(Bucket=bucket, Key=key, **condition)
            return ObjectVersion(answer["ETag"], answer["Body"].read(), answer["LastModified"].timestamp())
    except Retryable as error:
        cause = error.__cause__
        code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else ""
        if code in {"304", "NotModified"}:
            return None
        if code == "NoSuchKey":
            return ObjectVersion("", b"", 0.0)
        raise


def get_previous_version(bucket: str, key: str) -> ObjectVersion | None:
    """Returns the version of an object before its current one, or None if there is none.

    Raises `Retryable` if S3 does not answer soon.
    """
    client = clients.low_latency_s3()
    with clients.translating_errors("the versions of an object cannot be read"):
        listed = client.list_object_versions(Bucket=bucket, Prefix=key, MaxKeys=_VERSIONS)
        versions = [
            each for each in listed.get("Versions", []) if each["Key"] == key and not each["IsLatest"]
        ]
        if not versions:
            return None
        answer = client.get_object(Bucket=bucket, Key=key, VersionId=versions[0]["VersionId"])
        return ObjectVersion(answer["ETag"], answer["Body"].read(), answer["LastModified"].timestamp())


def claim_reader(claim_bucket: str) -> Callable[[str], bytes]:
    """Returns a function that reads a claim check's bytes by key; it raises `Retryable` if S3 cannot give
    them.
    """

    def fetch(key: str) -> bytes:
        with clients.failing_fast(clients.s3, "a claim cannot be read") as client:
            return client.get_object(Bucket=claim_bucket, Key=key)["Body"].read()

    return fetch


def get_object_with_metadata(bucket: str, key: str) -> tuple[bytes, Mapping[str, str]]:
    """Returns an object's bytes, and what its writer says of it; raises `Retryable`."""
    with clients.failing_fast(clients.s3, "an object cannot be read") as client:
        answer = client.get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["Metadata"]


class OpenedObject(msgspec.Struct, frozen=True):
    """Holds an S3 object that is being read: what its writer says of it, and its bytes in pieces."""

    metadata: Mapping[str, str]
    pieces: Iterator[bytes]


class ObjectGone(Exception):
    """Says that the wanted object is not there: deleted, or written anew since."""


def open_object(
    bucket: str, key: str, *, version: str | None, etag: str | None, start: int, piece_bytes: int
) -> OpenedObject:
    """Opens an object at its byte `start`; it has no pieces if it ends there.

    Raises `ObjectGone`; this and reading on may raise `Retryable`.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415

    which: Any = {"VersionId": version} if version else {"IfMatch": f'"{etag}"'} if etag else {}
    if start:
        which["Range"] = f"bytes={start}-"
    with clients.translating_errors("an object cannot be read"):
        try:
            answer = clients.s3().get_object(Bucket=bucket, Key=key, **which)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "InvalidRange":
                return OpenedObject({}, iter(()))
            if code in _GONE:
                raise ObjectGone from error
            raise
    return OpenedObject(answer["Metadata"], _pieces(answer["Body"], piece_bytes))


def _pieces(body: "StreamingBody", piece_bytes: int) -> Iterator[bytes]:
    while True:
        with clients.translating_errors("an object cannot be read"):
            piece = body.read(piece_bytes)
        if not piece:
            return
        yield piece
