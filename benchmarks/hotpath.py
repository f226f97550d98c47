"""Measures the way from a caller's bytes to the bytes sent upstream: ours, the baseline's, and the peers'."""

import functools
import json
import multiprocessing
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks import corpus, gateway, measure, peers
from benchmarks.baseline import floor
from sluice.contract import Surface
from sluice.message import Body, encode

NODE: Final = Path(__file__).parent / "node"
_NODE_ERROR: Final = re.compile(
    r"\w*Error(?: \[\w+\])?: .+"
)  # as Node ends; above it stands the line of code

type Form = Callable[[list[corpus.Order]], bytes]

_isolated: Final = multiprocessing.get_context("spawn")


def run(rounds: int) -> dict[str, Any]:
    """Returns the contestants' rows, the times of our steps, and the cost of many single events."""
    orders = corpus.orders()
    return {
        "ungrouped": _ours(corpus.ungrouped(orders), rounds),
        "grouped": _ours(corpus.grouped(orders), rounds),
        "peers": _python_peers(orders, max(3, rounds // 5)) | _node_peers(orders, rounds),
        "singles": _singles(max(3, rounds // 5)),
    }


def _ours(body: bytes, rounds: int) -> dict[str, Any]:
    queued = [gateway.ingest(body)]
    whole = _Whole(body)
    seconds = measure.best(
        {
            "floor": lambda: floor(body),
            "loads": lambda: orjson.loads(body),
            "ingest": lambda: gateway.ingest(body),
            "dispatch": lambda: gateway.dispatch(queued),
            "whole": whole,
        },
        rounds,
    )
    few = _few(corpus.ungrouped)
    return {
        "bytes_in": len(body),
        "bytes_sent": sum(map(len, gateway.whole(body))),
        "bytes_queued": len(queued[0].text),
        "seconds": seconds,
        "seconds_warm": measure.best_warm(
            {"floor": lambda: floor(body), "whole": lambda: gateway.whole(body)}, rounds // 5
        ),
        "events_per_second": corpus.EVENTS / seconds["whole"],
        "steps": {name: each / corpus.EVENTS * 1e6 for name, each in whole.steps().items()},
        "memory": _memory(gateway.whole, few, body),
        "ingest_memory": _memory(gateway.ingest, few, body),
        "dispatch_memory": _memory(gateway.dispatch, [gateway.ingest(few)], queued),
        "floor_memory": _memory(floor, few, body),
    }


class _Whole:
    """Runs `gateway.whole` on a body, and records when each of its steps is done."""

    STEPS: Final = ("read and stamp", "encode", "decode", "pack", "serialise")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._passes: list[list[float]] = []

    def __call__(self) -> list[bytes]:
        times = [time.process_time()]
        stored = gateway.stored(self._body)
        times.append(time.process_time())
        queued = [encode(stored)]
        del stored  # here and below: when `gateway.whole` lets go of it, too
        times.append(time.process_time())
        read = gateway.read(queued)
        times.append(time.process_time())
        packed = gateway.jobs(read)
        del read
        times.append(time.process_time())
        sent = gateway.bodies(packed)
        del packed
        times.append(time.process_time())
        self._passes.append(times)
        return sent

    def steps(self) -> dict[str, float]:
        """Returns the seconds of each step in the quickest pass, the first left out; they add up to all of
        it.
        """
        times = min(self._passes[1:], key=lambda times: times[-1] - times[0])
        return {name: end - begin for name, begin, end in zip(self.STEPS, times, times[1:], strict=False)}


def _python_peers(orders: list[corpus.Order], rounds: int) -> dict[str, Any]:
    return {
        "klaviyo-api 25 (Python)": _peer("klaviyo_sdk", orders, corpus.ungrouped, rounds),
        "dtex 0.21": _peer("dtex", orders, corpus.records, rounds),
    }


def _peer(name: str, orders: list[corpus.Order], form: Form, rounds: int) -> dict[str, Any]:
    given = form(orders)
    run = functools.partial(_run_peer, name)
    try:
        sent = run(given)
    except Exception as error:  # whatever it is, the row says it
        return {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    seconds = measure.best({"peer": lambda: run(given)}, rounds)["peer"]
    return _row(seconds, sum(map(len, sent)), _memory(run, _few(form), given))


def _node_peers(orders: list[corpus.Order], rounds: int) -> dict[str, Any]:
    return {
        "Segment's Klaviyo destination 3.497 (Node)": _node("segment", orders, corpus.segment, rounds),
        "klaviyo-api 23 (Node)": _node("sdk", orders, corpus.ungrouped, rounds),
    }


def _node(name: str, orders: list[corpus.Order], form: Form, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        few, given = Path(folder) / "few", Path(folder) / "given"
        few.write_bytes(_few(form))
        given.write_bytes(form(orders))
        command = ["node", "peers.mjs", name, str(few), str(given), str(rounds)]
        try:
            done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=120, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"failed": f"{type(error).__name__}: Node is needed to run it"}
    if done.returncode:
        return {"failed": node_error(done.stderr)}
    answer = json.loads(done.stdout)
    if answer["events"] != corpus.EVENTS:
        return {"failed": f"it sent {answer['events']} of {corpus.EVENTS} events"}
    return _row(answer["seconds"], answer["bytes"], answer["memory"])


def node_error(said: str) -> str:
    """Returns why Node ended, from its output."""
    reasons = filter(_NODE_ERROR.fullmatch, map(str.strip, said.splitlines()))
    return next(reasons, "it ended without an answer")[:200]


def _row(seconds: float, sent: int, memory: int) -> dict[str, Any]:
    rate = corpus.EVENTS / seconds
    return {"seconds": seconds, "events_per_second": rate, "bytes_sent": sent, "memory": memory}


def _singles(rounds: int) -> dict[str, Any]:
    """Measures ten thousand messages of one event, as one batch of the mapping brings them."""
    count = 10_000
    orders = corpus.orders(count, count // 4)
    queued = [
        encode(gateway.stored(corpus.single(order), Surface.EVENT, f"{number:032}"))
        for number, order in enumerate(orders)
    ]
    seconds = measure.best({"dispatch": lambda: gateway.dispatch(queued)}, rounds)["dispatch"]
    bodies = [corpus.single(order).decode() for order in orders[: corpus.EVENTS]]
    reading = measure.best({"read": lambda: [gateway.produced(body) for body in bodies]}, rounds)
    return {
        "events": count,
        "seconds": seconds,
        "events_per_second": count / seconds,
        "jobs": len(gateway.dispatch(queued)),
        "reading_seconds": reading["read"] / corpus.EVENTS,
        "memory": _memory(_keep_all, queued[:1], queued),
    }


def _memory[Input](work: Callable[[Input], object], few: Input, given: Input) -> int:
    """Returns by how many bytes of resident memory a process grows at most for this work.

    Its input does not count, nor the memory it uses after a `few` events: imports, and objects that are made
    once.
    """
    with _isolated.Pool(1) as pool:
        grown: int = pool.apply(_grown, (work, few, given))
        return grown


def _grown[Input](work: Callable[[Input], object], few: Input, given: Input) -> int:
    work(few)
    return measure.peak_growth(lambda: work(given))


def _few(form: Form) -> bytes:
    """Returns an input of two events."""
    return form(corpus.orders(2, 1))


def _keep_all(queued: list[Body]) -> object:
    """Keeps the messages until the end, as an invocation does."""
    messages = gateway.read(queued)
    return messages, gateway.bodies(gateway.jobs(messages))


def _run_peer(name: str, given: bytes) -> list[bytes]:
    return _made(name)(given)


@functools.cache
def _made(name: str) -> Callable[[bytes], list[bytes]]:
    made: Callable[[bytes], list[bytes]] = getattr(peers, name)()
    return made
