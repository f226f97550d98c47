"""Proves the outcome of every accepted event, from the arrivals upstream and the archived rejections.

accepted = delivered + rejected + lost, and each accepted event is in exactly one of the three. An event is
delivered if it arrived with every value as it was sent, else rejected if it was archived with a reason, else
lost.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from devstack.demo.purchases import CURRENCY, METRIC, Order

_REPEAT = "duplicate_unique_id"  # the reason of an event that was accepted and delivered before


@dataclass(frozen=True)
class Proof:
    """Holds the events by their outcome.

    altered: lost ones that did arrive, but not as they were sent; the fields that differ, by unique_id.
    duplicated: arrivals of an accepted event beyond its first. stray: events that arrived or were archived
    without having been accepted, or although they were delivered, repeats apart. reasons: the archive's
    reasons for the rejected ones, each with its count.
    """

    accepted: int
    delivered: int
    rejected: int
    lost: int
    duplicated: int
    altered: Mapping[str, tuple[str, ...]]
    stray: int
    reasons: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Tells whether every accepted event has exactly one outcome, and nothing else has any."""
        return not (self.lost or self.duplicated or self.stray)


def prove(
    accepted: Mapping[str, Order],
    arrivals: Iterable[Mapping[str, Any]],
    rejections: Iterable[Mapping[str, Any]],
) -> Proof:
    """Compares the arrivals and the archived rejections with the accepted events.

    accepted: by unique_id. arrivals: as the fake upstream lists events. rejections: as the archive holds
    them.
    """
    arrived: Counter[str] = Counter()
    altered: dict[str, tuple[str, ...]] = {}
    for arrival in arrivals:
        unique_id = arrival["event"].get("unique_id")
        arrived[unique_id] += 1
        if unique_id in accepted and (fields := differences(accepted[unique_id], arrival)):
            altered[unique_id] = fields
    archived = reasons_of(rejections)

    delivered = accepted.keys() & arrived.keys() - altered.keys()
    rejected = accepted.keys() & archived.keys() - delivered
    repeated = {unique_id for unique_id, reason in archived.items() if reason.startswith(_REPEAT)}
    strangers = (arrived.keys() | archived.keys()) - accepted.keys()
    return Proof(
        accepted=len(accepted),
        delivered=len(delivered),
        rejected=len(rejected),
        lost=len(accepted) - len(delivered) - len(rejected),
        duplicated=sum(arrived[unique_id] - 1 for unique_id in accepted.keys() & arrived.keys()),
        altered=altered,
        stray=len(strangers) + len(delivered & archived.keys() - repeated),
        reasons=dict(Counter(archived[unique_id] for unique_id in rejected)),
    )


def differences(order: Order, arrival: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the fields in which the arrival differs from the order."""
    sent, taken = _as_sent(order), _as_taken(arrival)
    return tuple(sorted(name for name in sent.keys() | taken.keys() if sent.get(name) != taken.get(name)))


def reasons_of(rejections: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the reason of each archived event, by unique_id; an event that was archived twice is one."""
    return {
        unique_id: f"{rejection['reason']}: {rejection['detail']}"
        for rejection in rejections
        for unique_id in _unique_ids(rejection["payload"])
    }


def _as_sent(order: Order) -> dict[str, Any]:
    return {
        "profile": dict(order.profile),
        "metric": {"name": METRIC},
        "properties": dict(order.properties),
        "time": order.time,
        "value": order.value,
        "value_currency": CURRENCY,
        "unique_id": order.unique_id,
        "backfill": order.backfill,
    }


def _as_taken(arrival: Mapping[str, Any]) -> dict[str, Any]:
    event = _without_nulls(arrival["event"])
    return {
        **event,
        "profile": _without_nulls(arrival["profile"]["attributes"]),
        "metric": _without_nulls(event["metric"]["data"]["attributes"]),
        # The same instant may be written in several ways.
        "time": datetime.fromisoformat(event["time"]) if "time" in event else None,
        "backfill": any(arrival["backfill"].values()),
    }


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _unique_ids(payload: Any) -> Iterator[str]:
    """Yields every unique_id in a rejection's payload, which may be refused events or a whole dead letter."""
    if isinstance(payload, dict):
        if isinstance(payload.get("unique_id"), str):
            yield payload["unique_id"]
        payload = list(payload.values())
    if isinstance(payload, list):
        for part in payload:
            yield from _unique_ids(part)
