"""Tests whole lives of orders, checkouts, charges and subscriptions.

In every order of delivery, with repeats, each becomes exactly the right events, once.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.webhook_deliveries import (
    MemoryRecords,
    NoRecords,
    Receiver,
    as_klaviyo_counts,
    metric,
    person,
)
from tests.support.webhook_samples import document, source

TOPICS = {"shopify": "x-shopify-topic", "woocommerce": "x-wc-webhook-topic"}
JON, ANN = "jon@mail.example", "ann@mail.example"

type Delivery = tuple[str, dict[str, Any]]  # a topic and a payload
type Expected = set[tuple[str, str, float | None]]  # metric, unique_id and value


@dataclass(frozen=True)
class Life:
    """Holds the deliveries of a life in the order in which it goes on, and the events to come of it."""

    name: str
    preset: str
    deliveries: Sequence[Delivery]
    events: Expected
    people: frozenset[str] = frozenset({JON})

    def __str__(self) -> str:
        return f"{self.preset}: {self.name}"


def order(**state: Any) -> dict[str, Any]:
    """Makes an order of Shopify in some state."""
    placed = {
        "id": 5001,
        "email": JON,
        "created_at": "2026-11-20T10:00:00-05:00",
        "updated_at": "2026-11-20T10:00:02-05:00",
        "cancelled_at": None,
        "currency": "EUR",
        "total_price": "30.00",
        "financial_status": "pending",
        "fulfillment_status": None,
        "line_items": [
            {"id": 1, "title": "Lamp", "quantity": 1, "price": "10.00"},
            {"id": 2, "title": "Desk", "quantity": 2, "price": "10.00"},
        ],
        "refunds": [],
    }
    return {**placed, **state}


def refund(number: int, amount: str, kind: str = "refund", status: str = "success") -> dict[str, Any]:
    transaction = {"kind": kind, "status": status, "amount": amount, "currency": "EUR"}
    return {
        "id": number,
        "order_id": 5001,
        "created_at": "2026-11-21T09:00:00-05:00",
        "refund_line_items": [],
        "transactions": [transaction],
    }


PLACED: Expected = {
    ("Placed Order", "order:5001", 30),
    ("Ordered Product", "order:5001:1", 10),
    ("Ordered Product", "order:5001:2", 20),
}
CANCELLED: dict[str, Any] = {"cancelled_at": "2026-11-21T08:00:00-05:00"}
FULFILLED: dict[str, Any] = {
    "fulfillment_status": "fulfilled",
    "fulfillments": [{"created_at": "2026-11-21T08:00:00-05:00", "tracking_urls": []}],
}
FIRST, SECOND = refund(71, "4.00"), refund(72, "6.00")
NOBODY: dict[str, Any] = {"email": None, "phone": None, "customer": None}


def checkout(**state: Any) -> dict[str, Any]:
    return {
        "token": "c-1",
        "created_at": "2026-11-20T10:00:00-05:00",
        "updated_at": "2026-11-20T10:01:00-05:00",
        "total_price": "30.00",
        "currency": "EUR",
        "line_items": [],
        **NOBODY,
        **state,
    }


SHOPIFY = [
    Life(
        "paid late, then fulfilled",
        "shopify",
        [
            ("orders/create", order()),
            ("orders/updated", order(financial_status="pending")),
            ("orders/paid", order(financial_status="paid")),
            ("orders/fulfilled", order(financial_status="paid", **FULFILLED)),
            ("orders/updated", order(financial_status="paid", **FULFILLED)),
        ],
        PLACED | {("Fulfilled Order", "order:5001", 30)},
    ),
    Life(
        "a draft that becomes an order",
        "shopify",
        [
            ("draft_orders/create", {"id": 9, "email": JON, "status": "open", "order_id": None}),
            ("draft_orders/update", {"id": 9, "email": JON, "status": "completed", "order_id": 5001}),
            ("orders/create", order(source_name="shopify_draft_order")),
        ],
        PLACED,
    ),
    Life(
        "on hold, then fulfilled in two parts",
        "shopify",
        [
            ("orders/create", order(fulfillment_status=None)),
            ("orders/partially_fulfilled", order(fulfillment_status="partial")),
            ("orders/updated", order(fulfillment_status="partial")),
            ("orders/fulfilled", order(**FULFILLED)),
        ],
        PLACED | {("Fulfilled Order", "order:5001", 30)},
    ),
    Life(
        "refunded in part twice, told in every way",
        "shopify",
        [
            ("orders/create", order()),
            ("refunds/create", FIRST),
            ("orders/updated", order(refunds=[FIRST])),
            ("refunds/create", SECOND),
            ("orders/updated", order(refunds=[FIRST, SECOND])),
        ],
        PLACED | {("Refunded Order", "refund:71", 4), ("Refunded Order", "refund:72", 6)},
        # The record of an order that is not known yet has nobody a refund could belong to.
        frozenset({JON, "shopify-order-5001"}),
    ),
    Life(
        "cancelled before it was paid",
        "shopify",
        [
            ("orders/create", order()),
            ("orders/cancelled", order(financial_status="voided", **CANCELLED)),
            ("orders/updated", order(financial_status="voided", **CANCELLED)),
        ],
        PLACED | {("Cancelled Order", "order:5001", 30)},
    ),
    Life(
        "authorized, then captured",
        "shopify",
        [
            ("orders/create", order(financial_status="authorized")),
            ("orders/paid", order(financial_status="paid")),
            ("orders/updated", order(financial_status="paid")),
        ],
        PLACED,
    ),
    Life(
        "authorized, then voided: no money is given back",
        "shopify",
        [
            ("orders/create", order(financial_status="authorized")),
            (
                "orders/cancelled",
                order(financial_status="voided", refunds=[refund(73, "30.00", kind="void")], **CANCELLED),
            ),
            ("refunds/create", refund(73, "30.00", kind="void")),
            (
                "orders/updated",
                order(financial_status="voided", refunds=[refund(73, "30.00", kind="void")], **CANCELLED),
            ),
        ],
        PLACED | {("Cancelled Order", "order:5001", 30)},
    ),
    Life(
        "a refund that fails first",
        "shopify",
        [
            ("orders/create", order()),
            ("orders/updated", order(refunds=[refund(74, "5.00", status="failure")])),
            ("orders/updated", order(refunds=[refund(74, "5.00")])),
        ],
        PLACED | {("Refunded Order", "refund:74", 5)},
    ),
    Life(
        "sold to nobody, whose customer is added later",
        "shopify",
        [
            ("orders/create", order(**NOBODY)),
            ("orders/paid", order(financial_status="paid", **NOBODY)),
            ("orders/updated", order(financial_status="paid", email=None, customer={"email": JON})),
        ],
        PLACED,
    ),
    Life(
        "a guest who becomes known",
        "shopify",
        [
            ("orders/create", order()),
            ("orders/updated", order(email=None, customer={"email": ANN})),
            ("orders/fulfilled", order(email=None, customer={"email": ANN}, **FULFILLED)),
            ("orders/updated", order(email=None, customer={"email": ANN}, **FULFILLED)),
        ],
        PLACED | {("Fulfilled Order", "order:5001", 30)},
        frozenset({JON, ANN}),
    ),
    Life(
        "a line is added",
        "shopify",
        [
            ("orders/create", order(line_items=order()["line_items"][:1])),
            ("orders/updated", order()),
        ],
        PLACED,
    ),
    Life(
        "a checkout whose customer tells the address late",
        "shopify",
        [
            ("checkouts/create", checkout()),
            ("checkouts/update", checkout(email=JON)),
            ("checkouts/update", checkout(email=JON, phone="+15005550006")),
        ],
        {("Checkout Started", "checkout:c-1", 30)},
    ),
    Life(
        "an account without an address at first",
        "shopify",
        [
            ("customers/create", {"id": 8, "email": None}),
            ("customers/update", {"id": 8, "email": JON}),
            ("customers/update", {"id": 8, "email": JON, "first_name": "Jon"}),
        ],
        {("Customer Created", "customer:8", None)},
    ),
]


def woo(status: str, **state: Any) -> dict[str, Any]:
    """Makes an order of WooCommerce with a status."""
    placed = {
        "id": 727,
        "number": "727",
        "status": status,
        "currency": "EUR",
        "total": "30.00",
        "date_created_gmt": "2026-11-20T10:00:00",
        "date_modified_gmt": "2026-11-20T10:00:05",
        "date_paid_gmt": None,
        "date_completed_gmt": None,
        "billing": {"email": JON, "phone": "", "country": "DE"},
        "line_items": [{"id": 1, "name": "Lamp", "quantity": 3, "total": "30.00", "price": 10}],
        "refunds": [],
    }
    return {**placed, **state}


WOO_PLACED: Expected = {("Placed Order", "order:727", 30), ("Ordered Product", "order:727:1", 30)}
PAID: dict[str, Any] = {"date_paid_gmt": "2026-11-20T10:00:05"}
DONE: dict[str, Any] = {**PAID, "date_completed_gmt": "2026-11-21T08:00:00"}
PART, REST = {"id": 81, "reason": "", "total": "-10.00"}, {"id": 82, "reason": "", "total": "-20.00"}

WOOCOMMERCE = [
    Life(
        "failed, then paid",
        "woocommerce",
        [
            ("order.created", woo("failed")),
            ("order.updated", woo("failed")),
            ("order.updated", woo("processing", **PAID)),
            ("order.updated", woo("completed", **DONE)),
        ],
        WOO_PLACED | {("Fulfilled Order", "order:727", 30)},
    ),
    Life(
        "a draft of the checkout, then paid late",
        "woocommerce",
        [
            ("order.created", woo("checkout-draft", billing={"email": "", "phone": ""})),
            ("order.updated", woo("pending")),
            ("order.updated", woo("processing", **PAID)),
            ("order.updated", woo("completed", **DONE)),
        ],
        WOO_PLACED | {("Fulfilled Order", "order:727", 30)},
    ),
    Life(
        "a draft that stays one",
        "woocommerce",
        [
            ("order.created", woo("checkout-draft")),
            ("order.updated", woo("checkout-draft")),
            ("order.deleted", {"id": 727}),
        ],
        set(),
    ),
    Life(
        "on hold until the transfer arrives",
        "woocommerce",
        [
            ("order.created", woo("on-hold")),
            ("order.updated", woo("processing", **PAID)),
            ("order.updated", woo("processing", **PAID)),
        ],
        WOO_PLACED,
    ),
    Life(
        "a status of a plugin's own",
        "woocommerce",
        [("order.created", woo("checkout-draft")), ("order.updated", woo("awaiting-shipment", **PAID))],
        WOO_PLACED,
    ),
    Life(
        "refunded in part twice",
        "woocommerce",
        [
            ("order.created", woo("processing", **PAID)),
            ("order.updated", woo("completed", **DONE)),
            ("order.updated", woo("completed", refunds=[PART], **DONE)),
            ("order.updated", woo("refunded", refunds=[REST, PART], **DONE)),
        ],
        WOO_PLACED
        | {
            ("Fulfilled Order", "order:727", 30),
            ("Refunded Order", "refund:81", 10),
            ("Refunded Order", "refund:82", 20),
        },
    ),
    Life(
        "cancelled after it was paid, of which only the last is delivered",
        "woocommerce",
        [("order.updated", woo("cancelled", **PAID))],
        WOO_PLACED | {("Cancelled Order", "order:727", 30)},
    ),
    Life(
        "cancelled",
        "woocommerce",
        [("order.created", woo("pending")), ("order.updated", woo("cancelled"))],
        WOO_PLACED | {("Cancelled Order", "order:727", 30)},
    ),
    Life(
        "made by a clerk, complete and in one step",
        "woocommerce",
        [("order.created", woo("completed", **DONE))],
        WOO_PLACED | {("Fulfilled Order", "order:727", 30)},
    ),
    Life(
        "made by a clerk, whose customer is added later",
        "woocommerce",
        [
            ("order.created", woo("pending", billing={"email": "", "phone": ""})),
            ("order.updated", woo("pending", billing={"email": JON})),
        ],
        WOO_PLACED,
    ),
    Life(
        "another address",
        "woocommerce",
        [
            ("order.created", woo("processing", **PAID)),
            ("order.updated", woo("processing", billing={"email": ANN}, **PAID)),
            ("order.updated", woo("completed", billing={"email": ANN}, **DONE)),
        ],
        WOO_PLACED | {("Fulfilled Order", "order:727", 30)},
        frozenset({JON, ANN}),
    ),
]

_numbers = itertools.count(1)


def stripe(kind: str, *, before: dict[str, Any] | None = None, **state: Any) -> Delivery:
    """Makes an event of Stripe about an object, each with an id of its own."""
    return kind, {
        "id": f"evt_{next(_numbers)}",
        "type": kind,
        "created": 1_795_000_000,
        "data": {"object": state, **({"previous_attributes": before} if before else {})},
    }


def charge(kind: str, *, before: dict[str, Any] | None = None, **state: Any) -> Delivery:
    whole = {
        "id": "ch_1",
        "object": "charge",
        "amount": 3000,
        "amount_captured": 3000,
        "amount_refunded": 0,
        "captured": True,
        "currency": "eur",
        "created": 1_794_999_990,
        "customer": None,
        "billing_details": {"email": JON},
        "status": "succeeded",
    }
    return stripe(kind, before=before, **{**whole, **state})


def session(kind: str, **state: Any) -> Delivery:
    whole: dict[str, Any] = {"id": "cs_1", "amount_total": 3000, "currency": "eur", "status": "complete"}
    return stripe(kind, **whole, customer_details={"email": JON}, **state)


def subscription(kind: str, **state: Any) -> Delivery:
    return stripe(
        f"customer.subscription.{kind}", id="sub_1", customer="cus_1", created=1_794_999_990, **state
    )


HELD: dict[str, Any] = {"captured": False, "amount_captured": 0}
PAYMENT: Expected = {("Successfully Paid", "ch_1", 30)}

STRIPE = [
    Life("paid at once", "stripe", [charge("charge.succeeded"), charge("charge.updated")], PAYMENT),
    Life(
        "paid late",
        "stripe",
        [
            session("checkout.session.completed", payment_status="unpaid"),
            charge("charge.pending", status="pending"),
            charge("charge.succeeded"),
            session("checkout.session.async_payment_succeeded", payment_status="paid"),
        ],
        PAYMENT | {("Completed Checkout", "cs_1", 30)},
    ),
    Life(
        "failed, then paid",
        "stripe",
        [
            charge("charge.failed", id="ch_0", status="failed", captured=False),
            charge("charge.updated", id="ch_0", status="failed", captured=False),
            charge("charge.succeeded"),
        ],
        PAYMENT,
    ),
    Life(
        "authorized, then captured in part",
        "stripe",
        [
            charge("charge.succeeded", **HELD),
            charge("charge.updated", **HELD),
            charge("charge.captured", amount_captured=2000, before=HELD),
        ],
        {("Successfully Paid", "ch_1", 20)},
    ),
    Life(
        "authorized, then voided",
        "stripe",
        [
            charge("charge.succeeded", **HELD),
            charge("charge.refunded", refunded=True, amount_refunded=3000, **HELD),
            charge("charge.expired", **HELD),
        ],
        set(),
    ),
    Life(
        "refunded in part twice, of which Stripe tells one in two events",
        "stripe",
        [
            charge("charge.succeeded"),
            charge("charge.refunded", amount_refunded=1000, before={"amount_refunded": 0}),
            charge("charge.refunded", amount_refunded=3000, before={"amount_refunded": 1000}),
            charge("charge.refunded", amount_refunded=3000, before={"amount_refunded": 1000}),
        ],
        PAYMENT | {("Refunded Payment", "ch_1:1000", 10), ("Refunded Payment", "ch_1:3000", 20)},
    ),
    Life(
        "paid by nobody, whose address is added later",
        "stripe",
        [
            charge("charge.succeeded", billing_details={"email": None}),
            charge("charge.updated", billing_details={"email": None}, receipt_email=JON),
        ],
        PAYMENT,
    ),
    Life(
        "a guest who becomes a customer",
        "stripe",
        [
            charge("charge.succeeded"),
            charge("charge.updated", customer="cus_1", billing_details={"email": None}),
            charge(
                "charge.refunded", amount_refunded=1000, customer="cus_1", billing_details={"email": None}
            ),
        ],
        PAYMENT | {("Refunded Payment", "ch_1:1000", 10)},
        frozenset({JON, "cus_1"}),
    ),
    Life(
        "an invoice that fails twice",
        "stripe",
        [
            stripe(
                "invoice.payment_failed",
                id="in_1",
                attempt_count=each,
                amount_due=900,
                currency="eur",
                customer="cus_1",
            )
            for each in (1, 2, 2)
        ],
        {("Failed Payment", "in_1:1", 9), ("Failed Payment", "in_1:2", 9)},
        frozenset({"cus_1"}),
    ),
    Life(
        "a subscription that is paid after it was made",
        "stripe",
        [
            subscription("created", status="incomplete"),
            subscription("updated", status="active"),
            subscription("updated", status="past_due"),
            subscription("deleted", status="canceled"),
        ],
        {("Started Subscription", "sub_1", None), ("Cancelled Subscription", "sub_1", None)},
        frozenset({"cus_1"}),
    ),
    Life(
        "a subscription that never was paid",
        "stripe",
        [subscription("created", status="incomplete"), subscription("updated", status="incomplete_expired")],
        set(),
    ),
]

LIVES = [*SHOPIFY, *WOOCOMMERCE, *STRIPE]
SOURCES = {preset: source(document(preset=preset)) for preset in ("shopify", "stripe", "woocommerce")}


def receiver(life: Life, *, remembers: bool = True) -> Receiver:
    return Receiver(SOURCES[life.preset], MemoryRecords() if remembers else NoRecords())


def deliver(to: Receiver, life: Life, deliveries: Sequence[Delivery]) -> None:
    for topic, payload in deliveries:
        headers = {TOPICS[life.preset]: topic} if life.preset in TOPICS else {}
        to.deliver(payload, headers)


def told(events: Sequence[dict[str, Any]]) -> list[tuple[str, str, float | None]]:
    return sorted(((metric(each), each["unique_id"], each.get("value")) for each in events), key=str)


def orders_of_delivery(life: Life, step: int = 1) -> Iterator[list[Delivery]]:
    """Gives every order in which deliveries can come, each of them once more somewhere behind it; or each
    `step`th of these orders.
    """
    orders = itertools.islice(itertools.permutations(life.deliveries), 0, None, step)
    for number, order_ in enumerate(orders):
        again = list(order_)
        for at, each in enumerate(order_):
            again.insert(len(again) if (number + at) % 2 else again.index(each) + 1, each)
        yield again


@pytest.mark.parametrize("life", LIVES, ids=str)
def test_a_life_becomes_exactly_its_events_in_every_order_of_delivery(life: Life) -> None:
    for deliveries in orders_of_delivery(life):
        to = receiver(life)

        deliver(to, life, deliveries)

        topics = [topic for topic, _ in deliveries]
        assert told(to.events) == sorted(life.events, key=str), topics
        assert {person(each) for each in to.events} <= life.people, topics
        assert to.rejections == [], topics


@pytest.mark.parametrize("life", [life for life in LIVES if len(life.people) == 1], ids=str)
def test_a_life_of_one_person_needs_no_record(life: Life) -> None:
    for deliveries in orders_of_delivery(life, step=7 if len(life.deliveries) > 4 else 1):
        to = receiver(life, remembers=False)

        deliver(to, life, deliveries)

        assert told(as_klaviyo_counts(to.events)) == sorted(life.events, key=str)


@pytest.mark.parametrize("life", [life for life in LIVES if len(life.people) == 2], ids=str)
def test_each_event_stays_with_the_person_of_the_first_delivery_in_which_it_was_true(life: Life) -> None:
    for deliveries in orders_of_delivery(life, step=7 if len(life.deliveries) > 4 else 1):
        to = receiver(life)
        seen: dict[tuple[str, str], str] = {}
        first: dict[str, str] = {}
        for delivery in deliveries:
            alone = receiver(life)
            deliver(alone, life, [delivery])
            for event in alone.events:
                if person(event).startswith("shopify-order-"):
                    continue
                owner = first.setdefault(metric(event), person(event))
                seen.setdefault((metric(event), event["unique_id"]), owner)
            deliver(to, life, [delivery])

        owners = {(metric(each), each["unique_id"]): person(each) for each in to.events}
        for key, owner in owners.items():
            assert owner in {seen.get(key), "shopify-order-5001"}
        assert len(owners) == len(to.events)


def test_a_refund_that_comes_by_itself_belongs_to_the_person_of_its_order() -> None:
    life = next(each for each in SHOPIFY if each.name.startswith("refunded in part twice"))
    to = receiver(life)

    deliver(to, life, [("orders/create", order()), ("refunds/create", FIRST)])

    assert {person(each) for each in to.events} == {JON}


def test_an_event_of_nobody_keeps_the_person_that_it_was_given() -> None:
    """Tests two deliveries at a time: the second begins before it is recorded what the first stored."""
    life = next(each for each in SHOPIFY if each.name == "a guest who becomes known")
    to, records = receiver(life), MemoryRecords()
    to.records = records
    nobody = order(**NOBODY, **FULFILLED)
    ann = order(email=None, customer={"email": ANN}, **FULFILLED)

    deliver(to, life, [("orders/create", order())])
    before = copy.deepcopy(records.stored)
    deliver(to, life, [("orders/fulfilled", nobody)])
    records.stored = before
    deliver(to, life, [("orders/fulfilled", ann)])

    fulfilled = [each for each in to.events if metric(each) == "Fulfilled Order"]
    assert [person(each) for each in fulfilled] == [JON, JON]


def test_the_attributes_of_another_person_do_not_come_with_an_event_that_stays() -> None:
    life = next(each for each in SHOPIFY if each.name == "a guest who becomes known")
    to = receiver(life)
    ann = order(email=None, customer={"email": ANN, "first_name": "Ann"}, **FULFILLED)
    to.records.open(object_id="order:5001", people={"Fulfilled Order": {"email": JON}})

    deliver(to, life, [("orders/fulfilled", ann)])

    [fulfilled] = [each for each in to.events if metric(each) == "Fulfilled Order"]
    assert fulfilled["profile"]["data"]["attributes"] == {"email": JON}
    [placed] = [each for each in to.events if metric(each) == "Placed Order"]
    assert placed["profile"]["data"]["attributes"] == {"email": ANN, "first_name": "Ann"}


def test_what_happened_long_ago_is_recorded_as_backfill() -> None:
    """Tests an order from before the hook that is changed: its events are told, and trigger no flow."""
    life = next(each for each in SHOPIFY if each.name == "a guest who becomes known")
    for changed, expected in (("2026-11-20T10:00:02-05:00", None), ("2027-01-20T10:00:02-05:00", True)):
        to = receiver(life)

        deliver(to, life, [("orders/updated", order(updated_at=changed))])

        assert {each.get("backfill") for each in to.events} == {expected}


def test_a_repeat_is_counted_and_not_stored_again() -> None:
    to = receiver(SHOPIFY[0])
    headers = {TOPICS["shopify"]: "orders/create"}

    first, again = to.deliver(order(), headers), to.deliver(copy.deepcopy(order()), headers)

    assert (first.events, first.repeated) == (3, 0)
    assert (again.events, again.repeated) == (0, 3)
    assert len(to.events) == 3


@pytest.mark.parametrize("blank", ["", " ", "\t", None])
def test_a_blank_address_is_nobodys(blank: str | None) -> None:
    life = next(each for each in SHOPIFY if each.name.startswith("sold to nobody"))
    to = receiver(life)

    deliver(to, life, [("orders/create", order(email=blank)), ("orders/updated", order())])

    assert told(to.events) == sorted(PLACED, key=str)
    assert to.rejections == []


def test_what_is_nobodys_yet_is_counted_and_rejected_only_where_it_cannot_be_told_again() -> None:
    to = receiver(SHOPIFY[0])
    headers = {TOPICS["shopify"]: "orders/create"}

    waiting, lost = to.deliver(order(**NOBODY), headers), to.deliver(order(id=None, **NOBODY), headers)

    assert (waiting.events, waiting.unidentified, waiting.rejected) == (0, 3, 0)
    assert (lost.events, lost.unidentified, lost.rejected) == (0, 0, 3)
