"""Tests what the guard of the hot path says of given ratios; `make check` measures the real ones."""

from benchmarks import regression_guard


def test_only_what_is_slower_than_the_margin_allows_is_named() -> None:
    recorded = regression_guard.recorded()

    assert regression_guard.slower(recorded) == []
    assert (
        regression_guard.slower({name: ratio * regression_guard.MARGIN for name, ratio in recorded.items()})
        == []
    )

    [found] = regression_guard.slower(
        {**recorded, "dispatch": recorded["dispatch"] * regression_guard.MARGIN * 1.01}
    )
    assert found.startswith("dispatch takes")
