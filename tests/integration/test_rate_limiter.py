"""Tests the rate limiter over the shared item: racing workers, pauses for all of them, and its cost."""

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws

from devstack.fake_upstream.windows import busiest
from sluice import runtime
from sluice.aws import clients
from sluice.contract import STEADY_LIMIT
from sluice.delivery import rate_limiter
from sluice.delivery.rate_limiter import NoSlotBeforeDeadline, RateLimiter
from sluice.delivery.responses import Response, retry_after
from sluice.errors import Retryable
from tests.support.pretended_time import Clock, run

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TABLE = "state"
NOW = 1_800_000_000.0
NOW_MS = int(NOW * 1_000)


class Database:
    """Plays DynamoDB as `clients.dynamodb` gives it: counts calls, one at a time, and fails when told to."""

    def __init__(self, client: "DynamoDBClient") -> None:
        self._client = client
        self._lock = threading.Lock()
        self.exceptions = client.exceptions
        self.calls: Counter[str] = Counter()
        self.lost_races = 0
        self.failure: Exception | None = None
        self.after_read: Callable[[], object] = lambda: None

    def get_item(self, **request: Any) -> Any:
        answer = self._call(self._client.get_item, request)
        self.after_read()
        return answer

    def put_item(self, **request: Any) -> Any:
        return self._call(self._client.put_item, request)

    def item(self, site_id: str = "AbC123") -> Any:
        return self._client.get_item(TableName=TABLE, Key={"pk": {"S": f"pace#{site_id}"}}).get("Item")

    def _call(self, method: Callable[..., Any], request: dict[str, Any]) -> Any:
        with self._lock:
            self.calls[method.__name__] += 1
            if self.failure is not None:
                raise self.failure
            try:
                return method(**request)
            except self.exceptions.ConditionalCheckFailedException:
                self.lost_races += 1
                raise


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client = boto3.client("dynamodb", region_name="eu-central-1")
        client.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        found = Database(client)
        monkeypatch.setattr(clients, "dynamodb", lambda: found)
        yield found


class Time(Clock):
    """Keeps a clock that only sleeping moves; `meanwhile` happens during the next sleep."""

    def __init__(self) -> None:
        super().__init__(NOW)
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    def __call__(self) -> float:
        return self.now

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        return run(coroutine, self)

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        await asyncio.sleep(until - self.now)


@pytest.fixture
def clock() -> Time:
    return Time()


def worker(clock: Time, *, seconds: float = 20.0, site_id: str = "AbC123") -> RateLimiter:
    return RateLimiter(TABLE, site_id, clock() + seconds, clock, clock.sleep)


async def turns(paced: RateLimiter, count: int) -> list[int]:
    return await asyncio.gather(*(paced.acquire() for _ in range(count)))


async def one_by_one(paced: RateLimiter, count: int) -> list[int]:
    return [await paced.acquire() for _ in range(count)]


def wait_of(error: NoSlotBeforeDeadline) -> float:
    """Returns how many seconds away the next slot is, as the error says."""
    assert error.after is not None
    return error.after


def test_background_workers_take_turns_and_leave_live_events_their_slots(
    database: Database, clock: Time
) -> None:
    def background() -> RateLimiter:
        return RateLimiter(TABLE, "AbC123", clock() + 30.0, clock, clock.sleep, is_background=True)

    async def scenario() -> tuple[list[int], list[int]]:
        found = await asyncio.gather(turns(background(), 8), turns(background(), 8), live_turns())
        return sorted(found[0] + found[1]), found[2]

    async def live_turns() -> list[int]:
        await clock.sleep(2.0)
        return await turns(worker(clock), 8)

    slots, live = clock.run(scenario())

    assert live[-1] <= live[0] + 8 * 200
    assert len(slots) == 16
    assert not [slot for slot in slots if live[0] < slot < live[-1]]
    assert min(later - earlier for earlier, later in itertools.pairwise(slots)) >= 390


def test_a_background_request_is_told_when_it_may_come_again(database: Database, clock: Time) -> None:
    async def scenario() -> float:
        for _ in range(3):
            await turns(worker(clock), 48)
        busy = RateLimiter(TABLE, "AbC123", clock() + 10.0, clock, clock.sleep, is_background=True)
        await busy.acquire()
        with pytest.raises(NoSlotBeforeDeadline) as error:
            await busy.acquire()
        return wait_of(error.value)

    assert 30 <= clock.run(scenario()) <= 60


def test_what_one_worker_learned_the_others_know(database: Database, clock: Time) -> None:
    async def scenario() -> list[int]:
        slots = await one_by_one(worker(clock), 3)
        await worker(clock).pause(1.0, slots[-1])
        return await one_by_one(worker(clock), 3)

    slots = clock.run(scenario())

    distances = [later - earlier for earlier, later in itertools.pairwise(slots)]
    assert distances == [550, 550]  # two were taken in the second of the refused one


