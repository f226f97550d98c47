"""Models SQS: standard queues with visibility, receive counts, redrive, retention and fair groups.

A standard queue may hand messages out in another order and, rarely, twice. Its `Disorder` says how often.
Without one it is first in, first out, as moto is.
"""

import heapq
import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.aws.errors import error

type Listener = Callable[[str, "Queue", "Message"], None]

MAX_BYTES = 1_048_576
MAX_ENTRIES = 10
MAX_VISIBILITY = 43_200
REORDERED = 12  # places by which a message may come too early or too late
FAIR_FROM = 8  # messages in flight above which a group is served after the others
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _ignore(event: str, queue: "Queue", message: "Message") -> None:
    """Hears nothing."""


@dataclass(eq=False, slots=True)
class Message:
    """Holds a message on a queue; `handles` are the receipt handles given out for it, the latest last."""

    id: str
    body: str
    sent: float
    group: str | None
    attributes: dict[str, dict[str, str]]
    visible_at: float
    receives: int = 0
    first_received: float | None = None
    handles: list[str] = field(default_factory=list)
    rank: int = 0  # in which order it became visible


@dataclass(frozen=True)
class Disorder:
    """Says what a standard queue does by chance: `twice` is the probability of handing a message out twice.

    `heeds_old` is the probability with which a deletion by an older receipt handle takes effect.
    """

    chance: random.Random
    twice: float = 0.0
    heeds_old: float = 0.5


