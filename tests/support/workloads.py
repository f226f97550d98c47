"""Makes requests for a simulated world, and counts the outcomes of their events there."""

import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import msgspec

from devstack.fake_upstream import Klaviyo
from sluice.contract import Surface
from sluice.klaviyo import parser
from sluice.message import Message
from tests.simulation.scenario import Scenario
from tests.simulation.scheduler import START

SITE, KEY = "AbC123", "pk_abc"
OTHER, OTHER_KEY = "XyZ789", "pk_xyz"
NOW = datetime.fromtimestamp(START, UTC)
HOUR = 3_600.0

_receipts = itertools.count()


def request(*events: tuple[str, str], account: str = SITE, surface: Surface = Surface.BULK) -> Message[Any]:
    """Makes a stored request of events, each a customer's name and a unique_id."""
    by_customer: dict[str, list[str]] = {}
    for customer, unique_id in events:
        by_customer.setdefault(customer, []).append(unique_id)
    entries = [_entry(customer, unique_ids) for customer, unique_ids in by_customer.items()]
    attributes = {"events-bulk-create": {"data": entries}}
    body = msgspec.json.encode({"data": {"type": "event-bulk-create-job", "attributes": attributes}})
    read = parser.read(Surface.BULK, body, "2026-07-15", NOW)
    return Message(f"r{next(_receipts)}", account, surface, NOW, read.entries)


def bulk(name: str, count: int, customers: int = 100) -> list[tuple[str, str]]:
    """Makes the events of a bulk request, with unique_ids of their own."""
    return [(f"{name}-{n % customers}", f"{name}-{n}") for n in range(count)]


def single(name: str, account: str = SITE) -> Message[Any]:
    return request((name, name), account=account, surface=Surface.EVENT)


def _entry(customer: str, unique_ids: list[str]) -> dict[str, Any]:
    profile = {"type": "profile", "attributes": {"email": f"{customer}@mail.example"}}
    events = [{"type": "event", "attributes": _event(unique_id)} for unique_id in unique_ids]
    attributes = {"profile": {"data": profile}, "events": {"data": events}}
    return {"type": "event-bulk-create", "attributes": attributes}


def _event(unique_id: str) -> dict[str, Any]:
    name = "badone" if unique_id.startswith("badone") else "Placed Order"
    metric = {"data": {"type": "metric", "attributes": {"name": name}}}
    return {"properties": {}, "metric": metric, "unique_id": unique_id}


def delivered(klaviyo: Klaviyo, site_id: str = SITE) -> Counter[str]:
    """Counts how often each unique_id was taken upstream."""
    return Counter(taken.event["unique_id"] for taken in klaviyo.events(site_id))


def rejected(world: Scenario) -> Counter[str]:
    """Counts how often each unique_id was rejected; a rejection that is stored twice has one id."""
    by_id = {rejection.id: rejection.payload for rejection in world.rejections}
    payloads = [msgspec.json.decode(payload) for payload in by_id.values()]
    return Counter(event["unique_id"] for payload in payloads for event in payload["events"])


def work(world: Scenario, *requests: Message[Any], limit: float = HOUR) -> float:
    async def scenario() -> float:
        for each in requests:
            world.put(each)
        return await world.work_until_done(limit)

    return world.run(scenario())


def summary(world: Scenario, site_id: str = SITE) -> dict[str, Any]:
    found: dict[str, Any] = world.klaviyo.summary()["accounts"][site_id]
    return found


def all_once(*unique_ids: str) -> Counter[str]:
    return Counter(dict.fromkeys(unique_ids, 1))


def ids(events: list[tuple[str, str]]) -> list[str]:
    return [unique_id for _, unique_id in events]
