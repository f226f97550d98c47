"""Tests the rate limiter's decisions: never over the limit, nearly all of it used, pauses respected."""

import asyncio
import contextvars
import random
from collections.abc import Callable, Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devstack.fake_upstream.windows import FixedWindow, busiest
from sluice.delivery import rate_limiter
from sluice.delivery.rate_limiter import (
    BACKGROUND_LEAST_MS,
    YIELD_MS,
    LearnedLimit,
    NoSlotBeforeDeadline,
    ReportedQuota,
    SlotWindow,
    Use,
    background_turn,
    is_still_valid,
    next_slot,
    observe,
    pause,
    refuse,
    reserve,
)
from tests.support.pretended_time import run

NOW = 1_800_000_000_000
MINUTE = 60_000
FOREVER = NOW + 10**9


def most_in(slots: Iterable[int], milliseconds: int) -> int:
    return busiest([slot / 1_000 for slot in slots], milliseconds / 1_000)


def saturate(window: SlotWindow, start: int, end: int, rng: random.Random, workers: int = 8) -> list[int]:
    """Returns the slots of workers that always want more, each with a view of the near future only."""
    slots, now = list[int](), start
    while now < end:
        for _ in range(workers):
            got, window = reserve(window, now, rng.randrange(1, 9), now + 20_000)
            slots += got
        now += rng.randrange(1, 5_000)
    return [slot for slot in slots if slot < end]


class TestReserve:
    def test_an_idle_account_may_send_at_once(self) -> None:
        assert reserve(SlotWindow(), NOW, 1, NOW)[0] == [NOW]

    def test_slots_lie_apart(self) -> None:
        slots, _ = reserve(SlotWindow(), NOW, 10, FOREVER)

        assert slots == [NOW + number * rate_limiter.SPACING_MS for number in range(10)]

    def test_what_is_reserved_is_taken(self) -> None:
        first, window = reserve(SlotWindow(), NOW, 3, FOREVER)
        second, _ = reserve(window, NOW, 3, FOREVER)

        assert first + second == reserve(SlotWindow(), NOW, 6, FOREVER)[0]

    def test_none_is_after_the_latest(self) -> None:
        slots, window = reserve(SlotWindow(), NOW, 10, NOW + 3 * rate_limiter.SPACING_MS)

        assert len(slots) == 4
        assert window.slots == tuple(slots)

    def test_a_share_of_the_minute_is_followed_by_the_next(self) -> None:
        slots, _ = reserve(SlotWindow(), NOW, rate_limiter.SHARE_LIMIT + 1, FOREVER)

        assert slots[-1] == NOW + rate_limiter.SHARE_MS

    @given(st.integers(60, 6_000), st.integers(1, 50))
    def test_an_even_rate_is_kept_in_any_minute(self, per_minute: int, count: int) -> None:
        rate = rate_limiter.evenly_spaced(per_minute)

        slots, window = reserve(SlotWindow(), NOW, count, FOREVER, rate)

        assert slots[-1] - slots[0] >= (count - 1) * MINUTE / per_minute
        assert next_slot(window, NOW, rate) >= NOW + count * MINUTE / per_minute
        assert len(reserve(window, slots[-1] + MINUTE, 1, FOREVER, rate)[1].slots) == 1

    def test_what_is_over_is_forgotten(self) -> None:
        _, window = reserve(SlotWindow(), NOW, 20, FOREVER)
        later = window.slots[-1] + rate_limiter.STEADY_WINDOW_MS

        slots, window = reserve(window, later, 1, FOREVER)
        assert (slots, window.slots) == ([later], (later,))

    def test_an_item_stays_small(self) -> None:
        window = SlotWindow()
        for second in range(0, 600, 5):
            _, window = reserve(window, NOW + second * 1_000, 64, NOW + second * 1_000 + 20_000)

        assert len(window.slots) <= 150 + 64

    @pytest.mark.parametrize("seed", range(3))
    def test_a_saturated_account_uses_the_limit(self, seed: int) -> None:
        slots = saturate(SlotWindow(), NOW, NOW + 10 * MINUTE, random.Random(seed))

        assert len(slots) >= 0.98 * 150 * 10
        assert most_in(slots, MINUTE) <= 150
        assert most_in(slots, 1_000) <= 10

    @pytest.mark.rule
    @given(st.integers(0, MINUTE), st.integers(0, 2**16))
    @settings(max_examples=20)
    def test_the_upstream_never_refuses_whatever_its_windows_and_the_networks_delays(
        self, alignment: int, seed: int
    ) -> None:
        rng = random.Random(seed)
        slots = saturate(SlotWindow(), NOW, NOW + 3 * MINUTE, rng)

        burst, steady = FixedWindow(1), FixedWindow(60)
        for arrived in sorted(slot + alignment + rng.randrange(490) for slot in slots):
            assert burst.count(arrived / 1_000) <= 10
            assert steady.count(arrived / 1_000) <= 150


