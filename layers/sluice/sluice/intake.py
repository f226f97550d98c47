"""A caller's body becomes stamped entries, or every problem in it: the same for HTTP and the queue.

The fast path decodes straight into `documents`; only a body that does not fit, or breaks a rule,
takes the slow one, which names every problem. Nothing here knows AWS.
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import UNSET

from sluice import contract, flat, rules
from sluice.contract import Surface
from sluice.documents import (
    BulkDocument,
    ClientBulkDocument,
    Entry,
    EntryAttributes,
    EventAttributes,
    EventData,
    EventList,
    FlatDocument,
    ProfileData,
    SingleAttributes,
    SingleDocument,
)
from sluice.errors import Refused
from sluice.explain import explain
from sluice.jsonapi import Problem, pointer
from sluice.message import Entry as StampedEntry
from sluice.message import Event as StampedEvent
from sluice.rules import Rules

type _Path = tuple[str | int, ...]


class Intake(msgspec.Struct, frozen=True):
    """What a body came to: its stamped entries, their number of events, and what was left out.

    `ignored` names fields that were dropped because another identifier made up for them.
    """

    entries: list[StampedEntry[Any]]
    events: int
    flat: bool = False
    ignored: frozenset[str] = frozenset()


_ROOTS: Final[dict[Surface, tuple[str, ...]]] = {
    Surface.BULK: ("data", "attributes", "events-bulk-create", "data"),
    Surface.CLIENT_BULK: ("data",),
    Surface.EVENT: ("data",),
    Surface.CLIENT_EVENT: ("data",),
}
_DOCUMENTS: Final[dict[Surface, type]] = {
    Surface.BULK: BulkDocument,
    Surface.CLIENT_BULK: ClientBulkDocument,
    Surface.EVENT: SingleDocument,
    Surface.CLIENT_EVENT: SingleDocument,
}
_SINGLE: Final = frozenset({Surface.EVENT, Surface.CLIENT_EVENT})
_CLIENT: Final = frozenset({Surface.CLIENT_BULK, Surface.CLIENT_EVENT})

_bulk: Final = msgspec.json.Decoder(BulkDocument)
_client_bulk: Final = msgspec.json.Decoder(ClientBulkDocument)
_single: Final = msgspec.json.Decoder(SingleDocument)
_flat: Final = msgspec.json.Decoder(FlatDocument)
_any: Final = msgspec.json.Decoder()
_sorted: Final = msgspec.json.Encoder(order="deterministic")


def read(surface: Surface, body: bytes, revision: str, accepted: datetime) -> Intake:
    """Stamped entries of a `body` received on `surface` at `accepted` (aware).

    Raises `Refused` (400) with every problem, each pointing into the body.
    """
    limits = rules.rules_for(revision, accepted)
    entries, is_flat = _decode(surface, body)
    if entries is None or not _keeps_rules(entries, limits):
        problems = _explain_flat(body, limits) if is_flat else _explain(surface, body, limits)
        raise Refused(400, problems or [_UNEXPLAINED])
    profiles = [entry.attributes.profile.data for entry in entries]
    ignored = {"phone_number" for profile in profiles if _drop_bad_phone(profile)}
    if surface in _CLIENT:
        for profile in profiles:
            keep_strongest_identifier(profile)
    stamped = [_stamp(entry, accepted) for entry in entries]
    return Intake(stamped, _count(entries), is_flat, frozenset(ignored))


def caller_pointer(surface: Surface, is_flat: bool, entry: int, event: int | None, tail: str = "") -> str:
    """Where an entry (or one event of it) stands in the caller's document.

    `tail` is a pointer within the upstream's entry or event, such as `/attributes/time`.
    """
    root = pointer(*_ROOTS[surface])
    if is_flat:
        return root + flat.caller_tail(tail)
    if surface in _SINGLE:
        return root + tail
    at_entry = f"{root}/{entry}" if surface is Surface.BULK else root
    return at_entry + tail if event is None else f"{at_entry}/attributes/events/data/{event}{tail}"


def keep_strongest_identifier(profile: ProfileData) -> None:
    """Takes from an anonymous caller's profile all that could attach it to somebody else's."""
    if profile.meta is not UNSET:
        profile.meta.patch_identifiers = UNSET
    kept = False
    for name, value in rules.identifiers(profile).items():
        if value and kept:
            _clear_identifier(profile, name)
        kept = kept or bool(value)


def surface_of(document: object) -> Surface | None:
    """Which server-side surface's body this parsed JSON is, by its type; None if it is none's."""
    match document:
        case {"data": {"type": "event-bulk-create-job"}}:
            return Surface.BULK
        case {"data": {"type": "event"}}:
            return Surface.EVENT
        case _:
            return None


def _decode(surface: Surface, body: bytes) -> tuple[Sequence[Entry] | None, bool]:
    """Entries, or None where the body does not fit its type; and whether its shape is the flat one."""
    try:
        return _decode_fast(surface, body), False
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        document = _parse(body)
    if surface is not Surface.EVENT or not flat.is_flat(document):
        return None, False
    if any(flat.explain_profile(document)):
        return None, True
    try:
        return [_entry_of_single(flat.translate(_flat.decode(body).data.attributes))], True
    except msgspec.ValidationError:
        return None, True


def _decode_fast(surface: Surface, body: bytes) -> Sequence[Entry]:
    if surface is Surface.BULK:
        return _bulk.decode(body).data.attributes.events_bulk_create.data
    if surface is Surface.CLIENT_BULK:
        return [_client_bulk.decode(body).data]
    return [_entry_of_single(_single.decode(body).data.attributes)]


def _keeps_rules(entries: Sequence[Entry], limits: Rules) -> bool:
    found: list[rules.Finding] = []
    for entry in entries:
        _normalise_meta(entry.attributes.profile.data)
        rules.check_profile(entry.attributes.profile.data, found)
        for event in entry.attributes.events.data:
            rules.check_event(event.attributes, limits, found)
        if found:
            return False
    return 0 < _count(entries) <= contract.MAX_EVENTS_PER_REQUEST


def _count(entries: Sequence[Entry]) -> int:
    return sum(len(entry.attributes.events.data) for entry in entries)


def _parse(body: bytes) -> object:
    try:
        return _any.decode(body)
    except UnicodeDecodeError:
        detail = "The body is not UTF-8."
    except RecursionError:
        detail = "The body is nested too deeply."
    except msgspec.ValidationError:
        detail = "A number in the body is too large to be represented."
    except msgspec.DecodeError as error:
        detail = f"The body is not JSON: {error}." if body.strip() else "The body is empty."
    raise Refused(400, [Problem("parse_error", detail, "/")])


_UNEXPLAINED: Final = Problem("invalid", "The body does not have the documented shape.", "/data")


def _explain(surface: Surface, body: bytes, limits: Rules) -> list[Problem]:
    """Everything wrong with the structure, and the rules broken by those parts that have none of it."""
    document = _parse(body)
    problems = list(explain(_DOCUMENTS[surface], document))
    events = 0
    for path, attributes in _holders(surface, document):
        profile_path = (*path, "profile", "data")
        problems += _broken(_at(attributes, "profile", "data"), ProfileData, limits, profile_path)
        for event_path, event in _events(surface, path, attributes):
            events += 1
            problems += _broken(event, EventAttributes, limits, event_path)
    return problems + list(_check_count(surface, events, bool(problems)))


def _explain_flat(body: bytes, limits: Rules) -> list[Problem]:
    document = _parse(body)
    problems = [*explain(FlatDocument, document), *flat.explain_profile(document)]
    if problems:
        return problems
    entry = _entry_of_single(flat.translate(_flat.decode(body).data.attributes)).attributes
    found: list[rules.Finding] = []
    rules.check_profile(entry.profile.data, found)
    tails = [(pointer("attributes", "profile", "data", *where), detail) for where, detail in found]
    found.clear()
    rules.check_event(entry.events.data[0].attributes, limits, found)
    tails += [(pointer("attributes", *where), detail) for where, detail in found]
    return [
        Problem("invalid", detail, caller_pointer(Surface.EVENT, True, 0, 0, tail)) for tail, detail in tails
    ]


def _broken(
    value: object, kind: type[ProfileData | EventAttributes], limits: Rules, path: _Path
) -> list[Problem]:
    try:
        part = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return []  # what is wrong with its structure is explained already
    found: list[rules.Finding] = []
    if isinstance(part, ProfileData):
        rules.check_profile(part, found)
    else:
        rules.check_event(part, limits, found)
    return [Problem("invalid", detail, pointer(*path, *where)) for where, detail in found]


def _holders(surface: Surface, document: object) -> Iterator[tuple[_Path, object]]:
    """The attributes of each thing that holds one profile, with their path, as far as they are there."""
    root = _ROOTS[surface]
    node = _at(document, *root)
    if surface is not Surface.BULK:
        yield (*root, "attributes"), _at(node, "attributes")
    elif isinstance(node, list):
        for index, entry in enumerate(node):
            yield (*root, index, "attributes"), _at(entry, "attributes")


def _events(surface: Surface, path: _Path, attributes: object) -> Iterator[tuple[_Path, object]]:
    """The attributes of each event of a holder."""
    if surface in _SINGLE:
        if isinstance(attributes, dict):
            yield path, {name: value for name, value in attributes.items() if name != "profile"}
        return
    events = _at(attributes, "events", "data")
    for index, event in enumerate(events if isinstance(events, list) else []):
        yield (*path, "events", "data", index, "attributes"), _at(event, "attributes")


def _at(node: object, *names: str) -> object:
    for name in names:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _check_count(surface: Surface, events: int, has_problems: bool) -> Iterator[Problem]:
    where = pointer(*_ROOTS[surface])
    if surface is Surface.CLIENT_BULK:
        where += "/attributes/events/data"
    if events == 0 and not has_problems:
        yield Problem("invalid", "A request needs at least one event.", where)
    if events > contract.MAX_EVENTS_PER_REQUEST:
        detail = f"A request must not hold more than {contract.MAX_EVENTS_PER_REQUEST} events."
        yield Problem("invalid", f"{detail} This one holds {events}: send it in parts.", where)


def _drop_bad_phone(profile: ProfileData) -> bool:
    bad = rules.bad_phone(profile)
    if bad:
        profile.attributes.phone_number = UNSET
    return bad


def _clear_identifier(profile: ProfileData, name: str) -> None:
    if name == "id":
        profile.id = UNSET
    else:
        setattr(profile.attributes, name.removeprefix("_"), UNSET)


def _normalise_meta(profile: ProfileData) -> None:
    if profile.attributes.meta is not UNSET:
        if profile.meta is UNSET:
            profile.meta = profile.attributes.meta
        profile.attributes.meta = UNSET


def _entry_of_single(single: SingleAttributes) -> Entry:
    event = EventAttributes(**{name: getattr(single, name) for name in EventAttributes.__struct_fields__})
    events = EventList([EventData("event", event)])
    return Entry("event-bulk-create", EntryAttributes(single.profile, events))


def _stamp(entry: Entry, accepted: datetime) -> StampedEntry[Any]:
    profile = entry.attributes.profile.data
    identity = [value or None for value in rules.identifiers(profile).values()]
    key = _digest(identity)
    events = [_stamp_event(event.attributes, key, accepted) for event in entry.attributes.events.data]
    return StampedEntry(key, profile, events, backfill=entry.attributes.backfill is True)


def _stamp_event(event: EventAttributes, profile_key: str, accepted: datetime) -> StampedEvent[Any]:
    if not isinstance(event.time, datetime):
        event.time = accepted.replace(microsecond=0)
    metric = event.metric.data.attributes
    if not isinstance(event.unique_id, str):
        time = event.time if event.time.tzinfo else event.time.replace(tzinfo=UTC)
        content = (
            profile_key,
            metric,
            int(time.timestamp()),
            event.properties,
            event.value,
            event.value_currency,
        )
        event.unique_id = _digest([None if part is UNSET else part for part in content])
    return StampedEvent(f"{event.unique_id} {metric.name}", event)


def _digest(content: object) -> str:
    return hashlib.blake2b(_sorted.encode(content), digest_size=16).hexdigest()
