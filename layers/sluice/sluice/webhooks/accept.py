"""Accepts one delivery of a webhook: verified, mapped, checked like every event, stored as one message.

What its sender is told depends on the signature and on whether the delivery is safe. That it makes no
sense is nothing the sender could mend: it becomes a rejection, and a success all the same, because senders
switch off a hook that keeps failing.
"""

import re
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from sluice import contract, message
from sluice.admission import request
from sluice.contract import Surface
from sluice.errors import Misconfigured, Refused
from sluice.jsonapi import Problem, listed, pointer
from sluice.klaviyo import parser, problems
from sluice.klaviyo.parser import Intake
from sluice.message import Body, Entry, Message
from sluice.rejection import Reason, Rejection
from sluice.webhooks import mapping, signatures
from sluice.webhooks.mapping import Delivery, Mapped
from sluice.webhooks.sources import Source

PROBLEMS_EACH: Final = 5  # of one rejection are told in its text
_MAX_FIELDS: Final = 1_000  # of a form
_PING: Final = re.compile(rb"webhook_id=[0-9]{1,20}")


class Ports(msgspec.Struct, frozen=True):
    """What accepting a delivery reaches the world through.

    `secret` gives the text of the secret with a name. `store` and `reject` are those of `ingest.Ports`.
    """

    secret: Callable[[str], str]
    store: Callable[[Body, str], None]
    reject: Callable[[list[Rejection]], None]


class Delivered(msgspec.Struct, frozen=True):
    """A delivery that is dealt with: how many events of it are stored, and how many rejections."""

    receipt: str
    account: str
    events: int = 0
    rejected: int = 0


class _Read(msgspec.Struct, frozen=True):
    """What a delivery came to: entries to store, problems, and the rejections that tell of them."""

    entries: list[Entry[Any]]
    problems: list[Problem]
    rejections: list[Rejection]


def accept(
    source: Source, headers: Mapping[str, str], body: bytes, *, ports: Ports, now: datetime
) -> Delivered:
    """Stores what a delivery becomes. `headers` are by lower-case name, `body` is as it was signed.

    Raises `Refused`, `Misconfigured` where the secret is none, or what the ports raise.
    """
    request.check_size(body)
    receipt = uuid.uuid4().hex
    if _is_ping(source, headers, body):
        return Delivered(receipt, source.account)
    _verify(source, headers, body, ports, now)
    stored: Message[Any] = Message(receipt, source.account, Surface.WEBHOOK, now, [], source=source.name)
    read = _read(source, headers, body, stored)
    if read.problems and source.refuses:
        raise Refused(400, listed(read.problems))
    if read.rejections:
        # First: what is stored of a delivery that then fails is a report, and its sender sends it again.
        ports.reject(read.rejections)
    if read.entries:
        stored.entries = read.entries
        ports.store(message.encode(stored), source.account)
    return Delivered(receipt, source.account, len(read.entries), len(read.rejections))


def become(source: Source, headers: Mapping[str, str], body: bytes) -> tuple[Delivery, Mapped]:
    """What a delivery becomes, its events not yet checked; `Refused` (400) if its body cannot be read."""
    payload = _payload(headers, body)
    credentials = {"authorization", "cookie", *(scheme.header for scheme in source.schemes)}
    shown = {name: value for name, value in headers.items() if name not in credentials}
    delivery = mapping.identify(source.delivery_id, payload, body, shown)
    return delivery, mapping.events(source.mappings, payload, delivery)


def checked(event: dict[str, Any], now: datetime) -> Intake:
    """An event of a delivery as it is accepted; raises `Refused` (400) with all that is wrong with it."""
    document = msgspec.json.encode(event)
    return parser.read(Surface.EVENT, document, contract.UPSTREAM_REVISION, now)


def answer(delivered: Delivered) -> bytes:
    """What the sender is told; few look at it, but it helps whoever reads the sender's log."""
    told = {"receipt": delivered.receipt, "events": delivered.events, "rejected": delivered.rejected}
    return msgspec.json.encode({"meta": told})


