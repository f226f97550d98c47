"""Tests the reject function as Lambda calls it: a message on its queues ends in the archive, or stays."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluice import archive, message, positions, receipts, rejection, runtime
from sluice.archive import CLAIM_RECEIVES
from sluice.contract import Surface
from sluice.records import items as record_items
from sluice.records.record import record_of
from sluice.rejection import Reason, Rejection
from tests.support import sealing
from tests.support.aws_stack import Cloud, Context, Function, again, stored
from tests.support.factories import NOON, SITE_ID

NAMES = ["one", "two", "three", "large", "zstd", "r0", "r1", "r2", "r3"]
SECRETS = ["mail.example", "s3cret"]


def id_of(name: str) -> str:
    return rejection.rejection_id(NOON, name)


def refused(name: str, size: int = 0, **fields: Any) -> message.Body:
    """Makes a rejection as a message; with a size it becomes a claim check."""
    noise = random.Random(name).randbytes(size).hex()
    payload = {"profile": {"email": f"{name}@mail.example"}, "events": [{"text": noise}]}
    given: dict[str, Any] = {
        "reason": Reason.REFUSED,
        "detail": "s3cret detail",
        "payload": msgspec.Raw(msgspec.json.encode(payload)),
        "rejected_at": NOON,
        "account": SITE_ID,
        "id": id_of(name),
    }
    return rejection.encode(Rejection(**given | fields))


class Reject:
    """Runs the function with its queue."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.function: Function = cloud.load("reject")

    def put(self, *bodies: message.Body | str) -> None:
        for each in bodies:
            if isinstance(each, message.Body) and each.claim_key:
                self.cloud.s3.put_object(Bucket="claims", Key=each.claim_key, Body=each.claim_bytes)
            body, seal = (each, "") if isinstance(each, str) else (each.text, sealing.seal(each.text))
            self.cloud.send(body, queue=self.cloud.rejected, seal=seal)

    def invoke(self, records: dict[str, Any] | None = None, context: Context | None = None) -> list[str]:
        """Archives what is visible; the bodies of the messages that failed."""
        records = self.cloud.receive(self.cloud.rejected) if records is None else records
        answer = self.function(records, context)
        self.cloud.settle(records, answer, self.cloud.rejected)
        bodies = {record["messageId"]: record["body"] for record in records["Records"]}
        return [bodies[failure["itemIdentifier"]] for failure in answer["batchItemFailures"]]

    def archived(self) -> dict[str, dict[str, Any]]:
        """Returns the archive's lines by the name that the test gave them, or by id."""
        lines = [
            json.loads(line)
            for key in self.cloud.keys("archive")
            for line in self.cloud.content("archive", key).splitlines()
        ]
        names = {id_of(name): name for name in NAMES}
        found = {names.get(line["id"], line["id"]): line for line in lines}
        assert len(found) == len(lines)
        return found


