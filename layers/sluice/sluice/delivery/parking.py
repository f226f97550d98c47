"""Parks an account's messages in S3 while its circuit is open, where waiting costs nothing.

The item `parked` of the state table is a register. It names each account that may have parked messages, with
a mark that changes each time something is parked. An account is registered before anything of it is parked,
so no object lies where nobody looks. It is not deregistered while a worker that registered it may still be
about to park.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import zstandard

from sluice import runtime
from sluice.aws import clients, s3, state_table

PARKED_PREFIX: Final = "parked/"
# Limits of one object, which a function with little memory sends without looking at the clock.
OBJECT_MESSAGES: Final = 500
OBJECT_BYTES: Final = 16 * 2**20
REGISTERED_SECONDS: Final = 1_200.0  # a third longer than any function may run
_REGISTER: Final = state_table.PARKED.key()


def park(table: str, bucket: str, account_id: str, messages: Iterable[bytes]) -> None:
    """Parks an account's messages (each one's JSON) until its circuit closes."""
    with clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client:
        client.update_item(
            TableName=table,
            Key=_REGISTER,
            UpdateExpression="SET #site = :mark",
            ExpressionAttributeNames={"#site": account_id},
            ExpressionAttributeValues={":mark": {"S": _unique_time()}},
        )
    for lines in _objects(messages):
        # The time comes first in a key, so that a listing begins with the oldest.
        s3.put_object(bucket, f"{PARKED_PREFIX}{account_id}/{_unique_time()}.jsonl.zst", lines)


def registered_accounts(table: str) -> dict[str, str]:
    """Returns the accounts that may have something parked, by site id, with their marks."""
    with clients.failing_fast(clients.dynamodb, "the state table cannot be read") as client:
        item = client.get_item(TableName=table, Key=_REGISTER, ConsistentRead=True).get("Item", {})
    return {name: value["S"] for name, value in item.items() if name != "pk"}


def deregister(table: str, account_id: str, mark: str) -> None:
    """Removes an account from the register if nobody can be parking for it since its mark was read."""
    if runtime.time() - float(mark.partition("-")[0]) < REGISTERED_SECONDS:
        return
    with (
        clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client,
        contextlib.suppress(client.exceptions.ConditionalCheckFailedException),
    ):
        client.update_item(
            TableName=table,
            Key=_REGISTER,
            UpdateExpression="REMOVE #site",
            ConditionExpression="#site = :mark",
            ExpressionAttributeNames={"#site": account_id},
            ExpressionAttributeValues={":mark": {"S": mark}},
        )


def parked_objects(bucket: str, account_id: str) -> dict[str, int]:
    """Returns an account's parked objects, their sizes by key, the oldest first; the first 1,000 of them."""
    with clients.translating_errors("parked messages cannot be listed"):
        answer = clients.s3().list_objects_v2(Bucket=bucket, Prefix=f"{PARKED_PREFIX}{account_id}/")
    return {found["Key"]: found["Size"] for found in answer.get("Contents", [])}


def parked_messages(bucket: str, key: str) -> list[bytes]:
    """Returns the messages of a parked object, each as its JSON."""
    packed = s3.claim_reader(bucket)(key)
    with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
        return reader.read().split(b"\n")


def keep_only(bucket: str, key: str, messages: Sequence[bytes]) -> None:
    """Leaves only these messages in a parked object, as the others are on the queue again."""
    if messages:
        s3.put_object(bucket, key, _compressed(messages))
    else:
        s3.delete_object(bucket, key)


def _objects(messages: Iterable[bytes]) -> Iterator[bytes]:
    group: list[bytes] = []
    size = 0
    for message in messages:
        if group and (len(group) == OBJECT_MESSAGES or size + len(message) > OBJECT_BYTES):
            yield _compressed(group)
            group, size = [], 0
        group.append(message)
        size += len(message)
    if group:
        yield _compressed(group)


def _compressed(messages: Iterable[bytes]) -> bytes:
    # A message written by hand may have line ends, which JSON has between its tokens only.
    lines = b"\n".join(message.replace(b"\n", b" ") for message in messages)
    return zstandard.ZstdCompressor(level=3).compress(lines)


def _unique_time() -> str:
    return f"{runtime.time():.3f}-{runtime.unique_id()}"
