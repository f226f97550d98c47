"""Measures how live events fare while a million are imported, with the real dispatch in simulated time.

Live events come one by one, at random times, at some share of the most that an account takes: 150 jobs of a
thousand events in a minute. A million imported events wait on BackgroundQueue, a hundred in a message, as
dispatch puts the lines of an import there.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from benchmarks import corpus, gateway, measure
from sluice import message
from sluice.contract import BURST_LIMIT, MAX_EVENTS_PER_REQUEST, STEADY_LIMIT, Surface
from sluice.delivery.responses import Response
from tests.simulation.scenario import Scenario

IMPORTED: Final = 10**6
WARM_UP: Final = 120.0  # seconds
MEASURED: Final = 300.0
LOADS: Final = (0.001, 0.5, 0.85, 1.0)
LINES: Final = 100  # of a message
_TICK: Final = 0.1
_LIVE: Final = re.compile(rb'"unique_id":"live-([0-9]+)-')


def run(loads: tuple[float, ...] = LOADS, imported: int = IMPORTED) -> dict[str, Any]:
    """Returns what live and imported events get at each load, a share of the limit."""
    return {"imported": imported, "loads": [at(load, imported) for load in loads]}


def at(
    load: float,
    imported: int,
    *,
    job_events: int = MAX_EVENTS_PER_REQUEST,
    lines: int = LINES,
    warm_up: float = WARM_UP,
    measured: float = MEASURED,
    knobs: Mapping[tuple[str, str], Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Simulates one load; `job_events` fill a job, and `lines` are in a message of an import.

    `knobs` are limits of the package, by module and name.
    """
    world = Scenario(
        {gateway.SITE_ID: "pk_upstream"},
        seed=corpus.SEED,
        window=5.0,
        background_workers=2,
        batch=10 * job_events,
        max_receives=500,
        knobs={("klaviyo.packing", "MAX_EVENTS_PER_REQUEST"): job_events, **knobs},
    )
    for text in imported_messages(imported, lines):
        world.send(text, is_background=True)
    return _Run(world, load * STEADY_LIMIT * job_events / 60, warm_up, measured).result(load)


class _Run:
    def __init__(self, world: Scenario, rate: float, warm_up: float, measured: float) -> None:
        self._world = world
        self._rate = rate  # live events a second
        self._warm_up, self._measured = warm_up, measured
        self._begin = 0.0
        self._sent: list[float] = []  # the moments at which live events were sent, by number
        self._waits: list[float] = []  # of those that were sent in the measured time
        self._jobs: Counter[str] = Counter()  # in the measured time
        self._background_events = 0
        self._arrivals: list[float] = []
        self._world.answer = self._take

    def result(self, load: float) -> dict[str, Any]:
        self._world.run(self._work())
        seconds = Counter(int(time) for time in self._arrivals)
        minutes = Counter(int(time // 60) for time in self._arrivals)
        minute = self._measured / 60
        return {
            "load": load,
            "live_events": len(self._waits),
            "live_p50": measure.percentile(self._waits, 50) if self._waits else None,
            "live_p99": measure.percentile(self._waits, 99) if self._waits else None,
            "live_jobs_per_minute": self._jobs["live"] / minute,
            "background_jobs_per_minute": self._jobs["background"] / minute,
            "background_events_per_minute": self._background_events / minute,
            "above_limit": sum(count > BURST_LIMIT for count in seconds.values())
            + sum(count > STEADY_LIMIT for count in minutes.values()),
        }

    async def _work(self) -> None:
        live = message.encode(gateway.stored(corpus.single(corpus.orders(1)[0]), Surface.EVENT)).text
        async with self._world.working():
            begin = due = self._world.clock()
            self._begin = begin + self._warm_up
            while (now := self._world.clock()) < begin + self._warm_up + self._measured:
                while self._rate and due < now:
                    number = len(self._sent)
                    self._sent.append(now)
                    self._world.send(_named(live, f"live-{number}-", number))
                    due += self._world.chance.expovariate(self._rate)
                await asyncio.sleep(_TICK)

    def _take(self, body: bytes) -> Response:
        now = self._world.clock()
        self._arrivals.append(now)
        live = _LIVE.findall(body)
        if self._begin <= now < self._begin + self._measured:
            self._jobs["live" if live else "background"] += 1
            if not live:
                self._background_events += body.count(b'"unique_id"')
        for number in map(int, live):
            if self._sent[number] >= self._begin:
                self._waits.append(now - self._sent[number])
        return Response(202, {}, b"")


def imported_messages(events: int, lines: int) -> Iterator[str]:
    """Yields messages of so many lines, with so many events in all, as those of an import are put there."""
    orders = gateway.stored(corpus.ungrouped(corpus.orders(lines)))
    plain = msgspec.json.encode(orders).decode()
    for number in range(events // lines):
        text = _named(plain, f"old-{number}-", number)
        yield message.wrap(text.encode(), f"claims/{number}").text


def _named(text: str, name: str, number: int) -> str:
    """Returns a stored message with other unique_ids and another receipt."""
    return text.replace("order-", name).replace("0" * 32, f"{number:032x}", 1)
