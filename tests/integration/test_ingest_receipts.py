"""Tests the receipt of a bulk request over HTTP: ingest writes it, dispatch records the outcomes."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from sluice import message, positions, receipts
from tests.support.aws_clients import aws_client
from tests.support.factories import KEY, SITE_ID, bulk, client_bulk, entry, event, single
from tests.support.ingest_app import (
    BULK,
    CLIENT_BULK,
    EVENT,
    OTHER_KEY,
    READ_ONLY_KEY,
    READER_KEY,
    TABLE,
    Answer,
    Front,
)

THREE = bulk(entry(event(), event(value=1)), entry(event(value=2)))


def no_claim(key: str) -> bytes:
    raise AssertionError(f"{key} is not where this message is")


def ask(front: Front, receipt: str, authorization: str | None = f"Bearer {KEY}") -> Answer:
    path, bare = f"{BULK}/{receipt}", {"revision": None, "Content_Type": None}
    return front.send(path, b"", method="GET", Authorization=authorization, **bare)  # type: ignore[arg-type]


def counts(answer: Answer) -> tuple[str, int, int, int]:
    told = answer.document["data"]["attributes"]
    return told["status"], told["total_count"], told["completed_count"], told["failed_count"]


def mine(receipt: str) -> str:
    """Returns the name under which the account's receipt is kept."""
    return receipts.scoped(SITE_ID, receipt)


@pytest.mark.rule
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_receipt_follows_its_request_to_the_end(front: Front, slash: str) -> None:
    accepted = front.send(document=THREE).document["data"]
    receipt = accepted["id"]

    assert counts(ask(front, receipt + slash)) == ("queued", 3, 0, 0)
    receipts.record_outcome(TABLE, mine(receipt), delivered=[positions.position(0, 1)])
    assert counts(ask(front, receipt + slash)) == ("processing", 3, 1, 0)
    receipts.record_outcome(
        TABLE, mine(receipt), rejected=[positions.position(1, 0)], delivered=[positions.position(0, 0)]
    )
    answer = ask(front, receipt + slash)

    attributes = answer.document["data"]["attributes"]
    assert (answer.status, answer.document["data"]["id"]) == (200, receipt)
    assert counts(answer) == ("complete", 3, 2, 1)
    assert attributes["created_at"] == accepted["attributes"]["created_at"]
    created, completed, expires = (
        datetime.fromisoformat(attributes[f"{name}_at"]) for name in ("created", "completed", "expires")
    )
    assert created < completed <= datetime.now(UTC)
    assert timedelta(days=14, hours=23) < expires - created <= timedelta(days=15)


def test_an_event_noted_twice_counts_once_and_as_delivered_if_it_ever_was(front: Front) -> None:
    receipt = front.send(document=THREE).document["data"]["id"]

    for _ in range(2):
        receipts.record_outcome(TABLE, mine(receipt), delivered=[0])
        receipts.record_outcome(TABLE, mine(receipt), rejected=[0, 1])

    assert counts(ask(front, receipt)) == ("processing", 3, 1, 1)


@pytest.mark.rule
def test_a_client_request_has_a_receipt_for_who_has_a_key(front: Front) -> None:
    accepted = front.send(CLIENT_BULK, client_bulk(), query={"company_id": SITE_ID})
    receipt = accepted.document["data"]["id"]

    assert counts(ask(front, receipt, f"Bearer {READER_KEY}")) == ("queued", 1, 0, 0)


def test_a_single_event_writes_nothing_but_its_message(front: Front) -> None:
    receipt = front.send(EVENT, single()).document["data"]["id"]

    assert front.items() == []
    assert ask(front, receipt).status == 404


@pytest.mark.trust("A key sends and asks for its own account only, within its scopes.")
@pytest.mark.rule
@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        (None, 401, "not_authenticated"),
        ("Bearer pk_unknown", 401, "authentication_failed"),
        (f"Bearer {READ_ONLY_KEY}", 403, "permission_denied"),
        (f"Bearer {OTHER_KEY}", 404, "not_found"),
    ],
)
def test_a_receipt_is_its_own_accounts_only(
    front: Front, authorization: str | None, status: int, code: str
) -> None:
    receipt = front.send().document["data"]["id"]

    answer = ask(front, receipt, authorization)

    assert (answer.status, answer.codes) == (status, [code])


@pytest.mark.parametrize("receipt", ["0" * 32, str(uuid.UUID(int=0)), "x", "receipt%23x", "0" * 31])
def test_a_receipt_nobody_was_given_is_not_found(front: Front, receipt: str) -> None:
    answer = ask(front, receipt)

    assert (answer.status, answer.codes) == (404, ["not_found"])


def test_an_item_without_an_account_or_expired_is_not_found(front: Front) -> None:
    producers, expired = uuid.uuid4().hex, uuid.uuid4().hex
    receipts.record_outcome(TABLE, mine(producers), delivered=[0])
    long_ago = datetime.now(UTC) - timedelta(days=15, seconds=1)
    receipts.create(TABLE, mine(expired), account=SITE_ID, created=long_ago, total=1)

    assert [ask(front, receipt).status for receipt in (producers, expired)] == [404, 404]


def test_without_the_table_events_are_taken_all_the_same_and_asking_is_for_later(front: Front) -> None:
    aws_client("dynamodb").delete_table(TableName=TABLE)

    answer = front.send()
    receipt = answer.document["data"]["id"]
    asked = ask(front, receipt)

    [queued] = front.queued()
    assert answer.status == 202
    assert message.decode(queued, no_claim).receipt == receipt
    assert "ReceiptWriteFailures" in front.said
    assert (asked.status, asked.codes, asked.headers["Retry-After"]) == (503, ["unavailable"], "5")
