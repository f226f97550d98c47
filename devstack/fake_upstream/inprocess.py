"""Serves the fake upstream without a socket: a transport for httpx2 clients, synchronous or not."""

import time
from collections.abc import Callable

import httpx2

from devstack.fake_upstream.answers import Answer
from devstack.fake_upstream.klaviyo import Klaviyo
from devstack.fake_upstream.pipeless import Pipeless


def transport(
    vendor: Klaviyo | Pipeless, sleep: Callable[[float], None] = time.sleep
) -> httpx2.MockTransport:
    """Hands a client's requests straight to the core, from any thread and for any host.

    A reset raises ReadError. A hang, or an answer later than the client's read timeout, raises ReadTimeout.
    Latency goes to `sleep`, which a test with a clock of its own replaces.
    """

    def handler(request: httpx2.Request) -> httpx2.Response:
        answer = vendor.handle(
            request.method, request.url.path, dict(request.headers.items()), request.read()
        )
        _wait(answer, request, sleep)
        if answer.ending == "reset":
            raise httpx2.ReadError("Connection reset by the fake upstream", request=request)
        return httpx2.Response(answer.status, headers=dict(answer.headers), content=answer.body)

    return httpx2.MockTransport(handler)


def _wait(answer: Answer, request: httpx2.Request, sleep: Callable[[float], None]) -> None:
    patience: float | None = request.extensions.get("timeout", {}).get("read")
    if answer.ending == "hung" or (patience is not None and answer.delay > patience):
        raise httpx2.ReadTimeout("No answer from the fake upstream", request=request)
    if answer.delay:
        sleep(answer.delay)
