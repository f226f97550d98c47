"""Sends an app's messages to a fake Pipeless: in any failure, each event is written or refused, in order."""

import asyncio
import itertools
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.fake_upstream import Pipeless
from sluice.accounts import PipelessApp
from sluice.delivery.backoff import Retry
from sluice.delivery.circuit_breaker import CircuitState
from sluice.delivery.lone_refusals import Change, RefusalRecord
from sluice.delivery.outcome import AccountBatch, Outcome
from sluice.delivery.ports import Ports
from sluice.delivery.rate_limiter import NoSlotBeforeDeadline
from sluice.delivery.responses import Response
from sluice.errors import Retryable
from sluice.message import PipelessEvent, PipelessMessage
from sluice.pipeless.delivery import deliver
from tests.support.factories import APP, APP_ID, NOON, happening
from tests.support.stored_accounts import APP_REFERENCE

OURS = PipelessApp(APP_ID, APP_REFERENCE)
HEADERS = {"authorization": "Bearer pl_test", "content-type": "application/json"}


class World:
    """Holds an app, its messages on a queue, and dispatch's surroundings; it is also the app's rate
    limiter.
    """

    def __init__(self, *batches: PipelessMessage) -> None:
        self.pipeless = Pipeless({APP_ID: "pl_test"}, clock=NOON.timestamp)
        self.messages = dict(enumerate(batches))
        self.is_open = False
        self.refusals = RefusalRecord()
        self.parked: list[PipelessMessage] = []
        self.noted: dict[str, frozenset[int]] = {}
        self.pauses: list[float | None] = []
        self.turns = 10_000
        self.refused_after = 10_000  # calls
        self.unreachable: set[str] = set()
        self.seconds = 0.0  # since noon
        self.again: set[int] = set()

    def deliver(self, *probes: int) -> Outcome:
        """Runs one invocation with all messages left; completed ones leave the queue."""
        outcome = Outcome()
        share = AccountBatch(dict(self.messages), frozenset(self.again), frozenset(probes))
        asyncio.run(deliver(OURS, share, self._ports(), outcome))
        for refusal in outcome.refusals:
            if "rejected" in self.unreachable:
                outcome.retry[refusal.record] = Retry()
            else:
                self._note(refusal.receipt, refusal.positions)
        self.again |= outcome.retry.keys()
        self.messages = {n: batch for n, batch in self.messages.items() if n in outcome.retry}
        return outcome

    def written(self) -> list[str]:
        """Returns the articles of all events written, in order."""
        return [event["end_object"]["id"] for call in self.pipeless.calls() for event in call.events]

    def fill(self) -> list[int]:
        fill: list[int] = self.pipeless.summary()["apps"][str(APP_ID)]["fill"]
        return fill

    async def acquire(self) -> int:
        self.turns -= 1
        if self.turns < 0:
            raise NoSlotBeforeDeadline("no slot", 30.0)
        return 0

    async def pause(self, seconds: float | None) -> None:
        self.pauses.append(seconds)

    def _note(self, receipt: str, places: Any) -> None:
        self.noted[receipt] = self.noted.get(receipt, frozenset()) | set(places)

    def _reach(self, what: str) -> None:
        if what in self.unreachable:
            raise Retryable(what)

    async def _create_events(self, app: PipelessApp, body: bytes) -> Response:
        if len(list(self.pipeless.calls())) >= self.refused_after:
            return Response(401, {}, b'{"errors":["Unauthorized"]}')
        given = self.pipeless.handle("POST", f"/v1/apps/{app.app_id}/events/batch", HEADERS, body)
        if given.ending != "answered":
            return Response(None, failure="ReadError")
        assert isinstance(given.body, bytes)
        lower = {name.lower(): value for name, value in given.headers.items()}
        return Response(given.status, lower, given.body)

    def _ports(self) -> Ports:
        async def never(**_: Any) -> Any:
            raise AssertionError("nothing here is Klaviyo's")

        async def state(account_id: str) -> CircuitState:
            assert account_id == APP
            self._reach("circuits")
            return CircuitState(self.is_open, self.refusals)

        async def open_circuit(account_id: str, status: int) -> bool:
            self._reach("opening")
            was_closed, self.is_open = not self.is_open, True
            return was_closed

        async def close_circuit(account_id: str) -> None:
            self.is_open = False

        async def park(account_id: str, messages: list[bytes], is_known: bool = True) -> None:
            self._reach("parking")
            self.parked += [msgspec.json.decode(each, type=PipelessMessage) for each in messages]

        async def done(receipts: list[str]) -> dict[str, frozenset[int]]:
            return {receipt: self.noted[receipt] for receipt in receipts if receipt in self.noted}

        async def delivered(receipt: str, positions: list[int]) -> None:
            self._reach("receipts")
            self._note(receipt, positions)

        async def record_refusals(account_id: str, change: Change) -> RefusalRecord:
            self._reach("refusals")
            self.refusals = change(self.refusals)
            return self.refusals

        return SimpleNamespace(
            create_job=never,
            create_events=self._create_events,
            rate_limiter=lambda account: self,
            circuits=SimpleNamespace(
                state=state,
                record_refusals=record_refusals,
                open=open_circuit,
                close=close_circuit,
                park=park,
            ),
            receipts=SimpleNamespace(completed=done, record_delivered=delivered),
            now=lambda: NOON + timedelta(seconds=self.seconds),
        )


