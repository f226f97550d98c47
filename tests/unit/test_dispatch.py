"""Tests dispatch in a simulated world: in any failure, an event is delivered once or rejected with a
reason.
"""

import itertools
import random
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from devstack.fake_upstream import Klaviyo
from sluice import dispatch
from sluice.contract import BULK_CREATE_JOBS_PATH, Surface
from sluice.delivery.responses import Response
from sluice.message import encode
from sluice.rejection import Reason
from tests.simulation.scenario import Scenario
from tests.simulation.scheduler import START
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
    summary,
    work,
)

# Thousands of full jobs take long to simulate.
SMALL_JOBS = {("klaviyo.packing", "MAX_EVENTS_PER_REQUEST"): 2}


def test_a_batch_becomes_full_jobs() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    names = [f"c{n}" for n in range(2_500)]

    work(world, *map(single, names))

    assert delivered(world.klaviyo) == all_once(*names)
    assert summary(world)["fill"] == [1_000, 1_000, 500]
    assert world.counts["DeliveredEvents"] == 2_500


@pytest.mark.parametrize(
    ("attribution", "bad", "most"),
    [("all", 1, 2), ("all", 10, 2), ("first", 1, 2), ("first", 10, 11), ("none", 1, 22)],
)
def test_bad_events_cost_few_requests(attribution: str, bad: int, most: int) -> None:
    for where in range(0, 1_000, 333):
        world = Scenario({SITE: KEY}, workers=1)
        world.klaviyo.configure(attribution=attribution, poison=[{"contains": "badone"}])
        events = bulk("e", 1_000, customers=250)
        for n in range(bad):
            position = (where + n * 83) % 1_000
            events[position] = (events[position][0], f"badone-{position}")

        work(world, request(*events))

        bad_ids = [unique_id for unique_id in ids(events) if unique_id.startswith("badone")]
        assert delivered(world.klaviyo) == all_once(*set(ids(events)) - set(bad_ids))
        assert rejected(world) == all_once(*bad_ids)
        assert {rejection.reason for rejection in world.rejections} == {Reason.REFUSED}
        assert summary(world)["requests"] <= most


def test_what_is_known_of_one_half_is_not_asked_of_the_other() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(attribution="none", poison=[{"contains": "badone"}])
    events = bulk("e", 1_000)

    work(world, request(*events[:-1], (events[-1][0], "badone")))

    assert rejected(world) == all_once("badone")
    assert summary(world)["requests"] <= 12  # a left half each time, which is fine, and the bad one


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("spoiled", [0, 1])
def test_a_profile_that_others_were_merged_into_takes_none_of_their_events(spoiled: int, status: int) -> None:
    world = Scenario({SITE: KEY}, workers=1)
    nameless = Response(status, {}, b'{"errors": [{"source": {"pointer": "/data"}}]}')
    world.answer = lambda body: nameless if b"badone" in body else None
    requests = [request(("ann", "a-0")), request(("ann", "a-1")), request(("bob", "b"))]
    attributes = {"email": "ann@mail.example"}
    for number, each in enumerate(requests[:2]):
        named = {"first_name": "badone"} if number == spoiled else {"last_name": "Lee"}
        each.entries[0].profile = {"type": "profile", "attributes": attributes | named}

    work(world, *requests)

    assert rejected(world) == all_once(f"a-{spoiled}")
    assert delivered(world.klaviyo) == all_once(f"a-{1 - spoiled}", "b")


def test_what_is_left_of_a_merged_profile_is_asked_about_with_its_own() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(poison=[{"contains": "badone"}])
    nameless = Response(400, {}, b'{"errors": []}')
    world.answer = lambda body: nameless if b"spoiled" in body and b"badone" not in body else None
    requests = [request(("ann", "badone")), request(("ann", "a"))]
    attributes = {"email": "ann@mail.example", "first_name": "spoiled"}
    requests[0].entries[0].profile = {"type": "profile", "attributes": attributes}

    work(world, *requests)

    assert rejected(world) == all_once("badone")
    assert delivered(world.klaviyo) == all_once("a")


