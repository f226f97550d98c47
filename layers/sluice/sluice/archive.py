"""Archives rejections and dead letters as JSON lines in S3, by account and day.

Archiving is at least once: a line's `id` is stable, so a repeated line can be recognised.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

import msgspec

from sluice import message, positions, receipts, runtime
from sluice.accounts import is_account_id
from sluice.errors import Retryable, Undeliverable, place_of
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection, for_dead_letter, with_message
from sluice.telemetry import Log
from sluice.validation.json_text import NOT_DECODED

GROUP_BYTES: Final = 32 * 2**20  # of rejections held at the same time: unpacked they may be large
CLAIM_RECEIVES: Final = 20  # tries to read a message's claim check before it is archived without it


class QueuedMessage(msgspec.Struct, frozen=True):
    """Holds a message of RejectedQueue or of a dead-letter queue."""

    id: str
    body: str
    sent: datetime
    receives: int


class Ports(Protocol):
    """Reaches AWS for archiving. All methods may raise `Retryable`."""

    def fetch_claim(self, key: str) -> bytes:
        """Returns the bytes of a claim check."""
        ...

    def put(self, *, objects: Mapping[str, bytes]) -> None:
        """Writes objects of the archive by their keys."""
        ...

    def record_rejected(self, *, receipt: str, positions: Sequence[int]) -> None:
        """Adds rejected events to a receipt."""
        ...


class ArchivedBatch(msgspec.Struct):
    """Holds the ids of the messages that stay on their queue, and the counts of everything."""

    kept: set[str]
    counts: Counter[str]


def archive_batch(
    messages: Sequence[QueuedMessage], ports: Ports, log: Log, has_time: Callable[[], bool]
) -> ArchivedBatch:
    """Archives a batch of RejectedQueue or of a dead-letter queue; no message costs another.

    Messages are read while there is time, in groups that fit the memory.
    """
    result = ArchivedBatch({each.id for each in messages}, Counter(ArchivedRejections=0, DeadLetters=0))
    for group in _groups(messages, ports, log, has_time, result.counts):
        try:
            ports.put(objects=objects(group.values()))
        except Retryable as error:
            # Objects that are written already get the same key again, or are known by their lines' ids.
            log.error("archive not written", cause=str(error))
            continue
        result.kept -= group.keys()
        result.counts["ArchivedRejections"] += len(group)
        for rejection in group.values():
            log.info(
                "archived",
                id=rejection.id,
                reason=rejection.reason,
                account=rejection.account,
                receipt=rejection.receipt,
                code=rejection.code,
            )
            if rejection.reason is Reason.DEAD_LETTER:
                result.counts["DeadLetters"] += 1
                _record(rejection, ports, log, result.counts)
    return result


def _groups(
    messages: Sequence[QueuedMessage],
    ports: Ports,
    log: Log,
    has_time: Callable[[], bool],
    counts: Counter[str],
) -> Iterator[dict[str, Rejection]]:
    """Yields the rejections that can be read in time, by message id, in groups that fit the memory."""
    now = runtime.now()
    group: dict[str, Rejection] = {}
    size = 0
    for each in messages:
        if not has_time():
            break
        try:
            rejection = read(each, ports.fetch_claim, now)
            _line(rejection)
        except Retryable as error:
            log.warning("claim not read", cause=str(error))
            continue
        except Exception as error:
            log.error("message not understood", error=type(error).__name__, at=place_of(error))
            counts["UnforeseenFailures"] += 1
            rejection = _as_it_is(each, error, now)
        group[each.id] = rejection
        size += len(rejection.payload)
        if size >= GROUP_BYTES:
            yield group
            group, size = {}, 0
    if group:
        yield group


def _as_it_is(unread: QueuedMessage, error: Exception, now: datetime) -> Rejection:
    """Returns a message that cannot be understood as a rejection that holds its body as text."""
    detail = f"Reading it failed unexpectedly ({type(error).__name__} at {place_of(error)})."
    return for_dead_letter(unread.body, detail, sent=unread.sent, now=now, id=unread.id)


def _record(rejection: Rejection, ports: Ports, log: Log, counts: Counter[str]) -> None:
    if (found := undelivered_positions(rejection)) is None:
        return
    receipt, rejected = found
    try:
        ports.record_rejected(receipt=receipt, positions=rejected)
    except Retryable as error:
        counts["ReceiptWriteFailures"] += 1
        log.warning("receipt not recorded", receipt=receipt, cause=str(error))


def read(letter: QueuedMessage, fetch_claim: Callable[[str], bytes], now: datetime) -> Rejection:
    """Reads a message: it is a rejection, or a message that nobody could bring to an outcome."""
    plain = _unwrapped(letter, letter.body, fetch_claim)
    try:
        rejection = msgspec.json.decode(plain, type=Rejection)
    except NOT_DECODED:
        detail = f"Received {letter.receives} times without an outcome."
        rejection = for_dead_letter(letter.body, detail, sent=letter.sent, now=now, id=letter.id)
        return _with_origin(rejection, plain)
    if rejection.reason is Reason.DEAD_LETTER:
        # Its payload is a queue message's body as it was received, not yet read.
        return _with_origin(
            rejection, _unwrapped(letter, msgspec.json.decode(rejection.payload), fetch_claim)
        )
    return rejection


def undelivered_positions(rejection: Rejection) -> tuple[str, list[int]] | None:
    """Returns the receipt and the positions of a dead letter's events, if its request has a receipt."""
    if rejection.reason is not Reason.DEAD_LETTER or rejection.surface not in receipts.SURFACES:
        return None
    try:
        stored = msgspec.json.decode(rejection.payload, type=message.Message[msgspec.Raw])
    except msgspec.MsgspecError:
        return None
    return receipts.scoped(stored.account, stored.receipt), positions.positions(stored)


