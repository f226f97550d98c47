"""Lends the process's own client for the upstreams to a test, with only its network replaced."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

import httpx2

from sluice.delivery import http

type Respond = Callable[[httpx2.Request], httpx2.Response]

# Headers that any HTTP client adds; none is about the account.
TRANSPORT_HEADERS: Final = frozenset(
    {"host", "user-agent", "accept-encoding", "connection", "content-length"}
)


async def slot() -> float:
    """Gives a slot at once, always."""
    return math.inf


def with_client[Result](respond: Respond, use: Callable[[http.Client], Awaitable[Result]]) -> Result:
    """Runs `use` with a new client, whose requests `respond` answers."""

    async def lend() -> Result:
        http.client.cache_clear()
        client = http.client()
        client._transport = httpx2.MockTransport(respond)
        client._mounts.clear()
        async with client:
            return await use(client)

    try:
        return asyncio.run(lend())
    finally:
        http.client.cache_clear()
