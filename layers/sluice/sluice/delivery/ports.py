"""Declares what a delivery reaches: circuits, receipts, slots and upstreams."""

from datetime import datetime
from typing import Protocol

from sluice.accounts import KlaviyoAccount, PipelessApp
from sluice.delivery.circuit_breaker import CircuitState
from sluice.delivery.http import AcquireSlot
from sluice.delivery.lone_refusals import Change, RefusalRecord
from sluice.delivery.rate_limiter import RateLimiter
from sluice.delivery.responses import Response


class Circuits(Protocol):
    """Keeps the circuit breakers of accounts, and parks messages while one is open."""

    async def state(self, *, account_id: str) -> CircuitState:
        """Tells whether an account's circuit is open, and what is known of its lone refusals."""
        ...

    async def open(self, *, account_id: str, status: int) -> bool:
        """Opens an account's circuit because of an upstream's `status`; returns whether it was closed."""
        ...

    async def record_refusals(self, *, account_id: str, change: Change) -> RefusalRecord:
        """Changes an account's record of lone refusals, and returns it."""
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


class Ports(Protocol):
    """Reaches AWS and the upstreams for a delivery. The circuits and receipts may raise `Retryable`."""

    @property
    def circuits(self) -> Circuits:
        """Returns the circuit breakers."""
        ...

    @property
    def receipts(self) -> Receipts:
        """Returns the receipts."""
        ...

    async def create_job(
        self, *, account: KlaviyoAccount, body: bytes, acquire_slot: AcquireSlot
    ) -> Response:
        """Waits for a slot, sends a job to Klaviyo in it or in a new one, and raises the slot's errors."""
        ...

    async def create_events(self, *, app: PipelessApp, body: bytes) -> Response:
        """Sends a batch to Pipeless."""
        ...

    def rate_limiter(self, *, account: KlaviyoAccount | PipelessApp) -> RateLimiter:
        """Returns the rate limiter of an account or app."""
        ...

    def now(self) -> datetime:
        """Returns the time."""
        ...
