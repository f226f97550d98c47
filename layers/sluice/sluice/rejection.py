"""Describes one refused event or message, with everything needed to understand it, mend it and send it
again.

Every rejection is made here: of invalid events that ingest does not store, of events that are refused on
delivery, of a body that nobody can read, and of a dead letter.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

import msgspec

from sluice import runtime
from sluice.errors import Undeliverable
from sluice.message import Body, Message, PipelessMessage, record_of, wrap

UNKNOWN_ACCOUNT: Final = "unknown"


class Reason(StrEnum):
    """Names why something could not be delivered."""

    MALFORMED = "malformed_message"  # put on the queue by hand, or damaged, so it cannot be read
    # It breaks a rule of the contract, but no caller waited for a refusal, or the caller asked for leniency.
    INVALID = "invalid"
    OVERSIZED = "oversized"  # one event that no job can hold
    REFUSED = "refused_by_upstream"
    # The upstream says that it has this unique_id, and not because Sluice sent the event before.
    DUPLICATE_ID = "duplicate_unique_id"
    # An earlier request with it got no answer. It is refused now, perhaps because that one was taken.
    PROBABLY_RECORDED = "probably_recorded"
    NOT_SEALED = "not_sealed"  # it has the form of a stored request, and Sluice did not store it
    DEAD_LETTER = "dead_letter"  # received too often without an outcome, or it outlived the queue


class Rejection(msgspec.Struct, omit_defaults=True):
    """Holds what was refused, and the reason in the words of the one who refused it.

    `pointer` leads into the caller's own document. `line` names that document if it was a line of an S3
    object (s3://bucket/key:number), and `source` is the webhook source that it came by. `payload` is the
    profile and events as they were going upstream, or the body as a string if it could not be read.
    `place` leads into the payload, if the refusal named a place in it. `replays` is the id of the record that
    was replayed, whose pointer it keeps: this one has none of its own.
    `headers` are those of a webhook's delivery that is kept as its body, without its credentials.
    """

    reason: Reason
    detail: str
    payload: msgspec.Raw
    rejected_at: datetime
    account: str = UNKNOWN_ACCOUNT
    code: str | None = None
    status: int | None = None
    pointer: str | None = None
    surface: str | None = None
    source: str | None = None
    receipt: str | None = None
    accepted: datetime | None = None
    line: str | None = None
    place: str | None = None
    replays: str | None = None
    headers: Mapping[str, str] | None = None
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            self.id = rejection_id(self.accepted or self.rejected_at, runtime.unique_id())


class Origin(Protocol):
    """Says where a stored message is from, whichever vendor it is for."""

    @property
    def account(self) -> str:
        """Returns the id of its account."""
        ...

    @property
    def surface(self) -> str:
        """Returns the surface it came in by."""
        ...

    @property
    def source(self) -> str | None:
        """Returns the webhook source it came by."""
        ...

    @property
    def receipt(self) -> str:
        """Returns the receipt of its request."""
        ...

    @property
    def accepted(self) -> datetime:
        """Returns when it was accepted."""
        ...

    @property
    def line(self) -> str | None:
        """Returns the line of an object that it was."""
        ...

    @property
    def replayed(self) -> list[str] | None:
        """Returns the ids of the records that it replays."""
        ...


class UpstreamPayload(msgspec.Struct):
    """Holds a rejection's payload: one profile and its refused events, in the upstream's shape."""

    profile: msgspec.Raw
    events: list[msgspec.Raw]
    backfill: bool


def for_invalid_events(
    stored: Message[Any],
    payload: bytes,
    *,
    reason: Reason = Reason.INVALID,
    code: str,
    detail: str,
    pointer: str | None,
) -> Rejection:
    """Returns the rejection of what ingest leaves out of a request, before it stores the rest."""
    return _with_origin(
        Rejection(
            reason, detail, msgspec.Raw(payload), stored.accepted, code=code, status=400, pointer=pointer
        ),
        stored,
    )


def for_refused_events(
    stored: Origin,
    payload: bytes,
    *,
    index: int,
    reason: Reason,
    code: str,
    detail: str,
    pointer: str,
    line: str | None,
    now: datetime,
    positions: Iterable[int],
    place: str | None = None,
) -> Rejection:
    """Returns the rejection of events of one message that are refused on delivery.

    They are of the entry at `index`, or are the event of Pipeless there. `place` is the pointer into the
    payload.
    """
    replays = record_of(stored.replayed, index)
    scoped = f"{stored.account}#{stored.receipt}"
    refused = Rejection(
        reason,
        detail,
        msgspec.Raw(payload),
        now,
        code=code or None,
        pointer=None if replays else pointer,
        place=place,
        replays=replays,
        id=rejection_id(stored.accepted, f"{scoped} {sorted(positions)}"),
    )
    return msgspec.structs.replace(_with_origin(refused, stored), line=line)


def for_undeliverable_body(
    body: str,
    error: Undeliverable,
    *,
    account: str | None,
    surface: str | None,
    accepted: datetime,
    now: datetime,
    name: str,
    line: str | None = None,
) -> Rejection:
    """Returns the rejection of a producer's message or line, with its body as a string.

    It has a `name` that is the same each time.
    """
    return Rejection(
        Reason(error.reason),
        error.detail,
        _quoted(body),
        now,
        account=account or UNKNOWN_ACCOUNT,
        pointer=error.pointer,
        surface=surface,
        accepted=accepted,
        line=line,
        id=rejection_id(accepted, name),
    )


def for_dead_letter(body: str, detail: str, *, sent: datetime, now: datetime, name: str) -> Rejection:
    """Returns the rejection of a message that nobody could bring to an outcome, with its body as a string."""
    id = rejection_id(sent, name)
    return Rejection(Reason.DEAD_LETTER, detail, _quoted(body), now, accepted=sent, id=id)


def with_message(letter: Rejection, plain: bytes, stored: Message[Any] | PipelessMessage) -> Rejection:
    """Returns a dead letter with its message unpacked, and with the origin that the message states."""
    return msgspec.structs.replace(_with_origin(letter, stored), payload=msgspec.Raw(plain))


def rejection_id(accepted: datetime, name: str) -> str:
    """Returns the id of a rejection with a `name` that is the same each time it is made.

    So a rejection stored twice can be told from two. Ids are in the order of acceptance: they are 12
    hexadecimal digits of milliseconds since the epoch, and 20 of a digest.
    """
    milliseconds = max(0, int(accepted.timestamp() * 1_000))
    return f"{milliseconds:012x}{hashlib.blake2b(name.encode(), digest_size=10).hexdigest()}"


def encode(rejection: Rejection) -> Body:
    """Encodes a rejection as a message of RejectedQueue."""
    # An object never changes: a claim check names its content, and a repeated rejection has another.
    key = f"rejections/{rejection.rejected_at:%Y/%m/%d}/{rejection.id}-{runtime.unique_id()}.json.zst"
    return wrap(msgspec.json.encode(rejection), key)


def _with_origin(rejection: Rejection, stored: Origin) -> Rejection:
    return msgspec.structs.replace(
        rejection,
        account=stored.account,
        surface=stored.surface,
        source=stored.source,
        receipt=stored.receipt,
        accepted=stored.accepted,
        line=stored.line,
    )


def _quoted(body: str) -> msgspec.Raw:
    """Returns a body as a JSON string."""
    return msgspec.Raw(msgspec.json.encode(body))
