"""Checks that the hot path is not slower, beside the baseline, than it was when recorded."""

import pytest

from benchmarks import gateway, regression_guard


def test_hot_path_is_as_quick_as_recorded() -> None:
    # A busy machine may spoil one run, but not three.
    assert any(not regression_guard.slower(regression_guard.ratios()) for _ in range(3))


def test_guard_notices_a_slower_hot_path(monkeypatch: pytest.MonkeyPatch) -> None:
    read, packed = gateway.stored, gateway.jobs
    monkeypatch.setattr(gateway, "stored", lambda *given: [read(*given) for _ in range(3)].pop())
    monkeypatch.setattr(gateway, "jobs", lambda given: [packed(given) for _ in range(6)].pop())

    found = regression_guard.slower(regression_guard.ratios())

    assert [text.split()[0] for text in found] == ["ingest", "dispatch"]
