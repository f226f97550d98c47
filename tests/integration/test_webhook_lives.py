"""Tests that ingest follows an object of a vendor from delivery to delivery, with records in a table."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice import ingest_api, message
from sluice.errors import Retryable
from sluice.message import StoredMessage
from sluice.webhooks import object_records, sources
from tests.support.aws_clients import aws_client
from tests.support.aws_stack import Cloud
from tests.support.ingest_app import TABLE, Answer, Front
from tests.support.signing import SECRETS, SIGNERS
from tests.support.webhook_deliveries import metric, person
from tests.support.webhook_samples import sample

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
JON, ANN = {"email": "jon@mail.example"}, {"email": "ann@mail.example"}
TOPICS = {"shopify": "x-shopify-topic", "woocommerce": "x-wc-webhook-topic"}
ORDER = sample("woocommerce", "order.created").payload


@pytest.fixture
def shops(front: Front) -> Front:
    """Makes a source of each preset, by the preset's name."""
    written = {
        preset: {"account": "AbC123", "secret": preset, "preset": preset}
        for preset in ("shopify", "stripe", "woocommerce")
    }
    aws_client("s3").put_object(
        Bucket="configuration", Key=sources.KEY, Body=json.dumps({"sources": written}).encode()
    )
    for preset in written:
        secret = SECRETS[preset]
        aws_client("secretsmanager").create_secret(Name=f"sluice/webhooks/{preset}", SecretString=secret)
    return front


def deliver(to: Front, preset: str, topic: str, payload: object, *, encode: bool = False) -> Answer:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    headers = SIGNERS[preset](SECRETS[preset], body, datetime.now(UTC))
    if preset in TOPICS:
        headers |= {TOPICS[preset]: topic}
    named = {"Authorization": None, "revision": None, "Content-Type": "application/json", **headers}
    return to.send(f"/webhooks/{preset}", body, encode=encode, **named)  # type: ignore[arg-type]


def events(of: Front) -> list[dict[str, Any]]:
    """Takes all messages from the queue, and returns their events."""
    found = []
    for body in of.queued():
        stored = message.decode(body, lambda _: b"")
        assert isinstance(stored, StoredMessage.__value__.__origin__)
        for entry in stored.entries:
            profile = {"profile": {"data": json.loads(bytes(entry.profile))}}
            found += [json.loads(bytes(each.attributes)) | profile for each in entry.events]
    return found


def told(of: Front) -> list[tuple[str, str, str]]:
    return sorted((metric(each), each["unique_id"], person(each)) for each in events(of))


def counted(of: Front, name: str) -> int:
    """Returns the sum of a metric over all invocations."""
    lines = [json.loads(line) for line in of.said.splitlines() if '"_aws"' in line]
    return sum(sum(values) if isinstance(values := each.get(name, 0), list) else values for each in lines)


PLACED = [
    ("Ordered Product", "order:727:315", "john.doe@example.com"),
    ("Ordered Product", "order:727:316", "john.doe@example.com"),
    ("Placed Order", "order:727", "john.doe@example.com"),
]


@pytest.mark.parametrize("first", ["failed", "checkout-draft"])
def test_an_order_is_placed_at_the_first_topic_in_which_it_counts(shops: Front, first: str) -> None:
    for topic, status in (("created", first), ("updated", first), ("updated", "processing")):
        deliver(shops, "woocommerce", f"order.{topic}", ORDER | {"status": status})

    assert told(shops) == PLACED
    deliver(shops, "woocommerce", "order.updated", ORDER | {"status": "completed"})
    assert told(shops) == [("Fulfilled Order", "order:727", "john.doe@example.com")]
    assert shops.rejected() == []
    assert (counted(shops, "AcceptedEvents"), counted(shops, "RepeatedEvents")) == (4, 3)


def test_a_checkout_is_told_once_it_is_known_whose_it_is(shops: Front) -> None:
    checkout = sample("shopify", "checkouts_create").payload
    nobody = checkout | {"email": None, "phone": None, "customer": None}

    answer = deliver(shops, "shopify", "checkouts/create", nobody)
    assert (answer.status, answer.document["meta"]["unidentified"]) == (200, 1)
    assert (shops.queued(), shops.rejected()) == ([], [])
    for _ in range(2):
        answer = deliver(shops, "shopify", "checkouts/update", checkout)
        assert (answer.status, answer.document["meta"]["events"]) == (202, 1)

    assert told(shops) == [("Checkout Started", "checkout:123123123", "example@email.com")]
    assert (counted(shops, "UnidentifiedEvents"), counted(shops, "EmptyDeliveries")) == (1, 0)


