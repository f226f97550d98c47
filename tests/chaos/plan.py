"""Plans a run, all of it drawn from the seed beforehand, without any call or clock."""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

MARK: Final = re.compile(rb"chaos-\d{6}")
SENDINGS_PER_SECOND: Final = 2.0
WEATHER_SECONDS: Final = 8.0
PROFILES: Final = 150

BAD_ADDRESS: Final = "bad-address"
BAD_METRIC: Final = "Bad Metric"
RIDDLE: Final = "Riddle"
# The fake upstream refuses these; of a riddle it does not say why.
REFUSED: Final = (
    {"contains": BAD_ADDRESS},
    {"contains": BAD_METRIC},
    {"contains": RIDDLE, "attributed": False},
)

WEATHERS: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "throttled": ({"kind": "throttle", "probability": 0.6, "retry_after": 2},),
    "throttled until a date": (
        {"kind": "throttle", "probability": 0.6, "retry_after": 2, "retry_after_as": "date"},
    ),
    "throttled without a word": ({"kind": "throttle", "count": 1, "retry_after_as": "absent"},),
    "errors": ({"kind": "json", "status": 500, "probability": 0.6},),
    "pages of errors": ({"kind": "html", "status": 502, "probability": 0.6},),
    "challenges": ({"kind": "html", "status": 403, "probability": 0.6},),
    "account refused": ({"kind": "json", "status": 401},),
    "resets": (
        {"kind": "reset", "probability": 0.3},
        {"kind": "reset", "probability": 0.3, "taken": True},
    ),
    "taken without an answer": ({"kind": "hang", "probability": 0.3},),
    "late": ({"kind": "latency", "probability": 0.6, "seconds": 1.5},),
    "fields ignored": ({"kind": "partial_failure", "probability": 0.5},),
}


# Good events for a system that is at rest but for events that it refused without a reason: those wait for the
# next delivery, or for an hour.
LATE_SENDINGS: Final = 3

# A brief run has faults that are over within seconds, with no pause, circuit or silence to wait out. It has
# few kills, so that enough requests get through to meet them.
BRIEF_WEATHERS: Final = ("throttled", "errors", "pages of errors", "challenges", "resets")
BRIEF_CALLS: Final = ("dispatch PutItem", "dispatch UpdateItem", "dispatch SendMessageBatch")


class Way(StrEnum):
    """Names the ways in: a route of the API, or a producer's message to the queue."""

    BULK = "/api/event-bulk-create-jobs"
    EVENT = "/api/events"
    CLIENT_BULK = "/client/event-bulk-create"
    CLIENT_EVENT = "/client/events"
    QUEUE = "queue"


class Blow(StrEnum):
    """Names what happens to a process."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP"


@dataclass(frozen=True)
class Sending:
    """Describes one request or message: when it goes, in seconds, and the marks of its events."""

    at: float
    way: Way
    body: bytes
    marks: tuple[str, ...]
    poison: bool = False


@dataclass(frozen=True)
class Weather:
    """Holds the faults of the fake upstream from a moment on."""

    at: float
    name: str
    faults: tuple[dict[str, Any], ...] = ()
    attribution: str = "all"


@dataclass(frozen=True)
class Strike:
    """Describes a blow to the process that makes a call: before the call is done, or after it and
    unanswered.
    """

    call: str
    number: int
    done: bool
    blow: Blow


@dataclass(frozen=True)
class Plan:
    """Holds one run; `outages` are requests to the fake upstream during which every busy process is
    killed, and `late_sendings` go one by one when the load is over and nothing moves any more.
    """

    seed: int
    sendings: tuple[Sending, ...]
    late_sendings: tuple[Sending, ...]
    bad: frozenset[str]
    weather: tuple[Weather, ...]
    strikes: dict[tuple[str, int], Strike]
    outages: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Returns a digest, the same for the same schedule."""
        parts = [
            [
                (each.at, each.way, hashlib.sha256(each.body).hexdigest())
                for each in self.sendings + self.late_sendings
            ],
            [asdict(each) for each in self.weather],
            [asdict(each) for each in self.strikes.values()],
            self.outages,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]

    def chance(self, kind: str, number: int) -> float:
        """Draws for the n-th occasion of a kind: the same for a seed, whatever came between."""
        return random.Random(f"{self.seed}/{kind}/{number}").random()


