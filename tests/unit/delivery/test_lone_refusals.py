"""Tests what becomes of events that are refused alone and without a reason."""

import asyncio
from collections.abc import Iterable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.delivery import lone_refusals
from sluice.delivery.lone_refusals import (
    FORGET_SECONDS,
    MANY,
    MAX_EVENTS,
    MAX_UNANSWERED,
    OPEN_AFTER_SECONDS,
    PATIENCE_SECONDS,
    SEVERAL,
    Change,
    LoneRefusal,
    LoneRefusals,
    RefusalRecord,
    RefusedEvent,
    Verdict,
    is_patience_over,
    name_of,
    opens_circuit,
    updated,
)
from sluice.errors import Retryable

NOW = 1_000_000.0


class Account:
    """Runs invocations of one account, one after another, over one stored record."""

    def __init__(self) -> None:
        self.record = RefusalRecord()
        self.now = NOW
        self.rejected: list[str] = []
        self.writes = 0
        self.is_reachable = True
        self.is_taking = False  # what is sent again
        self.is_busy = False  # nothing is sent again
        self.sent_again: list[str] = []

    def invocation(self) -> LoneRefusals:
        made = LoneRefusals(lambda: self.now)
        made.record = self.record
        return made

    def refuse(
        self,
        refusals: LoneRefusals,
        *names: str,
        request: int = 1,
        unanswered: bool = False,
        likely_bad: bool = False,
    ) -> None:
        for number, name in enumerate(names):

            async def send_again(refused: str = name) -> bool:
                self.sent_again.append(refused)
                if not (self.is_taking or self.is_busy):
                    self.refuse(refusals, refused, request=request)
                return self.is_taking

            refusals.add(
                LoneRefusal(
                    name,
                    {number},
                    400,
                    request,
                    partial(self.rejected.append, name),
                    send_again,
                    lambda: unanswered,
                    likely_bad,
                )
            )

    def settle(self, refusals: LoneRefusals) -> Verdict:
        return asyncio.run(refusals.settle("AbC123", self._store))

    def run(
        self, *names: str, delivered: int = 0, unanswered: bool = False, likely_bad: bool = False
    ) -> Verdict:
        """Runs an invocation in which these events are refused, and then a request delivers something."""
        refusals = self.invocation()
        self.refuse(refusals, *names, unanswered=unanswered, likely_bad=likely_bad)
        if delivered:
            refusals.mark_delivered(delivered)
        return self.settle(refusals)

    async def _store(self, *, account_id: str, change: Change) -> RefusalRecord:
        assert account_id == "AbC123"
        if not self.is_reachable:
            raise Retryable("no table")
        self.writes += 1
        self.record = change(self.record)
        return self.record


@pytest.fixture
def account() -> Account:
    return Account()


def test_an_event_waits_while_nothing_is_delivered(account: Account) -> None:
    assert account.run("a") == Verdict({0})
    account.now += PATIENCE_SECONDS - 1
    assert account.run("a") == Verdict({0})
    assert account.rejected == []


def test_an_event_is_rejected_where_something_is_delivered_later(account: Account) -> None:
    assert account.run("a", delivered=2) == Verdict()
    assert (account.rejected, account.writes) == (["a"], 0)


def test_an_event_is_sent_again_where_something_is_delivered_later(account: Account) -> None:
    account.is_taking = True
    assert account.run("a", delivered=2) == Verdict()
    assert (account.sent_again, account.rejected, account.writes) == (["a"], [], 0)


def test_an_event_is_sent_again_before_the_end_where_the_doubt_is_over(account: Account) -> None:
    refusals = account.invocation()
    account.refuse(refusals, "a", "b")
    refusals.mark_delivered(2)
    account.refuse(refusals, "c", request=2)
    asyncio.run(refusals.send_again())
    assert (account.sent_again, account.rejected) == (["a", "b"], ["a", "b"])
    assert account.settle(refusals) == Verdict({0})
    assert account.sent_again == ["a", "b"]


def test_the_message_of_an_event_that_is_being_sent_again_waits(account: Account) -> None:
    refusals = account.invocation()
    waiting: list[set[int]] = []

    async def send_again() -> bool:
        waiting.append(refusals.waiting())
        return True

    refusals.add(LoneRefusal("a", {7}, 400, 1, partial(account.rejected.append, "a"), send_again))
    refusals.mark_delivered(2)
    asyncio.run(refusals.send_again())
    assert (waiting, refusals.waiting()) == ([{7}], set())


def test_what_is_not_sent_again_before_the_end_is_known_to_be_bad(account: Account) -> None:
    refusals = account.invocation()
    account.refuse(refusals, "a")
    refusals.mark_delivered(2)
    account.is_busy = True
    asyncio.run(refusals.send_again())
    account.settle(refusals)
    account.run("a")
    assert account.rejected == ["a"]