def test_a_worker_whose_clock_is_a_day_ahead_holds_nobody_up(database: Database, clock: Time) -> None:
    async def scenario() -> list[int]:
        wrong = RateLimiter(TABLE, "AbC123", clock() + 86_420, lambda: clock() + 86_400, clock.sleep)
        slot = await wrong.acquire()
        await wrong.observe(slot, 0, 60)
        await wrong.pause(900)
        return await one_by_one(worker(clock), 2)

    begin = int(clock() * 1_000)
    slots = clock.run(scenario())

    assert slots[-1] - begin < 1_000


class TestCost:
    @pytest.mark.parametrize("waiting", [1, 2, 8])
    def test_jobs_that_wait_at_once_cost_one_read_and_one_write(
        self, database: Database, waiting: int
    ) -> None:
        async def no_time(seconds: float) -> None:
            await asyncio.sleep(0)

        paced = RateLimiter(TABLE, "AbC123", NOW + 20, lambda: NOW, no_time)

        slots = asyncio.run(turns(paced, waiting))

        assert slots == [NOW_MS + number * rate_limiter.SPACING_MS for number in range(waiting)]
        assert database.calls == {"get_item": 1, "put_item": 1}

    def test_a_long_wait_is_looked_at_again_but_not_by_each_of_those_who_wait(
        self, database: Database, clock: Time
    ) -> None:
        clock.run(one_by_one(worker(clock), rate_limiter.SHARE_LIMIT))
        database.calls.clear()

        clock.run(turns(worker(clock), 6))

        assert database.calls == {"get_item": 2, "put_item": 1}

    def test_nothing_more_is_asked_once_there_is_no_time(self, database: Database, clock: Time) -> None:
        async def scenario() -> list[int | BaseException]:
            paced = worker(clock, seconds=0.3)
            return await asyncio.gather(*(paced.acquire() for _ in range(20)), return_exceptions=True)

        results = clock.run(scenario())

        assert [type(result) for result in results] == [int] * 3 + [NoSlotBeforeDeadline] * 17
        assert database.calls == {"get_item": 2, "put_item": 1}

    def test_the_item_is_small_and_goes_away_by_itself(self, database: Database, clock: Time) -> None:
        clock.run(one_by_one(worker(clock, seconds=100), STEADY_LIMIT))

        item = database.item()

        assert len(item["slots"]["B"]) + len(str({**item, "slots": 0})) < 1_400
        assert NOW + 3_600 <= int(item["expires_at"]["N"]) <= clock() + 3_600

    def test_accounts_have_nothing_in_common(self, database: Database, clock: Time) -> None:
        async def scenario() -> list[int]:
            return await asyncio.gather(
                *(worker(clock, site_id=name).acquire() for name in ("AAA111", "BBB222"))
            )

        assert clock.run(scenario()) == [NOW_MS, NOW_MS]


class TestOutOfTime:
    def test_says_when_there_would_be_a_slot(self, database: Database, clock: Time) -> None:
        clock.run(one_by_one(worker(clock), rate_limiter.SHARE_LIMIT))
        version = database.item()["version"]
        clock.now = NOW + 4

        with pytest.raises(NoSlotBeforeDeadline) as raised:
            clock.run(worker(clock, seconds=5).acquire())

        freed = NOW + rate_limiter.SHARE_MS / 1_000
        assert clock() + wait_of(raised.value) == pytest.approx(freed, abs=0.002)
        assert database.item()["version"] == version

    def test_and_whoever_comes_back_then_gets_it(self, database: Database, clock: Time) -> None:
        clock.run(one_by_one(worker(clock), rate_limiter.SHARE_LIMIT))
        with pytest.raises(NoSlotBeforeDeadline) as raised:
            clock.run(worker(clock, seconds=1).acquire())

        clock.now += wait_of(raised.value) + 0.001
        slot = clock.run(worker(clock, seconds=1).acquire())

        assert abs(slot - clock() * 1_000) <= 2

    def test_is_told_anew_to_each_who_asks(self, database: Database, clock: Time) -> None:
        async def scenario() -> list[float]:
            paced = worker(clock, seconds=1)
            await paced.pause(60)
            found: list[float] = []
            for _ in range(2):
                with pytest.raises(NoSlotBeforeDeadline) as raised:
                    await paced.acquire()
                found.append(wait_of(raised.value))
                clock.now += 10
            return found

        assert clock.run(scenario()) == pytest.approx([60.5, 50.5], abs=0.002)


