"""Removes what is stored of a person, as a job: looks through every place, and takes away what it finds.

A job knows a person only by a keyed hash. Before anything is removed, the hash is written down, so that what
comes back later from a queue is not archived. Each place may be looked through again at any time, because
what is removed is not found twice.
"""

import gzip
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import msgspec
from pydantic import BaseModel, ConfigDict

from sluice import message, runtime
from sluice.delivery.parking import NotSealed
from sluice.operate import index, jobs, replay
from sluice.operate.jobs import JobState, Worker
from sluice.operate.ports import Ports
from sluice.producers.s3_objects import IMPORT_PREFIX
from sluice.records import person
from sluice.records.record import Location, record_of
from sluice.records.table import Filter
from sluice.validation.json_text import NOT_DECODED

KIND: Final = "erase"
COUNTS: Final = ("archived", "records", "parked", "imported", "replayed", "mends")
IN_FLIGHT: Final = timedelta(days=15)  # after which nothing is left of what was on a queue
STEP_SECONDS: Final = 5.0  # of one step, after which its job is written
RECORDS_AT_ONCE: Final = 100
MAX_JOBS: Final = 1_000


class EraseWish(BaseModel):
    """Holds the keyed hash of an identifier of the person."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str


@dataclass
class Step:
    """Holds the result of looking through a part of a place; `after` is where the next one begins."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    after: str | None = None


@dataclass(frozen=True)
class Search:
    """Says for whom to look, through what, from where on, and whether what is found is removed."""

    profile: str
    ports: Ports
    hash_key: bytes
    after: str
    removes: bool
    end: float

    def is_person(self, identifier: str) -> bool:
        """Tells whether an identifier is that of the person."""
        return person.hashed(identifier, self.hash_key) == self.profile

    def is_time_over(self) -> bool:
        """Tells whether the rest is for the next step."""
        return runtime.monotonic() > self.end


def plan(worker: Worker, ports: Ports, has_time: Callable[[], bool]) -> None:
    """Counts what a job would remove, while there is time."""
    while worker.job.state is JobState.PLANNING and has_time():
        _advance(worker, ports, JobState.PLANNED, removes=False)


def work(worker: Worker, ports: Ports, has_time: Callable[[], bool]) -> None:
    """Removes what is found, while there is time, unless the job is cancelled."""
    while worker.job.state is JobState.RUNNING and has_time():
        if worker.job.is_cancelled:
            worker.save(state=JobState.CANCELLED)
            return
        _advance(worker, ports, JobState.DONE, removes=True)


def _advance(worker: Worker, ports: Ports, end: JobState, *, removes: bool) -> None:
    """Looks through the next part of the place that a job has come to."""
    job = worker.job
    profile = EraseWish.model_validate_json(job.wish).profile
    place, _, after = (job.cursor or f"{next(iter(_PLACES))}:").partition(":")
    if removes and job.cursor is None:
        ports.records.remember_erased(profile)
    until = runtime.monotonic() + STEP_SECONDS
    step = _PLACES[place](Search(profile, ports, ports.hash_key(), after, removes, until))
    following = f"{place}:{step.after}" if step.after is not None else _next_place(place)
    worker.save(
        state=job.state if following else end,
        cursor=following,
        counts=job.counted(step.counts),
        reasons={**job.reasons, **step.reasons},
    )


def _next_place(place: str) -> str | None:
    places = list(_PLACES)
    number = places.index(place) + 1
    return f"{places[number]}:" if number < len(places) else None


def _through(search: Search, keys: Iterable[str], look: Callable[[str, Search], Counter[str]]) -> Step:
    """Looks at objects, at least one, until the time is over or there are no more."""
    counts: Counter[str] = Counter()
    last: str | None = None
    for key in keys:
        if last is not None and search.is_time_over():
            return Step(counts, after=last)
        counts += look(key, search)
        last = key
    return Step(counts)


def _in_archive(search: Search) -> Step:
    return _through(search, search.ports.archive.keys(after=search.after or None), _archived)


def _archived(key: str, search: Search) -> Counter[str]:
    """Blanks what is of the person in an object, so that all other lines stay where their records say."""
    lines: list[bytes] = []
    found = 0
    for location, line in index.lines_of(key, search.ports.archive.content(key=key)):
        left = person.without(line.rstrip(b"\n"), search.is_person)
        if left == line.rstrip(b"\n"):
            lines.append(line)
            continue
        found += 1
        if left is not None:
            left = _without_places(left)
        if left is not None and len(left) >= len(line):
            left = None
        if search.removes:
            # First, because the line tells which record it is.
            _erase_record(line, left, location, search)
        lines.append((left or b"").ljust(len(line) - 1) + b"\n")
    if found and search.removes:
        search.ports.archive.overwrite(key=key, content=b"".join(lines))
    return Counter({"archived": found})


