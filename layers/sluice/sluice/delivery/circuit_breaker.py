"""An account's circuit: open while every job of it would be refused, until somebody mends the account.

While it is open its messages are parked in S3, where waiting costs nothing and nothing is received
again and again; one of them goes back to the queue each minute to see whether the account answers.
The item `parked` in the state table is a register: it names each account that may have something
parked, with a mark that is another each time something is. An account is registered before anything
of it is parked, so that nothing lies where nobody looks, and is not forgotten while whoever
registered it may still be about to park.
"""

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import zstandard

from sluice import aws

PARKED_PREFIX: Final = "parked/"
# Of one object: it is sent without looking at the clock, by a function with little memory.
OBJECT_MESSAGES: Final = 500
OBJECT_BYTES: Final = 16 * 2**20
REGISTERED_SECONDS: Final = 1_200.0  # at least: a third longer than any function may run
_REGISTER: Final = {"pk": {"S": "parked"}}


def is_open(table: str, site_id: str) -> bool:
    """Whether an account's circuit is open."""
    with aws.failing_fast(aws.dynamodb, "the state table cannot be read") as client:
        return "Item" in client.get_item(TableName=table, Key=_key(site_id), ConsistentRead=True)


def open_circuit(table: str, site_id: str, status: int) -> bool:
    """Opens an account's circuit because of an answer's `status`; True if it was closed."""
    item = {"status": {"N": str(status)}, "opened_at": {"N": str(int(time.time()))}}
    with aws.failing_fast(aws.dynamodb, "the state table cannot be written") as client:
        try:
            client.put_item(
                TableName=table,
                Item={**_key(site_id), **item},
                ConditionExpression="attribute_not_exists(pk)",
            )
        except client.exceptions.ConditionalCheckFailedException:
            return False
    return True


def close_circuit(table: str, site_id: str) -> None:
    """Closes an account's circuit; what is parked goes back to the queue at the next tick."""
    with aws.failing_fast(aws.dynamodb, "the state table cannot be written") as client:
        client.delete_item(TableName=table, Key=_key(site_id))


def park(table: str, bucket: str, site_id: str, messages: Iterable[bytes]) -> None:
    """Puts an account's messages (each one's JSON) aside, safe, until its circuit closes."""
    with aws.failing_fast(aws.dynamodb, "the state table cannot be written") as client:
        client.update_item(
            TableName=table,
            Key=_REGISTER,
            UpdateExpression="SET #site = :mark",
            ExpressionAttributeNames={"#site": site_id},
            ExpressionAttributeValues={":mark": {"S": _unique_time()}},
        )
    for lines in _objects(messages):
        # The time comes first in a key, so that a listing begins with what has waited longest.
        aws.put_object(bucket, f"{PARKED_PREFIX}{site_id}/{_unique_time()}.jsonl.zst", lines)


def registered_accounts(table: str) -> dict[str, str]:
    """The accounts that may have something parked, by site id, with their marks."""
    with aws.failing_fast(aws.dynamodb, "the state table cannot be read") as client:
        item = client.get_item(TableName=table, Key=_REGISTER, ConsistentRead=True).get("Item", {})
    return {name: value["S"] for name, value in item.items() if name != "pk"}


def deregister(table: str, site_id: str, mark: str) -> None:
    """Takes an account off the register if nobody can be parking for it since its mark was read."""
    if time.time() - float(mark.partition("-")[0]) < REGISTERED_SECONDS:
        return
    with (
        aws.failing_fast(aws.dynamodb, "the state table cannot be written") as client,
        contextlib.suppress(client.exceptions.ConditionalCheckFailedException),
    ):
        client.update_item(
            TableName=table,
            Key=_REGISTER,
            UpdateExpression="REMOVE #site",
            ConditionExpression="#site = :mark",
            ExpressionAttributeNames={"#site": site_id},
            ExpressionAttributeValues={":mark": {"S": mark}},
        )


def parked_objects(bucket: str, site_id: str) -> dict[str, int]:
    """An account's parked objects, their sizes by key, the oldest first; the first 1,000 of them."""
    with aws.translating_errors("parked messages cannot be listed"):
        answer = aws.s3().list_objects_v2(Bucket=bucket, Prefix=f"{PARKED_PREFIX}{site_id}/")
    return {found["Key"]: found["Size"] for found in answer.get("Contents", [])}


def parked_messages(bucket: str, key: str) -> list[bytes]:
    """The messages of a parked object, each as its JSON."""
    packed = aws.claim_reader(bucket)(key)
    with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
        return reader.read().split(b"\n")


def keep_only(bucket: str, key: str, messages: Sequence[bytes]) -> None:
    """Leaves only these messages in a parked object, as the others are on the queue again."""
    if messages:
        aws.put_object(bucket, key, _compressed(messages))
    else:
        aws.delete_object(bucket, key)


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
    return f"{time.time():.3f}-{uuid.uuid4().hex}"


def _key(site_id: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"circuit#{site_id}"}}
