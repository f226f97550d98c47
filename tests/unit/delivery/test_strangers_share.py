"""Simulates a flood of anonymous events beside those of servers, with the real dispatch at the real rate."""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from sluice.contract import Surface
from sluice.delivery.rate_limiter import CROWD_SLOTS, SlotWindow, anonymous_turn
from tests.simulation.scenario import Scenario
from tests.simulation.scheduler import START
from tests.support.aws_stack import stored
from tests.support.factories import SITE_ID

FLOOD, SERVERS = 200, 40  # messages that fill a job each
EVENTS = 5  # in a job


def filling(name: str, surface: Surface) -> Any:
    made = stored(*((f"{name}{n}", f"{name}{n}") for n in range(EVENTS)), receipt=name, surface=surface)
    return msgspec.structs.replace(made, accepted=datetime.fromtimestamp(START, UTC))


def jobs_of(world: Scenario) -> dict[str, list[float]]:
    """Returns the times of the jobs, by those whose events they have."""
    kinds: dict[tuple[int, float], set[str]] = defaultdict(set)
    for each in world.klaviyo.events():
        kinds[each.job, each.time].add("servers" if each.event["unique_id"].startswith("s") else "strangers")
    found: dict[str, list[float]] = defaultdict(list)
    for (_, time), kind in kinds.items():
        found["servers" if "servers" in kind else "strangers"].append(time - START)
    return found


def flood(crowd_slots: int) -> tuple[list[float], list[float]]:
    """Runs a flood, and events of servers from its fifth second on; returns the times of both's jobs."""
    knobs: dict[tuple[str, str], Any] = {
        ("klaviyo.packing", "MAX_EVENTS_PER_REQUEST"): EVENTS,
        ("delivery.rate_limiter", "CROWD_SLOTS"): crowd_slots,
    }
    world = Scenario({SITE_ID: "pk_1"}, seed=3, batch=100, knobs=knobs)

    async def work() -> None:
        for number in range(FLOOD):
            world.put(filling(f"a{number}-", Surface.CLIENT_BULK))
        async with world.working():
            await asyncio.sleep(5.0)
            for number in range(SERVERS):
                world.put(filling(f"s{number}-", Surface.BULK))
            await asyncio.sleep(60.0)
        await world.work_until_done(600.0)

    world.run(work())
    jobs = jobs_of(world)
    assert (len(jobs["servers"]), len(jobs["strangers"])) == (SERVERS, FLOOD)
    return sorted(jobs["servers"]), sorted(jobs["strangers"])


def share(servers: list[float], strangers: list[float]) -> float:
    """Returns the strangers' share of the slots from the servers' first job until most of them are sent.

    The last ones may have waited on the queue, where nobody sees that they wait.
    """
    most = SERVERS * 2 // 3
    taken = sum(servers[0] < time < servers[most] for time in strangers)
    return taken / (taken + most)


@pytest.mark.trust("A browser's events let the events of servers go first.")
def test_a_flood_of_anonymous_events_takes_few_slots_for_which_servers_wait() -> None:
    servers, strangers = flood(CROWD_SLOTS)
    without, _ = flood(1_000)  # if they did not wait

    assert share(servers, strangers) < 1 / 4
    assert 2 * (servers[-1] - servers[0]) < without[-1] - without[0]


def test_strangers_alone_use_the_whole_rate() -> None:
    knobs: dict[tuple[str, str], Any] = {("klaviyo.packing", "MAX_EVENTS_PER_REQUEST"): EVENTS}
    world = Scenario({SITE_ID: "pk_1"}, seed=4, batch=100, knobs=knobs)

    async def work() -> float:
        for number in range(FLOOD):
            world.put(filling(f"a{number}-", Surface.CLIENT_EVENT))
        return await world.work_until_done(600.0)

    assert world.run(work()) < FLOOD / 2.5 * 1.2


def test_slots_that_were_used_do_not_crowd_it() -> None:
    ahead = tuple(range(1_001, 1_001 + CROWD_SLOTS))

    assert anonymous_turn(SlotWindow(ahead), 1_000) > 1_000
    assert anonymous_turn(SlotWindow(ahead), 1_001) == 1_001
    assert anonymous_turn(SlotWindow(tuple(range(500))), 1_000) == 1_000
