"""Describes one refused event or message, with everything needed to understand it, mend it and send it
again.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from sluice import runtime
from sluice.message import Body, wrap

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
    DEAD_LETTER = "dead_letter"  # received too often without an outcome, or it outlived the queue


class Rejection(msgspec.Struct, omit_defaults=True):
    """Holds what was refused, and the reason in the words of the one who refused it.

    `pointer` leads into the caller's own document. `line` names that document if it was a line of an S3
    object (s3://bucket/key:number), and `source` is the webhook source that it came by. `payload` is the
    profile and events as they were going upstream, or the body as a string if it could not be read.
    `replays` is the id of the record that was replayed, whose pointer it keeps: this one has none of its own.
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
    replays: str | None = None
    id: str = msgspec.field(default_factory=runtime.unique_id)


class UpstreamPayload(msgspec.Struct):
    """Holds a rejection's payload: one profile and its refused events, in the upstream's shape."""

    profile: msgspec.Raw
    events: list[msgspec.Raw]
    backfill: bool


def rejection_id(receipt: str, places: Iterable[int]) -> str:
    """Returns the same id for the same events, so that a rejection stored twice can be told from two."""
    return hashlib.blake2b(f"{receipt} {sorted(places)}".encode(), digest_size=16).hexdigest()


def encode(rejection: Rejection) -> Body:
    """Encodes a rejection as a message of RejectedQueue."""
    key = f"rejections/{rejection.rejected_at:%Y/%m/%d}/{rejection.id}.json.zst"
    return wrap(msgspec.json.encode(rejection), key)
