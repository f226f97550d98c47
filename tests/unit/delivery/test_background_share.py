"""Simulates an import beside live events, with the real dispatch at the real rate and smaller jobs."""

from functools import partial
from typing import Any

from benchmarks import background

JOBS_A_MINUTE = 148  # by the spacing of slots
EVENTS = 10  # in a job

simulate: Any = partial(
    background.at, imported=6_000, job_events=EVENTS, lines=1, warm_up=60.0, measured=120.0
)
WITHOUT_PRIORITY = {("delivery.rate_limiter", "BACKGROUND_LEAST_MS"): 0}


def test_live_events_at_the_bar_are_delivered_within_ten_seconds_and_the_import_goes_on() -> None:
    found = simulate(0.85)

    assert found["live_p99"] <= 10
    assert found["background_jobs_per_minute"] > 1
    assert found["above_limit"] == 0


def test_an_import_that_let_nobody_go_first_would_hold_live_events_up() -> None:
    assert simulate(0.85, knobs=WITHOUT_PRIORITY)["live_p99"] > 10


def test_an_import_uses_nearly_all_that_few_live_events_leave() -> None:
    found = simulate(0.01)

    assert found["live_jobs_per_minute"] + found["background_jobs_per_minute"] >= 0.95 * JOBS_A_MINUTE
    assert found["live_p99"] <= 10


def test_above_the_bar_an_import_gets_one_job_a_minute() -> None:
    found = simulate(1.0)

    assert 0.5 <= found["background_jobs_per_minute"] <= 1.5
