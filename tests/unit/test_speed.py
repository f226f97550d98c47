"""The hot path is not slower, beside the floor below it, than it was when recorded."""

from benchmarks import guard


def test_hot_path_is_as_quick_as_recorded() -> None:
    # A busy machine may spoil one run, but not three.
    assert any(not guard.slower(guard.ratios()) for _ in range(3))


def test_guard_notices_a_slower_hot_path() -> None:
    recorded = guard.recorded()

    slower = {name: ratio * guard.MARGIN * 1.01 for name, ratio in recorded.items()}

    assert len(guard.slower(slower)) == len(recorded)
    assert not guard.slower(recorded)
