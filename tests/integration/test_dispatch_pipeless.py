"""Tests the dispatch function with batches for Pipeless, AWS emulated in process and a fake upstream."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import msgspec
import pytest

from devstack.fake_upstream import Pipeless, transport
from sluice import message, runtime
from sluice.delivery import circuit_breaker, http, lone_refusals, parking
from sluice.message import PipelessEvent, PipelessMessage
from tests.support.aws_stack import PRIVATE_KEY, Cloud, Function, again, close_event_loop, forget_secrets
from tests.support.factories import APP, APP_ID, NOON, SITE_ID, batch, encoded, happening
from tests.support.sealing import SEALING

API_KEY = "pl_never_said"
SECRETS = ["s3cret", API_KEY, PRIVATE_KEY]


class Dispatch:
    """Runs the function with its queue and its upstream."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud = cloud
        self.pipeless = Pipeless({APP_ID: API_KEY})
        self.clients: list[httpx2.AsyncClient] = []
        self.name({"app_id": APP_ID, "api_key": API_KEY, "calls_per_minute": 6_000})
        self.function: Function = cloud.load("dispatch")
        monkeypatch.setattr(http, "client", self._client)

    def name(self, *apps: dict[str, Any]) -> None:
        """Writes the accounts document."""
        klaviyo = [{"site_id": SITE_ID, "private_key": PRIVATE_KEY}]
        self.cloud.write_accounts(json.dumps({"accounts": klaviyo, "pipeless": apps}))
        forget_secrets()

    def _client(self) -> httpx2.AsyncClient:
        if not self.clients:
            self.clients.append(httpx2.AsyncClient(transport=transport(self.pipeless)))
        return self.clients[-1]

    def put(self, *batches: PipelessMessage, **attributes: str) -> None:
        self.cloud.send(*(message.encode(each).text for each in batches), **attributes)

    def invoke(self) -> int:
        """Delivers what is visible; how many messages stay."""
        records = self.cloud.receive()
        answer = self.function(records)
        self.cloud.settle(records, answer)
        return len(answer["batchItemFailures"])

    def written(self) -> list[str]:
        return [each["start_object"]["id"] for call in self.pipeless.calls() for each in call.events]

    def rejections(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.cloud.left(self.cloud.rejected)]


@pytest.fixture
def dispatch(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatch]:
    made = Dispatch(cloud, monkeypatch)
    yield made
    close_event_loop()


def stored(*users: str, receipt: str = "r1", after: float = 0.0, app_id: int = APP_ID) -> PipelessMessage:
    events = msgspec.convert([happening(user, single=False) for user in users], list[PipelessEvent])
    return PipelessMessage(receipt, app_id, NOON + timedelta(seconds=after), events)


@pytest.mark.rule
def test_batches_become_calls_of_ten_in_order(dispatch: Dispatch) -> None:
    dispatch.put(*(stored(*(f"u{n}-{i}" for i in range(3)), receipt=f"r{n}", after=n) for n in range(7)))

    assert dispatch.invoke() == 0

    assert dispatch.pipeless.summary()["apps"]["123"]["fill"] == [10, 10, 1]
    assert dispatch.written() == [f"u{n}-{i}" for n in range(7) for i in range(3)]
    assert dispatch.cloud.left() == []
    metrics = dispatch.function.metrics()
    assert {name: metrics[name] for name in ("Calls", "CallEvents", "DeliveredEvents")} == {
        "Calls": 3,
        "CallEvents": 21,
        "DeliveredEvents": 21,
    }
    assert "Jobs" not in metrics


def test_bodies_that_producers_put_on_the_queue_are_batches_too(dispatch: Dispatch) -> None:
    for sent, attributes in [
        (batch(happening("plain")), {}),
        (batch(happening("named")), {"account": APP}),
        (batch(happening("told"), synchronous=True), {"surface": "pipeless"}),
        (batch(happening("s3cret", of="hated")), {}),
        (batch(happening("elsewhere")), {"account": "pipeless-9"}),
        (batch(happening("elsewhere")), {"account": SITE_ID}),
        ([], {"surface": "pipeless"}),
    ]:
        dispatch.cloud.send(encoded(sent).decode(), **attributes)

    assert dispatch.invoke() == 0

    assert sorted(dispatch.written()) == ["named", "plain", "told"]
    [taken] = dispatch.pipeless.calls()
    assert all("created_on" in each["relationship"] for each in taken.events)
    assert Counter(each["reason"] for each in dispatch.rejections()) == {"invalid": 4}
    pointers = {each.get("pointer") for each in dispatch.rejections()}
    assert pointers == {"/events/0/relationship/type", "/", None}


def test_a_refused_event_is_rejected_and_its_neighbours_are_written(dispatch: Dispatch) -> None:
    dispatch.pipeless.configure(poison=["s3cret"])
    dispatch.put(stored("u1", "s3cret", "u2"), stored("u3", receipt="r2", after=1))

    assert dispatch.invoke() == 0

    assert dispatch.written() == ["u1", "u2", "u3"]
    [rejection] = dispatch.rejections()
    assert (rejection["account"], rejection["surface"], rejection["receipt"]) == (APP, "pipeless", "r1")
    assert (rejection["pointer"], rejection["detail"]) == ("/events/1", "An id is not valid.")
    assert rejection["payload"] == {"events": [happening("s3cret", single=False)]}
    assert [secret for secret in SECRETS if secret in dispatch.function.said] == []