def test_a_rejection_points_into_the_callers_document() -> None:
    world = Scenario({SITE: KEY})
    world.klaviyo.configure(poison=[{"contains": "badone"}])

    work(world, request(("a", "a-1"), ("b", "b-1"), ("b", "badone")))

    [rejection] = world.rejections
    assert (rejection.pointer or "").startswith(
        "/data/attributes/events-bulk-create/data/1/attributes/events/data/1"
    )
    assert rejection.receipt
    assert rejection.account == SITE


def test_a_bad_profile_takes_only_its_own_events() -> None:
    world = Scenario({SITE: KEY})
    world.klaviyo.configure(poison=[{"contains": "badone"}])

    work(world, request(("badone", "x-1"), ("good", "y-1"), ("badone", "x-2")))

    assert delivered(world.klaviyo) == all_once("y-1")
    assert rejected(world) == all_once("x-1", "x-2")


def test_an_unattributed_refusal_of_everything_stays_within_its_budget() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(poison=[{"contains": "mail.example", "attributed": False}])

    work(world, request(*bulk("e", 1_000)), limit=10)

    assert summary(world)["requests"] <= 61


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "json", "status": 500},
        {"kind": "html", "status": 502},
        {"kind": "html", "status": 403},
        {"kind": "throttle", "retry_after": 30},
        {"kind": "throttle", "retry_after_as": "absent"},
        {"kind": "reset"},
        {"kind": "hang", "taken": False},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_a_three_hour_outage_dead_letters_nothing(fault: dict[str, Any]) -> None:
    world = Scenario({SITE: KEY})
    bulks = [bulk(f"b{n}", 1_000) for n in range(10)]
    singles = [f"s{n}" for n in range(500)]

    async def scenario() -> None:
        for events in bulks:
            world.put(request(*events))
        for name in singles:
            world.put(single(name))
        world.klaviyo.configure(faults=[fault])
        await world.work_until_done(3 * HOUR)
        world.klaviyo.configure(faults=[])
        await world.work_until_done(HOUR)

    world.run(scenario())

    assert not world.dead.messages
    assert world.rejections == []
    assert delivered(world.klaviyo) == all_once(*singles, *(each for events in bulks for each in ids(events)))
    assert summary(world)["throttled_by_limit"] == 0


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_account_at_fault_waits_at_almost_no_cost_while_others_flow(status: int) -> None:
    world = Scenario({SITE: KEY, OTHER: OTHER_KEY})
    bulks = [bulk(f"b{n}", 1_000) for n in range(30)]
    mine = [f"s{n}" for n in range(2_000)]
    theirs = [f"o{n}" for n in range(50)]

    async def scenario() -> int:
        world.klaviyo.configure(faults=[{"kind": "json", "status": status, "site_id": SITE}])
        for events in bulks:
            world.put(request(*events))
        for name in mine:
            world.put(single(name))
        for name in theirs:
            world.put(single(name, OTHER))
        await world.work_until_done(2 * HOUR)
        asked = summary(world)["requests"]
        world.klaviyo.configure(faults=[])
        await world.work_until_done(HOUR)
        return int(asked)

    asked = world.run(scenario())

    messages = len(bulks) + len(mine)
    # The jobs under way when it opened, a probe a minute, and what tells it from a fault of one event.
    assert asked <= 8 + 121 + (0 if status in {401, 410} else 2 * 122)
    assert world.queue.receives <= 2 * messages + len(theirs) + 2 * 125  # not again and again
    assert world.counts["CircuitsOpened"] == 1
    assert world.circuits == {}
    assert delivered(world.klaviyo, OTHER) == all_once(*theirs)
    assert delivered(world.klaviyo) == all_once(*mine, *(each for events in bulks for each in ids(events)))
    assert not world.dead.messages


