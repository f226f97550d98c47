"""Holds that an exception that nobody foresaw costs only the one thing that raises it."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice import archive, message, resume, runtime
from sluice.contract import Surface
from sluice.delivery import http, parking
from sluice.dispatch import UNFORESEEN_AGE, UNFORESEEN_RECEIVES
from sluice.klaviyo import delivery
from sluice.producers import s3_objects
from tests.support import sealing
from tests.support.aws_stack import PRIVATE_KEY, Cloud, Context, Function, again, close_event_loop, stored
from tests.support.factories import SITE_ID
from tests.support.sealing import SEALING

OTHER = "XyZ789"
SECRET = "s3cret"


class Unexpected(Exception):
    """Plays an error of our own making, whose text quotes a payload."""

    def __init__(self) -> None:
        super().__init__(SECRET)


class Dispatch:
    """Runs the function for two accounts with one upstream."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud = cloud
        cloud.name_accounts(
            {"site_id": SITE_ID, "private_key": PRIVATE_KEY}, {"site_id": OTHER, "private_key": PRIVATE_KEY}
        )
        self.klaviyo = Klaviyo({SITE_ID: PRIVATE_KEY}, Settings.unlimited())
        self.function: Function = cloud.load("dispatch")
        client = httpx2.AsyncClient(transport=transport(self.klaviyo))
        monkeypatch.setattr(http, "client", lambda: client)

    def put(self, *names: str, account: str = SITE_ID) -> None:
        """Puts stored single events on the queue."""
        for name in names:
            made = stored((name, name), receipt=f"r-{name}", account=account, surface=Surface.EVENT)
            self.cloud.send(message.encode(made).text)

    def invoke(self, records: dict[str, Any]) -> int:
        """Delivers records; returns how many stay on the queue."""
        answer = self.function(records, Context())
        self.cloud.settle(records, answer)
        return len(answer["batchItemFailures"])

    def delivered(self) -> Counter[str]:
        """Returns the upstream's events."""
        return Counter(taken.event["unique_id"] for taken in self.klaviyo.events())


@pytest.fixture
def dispatch(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatch]:
    yield Dispatch(cloud, monkeypatch)
    close_event_loop()


def fail_on(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, word: str) -> None:
    """Lets a function of a module raise wherever a word stands in its arguments."""
    real = getattr(module, name)

    def raise_on_word(*arguments: Any, **named: Any) -> Any:
        if any(word in repr(argument) for argument in arguments):
            raise Unexpected
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, raise_on_word)


def test_one_record_is_tried_again_and_the_others_are_delivered(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, message, "decode", "strange")
    dispatch.put("a", "strange", "b")

    assert dispatch.invoke(dispatch.cloud.receive()) == 1

    assert dispatch.delivered() == Counter(["a", "b"])
    assert dispatch.function.metrics()["UnforeseenFailures"] == 1
    [line] = dispatch.function.lines("unforeseen failure")
    assert line["error"].startswith("Unexpected at raise_on_word:")
    assert line["messages"] == 1
    assert SECRET not in dispatch.function.said


@pytest.mark.parametrize("receives", [UNFORESEEN_RECEIVES - 1, UNFORESEEN_RECEIVES])
@pytest.mark.parametrize("minutes", [59, 61])
def test_a_record_is_given_up_after_several_tries_over_an_hour(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch, receives: int, minutes: int
) -> None:
    fail_on(monkeypatch, message, "decode", "strange")
    dispatch.put("a", "strange")
    records = again(dispatch.cloud.receive(), receives)
    real = runtime.now()
    monkeypatch.setattr(runtime, "now", lambda: real + UNFORESEEN_AGE * minutes / 60)

    kept = dispatch.invoke(records)

    is_given_up = receives == UNFORESEEN_RECEIVES and minutes > 60
    assert kept == int(not is_given_up)
    rejections = [json.loads(body) for body in dispatch.cloud.left(dispatch.cloud.rejected)]
    assert len(rejections) == int(is_given_up)
    for rejection in rejections:
        assert rejection["reason"] == "dead_letter"
        assert "Unexpected at raise_on_word:" in rejection["detail"]
        assert SECRET not in rejection["detail"]
        assert json.loads(rejection["payload"])["receipt"] == "r-strange"


