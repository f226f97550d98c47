"""Measures the cost of bad events: upstream requests for a job of 1,000 events of which some are refused."""

import itertools
import random
from typing import Any, Final

import msgspec

from benchmarks import corpus, gateway
from devstack.fake_upstream.settings import Poison
from sluice.message import Message
from tests.simulation.scenario import Scenario

BAD: Final = (0, 1, 10, 100)
_DAY: Final = 86_400.0
_POISON: Final = "Poisoned"


def run() -> dict[str, Any]:
    """Returns the requests until every good event is delivered, by how the upstream names the bad ones."""
    return {
        "ours, all named": {bad: ours(bad, "all") for bad in BAD},
        "ours, first named": {bad: ours(bad, "first") for bad in BAD},
        "ours, none named": {bad: ours(bad, "none") for bad in BAD},
        "plain bisection": {bad: bisected(bad) for bad in BAD},
    }


def _bad(count: int) -> set[int]:
    return set(random.Random(corpus.SEED).sample(range(corpus.EVENTS), count))


def _request(bad: set[int]) -> Message[Any]:
    orders = corpus.orders(profiles=corpus.EVENTS)
    for number in bad:
        metric = {"data": {"type": "metric", "attributes": {"name": _POISON}}}
        orders[number]["event"] = orders[number]["event"] | {"metric": metric}
    return gateway.stored(corpus.ungrouped(orders))


def ours(count: int, attribution: str) -> dict[str, Any]:
    """Returns our requests with so many bad events, and how long they took in all."""
    world = Scenario({gateway.SITE_ID: "pk_upstream"}, seed=corpus.SEED, workers=1, max_receives=500)
    poison = msgspec.to_builtins((Poison(_POISON),))
    world.klaviyo.configure(attribution=attribution, poison=poison)

    async def work() -> float:
        world.put(_request(_bad(count)))
        return await world.work_until_done(_DAY)

    seconds = world.run(work())
    delivered = sum(line.events for line in world.klaviyo.requests())
    if delivered != corpus.EVENTS - count or len(world.rejections) != count:
        raise RuntimeError(f"{delivered} delivered and {len(world.rejections)} rejected with {count} bad")
    return {"requests": len(world.klaviyo.requests()), "seconds": seconds}


def bisected(count: int) -> dict[str, Any]:
    """Halves a refused job until each bad event stands alone, and sends every part."""
    bad = _bad(count)
    asked = itertools.count(1)
    requests = 0
    parts = [range(corpus.EVENTS)]
    while parts:
        part = parts.pop()
        requests = next(asked)
        if bad.intersection(part) and len(part) > 1:
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
    return {"requests": requests}
