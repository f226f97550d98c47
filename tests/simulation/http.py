"""Models HTTP in memory: httpx2's real client over a transport that reaches the fake upstreams.

A request waits for its connection, tells the client's `trace` when its first byte would leave, travels,
arrives, and its answer travels back. Each of these can go wrong. A request that arrives is handled even if
nobody waits for the answer any more.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from types import ModuleType
from typing import Any, NamedTuple

import httpx2
import msgspec

from tests.simulation.causes import Causes
from tests.simulation.faults import Fault
from tests.simulation.ledger import marks_in
from tests.simulation.outside import Outside
from tests.simulation.scheduler import START, Killed, Process

type Arrive = Callable[[Process, str, dict[str, str], bytes], Answer]

TOLD = 12  # events of a request that are named in the trace
CONNECTION_SECONDS = 50.0  # that an idle connection is kept
OPENING_SECONDS, SLOW_SECONDS = (0.02, 0.12), (0.25, 2.5)  # that a connection takes to open
NETWORK_SECONDS = (0.01, 0.08)  # how long a request travels: clocks and this together must stay within 0.3 s
_PAGE = b"<!DOCTYPE html><html><title>Just a moment...</title></html>"
_JSON = {"Content-Type": "application/vnd.api+json"}
_HTML = {"Content-Type": "text/html; charset=UTF-8"}
_STEP = {"http2": "http2.send_request_headers.started", "http11": "http11.send_request_headers.started"}


class Answer(NamedTuple):
    """Holds an answer, and after how many seconds it comes; status 0 resets the connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    after: float = 0.0


class Upstream:
    """Connects the processes with the vendors.

    `arrive` handles a request: its process, path, headers and body. `counted` is told of each request that
    something else answers, `heard` of each answer that gets back, `left` of each request that leaves.
    `protocol` names the HTTP that is spoken, `network` how long a request and an answer travel. `slow` is the
    probability that a connection opens slowly, and `openings` what the next ones take. If `killed` says so
    after an answer, its process ends.
    """

    def __init__(
        self,
        outside: Outside,
        arrive: Arrive,
        *,
        account_of: Callable[[httpx2.Request], str],
        counted: Callable[[str, Fault, int, bytes], None],
        protocol: str,
        chance: random.Random,
        network: tuple[float, float] = NETWORK_SECONDS,
        slow: float = 0.0,
        killed: Callable[[], bool] = lambda: False,
        heard: Callable[[Process, int, bytes], None] = lambda process, status, body: None,
        openings: list[float] | None = None,
        left: Callable[[Process, str], None] = lambda process, account: None,
        causes: Causes | None = None,
    ) -> None:
        self.outside = outside
        self.arrive = arrive
        self.account_of = account_of
        self.counted = counted
        self.protocol = protocol
        self.chance = chance
        self.network = network
        self.slow = slow
        self.killed = killed
        self.heard = heard
        self.left = left
        self.causes = causes
        self.openings = [] if openings is None else openings


@dataclass(slots=True)
class _Fate:
    """Holds the fault that meets a request, by the number of its call and the names that outages know."""

    fault: Fault | None
    chance: random.Random
    number: int
    of: tuple[str, ...]
    answer: Answer | None = None
    is_taken_back: bool = False  # its sender took it back before it left


