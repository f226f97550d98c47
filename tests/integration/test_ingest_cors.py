"""Tests the client routes as a browser uses them."""

from typing import Any

import pytest

from sluice import settings
from tests.support.aws_clients import aws_client
from tests.support.factories import SITE_ID, client_bulk, single
from tests.support.ingest_app import BULK, CLIENT_BULK, CLIENT_EVENT, EVENT, Front

SHOP = "https://shop.example"


def cors(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("Access-Control-")}


@pytest.mark.parametrize("path", [CLIENT_BULK, CLIENT_EVENT, f"{CLIENT_EVENT}/"])
def test_a_preflight_is_answered_without_a_body_or_a_key(front: Front, path: str) -> None:
    answer = front.send(path, b"", method="OPTIONS", Origin=SHOP, revision=None, Content_Type=None)

    assert (answer.status, answer.text) == (204, "")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"


@pytest.mark.rule
@pytest.mark.parametrize(
    ("status", "path", "request_"),
    [
        (202, CLIENT_EVENT, {"document": single()}),
        (202, CLIENT_BULK, {"document": client_bulk()}),
        (400, CLIENT_EVENT, {"document": b"{"}),
        (400, CLIENT_EVENT, {"query": {"company_id": "Nobody"}}),
        (404, "/client/profiles", {}),
        (405, CLIENT_EVENT, {"method": "PUT"}),
        (415, CLIENT_BULK, {"Content_Type": "text/plain"}),
    ],
)
def test_every_answer_of_a_client_route_can_be_read_by_the_page(
    front: Front, status: int, path: str, request_: dict[str, Any]
) -> None:
    answer = front.send(path, **{"query": {"company_id": SITE_ID}, "Origin": SHOP, **request_})

    assert answer.status == status
    assert cors(answer.headers).keys() == {"Access-Control-Allow-Origin", "Access-Control-Expose-Headers"}


def test_even_when_nothing_can_be_stored(front: Front) -> None:
    aws_client("sqs").delete_queue(QueueUrl=front.queue_url)

    answer = front.send(CLIENT_EVENT, single(), query={"company_id": SITE_ID}, Origin=SHOP)

    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (503, "*")


@pytest.mark.rule
@pytest.mark.parametrize(("origin", "named"), [(SHOP, SHOP), ("https://other.example", None)])
def test_only_named_origins_are_allowed(
    front: Front, monkeypatch: pytest.MonkeyPatch, origin: str, named: str | None
) -> None:
    monkeypatch.setenv("SLUICE_ALLOWED_ORIGINS", f"https://www.shop.example,{SHOP}")
    settings.load.cache_clear()

    answer = front.send(CLIENT_EVENT, single(), query={"company_id": SITE_ID}, Origin=origin)

    assert (answer.status, answer.headers["Vary"]) == (202, "Origin")
    assert answer.headers.get("Access-Control-Allow-Origin") == named


@pytest.mark.rule
@pytest.mark.parametrize(
    ("path", "method"), [(BULK, "POST"), (EVENT, "POST"), (EVENT, "OPTIONS"), (f"{BULK}/x", "GET")]
)
def test_a_server_route_tells_browsers_nothing(front: Front, path: str, method: str) -> None:
    assert cors(front.send(path, method=method, Origin=SHOP).headers) == {}
