"""Reads an archived payload again, by the product's own rules and on the way in that it came by.

An anonymous caller's event stays anonymous, and a mend lifts nothing. An event without a time gets that of
its acceptance, and one without a unique_id gets one that follows from its record's id. So reading a payload
again gives the same events each time, and those that are sent twice count once.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Set
from datetime import datetime
from typing import Any, Final

import msgspec

from sluice import contract, message
from sluice.accounts import Accounts
from sluice.contract import PIPELESS_SURFACE, Surface
from sluice.errors import Misconfigured, Refused, SluiceError, Undeliverable
from sluice.klaviyo import parser
from sluice.klaviyo.problems import CLIENT
from sluice.message import Entry, PipelessEvent, PipelessMessage, StoredMessage
from sluice.pipeless import parser as pipeless
from sluice.producers import accept as producers
from sluice.producers import envelopes
from sluice.producers.envelopes import Body
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection
from sluice.validation.json_text import NOT_DECODED, encode_text
from sluice.webhooks import accept as webhooks
from sluice.webhooks.event_validation import validate_event
from sluice.webhooks.sources import Source

_PROFILE: Final = re.compile(r"/data(?:/attributes/events-bulk-create/data/0)?/attributes/profile/data")
_EVENT: Final = re.compile(
    r"/data(?:/attributes/events-bulk-create/data/0)?/attributes/events/data/(\d+)/attributes"
)


class StillRefused(SluiceError):
    """Says in one sentence why a record cannot be sent again; `pointer` leads into its payload."""

    def __init__(self, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class Lookups(msgspec.Struct, frozen=True):
    """Holds what reading again asks about. All may raise `Retryable`.

    - `accounts` is the accounts document.
    - `source` finds a webhook source by name; it raises `Misconfigured` if the source is not valid.
    - `excess_metrics` takes a site id, names of metrics and whether their caller was anonymous, and returns
      those that are too many for the account.
    """

    accounts: Accounts
    source: Callable[[str], Source | None]
    excess_metrics: Callable[[str, Iterable[str], bool], Set[str]]


class Replayable(msgspec.Struct, frozen=True):
    """Holds what can be sent again of one record: entries, events of Pipeless, or a whole message."""

    account: str
    surface: str
    source: str | None
    content: list[Entry[Any]] | list[PipelessEvent] | StoredMessage | PipelessMessage

    @property
    def is_whole(self) -> bool:
        """Tells whether it is a message that goes back as it was."""
        return isinstance(self.content, message.Message | PipelessMessage)

    @property
    def entries(self) -> list[Entry[Any]]:
        """Returns its entries, if it is for Klaviyo."""
        content = self.content.entries if isinstance(self.content, message.Message) else self.content
        return [] if isinstance(content, PipelessMessage) else [e for e in content if isinstance(e, Entry)]

    @property
    def pipeless_events(self) -> list[PipelessEvent]:
        """Returns its events, if it is for Pipeless."""
        content = self.content.events if isinstance(self.content, PipelessMessage) else self.content
        return (
            []
            if isinstance(content, message.Message)
            else [e for e in content if isinstance(e, PipelessEvent)]
        )

    @property
    def events(self) -> int:
        """Returns the number of its events."""
        return sum(len(entry.events) for entry in self.entries) + len(self.pipeless_events)

    @property
    def repeatable_relationships(self) -> int:
        """Returns how many relationships of Pipeless may be there twice if they were written before."""
        return sum(not each.relationship.single for each in self.pipeless_events)


def read_again(record_id: str, rejection: Rejection, mended: bytes, lookups: Lookups) -> Replayable:
    """Returns what can be sent of a rejection whose payload is now `mended`, or raises `StillRefused`."""
    try:
        if mended == bytes(rejection.payload) and _is_dead_letter(rejection, mended):
            # It was accepted, so it needs no rule. It may be large, and is not decoded further.
            return _whole(_decoded(mended))
        document, original = _document(mended), _document(rejection.payload)
        found = _read(record_id, rejection, document, original, lookups)
    except Refused as refused:
        first = refused.problems[0]
        raise StillRefused(first.detail, _place(first.pointer)) from refused
    except Undeliverable as error:
        raise StillRefused(error.detail, error.pointer) from error
    except Misconfigured as error:
        raise StillRefused(f"Its source is not valid: {error}.") from error
    if rejection.reason is Reason.DUPLICATE_ID and not _unique_ids(document).isdisjoint(
        _unique_ids(original)
    ):
        raise StillRefused("The upstream has another event with its unique_id: set a unique_id of its own.")
    _check_metrics(found, lookups)
    return found


def with_backfill(entries: Iterable[Entry[Any]], older_than: datetime) -> Iterator[Entry[Any]]:
    """Yields entries with their older events marked as history, so that these trigger no flow."""
    for index, entry in enumerate(entries):
        old: list[Any] = []
        new: list[Any] = []
        for at_entry, at_event, event in entry.positioned(index):
            placed = msgspec.structs.replace(event, entry_index=at_entry, event_index=at_event)
            (old if _time(event.attributes) < older_than else new).append(placed)
        for events, backfill in ((old, True), (new, entry.backfill)):
            if events:
                yield msgspec.structs.replace(entry, events=events, backfill=backfill)


def _read(record_id: str, rejection: Rejection, document: Any, original: Any, lookups: Lookups) -> Replayable:
    accepted = rejection.accepted or rejection.rejected_at
    match document:
        case str() if rejection.source is not None:
            return _delivery(rejection, document, accepted, lookups)
        case str():
            return _body(record_id, rejection, document, accepted, lookups)
        case {"sluice": _} if _is_dead_letter(rejection, rejection.payload):
            return _stored(rejection, document, original, lookups)
        case dict() if rejection.surface == PIPELESS_SURFACE:
            events = _pipeless_events(rejection.account, document, accepted, lookups)
            return Replayable(rejection.account, PIPELESS_SURFACE, None, events)
        case dict():
            surface = _surface(rejection)
            _name_events(record_id, _events_of(document))
            if surface in CLIENT:
                _keep_anonymous(document, original, _has_shared_ids(rejection.account, lookups))
            entries = _entries(surface, document, accepted)
            return Replayable(rejection.account, surface, rejection.source, entries)
    raise StillRefused("Its payload is neither an event nor a body.")


def _surface(rejection: Rejection) -> Surface:
    try:
        return Surface(rejection.surface or "")
    except ValueError:
        raise StillRefused("It does not say by which way it came in.") from None


def _has_shared_ids(account_id: str, lookups: Lookups) -> bool:
    account = lookups.accounts.by_site_id(account_id)
    return account is not None and account.shared_unique_ids


def _entries(surface: Surface, document: Any, accepted: datetime) -> list[Entry[Any]]:
    """Reads a profile with its events, or an entry as its caller wrote it."""
    entry = document
    if "events" in document or "profile" in document:
        events = document.get("events")
        if not isinstance(events, list):
            raise StillRefused("'events' must be an array.", "/events")
        content = {"data": [{"type": "event", "attributes": event} for event in events]}
        attributes = {"profile": {"data": document.get("profile")}, "events": content}
        if document.get("backfill"):
            attributes["backfill"] = document["backfill"]
        entry = {"type": "event-bulk-create", "attributes": attributes}
    way, body = Surface.CLIENT_BULK, {"data": entry}
    if surface not in CLIENT:
        jobs = {"events-bulk-create": {"data": [entry]}}
        way, body = Surface.BULK, {"data": {"type": "event-bulk-create-job", "attributes": jobs}}
    encoded = msgspec.json.encode(body)
    # The unique_ids of anonymous callers are in their namespace already.
    return parser.read(way, encoded, contract.UPSTREAM_REVISION, accepted, shared_ids=True).entries


def _pipeless_events(
    account: str, document: Any, accepted: datetime, lookups: Lookups
) -> list[PipelessEvent]:
    app = lookups.accounts.app(account)
    if app is None:
        raise StillRefused(f"The app {account} is not in the accounts document.")
    batch = pipeless.read(msgspec.json.encode({"events": document.get("events")}), app)
    return pipeless.stamped(batch.events, accepted)


def _body(
    record_id: str, rejection: Rejection, text: str, accepted: datetime, lookups: Lookups
) -> Replayable:
    """Reads the text of a producer's body.

    A message of Sluice's own is archived as what it holds. A text in the form of one has no seal, or is
    damaged.
    """
    if message.is_stored(text):
        raise StillRefused("It has the form of a message of Sluice's own, and was not believed.")
    account = None if rejection.account == UNKNOWN_ACCOUNT else rejection.account
    opened = envelopes.unwrap(Body(text, accepted, account, rejection.surface))
    if not isinstance(opened, Body):
        raise StillRefused("It tells of S3 objects: write them again, and they are read again.")
    read = producers.accept(opened, record_id, lookups.accounts, None)
    if _name_events(record_id, _event_attributes(document := msgspec.json.decode(encode_text(opened.text)))):
        named = msgspec.structs.replace(opened, text=msgspec.json.encode(document).decode())
        read = producers.accept(named, record_id, lookups.accounts, None)
    content = read.events if isinstance(read, PipelessMessage) else read.entries
    return Replayable(read.account, read.surface, None, content)


def _delivery(rejection: Rejection, text: str, accepted: datetime, lookups: Lookups) -> Replayable:
    """Maps a webhook's delivery again, by its source as it is now."""
    source = lookups.source(rejection.source or "")
    if source is None:
        raise StillRefused(f"There is no source {rejection.source} any more.")
    _, mapped = webhooks.map_payload(source, rejection.headers or {}, encode_text(text))
    if mapped.problems:
        raise StillRefused(mapped.problems[0].detail)
    entries: list[Entry[Any]] = []
    for each in mapped.events:
        validated = validate_event(each, accepted)
        if validated.entry is not None:
            entries.append(validated.entry)
        elif not webhooks.waits(each):
            raise StillRefused(validated.problems[0].detail)
    if not entries:
        raise StillRefused("The source's mappings make no event of it.")
    return Replayable(source.account, Surface.WEBHOOK, source.name, entries)


