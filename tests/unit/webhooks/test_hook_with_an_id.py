"""Runs the documented program for a hook that carries only an id, with BigCommerce and Sluice played."""

import io
import json
import re
from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from tests.support.webhook_samples import document, mapped, sample, source

SAMPLE = sample("bigcommerce", "store_order_created")
SETTINGS = {
    "STORE_HASH": "abc123",
    "HOOK_KEY": "hook-key",
    "SLUICE_HOOK": "https://sluice.example/webhooks/shop",
    "BIGCOMMERCE_TOKEN": "token",
    "SLUICE_SECRET": "secret",
}
HOOK = {name: value for name, value in SAMPLE.payload.items() if name not in {"order", "products"}}


def in_its_own_dates(order: dict[str, Any]) -> dict[str, Any]:
    """Returns an order with dates as BigCommerce's V2 API writes them."""
    dates = {name: text for name, text in order.items() if name.startswith("date_")}
    own = {
        name: format_datetime(datetime.fromisoformat(text)) if text else "" for name, text in dates.items()
    }
    return {**order, **own}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Plays both ends, and returns what they are asked."""
    made: list[Request] = []
    shop = "https://api.bigcommerce.com/stores/abc123/v2/orders/250"
    answers = {
        shop: in_its_own_dates(SAMPLE.payload["order"]),
        f"{shop}/products?limit=250": SAMPLE.payload["products"],
        SETTINGS["SLUICE_HOOK"]: {},
    }

    def answer(request: Request, timeout: float) -> io.BytesIO:
        made.append(request)
        return io.BytesIO(json.dumps(answers[request.full_url]).encode())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def handler(requests: list[Request]) -> Callable[[dict[str, Any], object], dict[str, Any]]:
    """Loads the program of the docs."""
    page = Path("docs/webhooks.md").read_text()
    [program] = re.findall(r"```python\n(import hmac.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    found: Callable[[dict[str, Any], object], dict[str, Any]] = names["handler"]
    return found


def test_what_it_posts_becomes_the_events_of_the_order(
    handler: Callable[[dict[str, Any], object], dict[str, Any]], requests: list[Request]
) -> None:
    answer = handler({"headers": {"x-hook-key": "hook-key"}, "body": json.dumps(HOOK)}, None)

    posted = requests[-1]
    assert answer == {"statusCode": 200}
    assert posted.get_header("Authorization") == "Bearer secret"
    assert requests[0].get_header("X-auth-token") == "token"
    assert isinstance(posted.data, bytes)
    outcome = mapped(source(document(preset="bigcommerce")), json.loads(posted.data))
    events = [event.body["data"]["attributes"] for event in outcome.events]
    assert events == json.loads(SAMPLE.expected.read_text())


def test_a_stranger_makes_it_ask_nobody(
    handler: Callable[[dict[str, Any], object], dict[str, Any]], requests: list[Request]
) -> None:
    assert handler({"headers": {}, "body": json.dumps(HOOK)}, None) == {"statusCode": 401}
    assert requests == []


def test_the_hook_alone_becomes_no_event_and_no_rejection() -> None:
    outcome = mapped(source(document(preset="bigcommerce")), HOOK)

    assert (outcome.events, outcome.problems) == ([], [])