class TestPause:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            (lambda: "7", 7),
            (lambda: formatdate(time.time() + 7.9, usegmt=True), 7.5),
            (lambda: "", rate_limiter.DEFAULT_PAUSE_SECONDS),
            (lambda: "1e18", rate_limiter.MAX_PAUSE_SECONDS),
            (lambda: "nan", rate_limiter.DEFAULT_PAUSE_SECONDS),
        ],
        ids=["seconds", "date", "absent", "absurd", "no number"],
    )
    def test_lasts_as_long_as_retry_after_says(
        self, database: Database, clock: Time, text: Callable[[], str], seconds: float
    ) -> None:
        async def scenario() -> int:
            await worker(clock).pause(retry_after(Response(429, {"retry-after": text()})))
            return await worker(clock, seconds=3_600).acquire()

        slot = clock.run(scenario())

        # A date has whole seconds only.
        assert slot / 1_000 == pytest.approx(NOW + seconds + rate_limiter.GUARD_MS / 1_000, abs=0.6)

    def test_stops_a_worker_that_had_a_slot_already(self, database: Database, clock: Time) -> None:
        async def scenario() -> int:
            await one_by_one(worker(clock), rate_limiter.SHARE_LIMIT)
            clock.meanwhile = lambda: worker(clock).pause(15)
            return await worker(clock, seconds=60).acquire()

        slot = clock.run(scenario())

        assert slot >= NOW_MS + 15_000 + rate_limiter.GUARD_MS

    def test_stops_the_other_jobs_of_the_worker_that_noted_it(self, database: Database, clock: Time) -> None:
        async def scenario() -> list[int]:
            paced = worker(clock, seconds=60)
            clock.meanwhile = lambda: paced.pause(15)
            return await turns(paced, 8)

        assert min(clock.run(scenario())) >= NOW_MS + 15_000

    def test_is_out_of_time_if_it_is_longer_than_the_worker_has(
        self, database: Database, clock: Time
    ) -> None:
        async def scenario() -> None:
            paced = worker(clock, seconds=20)
            await worker(clock).pause(30)
            await paced.acquire()

        with pytest.raises(NoSlotBeforeDeadline) as raised:
            clock.run(scenario())

        assert wait_of(raised.value) == pytest.approx(30 + rate_limiter.GUARD_MS / 1_000, abs=0.002)

    def test_of_many_at_once_costs_little(self, database: Database, clock: Time) -> None:
        async def scenario() -> None:
            paced = worker(clock)
            await asyncio.gather(*(paced.pause(10) for _ in range(8)))

        clock.run(scenario())

        assert database.calls == {"get_item": 1, "put_item": 1}


class TestObserve:
    def test_what_others_left_holds_for_every_worker(self, database: Database, clock: Time) -> None:
        async def scenario() -> list[int]:
            slot = await worker(clock).acquire()
            await worker(clock).observe(slot, 3, 30.0)
            return await one_by_one(worker(clock, seconds=100), 5)

        slots = clock.run(scenario())

        reset = NOW_MS + 30_000
        assert sum(slot < reset for slot in slots) == 3
        assert min(slot for slot in slots if slot >= reset) == reset + rate_limiter.GUARD_MS

    def test_no_news_costs_nothing(self, database: Database, clock: Time) -> None:
        async def scenario() -> None:
            paced = worker(clock)
            slot = await paced.acquire()
            database.calls.clear()
            await paced.observe(slot, STEADY_LIMIT - 1, 60.0)

        clock.run(scenario())

        assert database.calls == {}

    def test_an_absurd_reset_is_over_in_a_minute(self, database: Database, clock: Time) -> None:
        async def scenario() -> int:
            paced = worker(clock, seconds=3_600)
            await paced.observe(await paced.acquire(), 0, 1e12)
            return await paced.acquire()

        assert clock.run(scenario()) <= NOW_MS + 61_000

    def test_fails_nothing(self, database: Database, clock: Time) -> None:
        async def scenario() -> None:
            paced = worker(clock)
            slot = await paced.acquire()
            database.failure = EndpointConnectionError(endpoint_url="http://127.0.0.1")
            await paced.observe(slot, 0, 60.0)

        clock.run(scenario())

        assert database.calls["get_item"] == 2


