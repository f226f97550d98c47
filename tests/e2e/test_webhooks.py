"""Webhooks from their senders to the upstream, on the deployed stack with its policies enforced."""

import json
import time
from datetime import UTC, datetime
from uuid import uuid4

import httpx2
import pytest

from tests.deliveries import Sample, sample
from tests.e2e.conftest import Stack, eventually
from tests.signing import SIGNERS


def deliver(stack: Stack, of: Sample, body: bytes, secret: str | None = None) -> httpx2.Response:
    """What the stack answers to a sample with another body."""
    signed = SIGNERS[of.preset](secret or stack.webhook_secrets[of.preset], body, datetime.now(UTC))
    headers = {"content-type": "application/json", **of.headers, **signed}
    return httpx2.post(f"{stack.api}/webhooks/{of.preset}", content=body, headers=headers)


@pytest.mark.parametrize(
    ("of", "email", "metrics"),
    [
        (sample("shopify", "orders_create"), "jon@example.com", ["Placed Order"] + 5 * ["Ordered Product"]),
        (sample("stripe", "checkout.session.completed"), "chris@gorails.com", ["Completed Checkout"]),
        (
            sample("woocommerce", "order.created"),
            "John.Doe@example.com",
            ["Placed Order"] + 2 * ["Ordered Product"],
        ),
    ],
    ids=["shopify", "stripe", "woocommerce"],
)
def test_a_signed_sample_arrives_upstream(stack: Stack, of: Sample, email: str, metrics: list[str]) -> None:
    fresh = f"{uuid4().hex[:12]}@mail.example"
    body = of.body.replace(email.encode(), fresh.encode())

    answer = deliver(stack, of, body)

    assert (answer.status_code, answer.json()["meta"]["events"]) == (202, len(metrics))
    eventually(lambda: len(stack.taken_of(fresh)) >= len(metrics))
    events = [each["event"] for each in stack.taken_of(fresh)]
    assert sorted(each["metric"]["data"]["attributes"]["name"] for each in events) == sorted(metrics)


def test_a_delivery_that_comes_again_counts_once(stack: Stack) -> None:
    of = sample("shopify", "customers_create")
    fresh = f"{uuid4().hex[:12]}@mail.example"
    body = of.body.replace(b"bob@biller.com", fresh.encode())

    for _ in range(2):
        assert deliver(stack, of, body).status_code == 202
        eventually(lambda: stack.taken_of(fresh))
    time.sleep(1)
    eventually(lambda: stack.waiting("EventsQueueUrl") == 0)

    assert len(stack.taken_of(fresh)) == 1


def test_nobody_else_gets_in(stack: Stack) -> None:
    of = sample("shopify", "orders_create")

    assert deliver(stack, of, of.body, secret="guessed").status_code == 401
    assert httpx2.post(f"{stack.api}/webhooks/unknown", content=b"{}").status_code == 404


def test_what_cannot_be_mapped_is_archived(stack: Stack) -> None:
    of = sample("shopify", "orders_create")
    marker = uuid4().hex

    answer = deliver(stack, of, json.dumps({"note": marker, "line_items": []}).encode())

    assert (answer.status_code, answer.json()["meta"]["rejected"]) == (200, 1)

    def archived() -> list[str]:
        receipt = answer.json()["meta"]["receipt"]
        return [each["source"] for each in stack.archived() if each.get("receipt") == receipt]

    assert eventually(archived) == ["shopify"]
