"""Reads a body, and stamps its events."""

from datetime import datetime

import msgspec

from .message import AcmeEvent, AcmeMessage


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    events: list[AcmeEvent]


def read(body: bytes, *, account: str, receipt: str, accepted: datetime) -> AcmeMessage:
    """Returns the message of a body; raises `msgspec.ValidationError`, which names the field."""
    events = msgspec.json.decode(body, type=_Body).events
    for index, event in enumerate(events):
        event.id = event.id or f"{receipt}-{index}"
        event.time = event.time or accepted
    return AcmeMessage(receipt, account, accepted, events)
