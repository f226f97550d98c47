"""Rejections and dead letters as JSON lines in S3, by account and day.

Archiving is at least once: a line's `id` is stable, so a repeated one can be told.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import msgspec

from sluice import message
from sluice.errors import Undeliverable
from sluice.rejection import Reason, Rejection


class Letter(msgspec.Struct, frozen=True):
    """A message of RejectedQueue or of a dead-letter queue."""

    id: str
    body: str
    sent: datetime
    receives: int


def read(letter: Letter, fetch_claim: Callable[[str], bytes], now: datetime) -> Rejection:
    """What a letter is: a rejection, or a message nobody could bring to an outcome."""
    try:
        plain = message.unwrap(letter.body, fetch_claim)
    except Undeliverable:
        plain = b""
    try:
        return msgspec.json.decode(plain, type=Rejection)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _dead_letter(letter, plain, now)


def objects(rejections: Iterable[Rejection]) -> Mapping[str, bytes]:
    """S3 objects by key: one for each account and day, a line for each rejection."""
    grouped: dict[str, list[Rejection]] = defaultdict(list)
    for rejection in rejections:
        grouped[f"account={rejection.account}/day={rejection.rejected_at:%Y-%m-%d}"].append(rejection)
    encoder = msgspec.json.Encoder()
    return {
        f"rejections/{partition}/{_name(group)}.jsonl": encoder.encode_lines(group)
        for partition, group in grouped.items()
    }


def _dead_letter(letter: Letter, plain: bytes, now: datetime) -> Rejection:
    detail = f"Received {letter.receives} times without an outcome."
    body = msgspec.Raw(msgspec.json.encode(letter.body))
    rejection = Rejection(Reason.DEAD_LETTER, detail, body, now, accepted=letter.sent, id=letter.id)
    try:
        stored = msgspec.json.decode(plain, type=message.Message[msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return rejection
    return msgspec.structs.replace(
        rejection,
        payload=msgspec.Raw(plain),
        account=stored.account,
        surface=stored.surface,
        receipt=stored.receipt,
        accepted=stored.accepted,
    )


def _name(group: Iterable[Rejection]) -> str:
    """The same for the same rejections, so that archiving them again makes no second object."""
    ids = "\n".join(sorted(rejection.id for rejection in group))
    return hashlib.sha256(ids.encode()).hexdigest()[:32]