def plan(seed: int, seconds: float, *, brief: bool = False) -> Plan:
    """Plans the run of a seed, with load and faults for so many seconds.

    brief: without the poison and without the faults that have to be waited out.
    """
    chance = random.Random(seed)
    writer = _Writer(chance)
    moments = sorted(chance.uniform(0, seconds) for _ in range(int(seconds * SENDINGS_PER_SECOND)))
    sendings = [writer.sending(at) for at in moments]
    sendings += [writer.claimed(seconds * share) for share in ((0.3,) if brief else (0.1, 0.5))]
    sendings += [writer.riddle(seconds * share) for share in ((0.1,) if brief else (0.15, 0.6))]
    if not brief:
        sendings.append(writer.claimed(0.0, poison=True))
    sendings.sort(key=lambda each: each.at)
    late_sendings = tuple(writer.good(seconds) for _ in range(LATE_SENDINGS))
    strikes = [
        each
        for each in _strikes(chance, seconds)
        if not brief or each.call in BRIEF_CALLS or each.blow is Blow.STOP
    ]
    return Plan(
        seed,
        tuple(sendings),
        late_sendings,
        frozenset(writer.bad),
        tuple(_weather(chance, seconds, list(BRIEF_WEATHERS if brief else WEATHERS))),
        {(each.call, each.number): each for each in strikes},
        tuple(sorted(chance.sample(range(3, max(6, int(seconds * 0.6))), max(1, int(seconds / 40))))),
    )


def _weather(chance: random.Random, seconds: float, names: list[str]) -> Iterator[Weather]:
    """Yields every kind in another order each time round, and none at the end, so that the system can come
    to rest.
    """
    each = min(WEATHER_SECONDS, seconds * 0.9 / len(names))
    at = 0.0
    while at < seconds * 0.9:
        chance.shuffle(names)
        for name in names:
            if at < seconds * 0.9:
                yield Weather(at, name, WEATHERS[name], chance.choice(["all", "first"]))
                at += each
    yield Weather(at, "fair")


