"""Tests packing of batches into calls: nothing lost or twice, ten at most, as few as possible, all in
order.
"""

from datetime import timedelta
from itertools import chain, pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.fake_upstream import Pipeless
from sluice.message import PipelessEvent, PipelessMessage
from sluice.pipeless import packing
from sluice.pipeless.packing import Call
from tests.support.factories import APP_ID, NOON, happening

HEADERS = {"authorization": "pl_test", "content-type": "application/json"}


def event_of(sent: dict[str, Any]) -> PipelessEvent:
    return msgspec.convert(sent, PipelessEvent)


def stored(*events: dict[str, Any], receipt: str = "r0", after: float = 0.0) -> PipelessMessage:
    """Makes a batch accepted so many seconds after noon."""
    return PipelessMessage(receipt, APP_ID, NOON + timedelta(seconds=after), list(map(event_of, events)))


def packed(*batches: PipelessMessage, done: dict[int, set[int]] | None = None) -> list[Call]:
    return packing.pack(enumerate(batches), done or {})


def origins(calls: list[Call]) -> list[list[tuple[int, int]]]:
    """Returns the positions that each event of some calls came from."""
    return [[(o.message, o.event) for o in each.origins] for call in calls for each in call]


def test_events_of_many_batches_make_full_calls() -> None:
    batches = [stored(*(happening(f"u{n}-{i}") for i in range(3)), receipt=f"r{n}") for n in range(9)]

    calls = packed(*batches)

    assert [len(call) for call in calls] == [10, 10, 7]
    assert [packing.messages_of(call) for call in calls] == [{0, 1, 2, 3}, {3, 4, 5, 6}, {6, 7, 8}]


def test_older_batches_come_first() -> None:
    calls = packed(
        stored(happening("late"), receipt="r0", after=2), stored(happening("early"), receipt="r1", after=1)
    )

    assert origins(calls) == [[(1, 0)], [(0, 0)]]


def test_what_is_done_is_left_out() -> None:
    calls = packed(stored(happening("u1"), happening("u2"), happening("u3")), done={0: {0, 2}})

    assert origins(calls) == [[(0, 1)]]


@pytest.mark.rule
def test_a_call_is_what_pipeless_takes() -> None:
    sent = [happening(created_on="2026-01-01T00:00:00"), happening(single=False)]
    [call] = packed(stored(*sent))

    assert msgspec.json.decode(packing.body(call)) == {"events": sent, "synchronous": False}


MODIFIED = {"modified_on": "2026-01-02T00:00:00"}
REPEATS = {
    "an exact repeat": ([happening(), happening()], [0, 0]),
    "an exact repeat of dates": ([happening(dates=MODIFIED)] * 2, [0, 0]),
    "true as the default": ([happening(), happening(single=True)], [0, 0]),
    "a relationship beside others": ([happening(single=False)] * 2, [0, 1]),
    "another date": ([happening(created_on=f"2026-01-0{n}T00:00:00") for n in (1, 2)], [0, 1]),
    "back to what it was": ([happening(), happening(dates=MODIFIED), happening()], [0, 1, 2]),
    "another relationship between": ([happening(), happening(of="viewed"), happening()], [0, 1, 0]),
    "an object changed elsewhere": (
        [happening(), happening(end="a2", dates=MODIFIED), happening()],
        [0, 1, 2],
    ),
    "one beside it": ([happening(), happening(single=False), happening()], [0, 1, 2]),
    "two dates of one object": (
        [
            happening()
            | {
                "start_object": {"id": "x", "type": "user"},
                "end_object": {"id": "x", "type": "user", **MODIFIED},
            }
        ]
        * 2,
        [0, 0],
    ),
}


@pytest.mark.parametrize(("events", "kept"), REPEATS.values(), ids=REPEATS.keys())
def test_a_repeat_collapses_if_it_would_change_nothing(events: list[Any], kept: list[int]) -> None:
    batches = [stored(event, receipt=f"r{n}", after=n) for n, event in enumerate(events)]

    found = origins(packed(*batches))

    positions = {origin: index for index, places in enumerate(found) for origin in places}
    assert [found[positions[n, 0]][0][0] for n in range(len(events))] == kept


