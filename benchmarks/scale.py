"""Measures whether a thousand times as much costs a thousand times as much: packing, and a backlog."""

import gc
import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence
from itertools import batched
from typing import Any, Final

import msgspec

from benchmarks import corpus, gateway, measure
from sluice import message
from sluice.contract import MAX_EVENTS_PER_REQUEST, STEADY_LIMIT, Surface
from sluice.delivery import rate_limiter
from sluice.message import StoredMessage
from tests.simulation.scenario import Scenario

_isolated: Final = multiprocessing.get_context("spawn")
_HOUR: Final = 3_600.0
_SIZES: Final = (10**3, 10**4, 10**5, 10**6)
_ROUNDS: Final = 5


def run(largest: int, backlogs: Sequence[int]) -> dict[str, Any]:
    """Packs from a thousand events at a time up to `largest`, and drains queues of so many single events."""
    sizes = [size for size in _SIZES if size <= largest]
    times = _apart(pack_times, sizes)
    return {
        "packing": {str(size): {**times[size], **_apart(_pack_once, size)} for size in sizes},
        "backlogs": [_apart(drain, backlog) for backlog in backlogs],
    }


def _apart(work: Any, given: Any) -> Any:
    with _isolated.Pool(1) as pool:
        return pool.apply(work, (given,))


def pack_times(sizes: Sequence[int]) -> dict[int, dict[str, float]]:
    """Returns the microseconds an event, by how many of the same events are packed at a time.

    The times of the program and of the system, which hands out memory, are without the garbage collector; the
    third includes it. The collector looks only at what is packed. An invocation has 10,000 messages at most,
    so more of them are a matter of this measurement alone.
    """
    messages = list(bulk_messages(max(sizes) // corpus.EVENTS))
    gc.collect()
    gc.freeze()
    try:
        with_collector = _best_times(sizes, messages)
        gc.disable()
        without = _best_times(sizes, messages)
    finally:
        gc.enable()
        gc.unfreeze()
    each = 1e6 / max(sizes)
    return {
        size: {
            "program_microseconds": without[size][0] * each,
            "system_microseconds": without[size][1] * each,
            "microseconds_with_collector": sum(with_collector[size]) * each,
        }
        for size in sizes
    }


def _best_times(sizes: Sequence[int], messages: Sequence[StoredMessage]) -> dict[int, tuple[float, float]]:
    """Returns the seconds in the program and in the system, of the shortest of several rounds over all
    sizes.
    """
    rounds = [{size: _pack_by(size, messages) for size in sizes} for _ in range(_ROUNDS)]
    return {size: min((each[size] for each in rounds), key=sum) for size in sizes}


def _pack_by(size: int, messages: Sequence[StoredMessage]) -> tuple[float, float]:
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for some in batched(messages, size // corpus.EVENTS, strict=False):
        _packed(some)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def pack_instructions(messages: Sequence[StoredMessage]) -> float:
    """Returns the interpreter's instructions an event, to pack bulk messages at once and write their jobs."""
    return measure.instructions(lambda: _packed(messages)) / (len(messages) * corpus.EVENTS)


def _packed(messages: Sequence[StoredMessage]) -> object:
    packed = gateway.jobs(messages)
    for job in packed:
        job.body()
    return packed


def _pack_once(size: int) -> dict[str, float]:
    _packed(list(bulk_messages(1)))
    messages = list(bulk_messages(size // corpus.EVENTS))
    grown = measure.peak_growth(lambda: _packed(messages))
    return {"instructions_per_event": pack_instructions(messages), "bytes_per_event": grown / size}


def bulk_messages(count: int) -> Iterator[StoredMessage]:
    """Yields stored bulk requests of a thousand events, no two of the same profiles."""
    plain = msgspec.json.encode(gateway.stored(corpus.ungrouped(corpus.orders())))
    for number in range(count):
        text = plain.replace(b"order-", b"order-%x-" % number).replace(b"customer.", b"customer.%x." % number)
        text = text.replace(b'"key":"', b'"key":"%x' % number)
        yield message.decode(text.decode(), lambda _: b"")  # type: ignore[misc]


def drain(backlog: int) -> dict[str, Any]:
    """Drains a queue of single events in simulated time, by the real dispatch at the real rate."""
    world = Scenario({gateway.SITE_ID: "pk_upstream"}, seed=corpus.SEED, latency=0.3)
    templates = [
        message.encode(gateway.stored(corpus.single(order), Surface.EVENT)).text
        for order in corpus.orders(corpus.EVENTS)
    ]

    async def fill_and_drain() -> tuple[float, int]:
        for number in range(backlog):
            template = templates[number % len(templates)]
            text = template.replace("order-", f"order-{number:x}-").replace("0" * 32, f"{number:032x}", 1)
            world.send(text)
        before = measure.peak(forget=True)
        return await world.work_until_done(_HOUR * 10), measure.peak() - before

    begin = time.perf_counter()
    seconds, growth = world.run(fill_and_drain())
    lines = world.klaviyo.requests(gateway.SITE_ID)
    taken = [line.events for line in lines if line.status == 202]
    shares = int((lines[-1].time - lines[0].time) * 1_000 / rate_limiter.SHARE_MS)
    span = shares * rate_limiter.SHARE_MS / 1_000
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
        "bytes": growth,
    }
