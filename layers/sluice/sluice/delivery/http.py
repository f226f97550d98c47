"""Does all HTTP to the upstreams: a request in, a `Response` out, no error but the slot's.

The client lives as long as the process, so connections outlast an invocation. A request that has a slot
leaves in it or takes a new one. If it waited for a connection or a busy process, it would otherwise go beside
the requests whose slots are now.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx2

from sluice import runtime
from sluice.delivery.responses import Response

TOTAL_SECONDS: Final = 20.0  # for one request, whatever its parts take
MAX_RESPONSE_BYTES: Final = 4 * 2**20  # four times the size of a thousand errors
_TIMEOUT: Final = httpx2.Timeout(connect=3.0, read=15.0, write=10.0, pool=5.0)
_LIMITS: Final = httpx2.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=50.0)

type Client = httpx2.AsyncClient
type AcquireSlot = Callable[[], Awaitable[float]]
type _Look = Callable[[str, Any], Awaitable[None]]


@functools.cache
def client() -> Client:
    """Returns the process's client; it belongs to the one event loop that the process runs."""
    # Cookies of the upstream's network belong to one account's requests and to no other's.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx2.AsyncClient(
        http2=True,
        timeout=_TIMEOUT,
        limits=_LIMITS,
        follow_redirects=False,
        cookies=no_cookies,
        headers={"Accept-Encoding": "identity"},
    )


class _SlotMissed(Exception):
    """Says that a request missed its slot, and the connection is kept without it."""


async def post_in_slot(
    http: Client, url: str, headers: Mapping[str, str], body: bytes, acquire_slot: AcquireSlot
) -> Response:
    """Posts a body in its slot.

    `acquire_slot` waits for a slot and returns until when (epoch seconds) the request may leave in it. If its
    connection is there only later, the request takes a new slot. An error of `acquire_slot` is raised here,
    and nothing was sent.
    """
    while True:
        latest = await acquire_slot()
        limit = asyncio.timeout(TOTAL_SECONDS)
        try:
            return await _post(
                http, url, headers, body, limit=limit, look=_leave_in_slot(acquire_slot, latest, limit)
            )
        except _SlotMissed:
            pass


async def post(http: Client, url: str, headers: Mapping[str, str], body: bytes, seconds: float) -> Response:
    """Posts a body at once, and waits at most `seconds` for the answer."""
    return await _post(http, url, headers, body, limit=asyncio.timeout(seconds))


async def _post(
    http: Client,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    limit: asyncio.Timeout,
    look: _Look | None = None,
) -> Response:
    extensions = {} if look is None else {"trace": look}
    try:
        async with limit:
            request = http.stream("POST", url, content=body, headers=headers, extensions=extensions)
            async with request as response:
                return Response(response.status_code, response.headers, await _read_limited(response))
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        return Response(None, failure=type(error).__name__)


async def _read_limited(response: httpx2.Response) -> bytes:
    """Reads as much of a body as an answer may have, and nothing of a compressed one, which could be any
    size.
    """
    body = bytearray()
    if response.headers.get("content-encoding", "identity") != "identity":
        return b""  # nobody asked for that
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_RESPONSE_BYTES:
            break
    return bytes(body[:MAX_RESPONSE_BYTES])


def _leave_in_slot(acquire_slot: AcquireSlot, latest: float, limit: asyncio.Timeout) -> _Look:
    """Watches the client send a request, and lets it leave in a slot; waiting for one is not limited."""

    async def look(step: str, _: Any) -> None:
        nonlocal latest
        if step == "http2.send_request_headers.started" and runtime.time() > latest:
            raise _SlotMissed
        if step == "http11.send_request_headers.started":
            # Raising here would close the connection, and a connection that takes long to open would never be
            # used.
            while runtime.time() > latest:
                limit.reschedule(None)
                latest = await acquire_slot()
                limit.reschedule(asyncio.get_running_loop().time() + TOTAL_SECONDS)

    return look
