"""Puts the lines of an S3 object on a queue as requests, single events some together.

Its progress is kept in the state table. It is written only once the lines are on the queue, and their bad
ones on RejectedQueue, so reading may stop anywhere and be done again. Lines that are then put twice are
stamped alike, so they count once.
"""

import functools
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, Final

import msgspec

from sluice import rejection, runtime
from sluice.accounts import Accounts, Producer
from sluice.aws import clients, s3, sqs, state_table
from sluice.aws.sealing import Sealing
from sluice.contract import MAX_BODY_BYTES_IN
from sluice.errors import Retryable, Undeliverable
from sluice.klaviyo import problems
from sluice.message import Body as Stored
from sluice.message import Message, PipelessMessage, wrap
from sluice.producers import accept as producers
from sluice.producers import envelopes, line_reader
from sluice.producers.accept import NotABody
from sluice.producers.envelopes import Body, Object
from sluice.producers.line_reader import Line
from sluice.rejection import Reason, Rejection
from sluice.settings import DispatchSettings

IMPORT_PREFIX: Final = "imports/"  # of what operators import, in the claim bucket
MAX_OBJECT_BYTES: Final = 2**30  # unpacked: reading on in a gzipped object begins at its beginning
# Limits of a group, whose progress is then recorded: it must fit the memory and the time.
GROUP_LINES: Final = 1_000
GROUP_BYTES: Final = 8 * 2**20
PASSED_BYTES: Final = 32 * 2**20  # with blank lines, which are not put
LINES_TOGETHER: Final = 100  # single events in one message, about one billing unit of SQS
WRONG_LINES: Final = 100  # at the beginning: then it is an object of another kind
_REST: Final = "Nothing after that was read. The object still holds it."
MAX_BAD_LINES: Final = 10_000  # an object with more is no file of events


class Progress(msgspec.Struct, frozen=True):
    """Says when an object was written and how far it was read: to the byte `offset` as unpacked, where the
    line `line` begins.
    """

    written: datetime
    offset: int = 0
    line: int = 1
    bad: int = 0
    put: int = 0
    gzipped: bool = False
    done: bool = False


class Source(msgspec.Struct, frozen=True):
    """Describes one object and what its lines have in common. An operator wrote it if it `is_import`."""

    object: Object
    id: str
    accounts: Accounts
    is_import: bool
    account: str | None = None
    surface: str | None = None

    def receipt(self, line: int) -> str:
        """Returns the same receipt for the same line of the same writing of an object."""
        return _digest(self.id, line)

    @property
    def name(self) -> str:
        return f"s3://{self.object.bucket}/{self.object.key}"

    @property
    def producer(self) -> Producer | None:
        return None if self.is_import else Producer(object=self.name)


class _Filling(msgspec.Struct):
    """Holds a message that takes further lines, and the bytes of those it has."""

    message: Message[Any]
    size: int


class _Unreadable(msgspec.Struct, frozen=True):
    """Holds a line that is no body, and why."""

    number: int
    body: Body
    error: NotABody


class _Group(msgspec.Struct):
    """Holds the result of some lines: messages by account, those that are not full yet, and rejections."""

    good: dict[str, list[Stored]] = msgspec.field(default_factory=lambda: defaultdict(list))
    filling: dict[tuple[str, str, bool], _Filling] = {}
    bad: list[Rejection] = []
    unreadable: list[_Unreadable] = []
    told_together: int = 0  # lines without a rejection of their own
    begin: int = 0
    lines: int = 0
    put: int = 0
    size: int = 0

    @property
    def bad_lines(self) -> int:
        return len(self.bad) + len(self.unreadable)


