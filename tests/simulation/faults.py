"""Decides which faults happen when: drawn from the seed, call by call, and counted in a table.

Each call to the outside has a number. The seed and that number alone decide if a fault meets it. So a failing
run can be repeated with fewer faults: only those before a number, or all but some.
"""

import random
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """Names the faults that can meet a call to AWS or to an upstream."""

    CRASH_BEFORE = "crash before it"
    CRASH_AFTER = "crash after it"
    STALL = "process stalls"
    SLOW = "slow"
    REFUSED = "refused (5xx)"
    THROTTLED = "throttled"
    LOST = "done, answer lost"
    HUNG = "hangs, not done"
    HUNG_DONE = "hangs, done"
    REPEATED = "done twice"
    PARTIAL = "done in part"
    TORN = "answer breaks off"
    # An upstream's.
    NO_CONNECTION = "no connection"
    SLOW_CONNECTION = "slow connection"
    RESET = "reset, not taken"
    RESET_TAKEN = "reset, taken"
    THROTTLED_DATE = "429, a date"
    THROTTLED_BARE = "429, no Retry-After"
    JSON_500 = "500"
    PAGE_502 = "502 page"
    PAGE_403 = "403 page"
    PAGE_400 = "400 page"
    PAGE_200 = "200 page"
    MOVED = "302"
    TIMEOUT_408 = "408"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    MISSING = "404"
    GONE = "410"
    HEADER_400 = "400 of a header"
    BARE_400 = "400 without a pointer"
    PAGE_413 = "413 page"
    LARGE_400 = "400 of 5 MB"


COMMON = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.STALL, Fault.SLOW)
AWS = (
    Fault.REFUSED,
    Fault.THROTTLED,
    Fault.LOST,
    Fault.HUNG,
    Fault.HUNG_DONE,
    Fault.REPEATED,
)
#: Faults that only some operations can have.
SPECIAL = {
    "sqs.send_message_batch": (Fault.PARTIAL,),
    "sqs.delete_message_batch": (Fault.PARTIAL,),
    "sqs.change_message_visibility_batch": (Fault.PARTIAL,),
    "dynamodb.batch_get_item": (Fault.PARTIAL,),
    "dynamodb.batch_write_item": (Fault.PARTIAL,),
    "s3.get_object": (Fault.TORN,),
}
UPSTREAM_PASSING = (
    Fault.NO_CONNECTION,
    Fault.SLOW_CONNECTION,
    Fault.RESET,
    Fault.RESET_TAKEN,
    Fault.HUNG,
    Fault.HUNG_DONE,
    Fault.THROTTLED,
    Fault.THROTTLED_DATE,
    Fault.THROTTLED_BARE,
    Fault.JSON_500,
    Fault.PAGE_502,
    Fault.PAGE_403,
    Fault.PAGE_400,
    Fault.PAGE_200,
    Fault.MOVED,
    Fault.TIMEOUT_408,
)
UPSTREAM_REFUSING = (Fault.UNAUTHORIZED, Fault.FORBIDDEN, Fault.MISSING, Fault.GONE, Fault.HEADER_400)
#: Says of every event that it is refused, and not why.
UNEXPLAINED = (Fault.BARE_400, Fault.PAGE_413, Fault.LARGE_400)
#: For longer nobody can tell one or two good events from bad ones.
UNEXPLAINED_SECONDS = 3_000.0
#: What an account is refused with for a time. From an upstream that refuses this now and then nobody can tell
#: a good event from a bad one, so these come as outages only, and meet every request then.
LASTING = frozenset({Fault.FORBIDDEN, Fault.MISSING, Fault.HEADER_400, *UNEXPLAINED})
_UPSTREAM = COMMON + UPSTREAM_PASSING + UPSTREAM_REFUSING + UNEXPLAINED
CRASHES = frozenset({Fault.CRASH_BEFORE, Fault.CRASH_AFTER})


def possible(operation: str) -> tuple[Fault, ...]:
    """Returns the faults that can meet an operation."""
    if operation == "upstream.pipeless":  # whose errors name nothing, neither an event nor a header
        return tuple(each for each in _UPSTREAM if each is not Fault.HEADER_400)
    if operation.startswith("upstream."):
        return _UPSTREAM
    return COMMON + AWS + SPECIAL.get(operation, ())


@dataclass(frozen=True)
class Outage:
    """Describes a time in which most calls to something fail in one way; `of` is a service or an account."""

    of: str
    begin: float
    end: float
    fault: Fault


@dataclass(frozen=True)
class Weather:
    """Says how much goes wrong in a run, and until when; rates are probabilities for each call."""

    until: float = 0.0
    aws: float = 0.0
    upstream: float = 0.0
    crashes: float = 0.0
    outages: tuple[Outage, ...] = ()


@dataclass
class Faults:
    """Decides about each call. `only_before` and `spared` leave out faults, by the numbers of their calls."""

    seed: int
    weather: Weather
    only_before: int | None = None
    spared: Collection[int] = ()
    met: Counter[tuple[str, Fault]] = field(default_factory=Counter)
    numbers: list[int] = field(default_factory=list)  # of the calls that met one
    calls: int = 0
    last: float = 0.0

    def __post_init__(self) -> None:
        self._chance = random.Random(f"{self.seed}/faults")

    def draw(self, operation: str, now: float, of: Iterable[str]) -> tuple[Fault, random.Random] | None:
        """Returns the fault that meets a call, with a source of chance for its details; None for none.

        `of` are the names by which outages know the call.
        """
        self.calls += 1
        lot = self._chance.random()
        weather = self.weather
        if now >= weather.until:
            return None
        fault = self._fault(operation, now, frozenset(of), lot)
        number = self.calls
        if fault is None or number in self.spared:
            return None
        if self.only_before is not None and number >= self.only_before:
            return None
        self.met[operation, fault] += 1
        self.numbers.append(number)
        self.last = now
        return fault, random.Random(f"{self.seed}/{number}")

    def at_departure(self, number: int, fault: Fault | None, now: float, of: Collection[str]) -> Fault | None:
        """Returns the fault of a request that leaves only now, by the number of its call and what was drawn.

        It may have waited for a connection or a new slot, and what an account is refused with for a time may
        have begun or ended meanwhile. A request that leaves after another must not be answered before it.
        """
        if number in self.spared or (self.only_before is not None and number >= self.only_before):
            return fault
        lasting = (each.fault for each in self._outages(now, of) if each.fault in LASTING)
        return next(lasting, None if fault in LASTING else fault)

    def _outages(self, now: float, of: Collection[str]) -> Iterable[Outage]:
        """Yields the outages that a call is in."""
        return (each for each in self.weather.outages if each.of in of and each.begin <= now < each.end)

    def _fault(self, operation: str, now: float, of: frozenset[str], lot: float) -> Fault | None:
        weather = self.weather
        for outage in self._outages(now, of):
            if lot < 0.9 or outage.fault in LASTING:
                return outage.fault
        if lot < weather.crashes:
            return Fault.CRASH_BEFORE if lot < weather.crashes / 2 else Fault.CRASH_AFTER
        lot -= weather.crashes
        is_upstream = operation.startswith("upstream.")
        rate = weather.upstream if is_upstream else weather.aws
        if lot >= rate:
            return None
        kinds = [each for each in possible(operation) if each not in CRASHES | LASTING]
        return kinds[int(lot / rate * len(kinds))]
