"""Stands between one execution environment and the emulated AWS, and makes its calls go wrong.

It numbers the calls by kind, over all environments of a function, and asks the plan what happens at each.
"""

import contextlib
import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from signal import Signals
from typing import TYPE_CHECKING, Any, Final

from devstack import emulator
from tests.chaos.plan import Plan

if TYPE_CHECKING:
    from tests.chaos.runtime import Runtime

FAILED: Final = 0.1  # of the entries of SendMessageBatch
UNAVAILABLE: Final = 0.01  # calls not done
UNANSWERED: Final = 0.01  # calls done, their answers lost
FORWARD_SECONDS: Final = 30
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
)


@dataclass
class Mischief:
    """Holds what all proxies of a run share: the plan, the number of calls of each kind, and the faults done.

    longest_wait: the longest wait that a function may choose for a message, in seconds. poisoned: tells
    whether a path is one of the poison's.
    """

    plan: Plan
    longest_wait: int
    poisoned: Callable[[str], bool]
    done: Counter[str] = field(default_factory=Counter)
    _calls: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def number(self, kind: str) -> int:
        """Counts one more occasion of a kind."""
        with self._lock:
            self._calls[kind] += 1
            return self._calls[kind]

    def happens(self, kind: str, probability: float) -> bool:
        return self.plan.chance(kind, self.number(kind)) < probability

    def note(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """Returns the API call; for S3's objects the method."""
        target = next((value for name, value in self.headers.items() if name.lower() == "x-amz-target"), "")
        return target.rpartition(".")[2] or f"{self.method.title()}Object"


@dataclass(frozen=True)
class _Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Proxy:
    """Stands between a runtime and the emulator, for the length of `serving`."""

    def __init__(self, function: str, mischief: Mischief, port: int) -> None:
        self._function = function
        self._mischief = mischief
        self._emulator_port = port
        self.runtime: Runtime | None = None

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """Serves for the length of a `with` block, whose value is the URL."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = _Request(self.command, self.path, dict(self.headers.items()), body)
                response = proxy.handle(request)
                if response is None:
                    self.close_connection = True
                    return
                self.send_response_only(response.status)
                for name, value in response.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(response.body)))
                self.end_headers()
                self.wfile.write(response.body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _take  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Says nothing: the functions' own logs do."""

        with ThreadingHTTPServer((emulator.HOST, 0), Handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
            thread.start()
            try:
                yield f"http://{emulator.HOST}:{server.server_address[1]}"
            finally:
                server.shutdown()
                thread.join()

    def handle(self, request: _Request) -> _Response | None:
        """Answers a call; returns None if there is to be no answer."""
        kind = f"{self._function} {request.kind}"
        strike = self._mischief.plan.strikes.get((kind, self._mischief.number(kind)))
        if self._mischief.poisoned(request.path):
            self._strike(Signals.SIGKILL, "poisonings")
            return None
        if strike is not None and not strike.done:
            self._strike(Signals[strike.blow], strike.blow)
            return None
        if self._mischief.happens(f"{kind} unavailable", UNAVAILABLE):
            self._mischief.note("calls not done")
            return _Response(503, [], b"")
        response = self._carry_out(request)
        if strike is not None:
            self._strike(Signals[strike.blow], strike.blow)
            return None
        if self._mischief.happens(f"{kind} unanswered", UNANSWERED):
            self._mischief.note("calls without an answer")
            return None
        return response

    def _strike(self, number: Signals, what: str) -> None:
        if self.runtime is not None and self.runtime.strike(number):
            self._mischief.note(what)

    def _carry_out(self, request: _Request) -> _Response:
        match request.kind:
            case "SendMessageBatch":
                return self._send_some(request)
            case "ChangeMessageVisibilityBatch":
                return self._forward(self._shortened(request))
            case _:
                return self._forward(request)

    def _send_some(self, request: _Request) -> _Response:
        """Does SendMessageBatch, but leaves some entries out and answers them as `Failed`."""
        document = json.loads(request.body)
        kind = f"{self._function} Failed"
        refused = [each for each in document["Entries"] if self._mischief.happens(kind, FAILED)]
        sent = [each for each in document["Entries"] if each not in refused]
        if not refused:
            return self._forward(request)
        for _ in refused:
            self._mischief.note("sendings failed")
        response = _Response(200, [("Content-Type", "application/x-amz-json-1.0")], b'{"Successful": []}')
        if sent:
            body = json.dumps({**document, "Entries": sent}).encode()
            response = self._forward(_Request(request.method, request.path, request.headers, body))
            if response.status != 200:
                return response
        failed = [{"Id": each["Id"], "SenderFault": False, "Code": "ServiceUnavailable"} for each in refused]
        answered = json.loads(response.body)
        answered["Failed"] = [*answered.get("Failed", []), *failed]
        return _Response(200, response.headers, json.dumps(answered).encode())

    def _shortened(self, request: _Request) -> _Request:
        """Returns ChangeMessageVisibilityBatch with its waits cut."""
        document = json.loads(request.body)
        for entry in document["Entries"]:
            entry["VisibilityTimeout"] = min(entry["VisibilityTimeout"], self._mischief.longest_wait)
        return _Request(request.method, request.path, request.headers, json.dumps(document).encode())

    def _forward(self, request: _Request) -> _Response:
        connection = http.client.HTTPConnection(emulator.HOST, self._emulator_port, timeout=FORWARD_SECONDS)
        with contextlib.closing(connection):
            headers = {
                name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP
            }
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            body = answer.read()
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP]
        return _Response(answer.status, kept, body)