def _without_places(line: bytes) -> bytes:
    """Returns a line whose payload has changed without the pointers into what it was."""
    held = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({name: raw for name, raw in held.items() if name not in {"pointer", "place"}})


def _erase_record(line: bytes, left: bytes | None, location: Location, search: Search) -> None:
    try:
        record_id = index.rejection(line).id
        remaining = None
        if left is not None:
            remaining, _ = record_of(index.rejection(left), location, search.hash_key)
    except NOT_DECODED:
        return  # a line that is no rejection has no record
    search.ports.records.erase(record_id, left=remaining)


def _in_records(search: Search) -> Step:
    """Removes the records whose payloads are in the archive no more."""
    counts: Counter[str] = Counter()
    wanted = Filter(profile=search.profile)
    page = search.ports.records.page(wanted, before=search.after or None, limit=RECORDS_AT_ONCE)
    lines = search.ports.archive.lines(records=page.records)
    for record in page.records:
        if not lines.get(record.id, b"").strip():
            counts["records"] += 1
            if search.removes:
                search.ports.records.erase(record.id, left=None)
    return Step(counts, after=page.next)


def _in_parked(search: Search) -> Step:
    return _through(search, search.ports.parked.every_object(after=search.after or None), _parked)


def _parked(key: str, search: Search) -> Counter[str]:
    try:
        messages = search.ports.parked.messages(key=key)
    except NotSealed:
        return Counter({"not_sealed": 1})
    left = [person.without(each, search.is_person) for each in messages]
    found = sum(one != other for one, other in zip(messages, left, strict=True))
    if found and search.removes:
        search.ports.parked.keep_only(key=key, messages=[each for each in left if each is not None])
    return Counter({"parked": found})


def _in_imports(search: Search) -> Step:
    return _through(
        search, search.ports.files.keys(prefix=IMPORT_PREFIX, after=search.after or None), _imported
    )


def _imported(key: str, search: Search) -> Counter[str]:
    """Blanks lines of a part of an import. How far it is read counts bytes, so those stay the same."""
    if not key.endswith(".gz"):
        return Counter()  # the state of an import
    found = 0
    packed = io.BytesIO()
    content = search.ports.files.content(key=key)
    with gzip.open(io.BytesIO(content)) as lines, gzip.open(packed, "wb", compresslevel=6) as kept:
        for line in lines:
            left = person.without(line.rstrip(b"\n"), search.is_person)
            if left == line.rstrip(b"\n"):
                kept.write(line)
            else:
                found += 1
                kept.write(b" " * (len(line) - 1) + b"\n")
    if found and search.removes:
        search.ports.files.overwrite(key=key, content=packed.getvalue())
    return Counter({"imported": found})


def _in_slices(search: Search) -> Step:
    keys = search.ports.files.keys(prefix=replay.SLICES_PREFIX, after=search.after or None)
    return _through(search, keys, _replayed)


def _replayed(key: str, search: Search) -> Counter[str]:
    """Takes events out of what a replay has written down to send."""
    messages = replay.unpacked(search.ports.files.content(key=key))
    plain = [msgspec.json.encode(each) for each in messages]
    left = [person.without(each, search.is_person) for each in plain]
    found = sum(one != other for one, other in zip(plain, left, strict=True))
    if found and search.removes:
        kept = [message.decode_plain(each) for each in left if each is not None]
        search.ports.files.overwrite(key=key, content=replay.packed(kept))
    return Counter({"replayed": found})


def _in_jobs(search: Search) -> Step:
    """Blanks what jobs were asked for, if a mend of theirs names the person."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for job in search.ports.jobs.newest(limit=MAX_JOBS):
        if not person.is_mentioned(msgspec.json.decode(job.wish), search.is_person):
            continue
        if job.state.is_over:
            counts["mends"] += 1
            if search.removes:
                jobs.forget_wish(search.ports.jobs, job)
        else:
            reasons[f"A mend of the job {job.id} names the person. Cancel it, and erase again."] += 1
    return Step(counts, reasons)


_PLACES: Final[Mapping[str, Callable[[Search], Step]]] = {
    "archive": _in_archive,
    "records": _in_records,
    "parked": _in_parked,
    "imports": _in_imports,
    "slices": _in_slices,
    "jobs": _in_jobs,
}
