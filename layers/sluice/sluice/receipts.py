"""Keeps the receipts of requests: which of a request's events are delivered, and which rejected.

A receipt is one item of the state table for a request, and an event is known by its position in the caller's
document. Sets make every write idempotent. A single event has no item: it is one message, so sending it again
is harmless. The item of a bulk request is created when it is accepted, so that its caller can ask about it.
Without that (other surfaces, a producer's message, or a table that could not be written then) an item still
records outcomes, but nobody can ask about it.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from itertools import batched
from typing import Any, Final

import msgspec

from sluice import runtime
from sluice.aws import clients, state_table
from sluice.contract import Surface
from sluice.errors import Retryable

SURFACES: Final = frozenset(
    {Surface.BULK, Surface.CLIENT_BULK}
)  # surfaces whose receipts callers can ask about
_REPLAY: Final = "replay"
_BATCH: Final = 100  # items of one BatchGetItem
_ATTEMPTS: Final = 6  # tries to get items that a throttled table leaves out of its answers


class Receipt(msgspec.Struct, frozen=True):
    """Holds a bulk request and the outcomes of its events so far; `updated_at` is when the last was
    recorded.
    """

    account: str
    created: datetime
    expires: datetime
    total: int
    delivered: int = 0
    rejected: int = 0
    updated_at: datetime | None = None


def scoped(account_id: str, receipt: str) -> str:
    """Returns the name under which an account's receipt is kept.

    A queue message states its own receipt, and a producer may have written it. So it never touches the
    receipt of another account.
    """
    return f"{account_id}#{receipt}"


def of_replay(job: str, slice_number: int, part: int) -> str:
    """Returns the receipt of a message of a replay, by its job and its place in that."""
    return f"{_REPLAY}-{job}-{slice_number}-{part}"


def job_of(receipt: str) -> str | None:
    """Returns the job of a replayed message by its receipt; None if it is none of a replay."""
    parts = receipt.split("-")
    return parts[1] if parts[0] == _REPLAY and len(parts) == 4 else None


def create(
    table: str,
    receipt: str,
    *,
    account: str,
    created: datetime,
    total: int,
    rejected: Collection[int] = (),
) -> None:
    """Writes the receipt of a request that is about to be accepted, before anything can be noted in it.

    It is not waited for, as the request is accepted without it, too.

    `rejected` are the places of events that were rejected right away.
    """
    item: dict[str, Any] = {
        **state_table.RECEIPT.key(receipt),
        "account": {"S": account},
        "created": {"S": created.isoformat()},
        "total": {"N": str(total)},
        "expires_at": state_table.RECEIPT.expiry(created.timestamp()),
    }
    if rejected:
        item["rejected"] = {"NS": [str(place) for place in rejected]}
    with clients.failing_fast(clients.low_latency_dynamodb, "the state table cannot be written") as client:
        clients.retrying_closed_connection(lambda: client.put_item(TableName=table, Item=item))


def find(table: str, receipt: str, now: datetime) -> Receipt | None:
    """Returns a receipt that was created and has not expired; None if there is none."""
    with clients.failing_fast(clients.dynamodb, "the state table cannot be read") as client:
        answer = client.get_item(TableName=table, Key=state_table.RECEIPT.key(receipt), ConsistentRead=True)
    item = answer.get("Item", {})
    if "account" not in item:
        return None
    expires = datetime.fromtimestamp(int(item["expires_at"]["N"]), UTC)
    if expires <= now:  # the table deletes expired items some time later
        return None
    delivered, rejected = _positions(item, "delivered"), _positions(item, "rejected")
    return Receipt(
        item["account"]["S"],
        datetime.fromisoformat(item["created"]["S"]),
        expires,
        int(item["total"]["N"]),
        len(delivered),
        len(rejected - delivered),
        datetime.fromisoformat(item["noted"]["S"]) if "noted" in item else None,
    )


def record_outcome(
    table: str, receipt: str, *, delivered: Collection[int] = (), rejected: Collection[int] = ()
) -> None:
    """Adds outcomes, by the events' places, to a receipt."""
    parts = {"delivered": delivered, "rejected": rejected}
    values: dict[str, Any] = {
        f":{name}": {"NS": [str(place) for place in places]} for name, places in parts.items() if places
    }
    adds = ", ".join(f"{name[1:]} {name}" for name in values)
    now = runtime.now()
    values[":noted"] = {"S": now.isoformat()}
    values[":expiry"] = state_table.RECEIPT.expiry(now.timestamp())
    sets = "noted = :noted, expires_at = if_not_exists(expires_at, :expiry)"
    with clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client:
        client.update_item(
            TableName=table,
            Key=state_table.RECEIPT.key(receipt),
            UpdateExpression=f"SET {sets} ADD {adds}",
            ExpressionAttributeValues=values,
        )


class Outcomes(msgspec.Struct, frozen=True):
    """Holds the positions of the events of a receipt whose outcome is known."""

    delivered: frozenset[int] = frozenset()
    rejected: frozenset[int] = frozenset()


def completed(table: str, receipts: Iterable[str]) -> dict[str, frozenset[int]]:
    """Places of the events that need nothing more, for each of the receipts that has any."""
    found = outcomes(table, receipts)
    return {receipt: each.delivered | each.rejected for receipt, each in found.items()}


def outcomes(table: str, receipts: Iterable[str]) -> dict[str, Outcomes]:
    """Returns the outcomes of the receipts that are there."""
    return {
        state_table.RECEIPT.name(item): Outcomes(_positions(item, "delivered"), _positions(item, "rejected"))
        for chunk in batched(receipts, _BATCH, strict=False)
        for item in _items(table, chunk)
    }


def _items(table: str, receipts: Iterable[str]) -> Iterator[Any]:
    wanted: Any = {
        table: {"Keys": [state_table.RECEIPT.key(receipt) for receipt in receipts], "ConsistentRead": True}
    }
    for attempt in range(_ATTEMPTS):
        with clients.failing_fast(clients.dynamodb, "the state table cannot be read") as client:
            answer = client.batch_get_item(RequestItems=wanted)
        yield from answer["Responses"].get(table, [])
        wanted = answer.get("UnprocessedKeys")
        if not wanted:
            return
        runtime.sleep(0.05 * 2**attempt)
    raise Retryable("the state table is throttled")


def _positions(item: Any, name: str) -> frozenset[int]:
    return frozenset(map(int, item.get(name, {}).get("NS", [])))
