"""Simulates the pause of an account for hours, with the real dispatch and resume and AWS in trouble."""

import asyncio
from typing import Any

from tests.simulation.scenario import Scenario
from tests.support.aws_stack import stored
from tests.support.factories import SITE_ID

HOUR = 3_600.0


def pause(world: Scenario) -> dict[str, Any]:
    """Pauses the account; returns the key of the item that says so."""
    key = {"pk": {"S": f"pause#{SITE_ID}"}}
    item = {"paused_at": {"N": "0"}, "who": {"S": "ada"}, "why": {"S": "test"}}
    world.dynamodb.put_item(TableName="state", Item={**key, **item})
    return key


def test_nothing_is_sent_while_an_account_is_paused_and_everything_once_afterwards() -> None:
    world = Scenario({SITE_ID: "pk_1"}, seed=7, trouble=0.02)
    names = [f"e{number}" for number in range(300)]

    async def work() -> int:
        key = pause(world)
        async with world.working():
            for number, name in enumerate(names):
                world.put(stored((name, name), receipt=f"r{number}"))
                if number % 100 == 99:
                    await asyncio.sleep(HOUR)
        sent_meanwhile = len(world.klaviyo.requests())
        assert world.parked
        world.dynamodb.delete_item(TableName="state", Key=key)
        await world.work_until_done(HOUR)
        return sent_meanwhile

    assert world.run(work()) == 0
    taken = [each.event["unique_id"] for each in world.klaviyo.events()]
    assert sorted(taken) == sorted(names)
    assert world.rejections == []


def test_what_is_parked_before_a_pause_waits_for_its_end_as_well() -> None:
    world = Scenario({SITE_ID: "pk_1"}, seed=8)
    world.open_circuit(SITE_ID, 401)

    async def work() -> None:
        world.put(stored(("a", "a"), receipt="r1"))
        async with world.working():
            await asyncio.sleep(30.0)
        key = pause(world)
        async with world.working():
            await asyncio.sleep(HOUR)
        assert world.klaviyo.requests() == []
        assert world.circuits == {SITE_ID: 401}
        world.dynamodb.delete_item(TableName="state", Key=key)
        await world.work_until_done(HOUR)

    world.run(work())
    assert [each.event["unique_id"] for each in world.klaviyo.events()] == ["a"]
    assert world.circuits == {}