def test_what_is_delivered_is_not_kept_as_the_circuit_cannot_be_opened() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.answer = lambda body: Response(401) if world.requests == 2 else None
    world.fail(world.dynamodb, "put_item", when=_is_circuit)

    async def scenario() -> None:
        for n in range(2_000):
            world.put(single(f"s{n}"))
        async with world.working():
            await world.sleep(5)

    world.run(scenario())

    assert world.counts["DeliveredEvents"] == 1_000
    assert sum(map(len, world.parked[SITE])) == 1_000
    assert not world.queue.messages


def test_what_is_delivered_is_not_kept_as_the_circuit_cannot_be_closed() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(poison=[{"contains": "badone"}])
    world.open_circuit(SITE, 401)
    world.fail(world.dynamodb, "delete_item", when=_is_circuit)

    async def scenario() -> None:
        for name in ("good", "badone"):
            world.send(encode(single(name)).text, resumed="1", probe="1")
        world.put(single("later"))
        async with world.working():
            await world.sleep(5)

    world.run(scenario())

    assert delivered(world.klaviyo) == all_once("good")
    assert rejected(world) == all_once("badone")
    assert len(world.parked[SITE][0]) == 1
    assert not world.queue.messages


def _is_circuit(given: dict[str, Any]) -> bool:
    """Tells whether a call is about a circuit."""
    key: str = (given.get("Item") or given["Key"])["pk"]["S"]
    return key.startswith("circuit#")


def test_a_message_that_is_parked_is_deleted_whatever_was_refused_of_it() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(attribution="first", poison=[{"contains": "badone"}])
    world.answer = lambda body: Response(401) if world.requests > 1 else None
    world.fail(world.sqs, "send_message_batch", when=lambda given: given["QueueUrl"].endswith("rejected"))

    async def scenario() -> None:
        world.put(request(("a", "badone-1"), ("b", "badone-2")))
        async with world.working():
            await world.sleep(5)

    world.run(scenario())

    assert len(world.parked[SITE][0]) == 1
    assert not world.queue.messages


def test_an_unknown_account_is_parked_until_it_is_known() -> None:
    world = Scenario({OTHER: OTHER_KEY})

    async def scenario() -> None:
        world.put(single("early"))
        await world.work_until_done(300)
        world.name({SITE: KEY, OTHER: OTHER_KEY})
        world.klaviyo = Klaviyo({SITE: KEY, OTHER: OTHER_KEY}, clock=world.clock)
        await world.work_until_done(900)

    world.run(scenario())

    assert delivered(world.klaviyo) == all_once("early")


def test_a_saturated_queue_uses_the_whole_limit_and_never_trips_it() -> None:
    world = Scenario({SITE: KEY}, workers=5, batch=40, knobs=SMALL_JOBS)
    count = 480

    work(world, *(request(*bulk(f"b{n}", 2)) for n in range(count)), limit=3 * HOUR)

    found = summary(world)
    assert found["throttled_by_limit"] == 0
    assert found["max_in_1s"] <= 10
    assert found["max_in_60s"] <= 150
    assert found["jobs"] == count
    times = sorted(line.time for line in world.klaviyo.requests())
    minutes = (times[300] - times[0]) / 60
    assert 300 / minutes >= 0.98 * 150


def test_the_end_of_a_long_backlog_is_not_hidden_while_there_are_turns() -> None:
    world = Scenario({SITE: KEY}, workers=5, batch=70, knobs=SMALL_JOBS)
    count = 2_500

    seconds = work(world, *(request(*bulk(f"b{n}", 2)) for n in range(count)), limit=3 * HOUR)

    assert summary(world)["jobs"] == count
    assert count / seconds >= 0.97 * 150 / 60
    assert world.queue.receives <= 10 * count


def test_a_passing_fault_behind_a_backlog_is_soon_over() -> None:
    world = Scenario({SITE: KEY}, workers=5, batch=70, knobs=SMALL_JOBS)
    faults = random.Random(1)
    world.answer = lambda body: Response(503) if faults.random() < 0.01 else None
    count = 1_500

    seconds = work(world, *(request(*bulk(f"b{n}", 2)) for n in range(count)), limit=HOUR)

    assert world.counts["TransientFaults"] >= 10
    assert len(delivered(world.klaviyo)) == 2 * count
    assert count / seconds >= 0.9 * 150 / 60


