"""Tests the commands on parked messages, through operate, dispatch and reject as AWS calls them."""

import json
from collections import Counter
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from sluice.aws import sts
from sluice.delivery import circuit_breaker, parking, pause
from sluicectl.cli import sluicectl
from tests.integration.test_dispatch_handler import Dispatch, one
from tests.integration.test_dispatch_handler import dispatch as dispatch  # noqa: PLC0414 - a fixture
from tests.support.aws_stack import PRIVATE_KEY, Cloud
from tests.support.factories import SITE_ID
from tests.support.operate import Operate
from tests.support.sealing import SEALING

OTHER = "XyZ789"


@pytest.fixture(autouse=True)
def ada(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sts, "caller_arn", lambda *_, **__: "arn:aws:iam::123456789012:user/ada")


def run(cloud: Cloud, *arguments: str, answer: str = "") -> Result:
    Operate(cloud).serve()
    done = CliRunner().invoke(sluicectl, ["parked", *arguments], answer, catch_exceptions=False)
    cloud.calls.clear()
    return done


def park(*names: str, site_id: str = SITE_ID, prefix: str = parking.PARKED_PREFIX) -> None:
    for name in names:
        made: Any = msgspec.structs.replace(one(name), account=site_id)
        parking.park("claims", site_id, [msgspec.json.encode(made)], prefix=prefix, sealing=SEALING)


def left(cloud: Cloud) -> list[str]:
    return [*cloud.keys("claims", "parked/"), *cloud.keys("claims", "unknown/")]


def deliver(dispatch: Dispatch) -> None:
    dispatch.cloud.load("dispatch")
    for queue in (dispatch.cloud.background, dispatch.cloud.events):
        if records := dispatch.cloud.receive(queue)["Records"]:
            assert dispatch.invoke({"Records": records}, queue=queue) == []


def test_what_is_parked_is_listed_by_account(cloud: Cloud) -> None:
    pause.begin("state", SITE_ID, who="ada", why="test")
    park("a", "b")
    park("c", site_id=OTHER, prefix=parking.UNKNOWN_PREFIX)

    listed = json.loads(run(cloud, "list", "--json").stdout)["parked"]

    assert [(each["account"], each["state"], each["messages"]) for each in listed] == [
        (SITE_ID, "paused", 2),
        (OTHER, "unknown", 1),
    ]
    assert SITE_ID in run(cloud, "list").stdout


def test_nothing_parked_is_said(cloud: Cloud) -> None:
    assert "Nothing is parked" in run(cloud, "list").stdout
    assert run(cloud, "release", SITE_ID, "--yes").exit_code == 1


def test_a_release_is_sent_past_the_pause_and_the_pause_goes_on(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    pause.begin("state", SITE_ID, who="ada", why="test")
    park("a", "b")

    done = run(cloud, "release", SITE_ID, "--yes")
    assert done.exit_code == 0, done.output
    cloud.send(*(msgspec.json.encode(one("new")).decode(),))
    deliver(dispatch)

    assert dispatch.delivered() == Counter(["a", "b"])
    assert len(left(cloud)) == 1
    assert pause.find("state", SITE_ID) is not None


def test_a_reroute_is_sent_for_the_other_account(dispatch: Dispatch) -> None:
    park("a", "b", site_id=OTHER, prefix=parking.UNKNOWN_PREFIX)

    assert run(dispatch.cloud, "reroute", OTHER, "--to", SITE_ID, "--yes").exit_code == 0
    deliver(dispatch)

    assert dispatch.delivered() == Counter(["a", "b"])
    assert left(dispatch.cloud) == []


def test_what_is_discarded_is_archived_as_dead_letters_with_the_reason(cloud: Cloud) -> None:
    park("a", "b", site_id=OTHER, prefix=parking.UNKNOWN_PREFIX)

    done = run(cloud, "discard", OTHER, "--why", "a test shop", "--yes", "--json")
    reject = cloud.load("reject")
    records = cloud.receive(cloud.rejected)
    assert reject(records) == {"batchItemFailures": []}

    assert json.loads(done.stdout) == {"account": OTHER, "messages": 2, "not_sealed": 0}
    assert left(cloud) == []
    [key] = cloud.keys("archive", "rejections/")
    lines = [json.loads(line) for line in cloud.content("archive", key).splitlines()]
    assert {(each["reason"], each["detail"], each["account"]) for each in lines} == {
        ("dead_letter", "Discarded while it was parked: a test shop", OTHER)
    }
    assert sorted(each["payload"]["receipt"] for each in lines) == ["r-a", "r-b"]


def test_an_operator_is_asked_and_no_is_no(cloud: Cloud) -> None:
    pause.begin("state", SITE_ID, who="ada", why="test")
    park("a")

    no = run(cloud, "discard", SITE_ID, "--why", "x", answer="n\n")

    assert no.exit_code == 1
    assert f"{SITE_ID} is paused: 1 parked messages" in no.stdout
    assert len(left(cloud)) == 1
    assert run(cloud, "discard", SITE_ID, "--why", "x", answer="y\n").exit_code == 0
    assert left(cloud) == []


@pytest.mark.parametrize(
    "command", [["release"], ["reroute", "--to", OTHER], ["discard", "--why", "x"]], ids=lambda each: each[0]
)
def test_what_comes_back_by_itself_is_left_alone(cloud: Cloud, command: list[str]) -> None:
    cloud.name_accounts(
        {"site_id": SITE_ID, "private_key": PRIVATE_KEY}, {"site_id": OTHER, "private_key": "pk"}
    )
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    park("a")

    done = run(cloud, command[0], SITE_ID, *command[1:], "--yes")

    assert done.exit_code == 1
    assert "is not paused" in done.stderr
    assert len(left(cloud)) == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["release", OTHER], "would be parked again"),
        (["reroute", OTHER, "--to", "QqQ111"], "has no account QqQ111"),
        (["reroute", OTHER, "--to", "pipeless-123"], "is an app"),
    ],
)
def test_what_would_lead_nowhere_is_refused(cloud: Cloud, command: list[str], said: str) -> None:
    accounts = [{"site_id": SITE_ID, "private_key": PRIVATE_KEY}]
    apps = [{"app_id": 123, "api_key": "k"}]
    cloud.write_accounts(json.dumps({"accounts": accounts, "pipeless": apps}))
    park("a", site_id=OTHER, prefix=parking.UNKNOWN_PREFIX)

    done = run(cloud, *command, "--yes")

    assert done.exit_code == 1
    assert said in done.stderr
    assert len(left(cloud)) == 1


def test_an_object_that_nobody_sealed_stays(cloud: Cloud) -> None:
    pause.begin("state", SITE_ID, who="ada", why="test")
    park("a")
    cloud.s3.put_object(Bucket="claims", Key=f"parked/{SITE_ID}/1.000-f-1.jsonl.zst", Body=b"forged")

    done = run(cloud, "release", SITE_ID, "--yes", "--json")

    assert done.exit_code == 1
    assert json.loads(done.stdout)["not_sealed"] == 1
    assert left(cloud) == [f"parked/{SITE_ID}/1.000-f-1.jsonl.zst"]


def test_a_queue_that_cannot_be_reached_loses_nothing(cloud: Cloud) -> None:
    pause.begin("state", SITE_ID, who="ada", why="test")
    park("a")
    Operate(cloud).serve()
    cloud.calls.fail("SendMessageBatch")

    done = CliRunner().invoke(sluicectl, ["parked", "release", SITE_ID, "--yes"])

    assert done.exit_code == 3
    assert len(left(cloud)) == 1
