"""Tests the event source mapping's decisions, and its runner against clients in memory."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from botocore.exceptions import ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st

from devstack.event_source_mapping.batches import Gathering, Held, Limits, hold, payload, record
from devstack.event_source_mapping.response import failed_ids
from devstack.event_source_mapping.runner import Runner, through
from devstack.event_source_mapping.settings import RefusedError, Settings, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

QUEUE = "arn:aws:sqs:eu-north-1:000000000000:events"
FUNCTION = "arn:aws:lambda:eu-north-1:000000000000:function:dispatch"
NOTHING: frozenset[str] = frozenset()
BATCH = frozenset({"a", "b", "c"})


# The meaning of an answer


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (b"", NOTHING),
        (b"null", NOTHING),
        (b"{}", NOTHING),
        (b'{"statusCode": 200}', NOTHING),
        (b'{"batchItemFailures": null}', NOTHING),
        (b'{"batchItemFailures": []}', NOTHING),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}]}', {"b"}),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "b"}]}', {"b"}),
        (
            b'{"batchItemFailures": [{"itemIdentifier": "a", "reason": "x"}, {"itemIdentifier": "c"}]}',
            {"a", "c"},
        ),
        (b'{"batchItemFailures": [{"itemIdentifier": ""}]}', BATCH),
        (b'{"batchItemFailures": [{"itemIdentifier": null}]}', BATCH),
        (b'{"batchItemFailures": [{"itemIdentifier": 7}]}', BATCH),
        (b'{"batchItemFailures": [{"itemIdentifier": "unknown"}]}', BATCH),
        (b'{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "unknown"}]}', BATCH),
        (b'{"batchItemFailures": [{"itemidentifier": "a"}]}', BATCH),
        (b'{"batchItemFailures": [{}]}', BATCH),
        (b'{"batchItemFailures": ["a"]}', BATCH),
        (b'{"batchItemFailures": [null]}', BATCH),
        (b'{"batchItemFailures": "a"}', BATCH),
        (b'{"batchItemFailures": {"itemIdentifier": "a"}}', BATCH),
        (b'{"batchItemFailures": 0}', BATCH),
        (b'{"batchItemFailures": [', BATCH),
        (b"done", BATCH),
        (b"\xff", BATCH),
        (b'"done"', BATCH),
        (b"[]", BATCH),
        (b"true", BATCH),
    ],
)
def test_answer(answer: bytes, failed: set[str]) -> None:
    assert failed_ids(answer, BATCH) == failed


# The event


def message(name: str, body: str = "{}") -> dict[str, Any]:
    return {"MessageId": name, "ReceiptHandle": f"handle-{name}", "Body": body, "MD5OfBody": "0" * 32}


def test_record_has_the_shape_of_aws() -> None:
    received = message("m", "grün") | {
        "Attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1700000000000"},
        "MessageAttributes": {
            "source": {"StringValue": "shop", "DataType": "String"},
            "count": {"StringValue": "7", "DataType": "Number"},
            "raw": {"BinaryValue": b"\x00\xff", "DataType": "Binary"},
        },
        "MD5OfMessageAttributes": "1" * 32,
    }

    built = record(received, QUEUE)  # type: ignore[arg-type]

    lists: dict[str, list[str]] = {"stringListValues": [], "binaryListValues": []}
    assert built == {
        "messageId": "m",
        "receiptHandle": "handle-m",
        "body": "grün",
        "attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1700000000000"},
        "messageAttributes": {
            "source": {"stringValue": "shop", **lists, "dataType": "String"},
            "count": {"stringValue": "7", **lists, "dataType": "Number"},
            "raw": {"binaryValue": "AP8=", **lists, "dataType": "Binary"},
        },
        "md5OfMessageAttributes": "1" * 32,
        "md5OfBody": "0" * 32,
        "eventSource": "aws:sqs",
        "eventSourceARN": QUEUE,
        "awsRegion": "eu-north-1",
    }


def test_record_without_message_attributes_has_no_digest_of_them() -> None:
    built = record(message("m"), QUEUE)  # type: ignore[arg-type]

    assert built["messageAttributes"] == {}
    assert "md5OfMessageAttributes" not in built


def test_payload_is_the_event_of_all_records() -> None:
    batch = [hold(message(name), QUEUE, 0.0) for name in "abc"]  # type: ignore[arg-type]

    event = json.loads(payload(batch))

    assert [entry["messageId"] for entry in event["Records"]] == ["a", "b", "c"]


# Gathering


def held(name: str, size: int = 10, received_at: float = 0.0) -> Held:
    return Held(name, f"handle-{name}", b"x" * size, received_at)


def filled(limits: Limits, *messages: Held) -> Gathering:
    gathering = Gathering(limits)
    gathering.answer(gathering.ask(), messages)
    return gathering


def test_an_idle_queue_is_polled_by_one_receiver() -> None:
    gathering = Gathering(Limits(records=100, hold_seconds=5, visibility_seconds=60))

    assert [gathering.ask() for _ in range(3)] == [10, 0, 0]

    gathering.answer(10, [held(str(n)) for n in range(10)])

    assert [gathering.ask() for _ in range(3)] == [10, 10, 10]

    gathering.answer(10, [])

    assert gathering.ask() == 0


def test_together_requests_take_no_more_than_the_batch_holds() -> None:
    gathering = filled(Limits(records=25, hold_seconds=5, visibility_seconds=60), held("first"))

    assert [gathering.ask() for _ in range(4)] == [10, 10, 4, 0]


def test_large_records_are_asked_for_by_the_room_that_is_left() -> None:
    limits = Limits(records=100, hold_seconds=5, visibility_seconds=60, payload_bytes=1000)
    gathering = filled(limits, held("a", 199), held("b", 199))

    assert [gathering.ask() for _ in range(2)] == [2, 0]


@pytest.mark.parametrize(
    ("now", "count"), [(10.0, 0), (14.9, 0), (15.0, 2)], ids=["at once", "just before", "when due"]
)
def test_the_window_starts_with_the_first_message(now: float, count: int) -> None:
    limits = Limits(records=100, hold_seconds=5, visibility_seconds=60)
    gathering = filled(limits, held("a", received_at=10.0), held("b", received_at=14.0))

    assert gathering.due == 15.0
    assert len(gathering.take(now)) == count


def test_without_a_window_what_came_goes_at_once() -> None:
    gathering = filled(Limits(records=10, hold_seconds=0, visibility_seconds=60), held("a"), held("b"))

    assert len(gathering.take(0.0)) == 2


def test_a_full_batch_goes_before_its_window_ends() -> None:
    gathering = filled(Limits(records=2, hold_seconds=5, visibility_seconds=60), held("a"), held("b"))

    assert len(gathering.take(0.0)) == 2


def test_what_does_not_fit_opens_the_next_batch() -> None:
    limits = Limits(records=100, hold_seconds=5, visibility_seconds=60, payload_bytes=500)
    gathering = filled(limits, held("a", 300), held("b", 300), held("c", 50))

    assert [m.message_id for m in gathering.take(0.0)] == ["a"]
    assert gathering.take(0.0) == []
    assert [m.message_id for m in gathering.take(5.0)] == ["b", "c"]


@pytest.mark.parametrize(("room", "count"), [(0, 2), (-1, 1)], ids=["fits exactly", "one byte too many"])
def test_the_payload_counts_to_the_byte(room: int, count: int) -> None:
    pair = [held("a", 70), held("b", 31)]
    limits = Limits(2, hold_seconds=5, visibility_seconds=60, payload_bytes=len(payload(pair)) + room)

    assert len(filled(limits, *pair).take(0.0)) == count


def test_messages_that_everybody_can_receive_again_are_dropped() -> None:
    limits = Limits(records=100, hold_seconds=5, visibility_seconds=20)
    gathering = filled(limits, held("old", received_at=0.0), held("new", received_at=10.0))

    assert [m.message_id for m in gathering.take(20.0)] == ["new"]


def test_narrower_limits_hold_for_what_is_already_gathered() -> None:
    gathering = filled(Limits(records=100, hold_seconds=5, visibility_seconds=60), *map(held, "abc"))

    gathering.limit(Limits(records=2, hold_seconds=5, visibility_seconds=60))

    assert [m.message_id for m in gathering.take(0.0)] == ["a", "b"]
    assert [m.message_id for m in gathering.drain()] == ["c"]


@given(
    records=st.integers(1, 30),
    payload_bytes=st.integers(100, 1000),
    hold_seconds=st.integers(0, 3),
    rounds=st.lists(
        st.tuples(st.integers(1, 4), st.lists(st.integers(1, 300), max_size=20), st.booleans()), min_size=5
    ),
)
def test_batches_hold_every_message_once_and_keep_the_limits(
    records: int, payload_bytes: int, hold_seconds: int, rounds: list[tuple[int, list[int], bool]]
) -> None:
    limits = Limits(records, hold_seconds, visibility_seconds=1_000_000, payload_bytes=payload_bytes)
    gathering = Gathering(limits)
    requests: list[int] = []
    received: list[Held] = []
    sent: list[Held] = []
    early: list[list[Held]] = []

    for now, (receivers, sizes, late) in enumerate(rounds):
        requests += [asked for _ in range(receivers) if (asked := gathering.ask())]
        assert all(1 <= asked <= 10 for asked in requests)
        assert sum(requests) <= records
        while len(requests) > late:
            asked = requests.pop()
            came = [held(str(len(received) + n), size, now) for n, size in enumerate(sizes[:asked])]
            del sizes[:asked]
            received += came
            gathering.answer(asked, came)
        while batch := gathering.take(now):
            assert len(batch) <= records
            assert len(batch) == 1 or len(payload(batch)) <= payload_bytes
            if now < batch[0].received_at + hold_seconds:
                early.append(batch)
            sent += batch

    assert sent + gathering.drain() == received
    for batch in early:
        following = received[received.index(batch[-1]) + 1 :]
        assert len(batch) == records or len(payload([*batch, following[0]])) > payload_bytes


# Settings


def mapping(**changes: Any) -> dict[str, Any]:
    return {
        "UUID": "u",
        "EventSourceArn": QUEUE,
        "FunctionArn": FUNCTION,
        "BatchSize": 1000,
        "MaximumBatchingWindowInSeconds": 5,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "ScalingConfig": {"MaximumConcurrency": 2},
        **changes,
    }


def settings(timeout: int = 10, visibility: int = 60, **changes: Any) -> Settings:
    return parse(mapping(**changes), {"Timeout": timeout}, "http://queue", visibility)


def test_settings_are_those_of_the_mapping() -> None:
    read = settings()

    assert (read.batch_size, read.window, read.concurrency, read.reports_failures) == (1000, 5, 2, True)
    assert read.label == "events -> dispatch"


def test_settings_default_to_those_of_aws() -> None:
    bare = {"UUID": "u", "EventSourceArn": QUEUE, "FunctionArn": FUNCTION}

    read = parse(bare, {"Timeout": 3}, "http://queue", 30)

    assert (read.batch_size, read.window, read.concurrency, read.reports_failures) == (10, 0, 5, False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"EventSourceArn": f"{QUEUE}.fifo"}, "FIFO"),
        ({"FilterCriteria": {"Filters": [{"Pattern": "{}"}]}}, "FilterCriteria"),
        ({"ProvisionedPollerConfig": {"MinimumPollers": 2}}, "ProvisionedPollerConfig"),
        ({"BatchSize": 0}, "from 1 to 10000"),
        ({"BatchSize": 10_001}, "from 1 to 10000"),
        ({"MaximumBatchingWindowInSeconds": 301}, "from 0 to 300"),
        ({"BatchSize": 11, "MaximumBatchingWindowInSeconds": 0}, "at least 1"),
        ({"ScalingConfig": {"MaximumConcurrency": 1}}, "from 2 to 1000"),
        ({"ScalingConfig": {"MaximumConcurrency": 1001}}, "from 2 to 1000"),
        ({"timeout": 61}, "Queue visibility timeout: 60 seconds is less than Function timeout: 61 seconds"),
    ],
)
def test_what_aws_refuses_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RefusedError, match=sentence):
        settings(**changes)


@pytest.mark.parametrize(
    ("window", "timeout", "visibility", "seconds"),
    [(5, 10, 60, 5), (60, 10, 60, 50), (300, 60, 60, 30)],
    ids=["as set", "leaves the function its timeout", "leaves half of the visibility"],
)
def test_a_batch_is_not_held_beyond_its_visibility(
    window: int, timeout: int, visibility: int, seconds: float
) -> None:
    read = settings(timeout, visibility, MaximumBatchingWindowInSeconds=window)

    assert read.limits.hold_seconds == seconds


# The runner, against clients in memory


class Queue:
    """Plays an SQS client for one queue whose messages stay hidden once received."""

    def __init__(self, *names: str) -> None:
        self.visible = [message(name) for name in names]
        self.deleted: list[str] = []
        self.given_back: list[str] = []
        self.delete_failures: list[dict[str, Any]] = []
        self.lock = threading.Lock()

    def receive_message(self, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:  # noqa: N803
        with self.lock:
            received = self.visible[:MaxNumberOfMessages]
            self.visible = self.visible[MaxNumberOfMessages:]
        if not received:
            time.sleep(0.01)
        return {"Messages": received}

    def delete_message_batch(self, Entries: Sequence[dict[str, str]], **_: Any) -> dict[str, Any]:  # noqa: N803
        with self.lock:
            failed, self.delete_failures = self.delete_failures, []
            kept = {entry["Id"] for entry in failed}
            self.deleted += [
                e["ReceiptHandle"].removeprefix("handle-") for e in Entries if e["Id"] not in kept
            ]
        return {"Failed": failed}

    def change_message_visibility_batch(self, Entries: Sequence[dict[str, Any]], **_: Any) -> None:  # noqa: N803
        assert all(entry["VisibilityTimeout"] == 0 for entry in Entries)
        self.given_back += [entry["ReceiptHandle"].removeprefix("handle-") for entry in Entries]


class ThrottledError(Exception):
    pass


class Function:
    """Plays a Lambda client whose function gives the answers it is told to, then succeeds."""

    class exceptions:  # noqa: N801
        TooManyRequestsException: ClassVar = ThrottledError

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.batches: list[list[str]] = []

    def invoke(self, Payload: bytes, **_: Any) -> dict[str, Any]:  # noqa: N803
        self.batches.append([entry["messageId"] for entry in json.loads(Payload)["Records"]])
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, Exception):
            raise answer
        return {"Payload": io.BytesIO(b"null"), **answer}


type Start = Callable[..., Runner]


@pytest.fixture
def start() -> Iterator[Start]:
    runners: list[Runner] = []

    def start_runner(queue: Queue, function: Function, **changes: Any) -> Runner:
        chosen = settings(**{"BatchSize": 10, "MaximumBatchingWindowInSeconds": 0, **changes})
        runner = Runner(chosen, queue, through(function), lambda *_, **__: None)  # type: ignore[arg-type]
        runner.start()
        runners.append(runner)
        return runner

    yield start_runner
    for runner in runners:
        runner.stop(grace=5)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_done_batch_is_deleted(start: Start) -> None:
    queue, function = Queue(*"abc"), Function()

    start(queue, function)

    until(lambda: sorted(queue.deleted) == ["a", "b", "c"])
    assert function.batches == [["a", "b", "c"]]


def test_only_what_did_not_fail_is_deleted(start: Start) -> None:
    answer = {"Payload": io.BytesIO(b'{"batchItemFailures": [{"itemIdentifier": "b"}]}')}
    queue = Queue(*"abc")

    start(queue, Function(answer))

    until(lambda: len(queue.deleted) == 2)
    assert sorted(queue.deleted) == ["a", "c"]


def test_without_partial_responses_any_answer_deletes_the_batch(start: Start) -> None:
    answer = {"Payload": io.BytesIO(b'{"batchItemFailures": [{"itemIdentifier": "b"}]}')}
    queue = Queue(*"abc")

    start(queue, Function(answer), FunctionResponseTypes=[])

    until(lambda: len(queue.deleted) == 3)


@pytest.mark.parametrize(
    "answer", [{"FunctionError": "Unhandled"}, ReadTimeoutError(endpoint_url="http://f")]
)
def test_after_an_error_the_batch_stays(start: Start, answer: Any) -> None:
    queue, function = Queue("a"), Function(answer)
    runner = start(queue, function)
    until(lambda: len(function.batches) == 1)

    runner.stop(grace=5)

    assert queue.deleted == queue.given_back == []


def test_a_throttled_batch_is_sent_again_whole(start: Start) -> None:
    queue, function = Queue(*"abc"), Function(ThrottledError(), ThrottledError())

    start(queue, function)

    until(lambda: len(queue.deleted) == 3)
    assert function.batches == [["a", "b", "c"]] * 3


def test_a_throttled_batch_is_given_back_at_the_end(start: Start) -> None:
    queue, function = Queue("a"), Function(*[ThrottledError()] * 100)
    runner = start(queue, function)
    until(lambda: len(function.batches) >= 2)

    assert runner.stop(grace=5)

    assert queue.given_back == ["a"]


def test_messages_still_held_are_given_back_at_the_end(start: Start) -> None:
    queue, function = Queue(*"abc"), Function()
    runner = start(queue, function, BatchSize=1000, MaximumBatchingWindowInSeconds=30)
    until(lambda: not queue.visible)

    assert runner.stop(grace=5)

    assert sorted(queue.given_back) == ["a", "b", "c"]
    assert function.batches == []


def test_a_deletion_that_failed_at_the_queue_is_tried_again(start: Start) -> None:
    queue = Queue(*"abc")
    queue.delete_failures = [{"Id": "1", "SenderFault": False}]

    start(queue, Function())

    until(lambda: sorted(queue.deleted) == ["a", "b", "c"])


def test_a_deletion_that_comes_too_late_is_not_tried_again(start: Start) -> None:
    queue = Queue(*"abc")
    queue.delete_failures = [{"Id": "1", "SenderFault": True}]
    runner = start(queue, Function())
    until(lambda: len(queue.deleted) == 2)

    runner.stop(grace=5)

    assert sorted(queue.deleted) == ["a", "c"]
