"""Holds an account to the vendor's limit of metrics, where it asks for that (contract: limits).

An item of the state table for each account holds the names, learnt from accepted events. It only grows. So a
name that a process has seen in it stays there, and a request without a new metric costs nothing.
"""

from collections.abc import Iterable, Set
from typing import Any, Final

import msgspec

from sluice.aws import clients, state_table
from sluice.contract import MAX_ANONYMOUS_METRICS, MAX_METRICS, Surface
from sluice.jsonapi import Problem
from sluice.klaviyo import pointers
from sluice.klaviyo.lenient import InvalidEvents
from sluice.klaviyo.parser import ParsedRequest
from sluice.klaviyo.problems import CLIENT
from sluice.message import Entry, Event

_NAMES: Final = "names"
_NAME_POINTER: Final = "/attributes/metric/data/attributes/name"
_TOO_MANY: Final = f"The account already has {MAX_METRICS} metrics, its limit: use the name of one of them."
_TOO_MANY_ANONYMOUS: Final = (
    "Callers without a key may use the metrics of the account, and few others: use the name of one it has."
)
_ANONYMOUS: Final = "#anonymous"  # no account's id ends so


class MetricQuota:
    """Knows the metrics of accounts by site id, as far as this process has seen them."""

    def __init__(self) -> None:
        self._seen: dict[str, frozenset[str]] = {}

    def reserve(
        self,
        table: str,
        site_id: str,
        names: Iterable[str],
        *,
        partly: bool = False,
        is_anonymous: bool = False,
        is_plan: bool = False,
    ) -> frozenset[str]:
        """Reserves the new ones of `names`, and returns those that are too many for the account.

        It reserves as many as there is room for, the first ones first, if it may do so `partly`; else all or
        none. An anonymous caller takes nothing of the account's room: it may use the names that are known,
        and a few in an item of its own. A plan reserves nothing, and only learns what would be too many.
        """
        wanted = list(dict.fromkeys(names))
        if not is_anonymous:
            return self._reserve(table, site_id, wanted, MAX_METRICS, partly=partly, is_plan=is_plan)
        owner = f"{site_id}{_ANONYMOUS}"
        if self._known(site_id).union(self._known(owner)).issuperset(wanted):
            return frozenset()
        known = self._seen[site_id] = _read(table, site_id)
        most = min(MAX_ANONYMOUS_METRICS, MAX_METRICS - len(known))
        others = [name for name in wanted if name not in known]
        return self._reserve(table, owner, others, most, partly=partly, is_plan=is_plan)

    def _reserve(
        self, table: str, owner: str, wanted: list[str], most: int, *, partly: bool, is_plan: bool
    ) -> frozenset[str]:
        seen = self._known(owner)
        if seen.issuperset(wanted):
            return frozenset()
        seen = _read(table, owner)
        while True:
            new = [name for name in wanted if name not in seen]
            room = max(0, most - len(seen))
            excess = frozenset(new[room:])
            if is_plan:
                return excess
            entered = frozenset(new[:room]) if partly or not excess else frozenset()
            others = _add(table, owner, entered, most) if entered else None
            if others is None:
                self._seen[owner] = seen | entered
                return excess
            seen = others

    def _known(self, owner: str) -> frozenset[str]:
        return self._seen.get(owner, frozenset())


def names(read: ParsedRequest) -> Iterable[str]:
    """Yields the name of each event's metric, in the order of the events."""
    return (_name(event) for entry in read.entries for event in entry.events)


def without(read: ParsedRequest, surface: Surface, excess: Set[str]) -> ParsedRequest:
    """Returns the request with the events of these metrics among the bad ones."""
    detail = _TOO_MANY_ANONYMOUS if surface in CLIENT else _TOO_MANY
    kept: list[Entry[Any]] = []
    bad: list[InvalidEvents] = []
    for index, entry in enumerate(read.entries):
        good: list[Event[Any]] = []
        for at_entry, at_event, event in entry.positioned(index):
            event.entry_index, event.event_index = at_entry, at_event
            if _name(event) not in excess:
                good.append(event)
                continue
            where = pointers.caller_pointer(surface, read.flat, at_entry, at_event, _NAME_POINTER)
            problem = Problem("invalid", detail, where)
            bad.append(InvalidEvents(at_entry, (at_event,), [problem], _payload(entry, event)))
        if good:
            entry.events = good
            kept.append(entry)
    return msgspec.structs.replace(read, entries=kept, events=read.events - len(bad), bad=[*read.bad, *bad])


def _name(event: Event[Any]) -> str:
    name: str = event.attributes.metric.data.attributes.name
    return name


def _payload(entry: Entry[Any], event: Event[Any]) -> bytes:
    parts = {"profile": entry.profile, "events": [event.attributes], "backfill": entry.backfill}
    return msgspec.json.encode(parts)


def _read(table: str, owner: str) -> frozenset[str]:
    wanted: Any = {"Key": state_table.METRICS.key(owner), "ConsistentRead": True}
    with clients.failing_fast(clients.low_latency_dynamodb, "the state table cannot be read") as client:
        answer = clients.retrying_closed_connection(lambda: client.get_item(TableName=table, **wanted))
    return _names(answer.get("Item", {}))


def _add(table: str, owner: str, added: frozenset[str], most: int) -> frozenset[str] | None:
    """Adds names if there is still room for so many; if not, all those that are there."""
    update: Any = {
        "Key": state_table.METRICS.key(owner),
        "UpdateExpression": "ADD #names :added",
        "ConditionExpression": "attribute_not_exists(#names) OR size(#names) <= :most",
        "ExpressionAttributeNames": {"#names": _NAMES},
        "ExpressionAttributeValues": {
            ":added": {"SS": sorted(added)},
            ":most": {"N": str(most - len(added))},
        },
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    with clients.failing_fast(clients.low_latency_dynamodb, "the state table cannot be written") as client:
        try:
            clients.retrying_closed_connection(lambda: client.update_item(TableName=table, **update))
        except client.exceptions.ConditionalCheckFailedException as error:
            return _names(error.response.get("Item", {}))
    return None


def _names(item: Any) -> frozenset[str]:
    return frozenset(item.get(_NAMES, {}).get("SS", []))
