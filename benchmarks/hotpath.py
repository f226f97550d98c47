"""From a caller's bytes to the bytes sent upstream: ours, the floor below it, and what others take."""

import json
import multiprocessing
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks import corpus, gateway, measure, peers
from benchmarks.floor import floor
from sluice.contract import Surface
from sluice.message import Body, decode, encode

NODE: Final = Path(__file__).parent / "node"

_isolated: Final = multiprocessing.get_context("spawn")


def run(rounds: int) -> dict[str, Any]:
    """The contestants' rows, our steps, and what many single events take."""
    orders = corpus.orders()
    return {
        "ungrouped": {**_ours(corpus.ungrouped(orders), rounds), "steps": _steps(orders, rounds)},
        "grouped": _ours(corpus.grouped(orders), rounds),
        "peers": _python_peers(orders, max(3, rounds // 5)) | _node_peers(orders, rounds),
        "singles": _singles(max(3, rounds // 5)),
    }


def _ours(body: bytes, rounds: int) -> dict[str, Any]:
    queued = [gateway.ingest(body)]
    seconds = measure.best(
        {
            "floor": lambda: floor(body),
            "loads": lambda: orjson.loads(body),
            "ingest": lambda: gateway.ingest(body),
            "dispatch": lambda: gateway.dispatch(queued),
            "whole": lambda: gateway.whole(body),
        },
        rounds,
    )
    return {
        "bytes_in": len(body),
        "bytes_sent": sum(map(len, gateway.whole(body))),
        "bytes_queued": len(queued[0].text),
        "seconds": seconds,
        "seconds_warm": measure.best_warm(
            {"floor": lambda: floor(body), "whole": lambda: gateway.whole(body)}, rounds // 5
        ),
        "events_per_second": corpus.EVENTS / seconds["whole"],
        "memory": _memory(_whole, body),
        "ingest_memory": _memory(_ingest, body),
        "dispatch_memory": _memory(_dispatch, queued),
        "floor_memory": _memory(floor, body),
    }


def _steps(orders: list[corpus.Order], rounds: int) -> dict[str, float]:
    """Microseconds an event of each step."""
    body = corpus.ungrouped(orders)
    stored = gateway.stored(body)
    queued = [encode(stored)]
    read = gateway.read(queued)
    packed = gateway.jobs(read)
    seconds = measure.best(
        {
            "read and stamp": lambda: gateway.stored(body),
            "encode": lambda: encode(stored),
            "decode": lambda: gateway.read(queued),
            "pack": lambda: gateway.jobs(read),
            "serialise": lambda: gateway.bodies(packed),
        },
        rounds,
    )
    return {name: each / corpus.EVENTS * 1e6 for name, each in seconds.items()}


def _python_peers(orders: list[corpus.Order], rounds: int) -> dict[str, Any]:
    return {
        "klaviyo-api 25 (Python)": _peer(peers.klaviyo_sdk, corpus.ungrouped(orders), rounds),
        "dtex 0.21": _peer(peers.dtex, corpus.records(orders), rounds),
    }


def _peer(make: Callable[[], Callable[[bytes], list[bytes]]], given: bytes, rounds: int) -> dict[str, Any]:
    try:
        run = make()
        sent = run(given)
    except Exception as error:  # whatever it is, the row says it
        return {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    seconds = measure.best({"peer": lambda: run(given)}, rounds)["peer"]
    return _row(seconds, sum(map(len, sent)), _memory(_run_peer, make.__name__, given))


def _node_peers(orders: list[corpus.Order], rounds: int) -> dict[str, Any]:
    return {
        "Segment's Klaviyo destination 3.497 (Node)": _node("segment", corpus.segment(orders), rounds),
        "klaviyo-api 23 (Node)": _node("sdk", corpus.ungrouped(orders), rounds),
    }


def _node(name: str, given: bytes, rounds: int) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(given)
        file.flush()
        command = ["node", "peers.mjs", name, file.name, str(rounds)]
        try:
            done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=120, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"failed": f"{type(error).__name__}: Node is needed to run it"}
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if "Error" in line]
        return {"failed": (reasons or ["it ended without an answer"])[0].strip()[:200]}
    answer = json.loads(done.stdout)
    if answer["events"] != corpus.EVENTS:
        return {"failed": f"it sent {answer['events']} of {corpus.EVENTS} events"}
    return _row(answer["seconds"], answer["bytes"], answer["memory"])


def _row(seconds: float, sent: int, memory: int) -> dict[str, Any]:
    rate = corpus.EVENTS / seconds
    return {"seconds": seconds, "events_per_second": rate, "bytes_sent": sent, "memory": memory}


def _singles(rounds: int) -> dict[str, Any]:
    """Ten thousand messages of one event, as one batch of the mapping brings them."""
    count = 10_000
    orders = corpus.orders(count, count // 4)
    queued = [
        encode(gateway.stored(corpus.single(order), Surface.EVENT, f"{number:032}"))
        for number, order in enumerate(orders)
    ]
    seconds = measure.best({"dispatch": lambda: gateway.dispatch(queued)}, rounds)["dispatch"]
    return {
        "events": count,
        "seconds": seconds,
        "events_per_second": count / seconds,
        "jobs": len(gateway.dispatch(queued)),
        "memory": _memory(_dispatch_texts, [body.text for body in queued]),
    }


def _memory(work: Callable[..., object], *given: Any) -> int:
    """Bytes of resident memory a process grows by at most for this, beyond its input and its imports."""
    with _isolated.Pool(1) as pool:
        grown: int = pool.apply(_grown, (work, given))
        return grown


def _grown(work: Callable[..., object], given: tuple[Any, ...]) -> int:
    return measure.peak_growth(lambda: work(*given))


def _whole(body: bytes) -> object:
    return gateway.whole(body)


def _ingest(body: bytes) -> object:
    return gateway.ingest(body)


def _dispatch(queued: list[Body]) -> object:
    return gateway.dispatch(queued)


def _dispatch_texts(texts: list[str]) -> object:
    messages = [decode(text, lambda _: b"") for text in texts]
    return messages, gateway.bodies(gateway.jobs(messages))  # type: ignore[arg-type]


def _run_peer(name: str, given: bytes) -> object:
    return getattr(peers, name)()(given)
