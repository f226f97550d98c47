"""Tests `Prefer: handling=lenient`: the good events are taken, each bad one is rejected and told."""

import json
from typing import Any

import pytest

from tests.support.aws_clients import aws_client
from tests.support.factories import KEY, SITE_ID, bulk, client_bulk, entry, event, profile, single
from tests.support.ingest_app import BULK, CLIENT_BULK, EVENT, TABLE, Answer, Front
from tests.support.parsing import decoded

LENIENT = "handling=lenient"
ENTRIES = "/data/attributes/events-bulk-create/data"
ANN = profile(email="ann@example.com")
BAD = event(value="s3cret", time="never")
MIXED = bulk(entry(BAD), entry(event(), BAD, event(), of=ANN))
POINTERS = [f"{ENTRIES}/0/attributes/events/data/0", f"{ENTRIES}/1/attributes/events/data/1"]


def no_claim(key: str) -> bytes:
    raise AssertionError(f"{key} is not where this message is")


def ask(front: Front, receipt: str) -> dict[str, Any]:
    answer = front.send(f"{BULK}/{receipt}", b"", method="GET", Authorization=f"Bearer {KEY}")
    told: dict[str, Any] = answer.document["data"]["attributes"]
    return told


@pytest.mark.rule
def test_good_events_are_taken_and_bad_ones_rejected_and_told(front: Front) -> None:
    answer = front.send(document=MIXED, Prefer=LENIENT)

    receipt, told = answer.document["data"]["id"], answer.document["data"]["attributes"]
    assert (answer.status, answer.headers["Preference-Applied"]) == (202, LENIENT)
    assert (told["status"], told["total_count"], told["failed_count"]) == ("queued", 4, 2)
    errors = answer.document["meta"]["errors"]
    assert [error["source"]["pointer"] for error in errors] == [
        f"{pointer}/attributes/{name}" for pointer in POINTERS for name in ("value", "time")
    ]
    assert {(error["status"], error["code"]) for error in errors} == {(400, "invalid")}

    [queued] = front.queued()
    stored = decoded(queued, no_claim)
    [entry] = stored.entries
    assert [(event.entry_index, event.event_index) for event in entry.events] == [(1, 0), (1, 2)]
    first, second = front.rejected()
    for rejection, pointer in zip((first, second), POINTERS, strict=True):
        assert rejection.pointer == f"{pointer}/attributes/value"
        assert (rejection.reason, rejection.code, rejection.status) == ("invalid", "invalid", 400)
        assert (rejection.account, rejection.surface, rejection.receipt) == (SITE_ID, "bulk", receipt)
        assert rejection.detail.count(".") >= 2
    assert json.loads(bytes(second.payload)) == {
        "profile": ANN["data"],
        "events": [BAD["attributes"]],
        "backfill": False,
    }
    asked = ask(front, receipt)
    assert (asked["status"], asked["total_count"], asked["failed_count"]) == ("queued", 4, 2)


def test_the_counts_are_told_and_nothing_else_is_given_away(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    front.send(document=MIXED, Prefer=LENIENT)

    said = front.said
    [metrics] = [json.loads(line) for line in said.splitlines() if "AcceptedEvents" in line]
    assert (metrics["AcceptedEvents"], metrics["RejectedEvents"]) == ([2.0], [2.0])
    assert "s3cret" not in said + caplog.text
    assert "ann@example.com" not in said + caplog.text


@pytest.mark.parametrize(
    "prefer", ["Handling = Lenient", "respond-async, handling=lenient", 'handling="lenient"']
)
def test_the_preference_may_be_spelled_in_any_way(front: Front, prefer: str) -> None:
    assert front.send(document=MIXED, Prefer=prefer).status == 202


def test_both_preferences_go_together(front: Front) -> None:
    answer = front.send(document=MIXED, Prefer=f"return=minimal, {LENIENT}")

    assert (answer.status, answer.text) == (202, "")
    assert answer.headers["Preference-Applied"] == "handling=lenient, return=minimal"
    assert len(front.rejected()) == 2


def test_a_request_without_fault_is_answered_as_ever(front: Front) -> None:
    answer = front.send(Prefer=LENIENT)

    assert answer.headers["Preference-Applied"] == LENIENT
    assert answer.document.keys() == {"data"}
    assert answer.document["data"]["attributes"].keys() == {"status", "created_at", "total_count"}
    assert front.rejected() == []


@pytest.mark.parametrize(
    ("document", "prefer"),
    [(MIXED, None), (MIXED, "handling=strict"), (bulk(entry(BAD), entry(BAD)), LENIENT)],
)
def test_without_it_or_without_anything_good_the_request_is_refused(
    front: Front, document: Any, prefer: str | None
) -> None:
    answer = front.send(document=document, Prefer=prefer)

    assert (answer.status, set(answer.codes)) == (400, {"invalid"})
    assert "Preference-Applied" not in answer.headers
    assert front.is_empty()


@pytest.mark.parametrize(
    "document", [b"{", b" " * 5_242_881, bulk(*[entry()] * 1_001), {**MIXED, "extra": 1}]
)
def test_what_is_wrong_with_a_body_as_a_whole_refuses_it(front: Front, document: Any) -> None:
    assert front.send(document=document, Prefer=LENIENT).status in {400, 413}
    assert front.is_empty()


@pytest.mark.parametrize(
    ("path", "document"), [(CLIENT_BULK, client_bulk(event(), BAD)), (EVENT, single(value="1"))]
)
def test_other_routes_do_not_know_it(front: Front, path: str, document: Any) -> None:
    assert front.send(path, document, query={"company_id": SITE_ID}, Prefer=LENIENT).status == 400
    assert front.is_empty()


def unavailable(answer: Answer) -> bool:
    return (answer.status, answer.codes, answer.headers["Retry-After"]) == (503, ["unavailable"], "5")


def test_nothing_is_accepted_if_the_rejections_cannot_be_stored(front: Front) -> None:
    aws_client("sqs").delete_queue(QueueUrl=front.rejected_url)

    assert unavailable(front.send(document=MIXED, Prefer=LENIENT))
    assert front.queued() == []
    assert front.items() == []


def test_a_request_that_fails_after_its_rejections_is_not_accepted(front: Front) -> None:
    aws_client("sqs").delete_queue(QueueUrl=front.queue_url)

    assert unavailable(front.send(document=MIXED, Prefer=LENIENT))
    assert len(front.rejected()) == 2


def test_without_the_table_it_works_too(front: Front) -> None:
    aws_client("dynamodb").delete_table(TableName=TABLE)

    assert front.send(document=MIXED, Prefer=LENIENT).status == 202
    assert (len(front.queued()), len(front.rejected())) == (1, 2)


def test_hundreds_of_bad_events_are_all_told_and_rejected(front: Front) -> None:
    answer = front.send(document=bulk(entry(event(), *[BAD] * 500)), Prefer=LENIENT)

    assert answer.document["data"]["attributes"]["failed_count"] == 500
    assert len({error["source"]["pointer"] for error in answer.document["meta"]["errors"]}) == 1_000
    assert len(front.rejected()) == 500
