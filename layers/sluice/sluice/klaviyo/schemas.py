"""Defines the bodies that callers send, as types: structure, required fields, field types and plain lengths.

The same declaration serves the fast path (msgspec decodes straight into these) and the slow one (`explain`
walks them to name every problem). `rules` checks what a type cannot state. Shapes are the contract's. `UNSET`
is a field that the caller did not send, `None` one sent as null.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from sluice.contract import (
    MAX_ARRAY_LENGTH,
    MAX_EXTERNAL_ID,
    MAX_INTEGER,
    MAX_METRIC_NAME,
    MAX_NESTING,
    MAX_STRING_BYTES,
    MAX_UNIQUE_ID,
    MIN_INTEGER,
)

type Optional[T] = T | UnsetType | None


class _Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    # Decoded documents are trees: there is no cycle for the garbage collector to look for.
    pass


class Location(_Document):
    address1: Optional[str] = UNSET
    address2: Optional[str] = UNSET
    city: Optional[str] = UNSET
    country: Optional[str] = UNSET
    region: Optional[str] = UNSET
    zip: Optional[str] = UNSET
    timezone: Optional[str] = UNSET
    ip: Optional[str] = UNSET
    latitude: Optional[str | int | float] = UNSET
    longitude: Optional[str | int | float] = UNSET


class PatchProperties(_Document):
    append: Optional[dict[str, Any]] = UNSET
    unappend: Optional[dict[str, Any]] = UNSET
    unset: Optional[str | list[str]] = UNSET


class PatchIdentifiers(_Document):
    append: Optional[dict[str, Any]] = UNSET
    unappend: Optional[dict[str, Any]] = UNSET


class ProfileMeta(_Document):
    patch_properties: Optional[PatchProperties] = UNSET
    patch_identifiers: Optional[PatchIdentifiers] = UNSET


class ProfileAttributes(_Document):
    email: Optional[str] = UNSET
    phone_number: Optional[str] = UNSET
    external_id: Optional[Annotated[str, msgspec.Meta(max_length=MAX_EXTERNAL_ID)]] = UNSET
    anonymous_id: Optional[str] = UNSET
    kx: Optional[str] = msgspec.field(name="_kx", default=UNSET)
    first_name: Optional[str] = UNSET
    last_name: Optional[str] = UNSET
    organization: Optional[str] = UNSET
    locale: Optional[str] = UNSET
    title: Optional[str] = UNSET
    image: Optional[str] = UNSET
    location: Optional[Location] = UNSET
    properties: Optional[dict[str, Any]] = UNSET
    # Single events of revisions 2024-02-15 to 2026-07-15 carry the profile's meta here.
    meta: Optional[ProfileMeta] = UNSET


class ProfileData(_Document):
    type: Literal["profile"]
    attributes: ProfileAttributes
    id: Optional[str] = UNSET
    meta: Optional[ProfileMeta] = UNSET


class Profile(_Document):
    data: ProfileData


class MetricAttributes(_Document):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_METRIC_NAME)]
    service: Optional[str] = UNSET


class MetricData(_Document):
    type: Literal["metric"]
    attributes: MetricAttributes


class Metric(_Document):
    data: MetricData


def _valid_value() -> Any:
    """Builds the type of a JSON value that surely keeps the limits of free-form content.

    A decoder checks it at no cost. Some valid values do not fit it, because strings count in characters here
    and the longest character has four bytes.
    """
    plain = (
        Annotated[str, msgspec.Meta(max_length=MAX_STRING_BYTES // 4)]
        | Annotated[int, msgspec.Meta(ge=MIN_INTEGER, le=MAX_INTEGER)]
        | float
        | bool
        | None
    )
    value: Any = plain
    for _ in range(MAX_NESTING - 1):  # `properties` is the first level
        array = Annotated[list[value], msgspec.Meta(max_length=MAX_ARRAY_LENGTH)]
        value = plain | array | dict[str, value]
    return value


ValidValue: Any = _valid_value()


class EventAttributes[Value = Any](_Document):
    """Holds an event's attributes; `Value` is what properties may hold: anything, or only a `ValidValue`."""

    properties: dict[str, Value]
    metric: Metric
    time: Optional[datetime] = UNSET
    value: Optional[int | float] = UNSET
    value_currency: Optional[str] = UNSET
    unique_id: Optional[Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_UNIQUE_ID)]] = UNSET
    backfill: Optional[bool] = UNSET


class EventData[Value = Any](_Document):
    type: Literal["event"]
    attributes: EventAttributes[Value]


class EventList[Value = Any](_Document):
    data: list[EventData[Value]]


class EntryAttributes[Value = Any](_Document):
    profile: Profile
    events: EventList[Value]
    backfill: Optional[bool] = UNSET


class Entry[Value = Any](_Document):
    """Holds one profile's events in a bulk request; a client bulk request is one such entry."""

    type: Literal["event-bulk-create"]
    attributes: EntryAttributes[Value]


class EntryList[Value = Any](_Document):
    data: list[Entry[Value]]


class BulkAttributes[Value = Any](_Document):
    events_bulk_create: EntryList[Value] = msgspec.field(name="events-bulk-create")


class BulkData[Value = Any](_Document):
    type: Literal["event-bulk-create-job"]
    attributes: BulkAttributes[Value]


class BulkDocument[Value = Any](_Document):
    data: BulkData[Value]


class ClientBulkDocument[Value = Any](_Document):
    data: Entry[Value]


class SingleAttributes[Value = Any](EventAttributes[Value], kw_only=True):
    profile: Profile


class SingleData[Value = Any](_Document):
    type: Literal["event"]
    attributes: SingleAttributes[Value]


class SingleDocument[Value = Any](_Document):
    data: SingleData[Value]
