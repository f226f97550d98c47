"""What intake makes of a body: the upstream's view of what was accepted, or the problems."""

from datetime import datetime
from typing import Any

import msgspec

from sluice import message
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.jsonapi import Problem
from sluice.klaviyo import parser
from sluice.klaviyo.parser import Intake
from sluice.message import Message, StoredMessage
from tests.support.factories import NEWEST, NOON, SITE_ID, encoded


def read(surface: Surface, document: object, revision: str = NEWEST, accepted: datetime = NOON) -> Intake:
    """A document, or the bytes of a body, read as a request would be."""
    body = document if isinstance(document, bytes) else encoded(document)
    return parser.read(surface, body, revision, accepted)


def refusal(
    surface: Surface, document: object, revision: str = NEWEST, accepted: datetime = NOON
) -> list[Problem]:
    """The problems a document is refused for; none where it is accepted."""
    try:
        read(surface, document, revision, accepted)
    except Refused as refused:
        return list(refused.problems)
    return []


def pointers(surface: Surface, document: object, revision: str = NEWEST) -> list[str | None]:
    """Where the problems of a document are."""
    return [problem.pointer for problem in refusal(surface, document, revision)]


def delivered(read: Intake, surface: Surface = Surface.BULK) -> list[dict[str, Any]]:
    """What dispatch finds on the queue of what was read: its entries, their parts as plain JSON."""
    entries: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(stored(read, surface).entries))
    return entries


def stored(read: Intake, surface: Surface = Surface.BULK) -> StoredMessage:
    """What was read, as a message on the queue."""
    body = message.encode(Message("receipt", SITE_ID, surface, NOON, read.entries, flat=read.flat))
    decoded = message.decode(body.text, lambda _: body.claim_bytes)
    assert isinstance(decoded, Message)
    return decoded


def only_event(read: Intake) -> dict[str, Any]:
    """The attributes of the only event read, as they go upstream."""
    [entry] = delivered(read)
    [event] = entry["events"]
    attributes: dict[str, Any] = event["attributes"]
    return attributes


def only_profile(read: Intake) -> dict[str, Any]:
    """The only profile read, as it goes upstream."""
    [entry] = delivered(read)
    profile: dict[str, Any] = entry["profile"]
    return profile
