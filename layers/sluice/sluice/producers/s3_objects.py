"""Puts the lines of an S3 object on the events queue as requests, single events some together.

Its progress is kept in the state table. It is written only once the lines are on the queue, and their bad
ones on RejectedQueue, so reading may stop anywhere and be done again. Lines that are then put twice are
stamped alike, so they count once.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

import msgspec

from sluice import rejection, runtime
from sluice.accounts import Accounts, is_account_id
from sluice.aws import clients, s3, sqs, state_table
from sluice.contract import MAX_BODY_BYTES_IN
from sluice.errors import Retryable, Undeliverable
from sluice.klaviyo import problems
from sluice.message import Body as Stored
from sluice.message import Message, PipelessMessage, wrap
from sluice.producers import accept as producers
from sluice.producers import envelopes, line_reader
from sluice.producers.envelopes import Body, Object
from sluice.producers.line_reader import Line
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection
from sluice.settings import DispatchSettings

MAX_OBJECT_BYTES: Final = 2**30  # unpacked: reading on in a gzipped object begins at its beginning
# Limits of a group, whose progress is then recorded: it must fit the memory and the time.
GROUP_LINES: Final = 1_000
GROUP_BYTES: Final = 8 * 2**20
LINES_TOGETHER: Final = 100  # single events in one message, about one billing unit of SQS
MAX_BAD_LINES: Final = 10_000  # an object with more is no file of events


class Progress(msgspec.Struct, frozen=True):
    """Says how far an object was read: up to the byte `offset` as unpacked, where the line `line` begins."""

    offset: int = 0
    line: int = 1
    bad: int = 0
    gzipped: bool = False
    done: bool = False


class Source(msgspec.Struct, frozen=True):
    """Describes one object and what its lines have in common."""

    object: Object
    id: str
    accounts: Accounts
    account: str | None = None
    surface: str | None = None

    def receipt(self, line: int) -> str:
        """Returns the same receipt for the same line of the same writing of an object."""
        return _digest(self.id, line)

    @property
    def name(self) -> str:
        return f"s3://{self.object.bucket}/{self.object.key}"


class _Filling(msgspec.Struct):
    """Holds a message that takes further lines, and the bytes of those it has."""

    message: Message[Any]
    size: int


class _Group(msgspec.Struct):
    """Holds the result of some lines: messages by account, those that are not full yet, and rejections."""

    good: dict[str, list[Stored]] = msgspec.field(default_factory=lambda: defaultdict(list))
    filling: dict[tuple[str, str, bool], _Filling] = {}
    bad: list[Rejection] = []
    lines: int = 0
    put: int = 0
    size: int = 0


def read(
    settings: DispatchSettings,
    each: Object,
    accounts: Accounts,
    counts: Counter[str],
    has_time: Callable[[], bool],
) -> bool:
    """Puts an object's lines on the queue while there is time; returns True if all of them are there.

    It makes some progress in any case. `counts` is right even if it raises `Retryable`.
    """
    if each.bucket not in settings.import_buckets.split(","):
        raise Retryable(f"bucket {each.bucket} is not one of ImportBuckets")
    source = Source(each, _digest(*msgspec.structs.astuple(each)), accounts)
    progress = _progress(settings.state_table, source.id)
    if progress.done:
        return True
    try:
        metadata, pieces, gzipped = _open(each, progress)
    except s3.ObjectGone:
        gone = Undeliverable(Reason.INVALID, "The object is not there any more, or was written anew.")
        _put(settings, _Group(bad=[_rejection(source, progress.line, gone)]), counts)
        return True
    progress = msgspec.structs.replace(progress, gzipped=gzipped)
    source = msgspec.structs.replace(source, account=metadata.get("account"), surface=metadata.get("surface"))
    for group, reached in _groups(source, pieces, progress):
        _put(settings, group, counts)
        _note(settings.state_table, source.id, reached)
        if not reached.done and not has_time():
            return False
    counts["S3ObjectsRead"] += 1
    return True


def _open(each: Object, progress: Progress) -> tuple[Mapping[str, str], Iterator[bytes], bool]:
    """Opens an object: what its writer says of it, its bytes from the progress on, whether it is gzipped."""
    start = 0 if progress.gzipped else progress.offset
    opened = s3.open_object(
        each.bucket,
        each.key,
        version=each.version,
        etag=each.etag,
        start=start,
        piece_bytes=line_reader.PIECE_BYTES,
    )
    first = next(opened.pieces, b"")
    pieces = chain([first], opened.pieces)
    if start == 0 and first.startswith(line_reader.GZIP):
        return opened.metadata, line_reader.without(line_reader.unpacked(pieces), progress.offset), True
    return opened.metadata, pieces, False


def _groups(source: Source, pieces: Iterator[bytes], progress: Progress) -> Iterator[tuple[_Group, Progress]]:
    """Yields the results of an object's lines in groups, each with the progress once the group is put."""
    group = _Group()
    end: tuple[Reason, str] | None = None
    bad = progress.bad
    left = line_reader.until(pieces, MAX_OBJECT_BYTES - progress.offset)
    try:
        for line in line_reader.split(left, progress.line, progress.offset):
            if line.end > MAX_OBJECT_BYTES:
                end = Reason.OVERSIZED, f"The object exceeds {MAX_OBJECT_BYTES} bytes: write it in parts."
                break
            if bad + len(group.bad) >= MAX_BAD_LINES:
                end = Reason.INVALID, f"{MAX_BAD_LINES} lines before this one are bad."
                break
            _add(group, source, line)
            progress = Progress(line.end, line.number + 1, bad + len(group.bad), progress.gzipped)
            if group.lines >= GROUP_LINES or group.size >= GROUP_BYTES:
                yield group, progress
                group, bad = _Group(), progress.bad
    except line_reader.CorruptGzip:
        end = Reason.MALFORMED, "The object is damaged: it cannot be unpacked."
    if end is not None:
        reason, detail = end
        more = f"{detail} Nothing from this line on was read."
        group.bad.append(_rejection(source, progress.line, Undeliverable(reason, more)))
    yield group, msgspec.structs.replace(progress, done=True)