class TestNextSlot:
    @pytest.mark.parametrize(
        ("window", "expected"),
        [
            (SlotWindow(), NOW),
            (SlotWindow((NOW - 10_000,)), NOW),
            (SlotWindow((NOW,)), NOW + rate_limiter.SPACING_MS),
            (SlotWindow((NOW + 7_000,)), NOW + 7_000 + rate_limiter.SPACING_MS),
            (SlotWindow(paused_until=NOW + 3_000), NOW + 3_000),
            (SlotWindow(paused_until=NOW - 3_000), NOW),
            (SlotWindow(reported_quota=ReportedQuota(NOW - 5, NOW + 9_000, 1)), NOW),
            (
                SlotWindow(reported_quota=ReportedQuota(NOW - 5, NOW + 9_000, 0)),
                NOW + 9_000 + rate_limiter.GUARD_MS,
            ),
            (SlotWindow(reported_quota=ReportedQuota(NOW - 9_000, NOW, 0)), NOW),
        ],
    )
    def test_is_what_would_be_reserved(self, window: SlotWindow, expected: int) -> None:
        assert next_slot(window, NOW) == expected
        assert reserve(window, NOW, 1, expected)[0] == [expected]
        assert reserve(window, NOW, 1, expected - 1)[0] == []


class TestPause:
    def test_nobody_sends_before_its_end(self) -> None:
        slots, _ = reserve(pause(SlotWindow(), NOW + 5_000), NOW, 3, FOREVER)

        assert slots[0] == NOW + 5_000 + rate_limiter.GUARD_MS

    def test_the_longest_counts(self) -> None:
        assert pause(pause(SlotWindow(), NOW + 9_000), NOW + 5_000) == pause(SlotWindow(), NOW + 9_000)

    def test_a_slot_reserved_before_is_lost(self) -> None:
        slots, window = reserve(SlotWindow(), NOW, 10, FOREVER)
        paused = pause(window, slots[4] - rate_limiter.GUARD_MS)

        assert [is_still_valid(window, slot) for slot in slots] == [True] * 10
        assert [is_still_valid(paused, slot) for slot in slots] == [False] * 4 + [True] * 6