@pytest.mark.parametrize("transactions", ["absent", None, "nonsense", []])
def test_a_refund_without_its_transactions_is_told_without_a_value(shops: Front, transactions: Any) -> None:
    order = sample("shopify", "orders_updated").payload
    [refund] = order["refunds"]
    refund["transactions"] = transactions
    if transactions == "absent":
        del refund["transactions"], order["line_items"]

    deliver(shops, "shopify", "orders/updated", order)

    [refunded] = [each for each in events(shops) if metric(each) == "Refunded Order"]
    assert refunded.get("value") == (0 if transactions == [] else None)
    assert shops.rejected() == []


def test_money_that_is_only_held_is_no_payment(shops: Front) -> None:
    paid = sample("stripe", "charge.succeeded").payload
    held = {"captured": False, "amount_captured": 0}

    for change in ({"type": "charge.succeeded"}, {"type": "charge.refunded"}):
        deliver(shops, "stripe", "", paid | change | {"data": {"object": paid["data"]["object"] | held}})
    assert shops.queued() == []
    deliver(shops, "stripe", "", paid | {"type": "charge.captured"})

    assert told(shops) == [("Successfully Paid", "ch_chargeid", "cus_0dUMWLtzCTagWs")]


@pytest.mark.parametrize("encode", [False, True])
def test_half_a_character_costs_no_event(shops: Front, encode: bool) -> None:
    body = json.dumps(ORDER | {"customer_note": "gift \ud83c"}).encode()

    answer = deliver(shops, "woocommerce", "order.created", body, encode=encode)

    assert (answer.status, answer.document["meta"]["events"]) == (202, 3)
    assert told(shops) == PLACED
    assert counted(shops, "LeftOutFields") == 1
    assert "no character, was replaced by U+FFFD" in shops.said


def test_half_a_character_in_what_says_whose_it_is_is_not_replaced(shops: Front) -> None:
    billing = ORDER["billing"] | {"email": "jo\ud83c@mail.example", "phone": ""}

    answer = deliver(shops, "woocommerce", "order.created", ORDER | {"billing": billing})

    assert (answer.status, answer.document["meta"]["rejected"]) == (200, 1)
    [rejection] = shops.rejected()
    assert "in an identifier or the metric" in rejection.detail
    assert shops.queued() == []


@pytest.mark.parametrize("encode", [False, True])
def test_a_signed_body_that_is_not_utf_8_is_a_rejection_that_says_so(shops: Front, encode: bool) -> None:
    body = json.dumps(ORDER).encode().replace(b"Market", b"M\xe4rket")

    answer = deliver(shops, "woocommerce", "order.created", body, encode=encode)

    assert (answer.status, answer.document["meta"]["rejected"]) == (200, 1)
    [rejection] = shops.rejected()
    assert "not UTF-8" in rejection.detail


def test_one_field_that_fails_is_told_and_counted_and_costs_nothing_else(shops: Front) -> None:
    order = ORDER | {"total": 10**400, "currency": "yen", "coupon_lines": 5}

    answer = deliver(shops, "woocommerce", "order.created", order)

    assert (answer.status, answer.document["meta"]["events"]) == (202, 3)
    placed = next(each for each in events(shops) if metric(each) == "Placed Order")
    assert placed.keys().isdisjoint({"value", "value_currency"})
    assert placed["properties"]["Item Count"] == 3
    assert counted(shops, "LeftOutFields") == 4
    [line] = [each for each in shops.said.splitlines() if "fields left out" in each]
    assert sorted(each.partition(": ")[0] for each in json.loads(line)["fields"]) == [
        "/events/ordered-product/value_currency",
        "/events/ordered-product/value_currency",
        "/events/placed-order/value",
        "/events/placed-order/value_currency",
    ]
    assert "yen" not in line


