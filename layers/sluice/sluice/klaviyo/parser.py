"""Turns a caller's body into stamped entries, or every problem in it: the same for HTTP and the queue.

A good body is decoded straight into `schemas` and never looked at twice. `problems` explains a bad one.
Nothing here knows AWS.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.json import Decoder

from sluice import contract
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.klaviyo import lenient, problems, rules
from sluice.klaviyo.lenient import InvalidEvents
from sluice.klaviyo.problems import ParsedBody
from sluice.klaviyo.rules import Rules, Violation
from sluice.klaviyo.schemas import (
    BulkDocument,
    ClientBulkDocument,
    Entry,
    EntryAttributes,
    EventAttributes,
    EventData,
    EventList,
    MetricAttributes,
    PatchProperties,
    ProfileData,
    ProfileMeta,
    SingleDocument,
    ValidValue,
)
from sluice.message import Entry as StampedEntry
from sluice.message import Event as StampedEvent
from sluice.validation.duplicate_keys import has_repeated_key
from sluice.validation.json_text import NOT_DECODED


class ParsedRequest(msgspec.Struct, frozen=True):
    """Holds the result of a body: its stamped entries, their number of events, and the fields left out.

    `ignored` names fields that were dropped because another identifier made up for them. `bad` are the events
    that were taken out.
    """

    entries: list[StampedEntry[Any]]
    events: int
    flat: bool = False
    ignored: frozenset[str] = frozenset()
    bad: Sequence[InvalidEvents] = ()


type _Any = BulkDocument | ClientBulkDocument | SingleDocument

BODIES: Final = frozenset(Surface) - {Surface.WEBHOOK}  # the surfaces whose bodies can be read here
# As properties these have a meaning of their own: they are the names of identifiers in the flat shape.
_IDENTIFYING_PROPERTIES: Final = frozenset({f"${name.lstrip('_')}" for name in contract.IDENTIFIERS})

_valid_decoders: Final[dict[Surface, Decoder[_Any]]] = {
    Surface.BULK: Decoder(BulkDocument[ValidValue]),
    Surface.CLIENT_BULK: Decoder(ClientBulkDocument[ValidValue]),
    Surface.EVENT: Decoder(SingleDocument[ValidValue]),
    Surface.CLIENT_EVENT: Decoder(SingleDocument[ValidValue]),
}
_sorted: Final = msgspec.json.Encoder(order="deterministic")


class _Decoded(msgspec.Struct, frozen=True):
    """Holds a body that fits its type; `rewritten` is the same document as encoded here.

    Senders that do not group repeat a profile with each event. Equal ones are one object, by its JSON in
    `profiles`, so that each is looked at once. If the body is `sound`, properties hold nothing but what the
    type checked.
    """

    entries: Sequence[Entry]
    profiles: Mapping[bytes, ProfileData]
    rewritten: bytes
    sound: bool
    flat: bool = False


class _Content(msgspec.Struct, frozen=True):
    """Holds the fields that identify an event whose caller gave no unique_id."""

    profile: str
    metric: MetricAttributes
    second: int
    properties: dict[str, Any]
    value: float | UnsetType | None
    currency: str | UnsetType | None


def read(
    surface: Surface, body: bytes, revision: str, accepted: datetime, *, shared_ids: bool = False
) -> ParsedRequest:
    """Reads stamped entries from a `body` received on `surface` at `accepted` (aware).

    An anonymous caller's unique_ids get a namespace of their own, unless they are `shared_ids`. Raises
    `Refused` (400) with every problem, each pointing into the body.
    """
    limits = rules.rules_for(revision, accepted)
    problems.check_density(body, surface)
    parsed = None
    decoded = _decode(surface, body)
    if decoded is None:
        parsed = problems.parse_body(surface, body)
        decoded = _convert(surface, parsed)
    if decoded is None or not _is_acceptable(body, decoded, limits):
        del decoded  # or it would be in memory beside what is parsed now
        raise problems.refused(surface, parsed or problems.parse_body(surface, body), limits)
    profiles = decoded.profiles.values()
    ignored = {"phone_number" for profile in profiles if _drop_bad_phone(profile)}
    is_anonymous = surface in problems.CLIENT
    for profile in profiles:
        _normalise(profile)
        if is_anonymous:
            _make_anonymous(profile)
    namespace = contract.ANONYMOUS_IDS if is_anonymous and not shared_ids else ""
    stamped = _stamped(decoded, accepted, namespace)
    return ParsedRequest(stamped, _count(decoded.entries), decoded.flat, frozenset(ignored))


def read_leniently(body: bytes, revision: str, accepted: datetime) -> ParsedRequest:
    """Reads a bulk body as `read` does, but without its bad events if there are good ones too."""
    try:
        return read(Surface.BULK, body, revision, accepted)
    except Refused:
        separated = lenient.separate(body, rules.rules_for(revision, accepted))
        if separated is None:
            raise
    good = read(Surface.BULK, separated.body, revision, accepted)
    for index, entry in enumerate(good.entries):
        for at_entry, at_event, event in entry.positioned(index):
            event.entry_index, events = separated.places[at_entry]
            event.event_index = events[at_event]
    return msgspec.structs.replace(good, bad=separated.bad)


def surface_of(document: object) -> Surface | None:
    """Returns the surface of this parsed JSON, by its type; None if it has none.

    A client's event looks like any other event, so it is taken as a server's.
    """
    match document:
        case {"data": {"type": "event-bulk-create-job"}}:
            return Surface.BULK
        case {"data": {"type": "event"}}:
            return Surface.EVENT
        case {"data": {"type": "event-bulk-create"}}:
            return Surface.CLIENT_BULK
        case _:
            return None


def _decode(surface: Surface, body: bytes) -> _Decoded | None:
    """Decodes a body's entries; returns None if they do not surely have the right form."""
    try:
        document = _valid_decoders[surface].decode(body)
    except NOT_DECODED:
        return None
    return _decoded(_entries(document), document, sound=True)