class TestObserve:
    """Tests the rest of the steady window that an answer reports; it began at NOW and ends a minute later."""

    RESET = NOW + MINUTE

    def sent(self, count: int, start: int = NOW + 1_000) -> tuple[int, SlotWindow]:
        slots, window = reserve(SlotWindow(), start, count, FOREVER)
        return slots[-1], window

    def observed(self, window: SlotWindow, slot: int, remaining: int) -> SlotWindow:
        found = observe(window, slot, remaining, self.RESET)
        assert found is not None
        return found

    @pytest.mark.parametrize("ours", [1, 20, 100])
    @pytest.mark.parametrize("astray", [0, rate_limiter.QUOTA_TOLERANCE])
    def test_our_own_requests_are_no_news(self, ours: int, astray: int) -> None:
        last, window = self.sent(ours)

        assert observe(window, last, 150 - ours - astray, self.RESET) is None

    def test_others_requests_are(self) -> None:
        last, window = self.sent(20)

        found = observe(window, last, 130 - rate_limiter.QUOTA_TOLERANCE - 1, self.RESET)

        assert found is not None
        assert found.reported_quota == ReportedQuota(last, self.RESET, 130 - rate_limiter.QUOTA_TOLERANCE - 1)
        assert (found.slots, found.paused_until) == (window.slots, 0)

    def test_requests_of_the_window_before_are_not_counted(self) -> None:
        last, window = self.sent(25, start=NOW - 4_000)
        inside = sum(slot >= NOW for slot in window.slots)

        assert observe(window, last, 150 - inside - rate_limiter.QUOTA_TOLERANCE, self.RESET) is None
        assert observe(window, last, 150 - inside - rate_limiter.QUOTA_TOLERANCE - 1, self.RESET) is not None

    def test_slots_after_the_answered_one_are_not_counted(self) -> None:
        _, window = self.sent(50)

        assert observe(window, window.slots[0], 149 - rate_limiter.QUOTA_TOLERANCE, self.RESET) is None
        assert (
            observe(window, window.slots[0], 149 - rate_limiter.QUOTA_TOLERANCE - 1, self.RESET) is not None
        )

    def test_what_is_known_is_no_news(self) -> None:
        last, window = self.sent(10)
        slots, window = reserve(self.observed(window, last, 40), last, 5, FOREVER)

        assert observe(window, slots[-1], 35 - rate_limiter.QUOTA_TOLERANCE, self.RESET) is None
        observed = self.observed(window, slots[-1], 35 - rate_limiter.QUOTA_TOLERANCE - 1)
        assert observed.reported_quota is not None
        assert observed.reported_quota.remaining == 24

    @pytest.mark.parametrize("left", [0, 1, 30])
    def test_what_is_left_is_not_passed(self, left: int) -> None:
        last, window = self.sent(10)

        slots, _ = reserve(self.observed(window, last, left), last, 100, FOREVER)

        assert sum(slot < self.RESET for slot in slots) == left
        assert slots[left] == self.RESET + rate_limiter.GUARD_MS

    def test_what_was_reserved_beyond_it_is_lost(self) -> None:
        slots, window = reserve(SlotWindow(), NOW, 20, FOREVER)

        window = self.observed(window, slots[3], 5)

        assert [is_still_valid(window, slot) for slot in slots] == [True] * 9 + [False] * 11

    def test_a_stale_one_does_not_throttle(self) -> None:
        last, window = self.sent(10)
        window = self.observed(window, last, 0)
        after = self.RESET + rate_limiter.GUARD_MS

        slots = saturate(window, after, after + 10 * MINUTE, random.Random(1))

        assert len(slots) >= 0.98 * 150 * 10

    def test_a_slot_after_its_end_holds(self) -> None:
        window = SlotWindow((self.RESET,), reported_quota=ReportedQuota(NOW, self.RESET, 0))

        assert is_still_valid(window, self.RESET)


class TestAClockThatIsWrong:
    """Tests that what one worker wrote with its clock a day ahead holds nobody up."""

    TOMORROW = NOW + 24 * 60 * MINUTE

    @pytest.mark.parametrize(
        "written",
        [
            SlotWindow((TOMORROW,)),
            SlotWindow((NOW - 150, TOMORROW, TOMORROW + 150)),
            SlotWindow(paused_until=TOMORROW),
            SlotWindow(reported_quota=ReportedQuota(NOW - 1, TOMORROW, 0)),
            SlotWindow(learned=LearnedLimit(3_000, 3_000, 1, TOMORROW)),
        ],
        ids=["slot", "slots", "pause", "quota", "learned limit"],
    )
    def test_is_ignored(self, written: SlotWindow) -> None:
        slots, window = reserve(written, NOW, 2, FOREVER)

        assert slots == [NOW, NOW + rate_limiter.SPACING_MS]
        assert next_slot(written, NOW) == NOW
        assert all(is_still_valid(window, slot) for slot in slots)

    def test_what_can_be_meant_is_not(self) -> None:
        assert next_slot(pause(SlotWindow(), NOW + 900_000), NOW) > NOW + 900_000
        assert next_slot(SlotWindow((NOW + 20_000,)), NOW) > NOW + 20_000
        quota = ReportedQuota(NOW - 1, NOW + MINUTE, 0)
        assert next_slot(SlotWindow(reported_quota=quota), NOW) > NOW + MINUTE


