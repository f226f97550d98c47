"""Tests webhooks from their senders to the upstream, on the deployed stack with its policies enforced."""

import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx2

from tests.e2e.conftest import Stack, eventually
from tests.support.signing import SIGNERS
from tests.support.webhook_samples import Sample, sample, samples


def deliver(stack: Stack, of: Sample, body: bytes, secret: str | None = None) -> httpx2.Response:
    """Sends a sample with another body to the stack, and returns the answer."""
    signed = SIGNERS[of.scheme](secret or stack.webhook_secrets[of.preset], body, datetime.now(UTC))
    headers = {"content-type": "application/json", **of.headers, **signed}
    return httpx2.post(f"{stack.api}/webhooks/{of.preset}", content=body, headers=headers, timeout=30)


def test_every_sample_arrives_upstream_as_the_events_it_is_expected_to_become(stack: Stack) -> None:
    """Checks every sample; several of one order tell of the same events, of which the first counts."""
    expected: dict[str, dict[str, Any]] = {}
    for of in samples():
        events = json.loads(of.expected.read_text())

        answer = deliver(stack, of, of.body)

        told = answer.json()["meta"]
        assert (answer.status_code, told["events"], told["rejected"]) == (202, len(events), 0), of.name
        repeated = sum(_key(event) in expected for event in events)
        assert told["repeated"] == repeated, of.name
        expected = {_key(event): event for event in events} | expected

    def arrived() -> dict[str, dict[str, Any]]:
        taken = [{**each["event"], "profile": {"data": each["profile"]}} for each in stack.taken()]
        return {_key(each): each for each in taken if _key(each) in expected}

    eventually(lambda: len(arrived()) >= len(expected), seconds=60)
    assert _comparable(arrived().values()) == _comparable(expected.values())


def _key(event: dict[str, Any]) -> str:
    return f"{event['metric']['data']['attributes']['name']} {event['unique_id']}"


def _identifiers(profile: dict[str, Any]) -> list[str | None]:
    attributes = profile["data"]["attributes"]
    return [attributes.get(name) for name in ("email", "external_id", "anonymous_id")]


def _comparable(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns events by what tells them apart, their times as such, because these travel in UTC."""

    def key(event: dict[str, Any]) -> str:
        return f"{_key(event)} {_identifiers(event['profile'])}"

    def at(time: str) -> datetime:
        moment = datetime.fromisoformat(time)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    return {key(event): {**event, "time": at(event["time"])} for event in events}


def test_a_delivery_that_comes_again_counts_once(stack: Stack) -> None:
    of = sample("shopify", "customers_create")
    fresh = f"{uuid4().hex[:12]}@mail.example"
    customer = of.payload | {"id": uuid4().int >> 80, "email": fresh}
    body = json.dumps(customer).encode()

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
