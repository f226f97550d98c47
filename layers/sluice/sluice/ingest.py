"""Accepts one request: admitted, read, stamped, stored as one message. 202 means stored."""

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from sluice import admission, intake, message
from sluice.accounts import Accounts
from sluice.contract import Surface
from sluice.message import Body, Message

RECEIPT_TYPE: Final = "event-bulk-create-job"


class Accepted(msgspec.Struct, frozen=True):
    """A stored request: its receipt id, whose it is, how many events it holds, what was left out.

    `minimal` is a caller's wish for an answer without a body.
    """

    receipt: str
    account: str
    events: int
    at: datetime
    ignored: frozenset[str]
    minimal: bool


def accept(
    surface: Surface,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    body: bytes,
    *,
    accounts: Accounts,
    store: Callable[[Body, str], None],
    now: datetime,
) -> Accepted:
    """Stores what a request holds, whole or not at all.

    `headers` are by lower-case name. `store` takes the encoded message and the account's site id;
    once it returns, the events are safe. Raises `Refused`, or what `store` raises.
    """
    account = admission.admit(surface, headers, query, accounts)
    revision = admission.revision(headers, now)
    read = intake.read(surface, admission.readable(headers, body), revision, now)
    receipt = uuid.uuid4().hex
    stored = Message(receipt, account.site_id, surface, now, read.entries, flat=read.flat)
    store(message.encode(stored), account.site_id)
    minimal = "return=minimal" in admission.preferences(headers)
    return Accepted(receipt, account.site_id, read.events, now, read.ignored, minimal)


def receipt_document(accepted: Accepted) -> bytes:
    """The 202's body. Klaviyo answers an empty one, but some of its callers parse the answer."""
    if accepted.minimal:
        return b""
    attributes = {"status": "queued", "created_at": accepted.at, "total_count": accepted.events}
    data = {"type": RECEIPT_TYPE, "id": accepted.receipt, "attributes": attributes}
    return msgspec.json.encode({"data": data})