def _convert(surface: Surface, parsed: ParsedBody) -> _Decoded | None:
    """Converts a parsed body, with the shapes, times and long texts that the quick way does not know."""
    if parsed.damaged:
        return None
    try:
        document: _Any = msgspec.convert(parsed.current, problems.DOCUMENTS[surface])
    except msgspec.ValidationError:
        return None
    return _decoded(_entries(document), parsed.document, flat=parsed.is_flat)


def _entries(document: _Any) -> Sequence[Entry]:
    match document:
        case BulkDocument(data):
            return data.attributes.events_bulk_create.data
        case ClientBulkDocument(entry):
            return [entry]
        case SingleDocument():
            return [_entry_of(document)]


def _decoded(
    entries: Sequence[Entry], document: object, *, sound: bool = False, flat: bool = False
) -> _Decoded:
    profiles: dict[bytes, ProfileData] = {}
    for entry in entries:
        profile = entry.attributes.profile
        profile.data = profiles.setdefault(msgspec.json.encode(profile.data), profile.data)
    return _Decoded(entries, profiles, msgspec.json.encode(document), sound, flat)


def _is_acceptable(body: bytes, decoded: _Decoded, limits: Rules) -> bool:
    if _count(decoded.entries) > contract.MAX_EVENTS_PER_REQUEST:
        return False
    found: list[Violation] = []
    for encoded, profile in decoded.profiles.items():
        rules.check_profile(profile, len(encoded), found)
        if found:
            return False
    if not all(entry.attributes.events.data for entry in decoded.entries):
        return False
    events = [event.attributes for entry in decoded.entries for event in entry.attributes.events.data]
    if not events:
        return False
    if not decoded.sound or not rules.pass_fast_check(events, limits):
        for event in events:
            rules.check_event(event, limits, found)
            rules.check_value(event.properties, ("properties",), found)
            if found:
                return False
    return _fit_jobs(decoded) and not has_repeated_key(body, decoded.rewritten)


def _fit_jobs(decoded: _Decoded) -> bool:
    """Tells whether each event fits a job of its own, which only documents larger than a job have to ask."""
    if len(decoded.rewritten) <= contract.MAX_EVENT_BYTES:
        return True
    found: list[Violation] = []
    for entry in decoded.entries:
        profile_bytes = len(msgspec.json.encode(entry.attributes.profile.data))
        for event in entry.attributes.events.data:
            rules.check_size(event.attributes, profile_bytes, found)
    return not found


def _count(entries: Sequence[Entry]) -> int:
    return sum(len(entry.attributes.events.data) for entry in entries)


def _drop_bad_phone(profile: ProfileData) -> bool:
    bad = rules.bad_phone(profile)
    if bad:
        profile.attributes.phone_number = UNSET
    return bad


def _normalise(profile: ProfileData) -> None:
    """Leaves out what says nothing: blank identifiers, and parts that are null.

    The vendor lets these parts be null, and sent on as null they could take away what a profile has.
    """
    attributes = profile.attributes
    if not rules.has_plain_identifiers(profile):
        _keep_identifiers(profile, {name for name, value in _named_identifiers(profile) if value})
    if attributes.location is None:
        attributes.location = UNSET
    if profile.meta is not UNSET or attributes.meta is not UNSET:
        meta = profile.meta or attributes.meta
        attributes.meta = profile.meta = UNSET
        if meta and (meta.patch_properties or meta.patch_identifiers):
            profile.meta = ProfileMeta(meta.patch_properties or UNSET, meta.patch_identifiers or UNSET)


