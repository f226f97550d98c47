"""Tests what `make chaos` plans beforehand and counts at the end: a count that cannot fail shows nothing."""

import json
from collections import Counter

import pytest

from tests.chaos.ledger import Accepted, Archive, Count, count
from tests.chaos.plan import BRIEF_WEATHERS, WEATHERS, Blow, Plan, Sending, Way, plan

SENDING = Sending(0.0, Way.BULK, b"", ("chaos-000001", "chaos-000002", "chaos-000003"))
POISON = Sending(0.0, Way.BULK, b"", ("chaos-000009",), poison=True)
ALL_IS_WELL = {"chaos-000001": 1, "chaos-000002": 1}


@pytest.fixture
def archive() -> Archive:
    archive = Archive(s3=None, bucket="")  # type: ignore[arg-type]
    archive.take([line("1", "refused_by_upstream", "chaos-000003"), line("2", "dead_letter", "chaos-000009")])
    return archive


@pytest.fixture
def accepted() -> Accepted:
    accepted = Accepted()
    accepted.add(SENDING, "r1")
    accepted.add(POISON, "r2")
    return accepted


def line(id: str, reason: str, mark: str) -> bytes:
    return json.dumps({"id": id, "reason": reason, "payload": {"mark": mark}}).encode()


def figures(accepted: Accepted, archive: Archive, taken: dict[str, int], throttled: int = 0) -> Count:
    bad = Plan(0, (), (), frozenset({"chaos-000003"}), (), {}, ())
    return count(bad, accepted, archive, Counter(taken), throttled)


def test_the_same_seed_is_the_same_run() -> None:
    one, again, other = plan(5, 60), plan(5, 60), plan(6, 60)

    assert one == again
    assert one.digest == again.digest != other.digest
    assert [one.chance("x", n) for n in range(50)] == [again.chance("x", n) for n in range(50)]
    assert one.chance("x", 1) != other.chance("x", 1)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_has_every_kind_of_trouble(seed: int) -> None:
    chosen = plan(seed, 150)

    assert {weather.name for weather in chosen.weather} == {*WEATHERS, "fair"}
    assert chosen.weather[-1].name == "fair"
    assert {strike.blow for strike in chosen.strikes.values()} == set(Blow)
    assert {strike.done for strike in chosen.strikes.values()} == {True, False}
    assert {sending.way for sending in chosen.sendings} == set(Way)
    assert sum(sending.poison for sending in chosen.sendings) == 1
    assert chosen.bad
    assert chosen.outages


@pytest.mark.parametrize("seed", range(5))
def test_a_brief_run_waits_for_nothing(seed: int) -> None:
    chosen = plan(seed, 15, brief=True)

    assert {weather.name for weather in chosen.weather} == {*BRIEF_WEATHERS, "fair"}
    assert not any(sending.poison for sending in chosen.sendings)
    assert {strike.blow for strike in chosen.strikes.values()} == set(Blow)


def test_marks_are_never_used_twice() -> None:
    marks = [mark for sending in plan(5, 60).sendings for mark in sending.marks]

    assert len(marks) == len(set(marks)) > 1_000


def test_a_run_in_which_all_is_well(accepted: Accepted, archive: Archive) -> None:
    figure = figures(accepted, archive, ALL_IS_WELL)

    assert figure.faults == []
    assert str(figure) == (
        "accepted=4 delivered=2 rejected=2 lost=0 duplicated=0 throttled_by_us=0 dead_letters=1 (poison=1)"
    )


@pytest.mark.parametrize(
    ("taken", "throttled", "fault"),
    [
        ({"chaos-000001": 1}, 0, "lost chaos-000002"),
        ({**ALL_IS_WELL, "chaos-000001": 2}, 0, "delivered twice chaos-000001"),
        ({**ALL_IS_WELL, "chaos-000007": 1}, 0, "never accepted chaos-000007"),
        ({**ALL_IS_WELL, "chaos-000003": 1}, 0, "delivered or rejected wrongly chaos-000003"),
        (ALL_IS_WELL, 1, "429s caused by us"),
    ],
)
def test_what_is_not_well_is_named(
    accepted: Accepted, archive: Archive, taken: dict[str, int], throttled: int, fault: str
) -> None:
    assert fault in figures(accepted, archive, taken, throttled).faults


def test_a_good_event_refused_is_named(accepted: Accepted, archive: Archive) -> None:
    archive.take([line("3", "refused_by_upstream", "chaos-000002")])

    faults = figures(accepted, archive, {"chaos-000001": 1}).faults

    assert faults == ["delivered or rejected wrongly chaos-000002"]


def test_a_dead_letter_that_is_not_the_poison_is_named(accepted: Accepted, archive: Archive) -> None:
    archive.take([line("3", "dead_letter", "chaos-000002")])

    assert "dead letters other than the poison" in figures(accepted, archive, {"chaos-000001": 1}).faults


def test_what_was_not_answered_is_accepted_whole_where_any_of_it_arrived(
    accepted: Accepted, archive: Archive
) -> None:
    accepted.unanswered += [
        Sending(0.0, Way.BULK, b"", ("chaos-000011", "chaos-000012")),
        Sending(0.0, Way.EVENT, b"", ("chaos-000013",)),
    ]

    figure = figures(accepted, archive, {**ALL_IS_WELL, "chaos-000011": 1})

    assert figure.accepted == 6
    assert figure.lost == {"chaos-000012"}