class Queue:
    """Models one standard queue; `heard` is told when a message is sent, received, postponed,
    deleted, moved or expired.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        *,
        visibility: float = 30.0,
        retention: float = 345_600.0,
        dead_letters: "Queue | None" = None,
        max_receives: int = 0,
        disorder: Disorder | None = None,
        new_id: Callable[[], str] | None = None,
        heard: Listener = _ignore,
    ) -> None:
        self.name = name
        self.visibility = visibility
        self.messages: dict[str, Message] = {}
        self.receives = 0
        self.clock = clock
        self._retention = retention
        self._dead_letters = dead_letters
        self._max_receives = max_receives
        self._disorder = disorder
        self._heard = heard
        self._numbers = itertools.count(1)
        self._new_id = new_id or (lambda: f"{name}-{next(self._numbers)}")
        self._visible: dict[str | None, dict[str, Message]] = defaultdict(dict)  # by group and id, in order
        self._hidden: list[tuple[float, int, Message]] = []
        self._expiries: list[tuple[float, int, Message]] = []
        self._by_handle: dict[str, Message] = {}
        self.most_in_flight = 0
        self._in_flight: dict[str, Message] = {}
        self._busy: Counter[str | None] = Counter()  # messages in flight, by group

    def send(self, body: str, group: str | None, attributes: dict[str, dict[str, str]]) -> Message:
        """Puts a new message on the queue."""
        now = self.clock()
        message = Message(self._new_id(), body, now, group, attributes, now)
        self._take(message, "sent")
        return message

    def receive(self, most: int) -> list[Message]:
        """Hands out up to `most` visible messages; those received too often go to the dead letters."""
        now = self.clock()
        self._show(now)
        given: list[Message] = []
        for message in self._in_order(most):
            if len(given) == most:
                break
            if self._max_receives and message.receives >= self._max_receives:
                self._move(message)
                continue
            self._hand_out(message, now)
            given.append(message)
        return given

    def delete(self, handle: str) -> bool:
        """Deletes the message of a receipt handle; False if the queue never gave that out."""
        message = self._by_handle.get(handle)
        if message is None:
            return False
        latest = handle == message.handles[-1]
        heeded = latest or self._disorder is None or self._disorder.chance.random() < self._disorder.heeds_old
        if heeded and message.id in self.messages:
            self._forget(message)
            self._heard("deleted", self, message)
        return True

    def change_visibility(self, handle: str, seconds: int) -> str | None:
        """Makes a received message visible after so many seconds; the code of what is wrong, if it is."""
        if not 0 <= seconds <= MAX_VISIBILITY:
            return "InvalidParameterValue"
        message = self._by_handle.get(handle)
        if message is None:
            return "ReceiptHandleIsInvalid"
        now = self.clock()
        if message.id not in self.messages or message.visible_at <= now:
            return "MessageNotInflight"
        self._hide(message, now + seconds)
        return None

    def next_visible(self) -> float | None:
        """Returns when the next message can be received; None if nothing waits for that."""
        self._show(self.clock())
        if any(self._visible.values()):
            return self.clock()
        self._drop_stale()
        return self._hidden[0][0] if self._hidden else None

    def _take(self, message: Message, event: str) -> None:
        self.messages[message.id] = message
        heapq.heappush(self._expiries, (message.sent + self._retention, next(self._numbers), message))
        self._reveal(message)
        self._heard(event, self, message)

    def _reveal(self, message: Message) -> None:
        message.rank = next(self._numbers)
        self._visible[message.group][message.id] = message

    def _in_order(self, most: int) -> list[Message]:
        """Returns visible messages as the queue hands them out: those of busy groups last."""
        quiet = [found.values() for group, found in self._visible.items() if self._busy[group] < FAIR_FROM]
        busy = [found.values() for group, found in self._visible.items() if self._busy[group] >= FAIR_FROM]
        found: list[Message] = []
        for groups in (quiet, busy):
            merged = heapq.merge(*groups, key=lambda message: message.rank)
            messages = list(itertools.islice(merged, most + REORDERED - len(found)))
            if self._disorder is not None:
                chance = self._disorder.chance
                ranked = [
                    (place + chance.random() * REORDERED, message) for place, message in enumerate(messages)
                ]
                ranked.sort(key=lambda each: each[0])
                messages = [message for _, message in ranked]
            found += messages
        return found

    def _hand_out(self, message: Message, now: float) -> None:
        message.receives += 1
        self.receives += 1
        if message.first_received is None:
            message.first_received = now
        handle = f"{message.id}/{message.receives}"
        message.handles.append(handle)
        self._by_handle[handle] = message
        disorder = self._disorder
        stays = disorder is not None and disorder.twice and disorder.chance.random() < disorder.twice
        overlaps = message.id in self._in_flight
        if not overlaps:
            self._in_flight[message.id] = message
            self._busy[message.group] += 1
            self.most_in_flight = max(self.most_in_flight, len(self._in_flight))
        message.visible_at = now + self.visibility
        heapq.heappush(self._hidden, (message.visible_at, next(self._numbers), message))
        if not stays:
            self._visible[message.group].pop(message.id, None)
        self._heard("received", self, message)
        if overlaps or stays:
            self._heard("handed out twice", self, message)

    def _hide(self, message: Message, until: float) -> None:
        message.visible_at = until
        self._visible[message.group].pop(message.id, None)
        heapq.heappush(self._hidden, (until, next(self._numbers), message))
        self._heard("postponed", self, message)

    def _show(self, now: float) -> None:
        while self._hidden and self._hidden[0][0] <= now:
            at, _, message = heapq.heappop(self._hidden)
            if message.id in self.messages and message.visible_at == at:
                self._reveal(message)
                self._land(message)
        while self._expiries and self._expiries[0][0] <= now:
            message = heapq.heappop(self._expiries)[2]
            if self.messages.get(message.id) is message:
                self._forget(message)
                self._heard("expired", self, message)

    def _drop_stale(self) -> None:
        while self._hidden:
            at, _, message = self._hidden[0]
            if message.id in self.messages and message.visible_at == at:
                return
            heapq.heappop(self._hidden)

    def _move(self, message: Message) -> None:
        self._forget(message)
        if self._dead_letters is not None:
            # A dead letter keeps the time of its first sending: its retention goes on.
            moved = Message(
                message.id, message.body, message.sent, message.group, message.attributes, self.clock()
            )
            moved.receives = message.receives
            self._dead_letters._take(moved, "moved")
        self._heard("redriven", self, message)

    def _forget(self, message: Message) -> None:
        del self.messages[message.id]
        self._visible[message.group].pop(message.id, None)
        self._land(message)

    def _land(self, message: Message) -> None:
        if self._in_flight.pop(message.id, None):
            self._busy[message.group] -= 1


class SQS:
    """Holds the queues by their URLs, with the operations of boto3's client."""

    def __init__(self, queues: Iterable[Queue]) -> None:
        self.queues = {f"https://sqs.test/{queue.name}": queue for queue in queues}

    def url(self, queue: Queue) -> str:
        """Returns the URL of a queue."""
        return next(url for url, each in self.queues.items() if each is queue)

    def send_message(self, **given: Any) -> dict[str, Any]:
        """Puts one message on a queue."""
        _only(given, {"QueueUrl", "MessageBody", "MessageGroupId", "MessageAttributes"})
        queue = self._queue(given, "SendMessage")
        _check_body(given["MessageBody"], given.get("MessageAttributes", {}), "SendMessage")
        return {"MessageId": _send(queue, given).id}

    def send_message_batch(self, **given: Any) -> dict[str, Any]:
        """Puts up to ten messages on a queue, each of which may fail by itself."""
        queue, entries = self._batch(given, "SendMessageBatch")
        sizes = [
            _check_body(each["MessageBody"], each.get("MessageAttributes", {}), "SendMessageBatch")
            for each in entries
        ]
        if sum(sizes) > MAX_BYTES:
            raise error("AWS.SimpleQueueService.BatchRequestTooLong", "SendMessageBatch")
        for each in entries:
            _only(each, {"Id", "MessageBody", "MessageGroupId", "MessageAttributes"})
        return {"Successful": [{"Id": each["Id"], "MessageId": _send(queue, each).id} for each in entries]}

    def delete_message_batch(self, **given: Any) -> dict[str, Any]:
        """Deletes up to ten received messages, each of which may fail by itself."""
        queue, entries = self._batch(given, "DeleteMessageBatch")
        return _results(
            (each["Id"], None if queue.delete(each["ReceiptHandle"]) else "ReceiptHandleIsInvalid")
            for each in entries
        )

    def change_message_visibility_batch(self, **given: Any) -> dict[str, Any]:
        """Changes when up to ten received messages are visible again, each of which may fail by itself."""
        queue, entries = self._batch(given, "ChangeMessageVisibilityBatch")
        return _results(
            (each["Id"], queue.change_visibility(each["ReceiptHandle"], each["VisibilityTimeout"]))
            for each in entries
        )

    def receive_message(self, **given: Any) -> dict[str, Any]:
        """Receives up to ten messages, with all attributes."""
        _only(given, {"QueueUrl", "MaxNumberOfMessages", "AttributeNames", "MessageAttributeNames"})
        received = self._queue(given, "ReceiveMessage").receive(given.get("MaxNumberOfMessages", 1))
        messages = [
            {
                "MessageId": message.id,
                "ReceiptHandle": message.handles[-1],
                "Body": message.body,
                "Attributes": attributes_of(message),
                "MessageAttributes": message.attributes,
            }
            for message in received
        ]
        return {"Messages": messages} if messages else {}

    def _batch(self, given: dict[str, Any], operation: str) -> tuple[Queue, list[dict[str, Any]]]:
        _only(given, {"QueueUrl", "Entries"})
        queue, entries = self._queue(given, operation), given["Entries"]
        if not entries:
            raise error("AWS.SimpleQueueService.EmptyBatchRequest", operation)
        if len(entries) > MAX_ENTRIES:
            raise error("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", operation)
        if len({each["Id"] for each in entries}) != len(entries):
            raise error("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", operation)
        return queue, entries

    def _queue(self, given: dict[str, Any], operation: str) -> Queue:
        try:
            return self.queues[given["QueueUrl"]]
        except KeyError:
            raise error("AWS.SimpleQueueService.NonExistentQueue", operation) from None


