"""Tests the resume function as its schedule calls it, with AWS emulated in process."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from sluice import runtime
from sluice.contract import Surface
from sluice.delivery import circuit_breaker, parking
from tests.support.aws_stack import Cloud, Context, Function, stored
from tests.support.factories import SITE_ID
from tests.support.sealing import SEALING

OTHER = "XyZ789"


class Resume:
    """Runs the function with its parked messages."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.function: Function = cloud.load("resume")

    def park(self, *names: str, site_id: str = SITE_ID) -> None:
        """Parks each message in an object of its own."""
        for name in names:
            made = stored((name, name), receipt=name, account=site_id, surface=Surface.EVENT)
            parking.park("claims", site_id, [msgspec.json.encode(made)], sealing=SEALING)

    def park_unknown(self, *names: str) -> None:
        """Parks a message for each of accounts that the document did not name at that time."""
        for name in names:
            made = msgspec.json.encode(stored((name, name), receipt=name, account=name))
            parking.park("claims", name, [made], sealing=SEALING, prefix=parking.UNKNOWN_PREFIX)

    def tick(self, seconds: float = 55.0) -> None:
        self.function({}, Context(seconds))

    def queued(self) -> Counter[str]:
        return Counter(msgspec.json.decode(body)["receipt"] for body in self.cloud.left())

    def open_circuits(self) -> float:
        """Returns the metric's value of the last tick."""
        before = getattr(self, "_before", 0.0)
        self._before = self.function.metrics()["OpenCircuits"]
        return self._before - before


@pytest.fixture
def resume(cloud: Cloud) -> Resume:
    return Resume(cloud)


def test_with_nothing_parked_it_says_that_no_circuit_is_open(resume: Resume) -> None:
    resume.tick()

    assert set(resume.function.metrics().items()) == {
        *{("OpenCircuits", 0), ("PausedAccounts", 0), ("UnknownAccounts", 0), ("NotSealed", 0)},
    }
    assert [name for name, _ in resume.cloud.calls.made] == ["ListObjectsV2"] * 2


def test_the_sample_event_is_a_tick(resume: Resume) -> None:
    resume.park("a1")

    resume.function(json.loads(Path("tests/events/resume.json").read_text()), Context(55.0))

    assert resume.queued() == Counter(["a1"])


def test_an_open_circuit_gets_two_probes_and_a_closed_one_everything(resume: Resume) -> None:
    resume.park("a1", "a2", "a3")
    resume.park("b1", "b2", site_id=OTHER)
    circuit_breaker.open_circuit("state", SITE_ID, 401)

    resume.tick()

    assert resume.queued().total() == 2 + 2
    assert resume.queued().keys() >= {"b1", "b2"}
    assert resume.open_circuits() == 1

    circuit_breaker.close_circuit("state", SITE_ID)
    resume.tick()

    assert resume.queued() == Counter(["a1", "a2", "a3", "b1", "b2"])
    assert resume.open_circuits() == 0


def test_what_it_says_are_accounts_and_counts(resume: Resume) -> None:
    resume.park("a1", "a2")

    resume.tick()

    [line] = resume.function.lines("resumed")
    assert (line["account"], line["circuit_open"], line["messages"]) == (SITE_ID, False, 2)
    assert "mail.example" not in resume.function.said


def test_an_account_that_fails_does_not_keep_the_others(resume: Resume) -> None:
    resume.park("a1")
    resume.park("b1", site_id=OTHER)
    resume.cloud.calls.fail("GetObject", when=lambda call: SITE_ID in call["Key"])

    resume.tick()

    assert resume.queued() == Counter(["b1"])
    [line] = resume.function.lines("not resumed")
    assert line["account"] == SITE_ID
    assert "OpenCircuits" in resume.function.metrics()


def test_with_no_time_left_nothing_is_begun_and_nothing_lost(resume: Resume) -> None:
    resume.park("a1", "a2")

    resume.tick(seconds=9)
    assert resume.queued().total() == 0

    resume.tick()
    assert resume.queued() == Counter(["a1", "a2"])


def test_an_account_with_very_much_parked_leaves_time_for_the_others(
    resume: Resume, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume.park(*(f"a{n}" for n in range(8)))
    resume.park(*(f"b{n}" for n in range(8)), site_id=OTHER)
    clock = 1_000.0

    def ten_seconds_later() -> float:
        return clock

    def slowly(parameters: object, real: object) -> object:
        nonlocal clock
        clock += 10
        return real()  # type: ignore[operator]

    monkeypatch.setattr(runtime, "monotonic", ten_seconds_later)
    resume.cloud.calls.instead("SendMessageBatch", slowly)

    resume.function({}, _Minute())

    assert resume.queued().keys() >= {"a0", "b0"}
    assert resume.queued().total() < 16


class _Minute(Context):
    """Plays an invocation that has just begun."""

    def get_remaining_time_in_millis(self) -> int:
        return 55_000


def test_a_bucket_out_of_reach_is_the_invocations_failure(resume: Resume) -> None:
    resume.park("a1")
    resume.cloud.calls.fail("ListObjectsV2")

    with pytest.raises(resume.function.app.Retryable), pytest.warns(UserWarning, match="No application"):
        resume.tick()


def test_unknown_accounts_are_counted_and_told_and_cost_nothing_else(resume: Resume) -> None:
    resume.park("a1")
    resume.park_unknown("Unkn01", "Unkn02")

    resume.tick()

    assert resume.queued() == Counter(["a1"])
    assert resume.function.metrics()["UnknownAccounts"] == 2
    [line] = resume.function.lines("unknown accounts")
    assert (line["accounts"], line["number"]) == (["Unkn01", "Unkn02"], 2)


def test_an_unknown_account_gets_its_messages_back_once_the_document_names_it(resume: Resume) -> None:
    resume.park_unknown("Unkn01", "Unkn02")
    resume.cloud.name_accounts(
        {"site_id": SITE_ID, "private_key": "key"}, {"site_id": "Unkn02", "private_key": "key"}
    )

    resume.tick()

    assert resume.queued() == Counter(["Unkn02"])
    assert resume.cloud.keys("claims", "unknown/Unkn02/") == []
    assert len(resume.cloud.keys("claims", "unknown/Unkn01/")) == 1


def test_known_accounts_come_first_when_time_is_short(
    resume: Resume, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume.park("a1")
    resume.park_unknown(OTHER)
    resume.cloud.name_accounts(
        {"site_id": SITE_ID, "private_key": "key"}, {"site_id": OTHER, "private_key": "key"}
    )
    clock = 1_000.0
    monkeypatch.setattr(runtime, "monotonic", lambda: clock)

    def slowly(parameters: object, real: object) -> object:
        nonlocal clock
        clock += 50
        return real()  # type: ignore[operator]

    resume.cloud.calls.instead("SendMessageBatch", slowly)

    resume.function({}, _Minute())

    assert resume.queued() == Counter(["a1"])
    [line] = resume.function.lines("no time left")
    assert line["accounts"] == 1
