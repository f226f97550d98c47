"""Tests replays: whoever dies where, nothing is sent under two receipts, and no record is lost."""

from collections import Counter
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sluice import runtime
from sluice.errors import Retryable
from sluice.message import Message, PipelessMessage
from sluice.operate import jobs, replay, reread
from sluice.operate.jobs import Job, JobState
from sluice.operate.selection import ReplayWish
from sluice.records.record import State
from sluice.rejection import Reason
from tests.support.factories import APP, SITE_ID, profile
from tests.support.replays import HOUR, START, World, fill, klaviyo_payload

ALL_OF_SITE = {"chosen": {"account": SITE_ID}}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(runtime, "current", made)
    return made


def confirmed(world: World, wish: dict[str, Any], who: str = "ann") -> str:
    return jobs.confirm(world.jobs, world.plan(wish, who), who).id


def states(world: World) -> Counter[State]:
    return Counter(record.state for record in world.kept.values())


def sent_events(world: World) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(event.attributes)
        for stored in world.queue
        if isinstance(stored, Message)
        for entry in stored.entries
        for event in entry.events
    ]


class TestAPlan:
    def test_counts_what_would_be_sent_and_why_not_and_changes_nothing(self, world: World) -> None:
        wrong = {"value": 1, "value_currency": "EURO"}
        world.refuse(1, klaviyo_payload("a", **wrong), place="/events/0/value_currency")
        world.refuse(2, klaviyo_payload("b", **wrong))  # nobody named the place
        world.refuse(3, klaviyo_payload("c", value="5"), place="/events/0/value_currency")
        gone = world.refuse(4, klaviyo_payload("d"), place="/events/0/value_currency")
        del world.archived[gone]

        job = world.plan(ALL_OF_SITE | {"mend": {"fault": {"value": "EUR"}}})

        assert job.state is JobState.PLANNED
        assert job.counts == {
            "matched": 4,
            "ready": 1,
            "events": 1,
            "repeatable": 0,
            "still_refused": 1,
            "not_addressable": 1,
            "gone": 1,
        }
        assert sorted(job.reasons.items()) == [
            ("'value' must be a number.", 1),
            ("Its payload is not in the archive any more.", 1),
        ]
        [sample] = world.samples
        assert (b'"EURO"' in sample.before, b'"EUR"' in sample.after) == (True, True)
        assert states(world) == {State.OPEN: 4}
        assert world.queue == []

    def test_lists_the_most_frequent_reasons_and_adds_up_the_rest(self) -> None:
        reasons: dict[str, int] = {}
        for number in range(100):
            reasons = replay._merged(reasons, {f"reason {number % 50}": 1, "usual": 3})
        assert len(reasons) == replay.MAX_REASONS + 1
        assert (reasons["usual"], sum(reasons.values())) == (300, 400)

    def test_says_of_named_records_why_they_are_left_alone(self, world: World) -> None:
        ids = fill(world, ["one"] * 4)
        for record_id, state in zip(ids, (State.DELIVERED, State.DISCARDED, State.REPLAYING), strict=False):
            changed = msgspec.structs.replace(world.kept[record_id], state=state, job="j", who="bob")
            world.kept[record_id] = changed
        job = world.plan({"chosen": {"ids": [*ids, ids[3], "f" * 32, "no id"]}})
        assert (job.counts["matched"], job.counts["taken"]) == (1, 5)
        assert job.reasons == {
            "It is delivered already.": 1,
            "It was discarded by bob.": 1,
            "It is being replayed by the job j of bob.": 1,
            "There is no such record (any more).": 2,
        }

    @pytest.mark.parametrize("chosen", [{}, {"ids": []}, {"ids": ["a"], "account": "b"}])
    def test_of_everything_or_of_two_things_at_once_is_refused(self, chosen: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            ReplayWish.model_validate({"chosen": chosen})


class TestAReplay:
    def test_sends_what_is_mended_and_ends_when_all_is_known(self, world: World) -> None:
        kinds = ["one", "three", "other", "app", "letter", "bad"]
        ids = fill(world, kinds)
        world.refuses = lambda record_id: record_id == ids[0]
        for account in (SITE_ID, "XyZ789", APP):
            job_id = confirmed(world, {"chosen": {"account": account}})
            world.finish(job_id)
            assert world.jobs.saved[job_id].state is JobState.DONE
        assert [world.kept[each].state for each in ids] == [
            State.REJECTED_AGAIN,
            State.DELIVERED,
            State.DELIVERED,
            State.DELIVERED,
            State.DELIVERED,
            State.OPEN,
        ]
        assert {name: len(world.delivered[ids[n]]) for n, name in enumerate(kinds)} == {
            "one": 0,
            "three": 3,
            "other": 1,
            "app": 2,
            "letter": 1,
            "bad": 0,
        }
        assert {of: count for of, count in world.open.items() if count} == {}

    def test_keeps_time_and_unique_id_and_makes_no_flow_of_what_is_old(self, world: World) -> None:
        old, new = START - timedelta(days=2), START - timedelta(hours=2)
        payload = klaviyo_payload("kept", "given")
        payload["events"][0]["time"] = old.isoformat()
        payload["events"][1] |= {"time": new.isoformat(), "unique_id": None}
        record_id = world.refuse(1, payload)
        job_id = confirmed(world, ALL_OF_SITE)
        world.now += HOUR * 20  # whenever it runs, old is what was old when it was planned
        world.work(job_id)

        [stored] = world.queue
        assert isinstance(stored, Message)
        assert [(entry.backfill, len(entry.events)) for entry in stored.entries] == [(True, 1), (False, 1)]
        assert [each["unique_id"] for each in sent_events(world)] == ["kept", f"{record_id}-1"]
        assert [each["time"] for each in sent_events(world)] == [
            "2026-10-31T12:00:00Z",
            "2026-11-02T10:00:00Z",
        ]

    def test_starts_flows_where_it_is_asked_to(self, world: World) -> None:
        fill(world, ["one"])  # accepted three days ago
        world.work(confirmed(world, ALL_OF_SITE | {"trigger_flows": True}))
        [stored] = world.queue
        assert isinstance(stored, Message)
        assert [entry.backfill for entry in stored.entries] == [False]

    def test_says_of_each_message_which_records_it_replays(self, world: World) -> None:
        ids = fill(world, ["one", "three", "letter", "app"])
        job_id = confirmed(world, {"chosen": {"ids": list(ids)}})
        world.work(job_id)
        assert {each.receipt: each.replayed for each in world.queue} == {
            f"replay-{job_id}-0-0": [ids[0], ids[1]],
            f"replay-{job_id}-0-1": [ids[2]],
            f"replay-{job_id}-0-2": [ids[3]],
        }

    def test_leaves_to_the_next_one_what_was_refused_after_its_plan(self, world: World) -> None:
        fill(world, ["one"])
        job = world.plan(ALL_OF_SITE)
        late = world.refuse(2, klaviyo_payload("late"), rejected_at=START + timedelta(hours=1))
        world.finish(jobs.confirm(world.jobs, job, "ann").id)
        assert world.kept[late].state is State.OPEN

    def test_opens_a_record_again_that_has_no_outcome_for_a_day(self, world: World) -> None:
        [record_id] = fill(world, ["one"])
        job_id = confirmed(world, ALL_OF_SITE)
        world.work(job_id)
        world.queue.clear()  # it waits somewhere: its account is paused, say
        world.now += HOUR * 23
        world.work(job_id)
        assert world.kept[record_id].state is State.REPLAYING
        world.now += HOUR * 2
        world.finish(job_id)
        assert world.kept[record_id].state is State.OPEN
        assert world.jobs.saved[job_id].counts["reopened"] == 1
        assert world.open[SITE_ID, f"group of {SITE_ID}"] == 1

    def test_can_be_cancelled_between_two_slices(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "SLICE_RECORDS", 1)
        fill(world, ["one"] * 3)
        job_id = confirmed(world, ALL_OF_SITE)
        world.work(job_id)
        jobs.cancel(world.jobs, world.jobs.saved[job_id], "bob")
        world.finish(job_id)
        job = world.jobs.saved[job_id]
        assert (job.state, job.counts["sent"], job.cancelled_by) == (JobState.CANCELLED, 1, "bob")
        assert states(world) == {State.OPEN: 2, State.DELIVERED: 1}

    def test_that_is_only_planned_is_cancelled_at_once(self, world: World) -> None:
        fill(world, ["one"])
        assert jobs.cancel(world.jobs, world.plan(ALL_OF_SITE), "ann").state is JobState.CANCELLED

    def test_of_a_large_dead_letter_is_of_any_size(self, world: World) -> None:
        payload = klaviyo_payload("large")
        payload["events"][0]["properties"] = {f"n{n}": "x" * 100_000 for n in range(45)}
        fill(world, ["one"])
        world.refuse(5, payload)
        job_id = confirmed(world, ALL_OF_SITE)
        world.finish(job_id)
        assert states(world) == {State.DELIVERED: 2}


def test_one_that_fails_unexpectedly_keeps_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = fill(world, ["one"] * 3)
    real = reread.read_again

    def read(record_id: str, *arguments: Any) -> Any:
        if record_id == ids[1]:
            raise ZeroDivisionError("a secret of the payload")
        return real(record_id, *arguments)

    monkeypatch.setattr(reread, "read_again", read)
    job = world.plan(ALL_OF_SITE)
    assert (job.counts["ready"], job.counts["still_refused"]) == (2, 1)
    assert job.reasons == {"Reading it failed unexpectedly (ZeroDivisionError).": 1}


def test_a_line_of_the_archive_that_is_damaged_is_told(world: World) -> None:
    [record_id] = fill(world, ["one"])
    world.archived[record_id] = b'{"reason":'
    assert world.plan(ALL_OF_SITE).reasons == {"Its line in the archive cannot be read.": 1}


def test_a_service_that_is_away_is_no_fault_of_a_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, ["one"])

    def away(*_: Any) -> Any:
        raise Retryable("the state table cannot be read")

    monkeypatch.setattr(reread, "read_again", away)
    with pytest.raises(Retryable):
        world.plan(ALL_OF_SITE)
    monkeypatch.undo()
    [job] = world.jobs.saved.values()
    assert (job.state, job.counts, job.lease) == (JobState.PLANNING, {}, None)