class TestContention:
    @pytest.fixture(autouse=True)
    def _no_backoff(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runtime, "sleep", lambda _: None)

    def compete(self, database: Database, clock: Time, times: int) -> list[int]:
        """Has a rival reserve between each of the next reads and its write; returns the rival's slots."""
        rivals: list[int] = []

        def rival() -> None:
            database.after_read = lambda: None
            if len(rivals) < times:
                rivals.append(clock.run(worker(clock, seconds=500).acquire()))
            database.after_read = rival

        database.after_read = rival
        return rivals

    @pytest.mark.parametrize("times", [1, 3])
    def test_no_slot_is_lost_or_given_twice(self, database: Database, clock: Time, times: int) -> None:
        async def scenario() -> list[int]:
            return await turns(worker(clock), 4)

        rivals = self.compete(database, clock, times)
        ours = clock.run(scenario())

        slots = sorted([*ours, *rivals])
        assert len(set(slots)) == 4 + times
        assert rate_limiter._unpack(database.item()["slots"]["B"]) == tuple(slots)
        assert int(database.item()["version"]["N"]) == 1 + times

    def test_that_does_not_end_gives_the_job_back(self, database: Database, clock: Time) -> None:
        rivals = self.compete(database, clock, 1_000)

        with pytest.raises(Retryable, match="reserve slots of the account at the same time"):
            clock.run(worker(clock, seconds=500).acquire())

        assert len(rivals) == rate_limiter._ATTEMPTS

    def test_an_item_that_has_expired_meanwhile_is_made_anew(self, database: Database, clock: Time) -> None:
        clock.run(worker(clock).acquire())
        database.after_read = lambda: database._client.delete_item(
            TableName=TABLE, Key={"pk": {"S": "pace#AbC123"}}
        )

        assert clock.run(worker(clock).acquire()) == NOW_MS + rate_limiter.SPACING_MS


class TestTrouble:
    @pytest.mark.parametrize("broken", ["get_item", "put_item"])
    @pytest.mark.parametrize(
        "failure",
        [
            EndpointConnectionError(endpoint_url="http://127.0.0.1"),
            ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "GetItem"),
        ],
        ids=["no connection", "throttled"],
    )
    def test_with_the_table_gives_the_job_back(
        self,
        database: Database,
        clock: Time,
        monkeypatch: pytest.MonkeyPatch,
        broken: str,
        failure: Exception,
    ) -> None:
        def fail(**_: Any) -> None:
            raise failure

        monkeypatch.setattr(database, broken, fail)

        with pytest.raises(Retryable, match="state table") as raised:
            clock.run(worker(clock).acquire())
        assert not isinstance(raised.value, NoSlotBeforeDeadline)

    def test_that_made_a_worker_late_costs_it_the_slot(self, database: Database, clock: Time) -> None:
        async def stall() -> None:
            clock.now += rate_limiter.SLOT_TOLERANCE_SECONDS + 0.2

        clock.meanwhile = stall

        assert (
            clock.run(worker(clock).acquire()) == NOW_MS + 1_000 * rate_limiter.SLOT_TOLERANCE_SECONDS + 200
        )


class TestEightWorkersRacing:
    """Runs a rate limiter in each of eight threads, over one item, while the simulated time stands still."""

    WORKERS = 8
    MINUTES = 3

    def test_they_use_the_limit_together_and_never_pass_it(self, database: Database, clock: Time) -> None:
        database.after_read = lambda: time.sleep(0.001)  # meanwhile another reads the same
        chance = random.Random(1)
        end = clock() + self.MINUTES * 60
        slots_of: list[list[int]] = [[] for _ in range(self.WORKERS)]
        failures: list[Exception] = []

        async def job(paced: RateLimiter, slots: list[int]) -> None:
            slots.append(await paced.acquire())
            await asyncio.sleep(chance.uniform(0.1, 1.0))

        async def invocations(slots: list[int]) -> None:
            while clock() < end:
                paced = worker(clock)
                jobs = [job(paced, slots) for _ in range(chance.randrange(4, 13))]
                results = await asyncio.gather(*jobs, return_exceptions=True)
                waits = [wait_of(result) for result in results if isinstance(result, NoSlotBeforeDeadline)]
                failures.extend(result for result in results if isinstance(result, Exception))
                await asyncio.sleep(min(waits, default=0.0))
                await asyncio.sleep(-clock() % 2)  # several begin at the same moment, and race

        async def race() -> None:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self.WORKERS))
            await asyncio.gather(*map(invocations, slots_of))

        clock.run(race())

        slots = sorted(slot / 1_000 for worker_slots in slots_of for slot in worker_slots)
        assert all(isinstance(failure, NoSlotBeforeDeadline) for failure in failures)
        assert all(len(worker_slots) > 5 for worker_slots in slots_of)
        assert len(set(slots)) == len(slots)
        assert busiest(slots, 1) <= 10
        assert busiest(slots, 60) <= STEADY_LIMIT
        minutes = (slots[400] - slots[0]) / 60
        assert 400 / minutes >= 0.98 * STEADY_LIMIT
        assert database.lost_races > 0
