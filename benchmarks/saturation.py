"""Runs the real dispatch against the fake upstream on a real socket, with its limits on and off."""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from multiprocessing.managers import BaseManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec

from benchmarks import corpus, gateway
from sluice import dispatch, message
from sluice.accounts import Accounts, KlaviyoAccount
from sluice.contract import MAX_EVENTS_PER_REQUEST, STEADY_LIMIT
from sluice.delivery import http, rate_limiter
from sluice.delivery.http import AcquireSlot
from sluice.delivery.rate_limiter import RateLimiter, SlotWindow
from sluice.delivery.responses import Response
from sluice.klaviyo import api

KEY: Final = "pk_upstream"
WORKERS: Final = 2
BATCH: Final = 30  # bulk requests in one invocation
MAX_SECONDS: Final = 600
_START_SECONDS: Final = 4.0  # until the workers' processes are there
_WAIT_SECONDS: Final = 20.0  # for a turn, as in the function


def run(shares: int, unlimited_seconds: float) -> dict[str, Any]:
    """Measures with the limits on for so many shares of a minute, then with them off."""
    span = shares * rate_limiter.SHARE_MS / 1_000
    with _standin() as url:
        limited = _saturate(url, span, paced=True)
    with _standin("--no-limits") as url:
        free = _saturate(url, unlimited_seconds, paced=False)
    return {"limited": limited, "unlimited": free}


class _Item:
    """Keeps the account's item of the state table, its window and version; only its last reader can write
    it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = (b"", 0)

    def load(self) -> tuple[bytes, int]:
        return self._held

    def store(self, window: bytes, version: int) -> bool:
        with self._lock:
            if self._held[1] != version:
                return False
            self._held = (window, version + 1)
            return True


class _Manager(BaseManager):
    """Gives every worker's process the same item."""


_Manager.register("Item", _Item)


class _RateLimiter(RateLimiter):
    """Runs the real rate limiter, with its one item at the manager instead of DynamoDB."""

    def __init__(self, item: Any, deadline: float) -> None:
        super().__init__("", gateway.SITE_ID, deadline)
        self._item = item

    def _load(self) -> tuple[SlotWindow, int]:
        held, version = self._item.load()
        return (msgspec.json.decode(held, type=SlotWindow) if held else SlotWindow()), version

    def _store(self, window: SlotWindow, version: int) -> bool:
        return bool(self._item.store(msgspec.json.encode(window), version))


class _AtOnce(_RateLimiter):
    """Gives a slot at once, without a limit."""

    async def acquire(self, **_: bool) -> int:
        return int(time.time() * 1_000)


def _saturate(url: str, seconds: float, *, paced: bool) -> dict[str, Any]:
    """Runs workers, each a process as in Lambda, that never run out of messages."""
    spawn = multiprocessing.get_context("spawn")
    with _Manager(ctx=spawn) as manager:
        item = manager.Item()  # type: ignore[attr-defined]
        end = time.time() + _START_SECONDS + seconds
        workers = [spawn.Process(target=_work, args=(url, item, end, paced, each)) for each in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return _result(url, seconds)


def _work(url: str, item: Any, end: float, paced: bool, number: int) -> None:
    asyncio.run(_Worker(url, item, paced, number).run(end))


class _Worker:
    def __init__(self, url: str, item: Any, paced: bool, number: int) -> None:
        self._accounts = Accounts((KlaviyoAccount(gateway.SITE_ID, gateway.REFERENCE, base_url=url),))
        self._item = item
        self._pace = _RateLimiter if paced else _AtOnce
        self._numbers = itertools.count(number, WORKERS)
        self._waiting: deque[str] = deque()
        self._plain = msgspec.json.encode(gateway.stored(corpus.ungrouped(corpus.orders())))

    async def run(self, end: float) -> None:
        """Runs invocation after invocation; messages that stay on the queue come first in the next."""
        while time.time() < end:
            bodies = [self._waiting.popleft() if self._waiting else self._message() for _ in range(BATCH)]
            now = datetime.now(UTC)
            records = {number: dispatch.Record(str(number), body, now) for number, body in enumerate(bodies)}
            outcome = await dispatch.dispatch_part(
                records, self._ports(min(end, time.time() + _WAIT_SECONDS))
            )
            self._waiting.extend(bodies[number] for number in outcome.retry)
        await http.client().aclose()

    def _message(self) -> str:
        """Returns a bulk request of its own events, as the queue would have it."""
        number = next(self._numbers)
        plain = self._plain.replace(b"order-", b"order-%x-" % number)
        plain = plain.replace(b"0" * 32, b"%032x" % number, 1)
        return message.wrap(plain, "claim").text

    def _ports(self, deadline: float) -> SimpleNamespace:
        async def is_open(**_: str) -> bool:
            return False

        async def nothing(*_: Any, **__: Any) -> Any:
            return {}

        async def create_job(account: KlaviyoAccount, body: bytes, acquire_slot: AcquireSlot) -> Response:
            return await api.create_job(http.client(), account, KEY, body, acquire_slot)

        async def no_missing_keys(**_: Any) -> frozenset[str]:
            return frozenset()

        return SimpleNamespace(
            accounts=lambda: self._accounts,
            load_private_keys=no_missing_keys,
            is_own_message=lambda **_: True,
            fetch_claim=lambda _: b"",
            delivery=SimpleNamespace(
                create_job=create_job,
                create_events=nothing,
                rate_limiter=lambda **_: self._pace(self._item, deadline),
                circuits=SimpleNamespace(is_open=is_open, open=nothing, close=nothing, park=nothing),
                receipts=SimpleNamespace(completed=nothing, record_delivered=nothing),
                now=lambda: datetime.now(UTC),
            ),
            read_object=nothing,
        )


def _result(url: str, seconds: float) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/_standin/requests", timeout=60) as answer:
        lines = [each for each in json.load(answer) if each["site_id"]]
    first = min(line["time"] for line in lines)
    within = [line for line in lines if line["time"] < first + seconds]
    taken = [line["events"] for line in within if line["status"] == 202]
    allowed = STEADY_LIMIT / 60 * seconds
    return {
        "seconds": seconds,
        "requests": len(within),
        "allowed": allowed,
        "used": len(within) / allowed,
        "fill": sum(taken) / len(taken) / MAX_EVENTS_PER_REQUEST,
        "events_per_second": sum(taken) / seconds,
        "throttles": sum(line["status"] == 429 for line in within),
    }


@contextlib.contextmanager
def _standin(*options: str) -> Iterator[str]:
    """Runs the fake upstream as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        account = ["--account", f"{gateway.SITE_ID}:{KEY}"]
        command = [sys.executable, "-m", "devstack.fake_upstream", *account, "--ready-file", str(ready)]
        process = subprocess.Popen(
            [*command, "--max-seconds", str(MAX_SECONDS), *options], stdout=subprocess.DEVNULL
        )
        try:
            end = time.monotonic() + 30
            while not ready.exists() and time.monotonic() < end:
                time.sleep(0.02)
            yield json.loads(ready.read_bytes())["url"]
        finally:
            process.terminate()
            process.wait()
