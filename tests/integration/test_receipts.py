"""Tests the receipts of bulk requests and the counts of solo crashes, in an emulated table."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from hypothesis import given
from hypothesis import strategies as st

from sluice import positions, receipts, runtime
from sluice.aws import clients
from sluice.contract import MAX_EVENTS_PER_REQUEST
from sluice.delivery import poison
from sluice.errors import Retryable
from tests.support.aws_stack import Cloud

pairs = st.tuples(st.integers(0, 10_000), st.integers(0, MAX_EVENTS_PER_REQUEST - 1))


@given(pairs, pairs)
def test_each_event_has_a_place_of_its_own(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (positions.position(*one) == positions.position(*other)) == (one == other)


def test_what_is_noted_is_done(cloud: Cloud) -> None:
    receipts.record_outcome("state", "r1", delivered=[0, 1_000])
    receipts.record_outcome("state", "r1", rejected=[1])
    receipts.record_outcome("state", "r2", delivered=[5], rejected=[6, 7])

    assert receipts.completed("state", ["r1", "r2", "unknown"]) == {
        "r1": {0, 1, 1_000},
        "r2": {5, 6, 7},
    }


@pytest.fixture
def hanging_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Returns the connections to a table that takes them and never answers."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted.append(listening.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", address)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setattr(clients, "_failing_until", {})
        clients.low_latency_dynamodb.cache_clear()
        yield accepted
        clients.low_latency_dynamodb.cache_clear()
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in accepted:
        connection.close()


def create(receipt: str = "r1") -> None:
    receipts.create("state", receipt, account="AbC123", created=datetime.now(UTC), total=1)


def test_a_table_that_hangs_is_asked_once_for_a_new_receipt(hanging_table: list[socket.socket]) -> None:
    for _ in range(3):
        with pytest.raises(Retryable):
            create()

    assert len(hanging_table) == 1


def test_a_connection_that_was_closed_meanwhile_costs_no_receipt(cloud: Cloud) -> None:
    def closed_at_first(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        if len(cloud.calls.of("PutItem")) == 1:
            raise ConnectionClosedError(endpoint_url="https://nowhere.example")
        return real()

    cloud.calls.instead("PutItem", closed_at_first)

    create()

    assert receipts.find("state", "r1", datetime.now(UTC)) is not None


def test_noting_again_changes_no_outcome_and_no_expiry(cloud: Cloud) -> None:
    receipts.record_outcome("state", "r1", delivered=[1, 2], rejected=[3])
    item = cloud.item("receipt#r1")
    assert item is not None
    first = item | {"expires_at": {"N": "1900000000"}}
    cloud.dynamodb.put_item(TableName="state", Item=first)

    receipts.record_outcome("state", "r1", delivered=[2, 1])
    receipts.record_outcome("state", "r1", rejected=[3])

    assert (cloud.item("receipt#r1") or {}) | {"noted": {}} == first | {"noted": {}}


def test_a_receipt_outlives_its_message(cloud: Cloud) -> None:
    receipts.record_outcome("state", "r1", delivered=[1])

    item = cloud.item("receipt#r1")
    assert item is not None
    assert int(item["expires_at"]["N"]) == pytest.approx(time.time() + 15 * 86_400, abs=5)


def test_more_receipts_than_one_request_takes_are_read(cloud: Cloud) -> None:
    ids = [f"r{number}" for number in range(230)]
    for number, receipt in enumerate(ids):
        receipts.record_outcome("state", receipt, delivered=[number])

    assert receipts.completed("state", ids) == {receipt: {number} for number, receipt in enumerate(ids)}
    sizes = [len(call["RequestItems"]["state"]["Keys"]) for call in cloud.calls.of("BatchGetItem")]
    assert sizes == [100, 100, 30]


def test_what_an_answer_leaves_out_is_asked_for_again(cloud: Cloud) -> None:
    for number in range(10):
        receipts.record_outcome("state", f"r{number}", delivered=[number])
    cloud.calls.instead("BatchGetItem", _leaving_out(at_a_time=4))

    found = receipts.completed("state", [f"r{number}" for number in range(10)])

    assert found == {f"r{number}": {number} for number in range(10)}
    calls = [call["RequestItems"]["state"] for call in cloud.calls.of("BatchGetItem")]
    assert [len(call["Keys"]) for call in calls] == [10, 6, 2]
    assert all(call["ConsistentRead"] for call in calls)


def test_a_table_that_never_gives_all_is_to_be_tried_again(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(runtime, "sleep", waits.append)
    cloud.calls.instead("BatchGetItem", _leaving_out(at_a_time=0))

    with pytest.raises(Retryable):
        receipts.completed("state", ["r1"])

    assert waits == sorted(waits)
    assert sum(waits) < 10


def _leaving_out(at_a_time: int) -> Callable[[dict[str, Any], Callable[[], Any]], Any]:
    def hook(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        wanted = parameters["RequestItems"]["state"]
        keys = wanted["Keys"]
        asked = [key["pk"]["S"] for key in keys[:at_a_time]]
        answer = real()
        items = [item for item in answer["Responses"]["state"] if item["pk"]["S"] in asked]
        left = {"state": wanted | {"Keys": keys[at_a_time:]}} if keys[at_a_time:] else {}
        return answer | {"Responses": {"state": items}, "UnprocessedKeys": left}

    return hook


@pytest.mark.parametrize("how", ["fail", "cut"])
def test_a_table_out_of_reach_is_to_be_tried_again(cloud: Cloud, how: str) -> None:
    getattr(cloud.calls, how)("UpdateItem")
    with pytest.raises(Retryable):
        receipts.record_outcome("state", "r1", delivered=[1])
    with pytest.raises(Retryable):
        poison.start_solo("state", "m1")

    cloud.calls.clear()
    getattr(cloud.calls, how)("BatchGetItem")
    with pytest.raises(Retryable):
        receipts.completed("state", ["r1"])


def test_a_trial_knows_how_often_one_did_not_end(cloud: Cloud) -> None:
    assert [poison.start_solo("state", "m1") for _ in range(3)] == [0, 1, 2]
    assert poison.start_solo("state", "m2") == 0

    poison.finish_solo("state", "m1")

    assert poison.start_solo("state", "m1") == 0
    item = cloud.item("trial#m1")
    assert item is not None
    assert int(item["expires_at"]["N"]) == pytest.approx(time.time() + 15 * 86_400, abs=5)