def read(
    settings: DispatchSettings,
    each: Object,
    accounts: Accounts,
    counts: Counter[str],
    has_time: Callable[[], bool],
    *,
    queue_url: str,
) -> bool:
    """Puts an object's lines on a queue while there is time; returns True if all of them are there.

    It makes some progress in any case. `counts` is right even if it raises `Retryable`.
    """
    # Anybody who may send to the queue can name any object.
    is_import = each.bucket == settings.claim_bucket and each.key.startswith(IMPORT_PREFIX)
    if not is_import and each.bucket not in settings.import_buckets.split(","):
        raise Retryable(f"bucket {each.bucket} is not one of ImportBuckets")
    id = _id(each)
    progress = _begin(settings.state_table, id, each.written)
    if progress.done:
        return True
    each = msgspec.structs.replace(each, written=progress.written)
    source = Source(each, id, accounts, is_import)
    if not any(accounts.may_send(source.producer, account.id) for account in accounts.every()):
        accounts.check_not_empty()
        accounts.check_complete()
        detail = "No account takes objects from there: 'producers' of none names it. It was not read."
        unknown = _rejection(source, 1, Undeliverable(Reason.INVALID, detail))
        _put(settings, queue_url, _Group(bad=[unknown]), counts)
        return True
    try:
        metadata, pieces, gzipped = _open(each, progress)
    except s3.ObjectGone:
        gone = Undeliverable(Reason.INVALID, "The object is not there any more, or was written anew.")
        _put(settings, queue_url, _Group(bad=[_rejection(source, progress.line, gone)]), counts)
        return True
    progress = msgspec.structs.replace(progress, gzipped=gzipped)
    source = msgspec.structs.replace(source, account=metadata.get("account"), surface=metadata.get("surface"))
    for group, reached in _groups(source, pieces, progress):
        _put(settings, queue_url, group, counts)
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
    group = _Group(begin=progress.offset)
    end: tuple[Reason, str] | None = None
    first = progress
    left = line_reader.until(pieces, MAX_OBJECT_BYTES - progress.offset)
    try:
        for line in line_reader.split(left, progress.line, progress.offset):
            if line.end > MAX_OBJECT_BYTES:
                end = Reason.OVERSIZED, f"The object exceeds {MAX_OBJECT_BYTES} bytes: write it in parts."
                break
            if first.bad + group.bad_lines >= MAX_BAD_LINES:
                end = Reason.INVALID, f"{MAX_BAD_LINES} lines before this one are bad."
                break
            if _is_of_another_kind(first, group):
                _tell_unreadable(group, source, _REST)
                break
            _add(group, source, line)
            progress = msgspec.structs.replace(
                progress,
                offset=line.end,
                line=line.number + 1,
                bad=first.bad + group.bad_lines,
                put=first.put + group.put,
            )
            if _is_full(group, line):
                _tell_unreadable(group, source)
                yield group, progress
                group, first = _Group(begin=line.end), progress
    except line_reader.CorruptGzip as error:
        end = Reason.MALFORMED, f"The object cannot be unpacked: {error}."
    if end is not None:
        _tell_end(group, source, progress.line, *end)
    _tell_unreadable(group, source)
    yield group, msgspec.structs.replace(progress, done=True)


def _is_full(group: _Group, line: Line) -> bool:
    return group.lines >= GROUP_LINES or group.size >= GROUP_BYTES or line.end - group.begin >= PASSED_BYTES


def _is_of_another_kind(first: Progress, group: _Group) -> bool:
    """Tells whether an object begins with many lines that are no bodies, and nothing else."""
    unreadable = len(group.unreadable)
    return unreadable >= WRONG_LINES and unreadable == group.lines and not first.put and not first.bad


def _tell_end(group: _Group, source: Source, line: int, reason: Reason, detail: str) -> None:
    """Adds the rejection that says why the rest of an object is not read."""
    group.bad.append(_rejection(source, line, Undeliverable(reason, f"{detail} {_REST}")))


def _tell_unreadable(group: _Group, source: Source, more: str = "") -> None:
    """Adds one rejection for all lines of a group that are no bodies. It holds them, to be mended."""
    if not group.unreadable:
        return
    first, *others = group.unreadable
    error: Undeliverable = first.error
    body = first.body
    if others:
        lines = f"{len(group.unreadable)} lines are no bodies, the first at line {first.number}"
        error = Undeliverable(error.reason, f"{lines}: {error.detail} {more}".strip(), error.pointer)
        text = "\n".join(each.body.text for each in group.unreadable)
        body = Body(text, body.sent, body.account, body.surface)
    group.bad.append(_rejection(source, first.number, error, body))
    group.told_together += len(others)
    group.unreadable = []


def _add(group: _Group, source: Source, line: Line) -> None:
    if not line.content.strip():
        return
    group.lines += 1
    body = _body(source, line)
    group.size += len(body.text)
    try:
        opened = _opened(body, line)
        body = opened
        accepted = producers.accept(opened, source.receipt(line.number), source.accounts, source.producer)
    except NotABody as error:
        group.unreadable.append(_Unreadable(line.number, body, error))
        return
    except Undeliverable as error:
        group.bad.append(_rejection(source, line.number, error, body))
        return
    group.put += 1
    if isinstance(accepted, Message) and accepted.surface in problems.SINGLE:
        _fill(group, source, line, accepted)
    else:
        accepted.line = f"{source.name}:{line.number}"
        _store(group, accepted)


