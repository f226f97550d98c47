"""Decides when the next request of an account may go out, shared by every worker of that account.

A sliding window keeps within the upstream's fixed ones wherever they begin. The windows here are half a
second longer than the upstream's, and slots lie apart, because a request arrives later than its slot, and not
always equally late. A minute's requests are spread over it in shares. If they were all sent at once, every
worker would then wait out the rest of the minute, although it could send other accounts' events meanwhile.

A worker that misses its slot reserves a new one. Sending late could put eleven requests into one second.

Background requests (of replays and imports) and those of anonymous callers let others go first. They reserve
a slot only when the window says that others leave it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from sluice import runtime
from sluice.aws import clients, state_table
from sluice.contract import BURST_LIMIT, STEADY_LIMIT
from sluice.errors import Retryable

STEADY_WINDOW_MS: Final = 60_500  # 150 requests in it use 99.2 % of the limit
SHARES: Final = 6
SHARE_LIMIT: Final = STEADY_LIMIT // SHARES
SHARE_MS: Final = -(-STEADY_WINDOW_MS // SHARES)
BURST_WINDOW_MS: Final = 1_500
SPACING_MS: Final = BURST_WINDOW_MS // BURST_LIMIT
GUARD_MS: Final = 500  # added to a pause or a reset, because clocks and networks differ
DEFAULT_PAUSE_SECONDS: Final = 10.0  # used after a 429 without Retry-After
MAX_PAUSE_SECONDS: Final = 900.0  # used when Retry-After asks for more
# Anything further ahead was written by a worker whose clock is wrong, and is ignored.
MAX_SLOT_AHEAD_MS: Final = 60_000  # three times as long as a worker waits for one
MAX_QUOTA_AHEAD_MS: Final = 65_000
MAX_PAUSE_AHEAD_MS: Final = int(MAX_PAUSE_SECONDS * 1_000) + 60_000
BURST_PAUSE_MS: Final = 2_000  # a pause up to this is for a second's limit, a longer one for a minute's
LEARNED_BURST_MS: Final = 1_100  # holds as many slots as the upstream took requests in a second
MAX_LEARNED_SPACING_MS: Final = 3_000
LEARNED_FOR_MS: Final = 120_000  # then more is tried; doubled each time the limit is still there
LEARNED_FOR_WITH_QUOTA_MS: Final = 180_000  # the same, where answers report a quota
MAX_LEARNED_FOR_MS: Final = 900_000
TRIAL_MS: Final = 60_000  # the next trial follows after this
TRIAL_STEP: Final = 0.5  # a trial multiplies the time between slots by this
TRIAL_STEP_WITH_QUOTA: Final = 0.6  # the same, where answers report a quota
FRESH_SECONDS: Final = 1.0  # a window read longer ago is read again
CROWD_SLOTS: Final = 5  # reserved ahead, from which on a request of an anonymous caller waits
YIELD_MS: Final = 500
BACKGROUND_MAX_LOAD: Final = 0.85  # of the limit, used by live requests; above, background gets the least
BACKGROUND_LEAST_MS: Final = 55_000  # between background slots at most: a worker comes once in a minute
# A later request misses its slot. The rest of the half second by which windows are longer is for the network,
# and for workers whose clocks differ.
SLOT_TOLERANCE_SECONDS: Final = 0.2
QUOTA_TOLERANCE: Final = 10  # requests; a smaller difference of counts is no sign of other clients
_NOBODY_ELSE: Final = 2  # requests; a larger difference means that other clients send
_MINUTE_MS: Final = 60_000
_ATTEMPTS: Final = 12


class RateLimit(msgspec.Struct, frozen=True):
    """Says how slots lie: how far apart, how many at most in a share of time, and for how long they are
    known.

    All times are milliseconds.
    """

    spacing: int
    share_limit: int
    share: int
    kept: int


type Turn = Callable[["SlotWindow", int, RateLimit], int]

KLAVIYO: Final = RateLimit(SPACING_MS, SHARE_LIMIT, SHARE_MS, STEADY_WINDOW_MS)


def evenly_spaced(per_minute: int) -> RateLimit:
    """Returns the limit at which so many requests go out in a minute, all equally far apart."""
    spacing = -(-_MINUTE_MS // per_minute)
    return RateLimit(spacing, 1, spacing, spacing)


class NoSlotBeforeDeadline(Retryable):
    """Says that there is no slot before the deadline; `after` says when there will be one."""


class OthersGoFirst(NoSlotBeforeDeadline):
    """Says that a request would have had a slot, but let others go first until the deadline."""


class ReportedQuota(msgspec.Struct, frozen=True):
    """Holds the quota that the upstream reported: `remaining` requests between two moments."""

    since: int
    until: int
    remaining: int


class LearnedLimit(msgspec.Struct, frozen=True):
    """Holds what 429s say that others leave: how far apart slots must be, and how many fit into a minute.

    Where the upstream says what is left of a minute, slots are spread over it, `least_spacing` apart.
    `until` is when more is tried, because others may leave more by then; `kept_for` is how long that is.
    """

    spacing: int
    least_spacing: int
    per_minute: int
    until: int
    kept_for: int = LEARNED_FOR_MS


class Use(msgspec.Struct, frozen=True):
    """Counts the slots of live requests in a `minute` since the epoch and in the one `before`.

    `background` is the last slot of a background request, in epoch milliseconds.
    """

    minute: int = 0
    live: int = 0
    before: int = 0
    background: int = 0

    def with_live(self, slots: Iterable[int]) -> "Use":
        """Returns the use when live requests have reserved these slots, too."""
        minute, live, before = self.minute, self.live, self.before
        for slot in slots:
            passed = slot // _MINUTE_MS - minute
            if passed > 0:
                minute, live, before = minute + passed, 0, live if passed == 1 else 0
            live += 1
        return Use(minute, live, before, self.background)

    def live_in_minute(self, now: int) -> float:
        """Returns about how many slots of the last minute are those of live requests."""
        minute, passed = divmod(now, _MINUTE_MS)
        left = 1 - passed / _MINUTE_MS
        match minute - self.minute:
            case 0:
                return self.live + self.before * left
            case 1:
                return self.live * left
            case -1:
                return self.before
        return 0.0


class SlotWindow(msgspec.Struct, frozen=True):
    """Holds an account's recent and reserved slots (ascending), its pause, and the quota left by others.

    `use` says whose the slots were. All times are epoch milliseconds.
    """

    slots: tuple[int, ...] = ()
    paused_until: int = 0
    reported_quota: ReportedQuota | None = None
    learned: LearnedLimit | None = None
    use: Use = Use()


def reserve(
    window: SlotWindow,
    now: int,
    count: int,
    latest: int,
    rate: RateLimit = KLAVIYO,
    *,
    is_background: bool = False,
) -> tuple[list[int], SlotWindow]:
    """Returns up to `count` slots from `now` on, none after `latest`, and the window with them in it."""
    window = believable(window, now)
    slots = [slot for slot in window.slots if slot > now - rate.kept]
    reserved: list[int] = []
    while len(reserved) < count and (slot := _next(slots, window, now, rate)) <= latest:
        slots.append(slot)
        reserved.append(slot)
    use = window.use
    if not is_background:
        use = use.with_live(reserved)
    elif reserved:
        use = msgspec.structs.replace(use, background=reserved[-1])
    return reserved, msgspec.structs.replace(window, slots=tuple(slots), use=use)


def next_slot(window: SlotWindow, now: int, rate: RateLimit = KLAVIYO) -> int:
    """Returns the first free slot."""
    window = believable(window, now)
    return _next([slot for slot in window.slots if slot > now - rate.kept], window, now, rate)


def pause(window: SlotWindow, until: int) -> SlotWindow:
    """Returns the window in which nobody may send before `until`."""
    return msgspec.structs.replace(window, paused_until=max(window.paused_until, until + GUARD_MS))


def believable(window: SlotWindow, now: int) -> SlotWindow:
    """Returns a window without what is further ahead than anybody can have meant."""
    quota, learned, use = window.reported_quota, window.learned, window.use
    return SlotWindow(
        tuple(slot for slot in window.slots if slot <= now + MAX_SLOT_AHEAD_MS),
        window.paused_until if window.paused_until <= now + MAX_PAUSE_AHEAD_MS else 0,
        quota if quota is not None and quota.until <= now + MAX_QUOTA_AHEAD_MS else None,
        learned if learned is not None and learned.until <= now + MAX_LEARNED_FOR_MS + 60_000 else None,
        use if max(use.background, use.minute * _MINUTE_MS) <= now + MAX_SLOT_AHEAD_MS else Use(),
    )


def refuse(window: SlotWindow, slot: int, now: int, pause_ms: int) -> SlotWindow:
    """Returns the window when the request of `slot` was answered 429, and nobody may send for a while.

    The requests that were taken just before it are what others leave of the limit that it met.
    """
    taken = tuple(other for other in window.slots if other != slot)
    window = pause(msgspec.structs.replace(window, slots=taken), now + pause_ms)
    known = window.learned or LearnedLimit(0, 0, 0, 0)
    if slot < known.until - known.kept_for:
        return window  # it was on its way when that was learned
    spacing, least, per_minute = known.spacing, known.least_spacing, known.per_minute
    count = sum(slot - 1_000 < other < slot for other in taken)
    # A minute that is about to end is as short as a second. It is the minute if more were taken in a second
    # just before.
    if pause_ms <= BURST_PAUSE_MS and _busiest_second(taken, slot) <= count:
        spacing = LEARNED_BURST_MS // max(1, count)
        if known.spacing and spacing <= known.spacing and now < known.until:
            spacing = known.spacing * 5 // 4
        spacing = min(spacing, MAX_LEARNED_SPACING_MS)
        quota = window.reported_quota
        is_spread = known.spacing and quota is not None and quota.since < slot < quota.until
        least = spacing if is_spread else known.least_spacing
    else:
        per_minute = max(1, sum(now + pause_ms - _MINUTE_MS < other < slot for other in taken))
    is_confirmed = window.learned and spacing >= 0.8 * known.spacing and per_minute <= 1.25 * known.per_minute
    first = LEARNED_FOR_WITH_QUOTA_MS if window.reported_quota else LEARNED_FOR_MS
    kept_for = min(2 * known.kept_for, MAX_LEARNED_FOR_MS) if is_confirmed else first
    learned = LearnedLimit(spacing, least, per_minute, now + kept_for, kept_for)
    return msgspec.structs.replace(window, learned=learned)


def _busiest_second(slots: Iterable[int], before: int) -> int:
    """Returns the most requests of a second, of those whose answers came before that of the slot `before`."""
    near = [slot for slot in slots if before - 13_000 < slot <= before - 3_000]
    return max((sum(slot - 1_000 < other <= slot for other in near) for slot in near), default=0)


def observe(window: SlotWindow, slot: int, remaining: int, reset: int) -> SlotWindow | None:
    """Returns the window after the answer to the request of `slot` reported `remaining` until `reset`.

    Returns None if that is no news: our own requests, and known ones of others, account for it.
    """
    ours = sum(reset - _MINUTE_MS <= sent <= slot for sent in window.slots)
    expected = STEADY_LIMIT - ours
    known = window.reported_quota
    if known is not None and known.since <= slot < known.until:
        expected = known.remaining - sum(known.since < sent <= slot for sent in window.slots)
    is_alone = ours > STEADY_LIMIT // 2 and remaining >= STEADY_LIMIT - ours - _NOBODY_ELSE
    if is_alone and window.learned is not None and slot > window.learned.until:
        return msgspec.structs.replace(window, learned=None)
    is_new = known is None or slot >= known.until
    if remaining >= expected - min(QUOTA_TOLERANCE, remaining // 2) and not (is_new and window.learned):
        return None
    return msgspec.structs.replace(window, reported_quota=ReportedQuota(slot, reset, remaining))


def is_still_valid(window: SlotWindow, slot: int) -> bool:
    """Tells whether a reserved slot may still be used, and is not lost to a pause or to others' requests."""
    left = window.reported_quota
    if slot < window.paused_until:
        return False
    if (known := window.learned) is not None:
        # It may be reserved before that was learned. A reported quota may allow nearer slots.
        before = [other for other in window.slots if other < slot]
        if slot <= known.until and before:
            near = min(known.spacing, _learned_spacing(before, window, slot)) * TRIAL_STEP_WITH_QUOTA
            if before[-1] > slot - near:
                return False
    if left is None or not left.since < slot < left.until:
        return True
    return sum(left.since < sent <= slot for sent in window.slots) <= left.remaining


