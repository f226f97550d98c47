"""Plays hours of queue, workers and upstream in seconds: the real dispatch and fake upstream in simulated
time.

A `World` has an SQS queue with visibility, receive counts and a dead-letter queue, workers that poll it as
Lambda does, the shared state through which the workers coordinate, and the fake upstream. Only the clock
moves: a sleep costs no time, and nothing here opens a socket.
"""

import asyncio
import contextlib
import heapq
import itertools
import random
import selectors
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from devstack.fake_upstream import Klaviyo
from sluice import dispatch, message
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp
from sluice.contract import BULK_CREATE_JOBS_PATH, UPSTREAM_REVISION
from sluice.delivery import backoff, poison, rate_limiter
from sluice.delivery.circuit_breaker import CircuitState
from sluice.delivery.http import AcquireSlot
from sluice.delivery.lone_refusals import Change, RefusalRecord
from sluice.delivery.responses import Response
from sluice.errors import Retryable
from sluice.message import Message

if TYPE_CHECKING:
    from sluice.rejection import Rejection

START = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
VISIBILITY_TIMEOUT = 1_380.0
MEMORY_BYTES = 400 * 2**20
FUNCTION_SECONDS = 120.0
REQUEST_SECONDS = 20.0
PROBES = 2


class Killed(BaseException):
    """Ends the process of an invocation: nothing after this runs, and no answer is given."""


class Clock:
    """Keeps the simulated time in seconds; several loops may move it."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now


class _Selector(selectors.SelectSelector):
    """Moves time on where a loop would wait; while a thread is at work for it, time stands still."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.working = 0

    def select(self, timeout: float | None = None) -> Any:
        if self.working:
            return super().select(0 if timeout == 0 else None)
        self._clock.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moving = _Selector(clock)
        super().__init__(self._moving)
        self._clock_resolution = 1e-6  # what seconds since the epoch can tell apart as a float

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        self._moving.working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._stop_working)
        return future

    def stop_time(self) -> None:
        """Lets what is left of its threads end in their own time."""
        self._moving.working += 1

    def _stop_working(self, _: object) -> None:
        self._moving.working -= 1


def run[T](coroutine: Coroutine[Any, Any, T], clock: Clock | None = None) -> T:
    """Runs a coroutine in pretended time, which begins at 0 or goes on where a clock is."""
    loop = _Loop(clock or Clock())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(coroutine)
        finally:
            loop.stop_time()


class Waiting(msgspec.Struct):
    """Holds a message on the queue."""

    id: int
    body: str
    sent: float
    resumed: bool = False
    probe: bool = False
    receives: int = 0


class Queue:
    """Plays SQS as far as dispatch can tell: visibility, receive counts, a dead-letter queue."""

    def __init__(self, clock: Any, receive_count: int) -> None:
        self._clock = clock
        self._receive_count = receive_count
        self._order = itertools.count()
        self._visible: list[tuple[float, int, Waiting]] = []
        self._hidden: list[tuple[float, int, Waiting]] = []
        self._handled = 0
        self.dead: list[Waiting] = []
        self.receives = 0
        self.most_in_flight = 0

    def __len__(self) -> int:
        return len(self._visible) + len(self._hidden)

    def send(self, body: str, *, resumed: bool = False, probe: bool = False) -> None:
        waiting = Waiting(next(self._order), body, self._clock(), resumed, probe)
        self._show(waiting, self._clock())

    def send_first(self, stored: Message[Any]) -> None:
        """Sends a message to the front, as fair queues do for an account that is not the one with the
        backlog.
        """
        waiting = Waiting(next(self._order), message.encode(stored).text, self._clock())
        self._show(waiting, 0.0)

    def receive(self, most: int) -> list[Waiting]:
        now = self._clock()
        while self._hidden and self._hidden[0][0] <= now:
            heapq.heappush(self._visible, heapq.heappop(self._hidden))
        batch: list[Waiting] = []
        while len(batch) < most and self._visible:
            waiting = heapq.heappop(self._visible)[2]
            if waiting.receives >= self._receive_count:
                self.dead.append(waiting)
                continue
            waiting.receives += 1
            self.receives += 1
            batch.append(waiting)
        self._handled += len(batch)
        self.most_in_flight = max(self.most_in_flight, self._handled + len(self._hidden))
        return batch

    def next_visible(self) -> float:
        """Returns when a message is there to receive."""
        if self._visible:
            return float(self._clock())
        return self._hidden[0][0] if self._hidden else self._clock() + 1.0

    def postpone(self, waiting: Waiting, seconds: float) -> None:
        self._handled -= 1
        heapq.heappush(self._hidden, (self._clock() + seconds, next(self._order), waiting))

    def delete(self, count: int) -> None:
        """Forgets messages that were received and are done."""
        self._handled -= count

    def _show(self, waiting: Waiting, at: float) -> None:
        heapq.heappush(self._visible, (at, next(self._order), waiting))


