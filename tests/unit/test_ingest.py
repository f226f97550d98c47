"""Tests that a request is stored once and whole, or not at all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from sluice import ingest, message
from sluice.contract import MAX_CLIENT_BODY_BYTES, Surface
from sluice.errors import Refused, Retryable
from sluice.ingest import Accepted
from sluice.jsonapi import Problem, pointer
from sluice.klaviyo.lenient import InvalidEvents
from sluice.message import Body, Message
from sluice.receipts import Receipt
from sluice.rejection import Rejection
from tests.support.factories import (
    KEY,
    NEWEST,
    NOON,
    SITE_ID,
    bulk,
    client_bulk,
    encoded,
    entry,
    event,
    flat,
    profile,
    single,
)
from tests.support.parsing import parsed_accounts

HEADERS = {
    "authorization": f"Klaviyo-API-Key {KEY}",
    "content-type": "application/vnd.api+json",
    "revision": NEWEST,
}
CLIENT_HEADERS = {name: value for name, value in HEADERS.items() if name != "authorization"}
ACCOUNTS = parsed_accounts(
    json.dumps(
        {
            "accounts": [
                {
                    "site_id": SITE_ID,
                    "private_key": "pk_upstream",
                    "keys": [{"sha256": sha256(KEY.encode()).hexdigest(), "scopes": ["events:write"]}],
                }
            ]
        }
    )
)


class Queue:
    """Keeps what is stored, and which receipts were opened before; fails when told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.stored: list[tuple[Body, str]] = []
        self.receipts: list[tuple[str, str, datetime, int, list[int]]] = []
        self.rejections: list[Rejection] = []
        self.counted: list[str] = []
        self.full = False
        self.max_client_body_bytes = MAX_CLIENT_BODY_BYTES
        self.fails = fails

    def consume_rate_limit(self, *, caller: str, surface: Surface, now: datetime) -> None:
        self.counted.append(caller)
        if self.full:
            raise Refused(429, [])

    def reserve_metrics(
        self, *, site_id: str, names: Iterable[str], partly: bool, is_anonymous: bool
    ) -> frozenset[str]:
        raise AssertionError("no account here limits its metrics")

    def store(self, *, body: Body, account_id: str) -> None:
        if self.fails:
            raise Retryable("the events queue cannot be reached")
        self.stored.append((body, account_id))

    def reject(self, *, rejections: Sequence[Rejection]) -> None:
        assert self.stored == []
        self.rejections += rejections

    def open_receipt(
        self, *, receipt: str, account_id: str, created: datetime, total: int, rejected: list[int]
    ) -> None:
        assert not [body for body, _ in self.stored if receipt in body.text]
        self.receipts.append((receipt, account_id, created, total, rejected))


@pytest.fixture
def queue() -> Queue:
    return Queue()


def accept(
    queue: Queue,
    document: Any = None,
    surface: Surface = Surface.BULK,
    headers: Mapping[str, str] = HEADERS,
    query: Mapping[str, str] | None = None,
) -> Accepted:
    body = document if isinstance(document, bytes) else encoded(document or bulk())
    return ingest.accept(surface, headers, query or {}, body, accounts=ACCOUNTS, ports=queue, now=NOON)


@pytest.mark.parametrize(
    ("surface", "document", "headers", "query"),
    [
        (Surface.BULK, bulk(), HEADERS, {}),
        (Surface.EVENT, single(), HEADERS, {}),
        (Surface.EVENT, flat(), HEADERS, {}),
        (Surface.CLIENT_BULK, client_bulk(), CLIENT_HEADERS, {"company_id": SITE_ID}),
        (Surface.CLIENT_EVENT, single(), CLIENT_HEADERS, {"company_id": SITE_ID}),
    ],
)
def test_a_request_is_stored_as_one_message(
    queue: Queue, surface: Surface, document: Any, headers: dict[str, str], query: dict[str, str]
) -> None:
    accepted = accept(queue, document, surface, headers, query)

    [(body, account)] = queue.stored
    stored = message.decode(body.text, lambda _: body.claim_bytes)
    assert isinstance(stored, Message)
    assert (accepted.account, account, stored.account) == (SITE_ID, SITE_ID, SITE_ID)
    assert (stored.receipt, stored.surface, stored.accepted) == (accepted.receipt, surface, NOON)
    assert stored.flat == (document == flat())
    assert accepted.events == 1


