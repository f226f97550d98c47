"""Finds poison messages, which end the process that handles them, and keeps the others from them.

While redelivered messages are handled, an S3 object names them: the in-flight journal. A journal entry that
outlives its process names the suspects of a crash. Suspects are handled after all others, a few at a time and
in another order each time, and completed ones are deleted at once. The next crash leaves a smaller group of
suspects, until each is tried alone. A message that has then ended `MAX_SOLO_CRASHES` processes is poison, and
is not tried again.

No part of a batch is larger than the memory, because a small message may unpack to a large one.
"""

import contextlib
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final

from sluice import runtime
from sluice.aws import clients, s3, state_table
from sluice.errors import Retryable

SUSPECT_PARTS: Final = 16
MAX_SOLO_CRASHES: Final = 16
JOURNAL_PREFIX: Final = "unfinished/"
MAX_JOURNAL_ENTRIES: Final = 100  # the newest are read; if there are more, no message is the cause
_KEY_BASE: Final = 10**10  # S3 lists keys in ascending order, and the newest are wanted first


def split_batch(
    sizes: Mapping[int, int], crash_groups: Iterable[Set[int]], most: int, chance: random.Random
) -> list[list[int]]:
    """Splits a batch into parts to handle one after the other, each of at most `most` bytes.

    `sizes` are the messages' sizes by number. `crash_groups` are the messages that a process was handling
    when it ended, by process. Messages of no such group come first, and together if they fit.
    """
    left = set(sizes)
    groups = []
    for group in sorted(crash_groups, key=len):  # a message is most suspect in its smallest group
        groups.append(sorted(group & left))
        left -= group
    chunks = [[number for number in sizes if number in left]]
    for suspects in reversed(groups):
        chance.shuffle(suspects)
        size = -(-len(suspects) // SUSPECT_PARTS) or 1
        chunks += [suspects[start : start + size] for start in range(0, len(suspects), size)]
    return [part for chunk in chunks for part in _chunks_that_fit(chunk, sizes, most)]


def _chunks_that_fit(numbers: Iterable[int], sizes: Mapping[int, int], most: int) -> Iterator[list[int]]:
    part: list[int] = []
    total = 0
    for number in numbers:
        if part and total + sizes[number] > most:
            yield part
            part, total = [], 0
        part.append(number)
        total += sizes[number]
    if part:
        yield part


@contextlib.contextmanager
def journal(bucket: str, message_ids: Iterable[str], end: float) -> Iterator[None]:
    """Journals messages, by id, for the length of the block.

    `end` (epoch seconds) is when the process ends at the latest. Without S3 nothing is journaled, and nobody
    is suspected later.
    """
    key = f"{JOURNAL_PREFIX}{_KEY_BASE - math.ceil(end)}-{runtime.unique_id()}"
    with contextlib.suppress(Retryable):
        s3.put_object(bucket, key, "\n".join(message_ids).encode())
    yield  # for its messages an exception is like a crash, so the entry stays
    with contextlib.suppress(Retryable):
        s3.delete_object(bucket, key)


def crashed_groups(bucket: str, now: float) -> list[frozenset[str]]:
    """Returns the message ids that processes which ended before `now` (epoch seconds) were handling, by
    process.
    """
    with clients.translating_errors("the in-flight journal cannot be listed"):
        answer = clients.s3().list_objects_v2(Bucket=bucket, Prefix=JOURNAL_PREFIX, MaxKeys=1_000)
    keys = [found["Key"] for found in answer.get("Contents", [])]
    over = [key for key in keys if _journal_end(key) < now][:MAX_JOURNAL_ENTRIES]
    return [
        group for group in clients.map_concurrently(lambda key: _journal_group(bucket, key), over) if group
    ]


def _journal_end(key: str) -> int:
    return _KEY_BASE - int(key.removeprefix(JOURNAL_PREFIX).partition("-")[0])


def _journal_group(bucket: str, key: str) -> frozenset[str]:
    try:
        return frozenset(s3.claim_reader(bucket)(key).decode().splitlines())
    except Retryable:
        return frozenset()  # it has expired meanwhile, or is read the next time


def start_solo(table: str, message_id: str) -> int:
    """Records that a message is tried alone, and returns how often that ended its process before."""
    with clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client:
        answer = client.update_item(
            TableName=table,
            Key=state_table.SOLO.key(message_id),
            UpdateExpression="SET expires_at = :expiry ADD trials :one",
            ExpressionAttributeValues={
                ":expiry": state_table.SOLO.expiry(runtime.time()),
                ":one": {"N": "1"},
            },
            ReturnValues="UPDATED_NEW",
        )
    return int(answer["Attributes"]["trials"]["N"]) - 1


def finish_solo(table: str, message_id: str) -> None:
    """Records that a message was tried and its process lives."""
    with clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client:
        client.delete_item(TableName=table, Key=state_table.SOLO.key(message_id))