class _RateLimiter:
    """Runs the pure rate limiter over a window in memory instead of the state table."""

    def __init__(self, world: "World", site_id: str, deadline: float) -> None:
        self._world = world
        self._site_id = site_id
        self._deadline = int(deadline * 1_000)

    async def acquire(self) -> int:
        self._world.meet_trouble()
        now = int(self._world.clock() * 1_000)
        window = self._world.windows[self._site_id]
        rate = self._world.rate
        slots, self._world.windows[self._site_id] = rate_limiter.reserve(window, now, 1, self._deadline, rate)
        if not slots:
            raise rate_limiter.NoSlotBeforeDeadline(
                "no slot", after=(rate_limiter.next_slot(window, now, rate) - now) / 1_000
            )
        await asyncio.sleep(slots[0] / 1_000 - self._world.clock())
        return slots[0]

    async def pause(self, seconds: float | None, slot: int) -> None:
        self._world.meet_trouble()
        wait = rate_limiter.DEFAULT_PAUSE_SECONDS if seconds is None else seconds
        now, window = int(self._world.clock() * 1_000), self._world.windows[self._site_id]
        self._world.windows[self._site_id] = rate_limiter.refuse(window, slot, now, int(wait * 1_000))

    async def observe(self, slot: int, remaining: int, reset_seconds: float) -> None:
        window = self._world.windows[self._site_id]
        reset = int((self._world.clock() + reset_seconds) * 1_000)
        self._world.windows[self._site_id] = rate_limiter.observe(window, slot, remaining, reset) or window


