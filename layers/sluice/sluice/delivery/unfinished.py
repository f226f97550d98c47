"""What processes had in hand when they ended.

The messages of a part are noted in one S3 object before they are handled, and the object is deleted
afterwards. One that is left when its process must be over names what that process died with.
"""

import contextlib
import math
import uuid
from collections.abc import Iterable, Iterator
from typing import Final

from sluice import aws
from sluice.errors import Retryable

PREFIX: Final = "unfinished/"
MOST: Final = 100  # notes looked at, the newest: if there are more, it is no message that ends processes
_KEY_BASE: Final = 10**10  # S3 lists keys in their order, and the newest are wanted first


@contextlib.contextmanager
def noted(bucket: str, message_ids: Iterable[str], end: float) -> Iterator[None]:
    """Notes messages, by id, for as long as the block takes; `end` is when its process ends at the latest.

    `end` is in epoch seconds. Without S3 nothing is noted, and nobody is suspected later.
    """
    key = f"{PREFIX}{_KEY_BASE - math.ceil(end)}-{uuid.uuid4().hex}"
    with contextlib.suppress(Retryable):
        aws.put(bucket, key, "\n".join(message_ids).encode())
    yield  # an exception ends the process as far as its messages are concerned: the note stays
    with contextlib.suppress(Retryable):
        aws.remove(bucket, key)


def groups(bucket: str, now: float) -> list[frozenset[str]]:
    """The message ids that processes which ended before `now` (epoch seconds) had in hand, by process."""
    with aws.reaching("the notes of what is in hand cannot be listed"):
        answer = aws.s3().list_objects_v2(Bucket=bucket, Prefix=PREFIX, MaxKeys=1_000)
    keys = [found["Key"] for found in answer.get("Contents", [])]
    over = [key for key in keys if _end(key) < now][:MOST]
    return [group for group in aws.at_once(lambda key: _group(bucket, key), over) if group]


def _end(key: str) -> int:
    return _KEY_BASE - int(key.removeprefix(PREFIX).partition("-")[0])


def _group(bucket: str, key: str) -> frozenset[str]:
    try:
        return frozenset(aws.claim_reader(bucket)(key).decode().splitlines())
    except Retryable:
        return frozenset()  # it has expired meanwhile, or is read the next time
