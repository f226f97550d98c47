"""Runs one seed: everything around the functions, the load, and the checks."""

import base64
import contextlib
import random
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2
import msgspec

from devstack.fake_upstream import Klaviyo, Pipeless
from tests.simulation import http
from tests.simulation.aws.dynamodb import DynamoDB
from tests.simulation.aws.expressions import Item
from tests.simulation.aws.s3 import S3
from tests.simulation.aws.secrets_manager import SecretsManager
from tests.simulation.aws.sqs import SQS, Disorder, Message, Queue
from tests.simulation.causes import Causes
from tests.simulation.environment import Environment
from tests.simulation.event_source_mapping import Invoker, Mapping
from tests.simulation.faults import (
    AWS,
    CRASHES,
    UNEXPLAINED,
    UNEXPLAINED_SECONDS,
    UPSTREAM_PASSING,
    UPSTREAM_REFUSING,
    Fault,
    Faults,
    Outage,
    Weather,
)
from tests.simulation.ledger import PARKED, Broken, Kind, Ledger, marks_in, unpacked
from tests.simulation.load import (
    APPS,
    BULK,
    CALLS_PER_MINUTE,
    DROPS,
    KLAVIYO,
    LATE,
    SOURCE,
    SPOILED,
    WEBHOOK_SECRET,
    Dropped,
    Load,
    Maker,
    Mix,
    Produced,
    Request,
    accounts_document,
    notice,
    private_key,
    sources_document,
)
from tests.simulation.outside import Outside
from tests.simulation.scheduler import START, Killed, Process, Scheduler, Strand, Stuck
from tests.simulation.trace import Trace
from tests.support import sealing, stored_accounts
from tests.support.stored_accounts import ACCOUNT_SECRETS

HOUR = 3_600.0
_LESS_PRECISE = ("entry", "events")  # manners of pointing at what is refused
ODD_SECONDS = 1_800.0  # after an hour such a message may be given up
#: Limits of the package that some runs set low, so that little is enough to reach them.
KNOBS: dict[tuple[str, str], Any] = {
    ("klaviyo.packing", "MAX_EVENTS_PER_REQUEST"): 3,
    ("delivery.parking", "OBJECT_MESSAGES"): 2,
    ("delivery.parking", "OBJECT_BYTES"): 2_000,
    ("producers.s3_objects", "GROUP_LINES"): 4,
    ("producers.s3_objects", "LINES_TOGETHER"): 3,
    ("message", "PLAIN_BYTES"): 300,
    ("message", "MESSAGE_BYTES"): 700,
    ("receipts", "_BATCH"): 2,
}
PARKED_AT_MOST = {"OBJECT_MESSAGES": 500, "OBJECT_BYTES": 16 * 2**20}  # in one object
ASKED = 0.3  # of the bulk requests
SLOT_BYTES = 6
SLOT_MS = 202  # after its beginning, in which a request of a slot has to leave
LAST_WORDS_AFTER = 2 * HOUR
MOST_PROBES = 8  # on the queue at a time, of an account that is never named
MOST_SWITCHES = 1_000_000  # of strands in a run
CALLS_A_RECEIVE, CALLS_AN_INVOCATION = 30, 20  # to AWS, at most
WORKERS, BACKGROUND_WORKERS = 3, 2
#: Seconds of a window, and the requests in it. Pipeless's is ours: `calls_per_minute`, and one by the way.
KLAVIYO_LIMITS = ((1, 10), (60, 150))
PIPELESS_LIMITS = ((60, CALLS_PER_MINUTE + 1),)
CLOCKS_WITHIN = 0.1  # seconds by which a clock is off at most where limits are checked
DISPATCH_SECONDS, REJECT_SECONDS, RESUME_SECONDS, INGEST_SECONDS = 120.0, 60.0, 55.0, 15.0
EVENTS_VISIBILITY, REJECTED_VISIBILITY = 1_380.0, 1_320.0
RETENTION = 1_209_600.0
MAX_RECEIVES = 500
_FIELDS = (
    *("EVENTS_QUEUE_URL", "REJECTED_QUEUE_URL", "STATE_TABLE", "CLAIM_BUCKET"),
    *("ACCOUNT_SECRETS", "CONFIG_BUCKET", "SEALING_SECRET"),
)
_WEBHOOK_SECRETS = "sluice/webhooks/"
_INGEST_ONLY = {
    "WEBHOOK_SECRETS": _WEBHOOK_SECRETS,
    "ALLOWED_ORIGINS": "*",
}


@dataclass(frozen=True)
class Plan:
    """Holds everything that a seed decides before a run begins."""

    seed: int
    weather: Weather
    mix: Mix
    load_seconds: float
    skew: float
    jumps: bool
    protocol: str
    slow_connections: float
    memory: int
    window: float
    twice: float
    loses: float
    cold: float
    inbound_limits: str
    attribution: str
    attributed: bool
    duplicates: str
    failing_until: float
    odd: float  # of the messages, with which dispatch fails in a way that nobody foresaw, for a while
    knobs: dict[tuple[str, str], Any]

    @property
    def limits_hold(self) -> bool:
        """Tells whether clocks agree well enough for the accounts' limits to be kept."""
        return self.skew <= CLOCKS_WITHIN and not self.jumps


