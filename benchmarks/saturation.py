"""The real dispatch against the stand-in on a real socket, as fast as the limits let it, and without them."""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks import corpus, gateway
from sluice import delivery, dispatch, message, pace, upstream
from sluice.accounts import Account, Accounts
from sluice.contract import MAX_EVENTS_PER_REQUEST, STEADY_LIMIT
from sluice.pace import Pace, Window

KEY: Final = "pk_upstream"
WORKERS: Final = 2
BATCH: Final = 30  # bulk requests in one invocation
MAX_SECONDS: Final = 600
_WAIT_SECONDS: Final = 20.0  # for a turn, as in the function


def run(shares: int, unlimited_seconds: float) -> dict[str, Any]:
    """With the limits on for so many shares of a minute, then with them off."""
    span = shares * pace.SHARE_MS / 1_000
    with _standin() as url:
        limited = asyncio.run(_Run(url, span, paced=True).measure())
    with _standin("--no-limits") as url:
        free = asyncio.run(_Run(url, unlimited_seconds, paced=False).measure())
    return {"limited": limited, "unlimited": free}


class _Pace(Pace):
    """The real pace, its one item in memory instead of the state table."""

    def __init__(self, shared: dict[str, tuple[Window, int]], deadline: float) -> None:
        super().__init__("", gateway.SITE_ID, deadline)
        self._shared = shared

    def _load(self) -> tuple[Window, int]:
        return self._shared.get("item", (Window(), 0))

    def _store(self, window: Window, version: int) -> bool:
        if self._load()[1] != version:
            return False
        self._shared["item"] = (window, version + 1)
        return True


class _AtOnce(_Pace):
    """No limit: it is everybody's turn."""

    async def turn(self) -> int:
        return int(time.time() * 1_000)


class _Run:
    def __init__(self, url: str, seconds: float, *, paced: bool) -> None:
        self._url = url
        self._seconds = seconds
        self._accounts = Accounts((Account(gateway.SITE_ID, KEY, base_url=url),))
        self._shared: dict[str, tuple[Window, int]] = {}
        self._pace = _Pace if paced else _AtOnce
        self._numbers = iter(range(10**9))
        self._waiting: deque[str] = deque()
        self._busy = 0.0
        plain = msgspec.json.encode(gateway.stored(corpus.ungrouped(corpus.orders())))
        self._before, self._after = plain, b""

    async def measure(self) -> dict[str, Any]:
        begin = time.time()
        cpu = time.process_time()
        try:
            await asyncio.gather(*(self._work(begin + self._seconds) for _ in range(WORKERS)))
        finally:
            await upstream.client().aclose()
            upstream.client.cache_clear()
        return self._result(time.process_time() - cpu)

    async def _work(self, end: float) -> None:
        while time.time() < end:
            bodies = [self._waiting.popleft() if self._waiting else self._message() for _ in range(BATCH)]
            now = datetime.now(UTC)
            records = {number: dispatch.Record(str(number), body, now) for number, body in enumerate(bodies)}
            outcome = await dispatch.dispatch(records, self._ports(min(end, time.time() + _WAIT_SECONDS)))
            self._waiting.extend(bodies[number] for number in outcome.retry)
            await asyncio.sleep(0)

    def _message(self) -> str:
        """A bulk request of its own events, as the queue would have it."""
        number = next(self._numbers)
        plain = self._before.replace(b"order-", b"order-%x-" % number)
        plain = plain.replace(b"0" * 32, b"%032x" % number, 1)
        return message.wrap(plain, "claim").text

    def _ports(self, deadline: float) -> dispatch.Ports:
        async def is_open(_: str) -> bool:
            return False

        async def nothing(*_: Any) -> Any:
            return {}

        async def create_job(account: Account, body: bytes) -> Any:
            return await upstream.create_job(upstream.client(), account, body)

        return dispatch.Ports(
            accounts=lambda: self._accounts,
            fetch_claim=lambda _: b"",
            delivery=delivery.Ports(
                create_job=create_job,
                pace=lambda _: self._pace(self._shared, deadline),
                circuits=delivery.Circuits(is_open, nothing, nothing, nothing),
                receipts=delivery.Receipts(nothing, nothing),
                now=lambda: datetime.now(UTC),
            ),
        )

    def _result(self, cpu: float) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._url}/_standin/requests", timeout=60) as answer:
            lines = [each for each in json.load(answer) if each["site_id"]]
        first = min(line["time"] for line in lines)
        within = [line for line in lines if line["time"] < first + self._seconds]
        taken = [line["events"] for line in within if line["status"] == 202]
        return {
            "seconds": self._seconds,
            "requests": len(within),
            "allowed": STEADY_LIMIT / 60 * self._seconds,
            "used": len(within) / (STEADY_LIMIT / 60 * self._seconds),
            "fill": sum(taken) / len(taken) / MAX_EVENTS_PER_REQUEST,
            "events_per_second": sum(taken) / self._seconds,
            "throttles": sum(line["status"] == 429 for line in within),
            "cpu_seconds": cpu,
        }


@contextlib.contextmanager
def _standin(*options: str) -> Iterator[str]:
    """The stand-in as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        account = ["--account", f"{gateway.SITE_ID}:{KEY}"]
        command = [sys.executable, "-m", "local.standin", *account, "--ready-file", str(ready)]
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
