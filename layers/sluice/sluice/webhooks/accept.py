"""Accepts one delivery of a webhook: verified, mapped, checked like every event, stored as one message.

The answer depends on the signature and on whether the delivery is safe. The sender cannot fix an invalid
payload, so a rejection is stored and the answer is 2xx. Senders disable webhooks that keep failing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from sluice import message, rejection, runtime
from sluice.admission import request
from sluice.contract import Surface
from sluice.errors import Misconfigured, Refused, Retryable
from sluice.jsonapi import Problem, listed, pointer
from sluice.message import Body, Entry, Message
from sluice.rejection import Reason, Rejection
from sluice.webhooks import mapping, signatures
from sluice.webhooks.event_validation import ValidatedEvent, validate_event
from sluice.webhooks.mapping import Delivery, Mapped, MappedEvent
from sluice.webhooks.object_records import (
    Identity,
    ObjectRecord,
    ObjectRecords,
    event_id,
    identity,
    metric_of,
    names_a_person,
    with_kept_person,
)
from sluice.webhooks.payload import REPLACEMENT
from sluice.webhooks.payload import read as read_payload
from sluice.webhooks.sources import Source

MAX_PROBLEMS_PER_REJECTION: Final = 5  # told in its text
_MISNAMED: Final = "A character that had to be replaced stands in an identifier or the metric."
# Headers that the network adds. They may hold addresses, and no mapping is about them.
_TRANSPORT: Final = ("x-forwarded-", "x-amz", "cloudfront-", "via", "host")
_PING: Final = re.compile(rb"webhook_id=[0-9]{1,20}")


class Ports(Protocol):
    """Reaches AWS for accepting a delivery. Methods may raise `Retryable`."""

    @property
    def records(self) -> ObjectRecords:
        """Returns the records of the source's objects."""
        ...

    def secret(self, *, name: str) -> str:
        """Returns the text of a secret."""
        ...

    def store(self, *, body: Body, account_id: str) -> None:
        """Stores an encoded message. Once this returns, its events are safe."""
        ...

    def reject(self, *, rejections: Sequence[Rejection]) -> None:
        """Stores rejections, as `store` does a message."""
        ...


class Delivered(msgspec.Struct, frozen=True):
    """Describes a delivery that is handled: the number of events stored, and of rejections."""

    receipt: str
    account: str
    topic: str | None = None
    events: int = 0
    rejected: int = 0
    repeated: int = 0
    unidentified: int = 0
    left_out: Sequence[Problem] = ()

    @property
    def is_empty(self) -> bool:
        """Tells whether the source's mappings made nothing of the delivery."""
        return not (self.events or self.rejected or self.repeated or self.unidentified)


class _Sorted(msgspec.Struct, frozen=True):
    """Holds the parts of a delivery: events to store with their entries, rejections, and those left alone."""

    chosen: list[tuple[MappedEvent, Entry[Any]]]
    rejections: list[Rejection]
    left_out: list[Problem]
    repeated: list[MappedEvent]
    unidentified: list[MappedEvent]


def accept(
    source: Source, headers: Mapping[str, str], body: bytes, *, ports: Ports, now: datetime
) -> Delivered:
    """Stores what a delivery becomes. `headers` are by lower-case name, `body` is as it was signed.

    Raises `Refused`, `Misconfigured` where the secret is none, what the ports raise, or `Retryable` where an
    event of nobody may have a person in a record that cannot be read.
    """
    request.check_size(body)
    receipt = runtime.unique_id()
    if _is_ping(source, headers, body):
        return Delivered(receipt, source.account)
    _verify(source, headers, body, ports, now)
    stored: Message[Any] = Message(receipt, source.account, Surface.WEBHOOK, now, [], source=source.name)
    shown = _without_credentials(source, headers)
    try:
        delivery, mapped = map_payload(source, headers, body)
    except Refused as refused:
        if source.refuses:
            raise
        whole = _delivery_rejection(Reason.MALFORMED, refused.problems, shown, body, stored)
        ports.reject(rejections=[whole])
        return Delivered(receipt, source.account, rejected=1)
    validated = [validate_event(event, now) for event in mapped.events]
    if source.refuses and (problems := list(_all_problems(mapped, validated))):
        raise Refused(400, listed(problems))
    result = _sort(validated, stored, ports.records)
    if mapped.problems:
        whole = _delivery_rejection(Reason.INVALID, mapped.problems, shown, body, stored)
        result.rejections.append(whole)
    if result.rejections:
        # Stored first: if the delivery then fails, only rejections are stored, and the sender sends it again.
        ports.reject(rejections=result.rejections)
    if result.chosen:
        stored.entries = [entry for _, entry in result.chosen]
        ports.store(body=message.encode(stored), account_id=source.account)
        _mark_stored([event for event, _ in result.chosen], ports.records)
    return Delivered(
        receipt,
        source.account,
        delivery.topic,
        len(result.chosen),
        len(result.rejections),
        len(result.repeated),
        len(result.unidentified),
        [*mapped.replaced, *result.left_out],
    )


