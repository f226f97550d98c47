"""Whether a thousand times as much costs a thousand times as much: packing, and a backlog drained."""

import gc
import multiprocessing
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from benchmarks import corpus, gateway, measure
from sluice import message
from sluice.contract import MAX_EVENTS_PER_REQUEST, STEADY_LIMIT, Surface
from sluice.delivering import pace
from sluice.message import StoredMessage
from tests.simulation import World
from tests.simulation import run as pretend

_isolated: Final = multiprocessing.get_context("spawn")
_HOUR: Final = 3_600.0
_ROUNDS: Final = 5


def run(largest: int, backlog: int) -> dict[str, Any]:
    """Sizes from a thousand events up to `largest`, and a queue of `backlog` single events."""
    sizes = [size for size in (10**3, 10**4, 10**5, 10**6) if size <= largest]
    return {
        "packing": {str(size): _apart(_pack, size) for size in sizes},
        "backlog": _apart(drain, backlog),
    }


def _apart(work: Any, size: int) -> dict[str, Any]:
    with _isolated.Pool(1) as pool:
        result: dict[str, Any] = pool.apply(work, (size,))
        return result


def _pack(size: int) -> dict[str, Any]:
    messages = list(_bulk_messages(size // corpus.EVENTS))

    def work() -> object:
        packed = gateway.jobs(messages)
        for job in packed:
            job.body()
        return packed

    growth = measure.peak_growth(work)
    rounds = [_timed(work) for _ in range(_ROUNDS)]
    seconds, collecting = min(rounds)
    return {
        "microseconds_per_event": seconds / size * 1e6,
        "of_it_collecting": collecting / size * 1e6,
        "bytes_per_event": growth / size,
    }


def _timed(work: measure.Work) -> tuple[float, float]:
    """Seconds that a call takes, and those of them that the garbage collector does."""
    gc.collect()
    begin = time.process_time()
    collecting = measure.collecting(work)
    return time.process_time() - begin, collecting


def _bulk_messages(count: int) -> Iterator[StoredMessage]:
    plain = msgspec.json.encode(gateway.stored(corpus.ungrouped(corpus.orders())))
    for number in range(count):
        # Each with profiles and events of its own.
        text = plain.replace(b"order-", b"order-%x-" % number).replace(b"customer.", b"customer.%x." % number)
        text = text.replace(b'"key":"', b'"key":"%x' % number)
        yield message.decode(text.decode(), lambda _: b"")  # type: ignore[misc]


def drain(backlog: int) -> dict[str, Any]:
    """A queue of single events worked off in pretended time, by the real dispatch at the real pace."""
    world = World({gateway.SITE_ID: "pk_upstream"}, seed=corpus.SEED, latency=0.3)
    templates = [
        message.encode(gateway.stored(corpus.single(order), Surface.EVENT)).text
        for order in corpus.orders(corpus.EVENTS)
    ]

    async def fill_and_drain() -> tuple[float, int]:
        for number in range(backlog):
            template = templates[number % len(templates)]
            text = template.replace("order-", f"order-{number:x}-").replace("0" * 32, f"{number:032x}", 1)
            world.queue.send(text)
        before = measure.peak(forget=True)
        return await world.work_until_done(_HOUR * 10), measure.peak() - before

    begin = time.perf_counter()
    seconds, growth = pretend(fill_and_drain())
    lines = world.klaviyo.requests(gateway.SITE_ID)
    taken = [line.events for line in lines if line.status == 202]
    shares = int((lines[-1].time - lines[0].time) * 1_000 / pace.SHARE_MS)
    span = shares * pace.SHARE_MS / 1_000
    within = sum(line.time < lines[0].time + span for line in lines)
    return {
        "events": backlog,
        "delivered": sum(taken),
        "simulated_seconds": seconds,
        "real_seconds": time.perf_counter() - begin,
        "requests": len(lines),
        "used": within / (STEADY_LIMIT / 60 * span) if shares else None,
        "fill": sum(taken) / len(taken) / MAX_EVENTS_PER_REQUEST,
        "throttles": sum(line.status == 429 for line in lines),
        "receives_per_message": world.queue.receives / backlog,
        "bytes_per_event": growth / backlog,
    }
