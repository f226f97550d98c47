"""Lets a test or a benchmark set up a world and act in it: the simulator, without a seed's faults.

The test decides what is on the queue, what Klaviyo answers and which request ends its sender. The functions
are the real ones, and time is pretended, so hours take seconds.
"""

import asyncio
import contextlib
import math
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import zstandard

from devstack.fake_upstream import Klaviyo
from sluice import message
from sluice.message import Message
from sluice.rejection import Rejection
from tests.simulation import http
from tests.simulation.aws.dynamodb import DynamoDB
from tests.simulation.aws.errors import error
from tests.simulation.aws.s3 import S3
from tests.simulation.aws.secrets_manager import SecretsManager
from tests.simulation.aws.sqs import SQS, Queue
from tests.simulation.aws.sqs import Message as QueuedMessage
from tests.simulation.environment import Environment
from tests.simulation.event_loop import EventLoop
from tests.simulation.event_source_mapping import Invoker, Mapping
from tests.simulation.faults import Faults, Weather
from tests.simulation.ledger import PARKED
from tests.simulation.outside import Outside
from tests.simulation.scheduler import START, Process, Scheduler, Strand, Stuck
from tests.simulation.trace import Trace
from tests.support import sealing, stored_accounts
from tests.support.stored_accounts import ACCOUNT_SECRETS

if TYPE_CHECKING:
    from sluice.delivery.responses import Response

FOREVER = 1e9
SLOT_BYTES = 6
SECONDS = {"dispatch": 120.0, "reject": 60.0, "resume": 55.0}
VISIBILITY = 1_380.0
_DISPATCH_ONLY = {"REJECTED_QUEUE_URL", "ACCOUNT_SECRETS"}
_SETTINGS = {
    "EVENTS_QUEUE_URL": "https://sqs.test/events",
    "BACKGROUND_QUEUE_URL": "https://sqs.test/background",
    "REJECTED_QUEUE_URL": "https://sqs.test/rejected",
    "STATE_TABLE": "state",
    "CLAIM_BUCKET": "claims",
    "ACCOUNT_SECRETS": ACCOUNT_SECRETS,
    "CONFIG_BUCKET": "configuration",
    "SEALING_SECRET": "sealing",
}
_environments: dict[str, list[Environment]] = defaultdict(list)