class TestRefuse:
    def learned(self, window: SlotWindow) -> LearnedLimit:
        assert window.learned is not None
        return window.learned

    def test_a_refused_request_is_not_counted_as_one(self) -> None:
        slots, window = reserve(SlotWindow(), NOW, 3, FOREVER)

        window = refuse(window, slots[2], slots[2], 1_000)

        assert window.slots == tuple(slots[:2])
        assert window.paused_until == slots[2] + 1_000 + rate_limiter.GUARD_MS

    @pytest.mark.parametrize(("taken", "spacing"), [(0, 1_100), (1, 1_100), (2, 550), (5, 220)])
    def test_a_short_pause_tells_what_a_second_takes(self, taken: int, spacing: int) -> None:
        slots, window = reserve(SlotWindow(), NOW, taken + 1, FOREVER)

        assert self.learned(refuse(window, slots[-1], slots[-1], 1_000)).spacing == spacing

    def test_a_long_pause_tells_what_a_minute_takes(self) -> None:
        slots, window = reserve(SlotWindow(), NOW, 13, FOREVER)

        assert self.learned(refuse(window, slots[-1], slots[-1], 40_000)).per_minute == 12

    def test_requests_that_were_on_their_way_teach_nothing_more(self) -> None:
        slots, window = reserve(SlotWindow(), NOW, 6, FOREVER)
        window = refuse(window, slots[2], slots[4], 1_000)

        assert refuse(window, slots[3], slots[5], 1_000).learned == window.learned

    def test_slots_that_were_reserved_closer_together_are_lost(self) -> None:
        slots, window = reserve(SlotWindow(), NOW, 20, FOREVER)
        window = refuse(window, slots[1], slots[1] + 100, 1_000)

        after = [slot for slot in slots[2:] if slot >= window.paused_until]
        assert after
        assert not any(is_still_valid(window, slot) for slot in after[1:])

    def test_slots_that_a_reported_quota_allows_are_kept(self) -> None:
        """Holds that what others left of a poor minute does not waste the slots of a rich one."""
        slots, window = reserve(SlotWindow(), NOW, 3, FOREVER)
        window = refuse(window, slots[-1], slots[-1], 1_000)
        now = slots[-1] + 2_000
        [first], window = reserve(window, now, 1, FOREVER)
        observed = observe(window, first, 140, first + 58_000)
        assert observed is not None

        slots, window = reserve(observed, first + 100, 100, FOREVER)

        assert all(is_still_valid(window, slot) for slot in slots)
        assert slots[-1] - first < 58_000

    def test_a_short_pause_at_a_minutes_end_tells_what_a_minute_takes(self) -> None:
        at_pace = tuple(NOW + 300 * number for number in range(100))
        window = SlotWindow(slots=at_pace)

        learned = self.learned(refuse(window, at_pace[-1], at_pace[-1], 1_000))

        assert (learned.spacing, learned.per_minute) == (0, 99)

    @pytest.mark.parametrize("has_quota", [False, True])
    def test_it_is_tried_again_sooner_where_nobody_reports_a_quota(self, has_quota: bool) -> None:
        slots, window = reserve(SlotWindow(), NOW, 2, FOREVER)
        if has_quota:
            window = observe(window, slots[0], 20, NOW + 50_000) or window

        kept_for = self.learned(refuse(window, slots[-1], slots[-1], 1_000)).kept_for

        with_quota = rate_limiter.LEARNED_FOR_WITH_QUOTA_MS
        assert kept_for == (with_quota if has_quota else rate_limiter.LEARNED_FOR_MS)

    def test_what_was_learned_is_tried_again_ever_less_often(self) -> None:
        window = SlotWindow()
        kept_for = []
        now = NOW
        for _ in range(6):
            slots, window = reserve(window, now, 2, now + 60_000)
            window = refuse(window, slots[-1], slots[-1], 1_000)
            kept_for.append(self.learned(window).kept_for)
            now = self.learned(window).until + MINUTE

        assert kept_for[0] == rate_limiter.LEARNED_FOR_MS
        assert kept_for == sorted(kept_for)
        assert kept_for[-1] <= rate_limiter.MAX_LEARNED_FOR_MS


