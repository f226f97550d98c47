"""Shows the parser's result for a body: the upstream's view of the accepted part, or the problems."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from sluice import accounts, message
from sluice.accounts import Accounts
from sluice.contract import Surface
from sluice.errors import Misconfigured, Refused
from sluice.jsonapi import Problem
from sluice.klaviyo import parser
from sluice.klaviyo.parser import ParsedRequest
from sluice.message import Message, StoredMessage
from tests.support.factories import NEWEST, NOON, SITE_ID, encoded


def read(
    surface: Surface, document: object, revision: str = NEWEST, accepted: datetime = NOON
) -> ParsedRequest:
    """Reads a document, or the bytes of a body, as a request would be read."""
    body = document if isinstance(document, bytes) else encoded(document)
    return parser.read(surface, body, revision, accepted)


def parsed_accounts(document: bytes | str) -> Accounts:
    """Reads an operator's document in which nothing is wrong; raises its first mistake otherwise."""
    found = accounts.read_written(document)
    if found.flaws:
        raise Misconfigured(found.flaws[0])
    return found.accounts


def refusal(
    surface: Surface, document: object, revision: str = NEWEST, accepted: datetime = NOON
) -> list[Problem]:
    """Returns the problems that a document is refused for; none if it is accepted."""
    try:
        read(surface, document, revision, accepted)
    except Refused as refused:
        return list(refused.problems)
    return []


def pointers(surface: Surface, document: object, revision: str = NEWEST) -> list[str | None]:
    """Returns the pointers of a document's problems."""
    return [problem.pointer for problem in refusal(surface, document, revision)]


def delivered(read: ParsedRequest, surface: Surface = Surface.BULK) -> list[dict[str, Any]]:
    """Returns what dispatch finds on the queue: the entries read, their parts as plain JSON."""
    entries: list[dict[str, Any]] = msgspec.json.decode(msgspec.json.encode(stored(read, surface).entries))
    return entries


def stored(read: ParsedRequest, surface: Surface = Surface.BULK) -> StoredMessage:
    """Returns the entries read as a message on the queue."""
    body = message.encode(Message("receipt", SITE_ID, surface, NOON, read.entries, flat=read.flat))
    return decoded(body.text, lambda _: body.claim_bytes)


def decoded(body: str, fetch_claim: Callable[[str], bytes]) -> StoredMessage:
    """Decodes the body of a message for Klaviyo."""
    found = message.decode(body, fetch_claim)
    assert isinstance(found, Message)
    return found


def only_event(read: ParsedRequest) -> dict[str, Any]:
    """Returns the attributes of the only event read, as they go upstream."""
    [entry] = delivered(read)
    [event] = entry["events"]
    attributes: dict[str, Any] = event["attributes"]
    return attributes


def only_profile(read: ParsedRequest) -> dict[str, Any]:
    """Returns the only profile read, as it goes upstream."""
    [entry] = delivered(read)
    profile: dict[str, Any] = entry["profile"]
    return profile
