"""Tests what is replayed and imported: on a queue of its own, and back on it from wherever it waits."""

import asyncio
import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sluice import message, resume
from sluice.delivery import circuit_breaker, parking
from sluice.delivery.rate_limiter import RateLimiter
from sluice.settings import ResumeSettings
from tests.integration.test_dispatch_handler import Dispatch, one
from tests.integration.test_dispatch_handler import dispatch as dispatch  # noqa: PLC0414 - a fixture
from tests.support.aws_stack import Cloud, Context, again
from tests.support.factories import SITE_ID

OTHER = "XyZ789"


def put(dispatch: Dispatch, *names: str, account: str = SITE_ID) -> None:
    for name in names:
        made: Any = msgspec.structs.replace(one(name), account=account)
        dispatch.cloud.send(message.encode(made).text, queue=dispatch.cloud.background)


def waiting(cloud: Cloud, queue: str) -> Counter[str]:
    """Returns the events of the messages on a queue, visible or not."""
    return Counter(json.loads(body)["receipt"].removeprefix("r-") for body in cloud.left(queue))


def tick(cloud: Cloud, *, was_unknown: bool = False) -> None:
    names = (cloud.events, cloud.background, "state", "claims", "accounts", "sealing")
    account = resume.ParkedAccount(OTHER if was_unknown else SITE_ID, was_unknown=was_unknown)
    resume.resume(resume.Store(ResumeSettings(*names)), account, lambda: True)


def test_its_messages_are_delivered_and_those_that_wait_stay_on_their_queue(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    put(dispatch, "a")
    assert dispatch.invoke(queue=cloud.background) == []
    assert dispatch.delivered() == Counter(["a"])

    dispatch.klaviyo.configure(faults=[{"kind": "json", "status": 500}])
    put(dispatch, "b")
    assert len(dispatch.invoke(queue=cloud.background)) == 1

    [call] = cloud.calls.of("ChangeMessageVisibilityBatch")
    assert call["QueueUrl"] == cloud.background
    assert (waiting(cloud, cloud.background), cloud.left()) == (Counter(["b"]), [])


def test_its_age_does_not_ring_for_live_events(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(faults=[{"kind": "json", "status": 500}])
    put(dispatch, "a")

    dispatch.invoke(queue=dispatch.cloud.background)

    found = dispatch.function.metrics()
    assert "OldestBackgroundMessageAge" in found
    assert "OldestRetriedMessageAge" not in found


def test_a_parked_message_comes_back_on_the_queue_that_it_came_from(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    put(dispatch, "background")
    dispatch.put(one("live"))
    dispatch.invoke()
    dispatch.invoke(queue=cloud.background)
    assert (cloud.left(), cloud.left(cloud.background)) == ([], [])

    circuit_breaker.close_circuit("state", SITE_ID)
    tick(cloud)

    assert waiting(cloud, cloud.events) == Counter(["live"])
    assert waiting(cloud, cloud.background) == Counter(["background"])
    assert cloud.keys("claims", "parked/") == []


def test_live_events_are_the_first_probes(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    put(dispatch, "background")
    dispatch.invoke(queue=cloud.background)
    for name in ("one", "two"):
        dispatch.put(one(name))
        dispatch.invoke()

    tick(cloud)

    assert waiting(cloud, cloud.events) == Counter(["one", "two"])
    assert waiting(cloud, cloud.background) == Counter()
    [key] = cloud.keys("claims", "parked/")
    assert parking.is_background(key)


def test_a_message_of_an_unknown_account_comes_back_too(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    put(dispatch, "a", account=OTHER)
    dispatch.invoke(queue=cloud.background)
    [key] = cloud.keys("claims", "unknown/")
    assert parking.is_background(key)

    tick(cloud, was_unknown=True)

    assert waiting(cloud, cloud.background) == Counter(["a"])


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("parked/AbC123/1764000000.000-ab-1.jsonl.zst", False),
        ("parked/AbC123/background/1764000000.000-ab-1.jsonl.zst", True),
        ("parked/background/1764000000.000-ab-1.jsonl.zst", False),
        ("unknown/background/background/1764000000.000-ab-1.jsonl.zst", True),
    ],
)
def test_the_folder_tells_the_queue(key: str, expected: bool) -> None:
    assert parking.is_background(key) is expected
    assert parking.described([key]).oldest == datetime(2025, 11, 24, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("receives", "age", "is_parked"),
    [(99, timedelta(days=6), False), (100, timedelta(), True), (2, timedelta(days=7), True)],
)
def test_a_message_that_waits_for_slots_for_very_long_is_parked(
    dispatch: Dispatch, receives: int, age: timedelta, is_parked: bool
) -> None:
    cloud = dispatch.cloud
    fill_the_window()
    put(dispatch, "a")
    records = again(cloud.receive(cloud.background), receives)
    for record in records["Records"]:
        sent = datetime.now(UTC) - age
        record["attributes"]["SentTimestamp"] = str(int(sent.timestamp() * 1_000))

    kept = dispatch.invoke(records, Context(28.0), queue=cloud.background)

    assert (len(kept), len(cloud.keys("claims", "parked/"))) == ((0, 1) if is_parked else (1, 0))
    tick(cloud)
    assert waiting(cloud, cloud.background) == Counter(["a"])


def test_a_live_message_is_never_parked_for_its_age(dispatch: Dispatch) -> None:
    fill_the_window()
    dispatch.put(one("a"))

    assert len(dispatch.invoke(again(dispatch.cloud.receive(), 400), Context(28.0))) == 1

    assert dispatch.cloud.keys("claims", "parked/") == []


def fill_the_window() -> None:
    """Pauses the account for so long that an invocation with 28 s left, the least to send in, has no slot."""
    limiter = RateLimiter("state", SITE_ID, time.time() + 60)
    asyncio.run(limiter.pause(50.0))


def test_a_429_of_a_request_that_lets_others_go_first_is_no_outage(dispatch: Dispatch) -> None:
    """Checks that background, which waits long for its next slot, opens no circuit of live events."""
    cloud = dispatch.cloud
    minute = int(time.time()) // 60
    busy = {"L": [{"N": str(number)} for number in (minute, 140, 140, 0)]}
    item = {"pk": {"S": f"pace#{SITE_ID}"}, "slots": {"B": b""}, "paused_until": {"N": "0"}}
    cloud.dynamodb.put_item(TableName="state", Item={**item, "use": busy, "version": {"N": "1"}})
    dispatch.klaviyo.configure(faults=[{"kind": "throttle"}])
    put(dispatch, "a")

    kept = dispatch.invoke(again(cloud.receive(cloud.background), 10), queue=cloud.background)

    assert len(kept) == 1
    assert not circuit_breaker.is_open("state", SITE_ID)
