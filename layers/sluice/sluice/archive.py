"""Archives rejections and dead letters as JSON lines in S3, by account and day, and keeps a record of each.

Archiving is at least once: a line's `id` is stable, so a repeated line can be recognised, and has one record.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Final, Protocol

import msgspec

from sluice import message, positions, receipts, runtime
from sluice.errors import Retryable, Undeliverable, place_of
from sluice.records import person
from sluice.records.cause import Cause
from sluice.records.record import Location, Record, archive_key, is_record_id, known_account, record_of
from sluice.rejection import Reason, Rejection, for_dead_letter, rejection_id, with_message
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
    seal: str | None = None


class Ports(Protocol):
    """Reaches AWS for archiving. All methods may raise `Retryable`."""

    def is_own_message(self, *, body: str, seal: str | None, sent: datetime) -> bool:
        """Tells whether Sluice itself sent a message."""
        ...

    def fetch_claim(self, key: str) -> bytes:
        """Returns the bytes of a claim check."""
        ...

    def put(self, *, objects: Mapping[str, bytes]) -> None:
        """Writes objects of the archive by their keys."""
        ...

    def hash_key(self) -> bytes:
        """Returns the key of the hashes under which records hold what identifies a person."""
        ...

    def erased(self) -> Mapping[str, datetime]:
        """Returns the hashes of the people who were erased, and when."""
        ...

    def add_records(self, *, new: Sequence[tuple[Record, Cause]]) -> Sequence[Record]:
        """Writes the records that are not there yet, and returns them."""
        ...

    def reopen(self, *, record_ids: Collection[str], job: str) -> None:
        """Opens records again that a job has replayed in vain."""
        ...

    def record_rejected(self, *, receipt: str, positions: Sequence[int]) -> None:
        """Adds rejected events to a receipt."""
        ...


class ArchiveObjects(msgspec.Struct, frozen=True):
    """Holds objects of the archive by key, and where each rejection's line is, by id."""

    objects: dict[str, bytes]
    locations: dict[str, Location]


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
    for read in _groups(messages, ports, log, has_time, result.counts):
        try:
            group = _without_erased(read, ports, log, result.counts)
            written = lay_out(group.values())
            ports.put(objects=written.objects)
            replays = {each.id: found for each in group.values() if (found := replayed(each))}
            new = [each for each in group.values() if each.id not in replays]
            made = list(_records(new, written, ports, log, result.counts))
            added = ports.add_records(new=made)
            for job, record_ids in replays.values():
                ports.reopen(record_ids=record_ids, job=job)
        except Retryable as error:
            # Objects that are written already get the same key again, or are known by their lines' ids.
            log.error("archive not written", cause=str(error))
            continue
        result.kept -= read.keys()
        result.counts["ArchivedRejections"] += len(group)
        if len(group) < len(read):
            result.counts["ErasedRejections"] += len(read) - len(group)
        for record in added:
            result.counts["AnonymousRejectedEvents" if record.is_anonymous else "RejectedEvents"] += (
                record.events
            )
        for message_id, rejection in read.items():
            log.info(
                "archived" if message_id in group else "erased",
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


def _without_erased(
    read: Mapping[str, Rejection], ports: Ports, log: Log, counts: Counter[str]
) -> dict[str, Rejection]:
    """Returns rejections without what is of people who were erased after it was accepted."""
    erased = ports.erased()
    if not erased:
        return dict(read)
    key = ports.hash_key()
    left: dict[str, Rejection] = {}
    for message_id, rejection in read.items():
        accepted = rejection.accepted or rejection.rejected_at

        def is_erased(identifier: str, accepted: datetime = accepted) -> bool:
            at = erased.get(person.hashed(identifier, key))
            return at is not None and accepted <= at

        try:
            line = person.without(msgspec.json.encode(rejection), is_erased)
            if line is not None:
                left[message_id] = msgspec.json.decode(line, type=Rejection)
        except Exception as error:
            log.error("erasure not done", id=rejection.id, error=type(error).__name__, at=place_of(error))
            counts["UnforeseenFailures"] += 1
            left[message_id] = rejection
    return left


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
            rejection = _identified(_read(each, ports, now))
            _line(rejection)
        except Retryable as error:
            log.warning("message not read", cause=str(error))
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


def _read(letter: QueuedMessage, ports: Ports, now: datetime) -> Rejection:
    """Reads a message. If Sluice did not send it, it is a producer's body, and is believed in nothing."""
    if ports.is_own_message(body=letter.body, seal=letter.seal, sent=letter.sent):
        return read(letter, ports.fetch_claim, now)
    return for_dead_letter(letter.body, _untried(letter), sent=letter.sent, now=now, name=letter.id)


def _untried(letter: QueuedMessage) -> str:
    return f"Received {letter.receives} times without an outcome."


def _as_it_is(unread: QueuedMessage, error: Exception, now: datetime) -> Rejection:
    """Returns a message that cannot be understood as a rejection that holds its body as text."""
    detail = f"Reading it failed unexpectedly ({type(error).__name__} at {place_of(error)})."
    return for_dead_letter(unread.body, detail, sent=unread.sent, now=now, name=unread.id)


def _identified(rejection: Rejection) -> Rejection:
    """Returns a rejection whose id has the form of one, whatever a message said."""
    if not is_record_id(rejection.id):
        accepted = rejection.accepted or rejection.rejected_at
        rejection.id = rejection_id(accepted, rejection.id)
    return rejection


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
    """Reads a message of Sluice's: a rejection, or a message that nobody could bring to an outcome."""
    plain = _unwrapped(letter, letter.body, fetch_claim)
    try:
        rejection = msgspec.json.decode(plain, type=Rejection)
    except NOT_DECODED:
        rejection = for_dead_letter(letter.body, _untried(letter), sent=letter.sent, now=now, name=letter.id)
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


def replayed(rejection: Rejection) -> tuple[str, list[str]] | None:
    """Returns the job and the records of a dead letter that was a replay.

    It has no record of its own. Those that it replayed are open again.
    """
    job = receipts.job_of(rejection.receipt or "")
    if rejection.reason is not Reason.DEAD_LETTER or job is None:
        return None
    try:
        stored = msgspec.json.decode(
            rejection.payload, type=message.Message[msgspec.Raw] | message.PipelessMessage
        )
    except msgspec.MsgspecError:
        return None
    return (job, stored.replayed) if stored.replayed else None


def lay_out(rejections: Iterable[Rejection]) -> ArchiveObjects:
    """Returns the objects of rejections: one for each account and day, with a line for each rejection."""
    grouped: dict[tuple[str, date], list[Rejection]] = defaultdict(list)
    for rejection in rejections:
        grouped[known_account(rejection.account), rejection.rejected_at.date()].append(rejection)
    objects: dict[str, bytes] = {}
    locations: dict[str, Location] = {}
    for (account, _), group in grouped.items():
        lines = sorted((rejection.id, _line(rejection)) for rejection in group)
        # Named by its content, so that an object never changes, and archiving it again makes no second one.
        content = b"".join(line for _, line in lines)
        name = hashlib.sha256(content).hexdigest()[:32]
        objects[archive_key(account, group[0].rejected_at, name)] = content
        offset = 0
        for id, line in lines:
            locations[id] = Location(name, offset, len(line))
            offset += len(line)
    return ArchiveObjects(objects, locations)


def _records(
    rejections: Iterable[Rejection], written: ArchiveObjects, ports: Ports, log: Log, counts: Counter[str]
) -> Iterator[tuple[Record, Cause]]:
    """Yields the records of archived rejections; one that cannot be made costs no other."""
    key = ports.hash_key()
    for rejection in rejections:
        try:
            yield record_of(rejection, written.locations[rejection.id], key)
        except Exception as error:
            log.error("record not made", id=rejection.id, error=type(error).__name__, at=place_of(error))
            counts["UnforeseenFailures"] += 1


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
