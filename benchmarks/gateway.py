"""Runs the gateway's own hot path, step by step, without AWS: the work of ingest and dispatch on events."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sluice import message
from sluice.accounts import Accounts, KeyReference, KlaviyoAccount, PipelessApp, Producer
from sluice.contract import UPSTREAM_REVISION, Surface
from sluice.klaviyo import packing, parser
from sluice.klaviyo.packing import Job
from sluice.message import Body, Message, PipelessMessage, StoredMessage
from sluice.pipeless import parser as pipeless
from sluice.producers import accept as producers
from sluice.producers import envelopes

NOW: Final = datetime(2026, 7, 22, 12, tzinfo=UTC)
SITE_ID: Final = "AbC123"
APP_ID: Final = 1
REFERENCE: Final = KeyReference("klaviyo-1", "0" * 32)
APP_REFERENCE: Final = KeyReference("pipeless-1", "0" * 32)
_ACCOUNTS: Final = Accounts((KlaviyoAccount(SITE_ID, REFERENCE),))


def stored(body: bytes, surface: Surface = Surface.BULK, receipt: str = "0" * 32) -> Message[Any]:
    """Returns the message that ingest makes of a request's body."""
    read = parser.read(surface, body, UPSTREAM_REVISION, NOW)
    return Message(receipt, SITE_ID, surface, NOW, read.entries, flat=read.flat)


def ingest(body: bytes) -> Body:
    """Returns a bulk request's bytes as its queue message."""
    return message.encode(stored(body))


def produced(text: str) -> StoredMessage | PipelessMessage:
    """Returns the message that dispatch makes of a body that a producer put on the queue."""
    unwrap = envelopes.unwrap(envelopes.Body(text, NOW))
    return message.as_stored(producers.accept(unwrap, "0" * 32, _ACCOUNTS, Producer()))  # type: ignore[arg-type]


def batch(body: bytes) -> PipelessMessage:
    """Returns the message that ingest makes of a batch for Pipeless."""
    read = pipeless.read(body, PipelessApp(APP_ID, APP_REFERENCE))
    return PipelessMessage("0" * 32, APP_ID, NOW, pipeless.stamped(read.events, NOW))


def read(bodies: Sequence[Body]) -> list[StoredMessage]:
    """Decodes queue messages as dispatch does."""
    claims = {body.claim_key or "": body.claim_bytes for body in bodies}
    return [message.decode(body.text, claims.__getitem__) for body in bodies]  # type: ignore[misc]


def jobs(messages: Sequence[StoredMessage]) -> list[Job]:
    """Packs messages into jobs."""
    return packing.pack(enumerate(messages)).jobs


def bodies(packed: Sequence[Job]) -> list[bytes]:
    """Returns the bodies that are sent upstream."""
    return [job.body() for job in packed]


def dispatch(given: Sequence[Body]) -> list[bytes]:
    """Returns queue messages as the bodies sent upstream."""
    return bodies(jobs(read(given)))


def whole(body: bytes) -> list[bytes]:
    """Returns a bulk request's bytes as the bodies sent upstream: the work of both functions."""
    return dispatch([ingest(body)])
