"""Serves the fake upstream on a loopback socket.

It is a server of its own and not an ASGI one, because a connection reset needs the socket, which ASGI hides.
A request's time is taken when its headers are in. It is handled on a worker thread, so that the check of a
big body does not blur the times of the requests behind it.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from http import HTTPStatus
from typing import Any

import h11

from devstack.fake_upstream.answers import Answer
from devstack.fake_upstream.control import PIPELESS_PREFIX, PREFIX, control, control_pipeless
from devstack.fake_upstream.klaviyo import Klaviyo
from devstack.fake_upstream.pipeless import ROUTES as PIPELESS_ROUTES
from devstack.fake_upstream.pipeless import Pipeless

HOST = "127.0.0.1"
_CHUNK = 1 << 18


async def serve(
    klaviyo: Klaviyo, pipeless: Pipeless, port: int, stop: asyncio.Event, listening: Callable[[str], None]
) -> None:
    """Serves until `stop` is set, and calls `listening` once with the URL; raises OSError if the port is
    taken.
    """
    with ThreadPoolExecutor(max_workers=1) as worker:

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _Conversation(klaviyo, pipeless, worker, reader, writer).run()

        server = await asyncio.start_server(converse, HOST, port, limit=_CHUNK, backlog=256)
        listening(f"http://{HOST}:{server.sockets[0].getsockname()[1]}")
        await stop.wait()
        server.close()
        server.abort_clients()
        await server.wait_closed()


@contextlib.contextmanager
def serving(klaviyo: Klaviyo, port: int = 0, pipeless: Pipeless | None = None) -> Iterator[str]:
    """Serves from a thread for the length of a `with` block, whose value is the URL; raises OSError as
    `serve`.
    """
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    url: Future[str] = Future()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve(klaviyo, pipeless or Pipeless({}), port, stop, url.set_result))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="standin") as thread:
        ended = thread.submit(run)
        either: list[Future[Any]] = [url, ended]
        wait(either, return_when=FIRST_COMPLETED)
        if not url.done():
            ended.result()  # raises what kept it from serving
        try:
            yield url.result()
        finally:
            loop.call_soon_threadsafe(stop.set)


class _Conversation:
    """Handles one connection, from its first request to its end."""

    def __init__(
        self,
        klaviyo: Klaviyo,
        pipeless: Pipeless,
        worker: ThreadPoolExecutor,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._klaviyo = klaviyo
        self._pipeless = pipeless
        self._worker = worker
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        try:
            while await self._exchange():
                self._http.start_next_cycle()
        except (ConnectionError, h11.RemoteProtocolError):
            pass
        finally:
            self._writer.close()

    async def _exchange(self) -> bool:
        """Reads a request and answers it; returns whether another may follow on this connection."""
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return False
        arrived = self._klaviyo.clock()
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data

        answer = await asyncio.get_running_loop().run_in_executor(
            self._worker, self._answer, head, bytes(body), arrived
        )
        await asyncio.sleep(answer.delay)
        if answer.ending == "answered":
            await self._send(answer)
        elif answer.ending == "hung":
            await self._reader.read()
        else:
            self._cut()
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def _answer(self, head: h11.Request, body: bytes, arrived: float) -> Answer:
        method = head.method.decode()
        path, _, query = head.target.decode().partition("?")
        if path.startswith(PIPELESS_PREFIX):
            return control_pipeless(self._pipeless, method, path, query, body)
        if path.startswith(PREFIX):
            return control(self._klaviyo, method, path, query, body)
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        vendor = self._pipeless if path.startswith(PIPELESS_ROUTES) else self._klaviyo
        return vendor.handle(method, path, headers, body, arrived)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._write(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(_CHUNK))
        return event

    async def _send(self, answer: Answer) -> None:
        headers = list(answer.headers.items())
        if isinstance(answer.body, bytes) and answer.status != HTTPStatus.NO_CONTENT:
            headers.append(("Content-Length", str(len(answer.body))))
        await self._write(h11.Response(status_code=answer.status, headers=headers))
        for chunk in [answer.body] if isinstance(answer.body, bytes) else answer.body:
            await self._write(h11.Data(data=chunk))
        await self._write(h11.EndOfMessage())

    async def _write(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    def _cut(self) -> None:
        """Closes the connection so that the other side sees a reset instead of an orderly end."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