def test_a_message_that_comes_twice_is_sent_once() -> None:
    batch = stored(happening(single=False), happening(single=False))

    assert origins(packed(batch, batch)) == [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]


dates = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(["2026-01-01T00:00:00", "2026-01-02T00:00:00"])
        for name in ("created_on", "modified_on")
    },
)
things = st.builds(
    lambda type_, id_, when: {"type": type_, "id": id_, **when},
    st.sampled_from(["user", "tag"]),
    st.sampled_from(["1", "2"]),
    dates,
)
happenings = st.builds(
    lambda start, end, type_, single, created: {
        "start_object": start,
        "end_object": end,
        "relationship": {"type": type_, "single": single, "created_on": f"2026-01-0{created}T00:00:00"},
    },
    things,
    things,
    st.sampled_from(["liked", "viewed"]),
    st.booleans(),
    st.integers(1, 2),
)
requests = st.lists(st.lists(happenings, min_size=1, max_size=10), min_size=1, max_size=8)


@pytest.mark.rule
@given(requests)
def test_nothing_is_lost_or_sent_twice_in_as_few_calls_as_can_be(sent: list[list[Any]]) -> None:
    batches = [stored(*events, receipt=f"r{n}", after=n) for n, events in enumerate(sent)]

    calls = packed(*batches)

    places = list(chain.from_iterable(origins(calls)))
    assert sorted(places) == [(n, i) for n, events in enumerate(sent) for i in range(len(events))]
    assert all(len(call) == 10 for call in calls[:-1])
    assert 1 <= len(calls[-1]) <= 10
    for call in calls:
        for each in call:
            assert all(batches[o.message].events[o.event] == each.event for o in each.origins)
            assert each.origins == sorted(each.origins, key=lambda o: (o.message, o.event))


@given(requests)
def test_every_event_stays_in_its_place(sent: list[list[Any]]) -> None:
    batches = [stored(*events, receipt=f"r{n}", after=n) for n, events in enumerate(sent)]

    firsts = [places[0] for places in origins(packed(*batches))]

    assert all(earlier < later for earlier, later in pairwise(firsts))


def writing(calls: list[list[dict[str, Any]]]) -> Pipeless:
    pipeless = Pipeless({APP_ID: "pl_test"}, clock=NOON.timestamp)
    for call in calls:
        body = msgspec.json.encode({"events": call})
        assert pipeless.handle("POST", f"/v1/apps/{APP_ID}/events/batch", HEADERS, body).status == 202
    return pipeless


@pytest.mark.rule
@given(requests)
def test_pipeless_is_left_as_if_each_batch_had_been_sent_by_itself(sent: list[list[Any]]) -> None:
    batches = [stored(*events, receipt=f"r{n}", after=n) for n, events in enumerate(sent)]

    ours = writing([[msgspec.to_builtins(each.event) for each in call] for call in packed(*batches)])
    theirs = writing(sent)

    def state(pipeless: Pipeless) -> Any:
        objects = [msgspec.structs.replace(each, writes=0) for each in pipeless.objects()]
        return objects, list(pipeless.relationships())

    assert state(ours) == state(theirs)


@pytest.mark.rule
@given(happenings, happenings)
def test_what_waits_holds_back_what_would_change_with_it(first: Any, second: Any) -> None:
    waiting = {thing: {value} for thing, value in packing.writes(event_of(first)).items()}

    held = packing.must_follow(event_of(second), waiting)

    def state(*events: Any) -> Any:
        pipeless = writing([[event] for event in events])
        objects = {(each.type, each.id): (each.created_on, each.modified_on) for each in pipeless.objects()}
        return objects, {
            (*each.start, each.type, *each.end, each.created_on, each.single)
            for each in pipeless.relationships()
        }

    assert held or state(first, second) == state(second, first)


def test_unrelated_events_are_not_held_back() -> None:
    first = event_of(happening("u1", "a1", dates=MODIFIED))
    waiting = {thing: {value} for thing, value in packing.writes(first).items()}

    assert not packing.must_follow(event_of(happening("u2", "a1")), waiting)
    assert packing.must_follow(event_of(happening("u1", "a2")), waiting)