def test_what_others_used_of_the_limit_is_not_used_again() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    by_another = {"authorization": f"Klaviyo-API-Key {KEY}"}

    async def scenario() -> None:
        for _ in range(100):
            world.klaviyo.handle("POST", BULK_CREATE_JOBS_PATH, by_another, b"")
            await world.sleep(0.2)
        for n in range(60):
            world.put(request(*bulk(f"b{n}", 1_000)))
        await world.work_until_done(HOUR)

    world.run(scenario())

    assert summary(world)["jobs"] == 60
    assert summary(world)["throttled_by_limit"] == 0


def test_one_accounts_backlog_does_not_delay_anothers_events() -> None:
    world = Scenario({SITE: KEY, OTHER: OTHER_KEY}, workers=5, batch=40, knobs=SMALL_JOBS)

    async def scenario() -> float:
        for n in range(300):
            world.put(request(*bulk(f"b{n}", 2)))
        async with world.working():
            await world.sleep(90)
            sent = world.clock()
            for n in range(10):
                world.put(single(f"o{n}", OTHER))
            while sum(delivered(world.klaviyo, OTHER).values()) < 10:
                await world.sleep(0.5)
            return world.clock() - sent

    assert world.run(scenario()) <= 30


def test_within_a_batch_no_account_waits_for_another() -> None:
    world = Scenario({SITE: KEY, OTHER: OTHER_KEY}, workers=1)

    async def scenario() -> float:
        for n in range(60):
            world.put(request(*bulk(f"b{n}", 1_000)))
        for n in range(10):
            world.put(single(f"o{n}", OTHER))
        async with world.working():
            while sum(delivered(world.klaviyo, OTHER).values()) < 10:
                await world.sleep(0.1)
            return world.clock() - START

    assert world.run(scenario()) <= 3


def test_hundreds_of_bad_events_named_one_at_a_time_are_all_found() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(attribution="first", poison=[{"contains": "badone"}])
    bad = [(f"c{n}", f"badone-{n}") for n in range(200)]
    good = bulk("g", 300)

    async def scenario() -> list[int]:
        world.put(request(*bad, *good))
        found = [0]
        async with world.working():
            while found[-1] < len(bad) and len(found) < 30:
                await world.sleep(60)
                found.append(len(rejected(world)))
        await world.work_until_done(HOUR)
        return found

    found = world.run(scenario())

    assert rejected(world) == all_once(*ids(bad))
    assert delivered(world.klaviyo) == all_once(*ids(good))
    assert all(later > earlier for earlier, later in itertools.pairwise(found))
    assert summary(world)["requests"] == len(bad) + 1


def test_a_job_that_could_not_be_sent_in_its_turn_takes_another() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.openings += [1.0, 1.0, 1.0]  # seconds: longer than a slot may be missed by

    work(world, request(("ada", "a1"), ("ada", "a2")))

    assert delivered(world.klaviyo) == all_once("a1", "a2")
    assert (world.counts["UpstreamRequests"], world.counts["MissedSlots"]) == (1, 3)
    assert world.queue.receives == 1


def test_claims_are_read_some_at_a_time_and_stay_in_order() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    names = [f"c{n}" for n in range(2 * dispatch.CONCURRENT_CLAIMS)]
    for name in names:
        claimed = zstandard.compress(msgspec.json.encode(request(("ada", name))))
        world.s3.put_object(Bucket="claims", Key=name, Body=claimed)

    async def scenario() -> None:
        for name in names:
            world.send(msgspec.json.encode({"sluice": 1, "claim": name}).decode())
        await world.work_until_done(HOUR)

    world.run(scenario())

    assert world.outside.most_at_once["s3.get_object"] == dispatch.CONCURRENT_CLAIMS
    assert [taken.event["unique_id"] for taken in world.klaviyo.events(SITE)] == names


