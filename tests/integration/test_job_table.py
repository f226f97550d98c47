"""Tests where jobs are kept: each write counts once, and of two that begin a slice one is first."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sluice import runtime
from sluice.aws import clients
from sluice.errors import Retryable
from sluice.operate import jobs
from sluice.operate.job_table import JobTable
from sluice.operate.jobs import JobState, Part, Slice
from sluice.records.table import RecordsTable
from tests.integration.test_records_table import entries, rejected
from tests.support.aws_stack import Cloud

KEEP = timedelta(days=365)


@pytest.fixture
def table(cloud: Cloud) -> JobTable:
    return JobTable("records")


def slice_of(number: int, content: str = "key") -> Slice:
    parts = [
        Part("AbC123", "bulk", [("a" * 32, 2)]),
        Part("pipeless-1", "pipeless", [("b" * 32, 1)], alone=True),
    ]
    begun = datetime(2026, 11, 2, tzinfo=UTC)
    return Slice(number, content, parts, "cursor", begun, {"matched": 2}, {"why": 1})


def test_a_job_is_found_as_it_was_written(table: JobTable) -> None:
    job = jobs.create(table, "replay", "ann", '{"a":1}')
    worker = jobs.take(table, job)
    assert worker is not None
    worker.save(state=JobState.RUNNING, counts={"sent": 3}, unsettled=(0, 2), cursor="c")

    found = table.find(job_id=job.id)

    assert found == worker.job
    assert (found.counts, found.unsettled, found.version) == ({"sent": 3}, (0, 2), 3)
    assert table.find(job_id="none") is None


def test_jobs_are_listed_the_newest_first(table: JobTable, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for second in range(5):
        monkeypatch.setattr(
            runtime, "now", lambda second=second: datetime(2026, 11, 2, 0, 0, second, tzinfo=UTC)
        )
        made.append(jobs.create(table, "replay", "ann", "{}"))
    assert [job.id for job in table.newest(limit=3)] == [job.id for job in made[:1:-1]]
    assert len(table.newest(limit=10)) == 5


def test_what_another_worker_has_changed_is_not_written_over(table: JobTable) -> None:
    job = jobs.create(table, "replay", "ann", "{}")
    first = jobs.take(table, job)
    assert first is not None
    assert jobs.take(table, first.job) is None  # it has the lease
    assert jobs.take(table, job) is None  # and the version
    jobs.cancel(table, first.job, "bob")
    with pytest.raises(jobs.LeaseLost):
        first.save(counts={"sent": 1})
    found = table.find(job_id=job.id)
    assert found is not None
    assert (found.state, found.cancelled_by, found.counts) == (JobState.CANCELLED, "bob", {})


def test_what_is_open_in_a_group_is_counted_with_the_job_and_only_with_it(table: JobTable) -> None:
    records = RecordsTable("records", KEEP)
    new = entries(*(rejected(number) for number in range(3)))
    records.add(new)
    record = new[0][0]
    job = jobs.create(table, "replay", "ann", "{}")
    worker = jobs.take(table, job)
    assert worker is not None
    opened = {(record.account, record.group): (-2, -2)}

    worker.save(opened)
    stale: Any = jobs.Worker(table, job)
    with pytest.raises(jobs.LeaseLost):
        stale.save(opened)

    [group] = records.groups(record.account)
    assert (group.open, group.open_records, group.total) == (1, 1, 3)


def test_of_two_that_begin_a_slice_both_do_what_the_first_wrote(table: JobTable) -> None:
    assert table.propose_slice(job_id="j", slice=slice_of(0, "first")) == slice_of(0, "first")
    assert table.propose_slice(job_id="j", slice=slice_of(0, "second")) == slice_of(0, "first")
    assert table.propose_slice(job_id="j", slice=slice_of(1, "next")) == slice_of(1, "next")
    found = table.find_slices(job_id="j", numbers=[1, 0, 7])
    assert list(found) == [slice_of(1, "next"), slice_of(0, "first")]
    assert list(table.find_slices(job_id="other", numbers=[0])) == []


@pytest.mark.parametrize("operation", ["TransactWriteItems", "PutItem", "GetItem", "Query"])
def test_a_table_that_fails_is_told_as_such(table: JobTable, cloud: Cloud, operation: str) -> None:
    job = msgspec.structs.replace(jobs.create(table, "replay", "ann", "{}"), version=2)
    cloud.calls.fail(operation)
    attempts: dict[str, Callable[[], object]] = {
        "TransactWriteItems": lambda: table.save(job=job, opened={}),
        "PutItem": lambda: table.propose_slice(job_id="j", slice=slice_of(0)),
        "GetItem": lambda: table.find(job_id=job.id),
        "Query": lambda: table.newest(limit=1),
    }
    with pytest.raises(Retryable):
        attempts[operation]()


def test_a_counter_that_others_write_at_the_moment_is_waited_for(table: JobTable, cloud: Cloud) -> None:
    job = jobs.create(table, "replay", "ann", "{}")
    reasons = [{"Code": "None"}, {"Code": "TransactionConflict"}]
    left = iter(range(2))

    def busy(_: Any, real: Callable[[], Any]) -> Any:
        if next(left, None) is None:
            return real()
        answer: Any = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
        refusal: Any = clients.dynamodb().exceptions.TransactionCanceledException
        raise refusal(answer, "TransactWriteItems")

    cloud.calls.instead("TransactWriteItems", busy)
    worker = jobs.take(table, job)
    assert worker is not None
    assert worker.job.version == 2