class Minute(Context):
    """Plays an invocation that has all of its time, whatever the clock says."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.fixture
def reject(cloud: Cloud) -> Reject:
    return Reject(cloud)


def test_a_batch_is_archived_by_account_and_day(reject: Reject) -> None:
    dead = message.encode(stored(("ann", "a0"), receipt="r1"))
    reject.put(refused("one"), refused("two", account="XyZ789"), refused("large", size=1_000_000))
    reject.put(refused("zstd", size=60_000), dead, "mail.example, not JSON")

    assert reject.invoke() == []

    assert reject.cloud.left(reject.cloud.rejected) == []
    archived = reject.archived()
    assert archived.keys() >= {"one", "two", "large", "zstd"}
    reasons = sorted(line["reason"] for line in archived.values())
    assert reasons == ["dead_letter"] * 2 + ["refused_by_upstream"] * 4
    assert len(archived["large"]["payload"]["events"][0]["text"]) == 2_000_000
    partitions = {key.rsplit("/", 1)[0] for key in reject.cloud.keys("archive")}
    assert {f"rejections/account={SITE_ID}/day=2026-07-20", "rejections/account=XyZ789/day=2026-07-20"} < (
        partitions
    )
    assert any("account=unknown" in partition for partition in partitions)
    metrics = reject.function.metrics()
    assert metrics == {"ArchivedRejections": 6, "RejectedEvents": 6, "DeadLetters": 2}


def test_what_there_is_no_time_for_stays(reject: Reject, monkeypatch: pytest.MonkeyPatch) -> None:
    reject.put(*(refused(f"r{number}", size=1_000_000) for number in range(4)), "mail.example, not JSON")
    now = 1_000.0

    def slowly(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        nonlocal now
        now += 15
        return real()

    monkeypatch.setattr(runtime, "monotonic", lambda: now)
    reject.cloud.calls.instead("GetObject", slowly)

    assert len(reject.invoke(context=Minute())) == 2

    assert reject.archived().keys() == {"r0", "r1", "r2"}
    assert reject.function.metrics() == {"ArchivedRejections": 3, "RejectedEvents": 3, "DeadLetters": 0}
    assert len(reject.cloud.left(reject.cloud.rejected)) == 2


def test_what_it_says_are_ids_and_reasons(reject: Reject) -> None:
    reject.put(refused("one", receipt="r1", code="invalid"), "mail.example s3cret")

    reject.invoke()

    lines = reject.function.lines("archived")
    assert lines[0]["id"] == id_of("one")
    assert (lines[0]["reason"], lines[0]["receipt"], lines[0]["code"]) == (
        "refused_by_upstream",
        "r1",
        "invalid",
    )
    for secret in SECRETS:
        assert secret not in reject.function.said


def test_what_is_archived_again_is_the_same_object(reject: Reject) -> None:
    reject.put(refused("one"), refused("two"))
    records = reject.cloud.receive(reject.cloud.rejected)
    reject.invoke(records)
    keys = reject.cloud.keys("archive")

    reject.function(again(records, receives=2))

    assert reject.cloud.keys("archive") == keys


def test_an_archive_that_cannot_be_written_keeps_everything(reject: Reject) -> None:
    reject.put(refused("one"), refused("two"))
    reject.cloud.calls.fail("PutObject")

    assert len(reject.invoke()) == 2

    assert len(reject.cloud.left(reject.cloud.rejected)) == 2
    assert reject.function.lines("archive not written")
    assert reject.function.metrics() == {"ArchivedRejections": 0, "DeadLetters": 0}


def test_a_claim_that_cannot_be_read_keeps_its_message_alone_but_not_for_ever(reject: Reject) -> None:
    claim = '{"sluice":1,"claim":"rejections/none"}'
    reject.put(message.Body(claim), refused("one"))
    records = reject.cloud.receive(reject.cloud.rejected)

    assert reject.invoke(records) == [claim]
    assert reject.archived().keys() == {"one"}

    left = {"Records": [record for record in records["Records"] if record["body"] == claim]}
    assert reject.invoke(again(left, receives=CLAIM_RECEIVES)) == []
    [line] = [line for line in reject.archived().values() if line["reason"] == "dead_letter"]
    assert line["payload"] == claim


def test_large_rejections_are_archived_in_groups_that_fit_the_memory(
    reject: Reject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "GROUP_BYTES", 500_000)
    for number in range(7):
        reject.put(refused(f"r{number}", size=100_000))

    assert reject.invoke() == []

    assert len(reject.archived()) == 7
    assert len(reject.cloud.keys("archive")) == 3
    assert reject.function.metrics()["ArchivedRejections"] == 7


def test_a_group_that_cannot_be_written_leaves_the_others(
    reject: Reject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "GROUP_BYTES", 1)
    reject.put(refused("one"), refused("two", account="XyZ789"), refused("three"))
    reject.cloud.calls.fail("PutObject", when=lambda call: "XyZ789" in call["Key"])

    [kept] = reject.invoke()

    assert "two@mail.example" in kept
    assert reject.archived().keys() == {"one", "three"}


@pytest.mark.parametrize("account", ["../elsewhere", "x" * 3_000])
def test_whatever_a_producer_calls_its_account_is_archived(reject: Reject, account: str) -> None:
    reject.put(refused("one", account=account), refused("two"))

    assert reject.invoke() == []

    assert reject.archived()["one"]["account"] == account


@pytest.mark.parametrize("form", ["as it was", "given up by dispatch"])
def test_a_dead_letter_completes_its_receipt(reject: Reject, form: str) -> None:
    receipt = "0" * 32
    body = message.encode(stored(("ann", "a0"), ("ann", "a1"), ("bob", "b0"), receipt=receipt))
    kept = receipts.scoped(SITE_ID, receipt)
    receipts.create("state", kept, account=SITE_ID, created=datetime.now(UTC), total=3)
    receipts.record_outcome("state", kept, delivered=[positions.position(0, 1)])
    given_up: dict[str, Any] = {
        "reason": Reason.DEAD_LETTER,
        "payload": msgspec.Raw(msgspec.json.encode(body.text)),
    }

    reject.put(body if form == "as it was" else refused("one", **given_up))

    assert reject.invoke() == []
    found = receipts.find("state", kept, datetime.now(UTC))
    assert found is not None
    assert (found.total, found.delivered, found.rejected) == (3, 1, 2)


def test_a_receipt_that_cannot_be_noted_keeps_nothing_from_the_archive(reject: Reject) -> None:
    reject.put(message.encode(stored(("ann", "a0"), receipt="r1")))
    reject.cloud.calls.fail("UpdateItem", when=lambda given: given["TableName"] == "state")

    assert reject.invoke() == []

    assert len(reject.archived()) == 1
    assert reject.function.metrics()["ReceiptWriteFailures"] == 1


def test_what_has_no_receipt_gets_none(reject: Reject) -> None:
    single = message.encode(stored(("ann", "a0"), receipt="r1", surface=Surface.EVENT))
    reject.put(single, "not JSON", refused("one", receipt="r2", surface="bulk"))

    assert reject.invoke() == []

    assert {given["TableName"] for given in reject.cloud.calls.of("UpdateItem")} == {"records"}


def test_an_empty_batch_is_no_error(reject: Reject) -> None:
    assert reject.function({"Records": []}) == {"batchItemFailures": []}


def test_the_sample_event_is_a_real_batch(reject: Reject) -> None:
    sample = json.loads(Path("tests/events/reject.json").read_text())

    assert reject.function(sample) == {"batchItemFailures": []}
    assert len(reject.archived()) == len(sample["Records"])


def test_a_crash_between_two_objects_archives_all_the_next_time(reject: Reject) -> None:
    reject.put(refused("one"), refused("two", account="XyZ789"))
    records = reject.cloud.receive(reject.cloud.rejected)
    writes = iter([True, False])

    def once(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        if not next(writes):
            raise MemoryError
        return real()

    reject.cloud.calls.instead("PutObject", once)
    with pytest.raises(MemoryError), pytest.warns(UserWarning, match="No application metrics"):
        reject.function(records)
    reject.cloud.calls.clear()

    assert reject.invoke(records) == []
    assert reject.archived().keys() == {"one", "two"}


def records_of(reject: Reject) -> dict[str, dict[str, Any]]:
    """Returns the items of the records table, by the name of their rejection or by sort key."""
    found = reject.cloud.dynamodb.scan(TableName="records")["Items"]
    names = {id_of(name): name for name in NAMES}
    return {names.get(item["sk"]["S"], item["sk"]["S"]): item for item in found}


def test_each_archived_rejection_has_a_record_that_says_where_it_is(reject: Reject) -> None:
    reject.put(refused("one"), refused("two", account="XyZ789"), refused("large", size=100_000))

    assert reject.invoke() == []

    found = records_of(reject)
    for name, account in (("one", SITE_ID), ("two", "XyZ789"), ("large", SITE_ID)):
        record = record_items.record_from(found[name])
        content = reject.cloud.content("archive", record.archive_key)
        line = content[record.location.offset :][: record.location.length]
        assert json.loads(line)["id"] == id_of(name)
        assert (record.account, record.state) == (account, "open")
    assert not any(secret in json.dumps(found) for secret in ["mail.example"])


def test_a_records_table_that_cannot_be_written_keeps_everything(reject: Reject) -> None:
    reject.put(refused("one"), refused("two"))
    records = reject.cloud.receive(reject.cloud.rejected)
    reject.cloud.calls.fail("BatchWriteItem")

    assert len(reject.invoke(records)) == 2

    reject.cloud.calls.clear()
    assert reject.invoke(again(records, receives=2)) == []
    assert reject.archived().keys() >= {"one"}
    assert "one" in records_of(reject)


def test_what_is_archived_again_is_one_record_and_counts_once(reject: Reject) -> None:
    reject.put(refused("one"))
    records = reject.cloud.receive(reject.cloud.rejected)
    reject.invoke(records)

    reject.function(again(records, receives=2))

    counts = [item["total"]["N"] for item in records_of(reject).values() if "total" in item]
    assert counts == ["1"]


def test_a_record_that_cannot_be_made_costs_no_other(reject: Reject, monkeypatch: pytest.MonkeyPatch) -> None:
    real = record_of

    def unforeseen(rejection: Rejection, *rest: Any) -> Any:
        if rejection.id == id_of("two"):
            raise LookupError("s3cret")
        return real(rejection, *rest)

    monkeypatch.setattr(archive, "record_of", unforeseen)
    reject.put(refused("one"), refused("two"))

    assert reject.invoke() == []

    assert reject.archived().keys() == {"one", "two"}
    assert "one" in records_of(reject)
    [line] = reject.function.lines("record not made")
    assert (line["error"], line["id"]) == ("LookupError", id_of("two"))
    assert reject.function.metrics()["UnforeseenFailures"] == 1


@pytest.mark.parametrize("id", ["", "../x", "f" * 32, "x" * 3_000, "ä" * 16])
def test_whatever_id_a_message_states_it_is_archived(reject: Reject, id: str) -> None:
    body = json.loads(refused("one").text) | {"id": id}
    reject.put(json.dumps(body), refused("two"))

    assert reject.invoke() == []

    assert len(reject.archived()) == 2
    assert "two" in records_of(reject)


def test_what_callers_without_a_key_sent_is_counted_apart(reject: Reject) -> None:
    reject.put(refused("one"), refused("two", surface=Surface.CLIENT_EVENT))

    assert reject.invoke() == []

    counts = reject.function.metrics()
    assert (counts["RejectedEvents"], counts["AnonymousRejectedEvents"]) == (1, 1)