_numbers = itertools.count()


def stored(*articles: str, after: float = 0.0, **fields: Any) -> PipelessMessage:
    """Makes a batch of events, each about an article and by its own user, so that none must follow
    another.
    """
    events = [happening(f"u-{article}", article, single=False, **fields) for article in articles]
    accepted = NOON + timedelta(seconds=after)
    return PipelessMessage(
        f"r{next(_numbers)}", APP_ID, accepted, msgspec.convert(events, list[PipelessEvent])
    )


def test_batches_become_full_calls() -> None:
    world = World(*(stored(*(f"{n}-{i}" for i in range(4)), after=n) for n in range(6)))

    outcome = world.deliver()

    assert world.fill() == [10, 10, 4]
    assert world.written() == [f"{n}-{i}" for n in range(6) for i in range(4)]
    assert (outcome.retry, outcome.refusals, world.noted) == ({}, [], {})
    assert outcome.counts == {"Calls": 3, "CallEvents": 24, "DeliveredEvents": 24, "UpstreamRequests": 3}


@pytest.mark.parametrize("place", range(10))
def test_a_bad_event_is_found_and_the_others_are_written(place: int) -> None:
    articles = [f"{'bad' if n == place else 'ok'}-{n}" for n in range(10)]
    world = World(stored(*articles))
    world.pipeless.configure(poison=["bad"])

    outcome = world.deliver()

    assert world.written() == [article for article in articles if article.startswith("ok")]
    [refusal] = outcome.refusals
    rejection = refusal.rejection
    assert (rejection.reason, rejection.detail) == ("refused_by_upstream", "An id is not valid.")
    assert (rejection.pointer, rejection.account, rejection.surface) == (f"/events/{place}", APP, "pipeless")
    assert [each["end_object"]["id"] for each in msgspec.json.decode(rejection.payload)["events"]] == [
        f"bad-{place}"
    ]
    assert world.messages == {}
    assert outcome.counts["UpstreamRequests"] <= 10