def test_payloads_are_held_some_at_a_time_however_large_they_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, ["one"] * 5)
    monkeypatch.setattr(replay, "SLICE_BYTES", 2 * len(next(iter(world.archived.values()))))
    held: list[int] = []
    real = world.lines

    def lines(*, records: Any) -> Any:
        held.append(len(records))
        return real(records=records)

    monkeypatch.setattr(world, "lines", lines)
    assert world.plan(ALL_OF_SITE).counts["matched"] == 5
    assert held == [2, 2, 1]


def test_many_slices_are_settled_as_long_as_there_is_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "SLICE_RECORDS", 1)
    monkeypatch.setattr(replay, "SETTLED_AT_ONCE", 2)
    fill(world, ["one"] * 5)
    job_id = confirmed(world, ALL_OF_SITE)
    world.work(job_id, 10)
    world.dispatch()
    for left in (3, 1, 0):
        world.work(job_id, 0)
        assert len(world.jobs.saved[job_id].unsettled) == left


_kinds = st.lists(st.sampled_from(["one", "three", "other", "app", "letter", "bad"]), min_size=1, max_size=9)
_actions = st.lists(
    st.tuples(
        st.sampled_from(["start", "start", "go", "go", "go", "go", "go", "kill", "wait", "dispatch"]),
        st.integers(0, 7),
    ),
    max_size=60,
)


