"""Models S3: buckets of objects, whose writes are whole and whose listings are in order and up to date."""

import hashlib
import io
import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.simulation.aws.errors import error

type Listener = Callable[[str, str, bytes | None, bytes | None], None]

MAX_KEYS = 1_000
_RANGE = re.compile(r"bytes=(\d+)-")


def _ignore(bucket: str, key: str, before: bytes | None, after: bytes | None) -> None:
    """Hears nothing."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Holds an object as it was written last."""

    content: bytes
    written: float
    metadata: dict[str, str]

    @property
    def etag(self) -> str:
        """Returns the quoted ETag of an object written in one part."""
        return f'"{hashlib.md5(self.content, usedforsecurity=False).hexdigest()}"'


@dataclass(slots=True)
class _Bucket:
    objects: dict[str, StoredObject] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)  # in order


class S3:
    """Holds buckets by name; `heard` is told of each write: bucket, key, the content before and after it."""

    def __init__(self, buckets: Iterable[str], clock: Callable[[], float], heard: Listener = _ignore) -> None:
        self._buckets = {name: _Bucket() for name in buckets}
        self._clock = clock
        self._heard = heard

    def objects(self, bucket: str) -> dict[str, StoredObject]:
        """Returns a bucket's objects by key."""
        return self._buckets[bucket].objects

    def put_object(self, **given: Any) -> dict[str, Any]:
        """Writes an object."""
        _only(given, {"Bucket", "Key", "Body", "Metadata"})
        bucket = self._bucket(given["Bucket"], "PutObject")
        key, content = given["Key"], bytes(given["Body"])
        before = bucket.objects.get(key)
        if before is None:
            insort(bucket.keys, key)
        stored = StoredObject(content, self._clock(), dict(given.get("Metadata", {})))
        bucket.objects[key] = stored
        self._heard(given["Bucket"], key, before.content if before else None, content)
        return {"ETag": stored.etag}

    def get_object(self, **given: Any) -> dict[str, Any]:
        """Reads an object, from a byte on if a range is given."""
        _only(given, {"Bucket", "Key", "IfMatch", "IfNoneMatch", "Range"})
        found = self._bucket(given["Bucket"], "GetObject").objects.get(given["Key"])
        if found is None:
            raise error("NoSuchKey", "GetObject", status=404)
        if "IfMatch" in given and given["IfMatch"].strip('"') != found.etag.strip('"'):
            raise error("PreconditionFailed", "GetObject", status=412)
        if "IfNoneMatch" in given and given["IfNoneMatch"].strip('"') == found.etag.strip('"'):
            raise error("304", "GetObject", "Not Modified", status=304)
        content = found.content
        if "Range" in given:
            match = _RANGE.fullmatch(given["Range"])
            if match is None:
                raise NotImplementedError(f"range {given['Range']}")
            start = int(match[1])
            if start >= len(content):
                raise error("InvalidRange", "GetObject", status=416)
            content = content[start:]
        return {
            "Body": io.BytesIO(content),
            "ContentLength": len(content),
            "ETag": found.etag,
            "LastModified": datetime.fromtimestamp(found.written, UTC),
            "Metadata": dict(found.metadata),
        }

    def delete_object(self, **given: Any) -> dict[str, Any]:
        """Deletes an object; none being there is no error."""
        _only(given, {"Bucket", "Key"})
        bucket = self._bucket(given["Bucket"], "DeleteObject")
        before = bucket.objects.pop(given["Key"], None)
        if before is not None:
            bucket.keys.pop(bisect_left(bucket.keys, given["Key"]))
            self._heard(given["Bucket"], given["Key"], before.content, None)
        return {}

    def list_objects_v2(self, **given: Any) -> dict[str, Any]:
        """Lists the keys that begin with a prefix, or the folders in which they are, a page at a time."""
        _only(given, {"Bucket", "Prefix", "MaxKeys", "Delimiter", "ContinuationToken"})
        bucket = self._bucket(given["Bucket"], "ListObjectsV2")
        prefix, most = given.get("Prefix", ""), min(MAX_KEYS, given.get("MaxKeys", MAX_KEYS))
        keys: list[dict[str, Any]] = []
        folders: list[dict[str, str]] = []
        place = bisect_left(bucket.keys, max(prefix, given.get("ContinuationToken", "")))
        while place < len(bucket.keys) and (key := bucket.keys[place]).startswith(prefix):
            if len(keys) + len(folders) == most:
                break
            below, delimiter, _ = key.removeprefix(prefix).partition(given.get("Delimiter") or "\0")
            if delimiter:
                folders.append({"Prefix": prefix + below + delimiter})
                place = bisect_left(bucket.keys, folders[-1]["Prefix"] + "\U0010ffff")
            else:
                keys.append({"Key": key, "Size": len(bucket.objects[key].content)})
                place += 1
        is_truncated = place < len(bucket.keys) and bucket.keys[place].startswith(prefix)
        answer: dict[str, Any] = {"IsTruncated": is_truncated, "KeyCount": len(keys) + len(folders)}
        answer |= {name: given[name] for name in ("Prefix", "Delimiter") if name in given}
        if is_truncated:
            answer["NextContinuationToken"] = bucket.keys[place]
        if keys:
            answer["Contents"] = keys
        if folders:
            answer["CommonPrefixes"] = folders
        return answer

    def _bucket(self, name: str, operation: str) -> _Bucket:
        try:
            return self._buckets[name]
        except KeyError:
            raise error("NoSuchBucket", operation, status=404) from None


def _only(given: dict[str, Any], known: set[str]) -> None:
    if unknown := given.keys() - known:
        raise NotImplementedError(f"parameters {sorted(unknown)}")
