"""Tests the records table: what is written, found, listed and counted, and how much that takes."""

import itertools
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from sluice import runtime
from sluice.errors import Retryable
from sluice.records import items
from sluice.records import table as module
from sluice.records.person import hashed
from sluice.records.record import Location, Record, State, record_of
from sluice.records.table import OTHER, Filter, RecordsTable
from sluice.rejection import Reason, Rejection, rejection_id
from tests.support.aws_stack import Cloud
from tests.support.factories import SITE_ID

KEY = b"a key of hashes"
KEEP = timedelta(days=365)
OTHER_SITE = "XyZ789"


@pytest.fixture
def table(cloud: Cloud) -> RecordsTable:
    return RecordsTable("records", KEEP)


def rejected(number: int, *, hours: float = 0.0, email: str | None = None, **fields: Any) -> Rejection:
    accepted = (runtime.now() - timedelta(days=2)).replace(microsecond=0) + timedelta(hours=hours)
    payload = {
        "profile": {"attributes": {"email": email or f"person{number}@example.com"}},
        "events": [{"metric": {"data": {"attributes": {"name": fields.pop("metric", "Placed Order")}}}}],
    }
    usual: dict[str, Any] = {
        "reason": Reason.REFUSED,
        "detail": f"'EUR{number}' is no currency.",
        "rejected_at": accepted + timedelta(minutes=1),
        "account": SITE_ID,
        "accepted": accepted,
        "receipt": f"r{number % 3}",
        "id": rejection_id(accepted, str(number)),
    }
    return Rejection(payload=msgspec.Raw(msgspec.json.encode(payload)), **usual | fields)


def entries(*rejections: Rejection) -> list[Any]:
    return [record_of(each, Location("0" * 32, 0, 10), KEY) for each in rejections]


def test_a_record_is_found_as_it_was_written(table: RecordsTable) -> None:
    [(record, cause)] = new = entries(
        rejected(1, source="shop", code="invalid", pointer="/data/attributes/x")
    )

    assert table.add(new) == [record]

    assert table.find(record.id) == record
    assert table.find(rejection_id(runtime.now(), "another")) is None
    assert table.find_many([record.id, record.id, rejection_id(runtime.now(), "x")]) == [record]
    [group] = table.groups(SITE_ID)
    assert (group.id, group.detail, group.open, group.total) == (cause.group, "'…' is no currency.", 1, 1)
    assert (group.metrics, group.sources, group.samples) == (("Placed Order",), ("shop",), (record.id,))
    assert table.accounts() == [SITE_ID]


def test_writing_it_again_changes_nothing(table: RecordsTable, cloud: Cloud) -> None:
    [(record, _)] = new = entries(rejected(1))
    table.add(new)
    table.change(msgspec.structs.replace(record, state=State.DISCARDED), only_if=State.OPEN)

    assert table.add(new) == []

    found = table.find(record.id)
    assert found is not None
    assert found.state is State.DISCARDED
    assert [group.total for group in table.groups(SITE_ID)] == [1]


def test_one_rejection_twice_in_a_batch_is_one_record(table: RecordsTable) -> None:
    assert len(table.add(entries(rejected(1), rejected(1)))) == 1
    assert [group.total for group in table.groups(SITE_ID)] == [1]


def test_a_batch_of_one_cause_is_one_group_and_few_calls(table: RecordsTable, cloud: Cloud) -> None:
    cloud.calls.clear()

    table.add(entries(*map(rejected, range(1_000))))

    [group] = table.groups(SITE_ID)
    assert (group.open, group.records, len(group.samples)) == (1_000, 1_000, 3)
    assert len(cloud.calls.of("BatchGetItem")) == 10
    assert len(cloud.calls.of("BatchWriteItem")) == 40
    # Of the account, the group, the day, and the counter.
    assert len(cloud.calls.of("UpdateItem")) == 4


@pytest.mark.parametrize("limit", [7, 50])
def test_all_records_are_listed_once_the_last_accepted_first(table: RecordsTable, limit: int) -> None:
    chosen = random.Random(7)
    made = [rejected(number, hours=chosen.uniform(-70, 40)) for number in range(120)]
    table.add(entries(*made))
    wanted = sorted((each.id for each in made), reverse=True)

    listed: list[str] = []
    before = None
    while True:
        page = table.page(Filter(), before=before, limit=limit)
        assert len(page.records) <= limit
        listed += [record.id for record in page.records]
        before = page.next
        if before is None:
            break

    assert listed == wanted
    assert table.page(Filter(), limit=120).next is None


