"""Tests what one event does to its job, request and account when answers are not about itself alone."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sluice.delivery import backoff, rate_limiter
from sluice.delivery.responses import Response
from tests.simulation.scenario import Scenario
from tests.support.workloads import (
    HOUR,
    KEY,
    OTHER,
    OTHER_KEY,
    SITE,
    all_once,
    bulk,
    delivered,
    ids,
    rejected,
    request,
    single,
    work,
)

JSON_API = {"content-type": "application/vnd.api+json"}
MINUTE = 60.0


def refusal(status: int, **source: str) -> Response:
    error = {"code": "not_found", "detail": "No such profile.", "source": source or {"pointer": "/data"}}
    return Response(status, JSON_API, msgspec.json.encode({"errors": [error]}))


def to_bad_ones(answer: Response) -> Callable[[bytes], Response | None]:
    return lambda body: answer if b"badone" in body else None


AS_IF_THE_ACCOUNT_WERE = pytest.mark.parametrize(
    "answer",
    [refusal(403), refusal(404), refusal(402), refusal(400, parameter="revision")],
    ids=["403", "404", "402", "400-parameter"],
)


class TestAnEventRefusedAsIfItsAccountWere:
    @AS_IF_THE_ACCOUNT_WERE
    def test_is_found_among_a_thousand_and_rejected_with_the_upstreams_words(self, answer: Response) -> None:
        for position in (0, 400, 999):
            world = Scenario({SITE: KEY}, workers=1)
            world.answer = to_bad_ones(answer)
            names = [f"badone-{n}" if n == position else f"s{n}" for n in range(1_000)]

            work(world, *map(single, names))

            assert delivered(world.klaviyo) == all_once(*names[:position], *names[position + 1 :])
            assert rejected(world) == all_once(names[position])
            assert {(each.code, each.detail) for each in world.rejections} == {
                ("not_found", "No such profile.")
            }
            assert world.requests <= 22 + 3
            assert world.counts["CircuitsOpened"] == 0

    @pytest.mark.parametrize("bad", [2, 20])
    def test_several_are(self, bad: int) -> None:
        world = Scenario({SITE: KEY}, workers=1)
        world.answer = to_bad_ones(refusal(403))
        events = bulk("e", 1_000, customers=500)
        for n in range(bad):
            events[n * 49] = (events[n * 49][0], f"badone-{n}")
        good = {unique_id for unique_id in ids(events) if not unique_id.startswith("badone")}

        work(world, request(*events), limit=3 * HOUR)

        assert delivered(world.klaviyo) == all_once(*good)
        assert rejected(world) == all_once(*(set(ids(events)) - good))
        assert world.counts["CircuitsOpened"] <= 1  # two samples may both be bad

    def test_is_found_among_one_profiles_events(self) -> None:
        world = Scenario({SITE: KEY}, workers=1)
        world.answer = to_bad_ones(refusal(403))

        work(world, request(("ada", "badone"), *(("ada", f"a{n}") for n in range(5))))

        assert delivered(world.klaviyo) == all_once(*(f"a{n}" for n in range(5)))
        assert rejected(world) == all_once("badone")
        assert world.counts["CircuitsOpened"] == 0

    @AS_IF_THE_ACCOUNT_WERE
    def test_holds_up_little_traffic_once(self, answer: Response) -> None:
        world = Scenario({SITE: KEY})
        world.answer = to_bad_ones(answer)

        async def scenario() -> list[float]:
            delays = []
            world.put(single("badone"))
            async with world.working():
                await world.sleep(10 * MINUTE)
                for n in range(10):
                    world.put(single(f"s{n}"))
                    sent = world.clock()
                    while not delivered(world.klaviyo)[f"s{n}"]:
                        await world.sleep(1)
                    delays.append(world.clock() - sent)
                    await world.sleep(10 * MINUTE)
            return delays

        delays = world.run(scenario())

        assert rejected(world) == all_once("badone")
        assert world.counts["CircuitsOpened"] == world.counts["CircuitsClosed"] == 1
        assert delays[0] <= 3 * MINUTE
        assert max(delays[1:]) <= 15

    def test_that_comes_back_as_a_probe_leads_nobody(self) -> None:
        world = Scenario({SITE: KEY})
        names = [f"s{n}" for n in range(50)]

        async def scenario() -> None:
            world.answer = lambda body: refusal(403)  # the key may not, for a while
            world.put(single("badone"))
            async with world.working():
                await world.sleep(10)
                for name in names:
                    world.put(single(name))
                    await world.sleep(5)
            world.answer = to_bad_ones(refusal(403))
            await world.work_until_done(10 * MINUTE)

        world.run(scenario())

        assert delivered(world.klaviyo) == all_once(*names)
        assert rejected(world) == all_once("badone")

    @pytest.mark.parametrize("refusals", range(1, 8))
    def test_is_none_where_the_account_was_refused_for_some_requests(self, refusals: int) -> None:
        world = Scenario({SITE: KEY}, workers=1)
        world.klaviyo.configure(faults=[{"kind": "json", "status": 403, "count": refusals}])
        events = bulk("b", 100)

        work(world, request(*events))

        assert delivered(world.klaviyo) == all_once(*ids(events))
        assert world.rejections == []

    @pytest.mark.parametrize(("status", "more"), [(401, 0), (410, 0), (403, 2), (404, 2)])
    def test_is_told_from_a_refused_account_by_two_requests(self, status: int, more: int) -> None:
        world = Scenario({SITE: KEY}, workers=1)
        world.answer = lambda body: refusal(status)

        async def scenario() -> None:
            world.put(request(*bulk("b", 1_000)))
            async with world.working():
                await world.sleep(5)

        world.run(scenario())

        assert world.requests == 1 + more
        assert world.circuits == {SITE: status}
        assert world.rejections == []

    @pytest.mark.parametrize("seed", range(4))
    def test_is_not_seen_in_jobs_that_are_refused_while_answers_from_before_are_on_their_way(
        self, seed: int
    ) -> None:
        world = Scenario({SITE: KEY}, workers=1, seed=seed, latency=1.0)
        world.answer = lambda body: refusal(403) if world.requests > 3 else None

        async def scenario() -> None:
            for n in range(12):
                world.put(request(*bulk(f"b{n}", 1_000)))
            async with world.working():
                await world.sleep(MINUTE)

        world.run(scenario())

        assert world.counts["Jobs"] == 3
        assert world.rejections == []
        assert world.circuits == {SITE: 403}

    def test_no_job_is_sent_while_an_account_is_in_doubt(self) -> None:
        world = Scenario({SITE: KEY}, workers=1)
        world.answer = lambda body: refusal(403)

        async def scenario() -> None:
            for n in range(30):
                world.put(request(*bulk(f"b{n}", 1_000)))
            async with world.working():
                await world.sleep(5)

        world.run(scenario())

        assert world.requests <= 4 + 2  # what is sent before the first answer comes
        assert world.slots(SITE) <= 2 * 8  # nor is a turn taken meanwhile


class TestAnEventTheUpstreamFailsOn:
    @pytest.mark.parametrize("content", [JSON_API, {"content-type": "text/html"}])
    def test_lets_its_requests_others_through_and_is_a_dead_letter_in_the_end(
        self, content: dict[str, str]
    ) -> None:
        world = Scenario({SITE: KEY}, max_receives=10)
        world.answer = to_bad_ones(Response(500, content, b"{}"))
        good = [f"g{n}" for n in range(500)]

        async def scenario() -> None:
            world.put(request(("x", "badone"), *((g, g) for g in good)))
            await world.work_until_done(10 * MINUTE)
            assert delivered(world.klaviyo) == all_once(*good)
            await world.work_until_done(3 * HOUR)

        world.run(scenario())

        assert delivered(world.klaviyo) == all_once(*good)
        assert world.rejections == []
        assert len(world.dead.messages) == 1
        assert world.counts["CircuitsOpened"] == 0
        assert world.requests <= 4 + 24 + 10

    def test_lets_its_profiles_others_through(self) -> None:
        world = Scenario({SITE: KEY})
        world.answer = to_bad_ones(Response(500, JSON_API, b"{}"))

        work(world, request(("ada", "badone"), *(("ada", f"a{n}") for n in range(5))), limit=10 * MINUTE)

        assert delivered(world.klaviyo) == all_once(*(f"a{n}" for n in range(5)))
        assert world.counts["CircuitsOpened"] == 0

    def test_is_not_rejected_though_its_account_is_refused_while_it_is_looked_for(self) -> None:
        world = Scenario({SITE: KEY}, workers=1)
        jobs: list[bytes] = []

        def fail_then_refuse(body: bytes) -> Response | None:
            is_sample = body.count(b"unique_id") == 1
            if not is_sample:
                jobs.append(body)
            if len(jobs) > backoff.FAST_RETRIES + 1:
                return refusal(403)
            return None if is_sample and b"badone" not in body else Response(500, JSON_API)

        world.answer = fail_then_refuse
        names = [f"a{n}" for n in range(40)]

        async def scenario() -> None:
            world.put(request(("x", "badone"), *((name, name) for name in names)))
            await world.work_until_done(5 * MINUTE)

        world.run(scenario())

        assert world.rejections == []
        assert world.circuits == {SITE: 403}

    def test_does_not_park_its_account_with_others_of_its_request_alone(self) -> None:
        world = Scenario({SITE: KEY}, max_receives=500)
        world.answer = to_bad_ones(Response(500, JSON_API, b"{}"))
        names = [f"s{n}" for n in range(20)]

        async def scenario() -> None:
            world.put(request(("x", "badone-1"), ("x", "badone-2")))
            async with world.working():
                for name in names:
                    await world.sleep(5 * MINUTE)
                    world.put(single(name))
                await world.sleep(15)

        world.run(scenario())

        assert delivered(world.klaviyo) == all_once(*names)
        assert world.counts["CircuitsOpened"] == 0
        assert len(world.queue.messages) == 1

    def test_does_not_hold_up_or_park_its_account(self) -> None:
        world = Scenario({SITE: KEY}, max_receives=500)
        world.answer = to_bad_ones(Response(500, JSON_API, b"{}"))
        names = [f"s{n}" for n in range(240)]

        async def scenario() -> None:
            world.put(single("badone"))
            async with world.working():
                for name in names:
                    world.put(single(name))
                    await world.sleep(30)
                await world.sleep(MINUTE)

        world.run(scenario())

        assert delivered(world.klaviyo) == all_once(*names)
        assert world.counts["CircuitsOpened"] == 0
        assert len(world.queue.messages) == 1
        assert world.requests <= 240 + 60


def test_a_fault_that_passes_costs_a_job_that_waited_long_two_requests() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    events = bulk("b", 1_000)
    world.answer = lambda body: refusal(503) if world.requests <= backoff.FAST_RETRIES else None

    work(world, request(*events))

    assert delivered(world.klaviyo) == all_once(*ids(events))
    assert world.requests == backoff.FAST_RETRIES + 2


# Of the rate and of the batches, so SQS would stop at 12,000 messages in flight.
A_TENTH = {
    ("delivery.rate_limiter", "KLAVIYO"): rate_limiter.RateLimit(
        10 * rate_limiter.SPACING_MS,
        rate_limiter.SHARE_LIMIT,
        10 * rate_limiter.SHARE_MS,
        10 * rate_limiter.STEADY_WINDOW_MS,
    )
}


class TestALastingFault:
    @pytest.mark.parametrize(
        ("fault", "most"),
        [
            ({"kind": "json", "status": 503}, 10_500),
            ({"kind": "hang", "taken": False}, 10_500),
            ({"kind": "throttle", "retry_after": 600}, 10_500),
            ({"kind": "throttle", "retry_after": 30}, 20_000),  # for the time of some pauses
        ],
        ids=lambda fault: "-".join(map(str, fault.values())) if isinstance(fault, dict) else None,
    )
    def test_of_one_account_leaves_room_on_the_queue_for_others(
        self, fault: dict[str, Any], most: int
    ) -> None:
        world = Scenario({SITE: KEY, OTHER: OTHER_KEY}, workers=3, batch=1_000, knobs=A_TENTH)
        names = [f"s{n}" for n in range(20_000)]
        theirs = [f"o{n}" for n in range(30)]

        async def scenario() -> int:
            world.klaviyo.configure(faults=[{**fault, "site_id": SITE}])
            for name in names:
                world.put(single(name))
            async with world.working():
                for name in theirs:
                    await world.sleep(6 * MINUTE)
                    world.put(single(name, OTHER))
                    sent = world.clock()
                    while not delivered(world.klaviyo, OTHER)[name]:
                        await world.sleep(1)
                    assert world.clock() - sent <= MINUTE
            asked = world.requests - len(theirs)
            world.klaviyo.configure(faults=[])
            await world.work_until_done(HOUR)
            return asked

        asked = world.run(scenario())

        assert world.queue.most_in_flight <= most
        assert asked <= 100 + 180  # a probe a minute
        assert delivered(world.klaviyo) == all_once(*names)
        assert delivered(world.klaviyo, OTHER) == all_once(*theirs)
        assert not world.dead.messages
        assert world.rejections == []