class Scenario:
    """Holds accounts by site id with their keys, a queue, workers and Klaviyo.

    `trouble` is the probability that AWS fails a call. `answer` may answer a body in Klaviyo's place.
    `background_workers` work on BackgroundQueue. `kill_at` are the numbers, from 1, of requests after whose
    answer the sender ends. A message with `poison` in it ends the process that decodes it. `knobs` are limits
    of the package, by module and name.
    """

    seed = 0

    def __init__(
        self,
        accounts: dict[str, str],
        *,
        seed: int = 0,
        workers: int = 5,
        background_workers: int = 0,
        batch: int = 10_000,
        max_receives: int = 50,
        latency: float = 0.3,
        trouble: float = 0.0,
        window: float = 0.2,
        knobs: dict[tuple[str, str], Any] | None = None,
    ) -> None:
        self.seed = seed
        self.knobs = knobs or {}
        self.chance = random.Random(seed)
        self.trace = Trace()
        self.scheduler = Scheduler(random.Random(f"{seed}/order"))
        weather = Weather(FOREVER, aws=trouble) if trouble else Weather()
        self.outside = Outside(self.scheduler, Faults(seed, weather), self.trace, random.Random(seed))
        self.klaviyo = Klaviyo(accounts, clock=self.clock)
        self.answer: Callable[[bytes], Response | None] = lambda body: None
        self.kill_at: set[int] = set()
        self.poison: str | None = None
        self.openings: list[float] = []  # seconds that the next connections take to open
        self.requests = 0
        self.killed = 0
        self._latency = latency
        self._accounts: dict[str, str] = {}
        self._error: Exception | None = None
        self._make_aws(max_receives)
        self.name(accounts)
        self._own = Process(self.scheduler, "test")
        self._bind(workers, background_workers)
        self._batch = batch
        self._window = window
        self._stopping = False

    def clock(self) -> float:
        """Returns the seconds since the epoch, in pretended time."""
        return START + self.scheduler.now

    def name(self, accounts: dict[str, str]) -> None:
        """Writes the accounts document."""
        self._accounts |= {key: site_id for site_id, key in accounts.items()}
        named = [{"site_id": site_id, "private_key": key} for site_id, key in accounts.items()]
        document = msgspec.json.encode({"accounts": named}).decode()
        stored_accounts.write(document, self.s3, self.secrets.secrets)

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine of the test in pretended time."""
        loop = EventLoop(self._own)
        strand = self._own.spawn(partial(loop.run_until_complete, coroutine))
        try:
            self.scheduler.run(lambda: strand.done, FOREVER)
        except Stuck:
            raise AssertionError("the scenario waits for what never comes") from None
        finally:
            for environment in self._bound:
                environment.end()
            loop.abandon()
        if self._error is not None:
            raise self._error
        if strand.error is not None:
            raise strand.error
        result: T = strand.result
        return result

    def put(self, stored: Message[Any], *, is_background: bool = False) -> None:
        """Puts an accepted request on the queue, or a replayed or imported one on BackgroundQueue."""
        body = message.encode(stored).text
        queue = self.background if is_background else self.queue
        queue.send(body, stored.account, sealing.attributes(body, {}))

    def send(self, body: str, *, is_background: bool = False, **attributes: str) -> None:
        """Puts a message on the queue, or on BackgroundQueue."""
        queue = self.background if is_background else self.queue
        queue.send(body, None, sealing.attributes(body, attributes))

    async def sleep(self, seconds: float) -> None:
        """Lets pretended time pass."""
        await asyncio.sleep(seconds)

    async def work_until_done(self, limit: float) -> float:
        """Lets the workers run until nothing is left, at most `limit` seconds; returns what it took."""
        begin = self.clock()
        async with self.working():
            while self.clock() - begin < limit:
                await asyncio.sleep(1.0)
                waiting = self.queue.messages or self.background.messages or self._is_parking()
                if not self._busy() and not waiting:
                    break
            return self.clock() - begin

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Runs the workers and the minute's tick; at the end of the block they finish their work."""
        workers = Process(self.scheduler, "aws")
        common: dict[str, Any] = {
            "loses": lambda _: False,
            "ended": self._ended,
            "watch": self._watch,
            "together": True,
        }
        size, window = self._batch, self._window
        mappings = [
            Mapping(workers, queue, invokers, batch_size=size, window=window, **common)
            for queue, invokers in ((self.queue, self._dispatch), (self.background, self._background))
        ]
        self._mappings += mappings
        workers.spawn(self._tick)
        try:
            yield
            for mapping in mappings:
                mapping.stop()
            while self._busy():
                await asyncio.sleep(0.1)
        finally:
            self._mappings.clear()
            workers.kill()

    @property
    def counts(self) -> Counter[str]:
        """Returns the sums of the metrics of all workers, and how many of them were killed."""
        counts: Counter[str] = Counter(Killed=self.killed)
        for environment in self._bound:
            counts.update({name: int(value) for name, value in environment.counts.items()})
        return counts

    @property
    def parked(self) -> dict[str, list[list[bytes]]]:
        """Returns the messages of each account's parked objects, the oldest first."""
        found: dict[str, list[list[bytes]]] = defaultdict(list)
        for key in sorted(self.s3.objects("claims")):
            if key.startswith(PARKED):
                lines = zstandard.decompress(self.s3.objects("claims")[key].content).split(b"\n")
                found[key.split("/")[1]].append(lines)
        return found

    @property
    def receipts(self) -> dict[str, set[int]]:
        """Returns the positions of the events that are delivered or rejected, by receipt."""
        return {
            key.removeprefix("receipt#"): {
                int(place) for name in ("delivered", "rejected") for place in item.get(name, {}).get("NS", ())
            }
            for key, item in self.dynamodb.tables["state"].items()
            if key.startswith("receipt#")
        }

    def open_circuit(self, account: str, status: int) -> None:
        """Opens an account's circuit."""
        item = {"pk": {"S": f"circuit#{account}"}, "status": {"N": str(status)}, "opened_at": {"N": "0"}}
        self.dynamodb.put_item(TableName="state", Item=item)

    def fail(self, model: Any, operation: str, *, when: Callable[[dict[str, Any]], bool]) -> None:
        """Lets AWS refuse some calls of an operation."""
        real = getattr(model, operation)

        def refuse(**given: Any) -> Any:
            if when(given):
                raise error("ServiceUnavailable", operation, status=503)
            return real(**given)

        setattr(model, operation, refuse)

    def slots(self, account: str) -> int:
        """Returns how many slots of an account are in its window."""
        return len(self.dynamodb.tables["state"][f"pace#{account}"]["slots"]["B"]) // SLOT_BYTES

    @property
    def circuits(self) -> dict[str, int]:
        """Returns the statuses that opened the circuits which are open, by site id."""
        return {
            key.removeprefix("circuit#"): int(item["status"]["N"])
            for key, item in self.dynamodb.tables["state"].items()
            if key.startswith("circuit#")
        }

    @property
    def rejections(self) -> list[Rejection]:
        """Returns the stored rejections."""
        return [
            msgspec.json.decode(message.unwrap(each.body, self._claim), type=Rejection)
            for each in self.rejected.messages.values()
        ]

    def is_odd(self, body: str) -> bool:
        """Tells whether dispatch fails with a message in a way that nobody foresaw."""
        del body
        return False

    def is_poison(self, body: str) -> bool:
        """Tells whether a message ends the process that decodes it."""
        return self.poison is not None and self.poison.encode() in message.unwrap(body, self._claim)

    def _claim(self, key: str) -> bytes:
        return self.s3.objects("claims")[key].content

    def _make_aws(self, max_receives: int) -> None:
        common: dict[str, Any] = {"retention": 1_209_600.0, "visibility": VISIBILITY}
        self.dead = Queue("dead", self.clock, **common)
        self.queue = Queue(
            "events",
            self.clock,
            dead_letters=self.dead,
            max_receives=max_receives,
            heard=self._heard,
            **common,
        )
        self.background = Queue(
            "background",
            self.clock,
            dead_letters=self.dead,
            max_receives=max_receives,
            heard=self._heard,
            **common,
        )
        self.rejected = Queue("rejected", self.clock, **common)
        self._mappings: list[Mapping] = []
        self.sqs = SQS((self.queue, self.background, self.dead, self.rejected))
        self.s3 = S3(("claims", "configuration"), self.clock)
        self.dynamodb = DynamoDB(("state",))
        self.secrets = SecretsManager({"sealing": sealing.SECRET})
        self.services: dict[str, Any] = {
            "sqs": self.sqs,
            "s3": self.s3,
            "dynamodb": self.dynamodb,
            "secretsmanager": self.secrets,
        }
        resume = {name: text for name, text in _SETTINGS.items() if name not in _DISPATCH_ONLY}
        self.settings = {"dispatch": _SETTINGS, "resume": resume}
        self.upstream = http.Upstream(
            self.outside,
            self._arrive,
            account_of=lambda request: self._accounts[_key(request)],
            counted=lambda *_: None,
            protocol="http2",
            chance=random.Random(self.seed),
            network=(self._latency / 4, self._latency * 3 / 4),  # there, and back
            killed=self._is_killed,
            openings=self.openings,
        )

    def _bind(self, workers: int, background_workers: int) -> None:
        dispatchers = workers + background_workers
        for function, count in (("dispatch", dispatchers), ("resume", 1)):
            while len(_environments[function]) < count:
                _environments[function].append(Environment(function, len(_environments[function])))
        self._bound = [*_environments["dispatch"][:dispatchers], _environments["resume"][0]]
        for environment in self._bound:
            environment.bind(self)
        *dispatch, self._resume = [
            Invoker(environment, SECONDS[environment.function], 1_769) for environment in self._bound
        ]
        self._dispatch, self._background = dispatch[:workers], dispatch[workers:]

    def _is_parking(self) -> bool:
        return any(key.startswith(PARKED) for key in self.s3.objects("claims"))

    def _busy(self) -> bool:
        return any(invoker.busy for invoker in (*self._dispatch, *self._background, self._resume))

    def _tick(self) -> None:
        while True:
            self.scheduler.sleep(60.0)
            if not self._resume.busy and self._is_parking():
                with contextlib.suppress(Exception):
                    self._resume.invoke({})

    def _heard(self, what: str, queue: Queue, message: QueuedMessage) -> None:
        if what in {"sent", "moved", "postponed"}:
            for mapping in self._mappings:
                if mapping.queue is queue:
                    mapping.wake(message.visible_at - self.clock())

    def _ended(self, function: str, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._error = error
        else:
            self.killed += 1

    def _watch(self, strand: Strand) -> Strand:
        return strand

    def _is_killed(self) -> bool:
        return self.requests in self.kill_at

    def _arrive(self, process: Process, path: str, headers: dict[str, str], body: bytes) -> http.Answer:
        self.requests += 1
        instead = self.answer(body)
        if instead is not None:
            assert instead.status is not None
            return http.Answer(instead.status, dict(instead.headers), instead.body)
        given = self.klaviyo.handle("POST", path, headers, body)
        content = given.body if isinstance(given.body, bytes) else b"".join(given.body)
        if given.ending == "reset":
            return http.Answer(0, {}, b"")
        after = math.inf if given.ending == "hung" else given.delay
        return http.Answer(given.status, {**given.headers}, content, after)


def _key(request: httpx2.Request) -> str:
    return request.headers["authorization"].rpartition(" ")[2]
