"""Parks an account's messages in S3 while its circuit is open, where waiting costs nothing.

Each account has a folder of its own, below one of two: `parked/`, or `unknown/` for accounts that the
accounts document does not name. S3's listing of the folders, which is always up to date, says which accounts
have something parked. So no record of it can be full, late or wrong, and unknown accounts take no room or
time from known ones. Messages from BackgroundQueue are in `background/` of the account's folder, and go back
there. A listing has them after the live ones.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import msgspec
import zstandard

from sluice import runtime, seals
from sluice.aws import clients, s3
from sluice.aws.sealing import Sealing

PARKED_PREFIX: Final = "parked/"
UNKNOWN_PREFIX: Final = "unknown/"
_BACKGROUND: Final = "background/"
# Limits of one object, which a function with little memory sends without looking at the clock.
OBJECT_MESSAGES: Final = 500
OBJECT_BYTES: Final = 16 * 2**20
MAX_UNKNOWN_ACCOUNTS: Final = 5_000  # looked at in one tick
MAX_LISTED: Final = 1_000  # keys of one listing
_NAME: Final = re.compile(r"/(?P<time>[0-9.]+)-[^/-]+-(?P<messages>[0-9]+)\.jsonl\.zst\Z")


class ParkedMessages(msgspec.Struct, frozen=True):
    """Says how many messages of an account are parked, at least if there `is_more`, and since when."""

    messages: int = 0
    oldest: datetime | None = None
    is_more: bool = False


class NotSealed(Exception):
    """Says that a parked object was not written by Sluice, or was sealed with a key that is not live."""


def park(
    bucket: str,
    account_id: str,
    messages: Iterable[bytes],
    *,
    sealing: Sealing,
    prefix: str = PARKED_PREFIX,
    is_background: bool = False,
) -> None:
    """Parks an account's messages (each one's JSON) until its circuit closes, or until it is known."""
    folder = f"{prefix}{account_id}/{_BACKGROUND if is_background else ''}"
    for group in _groups(messages):
        # The time comes first in a key, so that a listing begins with the oldest.
        name = f"{runtime.time():.3f}-{runtime.unique_id()}-{len(group)}.jsonl.zst"
        _put(bucket, f"{folder}{name}", _compressed(group), sealing)


def is_background(key: str) -> bool:
    """Tells whether a parked object's messages came from BackgroundQueue."""
    return key.split("/")[2] == _BACKGROUND.rstrip("/")


def parked_accounts(bucket: str) -> list[str]:
    """Returns the ids of the accounts that have something parked."""
    return list(s3.folders(bucket, PARKED_PREFIX))


def unknown_accounts(bucket: str) -> list[str]:
    """Returns the ids of accounts that were unknown when something of them was parked."""
    return list(islice(s3.folders(bucket, UNKNOWN_PREFIX), MAX_UNKNOWN_ACCOUNTS))


def parked_objects(bucket: str, account_id: str, *, prefix: str = PARKED_PREFIX) -> list[str]:
    """Returns the keys of an account's parked objects, the first 1,000: live ones first, then the oldest."""
    with clients.translating_errors("parked messages cannot be listed"):
        answer = clients.s3().list_objects_v2(Bucket=bucket, Prefix=f"{prefix}{account_id}/")
    return [found["Key"] for found in answer.get("Contents", [])]


def parked_messages(bucket: str, key: str, sealing: Sealing) -> list[bytes]:
    """Returns the messages of a parked object, each as its JSON. Raises `NotSealed` for one of others."""
    packed, metadata = s3.get_object_with_metadata(bucket, key)
    if not sealing.is_own_object(key, packed, metadata.get(seals.NAME)):
        raise NotSealed
    with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
        return reader.read().split(b"\n")


def keep_only(bucket: str, key: str, messages: Sequence[bytes], sealing: Sealing) -> None:
    """Leaves only these messages of a parked object, as the others are on the queue again."""
    if messages:
        name = f"{key.rpartition('-')[0]}-{len(messages)}.jsonl.zst"
        _put(bucket, name, _compressed(messages), sealing)
        if name == key:
            return
    s3.delete_object(bucket, key)


def described(keys: Sequence[str]) -> ParkedMessages:
    """Describes the parked objects of an account by their keys, which are all there are or the oldest."""
    found = [named for key in keys if (named := _NAME.search(key))]
    return ParkedMessages(
        sum(int(named["messages"]) for named in found),
        min((datetime.fromtimestamp(float(named["time"]), UTC) for named in found), default=None),
        len(keys) >= MAX_LISTED,
    )


def _put(bucket: str, key: str, content: bytes, sealing: Sealing) -> None:
    s3.put_object(bucket, key, content, {seals.NAME: sealing.of_object(key, content)})


def _groups(messages: Iterable[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for message in messages:
        if group and (len(group) == OBJECT_MESSAGES or size + len(message) > OBJECT_BYTES):
            yield group
            group, size = [], 0
        group.append(message)
        size += len(message)
    if group:
        yield group


def _compressed(messages: Iterable[bytes]) -> bytes:
    # A message written by hand may have line ends, which JSON has between its tokens only.
    lines = b"\n".join(message.replace(b"\n", b" ") for message in messages)
    return zstandard.ZstdCompressor(level=3).compress(lines)
