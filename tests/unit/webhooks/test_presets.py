"""Tests that each preset turns its samples into the expected events, which keep every rule of the
contract.
"""

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sluice import contract
from sluice.contract import Surface
from sluice.klaviyo import parser
from sluice.webhooks import presets
from tests.support.webhook_samples import Sample, document, mapped, samples, source

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def attributes(sample: Sample) -> list[dict[str, Any]]:
    of = source(document(preset=sample.preset))
    outcome = mapped(of, sample.payload, sample.headers)
    assert outcome.problems == []
    assert [each.left_out for each in outcome.events] == [[]] * len(outcome.events)
    return [event.body["data"]["attributes"] for event in outcome.events]


def metric(event: dict[str, Any]) -> str:
    name: str = event["metric"]["data"]["attributes"]["name"]
    return name


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: f"{sample.preset}-{sample.name}")
def test_a_sample_becomes_the_expected_events(sample: Sample) -> None:
    found = attributes(sample)

    assert found == json.loads(sample.expected.read_text())


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: f"{sample.preset}-{sample.name}")
def test_what_a_sample_becomes_is_acceptable(sample: Sample) -> None:
    for event in attributes(sample):
        body = json.dumps({"data": {"type": "event", "attributes": event}}).encode()

        assert parser.read(Surface.EVENT, body, contract.UPSTREAM_REVISION, NOW).events == 1


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: f"{sample.preset}-{sample.name}")
def test_a_sample_delivered_again_becomes_the_same(sample: Sample) -> None:
    again = {name: f"{value}-again" if "id" in name else value for name, value in sample.headers.items()}

    assert attributes(Sample(sample.preset, sample.name, sample.body)) == attributes(sample)
    of = source(document(preset=sample.preset))
    repeated = mapped(of, sample.payload, again).events
    assert [each.body["data"]["attributes"] for each in repeated] == attributes(sample)


@pytest.mark.parametrize("preset", presets.names())
def test_every_event_of_a_preset_has_a_sample(preset: str) -> None:
    of = source(document(preset=preset))
    seen = {metric(each) for sample in samples() if sample.preset == preset for each in attributes(sample)}

    assert seen == {mapping.metric for mapping in of.mappings}


def test_a_topic_nobody_asked_for_becomes_nothing() -> None:
    of = source(document(preset="shopify"))

    outcome = mapped(of, {"id": 1}, {"x-shopify-topic": "products/create"})

    assert (outcome.events, outcome.problems) == ([], [])


def sample(preset: str, name: str) -> Sample:
    return next(each for each in samples() if (each.preset, each.name) == (preset, name))


def changed(of: Sample, change: Callable[[Any], None]) -> list[dict[str, Any]]:
    """Returns the events of a sample with a change."""
    payload = copy.deepcopy(of.payload)
    change(payload)
    return attributes(Sample(of.preset, of.name, json.dumps(payload).encode()))


def pay_in_yen(refund: dict[str, Any]) -> None:
    for transaction in refund["transactions"]:
        transaction["currency"] = "JPY"


def delay(refund: dict[str, Any]) -> None:
    refund["transactions"][0]["status"] = "pending"
    refund["transactions"][1]["status"] = "failure"


@pytest.mark.parametrize(
    ("name", "refund"),
    [("orders_updated", lambda order: order["refunds"][0]), ("refunds_create", lambda refund: refund)],
)
@pytest.mark.parametrize(("change", "value", "currency"), [(pay_in_yen, 85, "JPY"), (delay, 75, "USD")])
def test_a_refund_is_what_the_customer_gets_in_the_currency_it_is_paid_in(
    name: str, refund: Callable[[Any], Any], change: Callable[[Any], None], value: int, currency: str
) -> None:
    events = changed(sample("shopify", name), lambda payload: change(refund(payload)))
    [event] = [each for each in events if metric(each) == "Refunded Order"]

    assert (event["value"], event["value_currency"]) == (value, currency)


@pytest.mark.parametrize(
    ("before", "value"), [({"amount_refunded": 200}, 3), ({"amount_refunded": 0}, 5), ({}, 5), (None, 5)]
)
def test_a_refund_of_stripe_has_the_amount_of_this_refund(before: Any, value: int) -> None:
    [event] = changed(
        sample("stripe", "charge.refunded"),
        lambda payload: payload["data"].update(previous_attributes=before),
    )

    assert (event["value"], event["properties"]["Total Refunded"]) == (value, 5)


@pytest.mark.parametrize("status", ["pending", "on-hold", "processing", "completed"])
def test_an_order_of_woocommerce_is_placed_however_far_it_is(status: str) -> None:
    of = sample("woocommerce", "order.created")

    events = changed(of, lambda order: order.update(status=status))
    assert [each for each in events if metric(each) != "Fulfilled Order"] == attributes(of)


@pytest.mark.parametrize("status", ["failed", "cancelled", "refunded", "checkout-draft", "auto-draft"])
def test_an_order_of_woocommerce_that_nobody_will_get_is_not_placed(status: str) -> None:
    assert changed(sample("woocommerce", "order.created"), lambda order: order.update(status=status)) == []


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        ({"email": ""}, {"email": "jon@example.com"}),
        (
            {"email": "", "contact_email": None, "customer": {"email": "Ann@b.example"}},
            {"email": "ann@b.example"},
        ),
        (
            {"email": "", "contact_email": None, "phone": "+15005550006", "customer": {"email": None}},
            {"phone_number": "+15005550006"},
        ),
        (
            {"email": None, "contact_email": "", "phone": "", "customer": {"phone": "+15005550006"}},
            {"phone_number": "+15005550006"},
        ),
    ],
)
def test_a_customer_of_shopify_is_known_by_what_there_is(
    person: dict[str, Any], expected: dict[str, Any]
) -> None:
    events = changed(sample("shopify", "orders_create"), lambda order: order.update(person))

    assert events
    for event in events:
        profile = event["profile"]["data"]["attributes"]
        assert {name: profile.get(name) for name in ("email", "phone_number")} == {
            "email": None,
            "phone_number": None,
            **expected,
        }