@given(_kinds, _actions, st.integers(0, 9), st.booleans())
@settings(max_examples=400)
def test_whoever_dies_where_each_event_is_sent_under_one_receipt_and_none_is_lost(
    kinds: list[str], actions: list[tuple[str, int]], refused: int, cancels: bool
) -> None:
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "current", world)
        patch.setattr(replay, "SLICE_RECORDS", 3)
        ids = fill(world, kinds)
        world.refuses = lambda record_id: record_id == ids[refused % len(ids)]
        mine = {"chosen": {"ids": list(ids)}}
        two = [confirmed(world, mine, "ann"), confirmed(world, mine, "bob")]
        for action, number in actions:
            _act(world, two, action, number)
        if cancels:
            jobs.cancel(world.jobs, world.jobs.saved[two[0]], "eve")
        world.finish(*two)
        while world.workers:  # those that nobody waited for go on after the end
            world.go_on(0)
        world.dispatch()

    _check(world, ids, [world.jobs.saved[job_id] for job_id in two], refused, cancels)


def _act(world: World, two: list[str], action: str, number: int) -> None:
    match action:
        case "start":
            world.start(two[number % 2])
        case "go" if world.workers:
            world.go_on(number)
        case "kill" if world.workers:
            world.kill(number)
        case "wait":
            world.now += jobs.LEASE_SECONDS + 1
        case "dispatch":
            world.dispatch()


