"""When the next request of an account may go out, shared by every worker of that account.

A sliding window satisfies the upstream's fixed ones wherever they begin. The windows here are a
little longer than the upstream's, and slots lie apart, because a request reaches it later than it was
sent, and not always equally much later.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec

from sluice import aws
from sluice.contract import BURST_LIMIT, STEADY_LIMIT
from sluice.errors import Retryable

STEADY_MS: Final = 60_500  # 150 in this is 99.2 % of the limit's rate
BURST_MS: Final = 1_250
SPACING_MS: Final = BURST_MS // BURST_LIMIT
DEFAULT_PAUSE_SECONDS: Final = 10.0  # after a 429 that does not say for how long
_ATTEMPTS: Final = 12
_KEEP_SECONDS: Final = 3_600


class OutOfTime(Retryable):
    """No slot before the given deadline. `after` says when there would be one."""


class Window(msgspec.Struct, frozen=True):
    """An account's recent and reserved slots (epoch milliseconds, ascending), and its pause."""

    slots: tuple[int, ...] = ()
    paused_until: int = 0


def reserve(window: Window, now: int, count: int, latest: int) -> tuple[list[int], Window]:
    """Up to `count` slots from `now` on, none after `latest`, and the window with them in it.

    All in epoch milliseconds.
    """
    slots = [slot for slot in window.slots if slot > now - STEADY_MS]
    reserved: list[int] = []
    while len(reserved) < count and (slot := _next(slots, window.paused_until, now)) <= latest:
        slots.append(slot)
        reserved.append(slot)
    return reserved, Window(tuple(slots), window.paused_until)


def next_slot(window: Window, now: int) -> int:
    """The first free slot, in epoch milliseconds."""
    slots = [slot for slot in window.slots if slot > now - STEADY_MS]
    return _next(slots, window.paused_until, now)


def _next(slots: list[int], paused_until: int, now: int) -> int:
    slot = max(now, paused_until)
    if slots:
        slot = max(slot, slots[-1] + SPACING_MS)
    if len(slots) >= STEADY_LIMIT:
        slot = max(slot, slots[-STEADY_LIMIT] + STEADY_MS)
    return slot


class Pace:
    """One account's pace, kept in the state table, for the coroutines of one invocation.

    `deadline` (epoch seconds) is when a request must have gone out at the latest.
    """

    def __init__(
        self, table: str, site_id: str, deadline: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._table = table
        self._key = f"pace#{site_id}"
        self._deadline = deadline
        self._clock = clock
        self._lock = asyncio.Lock()
        self._reserved: list[int] = []
        self._waiting = 0
        self._paused_until = 0
        self._exhausted: OutOfTime | None = None

    async def turn(self) -> None:
        """Returns when one request may go out; raises `OutOfTime` where that is after the deadline."""
        self._waiting += 1
        try:
            async with self._lock:
                slot = await self._take()
        finally:
            self._waiting -= 1
        await asyncio.sleep(max(0.0, slot / 1_000 - self._clock()))
        if slot < self._paused_until:
            await self.turn()

    async def pause(self, seconds: float | None) -> None:
        """Keeps every worker of the account from sending for so long."""
        wait = DEFAULT_PAUSE_SECONDS if seconds is None else seconds
        until = int((self._clock() + wait) * 1_000)
        async with self._lock:
            if until <= self._paused_until:
                return
            self._paused_until = until
            self._reserved.clear()
            await asyncio.to_thread(self._change, lambda window: (None, _paused(window, until)))

    async def _take(self) -> int:
        if self._exhausted is not None:
            raise self._exhausted
        if not self._reserved:
            latest = int(self._deadline * 1_000)
            wanted = self._waiting
            try:
                self._reserved = await asyncio.to_thread(self._reserve, wanted, latest)
            except OutOfTime as error:
                self._exhausted = error
                raise
        return self._reserved.pop(0)

    def _reserve(self, count: int, latest: int) -> list[int]:
        now = int(self._clock() * 1_000)
        free = now

        def change(window: Window) -> tuple[list[int], Window | None]:
            nonlocal free
            slots, changed = reserve(window, now, count, latest)
            free = next_slot(window, now)
            return slots, changed if slots else None

        slots = self._change(change)
        if not slots:
            raise OutOfTime("no slot within this invocation", after=(free - now) / 1_000)
        return slots

    def _change[T](self, change: Callable[[Window], tuple[T, Window | None]]) -> T:
        """Applies a pure change to the stored window, again and again until nobody came between."""
        for attempt in range(_ATTEMPTS):
            window, version = self._load()
            result, changed = change(window)
            if changed is None or self._store(changed, version):
                return result
            time.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 5)))  # noqa: S311
        raise Retryable("the pace is contended")

    def _load(self) -> tuple[Window, int]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        try:
            answer = aws.dynamodb().get_item(
                TableName=self._table, Key={"pk": {"S": self._key}}, ConsistentRead=True
            )
        except (BotoCoreError, ClientError) as error:
            raise Retryable("the state table cannot be read") from error
        item = answer.get("Item")
        if item is None:
            return Window(), 0
        window = Window(_unpack(item["slots"]["B"]), int(item["paused_until"]["N"]))
        return window, int(item["version"]["N"])

    def _store(self, window: Window, version: int) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        client = aws.dynamodb()
        try:
            client.put_item(
                TableName=self._table,
                Item={
                    "pk": {"S": self._key},
                    "slots": {"B": _pack(window.slots)},
                    "paused_until": {"N": str(window.paused_until)},
                    "version": {"N": str(version + 1)},
                    "expires_at": {"N": str(int(self._clock()) + _KEEP_SECONDS)},
                },
                ConditionExpression="attribute_not_exists(pk) OR version = :version",
                ExpressionAttributeValues={":version": {"N": str(version)}},
            )
        except client.exceptions.ConditionalCheckFailedException:
            return False
        except (BotoCoreError, ClientError) as error:
            raise Retryable("the state table cannot be written") from error
        return True


def _paused(window: Window, until: int) -> Window:
    return Window(window.slots, max(window.paused_until, until))


_SLOT_BYTES: Final = 6  # 150 of them and the rest stay under 1 KB: one write unit


def _pack(slots: tuple[int, ...]) -> bytes:
    return b"".join(slot.to_bytes(_SLOT_BYTES) for slot in slots)


def _unpack(packed: bytes) -> tuple[int, ...]:
    starts = range(0, len(packed), _SLOT_BYTES)
    return tuple(int.from_bytes(packed[start : start + _SLOT_BYTES]) for start in starts)
