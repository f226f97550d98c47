"""Accepts one request: admitted, read, stamped, stored as one message. 202 means stored.

Of a bulk request it also tells later what became of it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from sluice import contract, jsonapi, message, positions, receipts, rejection, runtime
from sluice.accounts import Accounts, KlaviyoAccount
from sluice.admission import metric_quota, request
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.jsonapi import Problem
from sluice.klaviyo import parser
from sluice.klaviyo.lenient import InvalidEvents
from sluice.klaviyo.parser import ParsedRequest
from sluice.klaviyo.problems import CLIENT
from sluice.message import Body, Message
from sluice.receipts import Receipt
from sluice.rejection import Rejection

RECEIPT_TYPE: Final = "event-bulk-create-job"
MAX_PROBLEMS_PER_EVENT: Final = 5  # reported to the caller
MAX_PROBLEMS_IN_ANSWER: Final = 1_000  # reported to the caller; Lambda's answers end at 6 MB
MINIMAL: Final = "return=minimal"
LENIENT: Final = "handling=lenient"
# A single event has nothing to be lenient about, and strangers must not fill the archive.
_PREFERENCES: Final = {
    surface: frozenset({MINIMAL, LENIENT} if surface is Surface.BULK else {MINIMAL}) for surface in Surface
}
_RECEIPT_ID: Final = re.compile(r"[0-9a-f]{32}")
_MAY_ASK: Final = frozenset({contract.SCOPE_EVENTS_WRITE, contract.SCOPE_EVENTS_READ})


class Ports(Protocol):
    """Reaches AWS for accepting one request. `store` and `reject` may raise `Retryable`."""

    @property
    def max_client_body_bytes(self) -> int:
        """Returns how large the body of a client route may be."""
        ...

    def consume_rate_limit(self, *, caller: str, surface: Surface, now: datetime) -> None:
        """Counts a request of an admitted caller. Raises `Refused` if the caller sends too many."""
        ...

    def reserve_metrics(
        self, *, site_id: str, names: Iterable[str], partly: bool, is_anonymous: bool
    ) -> Set[str]:
        """Reserves room for metrics of an account that has a limited number of them.

        Returns those that are too many. Unless it may be done `partly`, then none are reserved.
        """
        ...

    def store(self, *, body: Body, account_id: str) -> None:
        """Stores an encoded message. Once this returns, its events are safe."""
        ...

    def reject(self, *, rejections: Sequence[Rejection]) -> None:
        """Stores rejections, as `store` does a message."""
        ...

    def open_receipt(
        self, *, receipt: str, account_id: str, created: datetime, total: int, rejected: list[int]
    ) -> None:
        """Opens the receipt of a bulk request, with its number of events and the positions of those rejected.

        It never raises, because a missing receipt is no reason to refuse the events.
        """
        ...


class Accepted(msgspec.Struct, frozen=True):
    """Describes a stored request: its receipt id, its account, the number of events taken, and the fields
    left out.

    `rejected` events are not among the `events`, and `bad` says why. `applied` are those of the caller's
    preferences that were followed.
    """

    receipt: str
    account: str
    events: int
    at: datetime
    ignored: frozenset[str]
    applied: frozenset[str]
    bad: Sequence[InvalidEvents] = ()
    rejected: int = 0


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
    """Stores what a request holds, whole or not at all, unless its caller prefers to have its good events
    taken and the bad ones rejected.

    `headers` are by lower-case name. Raises `Refused`, or what `ports.store` and `ports.reject` raise.
    """
    account = request.admit(surface, headers, query, accounts)
    ports.consume_rate_limit(caller=request.caller(account, headers), surface=surface, now=now)
    revision = request.revision(headers, now)
    applied = request.preferences(headers) & _PREFERENCES[surface]
    most = ports.max_client_body_bytes if surface in CLIENT else contract.MAX_BODY_BYTES_IN
    plain = request.decode_body(headers, body, most=most)
    if LENIENT in applied:
        read = parser.read_leniently(plain, revision, now)
    else:
        read = parser.read(surface, plain, revision, now, shared_ids=account.shared_unique_ids)
    if account.limit_metrics:
        read = _within_metrics(read, surface, account, ports, partly=LENIENT in applied)
    receipt = runtime.unique_id()
    stored = Message(receipt, account.site_id, surface, now, read.entries, flat=read.flat)
    rejected = [positions.position(bad.entry, event) for bad in read.bad for event in bad.events]
    if read.bad:
        # Stored first: if the request then fails, only rejections are stored, and the caller sends it again.
        ports.reject(rejections=[_rejection(bad, stored) for bad in read.bad])
    if surface in receipts.SURFACES:
        ports.open_receipt(
            receipt=receipt,
            account_id=account.site_id,
            created=now,
            total=read.events + len(rejected),
            rejected=rejected,
        )
    ports.store(body=message.encode(stored), account_id=account.site_id)
    return Accepted(
        receipt, account.site_id, read.events, now, read.ignored, applied, read.bad, len(rejected)
    )


def _within_metrics(
    read: ParsedRequest, surface: Surface, account: KlaviyoAccount, ports: Ports, *, partly: bool
) -> ParsedRequest:
    """Returns the request without the events of metrics that are too many for the account.

    Refuses it if it may not be taken `partly`, or if there is nothing else in it.
    """
    names = metric_quota.names(read)
    excess = ports.reserve_metrics(
        site_id=account.site_id, names=names, partly=partly, is_anonymous=surface in CLIENT
    )
    if not excess:
        return read
    left = metric_quota.without(read, surface, excess)
    if not partly or not left.entries:
        raise Refused(400, jsonapi.listed(problem for bad in left.bad for problem in bad.problems))
    return left


def accepted_document(accepted: Accepted) -> bytes:
    """Returns the 202's body. Klaviyo's is empty, but some of its callers parse the answer."""
    if MINIMAL in accepted.applied:
        return b""
    attributes: dict[str, Any] = {"status": "queued", "created_at": accepted.at}
    attributes["total_count"] = accepted.events + accepted.rejected
    document: dict[str, Any] = {
        "data": {"type": RECEIPT_TYPE, "id": accepted.receipt, "attributes": attributes}
    }
    if accepted.bad:
        attributes["failed_count"] = accepted.rejected
        each = min(MAX_PROBLEMS_PER_EVENT, MAX_PROBLEMS_IN_ANSWER // len(accepted.bad))
        problems = [problem for bad in accepted.bad for problem in bad.problems[:each]]
        document["meta"] = {"errors": [jsonapi.error(400, problem) for problem in problems]}
    return msgspec.json.encode(document)


def _rejection(bad: InvalidEvents, stored: Message[Any]) -> Rejection:
    first = bad.problems[0]
    return rejection.for_invalid_events(
        stored,
        bad.payload,
        code=first.code,
        detail=" ".join(problem.detail for problem in bad.problems[:MAX_PROBLEMS_PER_EVENT]),
        pointer=first.pointer,
    )


def request_status(
    receipt: str,
    headers: Mapping[str, str],
    *,
    accounts: Accounts,
    find: Callable[[str], Receipt | None],
) -> bytes:
    """Returns what became of a bulk request so far, as a document for a caller with a key of its account.

    Another account's receipt is answered as one that does not exist. `find` may raise `Retryable`.
    """
    account = request.authorized(headers, accounts, _MAY_ASK)
    wanted = receipts.scoped(account.site_id, receipt)
    found = find(wanted) if _RECEIPT_ID.fullmatch(receipt) else None
    if found is None or found.account != account.site_id:
        raise Refused(404, [Problem("not_found", "There is no such receipt, or it has expired.")])
    done = found.delivered + found.rejected
    attributes = {
        "status": "complete" if done >= found.total else "processing" if found.updated_at else "queued",
        "created_at": found.created,
        "completed_at": found.updated_at if done >= found.total else None,
        "expires_at": found.expires,
        "total_count": found.total,
        "completed_count": found.delivered,
        "failed_count": found.rejected,
    }
    return msgspec.json.encode({"data": {"type": RECEIPT_TYPE, "id": receipt, "attributes": attributes}})