@pytest.mark.parametrize("place", range(4, 8))
def test_a_refusal_of_everything_from_within_a_search_costs_no_good_event(
    place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    articles = [f"{'bad' if n == place else 'ok'}-{n}" for n in range(8)]
    world = World(stored(*articles))
    world.pipeless.configure(poison=["bad"])
    create_events, calls = world._create_events, itertools.count(1)

    async def then_refusing(app: PipelessApp, body: bytes) -> Response:
        if next(calls) == 3:  # the call was refused, and its first half was taken
            world.pipeless.configure(faults=[{"kind": "json", "status": 400}])
        return await create_events(app, body)

    monkeypatch.setattr(world, "_create_events", then_refusing)

    outcome = world.deliver()
    assert (outcome.refusals, [*outcome.retry]) == ([], [0])
    assert world.written() == articles[:4]
    world.pipeless.configure(faults=[])
    world.messages[9] = stored("ok-last", after=9)
    refusals = [refusal for _ in range(4) for refusal in world.deliver().refusals]

    assert len(refusals) == 1
    assert sorted(world.written()) == sorted(["ok-last", *articles[:place], *articles[place + 1 :]])


def test_all_bad_events_are_found() -> None:
    world = World(stored(*(f"bad-{n}" for n in range(10))), stored("ok"))
    world.pipeless.configure(poison=["bad"])

    outcome = world.deliver()

    assert world.written() == ["ok"]
    assert sorted(refusal.positions for refusal in outcome.refusals) == [(n,) for n in range(10)]
    assert len({refusal.rejection.id for refusal in outcome.refusals}) == 10


def test_a_repeat_shares_the_rejection() -> None:
    world = World(stored("bad"), stored("fine"))
    world.messages[2] = world.messages[0]
    world.pipeless.configure(poison=["bad"])

    outcome = world.deliver()

    assert [refusal.record for refusal in outcome.refusals] == [0, 2]


FAULTS = [
    {"kind": "json", "status": 503},
    {"kind": "html", "status": 403},
    {"kind": "reset"},
    {"kind": "hang", "taken": False},
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_what_fails_stays_and_is_sent_later(fault: dict[str, Any]) -> None:
    world = World(stored("a", "b"))
    world.pipeless.configure(faults=[fault | {"count": 1}])

    outcome = world.deliver()

    assert not outcome.retry[0].rate_limited
    assert (world.written(), outcome.counts["TransientFaults"]) == ([], 1)
    assert world.deliver().retry == {}
    assert world.written() == ["a", "b"]


def test_a_throttle_pauses_the_app_and_the_call_goes_out_again() -> None:
    world = World(stored("a"))
    world.pipeless.configure(faults=[{"kind": "throttle", "retry_after": 7, "count": 1}])

    outcome = world.deliver()

    assert (world.pauses, world.written(), outcome.retry) == ([7.0], ["a"], {})


def test_what_has_no_turn_waits_for_it() -> None:
    world = World(stored(*"abcdefghij"), stored("k"))
    world.turns = 1

    outcome = world.deliver()

    assert (outcome.retry[1].rate_limited, outcome.retry[1].seconds) == (True, 30.0)
    assert world.written() == list("abcdefghij")


def test_an_outage_is_not_tried_call_after_call() -> None:
    world = World(*(stored(*(f"{n}-{i}" for i in range(10))) for n in range(20)))
    world.pipeless.configure(faults=[{"kind": "json", "status": 500}])

    outcome = world.deliver()

    assert (len(outcome.retry), outcome.counts["UpstreamRequests"]) == (20, 2)


def test_one_failing_call_does_not_hold_back_the_others() -> None:
    world = World(*(stored(*(f"{n}-{i}" for i in range(10)), after=n) for n in range(3)))
    world.pipeless.configure(faults=[{"kind": "json", "status": 500, "count": 1}])

    outcome = world.deliver()

    assert outcome.retry.keys() == {0}
    assert world.fill() == [10, 10]


def test_what_must_follow_what_waits_waits_too() -> None:
    def about(user: str, modified: str, after: float) -> PipelessMessage:
        events = [happening(user, f"{user}-{n}", dates={"modified_on": modified}) for n in range(10)]
        return PipelessMessage(
            f"r-{user}-{after}",
            APP_ID,
            NOON + timedelta(seconds=after),
            msgspec.convert(events, list[PipelessEvent]),
        )

    world = World(
        about("u1", "2026-01-01T00:00:00", 0),
        about("u2", "2026-01-01T00:00:00", 1),
        about("u1", "2026-01-02T00:00:00", 2),
        about("u1", "2026-01-02T00:00:00", 3),
    )
    world.pipeless.configure(faults=[{"kind": "json", "status": 500, "count": 1}])

    assert world.deliver().retry.keys() == {0, 2, 3}

    world.deliver()
    [user] = [each for each in world.pipeless.objects() if each.id == "u1"]
    assert user.modified_on == "2026-01-02T00:00:00"


def test_a_message_done_in_part_is_not_written_twice() -> None:
    world = World(stored(*"abcdef"), stored(*"ghijkl", after=1))
    world.turns = 1

    world.deliver()
    assert world.written() == list("abcdefghij")
    world.turns = 9
    outcome = world.deliver()

    assert world.written() == list("abcdefghijkl")
    assert outcome.counts["SkippedEvents"] == 4


def test_without_its_note_an_event_is_written_again_and_counted() -> None:
    world = World(stored(*"abcdef"), stored(*"ghijkl", after=1))
    world.turns = 1
    world.unreachable.add("receipts")

    assert world.deliver().counts["ReceiptWriteFailures"] == 1
    world.turns = 9
    world.deliver()

    assert Counter(world.written()) == Counter("abcdefghijkl") + Counter("ghij")


@pytest.mark.parametrize("status", [401, 403, 404, 402])
def test_an_app_that_is_refused_is_paused_and_its_messages_parked(status: int) -> None:
    world = World(*(stored(*(f"{n}-{i}" for i in range(10))) for n in range(3)))
    world.pipeless.configure(faults=[{"kind": "json", "status": status}])

    outcome = world.deliver()

    assert (world.is_open, len(world.parked), world.messages) == (True, 3, {})
    assert outcome.counts["UpstreamRequests"] == outcome.counts["CircuitsOpened"] == 1
    assert outcome.counts["ParkedMessages"] == 3


def test_what_comes_while_an_app_is_paused_is_parked_unasked() -> None:
    world = World(stored("a"), stored("b"))
    world.is_open = True

    outcome = world.deliver()

    assert (len(world.parked), outcome.counts["UpstreamRequests"]) == (2, 0)


def test_a_probe_that_is_looked_at_ends_the_pause() -> None:
    world = World(stored("a"), stored("bad", after=1))
    world.is_open = True
    world.pipeless.configure(poison=["bad"])

    outcome = world.deliver(1)

    assert (world.is_open, world.written(), world.parked) == (False, ["a"], [])
    assert outcome.counts["CircuitsClosed"] == 1


def test_what_is_delivered_is_not_written_again_as_a_rejection_cannot_be_stored() -> None:
    world = World(stored("a", "bad", "c"))
    world.pipeless.configure(poison=["bad"])
    world.unreachable.add("rejected")

    world.deliver()
    world.unreachable.clear()
    world.messages[1] = stored("d")
    outcome = world.deliver()

    assert world.written() == ["a", "c", "d"]
    assert [refusal.positions for refusal in outcome.refusals] == [(1,)]
    assert world.messages == {}


def test_what_is_written_is_not_kept_as_the_circuit_cannot_be_opened() -> None:
    world = World(stored(*"abcdefghij"), stored(*"klm", after=1))
    world.refused_after = 1
    world.unreachable |= {"opening", "receipts"}

    outcome = world.deliver()

    assert world.written() == list("abcdefghij")
    assert outcome.retry == {}
    assert [batch.events[0].end_object.id for batch in world.parked] == ["k"]


def test_a_probe_that_is_refused_is_parked_again() -> None:
    world = World(stored("a"), stored("b"))
    world.is_open = True
    world.pipeless.configure(faults=[{"kind": "json", "status": 401}])

    world.deliver(1)

    assert (world.is_open, len(world.parked)) == (True, 2)


def test_what_cannot_be_parked_stays() -> None:
    world = World(stored("a"))
    world.is_open = True
    world.unreachable.add("parking")

    assert world.deliver().retry.keys() == {0}


def test_without_the_state_table_nothing_is_sent() -> None:
    world = World(stored("a"))
    world.unreachable.add("circuits")

    assert world.deliver().retry.keys() == {0}
    assert world.pipeless.requests() == []


KINDS_OF_FAULT: list[dict[str, object]] = [
    {"kind": "json", "status": 500},
    {"kind": "html", "status": 403},
    {"kind": "throttle"},
    {"kind": "reset", "taken": False},
    {"kind": "json", "status": 401},
]
faults = st.lists(
    st.sampled_from(KINDS_OF_FAULT).flatmap(
        lambda fault: st.integers(1, 3).map(lambda count: {**fault, "count": count})
    ),
    max_size=4,
)


@given(
    st.lists(st.integers(1, 10), min_size=1, max_size=6),
    st.sets(st.integers(0, 59)),
    faults,
    st.integers(20, 30),
)
def test_every_event_is_written_once_or_refused(
    sizes: list[int], bad: set[int], upstream_faults: list[dict[str, Any]], turns: int
) -> None:
    names = (f"{'bad' if n in bad else 'ok'}-{n}" for n in itertools.count())
    world = World(*(stored(*itertools.islice(names, size), after=n) for n, size in enumerate(sizes)))
    sent = [event.end_object.id for batch in world.messages.values() for event in batch.events]
    world.pipeless.configure(poison=["bad"], faults=upstream_faults)
    refused: list[str] = []

    for turn in range(30):
        if turn:  # what nobody names waits until something else is delivered
            sent.append(f"ok-later-{turn}")
            world.messages[next(_numbers)] = stored(sent[-1], after=100 + turn)
        world.turns = turns
        outcome = world.deliver(*world.messages)
        for refusal in outcome.refusals:
            payload = msgspec.json.decode(refusal.rejection.payload)
            refused += [event["end_object"]["id"] for event in payload["events"]]
        for batch in world.parked:
            number = next(_numbers)
            world.messages[number] = batch
            world.again.add(number)
        world.parked.clear()
        if not world.messages:
            break

    assert world.messages == {}
    assert Counter(world.written()) == Counter(name for name in sent if name.startswith("ok"))
    assert Counter(refused) == Counter(name for name in sent if name.startswith("bad"))
    assert all(fill <= 10 for fill in world.fill())


EVERYTHING_REFUSED = pytest.mark.parametrize(
    "manner",
    [{"kind": "json", "status": 400}, {"kind": "html", "status": 413}, {"kind": "large", "status": 400}],
    ids=["400", "413 as HTML", "400 of 5 MB"],
)


@pytest.mark.rule
@EVERYTHING_REFUSED
@pytest.mark.parametrize("size", [1, 3, 10])
def test_where_everything_is_refused_the_circuit_opens_and_nothing_is_rejected(
    manner: dict[str, Any], size: int
) -> None:
    names = [f"e{n}" for n in range(170)]
    parts = [names[start : start + size] for start in range(0, len(names), size)]
    world = World(*(stored(*part, after=n) for n, part in enumerate(parts)))
    world.pipeless.configure(faults=[manner])

    requests = rejections = 0
    for _ in range(5):
        outcome = world.deliver()
        requests += outcome.counts["UpstreamRequests"]
        rejections += len(outcome.refusals)
        world.seconds += 10

    assert (world.is_open, rejections, world.messages) == (True, 0, {})
    assert len(world.parked) == len(parts)
    assert requests <= 80

    # A probe is refused like the rest before, and the next one is taken.
    world.messages = dict(enumerate(world.parked))
    world.parked = []
    world.deliver(0)
    assert world.is_open
    world.messages = dict(enumerate(world.parked))
    world.pipeless.configure(faults=[])
    outcome = world.deliver(0)
    while world.messages:
        outcome = world.deliver()
    assert (world.is_open, sorted(world.written())) == (False, sorted(names))
    assert outcome.refusals == []


@EVERYTHING_REFUSED
def test_a_refusal_of_everything_that_ends_between_two_events_costs_neither(manner: dict[str, Any]) -> None:
    world = World(stored("first", "second"))
    world.pipeless.configure(faults=[{**manner, "count": 2}])  # of both, and of the first alone

    outcome = world.deliver()

    assert (outcome.refusals, world.messages) == ([], {})
    assert sorted(world.written()) == ["first", "second"]
    assert outcome.counts["UpstreamRequests"] == 4


def test_a_refused_event_is_told_with_its_delivered_neighbour_by_one_call_more() -> None:
    world = World(stored("bad", "good"))
    world.pipeless.configure(poison=["bad"])

    outcome = world.deliver()

    assert [refusal.positions for refusal in outcome.refusals] == [(0,)]
    assert (world.written(), world.messages) == (["good"], {})
    assert outcome.counts["UpstreamRequests"] == 4


def test_a_refused_event_that_has_no_slot_any_more_is_told_the_next_time() -> None:
    world = World(stored("bad", "good"))
    world.pipeless.configure(poison=["bad"])
    world.turns = 3

    assert world.deliver().refusals == []
    world.turns = 1
    [refusal] = world.deliver().refusals

    assert refusal.positions == (0,)
    assert (world.written(), world.messages) == (["good"], {})


def test_an_event_that_is_refused_alone_waits_and_is_told_at_last() -> None:
    world = World(stored("bad"))
    world.pipeless.configure(poison=["bad"])

    assert world.deliver().refusals == []
    assert set(world.messages) == {0}
    world.seconds += 3_600
    [refusal] = world.deliver().refusals

    assert refusal.positions == (0,)
    assert (world.is_open, world.messages) == (False, {})


def test_events_that_are_refused_wait_with_what_must_follow_them() -> None:
    first, second = stored("bad"), stored("bad", after=1)
    world = World(first, second)
    for batch in (first, second):
        batch.events[0] = msgspec.structs.replace(
            batch.events[0],
            start_object=msgspec.structs.replace(
                batch.events[0].start_object, modified_on=f"2026-11-0{1 + int(batch is second)}T00:00:00"
            ),
        )
    world.pipeless.configure(poison=["bad"])

    outcome = world.deliver()

    assert outcome.refusals == []
    assert set(outcome.retry) == {0, 1}