def test_where_all_fail_alike_all_wait(dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on(monkeypatch, message, "decode", "receipt")
    dispatch.put("a", "b")
    records = again(dispatch.cloud.receive(), 400)
    real = runtime.now()
    monkeypatch.setattr(runtime, "now", lambda: real + UNFORESEEN_AGE * 50)

    assert dispatch.invoke(records) == 2

    assert dispatch.cloud.left(dispatch.cloud.rejected) == []
    assert dispatch.function.metrics()["UnforeseenFailures"] == 2


def test_one_account_is_tried_again_and_the_others_are_delivered(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, delivery, "deliver", OTHER)
    dispatch.put("a", "b")
    dispatch.put("c", account=OTHER)

    assert dispatch.invoke(dispatch.cloud.receive()) == 1

    assert dispatch.delivered() == Counter(["a", "b"])
    assert SECRET not in dispatch.function.said


def test_one_object_is_tried_again_and_the_others_are_read(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, s3_objects, "read", "strange")
    for key in ("strange", "good"):
        dispatch.cloud.s3.put_object(Bucket="drops", Key=key, Body=b"")
        where = {"bucket": {"name": "drops"}, "object": {"key": key, "eTag": "e", "sequencer": "1"}}
        news = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}
        news["eventTime"] = "2026-11-20T11:59:58.901Z"
        dispatch.cloud.send(json.dumps({"Records": [{**news, "s3": where}]}))
    dispatch.put("a")

    assert dispatch.invoke(dispatch.cloud.receive()) == 1

    assert dispatch.delivered() == Counter(["a"])
    assert dispatch.function.metrics()["Notifications"] == 2


def test_one_rejection_is_archived_as_it_is(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on(monkeypatch, archive, "read", "strange")
    reject = cloud.load("reject")
    bodies = ["first, not JSON", "strange s3cret", "last, not JSON"]
    for body in bodies:
        cloud.send(body, queue=cloud.rejected, seal=sealing.seal(body))

    answer = reject(cloud.receive(cloud.rejected), Context(60))

    assert answer == {"batchItemFailures": []}
    lines = [
        json.loads(line)
        for key in cloud.keys("archive")
        for line in cloud.content("archive", key).splitlines()
    ]
    assert sorted(line["payload"] for line in lines) == sorted(bodies)
    [found] = [line for line in lines if "strange" in line["payload"]]
    assert found["detail"].startswith("Reading it failed unexpectedly (Unexpected at raise_on_word:")
    assert SECRET not in reject.said


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_dead_letter_says_it_is_archived_beside_the_others(cloud: Cloud, seed: int) -> None:
    """Covers the kind: forms of our own messages and rejections with parts of other types."""
    chance = random.Random(seed)
    values: list[Any] = [None, 7, 2**70, "r", "", [], {}, [{}], {"a": 1}, True, 1e300, "2026-11-20T08:15:00Z"]
    names = ["receipt", "app_id", "account", "accepted", "events", "entries", "reason", "detail", "payload"]
    names += ["rejected_at", "surface", "zstd", "claim", "line", "source", "id", "sluice"]
    bodies = []
    for _ in range(20):
        made: dict[str, Any] = {"sluice": chance.choice([1, 2, 3, "1", None])}
        made |= {name: chance.choice(values) for name in chance.sample(names, chance.randrange(len(names)))}
        if chance.random() < 0.5:
            made |= {"reason": "dead_letter", "detail": "d", "rejected_at": "2026-11-20T08:15:00Z"}
        bodies.append(json.dumps(made))
    reject = cloud.load("reject")
    cloud.send(*bodies, queue=cloud.rejected)
    records = again(cloud.receive(cloud.rejected), archive.CLAIM_RECEIVES)

    assert reject(records, Context(60)) == {"batchItemFailures": []}

    kept = b"".join(cloud.content("archive", key) for key in cloud.keys("archive"))
    assert len(kept.splitlines()) == len(bodies)


def test_one_account_of_a_tick_is_left_and_the_others_are_resumed(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = cloud.load("resume")
    for account in (SITE_ID, OTHER):
        made = stored(("a", "a"), receipt=account, account=account, surface=Surface.EVENT)
        parking.park("claims", account, [msgspec.json.encode(made)], sealing=SEALING)
    fail_on(monkeypatch, resume, "resume", SITE_ID)

    function({}, Context(55))

    [body] = cloud.left()
    assert json.loads(body)["receipt"] == OTHER
    [line] = function.lines("not resumed")
    assert (line["account"], line["error"]) == (SITE_ID, "Unexpected")
    assert SECRET not in function.said
