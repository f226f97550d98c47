"""Sends, deletes and postpones SQS messages, a batch at a time."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import batched
from types import MappingProxyType
from typing import Any, Final

from sluice import seals
from sluice.aws import clients, s3
from sluice.aws.sealing import Sealing
from sluice.errors import Retryable
from sluice.message import MESSAGE_BYTES, Body

BATCH_ENTRIES: Final = 10  # of one SQS batch call
BATCH_BYTES: Final = (
    MESSAGE_BYTES  # of all bodies in one call; the limit is that of a message, attributes included
)


def send_message(body: Body, account: str, *, queue_url: str, claim_bucket: str, sealing: Sealing) -> None:
    """Sends one sealed message to the queue, after its claim check is in S3; raises `Retryable` if it is not
    safe there.
    """
    attributes = _attributes({seals.NAME: sealing.of_message(body.text)})
    _store_claim(body, claim_bucket)
    with clients.translating_errors("the events queue cannot be reached"):
        # The group makes a standard queue fair between accounts; it does not order anything.
        clients.sqs().send_message(
            QueueUrl=queue_url, MessageBody=body.text, MessageGroupId=account, MessageAttributes=attributes
        )


def count_messages(queue_url: str) -> int:
    """Returns about how many messages a queue has, whatever their state; raises `Retryable` if it is not
    known.
    """
    names: Any = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    ]
    with clients.translating_errors("a queue cannot be reached"):
        answer = clients.sqs().get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)
    return sum(int(answer["Attributes"][name]) for name in names)


def delete_messages(queue_url: str, receipt_handles: Iterable[str]) -> None:
    """Deletes received messages. One this fails for is received again, and found to be done."""

    def delete_batch(handles: Sequence[str]) -> None:
        entries: Any = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(handles)]
        with (
            contextlib.suppress(Retryable),
            clients.failing_fast(clients.sqs, "a queue cannot be reached") as client,
        ):
            client.delete_message_batch(QueueUrl=queue_url, Entries=entries)

    clients.map_concurrently(delete_batch, batched(receipt_handles, BATCH_ENTRIES, strict=False))


def send_messages(
    queue_url: str,
    bodies: Sequence[Body],
    *,
    claim_bucket: str,
    sealing: Sealing,
    group: str | None = None,
    attributes: Mapping[str, str] = MappingProxyType({}),
) -> set[int]:
    """Sends sealed messages in batches and returns the indexes of those that did not get there."""
    common: dict[str, Any] = {"MessageGroupId": group} if group else {}

    def entry(index: int) -> dict[str, Any]:
        text = bodies[index].text
        named = _attributes({**attributes, seals.NAME: sealing.of_message(text)})
        return {"Id": str(index), "MessageBody": text, "MessageAttributes": named, **common}

    def send_batch(indexes: list[int]) -> set[int]:
        try:
            entries: Any = list(map(entry, indexes))
            for index in indexes:
                _store_claim(bodies[index], claim_bucket)
            with clients.failing_fast(clients.sqs, "a queue cannot be reached") as client:
                answer = client.send_message_batch(QueueUrl=queue_url, Entries=entries)
        except Retryable:
            return set(indexes)
        return set(indexes) - {int(sent["Id"]) for sent in answer.get("Successful", [])}

    return set().union(*clients.map_concurrently(send_batch, _batches(bodies)))


def change_visibility(queue_url: str, delays: Iterable[tuple[str, int]]) -> None:
    """Makes received messages visible again after so many seconds, by receipt handle.

    A message this fails for stays invisible for the queue's own timeout: later, but not lost.
    """

    def postpone_batch(chunk: Sequence[tuple[str, int]]) -> None:
        entries: Any = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for number, (handle, seconds) in enumerate(chunk)
        ]
        with (
            contextlib.suppress(Retryable),
            clients.failing_fast(clients.sqs, "a queue cannot be reached") as client,
        ):
            client.change_message_visibility_batch(QueueUrl=queue_url, Entries=entries)

    clients.map_concurrently(postpone_batch, batched(delays, BATCH_ENTRIES, strict=False))


def _store_claim(body: Body, claim_bucket: str) -> None:
    if body.claim_key is not None:
        s3.put_object(claim_bucket, body.claim_key, body.claim_bytes)


def _attributes(texts: Mapping[str, str]) -> Any:
    return {name: {"DataType": "String", "StringValue": text} for name, text in texts.items()}


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
