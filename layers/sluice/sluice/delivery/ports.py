"""Declares what a delivery reaches: circuits, receipts, slots and upstreams."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

import msgspec

from sluice.accounts import KlaviyoAccount, PipelessApp
from sluice.delivery.http import AcquireSlot
from sluice.delivery.rate_limiter import RateLimiter
from sluice.delivery.responses import Response


class Circuits(Protocol):
    """Keeps the circuit breakers of accounts, and parks messages while one is open."""

    async def is_open(self, *, account_id: str) -> bool:
        """Tells whether an account's circuit is open."""
        ...

    async def open(self, *, account_id: str, status: int) -> bool:
        """Opens an account's circuit because of an upstream's `status`; returns whether it was closed."""
        ...

    async def close(self, *, account_id: str) -> None:
        """Closes an account's circuit."""
        ...

    async def park(self, *, account_id: str, messages: list[bytes], is_known: bool = True) -> None:
        """Parks an account's messages, each as its JSON."""
        ...


class Receipts(Protocol):
    """Keeps the outcomes of events in the receipts of their requests."""

    async def completed(self, *, receipts: list[str]) -> dict[str, frozenset[int]]:
        """Returns the positions of the events that are delivered or rejected, for each receipt with any."""
        ...

    async def record_delivered(self, *, receipt: str, positions: list[int]) -> None:
        """Adds delivered events to a receipt."""
        ...


class Ports(msgspec.Struct, frozen=True):
    """Holds everything through which a delivery reaches AWS and Klaviyo; all but `now` may raise `Retryable`.

    `create_job` waits for the slot it is given, sends the job in it or in a new one, and raises its errors.
    """

    create_job: Callable[[KlaviyoAccount, bytes, AcquireSlot], Awaitable[Response]]
    create_events: Callable[[PipelessApp, bytes], Awaitable[Response]]
    rate_limiter: Callable[[KlaviyoAccount | PipelessApp], RateLimiter]
    circuits: Circuits
    receipts: Receipts
    now: Callable[[], datetime]
