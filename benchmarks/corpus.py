"""Makes the events that are measured: Placed Orders of a fixed seed, the same for every candidate.

An event of the corpus is one order, in the form of its sender: a bulk request, a single event, dtex's record,
Segment's payload. It has about 800 bytes with its profile, and ten properties; each profile has four events.
"""

import json
import random
from typing import Any, Final

import orjson

SEED: Final = 20_261_121
EVENTS: Final = 1_000
PROFILES: Final = 250
METRIC: Final = "Placed Order"

_FIRST: Final = ("Ada", "Grace", "Edsger", "Barbara", "Alan", "Zoë", "Łukasz", "Søren")
_LAST: Final = ("Lovelace", "Hopper", "Dijkstra", "Liskov", "Turing", "Müller", "Nowak", "Ångström")
_CITIES: Final = (("Boston", "MA", "02111"), ("Austin", "TX", "78701"), ("Portland", "OR", "97201"))
_ITEMS: Final = ("Desk lamp, brass", "Oak side table", "Wool blanket 140x200", "Linen cushion", "Clay vase")

type Order = dict[str, Any]


def orders(events: int = EVENTS, profiles: int = PROFILES, seed: int = SEED) -> list[Order]:
    """Makes orders as plain data: `profile` and `event` are the attributes that Klaviyo takes."""
    chance = random.Random(seed)
    people = [_person(number, chance) for number in range(profiles)]
    return [
        {"profile": people[number % profiles], "event": _order(number, chance)} for number in range(events)
    ]


def ungrouped(given: list[Order]) -> bytes:
    """Returns one bulk request with an entry for each event, as senders that do not group write it."""
    return _bulk([_entry(order["profile"], [order["event"]]) for order in given])


def grouped(given: list[Order]) -> bytes:
    """Returns one bulk request with an entry for each profile."""
    by_profile: dict[str, list[Order]] = {}
    for order in given:
        by_profile.setdefault(order["profile"]["email"], []).append(order)
    return _bulk(
        [_entry(own[0]["profile"], [order["event"] for order in own]) for own in by_profile.values()]
    )


def single(order: Order) -> bytes:
    """Returns one order as a Create Event request."""
    profile = {"data": {"type": "profile", "attributes": order["profile"]}}
    return orjson.dumps({"data": {"type": "event", "attributes": {**order["event"], "profile": profile}}})


def client(order: Order) -> bytes:
    """Returns one order as a page sends it, its profile identified by the e-mail alone."""
    return single({**order, "profile": {"email": order["profile"]["email"]}})


def client_bulk(own: list[Order]) -> bytes:
    """Returns one profile's orders as a client bulk request."""
    return orjson.dumps(
        {"data": _entry({"email": own[0]["profile"]["email"]}, [each["event"] for each in own])}
    )


def delivery(order: Order) -> bytes:
    """Returns one order as a shop's webhook has it."""
    event = {name: value for name, value in order["event"].items() if name != "metric"}
    return orjson.dumps({**event, "customer": order["profile"]})


def batch(given: list[Order]) -> bytes:
    """Makes a batch for Pipeless of orders."""
    return orjson.dumps({"events": [_purchase(order) for order in given]})


def records(given: list[Order]) -> bytes:
    """Returns the orders as JSON lines of dtex's record contract."""
    lines = []
    for order in given:
        event = {name: value for name, value in order["event"].items() if name != "metric"}
        lines.append(json.dumps({**event, "metric_name": METRIC, "profile": order["profile"]}))
    return "\n".join(lines).encode()


def segment(given: list[Order]) -> bytes:
    """Returns the orders as a batch of Segment's track events."""
    return orjson.dumps([_track(order) for order in given])


def _track(order: Order) -> dict[str, Any]:
    event, traits = order["event"], dict(order["profile"])
    return {
        "type": "track",
        "event": METRIC,
        "messageId": event["unique_id"],
        "timestamp": event["time"],
        "userId": traits.pop("external_id"),
        "context": {"traits": traits},
        "value": event["value"],
        "properties": event["properties"],
    }


def _purchase(order: Order) -> dict[str, Any]:
    return {
        "start_object": {"id": order["profile"]["external_id"], "type": "user"},
        "relationship": {"type": "purchased", "created_on": order["event"]["time"].removesuffix("Z")},
        "end_object": {"id": order["event"]["properties"]["sku"], "type": "product"},
    }


def _person(number: int, chance: random.Random) -> dict[str, Any]:
    first, last = chance.choice(_FIRST), chance.choice(_LAST)
    city, region, code = chance.choice(_CITIES)
    return {
        "email": f"customer.{number:05}@shop.example.org",
        "external_id": f"cus_{chance.getrandbits(64):016x}",
        "first_name": first,
        "last_name": last,
        "location": {"city": city, "region": region, "zip": code, "country": "United States"},
    }


def _order(number: int, chance: random.Random) -> dict[str, Any]:
    quantity = chance.randint(1, 5)
    price = chance.randint(500, 25_000) / 100
    return {
        "metric": {"data": {"type": "metric", "attributes": {"name": METRIC}}},
        "time": f"2026-07-{1 + number % 20:02}T{chance.randrange(24):02}:{chance.randrange(60):02}:00Z",
        "value": round(price * quantity, 2),
        "value_currency": "USD",
        "unique_id": f"order-{chance.getrandbits(64):016x}",
        "properties": {
            "order_number": 100_000 + number,
            "item": chance.choice(_ITEMS),
            "sku": f"SKU-{chance.randrange(10**6):06}",
            "quantity": quantity,
            "price": price,
            "gift": chance.random() < 0.2,
            "coupon": chance.choice((None, "WELCOME10", "AUTUMN")),
            "url": f"https://shop.example.org/products/{chance.randrange(10**6)}",
            "categories": chance.sample(("home", "living", "new", "sale"), 2),
            "shipping": {"carrier": chance.choice(("UPS", "DHL")), "days": chance.randint(1, 6)},
        },
    }


def _entry(profile: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "event-bulk-create",
        "attributes": {
            "profile": {"data": {"type": "profile", "attributes": profile}},
            "events": {"data": [{"type": "event", "attributes": event} for event in events]},
        },
    }


def _bulk(entries: list[dict[str, Any]]) -> bytes:
    attributes = {"events-bulk-create": {"data": entries}}
    return orjson.dumps({"data": {"type": "event-bulk-create-job", "attributes": attributes}})