def _check(world: World, ids: Any, two: list[Job], refused: int, cancels: bool) -> None:
    for number, record_id in enumerate(ids):
        record = world.kept[record_id]
        taken = world.delivered[record_id]
        is_refused = number == refused % len(ids)
        # Every event reached the upstream once, and whatever was sent twice was under one receipt.
        assert len(set(taken)) <= 1
        if record.state is State.DELIVERED:
            assert len(taken) == record.events
        elif record.state is State.REJECTED_AGAIN:
            assert is_refused
            assert taken == []
        else:
            assert record.state is State.OPEN
            assert taken == []
            assert cancels or record.events == 0
    sent = [each for each in ids if world.kept[each].state is not State.OPEN]
    assert sum(job.counts.get("sent", 0) for job in two) == len(sent)
    # The counters of groups say just what the records do.
    expected = Counter[tuple[str, str]]()
    for record in world.kept.values():
        if record.state is State.OPEN:
            expected[record.account, record.group] += record.events
    assert {of: count for of, count in world.open.items() if count} == {
        of: count for of, count in expected.items() if count
    }


def test_a_slow_worker_does_what_the_first_one_wrote_down(world: World) -> None:
    ids = fill(world, ["one"] * 3)
    mine = {"chosen": {"ids": list(ids)}}
    job_id, other = confirmed(world, mine, "ann"), confirmed(world, {"chosen": {"ids": [ids[0]]}}, "bob")
    world.start(job_id)
    while not world.objects:
        world.go_on(0)  # it has looked at the three, and stops before it writes the slice down
    world.work(other)
    world.now += jobs.LEASE_SECONDS + 1
    world.work(job_id)  # for another worker, only two are open
    world.dispatch()
    while world.workers:
        world.go_on(0)
    world.finish(job_id, other)
    assert {record_id: len(taken) for record_id, taken in world.delivered.items()} == dict.fromkeys(ids, 1)


def test_the_messages_of_a_slice_are_of_one_account_each(world: World) -> None:
    fill(world, ["one", "other", "app"])
    world.work(confirmed(world, {"chosen": {"ids": list(world.kept)}}))
    accounts = [each.account for each in world.queue]
    assert sorted(accounts) == sorted({SITE_ID, "XyZ789", APP})
    assert sum(isinstance(each, PipelessMessage) for each in world.queue) == 1


def test_a_duplicate_unique_id_is_not_sent_again_as_it_is(world: World) -> None:
    world.refuse(1, klaviyo_payload("taken"), reason=Reason.DUPLICATE_ID)
    job = world.plan(ALL_OF_SITE)
    assert (job.counts["matched"], job.counts["still_refused"]) == (1, 1)


def test_a_profile_that_is_no_longer_good_is_still_refused(world: World) -> None:
    world.refuse(1, {**klaviyo_payload("a"), "profile": profile(email="no")["data"]})
    assert world.plan(ALL_OF_SITE).counts["still_refused"] == 1