def test_a_claim_that_cannot_be_read_keeps_its_message_alone() -> None:
    world = Scenario({SITE: KEY}, workers=1)

    async def scenario() -> None:
        world.send('{"sluice":1,"claim":"none"}')
        world.put(single("s1"))
        async with world.working():
            await world.sleep(5)

    world.run(scenario())

    assert len(world.queue.messages) == 1
    assert delivered(world.klaviyo) == all_once("s1")


def test_what_must_follow_a_job_that_waits_waits_too() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(faults=[{"kind": "json", "status": 500, "count": 1}])
    first, repeat = request(("c", "same")), request(("c", "same"))
    repeat.entries[0].events[0].attributes.value = 2

    work(world, first, repeat, limit=2)

    assert [line.status for line in world.klaviyo.requests()] == [500]
    assert len(world.queue.messages) == 2


def test_a_redelivered_bulk_request_sends_nothing_that_its_receipt_says_is_done() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.kill_at = {3}
    bulks = [bulk(f"b{n}", 1_000) for n in range(3)]

    work(world, *(request(*events) for events in bulks))

    assert world.counts["Killed"] == 1
    assert delivered(world.klaviyo) == all_once(*(each for events in bulks for each in ids(events)))
    # The two jobs answered before the kill are not sent again; only the third's answer was lost.
    assert summary(world)["duplicates_refused"] == 1
    assert summary(world)["requests"] == 4


def test_a_replay_that_is_refused_again_says_of_each_event_which_record_it_was() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(attribution="none", poison=[{"contains": "badone"}])
    names = [f"badone-{n}" for n in range(24)] + ["mended"]
    replay = request(*((n, n) for n in names), surface=Surface.EVENT)
    replay.replayed = [f"record of {n}" for n in names]

    work(world, replay)
    work(world, request(("zoe", "later")))  # by which the last refused ones are known to be bad

    assert delivered(world.klaviyo) == all_once("mended", "later")
    refused = {each.replays: (each.reason, each.pointer) for each in world.rejections}
    # The replay is sent for the first time, so a refusal without a name is no sign that it was taken before.
    assert refused == {f"record of {n}": (Reason.REFUSED, None) for n in names[:-1]}
    assert world.receipts[f"{SITE}#{replay.receipt}"] == {n * 1_000 for n in range(25)}


def test_a_replayed_dead_letter_is_one_record_whatever_its_positions() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(poison=[{"contains": "badone"}])
    letter = request(("ann", "a"), ("bob", "badone"), ("cy", "badone-2"))
    letter.replayed = ["letter"]

    work(world, letter)

    assert delivered(world.klaviyo) == all_once("a")
    assert [each.replays for each in world.rejections] == ["letter", "letter"]


@pytest.mark.parametrize("named", ["line", "badone"])
def test_of_lines_that_travel_together_what_is_settled_is_not_asked_about_again(named: str) -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(attribution="first", poison=[{"contains": "badone"}])
    world.kill_at = {1}
    names = [f"{named}-{n}" for n in range(200)]
    together = [
        request(*((n, n) for n in part), surface=Surface.EVENT) for part in (names[:100], names[100:])
    ]

    work(world, *together)  # each refusal names one, and an invocation has time for fewer than there are

    settled = {"line": delivered(world.klaviyo), "badone": rejected(world)}
    assert settled.pop(named) == all_once(*names)
    assert not any(settled.values())
    assert len(world.queue.messages) == 0
    assert summary(world)["requests"] == 1 + len(names)


@pytest.mark.parametrize("attribution", ["all", "first"])
def test_a_request_that_contradicts_itself_a_thousand_times_costs_few_requests(attribution: str) -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.klaviyo.configure(attribution=attribution)
    contradictory = request(("ann", "same"), ("ann", "other"), surface=Surface.CLIENT_BULK)
    events = contradictory.entries[0].events
    for value in range(1, 999):
        again = msgspec.convert(msgspec.to_builtins(events[0]), type(events[0]))
        events.append(msgspec.structs.replace(again, attributes={**again.attributes, "value": value}))

    work(world, contradictory)

    assert delivered(world.klaviyo) == all_once("same", "other")
    assert world.counts["DuplicateIds"] == 998
    assert {rejection.reason for rejection in world.rejections} == {Reason.DUPLICATE_ID}
    assert sum(rejected(world).values()) == 998
    assert summary(world)["requests"] == 2


