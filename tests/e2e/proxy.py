"""Stands between clients and the API: keeps what they say to each other, and can spoil a first attempt."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

# Headers of one connection only, and headers that are written anew.
HOP = frozenset({"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"})


@dataclass(frozen=True)
class Answer:
    status: int
    headers: httpx2.Headers
    body: bytes


@dataclass(frozen=True)
class Exchange:
    """Holds one request and its answer."""

    path: str
    headers: httpx2.Headers
    body: bytes
    answer: Answer


@dataclass(frozen=True)
class Proxy:
    """Runs a proxy; a client that is to be told from others uses `url_of` its name."""

    url: str
    exchanges: dict[str, list[Exchange]]

    def url_of(self, name: str) -> str:
        return f"{self.url}/{name}"

    def statuses(self, name: str) -> list[int]:
        """Returns the statuses that a client was answered, in order."""
        return [each.answer.status for each in self.exchanges[name]]


type Forward = Callable[[], Answer]


@contextmanager
def proxying(api: str, first: Callable[[Forward], Answer]) -> Iterator[Proxy]:
    """Runs a proxy of `api`, in which `first` answers each client's first request and may forward it."""
    exchanges: dict[str, list[Exchange]] = defaultdict(list)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name, _, path = self.path.removeprefix("/").partition("/")
            headers = _without_hop(httpx2.Headers(self.headers.items()))
            body = self.rfile.read(int(self.headers["Content-Length"]))

            def forward() -> Answer:
                answer = httpx2.post(f"{api}/{path}", content=body, headers=headers, timeout=30)
                return Answer(answer.status_code, _without_hop(answer.headers), answer.content)

            answer = forward() if exchanges[name] else first(forward)
            exchanges[name].append(Exchange(f"/{path}", headers, body, answer))
            self._send(answer)

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for key, value in answer.headers.raw:
                self.send_header(key.decode(), value.decode())
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Says nothing: the exchanges are kept."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Proxy(f"http://127.0.0.1:{server.server_port}", exchanges)
        finally:
            server.shutdown()
            thread.join()


def _without_hop(headers: httpx2.Headers) -> httpx2.Headers:
    return httpx2.Headers([(key, value) for key, value in headers.raw if key.decode().lower() not in HOP])
