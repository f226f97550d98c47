"""Tests the adapters: their requests to AWS, and what they make of its errors."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError

from sluice import message, runtime
from sluice.aws import clients, s3, sqs
from sluice.errors import Retryable
from sluice.message import Body
from tests.support import sealing
from tests.support.aws_stack import Cloud
from tests.support.sealing import SEALING

CLAIMED = Body('{"sluice":1,"claim":"claims/c1"}', "claims/c1", b"packed")
LIMIT = 1_048_576  # of one SQS call, attributes included


def plain(count: int, size: int = 10) -> list[Body]:
    return [Body(f"{number:0{size}}") for number in range(count)]


def sent(cloud: Cloud) -> list[list[str]]:
    """Returns the bodies of each batch call."""
    calls = cloud.calls.of("SendMessageBatch")
    return sorted([entry["MessageBody"] for entry in call["Entries"]] for call in calls)


def test_a_request_is_stored_with_its_account_as_the_group(cloud: Cloud) -> None:
    sqs.send_message(Body("text"), "AbC123", queue_url=cloud.events, claim_bucket="claims", sealing=SEALING)

    [call] = cloud.calls.of("SendMessage")
    seal = call.pop("MessageAttributes")["seal"]["StringValue"]
    assert call == {"QueueUrl": cloud.events, "MessageBody": "text", "MessageGroupId": "AbC123"}
    assert seal == sealing.seal("text")
    assert cloud.left() == ["text"]
    assert cloud.keys("claims") == []


def test_a_claim_is_there_before_the_message_that_points_to_it(cloud: Cloud) -> None:
    sqs.send_message(CLAIMED, "AbC123", queue_url=cloud.events, claim_bucket="claims", sealing=SEALING)

    assert [name for name, _ in cloud.calls.made] == ["GetSecretValue", "PutObject", "SendMessage"]
    assert cloud.content("claims", "claims/c1") == b"packed"
    assert s3.claim_reader("claims")("claims/c1") == b"packed"


def test_no_message_points_to_a_claim_that_is_not_there(cloud: Cloud) -> None:
    cloud.calls.fail("PutObject")

    with pytest.raises(Retryable):
        sqs.send_message(CLAIMED, "AbC123", queue_url=cloud.events, claim_bucket="claims", sealing=SEALING)

    assert cloud.left() == []


def here() -> None:
    """Plays a service."""


def there() -> None:
    """Plays another service."""


class TestAnswering:
    """Tests that a slow failure is waited for once."""

    @pytest.fixture(autouse=True)
    def _no_silence_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clients, "_failing_until", {})
        monkeypatch.setattr(runtime, "monotonic", lambda: self.now)

    now = 1_000.0

    def fails(self, service: Callable[[], None] = here, seconds: float = 0.0) -> bool:
        """Tells whether a call was made and failed, after so long; returns False if it was not made."""
        made = []

        def call() -> None:
            with clients.failing_fast(service, "it cannot be reached"):
                made.append(True)
                self.now += seconds
                raise ReadTimeoutError(endpoint_url="http://127.0.0.1")

        with pytest.raises(Retryable):
            call()
        return bool(made)

    def test_a_service_that_hung_is_not_asked_again_for_a_while(self) -> None:
        assert self.fails(seconds=6.0)

        assert not self.fails()
        self.now += clients.FAIL_FAST_SECONDS - 0.1
        assert not self.fails()
        self.now += 0.2
        assert self.fails()

    def test_others_are(self) -> None:
        self.fails(seconds=6.0)

        assert self.fails(there)

    def test_so_is_one_that_failed_at_once_or_that_answers(self) -> None:
        self.fails(seconds=clients.SLOW_FAILURE_SECONDS / 2)
        assert self.fails()

        with clients.failing_fast(here, "it cannot be reached"):
            self.now += 6.0
        assert self.fails()


CALLS: list[tuple[str, Callable[[Cloud], Any]]] = [
    (
        "SendMessage",
        lambda cloud: sqs.send_message(
            Body("x"), "A", queue_url=cloud.events, claim_bucket="claims", sealing=SEALING
        ),
    ),
    ("PutObject", lambda cloud: s3.put_object("claims", "key", b"content")),
    ("GetObject", lambda cloud: s3.claim_reader("claims")("key")),
]


@pytest.mark.parametrize(("operation", "call"), CALLS, ids=[name for name, _ in CALLS])
def test_what_aws_refuses_is_to_be_tried_again(
    cloud: Cloud, operation: str, call: Callable[[Cloud], Any]
) -> None:
    cloud.calls.fail(operation)
    with pytest.raises(Retryable):
        call(cloud)

    cloud.calls.clear()
    cloud.calls.cut(operation)
    with pytest.raises(Retryable):
        call(cloud)


def test_a_claim_that_is_not_there_is_to_be_tried_again(cloud: Cloud) -> None:
    with pytest.raises(Retryable):
        s3.claim_reader("claims")("claims/none")


def test_messages_are_sent_ten_at_a_time(cloud: Cloud) -> None:
    bodies = plain(25)

    assert sqs.send_messages(cloud.events, bodies, claim_bucket="claims", sealing=SEALING) == set()

    assert sent(cloud) == [[body.text for body in bodies[n : n + 10]] for n in (0, 10, 20)]
    assert sorted(cloud.left()) == [body.text for body in bodies]


def test_nothing_to_send_is_no_call(cloud: Cloud) -> None:
    assert sqs.send_messages(cloud.events, [], claim_bucket="claims", sealing=SEALING) == set()
    assert cloud.calls.made == []


_chance = random.Random(1)
SIZES = [
    [LIMIT // 4] * 8,
    [LIMIT // 8] * 16,
    *([_chance.choice([10, 70_000, 500_000, message.MESSAGE_BYTES]) for _ in range(30)] for _ in range(3)),
]


@pytest.mark.parametrize("sizes", SIZES, ids=range(len(SIZES)))
def test_no_call_exceeds_what_sqs_takes(cloud: Cloud, sizes: list[int]) -> None:
    bodies = [Body("ä" * (size // 2)) for size in sizes]

    unsent = sqs.send_messages(
        cloud.events,
        bodies,
        claim_bucket="claims",
        sealing=SEALING,
        group="AbC123",
        attributes={"resumed": "1", "probe": "1"},
    )

    assert unsent == set()
    assert len(cloud.left()) == len(bodies)
    for call in cloud.calls.of("SendMessageBatch"):
        assert len(call["Entries"]) <= 10
        assert sum(map(_bytes, call["Entries"])) <= LIMIT


def _bytes(entry: dict[str, Any]) -> int:
    attributes = entry["MessageAttributes"].items()
    named = sum(len(name) + len(value["DataType"]) + len(value["StringValue"]) for name, value in attributes)
    return len(entry["MessageBody"].encode()) + named


def test_batches_are_full_where_bodies_are_small(cloud: Cloud) -> None:
    sqs.send_messages(cloud.events, plain(20, size=100_000), claim_bucket="claims", sealing=SEALING)

    assert len(cloud.calls.of("SendMessageBatch")) == 2


def test_every_message_has_the_group_and_the_attributes(cloud: Cloud) -> None:
    sqs.send_messages(
        cloud.events,
        plain(2),
        claim_bucket="claims",
        sealing=SEALING,
        group="AbC123",
        attributes={"probe": "1"},
    )

    [call] = cloud.calls.of("SendMessageBatch")
    for each in call["Entries"]:
        assert each["MessageGroupId"] == "AbC123"
        assert each["MessageAttributes"] == sealing.attributes(
            each["MessageBody"], {"probe": "1", "seal": sealing.seal(each["MessageBody"])}
        )


def test_what_fails_of_a_batch_is_told_by_its_index(cloud: Cloud) -> None:
    def lose_two(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        entries = parameters["Entries"]
        lost = [entry for entry in entries if entry["MessageBody"] in {"0000000003", "0000000021"}]
        parameters["Entries"] = [entry for entry in entries if entry not in lost]
        failed = [{"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"} for entry in lost]
        return real() | {"Failed": failed}

    cloud.calls.instead("SendMessageBatch", lose_two)

    assert sqs.send_messages(cloud.events, plain(25), claim_bucket="claims", sealing=SEALING) == {3, 21}
    assert len(cloud.left()) == 23


def test_what_is_not_said_to_be_sent_is_not_taken_for_sent(cloud: Cloud) -> None:
    def say_less(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        return {"Successful": real()["Successful"][1:]}

    cloud.calls.instead("SendMessageBatch", say_less)

    assert sqs.send_messages(cloud.events, plain(15), claim_bucket="claims", sealing=SEALING) == {0, 10}


def test_a_batch_that_fails_leaves_the_others(cloud: Cloud) -> None:
    cloud.calls.fail("SendMessageBatch", when=lambda call: call["Entries"][0]["Id"] == "10")

    assert sqs.send_messages(cloud.events, plain(25), claim_bucket="claims", sealing=SEALING) == set(
        range(10, 20)
    )
    assert len(cloud.left()) == 15


def test_a_batch_with_a_claim_that_cannot_be_written_is_not_sent(cloud: Cloud) -> None:
    cloud.calls.fail("PutObject")

    assert sqs.send_messages(cloud.events, [*plain(3), CLAIMED], claim_bucket="claims", sealing=SEALING) == {
        0,
        1,
        2,
        3,
    }
    assert cloud.left() == []


def test_many_messages_are_deleted_and_postponed_some_calls_at_a_time(cloud: Cloud) -> None:
    cloud.send(*(body.text for body in plain(35)))
    handles = [record["receiptHandle"] for record in cloud.receive()["Records"]]

    sqs.change_visibility(cloud.events, [(handle, 0) for handle in handles[:25]])
    sqs.delete_messages(cloud.events, handles[25:])

    assert len(cloud.left()) == 25
    assert len(cloud.receive()["Records"]) == 25
    assert len(cloud.calls.of("ChangeMessageVisibilityBatch")) == 3


def test_calls_run_some_at_a_time(cloud: Cloud) -> None:
    together = threading.Barrier(clients.MAX_CONCURRENT_CALLS, timeout=10)

    def meet(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        together.wait()
        return real()

    cloud.calls.instead("SendMessageBatch", meet)

    assert (
        sqs.send_messages(
            cloud.events, plain(10 * clients.MAX_CONCURRENT_CALLS), claim_bucket="claims", sealing=SEALING
        )
        == set()
    )


def test_a_message_that_is_not_deleted_or_postponed_is_no_error(cloud: Cloud) -> None:
    cloud.send("one")
    [record] = cloud.receive()["Records"]
    cloud.calls.fail("*")

    sqs.delete_messages(cloud.events, [record["receiptHandle"]])
    sqs.change_visibility(cloud.events, [(record["receiptHandle"], 5)])

    assert cloud.left() == ["one"]


def test_clients_are_made_one_at_a_time(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    making = most = 0

    def slowly(*arguments: Any, **options: Any) -> object:
        nonlocal making, most
        making += 1
        most = max(most, making)
        time.sleep(0.02)
        making -= 1
        return object()

    monkeypatch.setattr(boto3, "client", slowly)

    makers = [clients.sqs, clients.s3, clients.dynamodb]
    for maker in makers:
        maker.cache_clear()

    clients.map_concurrently(lambda maker: maker(), makers)

    for maker in makers:
        maker.cache_clear()
    assert most == 1