def test_a_short_page_reads_few_records_and_a_rare_one_is_found_all_the_same(
    table: RecordsTable, cloud: Cloud
) -> None:
    made = [rejected(number) for number in range(600)]
    table.add(entries(*made, rejected(600, hours=-1, metric="Rare")))
    cloud.calls.clear()

    [record] = table.page(Filter(), limit=1).records

    read = [each for each in cloud.calls.of("Query") if "record#" in str(each)]
    assert record.id == max(each.id for each in made)
    assert len(read) == items.RECORD_SHARDS
    assert all(each["Limit"] < 20 for each in read)
    [rare] = table.page(Filter(metric="Rare"), limit=1).records
    assert rare.metric == "Rare"


MIXED = [
    rejected(0, hours=-30),
    rejected(1, account=OTHER_SITE),
    rejected(2, reason=Reason.OVERSIZED),
    rejected(3, metric="Viewed Product", source="shop"),
    rejected(4, email="Ann@example.com"),
    rejected(5, hours=20),
]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Filter(), [5, 4, 3, 2, 1, 0]),
        (Filter(account=OTHER_SITE), [1]),
        (Filter(reason=Reason.OVERSIZED), [2]),
        (Filter(metric="Viewed Product"), [3]),
        (Filter(source="shop"), [3]),
        (Filter(profile=hashed("ann@EXAMPLE.com", KEY)), [4]),
        (Filter(receipt="r0"), [3, 0]),
        (Filter(state=State.OPEN, account=SITE_ID), [5, 4, 3, 2, 0]),
        (Filter(state=State.DELIVERED), []),
        (Filter(since=MIXED[4].rejected_at), [5, 4, 3, 2, 1]),
        (Filter(until=MIXED[4].rejected_at), [0]),
    ],
)
def test_a_filter_leaves_out_the_rest(table: RecordsTable, wanted: Filter, numbers: list[int]) -> None:
    table.add(entries(*MIXED))
    ids = {each.id: number for number, each in enumerate(MIXED)}

    found = [ids[record.id] for record in table.page(wanted, limit=100).records]

    # Five of them were accepted in one millisecond, in which their digests decide.
    assert sorted(found) == sorted(numbers)
    assert [number for number in found if number in {0, 5}] == [
        number for number in numbers if number in {0, 5}
    ]


def test_a_state_changes_only_from_the_one_that_is_meant(table: RecordsTable) -> None:
    [(record, _)] = new = entries(rejected(1))
    table.add(new)
    mine = msgspec.structs.replace(record, state=State.REPLAYING, job="job 1")
    other = msgspec.structs.replace(record, state=State.REPLAYING, job="job 2")

    assert table.change_all([mine], only_if=State.OPEN) == {record.id}
    assert not table.change(other, only_if=State.OPEN)
    assert table.change(mine, only_if=State.OPEN)  # by a worker that goes on for one that died
    assert table.find(record.id) == mine


def test_a_replayed_record_changes_only_for_its_job(table: RecordsTable) -> None:
    [(record, _)] = new = entries(rejected(1))
    table.add(new)
    mine = msgspec.structs.replace(record, state=State.REPLAYING, job="job 1")
    assert table.change(mine, only_if=State.OPEN)

    for_other = msgspec.structs.replace(mine, state=State.OPEN, job="job 2")
    assert not table.change(for_other, only_if=State.REPLAYING)
    done = msgspec.structs.replace(mine, state=State.DELIVERED)
    assert table.change(done, only_if=State.REPLAYING)
    # A worker that was slow claims nothing that is over.
    assert not table.change(mine, only_if=State.OPEN)
    assert table.find(record.id) == done


def test_what_is_refused_again_is_linked(table: RecordsTable) -> None:
    [(record, _)] = new = entries(rejected(1))
    table.add(new)
    assert table.change(
        msgspec.structs.replace(record, state=State.REPLAYING, job="job 1"), only_if=State.OPEN
    )
    [(successor, _)] = again = entries(rejected(2, replays=record.id))

    table.add(again)
    table.link([successor])

    found = table.find(record.id)
    assert found is not None
    assert (found.state, found.successor, found.job) == (State.REJECTED_AGAIN, successor.id, "job 1")
    assert successor.predecessor == record.id