def test_deliveries_that_become_nothing_are_counted_by_topic(
    shops: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shops.function.app.api(), "_topics", set())
    monkeypatch.setattr(ingest_api, "MAX_TOPICS", 2)

    for topic in ("products/update", "products/update", "carts/update", "a topic", "shop/update"):
        assert deliver(shops, "shopify", topic, {"id": 1}).status == 200
    deliver(shops, "woocommerce", "order.updated", ORDER | {"status": "failed"})

    lines = [json.loads(each) for each in shops.said.splitlines() if '"_aws"' in each]
    found = [(each["source"], each["topic"]) for each in lines if "EmptyDeliveriesByTopic" in each]
    assert found == [
        ("shopify", "products/update"),
        ("shopify", "products/update"),
        ("shopify", "carts/update"),
        ("shopify", "other"),
        ("shopify", "other"),
        ("woocommerce", "other"),
    ]
    assert counted(shops, "EmptyDeliveries") == 6


def test_without_the_table_events_are_taken_as_they_come(shops: Front) -> None:
    aws_client("dynamodb").delete_table(TableName=TABLE)

    for _ in range(2):
        assert deliver(shops, "woocommerce", "order.created", ORDER).status == 202

    assert told(shops) == sorted(PLACED * 2)
    assert counted(shops, "ObjectRecordFailures") == 4


def test_without_the_table_an_event_of_nobody_is_sent_again_by_its_sender(shops: Front) -> None:
    checkout = sample("shopify", "checkouts_create").payload
    nobody = checkout | {"email": None, "phone": None, "customer": None}
    aws_client("dynamodb").delete_table(TableName=TABLE)

    assert deliver(shops, "shopify", "checkouts/create", nobody).status == 503
    assert deliver(shops, "shopify", "checkouts/create", checkout).status == 202

    assert told(shops) == [("Checkout Started", "checkout:123123123", "example@email.com")]
    assert shops.rejected() == []


def test_nothing_counts_as_stored_that_could_not_be_stored(shops: Front) -> None:
    aws_client("sqs").delete_queue(QueueUrl=shops.queue_url)
    assert deliver(shops, "woocommerce", "order.created", ORDER).status == 503

    [item] = shops.items()

    assert "event_ids" not in item
    assert item["person#Placed Order"] == {"S": '{"email":"john.doe@example.com"}'}


def test_a_record_keeps_the_first_person_of_each_metric_and_the_last_of_all(cloud: Cloud) -> None:
    first = object_records.open_record("state", "shop", "order:1", {"Placed Order": JON}, NOW)
    second = object_records.open_record(
        "state", "shop", "order:1", {"Placed Order": ANN, "Fulfilled Order": ANN}, NOW
    )
    third = object_records.open_record("state", "shop", "order:1", {}, NOW)

    assert first.people == {"Placed Order": JON}
    assert second.people == third.people == {"Placed Order": JON, "Fulfilled Order": ANN}
    assert (first.last_person, third.last_person) == (JON, ANN)


def test_a_record_knows_what_is_stored_of_its_own_object_only(cloud: Cloud) -> None:
    for ids in ([b"a" * 12, b"b" * 12], [b"b" * 12, b"c" * 12]):
        object_records.mark_stored("state", "shop", "order:1", ids, NOW)

    def stored(source: str, object_id: str) -> frozenset[bytes]:
        return object_records.open_record("state", source, object_id, {}, NOW).stored

    assert stored("shop", "order:1") == {b"a" * 12, b"b" * 12, b"c" * 12}
    assert stored("shop", "order:2") == stored("other", "order:1") == frozenset()


def test_a_record_expires_ninety_days_after_the_last_delivery(cloud: Cloud) -> None:
    later = NOW + timedelta(days=10)
    object_records.open_record("state", "shop", "order:1", {"Placed Order": JON}, NOW)
    object_records.mark_stored("state", "shop", "order:1", [b"a" * 12], later)

    [item] = aws_client("dynamodb").scan(TableName="state")["Items"]

    assert item["expires_at"] == {"N": str(int((later + timedelta(days=90)).timestamp()))}
    assert "order:1" not in item["pk"]["S"]


def test_a_record_takes_no_more_people_at_once_than_an_update_has_room_for(cloud: Cloud) -> None:
    people = {f"Metric {each} {'x' * 100}": JON for each in range(1_000)}

    record = object_records.open_record("state", "shop", "order:1", people, NOW)

    assert len(record.people) == object_records.MAX_PEOPLE


def test_a_table_that_refuses_is_told(cloud: Cloud) -> None:
    with pytest.raises(Retryable):
        object_records.open_record("missing", "shop", "order:1", {}, NOW)
    with pytest.raises(Retryable):
        object_records.mark_stored("missing", "shop", "order:1", [b"a" * 12], NOW)
