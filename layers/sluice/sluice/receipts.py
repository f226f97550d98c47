"""The ledger of bulk requests: which of a request's events are delivered, and which rejected.

One item a request in the state table; an event is known by its `place` in the caller's document. Sets
make every write idempotent. A single event has no item: one event, one message, so sending it again
is harmless.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from itertools import batched
from typing import Any, Final

from sluice import aws
from sluice.contract import MAX_EVENTS_PER_REQUEST, Surface
from sluice.errors import Retryable

KEEP_SECONDS: Final = 15 * 86_400  # a little longer than a message can live
SURFACES: Final = frozenset({Surface.BULK, Surface.CLIENT_BULK})
_BATCH: Final = 100  # items of one BatchGetItem
_ATTEMPTS: Final = 6  # to get what the table leaves out of its answers while it is throttled


def place(entry: int, event: int) -> int:
    """One number for an event's position in the caller's document."""
    return entry * MAX_EVENTS_PER_REQUEST + event


def note(
    table: str, receipt: str, *, delivered: Collection[int] = (), rejected: Collection[int] = ()
) -> None:
    """Adds outcomes, by the events' places, to a receipt."""
    parts = {"delivered": delivered, "rejected": rejected}
    values: dict[str, Any] = {
        f":{name}": {"NS": [str(place) for place in places]} for name, places in parts.items() if places
    }
    adds = ", ".join(f"{name[1:]} {name}" for name in values)
    values[":expiry"] = {"N": str(int(time.time()) + KEEP_SECONDS)}
    with aws.reaching("the state table cannot be written"):
        aws.dynamodb().update_item(
            TableName=table,
            Key=_key(receipt),
            UpdateExpression=f"SET expires_at = if_not_exists(expires_at, :expiry) ADD {adds}",
            ExpressionAttributeValues=values,
        )


def done(table: str, receipts: Iterable[str]) -> dict[str, frozenset[int]]:
    """Places of the events that need nothing more, for each of the receipts that has any."""
    found: dict[str, frozenset[int]] = {}
    for chunk in batched(receipts, _BATCH, strict=False):
        for item in _items(table, chunk):
            receipt = item["pk"]["S"].removeprefix(_PREFIX)
            found[receipt] = _places(item, "delivered") | _places(item, "rejected")
    return found


def _items(table: str, receipts: Iterable[str]) -> Iterator[Any]:
    wanted: Any = {table: {"Keys": [_key(receipt) for receipt in receipts], "ConsistentRead": True}}
    for attempt in range(_ATTEMPTS):
        with aws.reaching("the state table cannot be read"):
            answer = aws.dynamodb().batch_get_item(RequestItems=wanted)
        yield from answer["Responses"].get(table, [])
        wanted = answer.get("UnprocessedKeys")
        if not wanted:
            return
        time.sleep(0.05 * 2**attempt)
    raise Retryable("the state table is throttled")


_PREFIX: Final = "receipt#"


def _key(receipt: str) -> dict[str, dict[str, str]]:
    return {"pk": {"S": _PREFIX + receipt}}


def _places(item: Any, name: str) -> frozenset[int]:
    return frozenset(map(int, item.get(name, {}).get("NS", [])))
