"""Implements the commands that look at rejections: `rejections groups`, `list`, `show` and `export`."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from sluice import runtime
from sluice.errors import Misconfigured
from sluice.operate import masking, reasons
from sluice.operate.command import Access, Arguments, Command, Context, Failed, Name, Result
from sluice.operate.ports import Records
from sluice.records import person
from sluice.records import record as records
from sluice.records.items import Group
from sluice.records.record import Record, State
from sluice.records.table import Filter
from sluice.rejection import Reason, Rejection
from sluice.validation.json_text import NOT_DECODED

MAX_LISTED: Final = 1_000
MAX_EXPORTED: Final = 500  # of one call; the next one goes on
MAX_EXPORTED_BYTES: Final = 16 * 2**20  # of payloads, which are held in memory
_THREADS: Final = 16

type RecordId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Selection(Arguments):
    """Says which records are meant; what is not given does not matter.

    `profile` is an identifier of a person, as the caller sent it. `since` and `until` are times of rejection.
    """

    account: Name | None = None
    group: Name | None = None
    reason: Reason | None = None
    metric: Name | None = None
    profile: Name | None = None
    source: Name | None = None
    receipt: Name | None = None
    state: State | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None

    def filter(self, hash_key: bytes) -> Filter:
        """Returns the filter that the records table takes."""
        given = {name: getattr(self, name) for name in Filter.__struct_fields__}
        if self.profile is not None:
            given["profile"] = person.hashed(self.profile, hash_key)
        # A record holds no more of a long name.
        given["metric"] = records.shown_name(self.metric)
        given["source"] = records.shown_name(self.source)
        return Filter(**given)


class GroupsArguments(Arguments):
    """Says of which account the groups are wanted, or of all; `settled` ones have nothing open."""

    account: Name | None = None
    settled: bool = False


class GroupShown(BaseModel):
    """Describes a group: `open` and `total` count events, `open_records` and `records` rejections."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    account: str
    reason: str
    code: str | None
    pointer: str | None
    detail: str
    open: int
    total: int
    open_records: int
    records: int
    first_seen: datetime
    last_seen: datetime
    metrics: tuple[str, ...]
    sources: tuple[str, ...]
    samples: tuple[str, ...]


class GroupsResult(Result):
    """Holds groups, those with the most open events first."""

    groups: list[GroupShown]


class ListArguments(Selection):
    """Says which records are wanted, how many, and after which one of an earlier page."""

    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 50
    next: RecordId | None = None


class RecordShown(BaseModel):
    """Describes a record, without anything of a person."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    group: str
    account: str
    state: str
    reason: str
    code: str | None
    detail: str
    place: str | None
    metric: str | None
    source: str | None
    surface: str | None
    receipt: str | None
    events: int
    accepted_at: datetime
    rejected_at: datetime
    changed_at: datetime | None
    who: str | None
    why: str | None
    job: str | None
    predecessor: str | None
    successor: str | None


class ListResult(Result):
    """Holds records, the last accepted ones first; `next` begins the next page, None at the end."""

    rejections: list[RecordShown]
    next: str | None


class ShowArguments(Arguments):
    """Names one record; `reveal` shows its payload unmasked, which is audited."""

    id: RecordId
    reveal: bool = False

    @property
    def reveals(self) -> bool:
        return self.reveal


class Step(BaseModel):
    """Describes one change of a record's state."""

    at: datetime
    state: str
    who: str | None = None
    why: str | None = None
    job: str | None = None


class RejectionShown(RecordShown):
    """Describes a record with what the archive holds of it.

    `pointer` leads into the caller's document, `place` into `payload`, which is None if it is gone. `masked`
    tells whether texts that could name a person are hidden.
    """

    words: str
    pointer: str | None
    line: str | None
    status: int | None
    payload: Any
    gone: bool
    masked: bool
    meaning: str
    advice: str
    history: list[Step]


class ShowResult(Result):
    """Holds one rejection."""

    rejection: RejectionShown

    def counts(self) -> dict[str, int]:
        return {"shown": 1}


class ExportArguments(Selection):
    """Says which records are wanted, as `ListArguments` does; `reveal` leaves payloads unmasked."""

    limit: Annotated[int, Field(ge=1, le=MAX_EXPORTED)] = MAX_EXPORTED
    next: RecordId | None = None
    reveal: bool = False

    @property
    def reveals(self) -> bool:
        return self.reveal