def _next(slots: list[int], window: SlotWindow, now: int, rate: RateLimit) -> int:
    slot = max(now, window.paused_until)
    if slots:
        slot = max(slot, slots[-1] + max(rate.spacing, _learned_spacing(slots, window, now)))
    if len(slots) >= rate.share_limit:
        slot = max(slot, slots[-rate.share_limit] + rate.share)
    left = window.reported_quota
    if left is not None and slot < left.until and sum(sent > left.since for sent in slots) >= left.remaining:
        slot = left.until + GUARD_MS
    return slot


def _learned_spacing(slots: list[int], window: SlotWindow, now: int) -> int:
    """Returns how far apart slots must be at least, by what was learned from 429s."""
    learned, quota = window.learned, window.reported_quota
    if learned is None:
        return 0
    trials = 0 if now < learned.until else 1 + (now - learned.until) // TRIAL_MS
    step = TRIAL_STEP_WITH_QUOTA if quota else TRIAL_STEP
    factor = step ** min(trials, 50)
    spacing = learned.spacing * factor
    if quota is not None and quota.since <= max(now, slots[-1]) < quota.until:
        left = quota.remaining - sum(sent > quota.since for sent in slots)
        spread = (quota.until - BURST_PAUSE_MS - max(slots[-1], quota.since)) / max(1, left)
        # A minute that leaves far more than that allows is not the one in which it was learned.
        spacing = max(spread, least) if spread > step * (least := learned.least_spacing * factor) else spread
    elif quota is not None:
        spacing = max(spacing, LEARNED_BURST_MS)  # the first answer of a minute will say what is left of it
    elif learned.per_minute:
        spacing = max(spacing, STEADY_WINDOW_MS * factor / learned.per_minute)
    return int(spacing)


