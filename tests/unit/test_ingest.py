"""Accepting a request: stored once and whole, or not at all."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import pytest

from sluice import accounts, ingest, message
from sluice.contract import Surface
from sluice.errors import Refused, Retryable
from sluice.ingest import Accepted
from sluice.message import Body
from tests.bodies import (
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

HEADERS = {
    "authorization": f"Klaviyo-API-Key {KEY}",
    "content-type": "application/vnd.api+json",
    "revision": NEWEST,
}
CLIENT_HEADERS = {name: value for name, value in HEADERS.items() if name != "authorization"}
ACCOUNTS = accounts.parse(
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
    """Keeps what is stored; fails when told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.stored: list[tuple[Body, str]] = []
        self.fails = fails

    def __call__(self, body: Body, account: str) -> None:
        if self.fails:
            raise Retryable("the events queue cannot be reached")
        self.stored.append((body, account))


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
    return ingest.accept(surface, headers, query or {}, body, accounts=ACCOUNTS, store=queue, now=NOON)


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
    assert (accepted.account, account, stored.account) == (SITE_ID, SITE_ID, SITE_ID)
    assert (stored.receipt, stored.surface, stored.accepted) == (accepted.receipt, surface, NOON)
    assert stored.flat == (document == flat())
    assert accepted.events == 1


def test_the_receipt_counts_the_events(queue: Queue) -> None:
    accepted = accept(queue, bulk(entry(event(), event()), entry()))

    assert json.loads(ingest.receipt_document(accepted)) == {
        "data": {
            "type": "event-bulk-create-job",
            "id": accepted.receipt,
            "attributes": {"status": "queued", "created_at": "2026-07-20T12:00:00Z", "total_count": 3},
        }
    }


def test_who_prefers_a_minimal_answer_gets_an_empty_one(queue: Queue) -> None:
    accepted = accept(queue, headers={**HEADERS, "prefer": "return=minimal"})

    assert ingest.receipt_document(accepted) == b""
    assert len(queue.stored) == 1


def test_no_two_requests_share_a_receipt(queue: Queue) -> None:
    assert accept(queue).receipt != accept(queue).receipt


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
        ({"content-encoding": "gzip"}, bulk()),
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


def test_a_request_that_cannot_be_stored_is_not_accepted() -> None:
    with pytest.raises(Retryable):
        accept(Queue(fails=True))
