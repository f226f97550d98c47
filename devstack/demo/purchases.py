"""Makes "Placed Order" events of the CDNOW purchases, in the shapes that callers send."""

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
    """Holds one row of the data; `row` counts from 1 and tells rows apart that are otherwise equal."""

    row: int
    full_id: str
    sample_id: str
    day: datetime
    cds: int
    dollars: float


@dataclass(frozen=True)
class Order:
    """Holds one event to send, and the values that have to arrive."""

    unique_id: str
    profile: Mapping[str, str]
    properties: Mapping[str, Any]
    time: datetime
    value: float
    backfill: bool = False


def read(path: Path = DATA) -> list[Purchase]:
    """Returns all purchases, in the order of the file: by customer, then by date."""
    return [_purchase(row, line) for row, line in enumerate(path.read_text().splitlines(), 1)]


def order(purchase: Purchase) -> Order:
    """Makes an event of a purchase, at midnight UTC because the data has no time of day."""
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
    """Returns the same orders as history, to be recorded without triggering any flow."""
    return [replace(each, backfill=True) for each in orders]


def of_somebody(original: Order, unique_id: str, **identifiers: str) -> Order:
    """Returns the same order for a person who is in nobody's data."""
    return replace(original, unique_id=unique_id, profile=identifiers)


def bulk_job(orders: Sequence[Order]) -> dict[str, Any]:
    """Returns the body of Bulk Create Events, one entry for each run of orders of one profile."""
    return {
        "data": {
            "type": "event-bulk-create-job",
            "attributes": {"events-bulk-create": {"data": list(_entries(orders))}},
        }
    }


def create_event(each: Order) -> dict[str, Any]:
    """Returns the body of Create Event."""
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