def test_addresses_that_differ_in_case_are_one_profile_to_order_and_two_to_send() -> None:
    world = Scenario({SITE: KEY}, workers=1)

    work(world, request(("Ada", "a-1"), ("Ada", "a-2")), request(("ada", "a-1"), ("ada", "a-3")))

    taken = [(t.profile["attributes"]["email"], t.event["unique_id"]) for t in world.klaviyo.events(SITE)]
    assert taken == [
        ("Ada@mail.example", "a-1"),
        ("Ada@mail.example", "a-2"),
        ("ada@mail.example", "a-1"),
        ("ada@mail.example", "a-3"),
    ]
    assert summary(world)["requests"] == 2  # never an unique_id twice in one, should the two be one


def test_what_is_recorded_for_one_spelling_is_asked_about_for_another() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    contradiction = request(("Ada", "same"))
    contradiction.entries[0].events[0].attributes.value = 2

    work(world, request(("Ada", "same")), contradiction, request(("ada", "same")))

    taken = [each.profile["attributes"]["email"] for each in world.klaviyo.events(SITE)]
    assert taken == ["Ada@mail.example", "ada@mail.example"]
    assert world.counts["DuplicateIds"] == 1
    assert rejected(world) == all_once("same")


def test_redelivered_single_events_count_as_delivered() -> None:
    world = Scenario({SITE: KEY}, workers=1)
    world.kill_at = {1}
    names = [f"s{n}" for n in range(20)]

    work(world, *map(single, names))

    assert delivered(world.klaviyo) == all_once(*names)
    assert world.counts["DuplicateEvents"] == 20
    assert world.rejections == []


def test_poison_dies_alone() -> None:
    world = Scenario({SITE: KEY}, workers=2)
    world.poison = "poisonous"
    names = [f"s{n}" for n in range(500)]

    work(world, *map(single, names), single("poisonous"), limit=24 * HOUR)

    assert delivered(world.klaviyo) == all_once(*names)
    [dead] = world.rejections
    assert dead.reason == Reason.DEAD_LETTER
    assert b"poisonous" in bytes(dead.payload)
    assert world.counts["Killed"] <= 40


def test_even_much_poison_takes_nobody_with_it() -> None:
    world = Scenario({SITE: KEY}, max_receives=500)
    world.poison = "poisonous"
    names = [f"s{n}" for n in range(100)]

    work(world, *map(single, names), *(single(f"poisonous{n}") for n in range(10)), limit=4 * 24 * HOUR)

    assert delivered(world.klaviyo) == all_once(*names)
    assert not world.dead.messages


def _forged(**changes: Any) -> dict[str, Any]:
    written = encode(request(("ann", "a1"), ("ann", "a2"), ("bob", "b1"))).text
    return {**msgspec.json.decode(written), **changes}


def _forged_entry(**changes: Any) -> dict[str, Any]:
    [ann, bob] = _forged()["entries"]
    return _forged(entries=[{**ann, **changes}, bob])