def _stored(rejection: Rejection, document: Any, original: Any, lookups: Lookups) -> Replayable:
    """Reads a mended dead letter: it passes the rules again."""
    stored, before = _decoded(msgspec.json.encode(document)), _decoded(rejection.payload)
    if (stored.account, stored.surface, stored.source) != (before.account, before.surface, before.source):
        raise StillRefused("A mend cannot change the account of a message, or the way by which it came in.")
    if isinstance(stored, PipelessMessage):
        events = _pipeless_events(stored.account, document, stored.accepted, lookups)
        return _whole(msgspec.structs.replace(stored, events=events))
    entries: list[Entry[Any]] = []
    before_entries = original["entries"]
    for index, entry in enumerate(document["entries"]):
        parts = _upstream_parts(entry)
        _name_events(f"{rejection.id}-{index}", parts["events"])
        if stored.surface in CLIENT:
            was = _upstream_parts(before_entries[index]) if index < len(before_entries) else {}
            _keep_anonymous(parts, was, _has_shared_ids(stored.account, lookups))
        [read] = _entries(stored.surface, parts, stored.accepted)
        for event, (at_entry, at_event, _) in zip(
            read.events, stored.entries[index].positioned(index), strict=True
        ):
            event.entry_index, event.event_index = at_entry, at_event
        entries.append(read)
    whole = message.as_stored(msgspec.structs.replace(stored, entries=entries))
    return _whole(whole)