def objects(rejections: Iterable[Rejection]) -> Mapping[str, bytes]:
    """Returns S3 objects by key: one for each account and day, a line for each rejection."""
    grouped: dict[str, list[Rejection]] = defaultdict(list)
    for rejection in rejections:
        # A producer may have named any text as the account, and not every text can be part of a key.
        account = rejection.account if is_account_id(rejection.account) else UNKNOWN_ACCOUNT
        grouped[f"account={account}/day={rejection.rejected_at:%Y-%m-%d}"].append(rejection)
    return {
        f"rejections/{partition}/{_name(group)}.jsonl": b"".join(map(_line, group))
        for partition, group in grouped.items()
    }


def _unwrapped(letter: QueuedMessage, body: str, fetch_claim: Callable[[str], bytes]) -> bytes:
    try:
        return message.unwrap(body, fetch_claim)
    except Undeliverable:
        return b""
    except Retryable:
        # A missing claim check looks like one that cannot be read, so the message is archived without it.
        if letter.receives < CLAIM_RECEIVES:
            raise
        return b""


def _with_origin(rejection: Rejection, plain: bytes) -> Rejection:
    """Returns a dead letter with the origin that its message states, unpacked, if the message can be read."""
    try:
        stored = msgspec.json.decode(plain, type=message.Message[msgspec.Raw] | message.PipelessMessage)
    except NOT_DECODED:
        return rejection
    return with_message(rejection, plain, stored)


def _line(rejection: Rejection) -> bytes:
    # A payload written by hand may have line ends, which JSON has between its tokens only.
    return msgspec.json.encode(rejection).replace(b"\n", b" ") + b"\n"


def _name(group: Iterable[Rejection]) -> str:
    """Returns the same name for the same rejections, so that archiving them again makes no second object."""
    ids = "\n".join(sorted(rejection.id for rejection in group))
    return hashlib.sha256(ids.encode()).hexdigest()[:32]