def _add(group: _Group, source: Source, line: Line) -> None:
    group.lines += 1
    if line.content is not None and not line.content.strip():
        return
    body = _body(source, line)
    try:
        opened = _opened(body, line)
        body = opened
        accepted = producers.accept(opened, source.receipt(line.number), source.accounts)
    except Undeliverable as error:
        group.bad.append(_rejection(source, line.number, error, body))
        group.size += len(body.text)
        return
    group.put += 1
    group.size += len(body.text)
    if isinstance(accepted, Message) and accepted.surface in problems.SINGLE:
        _fill(group, source, line, accepted)
    else:
        accepted.line = f"{source.name}:{line.number}"
        _store(group, accepted)


def _fill(group: _Group, source: Source, line: Line, accepted: Message[Any]) -> None:
    """Adds one event to a message of such events: so they are received together, and fill jobs."""
    accepted.line = source.name
    accepted.entries[0].events[0].entry_index = line.number
    size = len(line.content or b"")
    kind = accepted.account, accepted.surface, accepted.flat
    filling = group.filling.get(kind)
    if filling and len(filling.message.entries) < LINES_TOGETHER and filling.size + size <= MAX_BODY_BYTES_IN:
        filling.message.entries += accepted.entries
        filling.size += size
        return
    if filling:
        _store(group, filling.message)
    group.filling[kind] = _Filling(accepted, size)


def _store(group: _Group, accepted: Message[Any] | PipelessMessage) -> None:
    stored = wrap(msgspec.json.encode(accepted), f"claims/lines/{accepted.receipt}.json.zst")
    group.good[accepted.account].append(stored)


def _body(source: Source, line: Line) -> Body:
    text = (line.content or b"").decode("utf-8", "replace")
    return Body(text, source.object.written, source.account, source.surface)


def _opened(body: Body, line: Line) -> Body:
    if line.content is None:
        detail = f"A line must not exceed {line_reader.MAX_LINE_BYTES} bytes."
        raise Undeliverable(Reason.OVERSIZED, detail)
    if body.text.encode() != line.content:
        raise Undeliverable(Reason.MALFORMED, "The line is not UTF-8.")
    opened = envelopes.unwrap(body)
    if not isinstance(opened, Body):
        raise Undeliverable(Reason.INVALID, "A line must be a body, not a notification of objects.")
    return opened


def _rejection(source: Source, line: int, error: Undeliverable, body: Body | None = None) -> Rejection:
    said = body or Body("", source.object.written, source.account, source.surface)
    only = source.accounts.single_account()
    known = only.site_id if only else UNKNOWN_ACCOUNT
    return Rejection(
        Reason(error.reason),
        error.detail,
        msgspec.Raw(msgspec.json.encode(said.text)),
        runtime.now(),
        account=said.account if said.account and is_account_id(said.account) else known,
        pointer=error.pointer,
        surface=said.surface,
        accepted=source.object.written,
        line=f"{source.name}:{line}",
        id=source.receipt(line),
    )


def _put(settings: DispatchSettings, group: _Group, counts: Counter[str]) -> None:
    for filling in group.filling.values():
        _store(group, filling.message)
    bucket = settings.claim_bucket
    unsent = len(
        sqs.send_messages(
            settings.rejected_queue_url, [rejection.encode(each) for each in group.bad], claim_bucket=bucket
        )
    )
    for account, bodies in group.good.items():
        unsent += len(
            sqs.send_messages(settings.events_queue_url, bodies, claim_bucket=bucket, group=account)
        )
    if unsent:
        raise Retryable(f"{unsent} messages of lines could not be sent to their queues")
    counts["RejectedEvents"] += len(group.bad)
    counts["S3LinesQueued"] += group.put


def _progress(table: str, id: str) -> Progress:
    with clients.translating_errors("the state table cannot be read"):
        answer = clients.dynamodb().get_item(
            TableName=table, Key=state_table.IMPORT.key(id), ConsistentRead=True
        )
    item = answer.get("Item")
    if item is None:
        return Progress()
    offset, line, bad = (int(item[name]["N"]) for name in ("offset", "line", "bad"))
    return Progress(offset, line, bad, item["gzipped"]["BOOL"], item["done"]["BOOL"])


def _note(table: str, id: str, progress: Progress) -> None:
    item: Any = {
        **state_table.IMPORT.key(id),
        "offset": {"N": str(progress.offset)},
        "line": {"N": str(progress.line)},
        "bad": {"N": str(progress.bad)},
        "gzipped": {"BOOL": progress.gzipped},
        "done": {"BOOL": progress.done},
        "expires_at": state_table.IMPORT.expiry(runtime.time()),
    }
    with clients.translating_errors("the state table cannot be written"):
        clients.dynamodb().put_item(TableName=table, Item=item)


def _digest(*parts: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()
