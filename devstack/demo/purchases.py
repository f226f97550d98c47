"""The CDNOW purchases as "Placed Order" events, in the shapes callers send."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).parents[1] / "data" / "cdnow_sample.txt"
METRIC = "Placed Order"
CURRENCY = "USD"


class Purchase(NamedTuple):
    """One row of the data; `row` counts from 1 and tells rows apart that are otherwise equal."""

    row: int
    full_id: str
    sample_id: str
    day: datetime
    cds: int
    dollars: float


@dataclass(frozen=True)
class Order:
    """One event to send, and what has to arrive of it."""

    unique_id: str
    profile: Mapping[str, str]
    properties: Mapping[str, Any]
    time: datetime
    value: float
    backfill: bool = False


def read(path: Path = DATA) -> list[Purchase]:
    """All purchases, in the order of the file: by customer, then by date."""
    return [_purchase(row, line) for row, line in enumerate(path.read_text().splitlines(), 1)]


def order(purchase: Purchase) -> Order:
    """A purchase as an event. The time of day is not in the data: midnight UTC."""
    return Order(
        unique_id=f"cdnow-{purchase.row}",
        profile={
            "email": f"customer-{purchase.sample_id}@example.com",
            "external_id": f"cdnow-{purchase.full_id}",
        },
        properties={
            "CDs": purchase.cds,
            "CustomerId": purchase.full_id,
            "SampleId": purchase.sample_id,
            "Row": purchase.row,
        },
        time=purchase.day,
        value=purchase.dollars,
    )


def backfilled(orders: Iterable[Order]) -> list[Order]:
    """The same orders as history: recorded without triggering any flow."""
    return [replace(each, backfill=True) for each in orders]


def of_somebody(original: Order, unique_id: str, **identifiers: str) -> Order:
    """The same order of somebody who is in nobody's data."""
    return replace(original, unique_id=unique_id, profile=identifiers)


def bulk_job(orders: Sequence[Order]) -> dict[str, Any]:
    """The body of Bulk Create Events, one entry for each run of orders of one profile."""
    return {
        "data": {
            "type": "event-bulk-create-job",
            "attributes": {"events-bulk-create": {"data": list(_entries(orders))}},
        }
    }


def create_event(each: Order) -> dict[str, Any]:
    """The body of Create Event."""
    event = _event(each)
    event["attributes"]["profile"] = _profile(each)
    return {"data": event}


def _purchase(row: int, line: str) -> Purchase:
    full_id, sample_id, day, cds, dollars = line.split()
    midnight = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    return Purchase(row, full_id, sample_id, midnight, int(cds), float(dollars))


def _entries(orders: Iterable[Order]) -> Iterator[dict[str, Any]]:
    for _, group in groupby(orders, key=lambda each: each.profile):
        alike = list(group)
        yield {
            "type": "event-bulk-create",
            "attributes": {
                "backfill": alike[0].backfill,
                "profile": _profile(alike[0]),
                "events": {"data": [_event(each) for each in alike]},
            },
        }


def _profile(each: Order) -> dict[str, Any]:
    return {"data": {"type": "profile", "attributes": dict(each.profile)}}


def _event(each: Order) -> dict[str, Any]:
    return {
        "type": "event",
        "attributes": {
            "properties": dict(each.properties),
            "metric": {"data": {"type": "metric", "attributes": {"name": METRIC}}},
            "time": each.time.isoformat(),
            "value": each.value,
            "value_currency": CURRENCY,
            "unique_id": each.unique_id,
            "backfill": each.backfill,
        },
    }
