"""Tests that nearly all of the rate that others leave is used, and that learning it costs few 429s."""

import pytest

from benchmarks import rate_left
from benchmarks.rate_left import at_random, constantly, hour, in_steps


@pytest.mark.parametrize(
    "left",
    [(1, 6), (1, 20), (1, 54), (2, 12), (3, 30), (4, 140), (5, 75), (10, 100), (10, 150)],
    ids=lambda left: f"{left[0]}-{left[1]}",
)
def test_a_constant_rest_is_used(left: tuple[int, int]) -> None:
    use = hour(constantly(*left))

    assert use.share >= 0.95
    assert use.throttles <= 5


@pytest.mark.parametrize("seconds", [300, 900, 1_800])
def test_a_rest_that_changes_in_steps_is_used(seconds: float) -> None:
    use = hour(in_steps((2, 12), (10, 150), (5, 60), (1, 6), seconds=seconds))

    assert use.share >= 0.95
    assert use.throttles <= 10


@pytest.mark.parametrize("seed", range(3))
def test_a_rest_that_is_another_in_each_minute_is_used(seed: int) -> None:
    use = hour(at_random((10, 150), (8, 120), (8, 90), (5, 60), (4, 30)), seed)

    assert use.share >= 0.9
    assert use.throttles <= 15


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "levels", [((1, 6), (10, 150)), ((1, 6), (2, 12), (3, 30), (5, 60), (8, 120), (10, 150))]
)
def test_a_rest_that_jumps_is_used_in_the_minute_that_reports_it(
    levels: tuple[tuple[int, int], ...], seed: int
) -> None:
    use = hour(at_random(*levels), seed)

    assert use.share >= 0.9
    assert use.throttles <= 20


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "left",
    [(1, 6), (1, 20), (1, 54), (2, 12), (3, 30), (4, 140), (5, 75), (10, 100), (10, 150)],
    ids=lambda left: f"{left[0]}-{left[1]}",
)
def test_a_constant_rest_is_used_without_headers_too(left: tuple[int, int], seed: int) -> None:
    use = hour(constantly(*left), seed, has_headers=False)

    assert use.share >= 0.9
    assert use.throttles <= 12


def test_most_of_a_rest_that_changes_in_steps_is_used_without_headers() -> None:
    use = hour(in_steps((2, 12), (10, 150), (5, 60), (1, 6), seconds=900), has_headers=False)

    assert use.share >= 0.75
    assert use.throttles <= 15


def test_the_benchmark_tells_of_every_way() -> None:
    assert rate_left.run().keys() == rate_left.WAYS.keys()
