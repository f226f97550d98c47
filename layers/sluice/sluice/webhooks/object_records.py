"""Remembers a vendor's object, such as an order, while its life lasts.

A vendor reports an object again and again, in several topics and in any order, and most of an object's events
are true in many of these deliveries. Klaviyo tells a repeated event by its profile, metric and `unique_id`,
so a repeat is harmless only while the object's person stays the same. A record therefore keeps two things.
The first is the person of each event: the one of the first delivery in which the event was true. The second
is the list of events that are stored already, because Klaviyo refuses a whole bulk request for one repeat.
"""

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Final, Protocol

import msgspec

from sluice.aws import clients, state_table
from sluice.contract import IDENTIFIERS
from sluice.validation.json_text import encode_text
from sluice.webhooks.mapping import MappedEvent

type Identity = dict[str, str]  # identifiers of a profile, by their names

MAX_PEOPLE: Final = 50  # added at once: metrics of one delivery; an update of an item has room for no more
_DIGEST_BYTES: Final = 12  # of an event's id: no two of an object's events share one
_PERSON: Final = "person#"  # and the metric: an item's attribute with the identity
_ANONYMOUS: Final = frozenset({"anonymous_id"})


class ObjectRecord(msgspec.Struct, frozen=True):
    """Holds the record of one object: its person by metric, the person seen last, and its stored events.

    It is empty and not `is_known` if it could not be read.
    """

    people: Mapping[str, Identity] = {}
    last_person: Identity | None = None
    stored: frozenset[bytes] = frozenset()
    is_known: bool = True


class ObjectRecords(Protocol):
    """Keeps the records of a source's objects. Neither method raises: events go on without a record."""

    def open(self, *, object_id: str, people: Mapping[str, Identity]) -> ObjectRecord:
        """Returns an object's record, after adding `people` by metric if there is none yet.

        It is not `is_known` if it cannot be read now.
        """
        ...

    def mark_stored(self, *, object_id: str, event_ids: Collection[bytes]) -> None:
        """Adds events to the stored ones of an object."""
        ...


def event_id(event: MappedEvent) -> bytes:
    """Identifies an event among those of its object, whoever's it is."""
    attributes = event.body["data"]["attributes"]
    text = f"{metric_of(event)}\n{attributes['unique_id']}"
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


def metric_of(event: MappedEvent) -> str:
    """Returns the name of an event's metric."""
    return str(event.body["data"]["attributes"]["metric"]["data"]["attributes"]["name"])


def identity(event: MappedEvent) -> Identity:
    """Returns the identifiers of an event's profile; blanks identify nobody."""
    profile = _profile(event)
    given = {**profile["attributes"], "id": profile.get("id")}
    return {name: str(given[name]) for name in IDENTIFIERS if given.get(name) and str(given[name]).strip()}


def names_a_person(found: Identity) -> bool:
    """Tells whether identifiers are more than a placeholder for an unknown person."""
    return bool(found.keys() - _ANONYMOUS)


def with_kept_person(event: MappedEvent, record: ObjectRecord) -> MappedEvent:
    """Returns the event for the person it belongs to by its object's record.

    The attributes of another person are left out, because they would overwrite those of the right one.
    """
    own = identity(event)
    kept = record.people.get(metric_of(event))
    if kept is None and not names_a_person(own):
        kept = record.last_person
    if kept is None or kept.items() <= own.items():
        return event
    data: dict[str, Any] = {"type": "profile"}
    if "id" in kept:
        data["id"] = kept["id"]
    data["attributes"] = {name: value for name, value in kept.items() if name != "id"}
    attributes = {**event.body["data"]["attributes"], "profile": {"data": data}}
    return msgspec.structs.replace(event, body={"data": {"type": "event", "attributes": attributes}})


def _profile(event: MappedEvent) -> dict[str, Any]:
    profile: dict[str, Any] = event.body["data"]["attributes"]["profile"]["data"]
    return profile


def open_record(
    table: str, source: str, object_id: str, people: Mapping[str, Identity], now: datetime
) -> ObjectRecord:
    """Adds people to an object's item where a metric has nobody yet, and gives the record; or `Retryable`."""
    names: dict[str, str] = {}
    values: dict[str, Any] = {":expiry": state_table.WEBHOOK_OBJECT.expiry(now.timestamp())}
    sets = ["expires_at = :expiry"]
    for number, (metric, found) in enumerate(islice(people.items(), MAX_PEOPLE)):
        names[f"#p{number}"] = _PERSON + metric
        values[f":p{number}"] = {"S": msgspec.json.encode(found).decode()}
        sets += [f"#p{number} = if_not_exists(#p{number}, :p{number})"]
    if people:
        sets += ["last_person = :p0"]
    request: dict[str, Any] = {"ExpressionAttributeNames": names} if names else {}
    with clients.failing_fast(clients.low_latency_dynamodb, "the state table cannot be written") as client:
        answer = clients.retrying_closed_connection(
            lambda: client.update_item(
                TableName=table,
                Key=_key(source, object_id),
                UpdateExpression=f"SET {', '.join(sets)}",
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
                **request,
            )
        )
    return _record(answer["Attributes"])


def mark_stored(table: str, source: str, object_id: str, event_ids: Collection[bytes], now: datetime) -> None:
    """Adds events to the stored ones of an object's item; or `Retryable`."""
    values: dict[str, Any] = {
        ":ids": {"BS": list(event_ids)},
        ":expiry": state_table.WEBHOOK_OBJECT.expiry(now.timestamp()),
    }
    with clients.failing_fast(clients.low_latency_dynamodb, "the state table cannot be written") as client:
        clients.retrying_closed_connection(
            lambda: client.update_item(
                TableName=table,
                Key=_key(source, object_id),
                UpdateExpression="SET expires_at = :expiry ADD event_ids :ids",
                ExpressionAttributeValues=values,
            )
        )


def _key(source: str, object_id: str) -> dict[str, Any]:
    digest = hashlib.blake2b(encode_text(object_id), digest_size=16).hexdigest()
    return state_table.WEBHOOK_OBJECT.key(f"{source}#{digest}")


def _record(item: Any) -> ObjectRecord:
    people = {
        name.removeprefix(_PERSON): _identity(value)
        for name, value in item.items()
        if name.startswith(_PERSON)
    }
    last = _identity(item["last_person"]) if "last_person" in item else None
    return ObjectRecord(people, last, frozenset(item.get("event_ids", {}).get("BS", [])))


def _identity(value: Any) -> Identity:
    return msgspec.json.decode(value["S"], type=dict[str, str])