def test_the_receipt_counts_the_events(queue: Queue) -> None:
    accepted = accept(queue, bulk(entry(event(), event()), entry()))

    assert json.loads(ingest.accepted_document(accepted)) == {
        "data": {
            "type": "event-bulk-create-job",
            "id": accepted.receipt,
            "attributes": {"status": "queued", "created_at": "2026-07-20T12:00:00Z", "total_count": 3},
        }
    }


def test_who_prefers_a_minimal_answer_gets_an_empty_one(queue: Queue) -> None:
    accepted = accept(queue, headers={**HEADERS, "prefer": "return=minimal"})

    assert ingest.accepted_document(accepted) == b""
    assert len(queue.stored) == 1


def test_no_two_requests_share_a_receipt(queue: Queue) -> None:
    assert accept(queue).receipt != accept(queue).receipt


@pytest.mark.parametrize(("bad", "told"), [(1, 5), (200, 1_000), (201, 804), (1_000, 1_000)])
def test_each_bad_event_is_told_in_an_answer_that_lambda_can_give(bad: int, told: int) -> None:
    # Names of control characters: no others grow as much on the way out.
    detail = f"'{'\x01' * 100}' is not a valid field for the resource 'event'."
    every = [
        InvalidEvents(
            number, (0,), [Problem("invalid", detail, pointer("data", number, "\x01" * 480))] * 6, b""
        )
        for number in range(bad)
    ]
    accepted = Accepted("0" * 32, SITE_ID, 0, NOON, frozenset(), frozenset(), every, bad)

    document = ingest.accepted_document(accepted).decode()

    errors = json.loads(document)["meta"]["errors"]
    assert len(errors) == told
    assert len({error["source"]["pointer"] for error in errors}) == bad
    assert len(json.dumps({"body": document}, ensure_ascii=False).encode()) < 6_000_000


def test_what_was_left_out_is_told(queue: Queue) -> None:
    document = bulk(entry(of=profile(email="ann@example.com", phone_number="5")))

    assert accept(queue, document).ignored == {"phone_number"}


@pytest.mark.parametrize(
    ("changes", "document"),
    [
        ({"authorization": ""}, bulk()),
        ({"authorization": "Klaviyo-API-Key pk_unknown"}, bulk()),
        ({"revision": ""}, bulk()),
        ({"content-type": "text/plain"}, bulk()),
        ({"content-encoding": "gzip"}, b"plain"),
        ({}, b"{"),
        ({}, bulk(entry(), entry(event(value="x")))),
        ({}, bulk(*[entry()] * 1_001)),
        ({}, b" " * 5_242_881),
    ],
)
def test_nothing_is_stored_of_what_is_refused(queue: Queue, changes: dict[str, str], document: Any) -> None:
    with pytest.raises(Refused):
        accept(queue, document, headers=HEADERS | changes)

    assert queue.stored == []
    assert queue.receipts == []


@pytest.mark.rule
def test_a_request_that_cannot_be_stored_is_not_accepted() -> None:
    with pytest.raises(Retryable):
        accept(Queue(fails=True))


@pytest.mark.parametrize(
    ("surface", "document", "headers", "opened"),
    [
        (Surface.BULK, bulk(entry(event(), event()), entry()), HEADERS, [3]),
        (Surface.CLIENT_BULK, client_bulk(event(), event()), CLIENT_HEADERS, [2]),
        (Surface.EVENT, single(), HEADERS, []),
        (Surface.CLIENT_EVENT, single(), CLIENT_HEADERS, []),
    ],
)
def test_only_a_bulk_request_opens_a_receipt(
    queue: Queue, surface: Surface, document: Any, headers: dict[str, str], opened: list[int]
) -> None:
    accepted = accept(queue, document, surface, headers, {"company_id": SITE_ID})

    assert queue.receipts == [(accepted.receipt, SITE_ID, NOON, total, []) for total in opened]