def anonymous_turn(window: SlotWindow, now: int, rate: RateLimit = KLAVIYO) -> int:  # noqa: ARG001
    """Returns the moment from which a request of an anonymous caller may have a slot, by what is known `now`.

    If many slots are reserved ahead, those who wait are more than the rate allows, and go first.
    """
    return now + 2 * YIELD_MS if sum(slot > now for slot in window.slots) >= CROWD_SLOTS else now


def background_turn(window: SlotWindow, now: int, rate: RateLimit = KLAVIYO) -> int:
    """Returns the moment from which a background request may have a slot, by what is known `now`.

    Background slots lie evenly in what live requests leave of the rate, and none is reserved while a live
    request waits. One in a minute is reserved in any case.
    """
    window = believable(window, now)
    free = next_slot(window, now, rate)
    at_last = window.use.background + BACKGROUND_LEAST_MS
    if free >= at_last:
        return now
    turn = max(now, window.use.background + _background_spacing(window, now, rate))
    if free > turn + YIELD_MS:  # a live request waits
        turn = now + 2 * YIELD_MS
    return min(turn, at_last)


def _background_spacing(window: SlotWindow, now: int, rate: RateLimit) -> int:
    """Returns how far apart background slots are, so that they fill what live requests leave."""
    live = window.use.live_in_minute(now)
    allowed = rate.share_limit * _MINUTE_MS / rate.share
    learned = window.learned
    if learned is not None and learned.per_minute and now < learned.until:
        allowed = min(allowed, learned.per_minute)
    if live > BACKGROUND_MAX_LOAD * allowed:
        return BACKGROUND_LEAST_MS
    spacing = _MINUTE_MS / (allowed - live)
    quota = window.reported_quota
    if quota is not None and quota.since <= now < quota.until:
        rest = quota.until - now
        left = quota.remaining - sum(sent > quota.since for sent in window.slots) - live * rest / _MINUTE_MS
        spacing = max(spacing, rest / left) if left > 0 else BACKGROUND_LEAST_MS
    return min(int(spacing), BACKGROUND_LEAST_MS)