ANN = {"email": "ann@mail.example"}
FORGED = {
    "local time": _forged(accepted="2026-11-01T00:00:00"),
    "no key": _forged(receipt="r" * 3_000),
    "an app as its account": _forged(account="pipeless-1"),
    "no entries": _forged(entries=[]),
    "no events": _forged_entry(events=[]),
    "before the beginning": _forged_entry(event_index=-1),
    "beyond the end": _forged_entry(event_index=10**40),
    "a number for a profile": _forged_entry(profile=5),
    "no profile": _forged_entry(profile=None),
    "no attributes": _forged_entry(profile={}),
    "null attributes": _forged_entry(profile={"attributes": None}),
    "a list of attributes": _forged_entry(profile={"attributes": []}),
    "a number for a location": _forged_entry(profile={"attributes": ANN | {"location": 5}}),
    "text for properties": _forged_entry(profile={"attributes": ANN | {"properties": "x"}}),
    "an object for an address": _forged_entry(profile={"attributes": {"email": {}}}),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_message_that_somebody_made_up_keeps_nothing_else_waiting(forged: dict[str, Any]) -> None:
    world = Scenario({SITE: KEY}, workers=1)
    honest = request(("ann", "ok-1"), ("bob", "ok-2"))
    location = {"location": {"city": "Ulm"}, "properties": {"a": 1}}
    honest.entries[0].profile = {"type": "profile", "attributes": ANN | location}

    async def scenario() -> None:
        world.put(honest)
        world.send(msgspec.json.encode(forged).decode())
        async with world.working():
            await world.sleep(5)

    world.run(scenario())

    assert delivered(world.klaviyo) >= all_once("ok-1", "ok-2")
    assert world.circuits == {}
    assert len(world.queue.messages) == 0


def _takes_unnoticed(fault: dict[str, Any]) -> bool:
    return fault["kind"] in {"hang", "latency", "reset"}


FAULTS = st.sampled_from(
    [
        {"kind": "json", "status": 500},
        {"kind": "html", "status": 403},
        {"kind": "json", "status": 401},
        {"kind": "json", "status": 404},
        {"kind": "throttle", "retry_after": 3},
        {"kind": "throttle", "retry_after_as": "absent"},
        {"kind": "reset", "taken": True},
        {"kind": "hang"},
        {"kind": "latency", "seconds": 25},
    ]
)


@settings(max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])
@given(
    seed=st.integers(0, 2**32),
    faults=st.lists(st.tuples(FAULTS, st.integers(1, 12)), max_size=5),
    kills=st.sets(st.integers(1, 30), max_size=4),
    attribution=st.sampled_from(["all", "first", "none"]),
    shape=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    bad=st.sets(st.integers(0, 120), max_size=3),
    trouble=st.sampled_from([0.0, 0.02, 0.1]),
)
@example(  # parking fails after it is done: a message is there twice, and twice rejected
    seed=116,
    faults=[({"kind": "json", "status": 500}, 1)] * 4 + [({"kind": "json", "status": 500}, 11)],
    kills=set(),
    attribution="all",
    shape=[1, 1],
    bad={0},
    trouble=0.1,
)
def test_every_accepted_event_is_delivered_once_or_rejected_with_a_reason(
    seed: int,
    faults: list[tuple[dict[str, Any], int]],
    kills: set[int],
    attribution: str,
    shape: list[int],
    bad: set[int],
    trouble: float,
) -> None:
    if attribution == "none":
        # A job taken unnoticed and then refused as a repeat without saying so is told from no other refusal.
        kills, trouble, faults = (
            set(),
            0.0,
            [(fault, count) for fault, count in faults if not _takes_unnoticed(fault)],
        )
    world = Scenario({SITE: KEY}, seed=seed, workers=3, batch=5, trouble=trouble)
    world.kill_at = kills
    number = itertools.count()
    bulks = [
        [(f"c{n % 7}", f"{'badone' if n in bad else 'ok'}-{n}") for n in itertools.islice(number, size)]
        for size in shape
    ]
    accepted = [unique_id for events in bulks for unique_id in ids(events)]
    world.klaviyo.configure(
        attribution=attribution,
        poison=[{"contains": "badone"}],
        faults=[{**fault, "count": count} for fault, count in faults],
    )

    work(world, *(request(*events) for events in bulks), limit=40 * HOUR)

    assert delivered(world.klaviyo) + rejected(world) == all_once(*accepted)
    assert not world.dead.messages
    assert all(unique_id.startswith("badone") for unique_id in rejected(world))
    assert summary(world)["throttled_by_limit"] == 0
