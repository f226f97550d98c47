"""What the guard of the hot path's speed says of given ratios; how quick it is, `make check` measures."""

from benchmarks import guard


def test_only_what_is_slower_than_the_margin_allows_is_named() -> None:
    recorded = guard.recorded()

    assert guard.slower(recorded) == []
    assert guard.slower({name: ratio * guard.MARGIN for name, ratio in recorded.items()}) == []

    [found] = guard.slower({**recorded, "dispatch": recorded["dispatch"] * guard.MARGIN * 1.01})
    assert found.startswith("dispatch takes")