class RateLimiter:
    """Limits one account's requests, with its window in the state table, for the coroutines of one
    invocation.

    `deadline` (epoch seconds) is when a request must have gone out at the latest. As many slots as coroutines
    wait for are reserved by one read and one write. If it `is_background`, all of its requests let live ones
    go first.
    """

    def __init__(
        self,
        table: str,
        account_id: str,
        deadline: float,
        clock: Callable[[], float] = runtime.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        rate: RateLimit = KLAVIYO,
        is_background: bool = False,
    ) -> None:
        self._table = table
        self._key: Any = state_table.RATE_LIMIT.key(account_id)
        self._latest = int(deadline * 1_000)
        self._clock = clock
        self._sleep = sleep
        self._rate = rate
        self._is_background = is_background
        self._yielding = asyncio.Lock()  # held by the coroutine that waits for a slot that others leave
        self._lock = asyncio.Lock()
        self._reserved: list[int] = []
        self._ahead = 0.0  # seconds that the table takes; a nearer slot would be late
        self._waiting = 0
        self._known = SlotWindow()
        self._known_at = 0.0
        self._exhausted = False

    async def acquire(self, *, yields: bool = False) -> int:
        """Waits for a slot and returns it; raises `NoSlotBeforeDeadline` if none is before the deadline.

        A request that `yields` is an anonymous caller's. It reserves no slot while others wait for theirs, in
        any worker.
        """
        while True:
            if self._is_background:
                slot = await self._take_left_slot(background_turn)
            elif yields:
                slot = await self._take_left_slot(anonymous_turn)
            else:
                slot = await self._take_slot()
            await self._wait_until(slot / 1_000 - self._ahead)
            await self._refresh()
            await self._wait_until(slot / 1_000)
            if is_still_valid(self._known, slot) and self._clock() - slot / 1_000 <= SLOT_TOLERANCE_SECONDS:
                return slot

    async def pause(self, seconds: float | None, slot: int | None = None) -> None:
        """Keeps every worker of the account from sending for so long.

        If the request of `slot` was answered 429, the limit that it met is learned.
        """
        wait = DEFAULT_PAUSE_SECONDS if seconds is None else min(seconds, MAX_PAUSE_SECONDS)
        now, pause_ms = self._now(), int(wait * 1_000)

        def change(window: SlotWindow) -> tuple[None, SlotWindow]:
            if slot is None:
                return None, pause(window, now + pause_ms)
            return None, refuse(window, slot, now, pause_ms)

        async with self._lock:
            if slot is not None or now + pause_ms > self._known.paused_until:
                await asyncio.to_thread(self._change, change)

    async def observe(self, slot: int, remaining: int, reset_seconds: float) -> None:
        """Records the quota that an answer reports, if other clients of the account used some of it.

        A failure to record it is no error, because a 429 will tell.
        """
        reset = int((self._clock() + min(reset_seconds, _MINUTE_MS / 1_000)) * 1_000)
        async with self._lock:
            if observe(self._known, slot, remaining, reset) is not None:
                with contextlib.suppress(Retryable):
                    await asyncio.to_thread(
                        self._change, lambda window: (None, observe(window, slot, remaining, reset))
                    )

    async def _take_slot(self) -> int:
        self._waiting += 1
        try:
            await asyncio.sleep(0)  # coroutines that are about to wait are counted, too
            async with self._lock:
                if not self._reserved:
                    self._reserved = await self._in_thread(self._reserve, self._waiting)
                return self._reserved.pop(0)
        finally:
            self._waiting -= 1

    async def _take_left_slot(self, turn_of: Turn) -> int:
        """Reserves a slot that others leave, one coroutine at a time: the next looks at what is left then."""
        async with self._yielding:
            while True:
                async with self._lock:
                    reserved, wait = await self._in_thread(self._reserve_left, turn_of)
                if reserved:
                    return reserved[0]
                if not wait:
                    after = (next_slot(self._known, self._now(), self._rate) - self._now()) / 1_000
                    raise NoSlotBeforeDeadline("no slot before the deadline", after)
                if self._now() + wait > self._latest:
                    raise OthersGoFirst("others wait for all slots before the deadline", wait / 1_000)
                await self._sleep(wait / 1_000)

    async def _wait_until(self, moment: float) -> None:
        await self._sleep(max(0.0, moment - self._clock()))

    async def _refresh(self) -> None:
        async with self._lock:
            if self._clock() - self._known_at > FRESH_SECONDS:
                await self._in_thread(self._change, lambda _: (None, None))

    async def _in_thread[**P, T](self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        begin = self._clock()
        result = await asyncio.to_thread(call, *args, **kwargs)
        self._ahead = self._clock() - begin
        return result

    def _reserve(self, count: int) -> list[int]:
        def change(window: SlotWindow) -> tuple[list[int], SlotWindow | None]:
            earliest = self._now() + int(self._ahead * 1_000)
            slots, changed = reserve(window, earliest, count, self._latest, self._rate)
            return slots, changed if slots else None

        slots = [] if self._exhausted else self._change(change)
        if not slots:
            self._exhausted = True
            now = self._now()
            after = (next_slot(self._known, now, self._rate) - now) / 1_000
            raise NoSlotBeforeDeadline("no slot before the deadline", after)
        return slots

    def _reserve_left(self, turn_of: Turn) -> tuple[list[int], int]:
        """Returns a slot if there is one before the deadline, or the milliseconds to let others go first."""

        def change(window: SlotWindow) -> tuple[tuple[list[int], int], SlotWindow | None]:
            earliest = self._now() + int(self._ahead * 1_000)
            turn = turn_of(window, earliest, self._rate)
            if turn > earliest + YIELD_MS:
                return ([], turn - earliest - YIELD_MS), None
            slots, changed = reserve(
                window, turn, 1, self._latest, self._rate, is_background=self._is_background
            )
            return (slots, 0), changed if slots else None

        return self._change(change)

    def _now(self) -> int:
        return int(self._clock() * 1_000)

    def _change[T](self, change: Callable[[SlotWindow], tuple[T, SlotWindow | None]]) -> T:
        """Applies a pure change to the stored window, again and again until nobody came between."""
        for attempt in range(_ATTEMPTS):
            window, version = self._load()
            result, changed = change(window)
            if changed is None or self._store(changed, version):
                self._known, self._known_at = changed or window, self._clock()
                return result
            runtime.sleep(runtime.chance().uniform(0, 0.01 * 2 ** min(attempt, 5)))
        raise Retryable("too many workers reserve slots of the account at the same time")

    def _load(self) -> tuple[SlotWindow, int]:
        with clients.failing_fast(clients.dynamodb, "the state table cannot be read") as client:
            answer = client.get_item(TableName=self._table, Key=self._key, ConsistentRead=True)
        item = answer.get("Item")
        if item is None:
            return SlotWindow(), 0
        return believable(window_of(item), self._now()), int(item["version"]["N"])

    def _store(self, window: SlotWindow, version: int) -> bool:
        item: Any = {
            **self._key,
            **_attributes(window),
            "version": {"N": str(version + 1)},
            "expires_at": state_table.RATE_LIMIT.expiry(self._clock()),
        }
        with clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client:
            try:
                client.put_item(
                    TableName=self._table,
                    Item=item,
                    ConditionExpression="attribute_not_exists(pk) OR version = :version",
                    ExpressionAttributeValues={":version": {"N": str(version)}},
                )
            except client.exceptions.ConditionalCheckFailedException:
                return False
        return True


def _attributes(window: SlotWindow) -> dict[str, Any]:
    item: dict[str, Any] = {
        "slots": {"B": _pack(window.slots)},
        "paused_until": {"N": str(window.paused_until)},
        "use": {"L": [{"N": str(number)} for number in msgspec.structs.astuple(window.use)]},
    }
    if window.reported_quota is not None:
        numbers = msgspec.structs.astuple(window.reported_quota)
        item["allowance"] = {"L": [{"N": str(number)} for number in numbers]}
    if window.learned is not None:
        item["learned"] = {"L": [{"N": str(number)} for number in msgspec.structs.astuple(window.learned)]}
    return item


def window_of(item: Mapping[str, Any]) -> SlotWindow:
    """Returns the window that an item of the state table holds."""
    numbers = [int(number["N"]) for number in item["allowance"]["L"]] if "allowance" in item else None
    use = [int(number["N"]) for number in item["use"]["L"]] if "use" in item else ()
    return SlotWindow(
        _unpack(item["slots"]["B"]),
        int(item["paused_until"]["N"]),
        ReportedQuota(*numbers) if numbers else None,
        LearnedLimit(*(int(number["N"]) for number in item["learned"]["L"])) if "learned" in item else None,
        Use(*use),
    )


_SLOT_BYTES: Final = 6  # 150 of them and the rest stay under 1 KB: one write unit


def _pack(slots: tuple[int, ...]) -> bytes:
    return b"".join(slot.to_bytes(_SLOT_BYTES) for slot in slots)


def _unpack(packed: bytes) -> tuple[int, ...]:
    starts = range(0, len(packed), _SLOT_BYTES)
    return tuple(int.from_bytes(packed[start : start + _SLOT_BYTES]) for start in starts)