def map_payload(source: Source, headers: Mapping[str, str], body: bytes) -> tuple[Delivery, Mapped]:
    """Maps a delivery to events, which are not checked yet; `Refused` (400) if its body cannot be read."""
    payload, replaced = read_payload(headers, body)
    shown = _without_credentials(source, headers)
    delivery = mapping.identify(source.delivery_id, source.topic, payload, body, shown)
    mapped = mapping.events(source.mappings, payload, delivery)
    if not replaced:
        return delivery, mapped
    good = [event for event in mapped.events if not _is_misnamed(event)]
    bad = [
        Problem("invalid", _MISNAMED, pointer("events", each.mapping))
        for each in mapped.events
        if _is_misnamed(each)
    ]
    return delivery, Mapped(good, [*mapped.problems, *bad], replaced)


def waits(event: MappedEvent) -> bool:
    """Tells whether an event of nobody is left to a later delivery of its object."""
    return event.waits_for_identity and event.object_id is not None and not identity(event)


def answer(delivered: Delivered) -> bytes:
    """Returns the answer to the sender; few look at it, but it helps the reader of the sender's log."""
    told = {
        "receipt": delivered.receipt,
        "events": delivered.events + delivered.repeated,
        "rejected": delivered.rejected,
        "repeated": delivered.repeated,
        "unidentified": delivered.unidentified,
    }
    return msgspec.json.encode({"meta": told})


def _is_misnamed(event: MappedEvent) -> bool:
    """Tells whether a character was replaced in what says whose an event is, or of which metric."""
    return any(REPLACEMENT in each for each in (*identity(event).values(), metric_of(event)))


def _is_ping(source: Source, headers: Mapping[str, str], body: bytes) -> bool:
    """Tells whether this is WooCommerce's unsigned ping, which has to be answered 200."""
    signed = any(headers.get(scheme.header) for scheme in source.schemes)
    return source.scheme == "woocommerce" and not signed and _PING.fullmatch(body) is not None


def _verify(source: Source, headers: Mapping[str, str], body: bytes, ports: Ports, now: datetime) -> None:
    try:
        secrets = signatures.live_secrets(ports.secret(name=source.secret))
        known = signatures.verified(source.schemes, secrets, headers, body, now)
    except Misconfigured as error:
        raise Misconfigured(f"{error}: {source.secret}, of the source {source.name}") from None
    if not known:
        detail = (
            f"Invalid signature for the scheme '{source.scheme}': it is missing, does not match the source's "
            "secret, or is older than 5 minutes."
        )
        if REPLACEMENT.encode() in body:
            detail += " The body holds U+FFFD, which API Gateway puts in place of bytes that are not UTF-8."
        raise Refused(401, [Problem("authentication_failed", detail)])


def _all_problems(mapped: Mapped, events: Sequence[ValidatedEvent]) -> Iterator[Problem]:
    """Returns everything invalid in a delivery, for a source that refuses it."""
    yield from mapped.problems
    yield from mapped.replaced
    for index, each in enumerate(events):
        yield from each.event.left_out
        if not waits(each.event):
            yield from (_placed(problem, index) for problem in each.problems)


def _sort(events: Sequence[ValidatedEvent], stored: Message[Any], records: ObjectRecords) -> _Sorted:
    """Decides what becomes of each event, by what is known of its object."""
    result = _Sorted([], [], [], [], [])
    known = _open_records(events, records)
    for index, each in enumerate(events):
        record = known.get(each.event.object_id, ObjectRecord())
        if event_id(each.event) in record.stored:
            result.repeated.append(each.event)
            continue
        kept = with_kept_person(each.event, record)
        final = each if kept is each.event else validate_event(kept, stored.accepted)
        if final.entry is not None:
            if index != len(result.chosen):
                final.entry.events[0].entry_index = index
            result.chosen.append((final.event, final.entry))
            result.left_out.extend((*final.event.left_out, *final.left_out))
        elif waits(final.event):
            if not record.is_known:
                # Its person may be known. An event that is left to a later delivery is kept nowhere.
                raise Retryable("the record of a webhook's object cannot be read")
            result.unidentified.append(final.event)
        else:
            result.rejections.append(_event_rejection(index, final, stored))
    return result