class Workers(RuleBasedStateMachine):
    """Draws any sequence of reservations, pauses and answers, by any number of workers that see one
    window.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.window = SlotWindow()
        self.slots: list[int] = []

    @rule(count=st.integers(1, 64), ahead=st.integers(-1_000, 20_000))
    def reserve_some(self, count: int, ahead: int) -> None:
        latest = self.now + ahead

        slots, self.window = reserve(self.window, self.now, count, latest)

        assert len(slots) <= count
        assert all(self.now <= slot <= latest for slot in slots)
        assert all(is_still_valid(self.window, slot) for slot in slots)
        assert len(slots) == count or next_slot(self.window, self.now) > latest
        self.slots += slots

    @rule(milliseconds=st.integers(1, 100_000))
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds

    @rule(milliseconds=st.integers(0, 30_000))
    def throttled(self, milliseconds: int) -> None:
        until = self.now + milliseconds

        self.window = pause(self.window, until)

        assert next_slot(self.window, self.now) >= until + rate_limiter.GUARD_MS
        assert not any(is_still_valid(self.window, slot) for slot in self.slots if slot <= until)

    @precondition(lambda self: any(slot <= self.now for slot in self.slots))
    @rule(remaining=st.integers(0, 150), seconds=st.integers(0, 60))
    def answered(self, remaining: int, seconds: int) -> None:
        answered = max(slot for slot in self.slots if slot <= self.now)
        reset = self.now + seconds * 1_000

        observed = observe(self.window, answered, remaining, reset)

        if observed is not None:
            self.window = observed
            further, _ = reserve(observed, self.now, 200, reset - 1)
            usable = [
                slot for slot in self.slots if answered < slot < reset and is_still_valid(observed, slot)
            ]
            assert len(further) + len(usable) <= remaining

    @invariant()
    def no_limit_is_passed(self) -> None:
        assert most_in(self.slots, 1_000) <= 10
        assert most_in(self.slots, MINUTE) <= 150
        assert len(set(self.slots)) == len(self.slots)
        assert list(self.window.slots) == sorted(self.window.slots)


TestAnySequence = Workers.TestCase
TestAnySequence.settings = settings(max_examples=60, stateful_step_count=25)


class Shared(rate_limiter.RateLimiter):
    """Runs a rate limiter over a window in memory, which stands for the state table."""

    window, version = SlotWindow(), 0

    def _load(self) -> tuple[SlotWindow, int]:
        return Shared.window, Shared.version

    def _store(self, window: SlotWindow, version: int) -> bool:
        if Shared.version != version:
            return False
        Shared.window, Shared.version = window, version + 1
        return True


AT_WORK = contextvars.ContextVar["Worker"]("worker")


class Worker:
    """Plays one process: invocation after invocation, each with some jobs; at times all of it stands
    still.
    """

    def __init__(self, seed: str, table_seconds: float) -> None:
        self.chance = random.Random(seed)
        self.table_seconds = table_seconds
        self.still_until = 0.0
        self.sent: list[float] = []

    @staticmethod
    def clock() -> float:
        return NOW / 1_000 + asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        while (left := self.still_until - self.clock()) > 0:
            await asyncio.sleep(left)

    async def to_thread[T](self, call: Callable[..., T], *args: object) -> T:
        await self.sleep(self.table_seconds * self.chance.uniform(0.25, 0.75))
        result = call(*args)
        await self.sleep(self.table_seconds * self.chance.uniform(0.25, 0.75))
        return result

    async def stall(self, every: float) -> None:
        while every:
            await asyncio.sleep(self.chance.expovariate(1 / every))
            self.still_until = self.clock() + self.chance.uniform(0.1, 4.0)

    async def work(self, end: float) -> None:
        AT_WORK.set(self)
        while self.clock() < end:
            paced = Shared("state", "AbC123", self.clock() + 20, self.clock, self.sleep)
            jobs = [self._job(paced) for _ in range(self.chance.randrange(4, 13))]
            results = await asyncio.gather(*jobs, return_exceptions=True)
            assert {type(result) for result in results} <= {type(None), NoSlotBeforeDeadline}
            waits = [each.after for each in results if isinstance(each, NoSlotBeforeDeadline)]
            assert None not in waits
            await self.sleep(min((seconds for seconds in waits if seconds is not None), default=0.0))

    async def _job(self, paced: Shared) -> None:
        await paced.acquire()
        self.sent.append(self.clock())
        await asyncio.sleep(self.chance.uniform(0.1, 1.0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("stall_every", "table_seconds", "used"),
    [(0, 0.01, 0.99), (0, 0.2, 0.98), (300, 0.01, 0.98), (5, 0.01, 0.5), (5, 0.6, 0.5)],
)
def test_eight_workers_that_race_and_stall_keep_the_limits_and_use_them(
    monkeypatch: pytest.MonkeyPatch, seed: int, stall_every: float, table_seconds: float, used: float
) -> None:
    monkeypatch.setattr(asyncio, "to_thread", lambda call, *args: AT_WORK.get().to_thread(call, *args))
    monkeypatch.setattr(Shared, "window", SlotWindow())
    monkeypatch.setattr(Shared, "version", 0)
    workers = [Worker(f"{seed}{number}", table_seconds) for number in range(8)]
    seconds = 600

    async def scenario() -> float:
        end = workers[0].clock() + seconds
        stalls = [asyncio.create_task(worker.stall(stall_every)) for worker in workers]
        await asyncio.gather(*(worker.work(end) for worker in workers))
        for stall in stalls:
            stall.cancel()
        return end

    end = run(scenario())

    sent = sorted(moment for worker in workers for moment in worker.sent)
    assert busiest(sent, 1) <= 10
    assert busiest(sent, 60) <= 150
    assert sum(moment < end for moment in sent) >= used * seconds / 60 * 150


def live_at(per_minute: int, until: int = NOW) -> SlotWindow:
    """Returns the window of live requests that came evenly for two minutes, this many in each."""
    window = SlotWindow()
    for number in range(2 * per_minute, 0, -1):
        moment = until - number * MINUTE // per_minute
        _, window = reserve(window, moment, 1, moment + 20_000)
    return window


def with_background(window: SlotWindow, last: int) -> SlotWindow:
    return msgspec.structs.replace(window, use=msgspec.structs.replace(window.use, background=last))


class TestBackground:
    def test_an_idle_account_is_free_at_once(self) -> None:
        assert background_turn(SlotWindow(), NOW) == NOW

    def test_alone_it_uses_nearly_all_of_the_rate_evenly(self) -> None:
        window, slots, now = SlotWindow(), list[int](), NOW
        while now < NOW + 5 * MINUTE:
            now = max(now, background_turn(window, now))
            reserved, window = reserve(window, now, 1, FOREVER, is_background=True)
            slots += reserved

        assert len(slots) >= 0.97 * 5 * 150
        assert most_in(slots, 1_000) <= 3

    @pytest.mark.parametrize("live", [15, 75, 120])
    def test_it_gets_the_rest_of_the_rate(self, live: int) -> None:
        window = with_background(live_at(live), NOW)

        spacing = background_turn(window, NOW) - NOW
        assert MINUTE / spacing == pytest.approx(149 - live, abs=2)

    def test_above_the_bar_it_gets_one_slot_a_minute(self) -> None:
        window = with_background(live_at(135), NOW)

        assert background_turn(window, NOW) == NOW + BACKGROUND_LEAST_MS

    def test_nothing_is_reserved_while_live_requests_wait(self) -> None:
        window = with_background(SlotWindow(), NOW - 10_000)
        _, window = reserve(window, NOW, 10, FOREVER)

        assert background_turn(window, NOW) > NOW + YIELD_MS

    def test_one_in_a_minute_comes_after_all_that_wait(self) -> None:
        _, window = reserve(SlotWindow(), NOW, 40, FOREVER)
        window = with_background(window, NOW - 50_000)

        turn = background_turn(window, NOW)
        [slot], _ = reserve(window, turn, 1, FOREVER, is_background=True)
        assert turn == NOW
        assert slot > window.slots[-1]

    def test_it_leaves_live_requests_their_part_of_a_quota_that_others_use(self) -> None:
        quota = ReportedQuota(NOW - 1_000, NOW + 30_000, 40)
        window = msgspec.structs.replace(with_background(live_at(60), NOW), reported_quota=quota)

        assert background_turn(window, NOW) - NOW == pytest.approx(30_000 / (40 - 30 - 1), rel=0.2)

    def test_a_quota_that_live_requests_need_leaves_it_one_slot_a_minute(self) -> None:
        quota = ReportedQuota(NOW - 1_000, NOW + 30_000, 20)
        window = msgspec.structs.replace(with_background(live_at(60), NOW), reported_quota=quota)

        assert background_turn(window, NOW) == NOW + BACKGROUND_LEAST_MS

    def test_it_counts_with_the_rate_that_was_learned(self) -> None:
        learned = LearnedLimit(500, 500, 60, NOW + MINUTE)
        window = msgspec.structs.replace(with_background(live_at(55), NOW), learned=learned)

        assert background_turn(window, NOW) == NOW + BACKGROUND_LEAST_MS

    def test_a_learned_rate_that_is_tried_again_holds_it_up_no_longer(self) -> None:
        learned = LearnedLimit(150, 150, 6, NOW - 30 * MINUTE)
        window = msgspec.structs.replace(with_background(SlotWindow(), NOW), learned=learned)

        assert background_turn(window, NOW) < NOW + 500

    def test_a_slot_of_a_worker_whose_clock_is_wrong_holds_it_up_no_longer_than_a_minute(self) -> None:
        assert background_turn(with_background(SlotWindow(), NOW + 3_600_000), NOW) == NOW
        assert background_turn(SlotWindow(use=Use((NOW // MINUTE) + 60, 150)), NOW) == NOW

    def test_an_app_is_shared_alike(self) -> None:
        rate = rate_limiter.evenly_spaced(60)
        _, window = reserve(SlotWindow(), NOW, 1, FOREVER, rate)
        window = with_background(window, NOW)

        assert background_turn(window, NOW, rate) - NOW == pytest.approx(1_000, abs=50)


class TestUse:
    def test_live_slots_of_the_last_minute_are_known(self) -> None:
        use = live_at(60).use

        for passed, expected in ((0, 60), (15_000, 45), (30_000, 30), (3 * MINUTE, 0)):
            assert use.live_in_minute(NOW + passed) == pytest.approx(expected, abs=20)

    def test_slots_ahead_in_the_next_minute_are_no_use_of_this_one(self) -> None:
        minute = NOW // MINUTE
        use = Use(minute, 30).with_live([NOW + MINUTE])

        assert (use.minute, use.live, use.before) == (minute + 1, 1, 30)
        assert use.live_in_minute(NOW) == 30

    def test_minutes_without_a_slot_count_nothing(self) -> None:
        assert Use(100, 50, 40).with_live([103 * MINUTE]) == Use(103, 1, 0)