def test_only_a_record_that_is_being_replayed_is_linked(table: RecordsTable) -> None:
    [(record, _)] = new = entries(rejected(1))
    table.add(new)
    forged = [each for each, _ in entries(rejected(2, replays=record.id), rejected(3, replays="no id"))]

    table.link(forged)

    assert table.find(record.id) == record


def test_what_is_open_is_counted(table: RecordsTable) -> None:
    new = entries(*map(rejected, range(5)))
    table.add(new)

    table.count_open([record for record, _ in new[:3]], sign=-1)
    table.count_open([record for record, _ in new[:1]], sign=1)

    [group] = table.groups(SITE_ID)
    assert (group.open, group.open_records, group.total) == (3, 3, 5)


def test_strangers_make_no_more_than_a_thousand_groups(
    table: RecordsTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GROUPS", 5)
    made = [rejected(number, detail="x" * (number + 1)) for number in range(9)]
    table.add(entries(*made[:7]))
    module._seen.clear()  # a new process
    table.add(entries(*made[6:], made[0]))

    groups = {group.id: group.total for group in table.groups(SITE_ID)}

    assert len(groups) == 6
    assert groups[OTHER] == 4
    assert sum(groups.values()) == 9


def test_records_live_as_long_as_the_archive(table: RecordsTable, monkeypatch: pytest.MonkeyPatch) -> None:
    [(record, _)] = new = entries(rejected(1))
    table.add(new)
    end = record.rejected_at + KEEP

    def at(moment: datetime) -> Record | None:
        monkeypatch.setattr(runtime, "time", moment.timestamp)
        return table.find(record.id)

    assert at(end - timedelta(seconds=2)) == record
    assert at(end) is None
    assert table.page(Filter(), limit=10).records == []
    assert table.find_many([record.id]) == []


@pytest.mark.parametrize("operation", ["BatchGetItem", "BatchWriteItem", "UpdateItem"])
def test_a_table_that_cannot_be_used_is_tried_again(
    table: RecordsTable, cloud: Cloud, operation: str
) -> None:
    cloud.calls.fail(operation)

    with pytest.raises(Retryable):
        table.add(entries(rejected(1)))


def test_a_record_is_listed_whichever_call_failed_when_it_was_written(
    table: RecordsTable, cloud: Cloud
) -> None:
    cloud.calls.clear()
    table.add(entries(rejected(0)))
    calls = len(cloud.calls.made)
    failures = 0

    for at in range(calls):
        # A day and a cause of its own, so that nothing of the others hides what is missing.
        new = entries(rejected(at + 1, hours=-24.0 * (at + 1), detail="x" * (at + 1)))
        count = itertools.count()

        def hook(parameters: dict[str, Any], real: Any, at: int = at, count: Iterator[int] = count) -> Any:
            if next(count) == at:
                raise ClientError({"Error": {"Code": "ServiceUnavailable"}}, "any")
            return real()

        cloud.calls.instead("*", hook)
        try:
            table.add(new)
        except Retryable:
            failures += 1
        cloud.calls.clear()
        table.add(new)

        assert new[0][0] in table.page(Filter(), limit=100).records

    assert failures == calls - 2  # the account is looked up and entered only once


def test_what_a_throttled_table_leaves_out_is_asked_for_again(table: RecordsTable, cloud: Cloud) -> None:
    new = entries(*map(rejected, range(3)))
    left = {"BatchWriteItem": 2, "BatchGetItem": 2}

    def partly(operation: str, name: str) -> None:
        def hook(parameters: dict[str, Any], real: Any) -> Any:
            if left[operation]:
                left[operation] -= 1
                return {"Responses": {}, name: parameters["RequestItems"]}
            return real()

        cloud.calls.instead(operation, hook)

    partly("BatchWriteItem", "UnprocessedItems")
    table.add(new)
    cloud.calls.clear()
    partly("BatchGetItem", "UnprocessedKeys")

    assert len(table.find_many(record.id for record, _ in new)) == 3
