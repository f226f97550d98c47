"""Tests the pause of an account: through operate, dispatch and resume, as AWS calls them."""

import json
from collections import Counter
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from sluice.aws import sts
from sluice.delivery import circuit_breaker, pause
from sluicectl.cli import sluicectl
from tests.integration.test_dispatch_handler import Dispatch, one
from tests.integration.test_dispatch_handler import dispatch as dispatch  # noqa: PLC0414 - a fixture
from tests.support.aws_stack import PRIVATE_KEY, Cloud, Context
from tests.support.factories import SITE_ID
from tests.support.operate import Operate

ADA = "arn:aws:iam::123456789012:user/ada"
WHY = "their flows are being rebuilt"


@pytest.fixture(autouse=True)
def ada(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sts, "caller_arn", lambda *_, **__: ADA)


def accounts(cloud: Cloud, *arguments: str) -> Result:
    """Runs `sluicectl accounts` on the real function."""
    Operate(cloud).serve()
    done = CliRunner().invoke(sluicectl, ["accounts", *arguments], catch_exceptions=False)
    cloud.calls.clear()
    return done


def tick(cloud: Cloud) -> dict[str, float]:
    """Lets resume do its work of a minute; returns its metrics."""
    resume = cloud.load("resume")
    resume({}, Context(55.0))
    return resume.metrics()


def deliver(dispatch: Dispatch, *messages: Any, **attributes: str) -> list[str]:
    dispatch.cloud.load("dispatch")
    dispatch.put(*messages, **attributes)
    return dispatch.invoke()


def parked(cloud: Cloud) -> int:
    return len(cloud.keys("claims", "parked/"))


def test_a_paused_account_is_parked_and_no_probe_ends_the_pause(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    assert accounts(cloud, "pause", SITE_ID, "--why", WHY).exit_code == 0

    assert deliver(dispatch, one("ann"), one("bob")) == []
    assert deliver(dispatch, one("cy"), resumed="1", probe="1") == []
    metrics = tick(cloud)

    assert dispatch.klaviyo.requests() == []
    assert (parked(cloud), cloud.left()) == (2, [])
    assert (metrics["PausedAccounts"], metrics["OpenCircuits"]) == (1, 0)
    assert pause.find("state", SITE_ID) is not None

    assert accounts(cloud, "resume", SITE_ID).exit_code == 0
    assert tick(cloud)["PausedAccounts"] == 0
    assert deliver(dispatch) == []
    assert dispatch.delivered() == Counter(["ann", "bob", "cy"])


def test_a_pause_outlives_an_open_circuit_and_the_other_way_round(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    accounts(cloud, "pause", SITE_ID, "--why", WHY)
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    deliver(dispatch, one("ann"))

    tick(cloud)
    assert cloud.left() == []

    accounts(cloud, "resume", SITE_ID)
    assert circuit_breaker.is_open("state", SITE_ID)
    assert tick(cloud)["OpenCircuits"] == 1
    deliver(dispatch)
    assert dispatch.delivered() == Counter(["ann"])
    assert not circuit_breaker.is_open("state", SITE_ID)


def test_a_paused_account_stops_no_other(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    cloud.name_accounts(
        {"site_id": SITE_ID, "private_key": PRIVATE_KEY}, {"site_id": "XyZ789", "private_key": "pk_2"}
    )
    accounts(cloud, "pause", "XyZ789", "--why", WHY)
    other = msgspec.structs.replace(one("bob"), account="XyZ789")

    deliver(dispatch, one("ann"), other)

    assert dispatch.delivered() == Counter(["ann"])
    assert cloud.keys("claims", "parked/XyZ789/")


def test_an_app_of_pipeless_is_paused_alike(dispatch: Dispatch) -> None:
    cloud = dispatch.cloud
    cloud.write_accounts(json.dumps({"accounts": [], "pipeless": [{"app_id": 123, "api_key": "k"}]}))
    accounts(cloud, "pause", "pipeless-123", "--why", WHY)
    batch = {
        "sluice": 2,
        "receipt": "r1",
        "app_id": 123,
        "accepted": "2026-11-21T09:30:00Z",
        "events": [
            {
                "start_object": {"id": "ada", "type": "user"},
                "relationship": {"type": "liked", "created_on": "2026-11-21T09:30:00"},
                "end_object": {"id": "1001", "type": "article"},
            }
        ],
    }

    assert deliver(dispatch, msgspec.json.encode(batch).decode()) == []

    assert len(cloud.keys("claims", "parked/pipeless-123/")) == 1


def test_an_account_is_paused_once_and_both_operators_are_told(cloud: Cloud) -> None:
    first = json.loads(accounts(cloud, "pause", SITE_ID, "--why", WHY, "--json").stdout)
    second = accounts(cloud, "pause", SITE_ID, "--why", "another reason", "--json")

    assert (first["changed"], first["who"], first["why"]) == (True, ADA, WHY)
    assert json.loads(second.stdout) == {**first, "changed": False}
    said = accounts(cloud, "pause", SITE_ID, "--why", "another reason").stdout
    assert "paused already" in said
    assert WHY in said


def test_what_is_not_paused_is_not_resumed_and_that_is_no_mistake(cloud: Cloud) -> None:
    done = accounts(cloud, "resume", SITE_ID)

    assert done.exit_code == 0
    assert "is not paused" in done.stdout


@pytest.mark.parametrize("command", [["pause", "Nobody", "--why", WHY], ["resume", "Nobody"]])
def test_an_account_that_nobody_knows_is_refused(cloud: Cloud, command: list[str]) -> None:
    done = accounts(cloud, *command)

    assert done.exit_code == 1
    assert "has no account Nobody" in done.stderr


def test_a_mistake_in_another_account_hinders_no_pause(cloud: Cloud) -> None:
    cloud.name_accounts(
        {"site_id": SITE_ID, "private_key": "pk_upstream_never_said"}, {"site_id": "XyZ789", "keys": 7}
    )

    assert accounts(cloud, "pause", SITE_ID, "--why", WHY).exit_code == 0
    assert pause.find("state", SITE_ID) is not None


def test_the_pause_of_an_account_that_is_gone_can_be_ended(cloud: Cloud) -> None:
    accounts(cloud, "pause", SITE_ID, "--why", WHY)
    cloud.write_accounts('{"accounts": []}')

    assert accounts(cloud, "resume", SITE_ID).exit_code == 0
    assert pause.find("state", SITE_ID) is None


def test_a_pause_needs_a_reason(cloud: Cloud) -> None:
    assert accounts(cloud, "pause", SITE_ID).exit_code == 2
    empty = accounts(cloud, "pause", SITE_ID, "--why", "")

    assert empty.exit_code == 2
    assert "why: String should have at least 1 character" in empty.stderr


def test_the_log_says_who_paused_an_account_and_why(cloud: Cloud) -> None:
    operate = Operate(cloud)

    operate("accounts pause", account=SITE_ID, why=WHY)
    operate("accounts resume", account=SITE_ID, why="done")

    [begun], [ended] = operate.function.lines("account paused"), operate.function.lines("account resumed")
    assert (begun["account"], begun["why"], ended["why"]) == (SITE_ID, WHY, "done")
    assert operate("accounts pause", "read", account=SITE_ID, why=WHY)["error"]["code"] == "forbidden"
