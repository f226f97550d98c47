"""Tests waits: within SQS's limits, growing, and so long that no outage uses up the receives."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.delivery import backoff
from sluice.delivery.backoff import MAX_SECONDS, SLOT_RETRIES, Retry, delay

RECEIVE_COUNT = 500  # the template's default
HOUR = 3_600
FAILED, TURN = Retry(), Retry(rate_limited=True)


class Least(random.Random):
    """Draws the least, always."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Most(random.Random):
    """Draws the most, always."""

    def uniform(self, a: float, b: float) -> float:
        return b


waits = st.builds(Retry, st.none() | st.floats(0, 10_000), st.booleans())
chances = st.integers(0, 2**32).map(random.Random)


@pytest.mark.parametrize(
    ("receives", "wait", "least", "most"),
    [
        (1, FAILED, 2, 4),
        (2, FAILED, 4, 8),
        (3, FAILED, 8, 16),
        (4, FAILED, 16, 32),
        (14, FAILED, 41, 83),
        (39, FAILED, 450, 899),
        (40, FAILED, 890, 900),
        (500, FAILED, 890, 900),
        # A message that is known to be too early waits until its time, and a little longer.
        (1, Retry(60.0), 60, 62),
        (6, Retry(60.0), 60, 79),
        (14, Retry(60.0), 60, 101),
        (1, Retry(899.0), 899, 900),
        (1, Retry(86_400.0), 900, 900),
        # A turn is known to come: no penalty, until it has not come for long.
        (1, TURN, 0, 2),
        (SLOT_RETRIES, Retry(7.0, rate_limited=True), 7, 9),
        (SLOT_RETRIES + 1, TURN, 2, 4),
        (SLOT_RETRIES + 1, Retry(20.0, rate_limited=True), 20, 22),
        (SLOT_RETRIES + 31, TURN, 38, 77),
        (500, TURN, 890, 900),
    ],
)
def test_a_wait_lies_between(receives: int, wait: Retry, least: int, most: int) -> None:
    assert delay(receives, wait, Least()) == least
    assert delay(receives, wait, Most()) == most


@given(receives=st.integers(1, 10_000), wait=waits, chance=chances)
def test_a_wait_is_one_sqs_takes_and_not_too_early(receives: int, wait: Retry, chance: random.Random) -> None:
    seconds = delay(receives, wait, chance)

    assert isinstance(seconds, int)
    assert 0 <= seconds <= MAX_SECONDS
    assert seconds >= min(MAX_SECONDS, wait.seconds or 0) - 0.5  # it is rounded


@given(receives=st.integers(1, 1_000), wait=waits)
def test_waits_grow(receives: int, wait: Retry) -> None:
    assert delay(receives + 1, wait, Least()) >= delay(receives, wait, Least())
    assert delay(receives + 1, wait, Most()) >= delay(receives, wait, Most())


@pytest.mark.parametrize("receives", [3, 6, 12])
def test_what_waits_together_comes_back_apart(receives: int) -> None:
    chance = random.Random(1)

    assert len({delay(receives, FAILED, chance) for _ in range(1_000)}) >= 8


@pytest.mark.parametrize(
    ("wait", "hours", "at_most"),
    [
        (FAILED, 3, 50),
        (FAILED, 4.5 * 24, RECEIVE_COUNT - 1),
        (Retry(1.0), 4.5 * 24, RECEIVE_COUNT - 1),
        # A wait for turns is one behind others: four and a half days of them are a billion events.
        (TURN, 3, 75),
        (TURN, 4.5 * 24, RECEIVE_COUNT - 1),
        (Retry(1.0, rate_limited=True), 4.5 * 24, RECEIVE_COUNT - 1),
    ],
)
@pytest.mark.parametrize("chance", [Least(), random.Random(1)])
def test_waiting_leaves_receives(wait: Retry, hours: float, at_most: int, chance: random.Random) -> None:
    passed = receives = 0
    while passed < hours * HOUR:
        receives += 1
        passed += 5 + delay(receives, wait, chance)  # a window of gathering and the wait

    assert receives <= at_most


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        (Retry(5.0), Retry(3.0)),
        (Retry(5.0), FAILED),
        (FAILED, Retry(60.0, rate_limited=True)),
        (Retry(9.0, rate_limited=True), TURN),
    ],
)
def test_of_two_reasons_the_longer_counts(longer: Retry, shorter: Retry) -> None:
    assert backoff.longest(longer, shorter) is longer
    assert backoff.longest(shorter, longer) is longer


@given(one=waits, other=waits)
def test_a_failure_counts_more_than_a_turn(one: Retry, other: Retry) -> None:
    found = backoff.longest(one, other)

    assert found in (one, other)
    assert found.rate_limited == (one.rate_limited and other.rate_limited)


def test_what_got_on_comes_back_at_once() -> None:
    assert {
        backoff.delay(receives, Retry(made_progress=True), random.Random(1)) for receives in range(1, 50)
    } == {0}
