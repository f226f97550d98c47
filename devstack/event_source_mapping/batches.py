"""Gathers batches: turns a received message into a record, and decides when a batch has to go.

Nothing here waits, calls or looks at a clock. Not for use by several threads at once.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mypy_boto3_sqs.type_defs import MessageAttributeValueOutputTypeDef, MessageTypeDef

INVOCATION_BYTES = 6 * 1024 * 1024
RECEIVE_MESSAGES = 10
_HEAD, _TAIL = b'{"Records":[', b"]}"


@dataclass(frozen=True, slots=True)
class Held:
    """Holds a received message, which is ours until its visibility timeout ends.

    record: its part of the invocation's payload. received_at: seconds on the caller's clock.
    """

    message_id: str
    receipt_handle: str
    record: bytes
    received_at: float


@dataclass(frozen=True)
class Limits:
    """Says when a batch is complete.

    records: its most messages. hold_seconds: the longest wait of its first message. visibility_seconds: the
    time for which a received message is ours. payload_bytes: the most that an invocation carries.
    """

    records: int
    hold_seconds: float
    visibility_seconds: float
    payload_bytes: int = INVOCATION_BYTES


def hold(message: MessageTypeDef, queue_arn: str, received_at: float) -> Held:
    """Makes a message of ReceiveMessage ready to be sent."""
    return Held(
        message["MessageId"],
        message["ReceiptHandle"],
        json.dumps(record(message, queue_arn), ensure_ascii=False, separators=(",", ":")).encode(),
        received_at,
    )


def record(message: MessageTypeDef, queue_arn: str) -> dict[str, Any]:
    """Returns one entry of the event's `Records`."""
    digest = message.get("MD5OfMessageAttributes")
    attributes = message.get("MessageAttributes", {})
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": dict(message.get("Attributes", {})),
        "messageAttributes": {name: _message_attribute(value) for name, value in attributes.items()},
        **({"md5OfMessageAttributes": digest} if digest else {}),
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }


def _message_attribute(value: MessageAttributeValueOutputTypeDef) -> dict[str, Any]:
    content = (
        {"binaryValue": base64.b64encode(value["BinaryValue"]).decode()}
        if "BinaryValue" in value
        else {"stringValue": value.get("StringValue")}
    )
    return {**content, "stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}


def payload(batch: Sequence[Held]) -> bytes:
    """Returns the event with which a function is invoked."""
    return _HEAD + b",".join(message.record for message in batch) + _TAIL


class Gathering:
    """Gathers a batch, and keeps messages that were already received for the one after it.

    Several receivers fill it. Each asks how many messages to request (`ask`) and hands in those that came
    (`answer`), so together they request no more than the batch still takes.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._asked = 0
        self._idle = True
        self._record_bytes = 0.0
        self._start_batch(())

    def ask(self) -> int:
        """Returns how many messages to request now, at most ten; 0 if enough are on their way.

        A queue that just gave nothing is polled by one receiver. So is one whose records may not fit: the
        room left is estimated from the size of the records that came last.
        """
        if self._complete or (self._idle and self._asked):
            return 0
        room = self._limits.records - len(self._batch) - self._asked
        if self._record_bytes:
            left = self._limits.payload_bytes - self._bytes
            room = min(room, int(left / self._record_bytes) - self._asked)
        if room <= 0:
            room = 0 if self._asked else 1
        asked = min(room, RECEIVE_MESSAGES)
        self._asked += asked
        return asked

    def answer(self, asked: int, received: Sequence[Held]) -> None:
        """Takes the messages that came of a request for `asked` ones."""
        self._asked -= asked
        self._idle = not received
        if received:
            self._record_bytes = sum(len(message.record) + 1 for message in received) / len(received)
        for message in received:
            self._add(message)

    @property
    def due(self) -> float | None:
        """Returns when the batch has to go even if it is not complete; None while it is empty."""
        return self._batch[0].received_at + self._limits.hold_seconds if self._batch else None

    def take(self, now: float) -> list[Held]:
        """Returns the batch if it has to go now, else nothing."""
        if self._batch and self._batch[0].received_at + self._limits.visibility_seconds <= now:
            self._start_batch([message for message in self.drain() if self.ours(message, now)])
        due = self.due
        if not self._complete and (due is None or now < due):
            return []
        batch = self._batch
        self._start_batch(self._later)
        return batch

    def limit(self, limits: Limits) -> None:
        """Applies other limits from now on."""
        self._limits = limits
        self._start_batch(self.drain())

    def drain(self) -> list[Held]:
        """Returns every message held and holds none any longer."""
        everything = self._batch + self._later
        self._start_batch(())
        return everything

    def ours(self, message: Held, now: float) -> bool:
        """Tells whether the queue still hides a message from everybody else."""
        return now < message.received_at + self._limits.visibility_seconds

    def _start_batch(self, messages: Iterable[Held]) -> None:
        self._batch: list[Held] = []
        self._later: list[Held] = []
        self._bytes = len(_HEAD) + len(_TAIL) - 1
        self._complete = False
        for message in messages:
            self._add(message)

    def _add(self, message: Held) -> None:
        grown = self._bytes + len(message.record) + 1
        if self._complete or (self._batch and grown > self._limits.payload_bytes):
            self._complete = True
            self._later.append(message)
            return
        self._batch.append(message)
        self._bytes = grown
        self._complete = len(self._batch) >= self._limits.records