class TestAnEventWhoseNeighboursWereDelivered:
    """Tests an event that is likely bad. Everything may be refused since its neighbours were delivered."""

    def test_waits_like_any_other(self, account: Account) -> None:
        assert account.run("a", likely_bad=True) == Verdict({0})
        account.run(delivered=1)
        account.run("a", likely_bad=True)
        assert account.rejected == ["a"]

    def test_opens_no_circuit(self, account: Account) -> None:
        account.run(*"abcdef", likely_bad=True)
        account.now += OPEN_AFTER_SECONDS
        assert account.run("f", likely_bad=True).status is None

    def test_is_rejected_at_last(self, account: Account) -> None:
        account.run(*"abcdef", likely_bad=True)
        account.now += PATIENCE_SECONDS
        account.run(*"abcdef", likely_bad=True)
        assert account.rejected == [*"abcdef"]


def test_an_event_that_cannot_be_sent_again_now_is_rejected_when_it_is_refused_next(account: Account) -> None:
    account.is_busy = True
    assert account.run("a", delivered=2) == Verdict()
    assert (account.sent_again, account.rejected) == (["a"], [])
    assert account.run("a") == Verdict()
    assert (account.sent_again, account.rejected) == (["a"], ["a"])


def test_what_was_delivered_before_says_nothing(account: Account) -> None:
    refusals = account.invocation()
    refusals.mark_delivered(1)
    account.refuse(refusals, "a", request=1)
    assert account.settle(refusals) == Verdict({0})


def test_an_event_is_rejected_the_next_time_where_another_invocation_delivered(account: Account) -> None:
    account.run("a")
    account.run(delivered=1)
    assert account.run("a") == Verdict()
    assert account.run("a") == Verdict()  # a copy of it
    assert account.rejected == ["a", "a"]
    assert account.record.in_doubt() == {}


def test_one_or_two_are_rejected_at_last(account: Account) -> None:
    account.run("a", "b")
    account.now += PATIENCE_SECONDS
    assert account.run("a", "b") == Verdict()
    assert account.rejected == ["a", "b"]
    assert account.record.in_doubt() == {}


@pytest.mark.parametrize("count", range(1, 6))
def test_several_open_the_circuit_after_a_while(account: Account, count: int) -> None:
    names = [f"e{n}" for n in range(count)]
    assert account.run(*names).status is None
    account.now += OPEN_AFTER_SECONDS
    verdict = account.run("e0")
    assert verdict == Verdict({0}, 400 if count >= SEVERAL else None)
    account.now += PATIENCE_SECONDS
    assert account.run("e0").status == (400 if count >= SEVERAL else None)
    assert account.rejected == ([] if count >= SEVERAL else ["e0"])


def test_several_that_come_one_by_one_open_it_too(account: Account) -> None:
    verdicts = []
    for name in "abc":
        verdicts.append(account.run(name).status)
        account.now += 600
    assert verdicts == [None, None, 400]


def test_one_event_again_and_again_is_one(account: Account) -> None:
    for _ in range(10):
        assert account.run("a", "a").status is None
        account.now += 60


def test_a_delivery_ends_the_doubt(account: Account) -> None:
    account.run("a", "b", "c")
    account.run(delivered=1)
    account.now += OPEN_AFTER_SECONDS
    assert account.run("d", "e").status is None
    assert account.invocation().is_account_suspect is False


def test_nothing_is_written_while_all_is_well(account: Account) -> None:
    account.run(delivered=3)
    account.run("a", delivered=3)
    assert account.writes == 0


def test_a_delivery_is_written_once(account: Account) -> None:
    account.run("a")
    for _ in range(5):
        account.run(delivered=1)
    assert account.writes == 2


class TestAnEventThatMayBeRecorded:
    def test_is_rejected_at_once(self, account: Account) -> None:
        assert account.run("a", unanswered=True) == Verdict()
        assert account.rejected == ["a"]

    def test_is_sent_again_where_something_is_delivered_later(self, account: Account) -> None:
        account.is_taking = True
        assert account.run("a", unanswered=True, delivered=2) == Verdict()
        assert (account.sent_again, account.rejected) == (["a"], [])

    def test_waits_where_several_are_refused(self, account: Account) -> None:
        account.run("a", unanswered=True)
        account.run("b", unanswered=True)
        assert account.run("c", unanswered=True) == Verdict({0})
        assert account.rejected == ["a", "b"]

    def test_opens_no_circuit(self, account: Account) -> None:
        account.run(*"abcdef", unanswered=True)
        account.now += OPEN_AFTER_SECONDS
        assert account.run("f", unanswered=True).status is None
        account.now += PATIENCE_SECONDS
        account.run("f", unanswered=True)
        assert "f" in account.rejected