class World:
    """Holds everything around `dispatch.dispatch`, in memory; `seed` decides everything that is random."""

    def __init__(
        self,
        accounts: dict[str, str],
        *,
        seed: int = 0,
        workers: int = 5,
        batch: int = 10_000,
        receive_count: int = 50,
        latency: float = 0.3,
        rate: rate_limiter.RateLimit = rate_limiter.KLAVIYO,
        trouble: float = 0.0,
    ) -> None:
        self.chance = random.Random(seed)
        self.accounts = Accounts(tuple(KlaviyoAccount(site_id, key) for site_id, key in accounts.items()))
        self.klaviyo = Klaviyo(accounts, clock=self.clock)
        self.queue = Queue(self.clock, receive_count)
        self.windows: dict[str, rate_limiter.SlotWindow] = defaultdict(rate_limiter.SlotWindow)
        self.circuits: dict[str, int] = {}
        self.refusals: dict[str, RefusalRecord] = {}
        self.parked: dict[str, list[list[bytes]]] = defaultdict(list)  # objects of messages, the oldest first
        self.receipts: dict[str, set[int]] = defaultdict(set)
        self.trials: Counter[int] = Counter()
        self.unfinished: list[frozenset[int]] = []  # what was in hand when a worker was killed, by its ids
        self.rejections: list[Rejection] = []
        self.counts: Counter[str] = Counter()
        self.kill_at: set[int] = set()  # numbers of upstream requests after which the sender is killed
        self.poison: str | None = None  # a worker that decodes a body with this in it is killed
        self.answer: Callable[[bytes], Response | None] = lambda body: (
            None
        )  # what is said instead of taking it
        self._workers = workers
        self._batch = batch
        self._latency = latency
        self._trouble = trouble  # the probability that AWS fails a call, before it is done or after
        self.rate = rate
        self.requests = 0
        self._busy = 0
        self._stopping = False

    def clock(self) -> float:
        """Returns the seconds since the epoch, in simulated time."""
        try:
            return START + asyncio.get_running_loop().time()
        except RuntimeError:
            return START

    def put(self, stored: Message[Any]) -> None:
        """Puts an accepted request on the queue."""
        self.queue.send(message.encode(stored).text)

    async def sleep(self, seconds: float) -> None:
        """Lets pretended time pass."""
        await asyncio.sleep(seconds)

    async def work_until_done(self, limit: float) -> float:
        """Lets the workers run until nothing is left, at most `limit` seconds; seconds it took."""
        begin = self.clock()
        async with self.working():
            while self.clock() - begin < limit:
                await asyncio.sleep(1.0)
                if not self._busy and not self.queue and not any(self.parked.values()):
                    break
            return self.clock() - begin

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Runs the workers and the minute's tick; at the end of the block they finish their work."""
        self._stopping = False
        workers = [asyncio.create_task(self._worker()) for _ in range(self._workers)]
        ticks = asyncio.create_task(self._ticks())
        try:
            yield
        finally:
            self._stopping = True
            ticks.cancel()
            await asyncio.gather(*workers)

    async def _worker(self) -> None:
        while not self._stopping:
            batch = self.queue.receive(self._batch)
            if not batch:
                await asyncio.sleep(min(10.0, max(1.0, self.queue.next_visible() - self.clock())))
                continue
            self._busy += 1
            try:
                await self._invoke(dict(enumerate(batch)))
            except* Killed:
                self.counts["Killed"] += 1
            finally:
                self._busy -= 1

    async def _invoke(self, batch: dict[int, Waiting]) -> None:
        left = set(batch)
        now = self.clock()
        numbers = {waiting.id: number for number, waiting in batch.items()}
        newest = self.unfinished[-poison.MAX_JOURNAL_ENTRIES :]
        crash_groups = [{numbers[each] for each in group & numbers.keys()} for group in newest]
        sizes = {number: message.unpacked_size(waiting.body) for number, waiting in batch.items()}
        last_send = now + FUNCTION_SECONDS - REQUEST_SECONDS - 8
        try:
            for part in poison.split_batch(sizes, crash_groups, MEMORY_BYTES, self.chance):
                with self._in_hand([batch[number] for number in part]) as culprit:
                    records = {number: _record(batch[number], culprit) for number in part}
                    if self.poison and any(
                        self.poison in r.body and not r.is_poison for r in records.values()
                    ):
                        raise BaseExceptionGroup("killed", [Killed()])
                    outcome = await dispatch.dispatch_part(
                        records, self._ports(min(last_send, self.clock() + 20))
                    )
                self.counts.update(outcome.counts)
                self.rejections += [refusal.rejection for refusal in outcome.refusals]
                for refusal in outcome.refusals:
                    if refusal.receipt:
                        self.receipts[refusal.receipt].update(refusal.positions)
                for number, wait in outcome.retry.items():
                    waiting = batch[number]
                    self.queue.postpone(waiting, backoff.delay(waiting.receives, wait, self.chance))
                self.queue.delete(len(part) - len(outcome.retry))
                left -= set(part)
        finally:
            for number in left:
                self.queue.postpone(batch[number], VISIBILITY_TIMEOUT - (self.clock() - now))

    @contextlib.contextmanager
    def _in_hand(self, part: list[Waiting]) -> Iterator[bool]:
        """Records a part in the in-flight journal; tells whether the part is known to end its process."""
        ids = [waiting.id for waiting in part]
        noted = any(waiting.receives > 1 for waiting in part)
        if noted and len(ids) > 1:
            self.unfinished.append(frozenset(ids))
        elif noted:
            self.trials[ids[0]] += 1
        yield self.trials[ids[0]] > poison.MAX_SOLO_CRASHES
        if noted and len(ids) > 1:
            self.unfinished.remove(frozenset(ids))
        elif noted:
            del self.trials[ids[0]]

    async def _ticks(self) -> None:
        """Does each minute what resume does."""
        while True:
            await asyncio.sleep(60.0)
            for site_id, objects in self.parked.items():
                is_open = site_id in self.circuits
                for bodies in objects[:PROBES] if is_open else objects:
                    due = bodies[:1] if is_open else bodies[:]
                    del bodies[: len(due)]
                    for body in due:
                        self.queue.send(body.decode(), resumed=True, probe=is_open)
                objects[:] = filter(None, objects)

    def _ports(self, deadline: float) -> SimpleNamespace:
        async def state(account_id: str) -> CircuitState:
            refusals = self.refusals.get(account_id, RefusalRecord())
            return CircuitState(account_id in self.circuits, refusals)

        async def open_circuit(account_id: str, status: int) -> bool:
            was_closed = account_id not in self.circuits
            self.circuits.setdefault(account_id, status)
            return was_closed

        async def close_circuit(account_id: str) -> None:
            self.circuits.pop(account_id, None)

        async def park(account_id: str, messages: list[bytes], is_known: bool = True) -> None:
            self.parked[account_id].append(messages)

        async def done(receipts: list[str]) -> dict[str, frozenset[int]]:
            return {receipt: frozenset(self.receipts[receipt]) for receipt in receipts}

        async def delivered(receipt: str, positions: list[int]) -> None:
            self.receipts[receipt].update(positions)

        async def record_refusals(account_id: str, change: Change) -> RefusalRecord:
            self.refusals[account_id] = change(self.refusals.get(account_id, RefusalRecord()))
            return self.refusals[account_id]

        async def read_object(*_: Any, **__: Any) -> None:
            raise AssertionError("nobody speaks of objects here")

        hard = self._hardly

        return SimpleNamespace(
            accounts=lambda: self.accounts,
            is_own_message=lambda **_: True,
            fetch_claim=lambda key: b"",
            delivery=SimpleNamespace(
                create_job=self._create_job,
                create_events=_never,
                rate_limiter=lambda account: _RateLimiter(self, account.id, deadline),
                circuits=SimpleNamespace(
                    state=hard(state),
                    record_refusals=hard(record_refusals),
                    open=hard(open_circuit),
                    close=hard(close_circuit),
                    park=hard(park),
                ),
                receipts=SimpleNamespace(completed=hard(done), record_delivered=hard(delivered)),
                now=lambda: datetime.fromtimestamp(self.clock(), UTC),
            ),
            read_object=read_object,
        )

    def _hardly[**P, T](self, call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        """Wraps a call to AWS that has trouble."""

        async def attempt(*args: P.args, **kwargs: P.kwargs) -> T:
            self.meet_trouble()
            answer = await call(*args, **kwargs)
            self.meet_trouble()
            return answer

        return attempt

    def meet_trouble(self) -> None:
        """Fails as a call to AWS does, now and then."""
        if self._trouble and self.chance.random() < self._trouble:
            raise Retryable("AWS does not answer")

    async def _create_job(self, account: KlaviyoAccount, body: bytes, acquire_slot: AcquireSlot) -> Response:
        await acquire_slot()
        self.requests += 1
        number = self.requests
        headers = {
            "authorization": f"Klaviyo-API-Key {account.private_key}",
            "revision": UPSTREAM_REVISION,
            "content-type": "application/vnd.api+json",
        }
        instead = self.answer(body)
        if instead is not None:
            await asyncio.sleep(self._latency)
            return instead
        given = self.klaviyo.handle("POST", BULK_CREATE_JOBS_PATH, headers, body)
        await asyncio.sleep(self._latency * self.chance.uniform(0.5, 1.5))
        if number in self.kill_at:
            raise Killed
        if given.ending == "reset":
            return Response(None, failure="ReadError")
        if given.ending == "hung" or given.delay > REQUEST_SECONDS:
            await asyncio.sleep(REQUEST_SECONDS)
            return Response(None, failure="ReadTimeout")
        await asyncio.sleep(given.delay)
        content = given.body if isinstance(given.body, bytes) else b"".join(given.body)
        lower = {name.lower(): value for name, value in given.headers.items()}
        return Response(given.status, lower, content)


async def _never(app: PipelessApp, body: bytes) -> Response:
    raise AssertionError("nothing in this world is Pipeless's")


def _record(waiting: Waiting, culprit: bool) -> dispatch.Record:
    return dispatch.Record(
        str(waiting.id),
        waiting.body,
        datetime.fromtimestamp(waiting.sent, UTC),
        waiting.receives,
        redelivered=waiting.receives > 1 or waiting.resumed,
        is_probe=waiting.probe,
        is_poison=culprit,
    )