def plan(seed: int) -> Plan:
    """Draws a plan from its seed."""
    chance = random.Random(f"{seed}/plan")
    load_seconds = chance.choice((30.0, 60.0, 120.0, 300.0, 1_200.0))
    outages = tuple(_outages(chance, load_seconds))
    until = max([load_seconds * chance.uniform(0.5, 1.5), *(outage.end for outage in outages)])
    calm = chance.random() < 0.05
    weather = Weather(
        until=0.0 if calm else until,
        aws=chance.choice((0.0, 0.003, 0.01, 0.03, 0.1)),
        upstream=chance.choice((0.0, 0.02, 0.1, 0.3)),
        crashes=chance.choice((0.0, 0.0005, 0.002, 0.01)),
        outages=() if calm else outages,
    )
    accurate = chance.random() < 0.8
    return Plan(
        seed=seed,
        weather=weather,
        mix=Mix(
            refused=chance.choice((0.0, 0.01, 0.05)),
            poison=chance.choice((0.0, 0.0, 0.0, 0.01)),
            failing=chance.choice((0.0, 0.0, 0.005)),
            spoiled=chance.choice((0.0, 0.0, 0.1)),
            large=chance.choice((0.0, 0.0, 0.0, 1.0)) if chance.random() < 0.4 else 0.0,
            gzipped=chance.choice((0.0, 0.2)),
            # A record that cannot be read or written cannot say whose an order was.
            moved=0.0 if weather.aws or weather.outages else 0.3,
        ),
        load_seconds=load_seconds,
        skew=chance.choice((0.0, CLOCKS_WITHIN)) if accurate else chance.choice((1.0, 20.0, 300.0)),
        jumps=not accurate and chance.random() < 0.5,
        protocol=chance.choice(("http2", "http11")),
        slow_connections=chance.choice((0.0, 0.0, 0.5)),
        memory=chance.choice((1_769, 1_769, 1, 0)),
        window=chance.choice((1.0, 5.0, 20.0, 60.0)),
        twice=chance.choice((0.0, 0.01, 0.05)),
        loses=0.0 if calm else chance.choice((0.0, 0.01)),
        cold=chance.choice((0.0, 0.02)),
        inbound_limits=chance.choice(("off", "documented")),
        attribution=chance.choice(("all", "all", "first", "none", *_LESS_PRECISE)),
        attributed=chance.random() < 0.7,
        duplicates=chance.choice(("fail", "fail", "ignore")),
        failing_until=until,
        odd=chance.choice((0.0, 0.0, 0.03)),
        knobs={name: value for name, value in KNOBS.items() if chance.random() < 0.3},
    )


def _outages(chance: random.Random, load_seconds: float) -> Iterable[Outage]:
    accounts = [*KLAVIYO, LATE, *(f"pipeless-{each}" for each in APPS), "upstream.klaviyo"]
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        begin = chance.uniform(0, load_seconds)
        end = begin + chance.choice((30.0, 300.0, 600.0, 600.0, 1_800.0, 1_800.0, 2 * HOUR))
        if chance.random() < 0.4:
            services = ("dynamodb", "s3", "sqs", "secretsmanager")
            yield Outage(chance.choice(services), begin, min(end, begin + 600.0), chance.choice(AWS[:5]))
        else:
            account = chance.choice(accounts)
            kinds = [*UPSTREAM_PASSING, *UPSTREAM_REFUSING * 2, *UNEXPLAINED * 2]
            fault = chance.choice(kinds)
            if fault in UNEXPLAINED:
                end = min(end, begin + UNEXPLAINED_SECONDS)
            if fault is not Fault.HEADER_400 or not account.startswith("pipeless-"):
                yield Outage(account, begin, end, fault)


@dataclass
class Result:
    """Holds the result of a run."""

    seed: int
    broken: Broken | None
    state: str
    trace: Trace
    faults: Faults
    hours: float
    events: int
    actions: int
    counts: dict[str, int]
    exceptions: dict[str, int]


