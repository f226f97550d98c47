"""Finds the records that an operator means: by their ids, or by what they have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from sluice.operate.command import Name
from sluice.operate.mend import Mend
from sluice.operate.ports import Records
from sluice.records.record import Record, State, is_record_id
from sluice.records.table import Filter

MAX_IDS: Final = 1_000


class Chosen(BaseModel):
    """Says which records are meant: those with these ids, or those for which all that is given is true.

    `profile` is the keyed hash of an identifier.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: Annotated[list[Name], Field(max_length=MAX_IDS)] = []
    account: Name | None = None
    group: Name | None = None
    reason: Name | None = None
    metric: Name | None = None
    profile: Name | None = None
    source: Name | None = None
    receipt: Name | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        """Refuses a selection of everything, which nobody means, and ids beside anything else."""
        given = self.model_dump(exclude_defaults=True).keys()
        if not given:
            raise ValueError("say which records are meant: ids, or at least one filter")
        if "ids" in given and len(given) > 1:
            raise ValueError("ids say already which records are meant: give no filter beside them")
        return self

    def filter(self, state: State, not_after: datetime) -> Filter:
        """Returns the filter for records in a state that were rejected by a given time."""
        given = self.model_dump(exclude={"ids", "since", "until"})
        until = min(not_after, self.until) if self.until else not_after
        return Filter(**given, state=state, since=self.since, until=until)


class ReplayWish(BaseModel):
    """Holds what a replay is asked for: which records, how they are mended, and whether flows may start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chosen: Chosen
    mend: Mend = Mend()
    trigger_flows: bool = False


@dataclass(frozen=True)
class Selected:
    """Holds one record that is meant, or why it is left alone; `cursor` is where the next one begins."""

    record: Record | None
    cursor: str | None
    why: str = ""


@dataclass(frozen=True)
class SelectedPage:
    """Holds some of the records that are meant; `cursor` is where the next page begins, None at the end."""

    selected: list[Selected]
    cursor: str | None


def next_page(
    chosen: Chosen,
    state: State,
    not_after: datetime,
    cursor: str | None,
    records: Records,
    *,
    limit: int,
) -> SelectedPage:
    """Returns the next records in a state, rejected by a given time, after those before the `cursor`."""
    if chosen.ids:
        return _named(chosen.ids, state, cursor, records, limit)
    page = records.page(chosen.filter(state, not_after), before=cursor, limit=limit)
    return SelectedPage([Selected(record, record.id) for record in page.records], page.next)


def _named(
    ids: Sequence[str], state: State, cursor: str | None, records: Records, limit: int
) -> SelectedPage:
    unique = list(dict.fromkeys(ids))
    start = int(cursor or 0)
    chunk = unique[start : start + limit]
    found = {
        record.id: record for record in records.find_many([each for each in chunk if is_record_id(each)])
    }
    selected = []
    for number, record_id in enumerate(chunk, start + 1):
        record = found.get(record_id)
        why = "There is no such record (any more)." if record is None else _why_not(record, state)
        selected.append(Selected(None if why else record, str(number), why))
    end = start + len(chunk)
    return SelectedPage(selected, str(end) if end < len(unique) else None)


def _why_not(record: Record, state: State) -> str:
    """Returns why a record is left alone; nothing if it is in the state that is wanted."""
    if record.state is state:
        return ""
    match record.state:
        case State.REPLAYING:
            return f"It is being replayed by the job {record.job} of {record.who}."
        case State.REJECTED_AGAIN:
            return f"It was replayed and rejected again, as {record.successor}."
        case State.DELIVERED:
            return "It is delivered already."
        case State.DISCARDED:
            return f"It was discarded by {record.who}."
        case _:
            return "It is open."