def _make_anonymous(profile: ProfileData) -> None:
    """Removes from an anonymous caller's profile everything that could attach it to another person's."""
    _keep_identifiers(profile, [name for name, value in _named_identifiers(profile) if value][:1])
    attributes = profile.attributes
    for name in attributes.__struct_fields__:
        if getattr(attributes, name) is None:
            setattr(attributes, name, UNSET)
    if attributes.properties:
        attributes.properties = _without_identifiers(attributes.properties)
    if isinstance(meta := profile.meta, ProfileMeta):
        patch = _anonymous_patch(meta.patch_properties) if meta.patch_properties else UNSET
        profile.meta = ProfileMeta(patch) if patch else UNSET


def _anonymous_patch(patch: PatchProperties) -> PatchProperties | UnsetType:
    """Returns a patch without the names by which Klaviyo's older interfaces call identifiers."""
    unset = [patch.unset] if isinstance(patch.unset, str) else patch.unset or []
    kept = PatchProperties(
        append=_without_identifiers(patch.append or {}) or UNSET,
        unappend=_without_identifiers(patch.unappend or {}) or UNSET,
        unset=[name for name in unset if name not in _IDENTIFYING_PROPERTIES] or UNSET,
    )
    return kept if kept != PatchProperties() else UNSET


def _without_identifiers(properties: dict[str, Any]) -> dict[str, Any]:
    if _IDENTIFYING_PROPERTIES.isdisjoint(properties):
        return properties
    return {name: value for name, value in properties.items() if name not in _IDENTIFYING_PROPERTIES}


def _named_identifiers(profile: ProfileData) -> Iterable[tuple[str, str | UnsetType | None]]:
    return zip(contract.IDENTIFIERS, rules.identifiers(profile), strict=True)


def _keep_identifiers(profile: ProfileData, kept: Collection[str]) -> None:
    for name in contract.IDENTIFIERS:
        if name not in kept:
            holder = profile if name == "id" else profile.attributes
            setattr(holder, name.removeprefix("_"), UNSET)


def _entry_of(document: SingleDocument) -> Entry:
    single = document.data.attributes
    event = EventAttributes(**{name: getattr(single, name) for name in EventAttributes.__struct_fields__})
    events = EventList([EventData("event", event)])
    return Entry("event-bulk-create", EntryAttributes(single.profile, events))


def _key(profile: ProfileData) -> str:
    profile_id, email, *others = [value or None for value in rules.identifiers(profile)]
    return _digest([profile_id, email and email.lower(), *others])


def _stamped(decoded: _Decoded, accepted: datetime, namespace: str) -> list[StampedEntry[Any]]:
    """Stamps the entries; one that says of its profile what the one before said becomes part of that one.

    Patches (`meta`) act each time they are applied, so each entry with some stays one.
    """
    keys = {id(profile): _key(profile) for profile in decoded.profiles.values()}
    latest: dict[str, StampedEntry[Any]] = {}
    stamped: list[StampedEntry[Any]] = []
    for index, entry in enumerate(decoded.entries):
        attributes = entry.attributes
        profile, backfill = attributes.profile.data, attributes.backfill is True
        key = keys[id(profile)]
        events = [
            _stamp_event(event.attributes, key, accepted, namespace) for event in attributes.events.data
        ]
        before = latest.get(key)
        if before and before.profile is profile and before.backfill is backfill and profile.meta is UNSET:
            for number, event in enumerate(events):
                event.entry_index, event.event_index = index, number
            before.events += events
            continue
        if index != len(stamped):
            for event in events:
                event.entry_index = index
        latest[key] = each = StampedEntry(key, profile, events, backfill)
        stamped.append(each)
    return stamped


def _stamp_event(
    event: EventAttributes, profile: str, accepted: datetime, namespace: str
) -> StampedEvent[Any]:
    # One event has one text, whichever client wrote it, so repeats have equal bytes.
    time, unique_id, metric = event.time, event.unique_id, event.metric.data.attributes
    if not isinstance(time, datetime):
        event.time = time = accepted.replace(microsecond=0)
    elif time.tzinfo is not UTC:
        event.time = time = rules.aware(time).astimezone(UTC)
    if event.backfill is not True:
        event.backfill = UNSET
    if not isinstance(unique_id, str):
        second = int(time.timestamp())
        content = _Content(profile, metric, second, event.properties, event.value, event.value_currency)
        event.unique_id = unique_id = _digest(content)
    if namespace:
        event.unique_id = unique_id = _within(namespace, unique_id)
    # The length separates the two, so no other pair makes the same text.
    return StampedEvent(f"{len(unique_id)} {unique_id}{metric.name}", event)


def _within(namespace: str, unique_id: str) -> str:
    """Returns a unique_id within a namespace: whoever may only write there names no id outside it."""
    named = namespace + unique_id
    return named if len(named) <= contract.MAX_UNIQUE_ID else namespace + _digest(unique_id)


def _digest(content: object) -> str:
    return hashlib.blake2b(_sorted.encode(content), digest_size=16).hexdigest()