class World:
    """Runs one seed."""

    def __init__(
        self,
        plan: Plan,
        environments: dict[str, list[Environment]],
        *,
        left_out: frozenset[int] = frozenset(),
        **limits: Any,
    ) -> None:
        self.plan = plan
        self.seed = plan.seed
        chance = self._chance("world")
        self.trace = Trace()
        self.scheduler = Scheduler(self._chance("order"))
        self.faults = Faults(plan.seed, plan.weather, **limits)
        self.outside = Outside(self.scheduler, self.faults, self.trace, self._chance("latency"))
        self.ledger = Ledger(requests_a_receive=20 if plan.attribution in {"all", "none"} else 150)
        self._maker = Maker(self._chance("load"), plan.mix, plan.load_seconds)
        self.load: Load = self._maker.make()
        self._actions = len(self.load.actions)
        self.load.actions = [
            action for index, action in enumerate(self.load.actions) if index not in left_out
        ]
        for event in self.load.events.values():
            self.ledger.add(event)
        self.causes = Causes(self.ledger, self.scheduler, skew=plan.skew)
        self.outside.causes = self.causes
        self._luck = chance
        self._error: Exception | None = None
        self._has_poison = any(event.kind is Kind.POISON for event in self.load.events.values())
        self._poison: dict[str, bool] = {}
        self._make_aws()
        self._make_upstreams()
        self._make_functions(environments)

    def run(self) -> Result:
        """Runs until everything is at rest, and checks all that must hold."""
        scheduler, ledger = self.scheduler, self.ledger
        aws = Process(scheduler, "aws")
        self._begin(aws)
        try:
            if not scheduler.run(self._is_over, self._limit()):
                self._break_rest()
        except Stuck:
            self._break_rest()
        if ledger.broken is None:
            self._check_rest()
        broken, state = ledger.broken, ""
        if broken is not None and broken.mark is not None:
            state = ledger.events[broken.mark].state()
        for environments in self._environments.values():
            for each in environments:
                each.leave()
        aws.kill()
        return Result(
            self.seed,
            broken,
            state,
            self.trace,
            self.faults,
            scheduler.now / HOUR,
            len(self.load.events),
            self._actions,
            {**self.outside.counts},
            dict(self.ledger.exceptions),
        )

    # The world's parts.

    def _chance(self, of: str) -> random.Random:
        return random.Random(f"{self.seed}/{of}")

    def _make_aws(self) -> None:
        clock = lambda: self.scheduler.now + START  # noqa: E731
        disorder = Disorder(self._chance("queues"), twice=self.plan.twice)
        ids = self._chance("ids")
        common: dict[str, Any] = {
            "retention": RETENTION,
            "disorder": disorder,
            "heard": self._queue_changed,
            "new_id": lambda: f"{ids.getrandbits(64):016x}",
        }
        rejected = {"visibility": REJECTED_VISIBILITY, **common}
        self.dead = Queue("dead", clock, **rejected)
        self.rejected_dead = Queue("rejected-dead", clock, **rejected)
        self.events_queue = Queue(
            "events",
            clock,
            visibility=EVENTS_VISIBILITY,
            dead_letters=self.dead,
            max_receives=MAX_RECEIVES,
            **common,
        )
        self.background_dead = Queue("background-dead", clock, **rejected)
        self.background = Queue(
            "background",
            clock,
            visibility=EVENTS_VISIBILITY,
            dead_letters=self.background_dead,
            max_receives=MAX_RECEIVES,
            **common,
        )
        self.rejected = Queue(
            "rejected", clock, dead_letters=self.rejected_dead, max_receives=MAX_RECEIVES, **rejected
        )
        self.queues = (
            *(self.events_queue, self.background, self.rejected),
            *(self.dead, self.background_dead, self.rejected_dead),
        )
        self.mappings: dict[str, Mapping] = {}
        self.sqs = SQS(self.queues)
        self.s3 = S3(("claims", "archive", DROPS, "configuration"), clock, self._object_changed)
        self.dynamodb = DynamoDB(("state",), self._item_changed, sorted_tables=("records",))
        self.s3.put_object(Bucket="configuration", Key="sources.json", Body=sources_document())
        self.secrets = SecretsManager(
            {
                "records": "hash key",
                "sealing": sealing.SECRET,
                f"{_WEBHOOK_SECRETS}{SOURCE}": WEBHOOK_SECRET,
            }
        )
        self._name(late=False)
        self.services = {
            "sqs": self.sqs,
            "s3": self.s3,
            "dynamodb": self.dynamodb,
            "secretsmanager": self.secrets,
        }
        values = {
            "EVENTS_QUEUE_URL": self.sqs.url(self.events_queue),
            "BACKGROUND_QUEUE_URL": self.sqs.url(self.background),
            "REJECTED_QUEUE_URL": self.sqs.url(self.rejected),
            "STATE_TABLE": "state",
            "CLAIM_BUCKET": "claims",
            "ACCOUNT_SECRETS": ACCOUNT_SECRETS,
            "CONFIG_BUCKET": "configuration",
            "SEALING_SECRET": "sealing",
            "ARCHIVE_BUCKET": "archive",
            "IMPORT_BUCKETS": DROPS,
            "RECORDS_TABLE": "records",
            "RECORDS_SECRET": "records",
            "ARCHIVE_DAYS": "365",
        }

        def chosen(*names: str) -> dict[str, str]:
            return {name: values[name] for name in names}

        self.knobs = self.plan.knobs
        self.settings = {
            "ingest": chosen(*_FIELDS) | _INGEST_ONLY | {"INBOUND_LIMITS": self.plan.inbound_limits},
            "dispatch": chosen(*_FIELDS, "BACKGROUND_QUEUE_URL", "IMPORT_BUCKETS"),
            "reject": chosen(
                *("ARCHIVE_BUCKET", "ARCHIVE_DAYS", "CLAIM_BUCKET", "STATE_TABLE"),
                *("RECORDS_TABLE", "RECORDS_SECRET", "SEALING_SECRET"),
            ),
            "resume": chosen(
                *("EVENTS_QUEUE_URL", "BACKGROUND_QUEUE_URL", "STATE_TABLE", "CLAIM_BUCKET"),
                *("CONFIG_BUCKET", "SEALING_SECRET"),
            ),
        }

    def _make_upstreams(self) -> None:
        clock = lambda: self.scheduler.now + START  # noqa: E731
        self.klaviyo = Klaviyo({each: private_key(each) for each in (*KLAVIYO, LATE)}, clock=clock)
        self.klaviyo.configure(
            attribution=self.plan.attribution,
            duplicates=self.plan.duplicates,
            poison=[{"contains": "badone", "attributed": self.plan.attributed}],
        )
        self.pipeless = Pipeless({each: private_key(f"pipeless-{each}") for each in APPS}, clock=clock)
        self.pipeless.configure(poison=["badone"])
        self._accounts = {private_key(each): each for each in (*KLAVIYO, LATE)}
        self._accounts |= {private_key(f"pipeless-{each}"): f"pipeless-{each}" for each in APPS}
        self._sent: dict[Process, set[int]] = defaultdict(set)  # in an invocation, by its process
        self._queued: dict[Process, set[int]] = defaultdict(set)  # in an invocation, by its process
        self._told: Counter[int] = Counter()  # deliveries of webhooks under way, by the events in them
        # Reserved and not used, by the process that reserved them.
        self._slots: dict[tuple[Process, str], set[int]] = defaultdict(set)
        self._known_slots: dict[str, set[int]] = defaultdict(set)
        self.arrivals: dict[str, list[float]] = defaultdict(list)
        self.upstream = http.Upstream(
            self.outside,
            self._arrive,
            account_of=self._account_of,
            counted=self._count_fault,
            protocol=self.plan.protocol,
            slow=self.plan.slow_connections,
            heard=self._heard_answer,
            left=self._left,
            causes=self.causes,
            chance=self._chance("network"),
        )

    def _make_functions(self, environments: dict[str, list[Environment]]) -> None:
        self._environments = environments
        for each in environments.values():
            for environment in each:
                environment.bind(self)
        seconds = {
            "ingest": INGEST_SECONDS,
            "dispatch": DISPATCH_SECONDS,
            "reject": REJECT_SECONDS,
            "resume": RESUME_SECONDS,
        }
        self.invokers = {
            name: [
                Invoker(
                    environment,
                    seconds[name],
                    self.plan.memory if name == "dispatch" else 512,
                    cold=lambda: self._luck.random() < self.plan.cold,
                    skew=self._set_clock,
                    timed_out=self._timed_out,
                    ended=self._invocation_ended,
                )
                for environment in each
            ]
            for name, each in environments.items()
        }

    def _begin(self, aws: Process) -> None:
        reject = self.invokers["reject"]
        common: dict[str, Any] = {"loses": self._loses, "ended": self._ended, "watch": self._watch}
        dispatch = self.invokers["dispatch"]
        of_events = {self.events_queue: dispatch[:WORKERS], self.background: dispatch[WORKERS:]}
        for queue, invokers in of_events.items():
            self.mappings[queue.name] = Mapping(
                aws,
                queue,
                invokers,
                batch_size=10_000,
                window=self.plan.window,
                kept=self._kept,
                **common,
            )
        refused = (self.rejected, self.dead, self.background_dead, self.rejected_dead)
        for queue, invoker in zip(refused, reject, strict=True):
            self.mappings[queue.name] = Mapping(aws, queue, [invoker], batch_size=1_000, window=5.0, **common)
        self._open = 0
        self._callers: deque[Strand] = deque()  # that wait for a free process of ingest
        for action in self.load.actions:
            self._open += 1
            self.scheduler.call_at(action.at, partial(self._spawn, aws, action))
        self.scheduler.call_at(self.load.named_at, self._name_late)
        self.scheduler.call_at(self._quiet() + LAST_WORDS_AFTER, partial(self._say_last_words, aws))
        self._watch(aws.spawn(self._tick))

    def _say_last_words(self, aws: Process) -> None:
        """Sends something good for each account, each hour. Events that nobody names may wait for that."""
        for action in self._maker.last_words(self.scheduler.now):
            for mark in action.marks:
                self.ledger.add(self.load.events[mark])
            self._open += 1
            self._spawn(aws, action)
        self.scheduler.call_at(self.scheduler.now + HOUR, partial(self._say_last_words, aws))

    def _spawn(self, aws: Process, action: Request | Produced | Dropped) -> None:
        self._watch(aws.spawn(lambda: self._do(action)))

    def _watch(self, strand: Strand) -> Strand:
        """Makes an error of the world's own end the run."""

        def note() -> None:
            if isinstance(strand.error, Exception):
                self._error = strand.error

        strand.waiter = note
        return strand

    # Clocks.

    def _set_clock(self, process: Process) -> None:
        """Sets a new process's clock, and lets a clock that jumps jump."""
        if process.skew == 0.0 or (self.plan.jumps and self._luck.random() < 0.1):
            process.skew = self._luck.uniform(-self.plan.skew, self.plan.skew)

    # Sending.

    def _do(self, action: Request | Produced | Dropped) -> None:
        try:
            match action:
                case Request():
                    self._send(action)
                case Produced():
                    named = sealing.attributes(action.body, action.attributes)
                    self._queue_of(action).send(action.body, None, named)
                    self.ledger.accept(action.marks)
                case Dropped():
                    etag = self.s3.put_object(
                        Bucket=action.bucket, Key=action.key, Body=action.content, Metadata=action.metadata
                    )["ETag"]
                    told = notice(action.bucket, action.key, etag, self.scheduler.now)
                    self._queue_of(action).send(told, None, {})
                    self.ledger.accept(action.marks)
        finally:
            self._open -= 1

    def _queue_of(self, action: Produced | Dropped) -> Queue:
        return self.background if action.is_background else self.events_queue

    def _send(self, request: Request) -> None:
        """Sends a request, and again where there was no good answer and that is harmless."""
        for _ in range(40):
            with self._telling(request):
                status, body = self._call(request)
            if 200 <= status < 300:
                self._hear(request, body)
                return
            if status not in {0, 429, 503}:
                if not request.synchronous:
                    self.ledger.break_("answers", f"{request.path} was answered {status}: {body[:200]}")
                return
            if not request.again:
                return
            self.ledger.disturb(request.places.values())
            self.scheduler.sleep(self._luck.uniform(1.0, 30.0))

    @contextlib.contextmanager
    def _telling(self, request: Request) -> Iterator[None]:
        """Notes which events are told of twice at the same time: both messages may come."""
        marks = set(marks_in(request.body))
        self._told.update(marks)
        self.ledger.disturb(mark for mark in marks if self._told[mark] > 1)
        yield
        self._told.subtract(marks)

    def _call(self, request: Request) -> tuple[int, str]:
        """Calls the API once; returns status 0 if no answer came."""
        invoker = self._free_invoker()
        headers = request.headers
        event = {
            "resource": "/{proxy+}",
            "path": request.path,
            "httpMethod": "POST" if request.body else "GET",
            "headers": headers,
            "multiValueHeaders": {name: [value] for name, value in headers.items()},
            "queryStringParameters": request.query or None,
            "multiValueQueryStringParameters": {name: [each] for name, each in request.query.items()} or None,
            "pathParameters": {"proxy": request.path[1:]},
            "requestContext": {"httpMethod": "POST", "path": request.path, "resourcePath": "/{proxy+}"},
            "body": _body_text(request),
            "isBase64Encoded": request.is_gzipped,
        }
        try:
            answer = invoker.invoke(event)
        except Killed:
            return 0, ""
        finally:
            if self._callers:
                self.scheduler.wake(self._callers.popleft(), self.scheduler.now)
        return answer["statusCode"], answer["body"]

    def _free_invoker(self) -> Invoker:
        """Waits until a process of ingest is free."""
        while True:
            for invoker in self.invokers["ingest"]:
                if not invoker.busy:
                    return invoker
            assert self.scheduler.current is not None
            self._callers.append(self.scheduler.current)
            self.scheduler.park()

    def _hear(self, request: Request, body: str) -> None:
        """Holds the gateway to a 2xx, and may ask later what became of a bulk request."""
        self.ledger.accept(request.places.values())
        if "event-bulk-create-job" not in body:
            return
        receipt = msgspec.json.decode(body)["data"]["id"]
        self.ledger.name_places(receipt, request.places)
        if request.path == BULK and self._luck.random() < ASKED:
            self.scheduler.sleep(self._luck.choice((1.0, 30.0, 600.0)))
            self._ask(receipt, request)

    def _ask(self, receipt: str, request: Request) -> None:
        """Asks about a request; the answer must be true."""
        path = f"/api/event-bulk-create-jobs/{receipt}"
        status, body = self._call(Request(0.0, path, request.headers, {}, b"", {}))
        if status == 200:
            self.ledger.told(receipt, msgspec.json.decode(body)["data"]["attributes"])
        elif status not in {0, 503} and not (status == 404 and (self._has_poison or self._table_failed())):
            self.ledger.break_("receipts", f"asking about {receipt} was answered {status}: {body[:200]}")

    def _table_failed(self) -> bool:
        """Tells whether anything kept outcomes from being noted."""
        return any(
            operation.startswith("dynamodb.") or fault in CRASHES or fault is Fault.STALL
            for operation, fault in self.faults.met
        )

    def _name_late(self) -> None:
        self._name(late=True)

    def _name(self, *, late: bool) -> None:
        stored_accounts.write(accounts_document(late), self.s3, self.secrets.secrets)

    def _tick(self) -> None:
        """Runs the schedule of resume; a tick with nothing parked is left out, because it would only list
        nothing.
        """
        [invoker] = self.invokers["resume"]
        while True:
            self.scheduler.sleep(60.0)
            if invoker.busy or not any(key.startswith(PARKED) for key in self.s3.objects("claims")):
                continue
            try:
                invoker.invoke({})
            except (Killed, Exception) as error:
                self._ended("resume", error)

    def is_poison(self, body: str) -> bool:
        """Tells whether a message ends the process that decodes it."""
        if not self._has_poison:
            return False
        if body not in self._poison:
            marks = self.ledger.marks_of(body)
            self._poison[body] = any(self.load.events[mark].kind is Kind.POISON for mark in marks)
        return self._poison[body]

    def is_odd(self, body: str) -> bool:
        """Tells whether dispatch fails with a message now, in a way that nobody foresaw."""
        lot = zlib.crc32(body.encode("utf-8", "surrogatepass")) / 2**32
        return lot < self.plan.odd and self.scheduler.now < min(self.plan.weather.until, ODD_SECONDS)

    # Hearing.

    def _queue_changed(self, what: str, queue: Queue, message: Message) -> None:
        if what == "postponed":
            self._wake(queue, message.visible_at - queue.clock())
            return
        if what == "sent" and queue in {self.events_queue, self.background}:
            self._note_sender(message)
        self.ledger.queue_changed(what, queue, message)
        self.trace.add(self.scheduler.now, "sqs", f"{what}: {queue.name}", message.id, str(message.receives))
        if what in {"sent", "moved"}:
            self._wake(queue, 0.0)

    def _wake(self, queue: Queue, after: float) -> None:
        if queue.name in self.mappings:
            self.mappings[queue.name].wake(after)

    def _note_sender(self, message: Message) -> None:
        """Notes who puts events on their queue, as they may be put there again if a fault meets it."""
        assert self.scheduler.current is not None
        process = self.scheduler.current.process
        marks = self.ledger.marks_of(message.body)
        self._queued[process].update(marks)
        if self.outside.is_disturbed(process):
            self.ledger.disturb(marks)

    def _object_changed(self, bucket: str, key: str, before: bytes | None, after: bytes | None) -> None:
        self.ledger.object_changed(bucket, key, before, after)
        if key.startswith(PARKED) and after is not None:
            folder, account, *_ = key.split("/")
            self._check_size(after)
            marks = self.ledger.marks_parked(after)
            self.causes.parked(account, marks, is_known=f"{folder}/" == PARKED[0])

    def _check_size(self, packed: bytes) -> None:
        """Checks that a parked object is small: a function with little memory reads it whole."""
        messages = unpacked(packed).split(b"\n")
        names = ("OBJECT_MESSAGES", "OBJECT_BYTES")
        most, most_bytes = (
            self.plan.knobs.get(("delivery.parking", name), PARKED_AT_MOST[name]) for name in names
        )
        if len(messages) > most or (len(messages) > 1 and sum(map(len, messages)) > most_bytes):
            self.ledger.break_("parked objects are small", f"one has {len(messages)} messages")

    def _kept(self, environment: Environment, message: Message, handle: str) -> None:
        """Hears of a message that stays on the queue, unless another worker has received it meanwhile."""
        if environment.process is not None and handle == message.handles[-1]:
            self.causes.kept(environment.process, message, message.visible_at - self.events_queue.clock())

    def _item_changed(self, table: str, before: Item | None, after: Item | None) -> None:
        self.ledger.item_changed(table, before, after)
        if table == "state":
            self.causes.item_changed(before, after)
        if after is not None and after["pk"]["S"].startswith("pace#"):
            account, packed = after["pk"]["S"].removeprefix("pace#"), after["slots"]["B"]
            starts = range(0, len(packed), SLOT_BYTES)
            slots = {int.from_bytes(packed[start : start + SLOT_BYTES]) for start in starts}
            current = self.scheduler.current
            assert current is not None
            self._slots[current.process, account] |= slots - self._known_slots[account]
            self._known_slots[account] |= slots

    def _left(self, process: Process, account: str) -> None:
        """Hears of a request that leaves. To Klaviyo each leaves in a slot of its own, by its own clock."""
        if account.startswith("pipeless-") or not self.plan.limits_hold:
            return  # clocks that are far apart may reserve one slot twice
        now = process.time() * 1_000
        slots = self._slots[process, account]
        slot = min((each for each in slots if now - SLOT_MS <= each <= now + 1), default=None)
        if slot is None:
            self.ledger.break_("limits", f"{process.name} sends a request of {account} outside its slots")
        else:
            slots.remove(slot)

    def _ended(self, function: str, error: BaseException) -> None:
        """Hears of an invocation that ended without an answer."""
        self.trace.add(self.scheduler.now, "lambda", f"{function} ended", repr(error))
        out_of_reach = (
            function == "resume" and type(error).__name__ == "Retryable"
        )  # the next tick tries again
        if not isinstance(error, Killed) and not out_of_reach:
            self.ledger.break_("no unexpected errors", f"{function} failed: {error!r}")

    def _timed_out(self, process: Process) -> None:
        """Hears of an invocation that is ended by its timeout."""
        self.trace.add(self.scheduler.now, process.name, "timeout")
        if process.name.startswith(("dispatch", "reject")) and not process.stalled_until:
            self.ledger.break_("ends in time", f"{process.name} was ended by its timeout")

    def _loses(self, message: Message) -> bool:
        """Tells whether Lambda's deletion of a message is lost."""
        lost = self.scheduler.now < self.plan.weather.until and self._luck.random() < self.plan.loses
        if lost:
            self.ledger.lose_deletion(message)
        return lost

    def _invocation_ended(self, environment: Environment, process: Process, event: Any, killed: bool) -> None:
        """Notes of which events it may have failed to record that they are sent, or to delete them."""
        sent, queued = self._sent.pop(process, set()), self._queued.pop(process, set())
        failures = environment.counts.pop("ReceiptWriteFailures", 0)
        if killed or failures or process in self.outside.undeleted:
            self.ledger.unsure(sent)
        if killed or self.outside.is_disturbed(process):
            self.ledger.disturb(queued)
            for record in event.get("Records", ()):
                self.ledger.disturb(self.ledger.marks_of(record["body"]))
        self.outside.undeleted.discard(process)

    def _heard_answer(self, process: Process, status: int, body: bytes) -> None:
        """Hears of an answer that arrives: what was taken need not be sent again."""
        if 200 <= status < 300:
            marks = set(marks_in(body))
            self.ledger.heard(marks)
            self._sent[process] |= marks

    def _account_of(self, request: httpx2.Request) -> str:
        return self._accounts[request.headers["authorization"].rpartition(" ")[2]]

    def _arrive(self, process: Process, path: str, headers: dict[str, str], body: bytes) -> http.Answer:
        account = self._accounts[headers["authorization"].rpartition(" ")[2]]
        if b"failone" in body and self.scheduler.now < self.plan.failing_until:
            self._count_arrival(account, 500, body)
            return http.Answer(500, {"Content-Type": "application/json"}, b'{"errors": []}')
        self.ledger.arrived(marks_in(body))
        if SPOILED.encode() in body:
            refusal = self._refuse_names(body)
            self._count_arrival(account, 400, body)
            return refusal
        vendor = self.pipeless if account.startswith("pipeless-") else self.klaviyo
        answer = vendor.handle("POST", path, headers, body)
        content = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
        # A pointer at an entry or its list of events does not say that a unique_id is there already.
        is_named = self.plan.attribution not in _LESS_PRECISE and b"/events-bulk-create/data/" in content
        self._count_arrival(account, answer.status, body, named=is_named)
        if 200 <= answer.status < 300:
            identities = _pipeless_identities if vendor is self.pipeless else _klaviyo_identities
            self.ledger.taken(account, identities(body))
            for profile, marks in _profiles(body) if vendor is self.klaviyo else ():
                self.ledger.named(profile, marks)
        return http.Answer(answer.status, {**answer.headers}, content)

    def _refuse_names(self, body: bytes) -> http.Answer:
        """Refuses the profiles with a spoiled name, and names them as Klaviyo is set to."""
        entries = msgspec.json.decode(body)["data"]["attributes"]["events-bulk-create"]["data"]
        pointers = [
            f"/data/attributes/events-bulk-create/data/{number}/attributes/profile/data/attributes/last_name"
            for number, entry in enumerate(entries)
            if entry["attributes"]["profile"]["data"]["attributes"].get("last_name") == SPOILED
        ]
        of_entries = [pointer.partition("/attributes/profile")[0] for pointer in pointers]
        told = {"all": pointers, "first": pointers[:1], "none": ["/data"]}.get(
            self.plan.attribution, of_entries
        )
        errors = [
            {"code": "invalid", "detail": "Invalid name.", "source": {"pointer": pointer}} for pointer in told
        ]
        document = msgspec.json.encode({"errors": errors})
        return http.Answer(400, {"content-type": "application/vnd.api+json"}, document)

    def _count_fault(self, account: str, fault: Fault, status: int, body: bytes) -> None:
        """Notes a request that something else answers, or nobody: that says nothing of the events in it."""
        self._count_arrival(account, 0, body)
        if fault in UNEXPLAINED:
            self.ledger.all_refused(marks_in(body))
        if fault not in UNEXPLAINED and status != 429:
            self.ledger.not_answered(marks_in(body))

    def _count_arrival(self, account: str, status: int, body: bytes, *, named: bool = False) -> None:
        """Notes a request that arrives, and whether its answer `named` what it refuses."""
        if b'"synchronous":true' not in body:  # a caller's own call, which takes nobody's turn
            self.arrivals[account].append(self.scheduler.now + START)
        self.ledger.requested(marks_in(body))
        if 400 <= status < 500 and status not in {408, 425, 429}:
            self.ledger.refused(marks_in(body), named=named)

    # Rest, and what must hold then.

    def _is_over(self) -> bool:
        if self._error is not None:
            raise self._error
        if self.scheduler.switches > MOST_SWITCHES:
            self.ledger.break_("nothing spins", f"{self.scheduler.switches} switches of strands")
        return self.ledger.broken is not None or self._is_at_rest()

    def _is_at_rest(self) -> bool:
        """Tells whether nothing will happen any more but probes of an account that is never named."""
        if self._open or self.scheduler.now < self.load.end:
            return False
        if sum(len(queue.messages) for queue in self.queues) > MOST_PROBES:
            return False
        messages = [message for queue in self.queues for message in queue.messages.values()]
        if not all(self.ledger.is_for_nobody(message) for message in messages):
            return False
        return not any(event.stored for event in self.load.events.values() if event.known)

    def _limit(self) -> float:
        return self._quiet() + (24 * HOUR if self._has_poison else 8 * HOUR)

    def _quiet(self) -> float:
        """Returns when nothing goes wrong any more, and nobody sends."""
        return max(self.plan.weather.until, self.load.end, self.plan.failing_until)

    def _break_rest(self) -> None:
        waiting = [event.mark for event in self.load.events.values() if event.waits and event.known]
        queued = {queue.name: len(queue.messages) for queue in self.queues if queue.messages}
        busy = [
            invoker.environment.name
            for invokers in self.invokers.values()
            for invoker in invokers
            if invoker.busy
        ]
        said = (
            f"after {self.scheduler.now / HOUR:.1f} h {len(waiting)} events wait, {self._open} callers,"
            f" queues {queued}, busy {busy}"
        )
        self.ledger.break_("rest", said, waiting[0] if waiting else None)

    def _check_rest(self) -> None:
        self.ledger.check_rest()
        if not self._table_failed():
            self.ledger.check_receipts(poison_only=self._has_poison)
        self._check_calls()
        if self.plan.limits_hold:
            for account, times in self.arrivals.items():
                limits = PIPELESS_LIMITS if account.startswith("pipeless-") else KLAVIYO_LIMITS
                for seconds, limit in limits:
                    most = _busiest(times, seconds)
                    if most > limit:
                        self.ledger.break_("limits", f"{account} saw {most} requests in {seconds} s")

    def _check_calls(self) -> None:
        """Checks that no more was asked of AWS than what was received and invoked accounts for."""
        calls = sum(count for name, count in self.outside.counts.items() if not name.startswith("upstream."))
        receives = sum(queue.receives for queue in self.queues)
        invocations = sum(each.invocations for invokers in self.invokers.values() for each in invokers)
        most = receives * CALLS_A_RECEIVE + invocations * CALLS_AN_INVOCATION
        if calls > most:
            self.ledger.break_("nothing spins", f"{calls} calls to AWS, {receives} receives")


