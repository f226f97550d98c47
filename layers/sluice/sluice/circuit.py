"""An account's circuit: open while every job of it would be refused, until somebody mends the account.

While it is open its messages are parked in S3, where waiting costs nothing and nothing is received
again and again; one of them goes back to the queue each minute to see whether the account answers.
The item `parked` in the state table counts, for each account that may have something parked, how
often something was.
"""

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Final

import zstandard

from sluice import aws

PARKED_PREFIX: Final = "parked/"
_REGISTER: Final = {"pk": {"S": "parked"}}


def is_open(table: str, site_id: str) -> bool:
    """Whether an account's circuit is open."""
    with aws.reaching("the state table cannot be read"):
        return "Item" in aws.dynamodb().get_item(TableName=table, Key=_key(site_id), ConsistentRead=True)


def open_circuit(table: str, site_id: str, status: int) -> bool:
    """Opens an account's circuit because of an answer's `status`; True if it was closed."""
    client = aws.dynamodb()
    item = {"status": {"N": str(status)}, "opened_at": {"N": str(int(time.time()))}}
    with aws.reaching("the state table cannot be written"):
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
    with aws.reaching("the state table cannot be written"):
        aws.dynamodb().delete_item(TableName=table, Key=_key(site_id))


def park(table: str, bucket: str, site_id: str, messages: Iterable[bytes]) -> None:
    """Puts an account's messages (each one's JSON) aside, safe, until its circuit closes."""
    lines = zstandard.ZstdCompressor(level=3).compress(b"\n".join(messages))
    aws.put(bucket, f"{PARKED_PREFIX}{site_id}/{uuid.uuid4().hex}.jsonl.zst", lines)
    # Counted after it is there, so that whoever read the count before can see it is not all.
    with aws.reaching("the state table cannot be written"):
        aws.dynamodb().update_item(
            TableName=table,
            Key=_REGISTER,
            UpdateExpression="ADD #site :one",
            ExpressionAttributeNames={"#site": site_id},
            ExpressionAttributeValues={":one": {"N": "1"}},
        )


def accounts_with_parked(table: str) -> dict[str, int]:
    """How often something was parked for each account that may have something parked, by site id."""
    with aws.reaching("the state table cannot be read"):
        item = aws.dynamodb().get_item(TableName=table, Key=_REGISTER, ConsistentRead=True).get("Item", {})
    return {name: int(value["N"]) for name, value in item.items() if name != "pk"}


def forget(table: str, site_id: str, count: int) -> None:
    """Takes an account off the register if nothing was parked since its count was read."""
    client = aws.dynamodb()
    with (
        aws.reaching("the state table cannot be written"),
        contextlib.suppress(client.exceptions.ConditionalCheckFailedException),
    ):
        client.update_item(
            TableName=table,
            Key=_REGISTER,
            UpdateExpression="REMOVE #site",
            ConditionExpression="#site = :count",
            ExpressionAttributeNames={"#site": site_id},
            ExpressionAttributeValues={":count": {"N": str(count)}},
        )


def parked_objects(bucket: str, site_id: str) -> list[str]:
    """Keys of an account's parked objects, the smallest first; the first 1,000 of them."""
    with aws.reaching("parked messages cannot be listed"):
        answer = aws.s3().list_objects_v2(Bucket=bucket, Prefix=f"{PARKED_PREFIX}{site_id}/")
    return [found["Key"] for found in sorted(answer.get("Contents", []), key=lambda found: found["Size"])]


def parked_messages(bucket: str, key: str) -> Iterator[bytes]:
    """The messages of a parked object, each as its JSON."""
    packed = aws.claim_reader(bucket)(key)
    with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
        yield from reader.read().split(b"\n")


def discard(bucket: str, key: str) -> None:
    """Deletes a parked object whose messages are on the queue again."""
    with aws.reaching("a parked object cannot be deleted"):
        aws.s3().delete_object(Bucket=bucket, Key=key)


def _key(site_id: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": f"circuit#{site_id}"}}
