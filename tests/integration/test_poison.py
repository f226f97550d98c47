"""Notes of what processes had in hand, in an emulated bucket."""

import time

import pytest

from sluice.delivery import poison
from sluice.errors import Retryable
from tests.support.aws_stack import Cloud, Crash

NOW = time.time()


def leave(*message_ids: str, end: float = NOW - 60) -> None:
    with pytest.raises(Crash), poison.journal("claims", message_ids, end):
        raise Crash


def test_what_a_process_died_with_is_told_when_its_time_is_over(cloud: Cloud) -> None:
    leave("m1", "m2")
    leave("m2", "m3")
    leave("m4", end=NOW + 60)

    assert sorted(map(sorted, poison.crashed_groups("claims", NOW))) == [["m1", "m2"], ["m2", "m3"]]
    assert {"m4"} in poison.crashed_groups("claims", NOW + 62)


def test_what_was_finished_leaves_no_note(cloud: Cloud) -> None:
    with poison.journal("claims", ["m1"], NOW - 60):
        assert poison.crashed_groups("claims", NOW) == [{"m1"}]

    assert poison.crashed_groups("claims", NOW) == []
    assert cloud.keys("claims", "") == []


def test_the_newest_notes_are_looked_at(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison, "MAX_JOURNAL_ENTRIES", 2)
    for age in (300, 100, 400, 200):
        leave(f"m{age}", end=NOW - age)

    assert poison.crashed_groups("claims", NOW) == [{"m100"}, {"m200"}]


@pytest.mark.parametrize("operation", ["PutObject", "DeleteObject"])
def test_without_a_note_the_work_goes_on(cloud: Cloud, operation: str) -> None:
    cloud.calls.fail(operation)
    worked = False

    with poison.journal("claims", ["m1"], NOW):
        worked = True

    assert worked


def test_notes_that_cannot_be_listed_are_to_be_tried_again_and_one_that_is_gone_is_none(cloud: Cloud) -> None:
    leave("m1")
    cloud.calls.fail("GetObject")
    assert poison.crashed_groups("claims", NOW) == []

    cloud.calls.fail("ListObjectsV2")
    with pytest.raises(Retryable):
        poison.crashed_groups("claims", NOW)
