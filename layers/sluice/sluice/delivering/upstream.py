"""All HTTP towards the upstreams, and nothing else: one request in, one `Answer` out, never an exception.

The client lives as long as the process, so connections outlast an invocation. A request goes out at once
or not at all: what waited for a connection or a busy process would go beside those whose turn it is now.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final

import httpx2

from sluice.accounts import Account, App
from sluice.contract import BULK_CREATE_JOBS_PATH, PIPELESS_EVENTS_PATH, UPSTREAM_REVISION
from sluice.delivering.triage import Answer
from sluice.jsonapi import MEDIA_TYPE

TOTAL_SECONDS: Final = 20.0  # for one request, whatever its parts take
PROMPT_SECONDS: Final = 0.1  # until a request is on its way; with `pace.LATE_SECONDS` a quarter of a second
MAX_ANSWER_BYTES: Final = 4 * 2**20  # a thousand errors, and four times that
_TIMEOUT: Final = httpx2.Timeout(connect=3.0, read=15.0, write=10.0, pool=5.0)
_LIMITS: Final = httpx2.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=50.0)


@functools.cache
def client() -> httpx2.AsyncClient:
    """The process's client; it belongs to the one event loop the process runs."""
    # What the upstream's network would have one account's requests remember is no other account's.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx2.AsyncClient(
        http2=True,
        timeout=_TIMEOUT,
        limits=_LIMITS,
        follow_redirects=False,
        cookies=no_cookies,
        headers={"Accept-Encoding": "identity"},
    )


class _Late(Exception):
    """A request could not be sent at once."""


async def create_job(http: httpx2.AsyncClient, account: Account, body: bytes) -> Answer | None:
    """Posts one bulk-create job for an account; None where it was too late for that, and nothing was sent."""
    headers = {
        "Authorization": f"Klaviyo-API-Key {account.private_key}",
        "revision": UPSTREAM_REVISION,
        "Accept": MEDIA_TYPE,
        "Content-Type": MEDIA_TYPE,
    }
    url = account.base_url.rstrip("/") + BULK_CREATE_JOBS_PATH
    try:
        return await _post(http, url, headers, body, seconds=TOTAL_SECONDS, trace=_promptly())
    except _Late:
        return None


async def create_events(
    http: httpx2.AsyncClient, app: App, body: bytes, seconds: float = TOTAL_SECONDS
) -> Answer:
    """Posts one batch for one of Pipeless's apps, which has no windows that it could be late for."""
    headers = {
        "Authorization": f"Bearer {app.api_key}",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    url = app.base_url.rstrip("/") + PIPELESS_EVENTS_PATH.format(app_id=app.app_id)
    return await _post(http, url, headers, body, seconds=seconds)


async def _post(
    http: httpx2.AsyncClient,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    seconds: float,
    trace: Callable[[str, Any], Awaitable[None]] | None = None,
) -> Answer:
    extensions = {} if trace is None else {"trace": trace}
    try:
        async with asyncio.timeout(seconds):
            request = http.stream("POST", url, content=body, headers=headers, extensions=extensions)
            async with request as response:
                return Answer(response.status_code, response.headers, await _beginning(response))
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        return Answer(None, failure=type(error).__name__)


async def _beginning(response: httpx2.Response) -> bytes:
    """As much of a body as an answer has at most; of one that is packed nothing, as it could be anything."""
    body = bytearray()
    if response.headers.get("content-encoding", "identity") != "identity":
        return b""  # nobody asked for that
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            break
    return bytes(body[:MAX_ANSWER_BYTES])


def _promptly() -> Callable[[str, Any], Awaitable[None]]:
    """Looks on as the client sends a request, and stops it if it comes to that too late."""
    latest = time.monotonic() + PROMPT_SECONDS
    is_new = False

    async def look(step: str, _: Any) -> None:
        nonlocal is_new
        is_new |= step == "connection.connect_tcp.started"
        # Over HTTP/1.1 stopping ends the connection, so one that always takes long would never be used.
        is_stoppable = step == "http2.send_request_headers.started" or (
            step == "http11.send_request_headers.started" and not is_new
        )
        if is_stoppable and time.monotonic() > latest:
            raise _Late

    return look