def attributes_of(message: Message) -> dict[str, str]:
    """Returns a received message's system attributes, all texts."""
    attributes = {
        "ApproximateReceiveCount": str(message.receives),
        "SentTimestamp": str(int(message.sent * 1_000)),
        "ApproximateFirstReceiveTimestamp": str(int((message.first_received or 0.0) * 1_000)),
    }
    return attributes | ({"MessageGroupId": message.group} if message.group else {})


def _send(queue: Queue, given: dict[str, Any]) -> Message:
    return queue.send(given["MessageBody"], given.get("MessageGroupId"), given.get("MessageAttributes", {}))


def _check_body(body: str, attributes: dict[str, Any], operation: str) -> int:
    if not body or _FORBIDDEN.search(body):
        raise error("InvalidMessageContents", operation)
    size = len(body.encode()) + sum(
        len(name) + len(value["DataType"]) + len(value["StringValue"].encode())
        for name, value in attributes.items()
    )
    if size > MAX_BYTES:
        raise error("InvalidParameterValue", operation)
    return size


def _results(outcomes: Iterator[tuple[str, str | None]]) -> dict[str, Any]:
    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for identity, code in outcomes:
        if code is None:
            done.append({"Id": identity})
        else:
            failed.append({"Id": identity, "Code": code, "SenderFault": True})
    return ({"Successful": done} if done else {}) | ({"Failed": failed} if failed else {})


def _only(given: dict[str, Any], known: set[str]) -> None:
    if unknown := given.keys() - known:
        raise NotImplementedError(f"parameters {sorted(unknown)}")