def test_the_account_is_suspect_among_many_here_or_several_before(account: Account) -> None:
    refusals = account.invocation()
    account.refuse(refusals, *(f"e{n}" for n in range(MANY - 1)))
    assert not refusals.is_account_suspect
    account.refuse(refusals, "last")
    assert refusals.is_account_suspect
    refusals.mark_delivered(2)
    assert not refusals.is_account_suspect

    account.run("a", "b")
    assert not account.invocation().is_account_suspect
    account.run("c")
    assert account.invocation().is_account_suspect


def test_events_wait_where_the_record_cannot_be_written(account: Account) -> None:
    account.is_reachable = False
    assert account.run("a", "b", "c") == Verdict({0, 1, 2})
    account.is_reachable = True
    account.run("a", "b", "c")
    account.is_reachable = False
    account.now += OPEN_AFTER_SECONDS
    assert account.run("d").status is None


def test_two_events_of_one_name_both_wait(account: Account) -> None:
    assert account.run("a", "a") == Verdict({0, 1})


def test_a_message_without_an_answer_is_known_to_the_next(account: Account) -> None:
    refusals = account.invocation()
    refusals.mark_unanswered(["m"])
    assert refusals.was_unanswered("m")
    account.settle(refusals)
    assert account.invocation().was_unanswered("m")
    assert not account.invocation().was_unanswered("n")


def test_an_event_that_was_answered_before_is_not_recorded(account: Account) -> None:
    account.run("a")
    account.run("b", "c", "d", unanswered=True)
    known = account.invocation()
    assert [known.was_answered(name) for name in ("a", "d", "x")] == [True, False, False]


class TestARecord:
    def test_keeps_the_first_time(self) -> None:
        record = updated(RefusalRecord(), 1.0, refused={"a": False})
        assert updated(record, 2.0, refused={"a": True}).events["a"] == RefusedEvent(1.0)

    def test_stays_small(self) -> None:
        record = RefusalRecord()
        for n in range(200):
            record = updated(
                record, NOW, refused={f"e{n}": False}, unanswered={f"m{n}-{m}" for m in range(99)}
            )
        assert len(record.events) == MAX_EVENTS
        assert len(record.unanswered) <= MAX_UNANSWERED + 99

    def test_has_room_for_doubts_whatever_is_known_to_be_bad(self) -> None:
        bad = {f"b{n}" for n in range(MAX_EVENTS)}
        record = updated(RefusalRecord(), NOW, refused=dict.fromkeys(bad, False))
        record = updated(record, NOW + 1, bad=bad, refused=dict.fromkeys("xyz", False))
        assert len(record.events) == MAX_EVENTS
        assert record.in_doubt().keys() == set("xyz")

    def test_forgets(self) -> None:
        record = updated(RefusalRecord(), NOW, refused={"a": False}, unanswered={"m"})
        record = updated(record, NOW + FORGET_SECONDS, refused={"b": False}, unanswered={"n"})
        assert record.events.keys() == {"b"}
        assert record.unanswered == {"n"}

    def test_of_the_same_news_is_the_same(self) -> None:
        record = updated(RefusalRecord(), NOW, refused={"a": False}, unanswered={"m"})
        assert updated(record, NOW + 1, refused={"a": False}, unanswered={"m"}) == record


EVENTS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(RefusedEvent, st.floats(NOW - 9_000, NOW), st.booleans(), st.booleans(), st.booleans()),
)


@given(EVENTS, st.floats(0, 9_000))
def test_a_circuit_opens_only_for_several_and_patience_ends_only_for_few(
    events: dict[str, RefusedEvent], later: float
) -> None:
    record = RefusalRecord(events)
    in_doubt = [
        event
        for event in events.values()
        if not (event.is_bad or event.was_unanswered or event.is_likely_bad)
    ]

    assert not (opens_circuit(record, NOW + later) and is_patience_over(record, NOW + later))
    assert opens_circuit(record, NOW + later) <= (len(in_doubt) >= SEVERAL)
    assert is_patience_over(record, NOW + later) <= (len(in_doubt) < SEVERAL)


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_a_name_tells_parts_apart(one: Iterable[str], other: Iterable[str]) -> None:
    assert (name_of(*one) == name_of(*other)) == (list(one) == list(other)) or "\0" in "".join([*one, *other])


def test_a_record_is_read_as_it_was_written() -> None:
    assert lone_refusals.record_of(None) == RefusalRecord()