def _is_ping(source: Source, headers: Mapping[str, str], body: bytes) -> bool:
    """WooCommerce asks, unsigned, whether anybody is there, and takes nothing but a 200 for a yes."""
    signed = any(headers.get(scheme.header) for scheme in source.schemes)
    return source.scheme == "woocommerce" and not signed and _PING.fullmatch(body) is not None


def _verify(source: Source, headers: Mapping[str, str], body: bytes, ports: Ports, now: datetime) -> None:
    try:
        secrets = signatures.live_secrets(ports.secret(source.secret))
        known = signatures.verified(source.schemes, secrets, headers, body, now)
    except Misconfigured as error:
        raise Misconfigured(f"{error}: {source.secret}, of the source {source.name}") from None
    if not known:
        detail = f"This is not signed as '{source.scheme}' asks, by the secret of this source, just now."
        raise Refused(401, [Problem("authentication_failed", detail)])


def _read(source: Source, headers: Mapping[str, str], body: bytes, stored: Message[Any]) -> _Read:
    try:
        _, mapped = become(source, headers, body)
    except Refused as refused:
        [problem] = refused.problems
        return _Read([], [problem], [_rejection(Reason.MALFORMED, [problem], _quoted(body), stored)])
    read = _Read([], list(mapped.problems), [])
    if mapped.problems:
        read.rejections.append(_rejection(Reason.INVALID, mapped.problems, _quoted(body), stored))
    for index, event in enumerate(mapped.events):
        _read_event(index, event, stored, read)
    return read


def _payload(headers: Mapping[str, str], body: bytes) -> object:
    """A delivery's JSON, or the fields of a form; `Refused` (400) if it is neither."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        return problems.parse(body)
    try:
        return dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        detail = f"The body is no form of UTF-8 and at most {_MAX_FIELDS} fields."
        raise Refused(400, [Problem("parse_error", detail, "/")]) from None


def _read_event(index: int, event: dict[str, Any], stored: Message[Any], read: _Read) -> None:
    try:
        accepted = checked(event, stored.accepted)
    except Refused as refused:
        problems = [_placed(problem, index) for problem in refused.problems]
        attributes = event["data"]["attributes"]
        profile = attributes.pop("profile")["data"]
        payload = msgspec.json.encode({"profile": profile, "events": [attributes], "backfill": False})
        read.problems.extend(problems)
        read.rejections.append(_rejection(Reason.INVALID, problems, payload, stored))
    else:
        [entry] = accepted.entries
        if index != len(read.entries):
            entry.events[0].entry = index
        read.entries.append(entry)


def _placed(problem: Problem, index: int) -> Problem:
    """A problem of one event, as one of the array of them."""
    within = (problem.pointer or "").removeprefix("/data")
    return Problem(problem.code, problem.detail, pointer("data", index) + within)


def _rejection(reason: Reason, problems: list[Problem], payload: bytes, stored: Message[Any]) -> Rejection:
    first = problems[0]
    return Rejection(
        reason,
        " ".join(_told(problem) for problem in problems[:PROBLEMS_EACH]),
        msgspec.Raw(payload),
        stored.accepted,
        account=stored.account,
        code=first.code,
        status=400,
        pointer=first.pointer if first.pointer and first.pointer.startswith("/data/") else None,
        surface=stored.surface,
        source=stored.source,
        receipt=stored.receipt,
        accepted=stored.accepted,
    )


def _told(problem: Problem) -> str:
    """A problem's text, with its place where that is in the source and not in the events."""
    place = problem.pointer or ""
    return f"{place.removeprefix('/')}: {problem.detail}" if place.startswith("/events/") else problem.detail


def _quoted(body: bytes) -> bytes:
    """A body as a JSON string."""
    return msgspec.json.encode(body.decode("utf-8", "replace"))