def _body_text(request: Request) -> str | None:
    """Returns a body as API Gateway hands it on."""
    if request.is_gzipped:
        return base64.b64encode(request.body).decode()
    return request.body.decode() or None


def _busiest(times: list[float], seconds: int) -> int:
    """Returns the most requests in any window of whole seconds, aligned on the clock as Klaviyo's are."""
    counts: dict[int, int] = defaultdict(int)
    for time in times:
        counts[int(time // seconds)] += 1
    return max(counts.values(), default=0)


def _klaviyo_identities(body: bytes) -> Iterable[tuple[int, tuple[Any, ...]]]:
    document = msgspec.json.decode(body)
    for entry in document["data"]["attributes"]["events-bulk-create"]["data"]:
        profile = entry["attributes"]["profile"]["data"]["attributes"]["email"]
        for event in entry["attributes"]["events"]["data"]:
            attributes = event["attributes"]
            mark = int(attributes["properties"]["mark"][1:-1])
            metric = attributes["metric"]["data"]["attributes"]["name"]
            yield mark, (profile, metric, attributes["unique_id"])


def _profiles(body: bytes) -> Iterable[tuple[dict[str, str], list[int]]]:
    for entry in msgspec.json.decode(body)["data"]["attributes"]["events-bulk-create"]["data"]:
        events = entry["attributes"]["events"]["data"]
        marks = [int(event["attributes"]["properties"]["mark"][1:-1]) for event in events]
        yield entry["attributes"]["profile"]["data"]["attributes"], marks


def _pipeless_identities(body: bytes) -> Iterable[tuple[int, tuple[Any, ...]]]:
    """Yields identities: a `single` one is there once, however often it is written, any other each time."""
    for event in msgspec.json.decode(body)["events"]:
        [mark] = marks_in(event["start_object"]["id"].encode())
        is_single = event["relationship"].get("single", True)
        yield mark, (event["start_object"]["id"],) if is_single else ()