def test_what_was_written_of_a_message_is_not_written_again(dispatch: Dispatch) -> None:
    dispatch.put(stored(*(f"u{n}" for n in range(6)), receipt="r1"))
    dispatch.put(stored(*(f"u{n}" for n in range(6, 12)), receipt="r2", after=1))
    dispatch.pipeless.configure(faults=[{"kind": "json", "status": 500, "count": 1}])
    dispatch.pipeless.configure(poison=["u3"])

    # The first call fails, the second holds the rest of the second message.
    assert dispatch.invoke() == 2
    assert dispatch.written() == ["u10", "u11"]
    item = dispatch.cloud.item("receipt#pipeless-123#r2")
    assert item is not None
    assert sorted(item["delivered"]["NS"]) == ["4", "5"]

    for body in dispatch.cloud.left():
        dispatch.cloud.send(body, resumed="1")
    dispatch.invoke()
    assert Counter(dispatch.written()) == Counter(f"u{n}" for n in range(12) if n != 3)
    assert [each["pointer"] for each in dispatch.rejections()] == ["/events/3"]


def test_a_replay_leaves_what_is_done_of_it_in_its_receipt(dispatch: Dispatch) -> None:
    dispatch.pipeless.configure(poison=["u2"])
    replay = stored("u0", "u1", "u2", receipt="replay-1-0")
    replay.replayed = ["record-0", "record-1", "record-2"]

    dispatch.put(replay)
    dispatch.invoke()
    dispatch.put(replay)  # once more, as one who died before it knew
    dispatch.invoke()

    assert dispatch.written() == ["u0", "u1"]
    assert [(each["replays"], each.get("pointer")) for each in dispatch.rejections()] == [("record-2", None)]
    item = dispatch.cloud.item("receipt#pipeless-123#replay-1-0")
    assert item is not None
    assert {name: sorted(item[name]["NS"]) for name in ("delivered", "rejected")} == {
        "delivered": ["0", "1"],
        "rejected": ["2"],
    }


def test_a_refused_app_is_paused_without_its_neighbours(dispatch: Dispatch) -> None:
    dispatch.pipeless.configure(faults=[{"kind": "json", "status": 401}])
    dispatch.put(stored("u1"), stored("u2", receipt="r2"))
    dispatch.put(stored("u3", receipt="r3", app_id=9))

    assert dispatch.invoke() == 0

    assert circuit_breaker.is_open("state", APP)
    assert parking.parked_accounts("claims") == [APP]
    assert parking.unknown_accounts("claims") == ["pipeless-9"]
    assert dispatch.cloud.item("circuit#pipeless-9") is None
    assert dispatch.cloud.item(f"circuit#{SITE_ID}") is None


@pytest.mark.rule
def test_calls_take_their_turns(dispatch: Dispatch) -> None:
    dispatch.name({"app_id": APP_ID, "api_key": API_KEY, "calls_per_minute": 60})
    dispatch.put(stored(*(f"u{n}" for n in range(10))), stored("u10", receipt="r2", after=1))

    dispatch.invoke()

    first, second = (line.time for line in dispatch.pipeless.requests())
    assert second - first > 0.5
    assert dispatch.cloud.item(f"pace#{APP}") is not None


def test_a_message_of_an_app_that_cannot_be_is_malformed(dispatch: Dispatch) -> None:
    dispatch.cloud.send(message.encode(stored("u1")).text.replace('"app_id":123', '"app_id":0'))

    assert dispatch.invoke() == 0

    assert [each["reason"] for each in dispatch.rejections()] == ["malformed_message"]


EVERYTHING_REFUSED = pytest.mark.parametrize(
    "manner",
    [{"kind": "json", "status": 400}, {"kind": "html", "status": 413}, {"kind": "large", "status": 400}],
    ids=["400 without a pointer", "413 as HTML", "400 of 5 MB"],
)


@EVERYTHING_REFUSED
def test_where_everything_is_refused_the_circuit_opens_and_nothing_is_rejected(
    dispatch: Dispatch, manner: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch.pipeless.configure(faults=[manner])
    dispatch.put(*(stored(f"u{n}", receipt=f"r{n}", after=n) for n in range(25)))
    records = dispatch.cloud.receive()

    assert len(dispatch.function(records)["batchItemFailures"]) == 25
    now = runtime.now() + timedelta(seconds=lone_refusals.OPEN_AFTER_SECONDS)
    monkeypatch.setattr(runtime, "now", lambda: now)
    answer = dispatch.function(again(records, 2))
    dispatch.cloud.settle(records, answer)

    assert answer["batchItemFailures"] == []
    assert circuit_breaker.is_open("state", APP)
    assert dispatch.function.metrics()["ParkedMessages"] == 25

    dispatch.pipeless.configure(faults=[])
    dispatch.put(stored("probe", receipt="probe"), resumed="1", probe="1")
    [key] = dispatch.cloud.keys("claims", "parked/")
    parked = [each.decode() for each in parking.parked_messages("claims", key, SEALING)]
    dispatch.cloud.send(*parked, resumed="1")
    assert dispatch.invoke() == 0

    assert sorted(dispatch.written()) == sorted(["probe", *(f"u{n}" for n in range(25))])
    assert dispatch.rejections() == []
    assert not circuit_breaker.is_open("state", APP)