def _strikes(chance: random.Random, seconds: float) -> Iterator[Strike]:
    # About how often each call is made in a second of load; a strike that never comes is not counted.
    often = {
        "dispatch GetItem": 1.5,
        "dispatch PutItem": 0.8,
        "dispatch UpdateItem": 1.0,
        "dispatch SendMessageBatch": 0.15,
        "dispatch ChangeMessageVisibilityBatch": 0.1,
        "dispatch PutObject": 0.03,
        "resume SendMessageBatch": 0.03,
        "resume DeleteObject": 0.03,
    }
    for call, rate in often.items():
        most = max(2, int(rate * seconds))
        for number in chance.sample(range(1, most + 1), max(1, most // 40)):
            yield Strike(call, number, chance.random() < 0.5, Blow.KILL)
    yield Strike("dispatch BatchGetItem", 1, False, Blow.KILL)
    # Few, because a stopped process holds its place until the function's timeout; the first one at once.
    for nth in range(1 + int(seconds / 60)):
        yield Strike("dispatch GetSecretValue", 1 + 4 * nth, chance.random() < 0.5, Blow.STOP)


class _Writer:
    """Writes bodies as callers would, each event with a mark of its own."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._count = 0
        self.bad: set[str] = set()

    def sending(self, at: float) -> Sending:
        ways = list(Way)
        [way] = self._chance.choices(ways, weights=[40, 25, 8, 12, 15])
        match way:
            case Way.EVENT | Way.CLIENT_EVENT:
                return self._single(at, way)
            case Way.CLIENT_BULK:
                return self._client_bulk(at)
            case _:
                size = self._chance.choice([3, 12, 40, 90, 300])
                entries = [self._entry(self._chance.randint(1, 6)) for _ in range(max(1, size // 4))]
                return self._bulk(at, way, entries)

    def claimed(self, at: float, *, poison: bool = False) -> Sending:
        """Makes a request that is too big for a message, so that its message is a claim check."""
        entry = self._entry(50, good=True)
        for event in entry["attributes"]["events"]["data"]:
            event["attributes"]["properties"]["noise"] = self._chance.randbytes(25_000).hex()
        return self._bulk(at, Way.BULK, [entry], poison=poison)

    def good(self, at: float) -> Sending:
        return self._bulk(at, Way.BULK, [self._entry(1, good=True)])

    def riddle(self, at: float) -> Sending:
        entries = [self._entry(4, good=True) for _ in range(12)]
        event = self._event()
        event["attributes"]["metric"]["data"]["attributes"]["name"] = RIDDLE
        self.bad.add(_marks(event)[0])
        entries[self._chance.randrange(12)]["attributes"]["events"]["data"].append(event)
        return self._bulk(at, Way.BULK, entries)

    def _bulk(self, at: float, way: Way, entries: list[Any], *, poison: bool = False) -> Sending:
        attributes = {"events-bulk-create": {"data": entries}}
        document = {"data": {"type": "event-bulk-create-job", "attributes": attributes}}
        return _sending(at, way, document, poison=poison)

    def _client_bulk(self, at: float) -> Sending:
        entry = self._entry(self._chance.randint(1, 20))
        return _sending(at, Way.CLIENT_BULK, {"data": entry})

    def _single(self, at: float, way: Way) -> Sending:
        event = self._event()
        event["attributes"]["profile"] = {"data": self._profile(_marks(event))}
        return _sending(at, way, {"data": event})

    def _entry(self, events: int, *, good: bool = False) -> dict[str, Any]:
        written = [self._event(good=good) for _ in range(events)]
        profile = self._profile(_marks(written), good=good)
        attributes = {"profile": {"data": profile}, "events": {"data": written}}
        return {"type": "event-bulk-create", "attributes": attributes}

    def _profile(self, marks: tuple[str, ...], *, good: bool = False) -> dict[str, Any]:
        number = self._chance.randrange(PROFILES)
        email = f"person-{number}@example.com"
        if not good and self._chance.random() < 0.01:
            email = f"{BAD_ADDRESS}-{number}@example.com"
            self.bad.update(marks)
        return {"type": "profile", "attributes": {"email": email, "first_name": f"P{number}"}}

    def _event(self, *, good: bool = False) -> dict[str, Any]:
        self._count += 1
        mark = f"chaos-{self._count:06d}"
        name = f"Metric {self._chance.randrange(8)}"
        if not good and self._chance.random() < 0.01:
            name = BAD_METRIC
            self.bad.add(mark)
        attributes: dict[str, Any] = {
            "metric": {"data": {"type": "metric", "attributes": {"name": name}}},
            "properties": {"mark": mark, "price": self._chance.randrange(1000)},
        }
        if self._chance.random() < 0.3:
            attributes["unique_id"] = f"own {self._count}"
        if self._chance.random() < 0.3:
            attributes["time"] = f"2026-03-0{self._chance.randint(1, 9)}T12:00:00+00:00"
        return {"type": "event", "attributes": attributes}


def _marks(content: Any) -> tuple[str, ...]:
    return tuple(mark.decode() for mark in MARK.findall(json.dumps(content).encode()))


def _sending(at: float, way: Way, document: dict[str, Any], *, poison: bool = False) -> Sending:
    body = json.dumps(document).encode()
    return Sending(at, way, body, tuple(mark.decode() for mark in MARK.findall(body)), poison)
