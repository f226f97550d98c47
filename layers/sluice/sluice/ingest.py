"""Accepts one request: admitted, read, stamped, stored as one message. 202 means stored.

Of a bulk request it also tells later what became of it.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from sluice import admission, contract, intake, message, receipts
from sluice.accounts import Accounts
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.jsonapi import Problem
from sluice.message import Body, Message
from sluice.receipts import Receipt

RECEIPT_TYPE: Final = "event-bulk-create-job"
_RECEIPT_ID: Final = re.compile(r"[0-9a-f]{32}")
_MAY_ASK: Final = frozenset({contract.SCOPE_EVENTS_WRITE, contract.SCOPE_EVENTS_READ})


class Ports(msgspec.Struct, frozen=True):
    """What accepting a request reaches the world through.

    `store` takes the encoded message and the account's site id; once it returns, the events are safe.
    `open_receipt` takes a bulk request's receipt id, site id, time and number of events. It is a service
    to who asks later: if it cannot be written, that is no reason not to take the events, so it never
    raises.
    """

    store: Callable[[Body, str], None]
    open_receipt: Callable[[str, str, datetime, int], None]


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
    ports: Ports,
    now: datetime,
) -> Accepted:
    """Stores what a request holds, whole or not at all.

    `headers` are by lower-case name. Raises `Refused`, or what `ports.store` raises.
    """
    account = admission.admit(surface, headers, query, accounts)
    revision = admission.revision(headers, now)
    read = intake.read(surface, admission.readable(headers, body), revision, now)
    receipt = uuid.uuid4().hex
    stored = Message(receipt, account.site_id, surface, now, read.entries, flat=read.flat)
    if surface in receipts.SURFACES:
        ports.open_receipt(receipt, account.site_id, now, read.events)
    ports.store(message.encode(stored), account.site_id)
    minimal = "return=minimal" in admission.preferences(headers)
    return Accepted(receipt, account.site_id, read.events, now, read.ignored, minimal)


def receipt_document(accepted: Accepted) -> bytes:
    """The 202's body. Klaviyo answers an empty one, but some of its callers parse the answer."""
    if accepted.minimal:
        return b""
    attributes = {"status": "queued", "created_at": accepted.at, "total_count": accepted.events}
    data = {"type": RECEIPT_TYPE, "id": accepted.receipt, "attributes": attributes}
    return msgspec.json.encode({"data": data})


def progress(
    receipt: str,
    headers: Mapping[str, str],
    *,
    accounts: Accounts,
    find: Callable[[str], Receipt | None],
) -> bytes:
    """What became of a bulk request so far, as a document for whoever has a key of its account.

    Somebody else's receipt is answered as one that does not exist. `find` may raise `Retryable`.
    """
    account = admission.authorized(headers, accounts, _MAY_ASK)
    found = find(receipt) if _RECEIPT_ID.fullmatch(receipt) else None
    if found is None or found.account != account.site_id:
        raise Refused(404, [Problem("not_found", "There is no such receipt, or it has expired.")])
    done = found.delivered + found.rejected
    attributes = {
        "status": "queued" if not done else "processing" if done < found.total else "complete",
        "created_at": found.created,
        "completed_at": found.noted if done >= found.total else None,
        "expires_at": found.expires,
        "total_count": found.total,
        "completed_count": found.delivered,
        "failed_count": found.rejected,
    }
    return msgspec.json.encode({"data": {"type": RECEIPT_TYPE, "id": receipt, "attributes": attributes}})