def _open_records(events: Sequence[ValidatedEvent], records: ObjectRecords) -> dict[str | None, ObjectRecord]:
    """Opens the record of each object that events tell of, with the people of the good events."""
    people: dict[str, dict[str, Identity]] = {}
    for each in events:
        if each.event.object_id is not None:
            of_object = people.setdefault(each.event.object_id, {})
            found = identity(each.event)
            if each.entry is not None and names_a_person(found):
                of_object.setdefault(metric_of(each.event), found)
    return {
        object_id: _with_heirs(
            object_id, records.open(object_id=object_id, people=of_object), events, records
        )
        for object_id, of_object in people.items()
    }


def _with_heirs(
    object_id: str, record: ObjectRecord, events: Sequence[ValidatedEvent], records: ObjectRecords
) -> ObjectRecord:
    """Gives an object's events of nobody its last person, so that no other delivery gives them another.

    Returns the record with the persons that these events have, perhaps by a delivery at the same time.
    """
    if record.last_person is None:
        return record
    heirs = {
        metric: record.last_person
        for each in events
        if each.event.object_id == object_id
        and not names_a_person(identity(each.event))
        and (metric := metric_of(each.event)) not in record.people
    }
    chosen = records.open(object_id=object_id, people=heirs) if heirs else record
    return chosen if chosen.people else record  # the table may have failed


def _mark_stored(events: Sequence[MappedEvent], records: ObjectRecords) -> None:
    by_object: dict[str, list[bytes]] = {}
    for event in events:
        if event.object_id is not None:
            by_object.setdefault(event.object_id, []).append(event_id(event))
    for object_id, ids in by_object.items():
        records.mark_stored(object_id=object_id, event_ids=ids)


def _event_rejection(index: int, refused: ValidatedEvent, stored: Message[Any]) -> Rejection:
    problems = [_placed(problem, index) for problem in refused.problems]
    attributes = dict(refused.event.body["data"]["attributes"])
    profile = attributes.pop("profile")["data"]
    payload = msgspec.json.encode({"profile": profile, "events": [attributes], "backfill": False})
    return _rejection(Reason.INVALID, problems, payload, stored)


def _placed(problem: Problem, index: int) -> Problem:
    """Turns a problem of one event into one of the array of events."""
    within = (problem.pointer or "").removeprefix("/data")
    return Problem(problem.code, problem.detail, pointer("data", index) + within)


def _rejection(
    reason: Reason, problems: Sequence[Problem], payload: bytes, stored: Message[Any]
) -> Rejection:
    first = problems[0]
    return rejection.for_invalid_events(
        stored,
        payload,
        reason=reason,
        code=first.code,
        detail=" ".join(_told(problem) for problem in problems[:MAX_PROBLEMS_PER_REJECTION]),
        pointer=first.pointer if first.pointer and first.pointer.startswith("/data/") else None,
    )


def _delivery_rejection(
    reason: Reason,
    problems: Sequence[Problem],
    headers: Mapping[str, str],
    body: bytes,
    stored: Message[Any],
) -> Rejection:
    """Returns the rejection of a whole delivery, with all that is needed to map it again."""
    whole = _rejection(reason, problems, _quoted(body), stored)
    whole.headers = {name: value for name, value in headers.items() if not name.startswith(_TRANSPORT)}
    return whole


def _told(problem: Problem) -> str:
    """Returns a problem's text, with its place if that is in the source and not in the events."""
    place = problem.pointer or ""
    return f"{place.removeprefix('/')}: {problem.detail}" if place.startswith("/events/") else problem.detail


def _without_credentials(source: Source, headers: Mapping[str, str]) -> dict[str, str]:
    credentials = {"authorization", "cookie", *(scheme.header for scheme in source.schemes)}
    return {name: value for name, value in headers.items() if name not in credentials}


def _quoted(body: bytes) -> bytes:
    """Returns a body as a JSON string."""
    return msgspec.json.encode(body.decode("utf-8", "replace"))