class Transport(httpx2.AsyncBaseTransport):
    """Holds the connections of one process."""

    def __init__(self, process: Process, upstream: Upstream) -> None:
        self._process = process
        self._upstream = upstream
        self._free: list[float] = []  # until when each idle connection lives
        self._lost: set[str] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request, or fails as the network does."""
        process, outside = self._process, self._upstream.outside
        if not process.alive:
            raise Killed
        body = await request.aread()
        account = self._upstream.account_of(request)
        operation = "upstream.klaviyo" if "/api/" in request.url.path else "upstream.pipeless"
        fault, chance = outside.draw(process, operation, (account, operation))
        fate = _Fate(fault, chance, outside.faults.calls, (account, operation))
        marks = list(marks_in(body))
        to = f"{account} events {marks}" if len(marks) <= TOLD else f"{account} {len(marks)} events"
        how = ""
        try:
            if fault is Fault.CRASH_BEFORE:
                outside.crash(process, operation, to, fault)
            if fault is Fault.STALL:
                outside.stall(process, chance)
            answer = fate.answer = await self._exchange(request, body, account, fate)
            how = str(answer.status)
            if fate.fault not in _INSTEAD:
                self._upstream.heard(process, answer.status, body)
            if fate.fault is Fault.CRASH_AFTER or self._upstream.killed():
                outside.crash(process, operation, to, Fault.CRASH_AFTER)
        except Killed:
            how = "killed"
            raise
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            if self._upstream.causes is not None and not fate.is_taken_back:
                given = fate.answer or Answer(0, {}, b"")
                self._upstream.causes.answered(
                    process, account, given.status or None, given.headers, given.body, marks
                )
            told = f"[{fate.fault}] {how}" if fate.fault else how
            outside.trace.add(outside.scheduler.now, process.name, operation, to, told)
        return httpx2.Response(answer.status, headers=answer.headers, content=answer.body, request=request)

    async def _exchange(self, request: httpx2.Request, body: bytes, account: str, fate: "_Fate") -> Answer:
        scheduler, faults = self._upstream.outside.scheduler, self._upstream.outside.faults
        await self._connect(request, fate.fault, fate.chance)
        trace = request.extensions.get("trace")
        if trace is not None:
            fate.is_taken_back = True
            await self._show(trace)
            fate.is_taken_back = False
        self._upstream.left(self._process, account)
        fate.fault = faults.at_departure(fate.number, fate.fault, scheduler.now, fate.of)
        fault, chance = fate.fault, fate.chance
        there, back = (self._upstream.chance.uniform(*self._upstream.network) for _ in range(2))
        answers: list[Answer] = []
        arrival = scheduler.now + there
        scheduler.call_at(
            arrival, lambda: answers.append(self._answer(request, body, account, fault, chance))
        )
        limit = request.extensions["timeout"]["read"]
        await asyncio.sleep(there)
        if fault is Fault.SLOW:
            await self._wait(chance.uniform(1.0, 14.0), limit)
        if fault in {Fault.HUNG, Fault.HUNG_DONE}:
            await self._wait(limit + 1.0, limit)
        if fault is Fault.RESET_TAKEN:
            raise httpx2.ReadError("connection reset")
        await asyncio.sleep(max(0.0, arrival + back - scheduler.now))
        if not answers:  # the process stood still in between, and what has arrived is due at this moment
            await asyncio.sleep(0.001)
        [answer] = answers
        if answer.after:
            await self._wait(answer.after, limit)
        if not answer.status:
            raise httpx2.ReadError("connection reset")
        self._free.append(scheduler.now + CONNECTION_SECONDS)
        return answer

    async def _show(self, trace: Callable[[str, Any], Any]) -> None:
        """Tells the client that the first byte is about to leave; which may take the request back."""
        try:
            await trace(_STEP[self._upstream.protocol], {})
        except Exception:
            if self._upstream.protocol == "http2":
                self._free.append(self._upstream.outside.scheduler.now + CONNECTION_SECONDS)
            raise

    async def _connect(self, request: httpx2.Request, fault: Fault | None, chance: random.Random) -> None:
        now = self._upstream.outside.scheduler.now
        limit = request.extensions["timeout"]["connect"]
        self._free = [until for until in self._free if until > now]
        if self._upstream.openings:
            await asyncio.sleep(self._upstream.openings.pop(0))
            return
        if fault is Fault.NO_CONNECTION:
            await asyncio.sleep(0.05)
            raise httpx2.ConnectError("connection refused")
        if fault is Fault.SLOW_CONNECTION:
            seconds = chance.choice((0.3, 1.0, 2.5, 4.0))
            if seconds > limit:
                await asyncio.sleep(limit)
                raise httpx2.ConnectTimeout("timed out")
            await asyncio.sleep(seconds)
        elif self._free and self._upstream.protocol == "http11":
            self._free.pop()
        elif not self._free:
            slow = self._upstream.chance.random() < self._upstream.slow
            await asyncio.sleep(self._upstream.chance.uniform(*(SLOW_SECONDS if slow else OPENING_SECONDS)))

    async def _wait(self, seconds: float, limit: float) -> None:
        await asyncio.sleep(min(seconds, limit))
        if seconds > limit:
            raise httpx2.ReadTimeout("timed out")

    def _answer(
        self, request: httpx2.Request, body: bytes, account: str, fault: Fault | None, chance: random.Random
    ) -> Answer:
        """Returns the answer that the upstream, or something in front of it, gives on arrival."""
        if fault in _INSTEAD:
            answer = _INSTEAD[fault](chance, self._upstream.outside.scheduler.now)
            assert fault is not None
            self._upstream.counted(account, fault, answer.status, body)
            return answer
        if fault in {Fault.HUNG, Fault.RESET}:
            self._upstream.counted(account, fault, 0, body)
            return Answer(0, {}, b"")
        headers = {name.lower(): value for name, value in request.headers.items()}
        return self._upstream.arrive(self._process, request.url.path, headers, body)


def module_with(transport: Callable[[], Transport]) -> ModuleType:
    """Returns httpx2 with clients that use a transport in place of the network."""
    module = ModuleType("httpx2")
    vars(module).update(vars(httpx2))

    class AsyncClient(httpx2.AsyncClient):
        def __init__(self, **given: Any) -> None:
            given |= {"http2": False, "transport": transport(), "trust_env": False}
            super().__init__(**given)

    vars(module)["AsyncClient"] = AsyncClient
    return module


def _error(status: int, pointer: str = "/data", **source: str) -> Answer:
    where = source or {"pointer": pointer}
    errors = [{"code": "error", "detail": f"A fault answered {status}.", "source": where}]
    return Answer(status, _JSON, msgspec.json.encode({"errors": errors}))


def _throttle(chance: random.Random, now: float, *, form: str) -> Answer:
    seconds = chance.choice((1, 3, 10, 60, 600))
    value = {"seconds": str(seconds), "date": formatdate(START + now + seconds, usegmt=True)}.get(form)
    return _error(429)._replace(headers=_JSON | ({"Retry-After": value} if value else {}))


_INSTEAD: dict[Fault | None, Callable[[random.Random, float], Answer]] = {
    Fault.THROTTLED: lambda chance, now: _throttle(chance, now, form="seconds"),
    Fault.THROTTLED_DATE: lambda chance, now: _throttle(chance, now, form="date"),
    Fault.THROTTLED_BARE: lambda chance, now: _throttle(chance, now, form="none"),
    Fault.JSON_500: lambda *_: _error(500),
    Fault.PAGE_502: lambda *_: Answer(502, _HTML, _PAGE),
    Fault.PAGE_403: lambda *_: Answer(403, _HTML, _PAGE),
    Fault.PAGE_400: lambda *_: Answer(400, _HTML, _PAGE),
    Fault.PAGE_200: lambda *_: Answer(200, _HTML, _PAGE),
    Fault.MOVED: lambda *_: Answer(302, {"Location": "https://elsewhere.test/"}, b""),
    Fault.TIMEOUT_408: lambda *_: _error(408),
    Fault.UNAUTHORIZED: lambda *_: _error(401),
    Fault.FORBIDDEN: lambda *_: _error(403),
    Fault.MISSING: lambda *_: _error(404),
    Fault.GONE: lambda *_: _error(410),
    Fault.HEADER_400: lambda *_: _error(400, parameter="revision"),
    Fault.BARE_400: lambda *_: _error(400),
    Fault.PAGE_413: lambda *_: Answer(413, _HTML, _PAGE),
    Fault.LARGE_400: lambda *_: Answer(400, _JSON, b"x" * 5_000_000),
}