def _fill(group: _Group, source: Source, line: Line, accepted: Message[Any]) -> None:
    """Adds one event to a message of such events: so they are received together, and fill jobs."""
    accepted.line = source.name
    accepted.entries[0].events[0].entry_index = line.number
    size = len(line.content)
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
    stored = wrap(msgspec.json.encode(accepted), f"claims/lines/{runtime.unique_id()}.json.zst")
    group.good[accepted.account].append(stored)


def _body(source: Source, line: Line) -> Body:
    text = line.content.decode("utf-8", "replace")
    return Body(text, source.object.written, source.account, source.surface)


def _opened(body: Body, line: Line) -> Body:
    if line.is_too_long:
        begin = f"This is its beginning; it ends before byte {line.end} of the object."
        detail = f"A line must not exceed {line_reader.MAX_LINE_BYTES} bytes. {begin}"
        raise Undeliverable(Reason.OVERSIZED, detail)
    if body.text.encode() != line.content:
        raise NotABody(Reason.MALFORMED, "The line is not UTF-8. In this text U+FFFD stands for what is not.")
    opened = envelopes.unwrap(body)
    if not isinstance(opened, Body):
        raise Undeliverable(Reason.INVALID, "A line must be a body, not a notification of objects.")
    return opened


def _rejection(source: Source, line: int, error: Undeliverable, body: Body | None = None) -> Rejection:
    said = body or Body("", source.object.written, source.account, source.surface)
    return rejection.for_undeliverable_body(
        said.text,
        error,
        account=source.accounts.account_of(said.account, source.producer),
        surface=said.surface,
        now=runtime.now(),
        name=source.receipt(line),
        accepted=source.object.written,
        line=f"{source.name}:{line}",
    )


def _put(settings: DispatchSettings, queue_url: str, group: _Group, counts: Counter[str]) -> None:
    for filling in group.filling.values():
        _store(group, filling.message)
    send = functools.partial(
        sqs.send_messages, claim_bucket=settings.claim_bucket, sealing=Sealing(settings.sealing_secret)
    )
    unsent = len(send(settings.rejected_queue_url, [rejection.encode(each) for each in group.bad]))
    for account, bodies in group.good.items():
        unsent += len(send(queue_url, bodies, group=account))
    if unsent:
        raise Retryable(f"{unsent} messages of lines could not be sent to their queues")
    counts["RejectedEvents"] += len(group.bad) + group.told_together
    counts["S3LinesQueued"] += group.put


def _id(each: Object) -> str:
    """Returns the same id for each notification of the same writing, also if they state different times."""
    is_told_apart = each.version or each.sequencer
    written = None if is_told_apart else each.written
    return _digest(each.bucket, each.key, written, each.version, each.etag, each.sequencer)


def _begin(table: str, id: str, written: datetime) -> Progress:
    """Returns how far an object was read. The first notification of it decides when it was written."""
    update: Any = {
        "Key": state_table.IMPORT.key(id),
        "UpdateExpression": "SET written = if_not_exists(written, :written), expires_at = :expiry",
        "ExpressionAttributeValues": {
            ":written": {"S": written.isoformat()},
            ":expiry": state_table.IMPORT.expiry(runtime.time()),
        },
        "ReturnValues": "ALL_NEW",
    }
    with clients.translating_errors("the state table cannot be written"):
        item: Any = clients.dynamodb().update_item(TableName=table, **update)["Attributes"]
    offset, line, bad, put = (
        int(item.get(name, {}).get("N", least))
        for name, least in (("offset", 0), ("line", 1), ("bad", 0), ("put", 0))
    )
    gzipped, done = (item.get(name, {}).get("BOOL", False) for name in ("gzipped", "done"))
    return Progress(datetime.fromisoformat(item["written"]["S"]), offset, line, bad, put, gzipped, done)


def _note(table: str, id: str, progress: Progress) -> None:
    item: Any = {
        **state_table.IMPORT.key(id),
        "offset": {"N": str(progress.offset)},
        "line": {"N": str(progress.line)},
        "bad": {"N": str(progress.bad)},
        "put": {"N": str(progress.put)},
        "written": {"S": progress.written.isoformat()},
        "gzipped": {"BOOL": progress.gzipped},
        "done": {"BOOL": progress.done},
        "expires_at": state_table.IMPORT.expiry(runtime.time()),
    }
    with clients.translating_errors("the state table cannot be written"):
        clients.dynamodb().put_item(TableName=table, Item=item)


def _digest(*parts: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()