def _upstream_parts(entry: Any) -> dict[str, Any]:
    events = [each["attributes"] for each in entry["events"]]
    return {"profile": entry["profile"], "events": events, "backfill": entry.get("backfill", False)}


def _document(payload: bytes | msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(payload)
    except NOT_DECODED as error:
        raise StillRefused("Its payload cannot be read.") from error


def _is_dead_letter(rejection: Rejection, payload: bytes | msgspec.Raw) -> bool:
    """Tells whether a payload is a message of Sluice's own, which reject knew by its seal.

    A caller may have written an object that only looks like one.
    """
    return rejection.reason is Reason.DEAD_LETTER and bytes(payload).startswith(b'{"sluice":')


def _decoded(plain: bytes | msgspec.Raw) -> StoredMessage | PipelessMessage:
    return message.decode(bytes(plain).decode(), _no_claim)


def _no_claim(_: str) -> bytes:
    raise StillRefused("A mend cannot turn a message into a claim check.")


def _whole(stored: StoredMessage | PipelessMessage) -> Replayable:
    return Replayable(stored.account, stored.surface, stored.source, stored)


def _name_events(record_id: str, events: Iterable[Any]) -> bool:
    """Gives a unique_id to each event that has none; tells whether there was any."""
    events = list(events)
    named = False
    for number, event in enumerate(events):
        if isinstance(event, dict) and event.get("unique_id") is None:
            event["unique_id"] = record_id if len(events) == 1 else f"{record_id}-{number}"
            named = True
    return named


def _event_attributes(document: Any) -> Iterator[Any]:
    """Yields the attributes of each event in a body of any surface, as far as they are there."""
    match document:
        case {"data": {"attributes": {"events-bulk-create": {"data": [*entries]}}}}:
            for entry in entries:
                yield from _event_attributes({"data": entry})
        case {"data": {"attributes": {"events": {"data": [*events]}}}}:
            yield from (event["attributes"] for event in events if _has_attributes(event))
        case {"data": {"type": "event", "attributes": attributes}}:
            yield attributes


def _events_of(document: Any) -> Iterable[Any]:
    """Returns the events of a payload, which may be an entry as its caller wrote it."""
    events = document.get("events")
    return events if isinstance(events, list) else _event_attributes({"data": document})


def _has_attributes(event: Any) -> bool:
    return isinstance(event, dict) and "attributes" in event


def _unique_ids(document: Any) -> set[str]:
    events = document.get("events") if isinstance(document, dict) else None
    given = [each.get("unique_id") for each in events or () if isinstance(each, dict)]
    return {each for each in given if isinstance(each, str)}


def _keep_anonymous(document: Any, original: Any, shared_ids: bool) -> None:
    """Refuses a mend by which an anonymous caller's event would have an identifier that it did not have.

    A unique_id that it did not have gets the namespace of these callers, unless their account shares ids.
    """
    added = sorted(_identifiers(document) - _identifiers(original))
    if added:
        detail = f"An anonymous caller sent it, so a mend cannot add the identifier {added[0]}."
        raise StillRefused(detail, "/profile")
    known = _unique_ids(original)
    for event in () if shared_ids else _events_of(document):
        unique_id = event.get("unique_id") if isinstance(event, dict) else None
        if isinstance(unique_id, str) and unique_id not in known:
            event["unique_id"] = contract.ANONYMOUS_IDS + unique_id.removeprefix(contract.ANONYMOUS_IDS)


def _identifiers(document: Any) -> set[str]:
    profile = document.get("profile") if isinstance(document, dict) else None
    if not isinstance(profile, dict):
        return set()
    attributes = profile.get("attributes")
    given = {name for holder in (profile, attributes) if isinstance(holder, dict) for name in holder}
    return given & set(contract.IDENTIFIERS)


def _check_metrics(found: Replayable, lookups: Lookups) -> None:
    """Refuses events of metrics that are too many for an account that limits them."""
    account = lookups.accounts.by_site_id(found.account)
    if account is None or not account.limit_metrics or found.is_whole:
        return
    names = [
        event.attributes.metric.data.attributes.name for entry in found.entries for event in entry.events
    ]
    if lookups.excess_metrics(found.account, names, found.surface in CLIENT):
        raise StillRefused("The account already has all the metrics that it may have.")


def _place(pointer: str | None) -> str | None:
    """Turns a pointer into a body that was made here into one into the payload."""
    if pointer is None:
        return None
    if found := _PROFILE.match(pointer):
        return "/profile" + pointer[found.end() :]
    if found := _EVENT.match(pointer):
        return f"/events/{found[1]}{pointer[found.end() :]}"
    return None


class _Timed(msgspec.Struct):
    time: datetime | None = None


def _time(attributes: Any) -> datetime:
    """Returns an event's time; one of a message that is read back from the queue is JSON."""
    timed = (
        msgspec.json.decode(attributes, type=_Timed) if isinstance(attributes, msgspec.Raw) else attributes
    )
    if not isinstance(timed.time, datetime):
        raise StillRefused("An event of it has no time.")
    found: datetime = timed.time
    return found