class ExportResult(Result):
    """Holds rejections with their payloads; `next` begins the next page, None at the end."""

    rejections: list[RejectionShown]
    next: str | None

    def counts(self) -> dict[str, int]:
        return {"exported": len(self.rejections)}


def _groups(arguments: GroupsArguments, context: Context) -> GroupsResult:
    table = context.ports.records
    found = table.groups(arguments.account) if arguments.account else all_groups(table)
    shown = [group for group in found if group.open or arguments.settled]
    shown.sort(key=lambda group: (-group.open, -group.last_seen.timestamp(), group.id))
    return GroupsResult(groups=[GroupShown.model_validate(group) for group in shown])


def all_groups(table: Records) -> list[Group]:
    """Returns the groups of all accounts."""
    found = runtime.map_concurrently(table.groups, table.accounts(), threads=_THREADS)
    return [group for groups in found for group in groups]


def _list(arguments: ListArguments, context: Context) -> ListResult:
    wanted = arguments.filter(context.ports.hash_key())
    page = context.ports.records.page(wanted, before=arguments.next, limit=arguments.limit)
    return ListResult(
        rejections=[RecordShown.model_validate(record) for record in page.records], next=page.next
    )


def find_record(record_id: str, context: Context) -> Record:
    """Returns a record, or raises `Failed` if there is none."""
    if not records.is_record_id(record_id):
        raise Failed("not_found", f"There is no record {record_id}.")
    record = context.ports.records.find(record_id)
    if record is None:
        raise Failed("not_found", f"There is no record {record_id}, or it has expired with its rejection.")
    return record


def _show(arguments: ShowArguments, context: Context) -> ShowResult:
    record = find_record(arguments.id, context)
    [shown] = _with_archive([record], context, reveal=arguments.reveal)
    return ShowResult(rejection=shown)


def _export(arguments: ExportArguments, context: Context) -> ExportResult:
    wanted = arguments.filter(context.ports.hash_key())
    page = context.ports.records.page(wanted, before=arguments.next, limit=arguments.limit)
    chosen, left = _that_fit(page.records)
    return ExportResult(
        rejections=_with_archive(chosen, context, reveal=arguments.reveal),
        next=chosen[-1].id if left else page.next,
    )


def _that_fit(found: list[Record]) -> tuple[list[Record], list[Record]]:
    """Separates the first records, at least one, whose payloads fit the memory from the rest."""
    size = 0
    for number, record in enumerate(found):
        size += record.location.length
        if number and size > MAX_EXPORTED_BYTES:
            return found[:number], found[number:]
    return found, []


def _with_archive(found: list[Record], context: Context, *, reveal: bool) -> list[RejectionShown]:
    """Returns records with what the archive holds of them."""
    lines = context.ports.archive.lines(records=found)
    return [_shown(record, lines.get(record.id), reveal=reveal) for record in found]


def _shown(record: Record, line: bytes | None, *, reveal: bool) -> RejectionShown:
    rejection = _rejection(line)
    payload = None if rejection is None else msgspec.json.decode(rejection.payload)
    return RejectionShown(
        **RecordShown.model_validate(record).model_dump(),
        words=rejection.detail if rejection and reveal else record.detail,
        pointer=rejection.pointer if rejection else None,
        line=rejection.line if rejection else None,
        status=rejection.status if rejection else None,
        payload=masking.bounded(payload) if reveal else masking.masked(payload),
        gone=rejection is None,
        masked=not reveal,
        meaning=reasons.MEANINGS[record.reason],
        advice=reasons.ADVICE[record.reason].replace(" ID", f" {record.id}"),
        history=list(_history(record)),
    )


def _history(record: Record) -> Iterable[Step]:
    yield Step(at=record.rejected_at, state=State.OPEN)
    if record.changed_at is not None:
        yield Step(at=record.changed_at, state=record.state, who=record.who, why=record.why, job=record.job)


def _rejection(line: bytes | None) -> Rejection | None:
    if line is None:
        return None
    try:
        return msgspec.json.decode(line, type=Rejection)
    except NOT_DECODED as error:
        raise Misconfigured("a line of the archive is damaged") from error


GROUPS: Final = Command("rejections groups", Access.READ, GroupsArguments, GroupsResult, _groups)
LIST: Final = Command("rejections list", Access.READ, ListArguments, ListResult, _list)
SHOW: Final = Command("rejections show", Access.READ, ShowArguments, ShowResult, _show)
EXPORT: Final = Command("rejections export", Access.READ, ExportArguments, ExportResult, _export)