def test_who_sends_too_many_is_told_so_before_a_body_is_read(queue: Queue) -> None:
    queue.full = True

    with pytest.raises(Refused) as raised:
        accept(queue, b"{")

    assert raised.value.status == 429
    assert (queue.stored, queue.receipts) == ([], [])


def test_only_who_was_let_in_is_counted_each_key_by_itself(queue: Queue) -> None:
    with pytest.raises(Refused):
        accept(queue, headers={**HEADERS, "authorization": "Bearer pk_unknown"})
    accept(queue)
    accept(queue, headers={**HEADERS, "authorization": f"Bearer {KEY}"})
    accept(queue, client_bulk(), Surface.CLIENT_BULK, CLIENT_HEADERS, {"company_id": SITE_ID})

    by_key, again, anybody = queue.counted
    assert by_key == again != anybody
    assert by_key.startswith(f"{SITE_ID}#")
    assert anybody.startswith(f"{SITE_ID}#")
    assert KEY not in by_key


RECEIPT = "0123456789abcdef0123456789abcdef"
OPENED = Receipt(SITE_ID, NOON, NOON + timedelta(days=15), total=4)
LATER = datetime(2026, 7, 20, 12, 5, tzinfo=UTC)


def progress(found: Receipt | None, receipt: str = RECEIPT, authorization: str = f"Bearer {KEY}") -> Any:
    asked: list[str] = []

    def find(wanted: str) -> Receipt | None:
        asked.append(wanted)
        return found

    headers = {"authorization": authorization}
    try:
        return json.loads(ingest.request_status(receipt, headers, accounts=ACCOUNTS, find=find))["data"]
    finally:
        assert asked in ([], [f"{SITE_ID}#{RECEIPT}"])


@pytest.mark.rule
@pytest.mark.parametrize(
    ("delivered", "rejected", "noted", "status", "completed_at"),
    [
        (0, 0, None, "queued", None),
        (0, 1, None, "queued", None),
        (1, 0, LATER, "processing", None),
        (0, 3, LATER, "processing", None),
        (3, 1, LATER, "complete", "2026-07-20T12:05:00Z"),
        (0, 4, LATER, "complete", "2026-07-20T12:05:00Z"),
    ],
)
def test_a_receipt_tells_what_became_of_its_events(
    delivered: int, rejected: int, noted: datetime | None, status: str, completed_at: str | None
) -> None:
    found = msgspec.structs.replace(OPENED, delivered=delivered, rejected=rejected, updated_at=noted)

    assert progress(found) == {
        "type": "event-bulk-create-job",
        "id": RECEIPT,
        "attributes": {
            "status": status,
            "created_at": "2026-07-20T12:00:00Z",
            "completed_at": completed_at,
            "expires_at": "2026-08-04T12:00:00Z",
            "total_count": 4,
            "completed_count": delivered,
            "failed_count": rejected,
        },
    }


@pytest.mark.parametrize(
    ("found", "receipt"),
    [
        (None, RECEIPT),
        (msgspec.structs.replace(OPENED, account="XyZ789"), RECEIPT),
        (OPENED, RECEIPT.upper()),
        (OPENED, RECEIPT + "0"),
        (OPENED, ""),
        (OPENED, "pace#AbC123"),
    ],
)
def test_what_is_not_ones_own_receipt_does_not_exist(found: Receipt | None, receipt: str) -> None:
    with pytest.raises(Refused) as raised:
        progress(found, receipt)

    assert raised.value.status == 404
    assert [problem.code for problem in raised.value.problems] == ["not_found"]


def test_nobody_is_told_anything_without_a_key() -> None:
    with pytest.raises(Refused) as raised:
        progress(OPENED, authorization="Bearer pk_unknown")

    assert raised.value.status == 401
