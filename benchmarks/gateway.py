"""The gateway's own hot path, step by step, without AWS: what ingest and dispatch do to events."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sluice import message
from sluice.contract import UPSTREAM_REVISION, Surface
from sluice.delivering import packing
from sluice.delivering.packing import Job
from sluice.message import Body, Message, StoredMessage
from sluice.reading import intake

NOW: Final = datetime(2026, 7, 22, 12, tzinfo=UTC)
SITE_ID: Final = "AbC123"


def stored(body: bytes, surface: Surface = Surface.BULK, receipt: str = "0" * 32) -> Message[Any]:
    """What ingest makes of a request's body."""
    read = intake.read(surface, body, UPSTREAM_REVISION, NOW)
    return Message(receipt, SITE_ID, surface, NOW, read.entries, flat=read.flat)


def ingest(body: bytes) -> Body:
    """A bulk request's bytes as its queue message."""
    return message.encode(stored(body))


def read(bodies: Sequence[Body]) -> list[StoredMessage]:
    """What dispatch reads of queue messages."""
    claims = {body.claim_key or "": body.claim_bytes for body in bodies}
    return [message.decode(body.text, claims.__getitem__) for body in bodies]  # type: ignore[misc]


def jobs(messages: Sequence[StoredMessage]) -> list[Job]:
    """The jobs that messages are packed into."""
    return packing.pack(enumerate(messages)).jobs


def bodies(packed: Sequence[Job]) -> list[bytes]:
    """What is sent upstream."""
    return [job.body() for job in packed]


def dispatch(given: Sequence[Body]) -> list[bytes]:
    """Queue messages as the bodies sent upstream."""
    return bodies(jobs(read(given)))


def whole(body: bytes) -> list[bytes]:
    """A bulk request's bytes as the bodies sent upstream: both functions' work."""
    return dispatch([ingest(body)])
