"""Fits one account's accepted events into as few bulk-create jobs as the limits allow.

What always holds: every event given is in exactly one job, or in none because an equal one is (its
origin is then beside that one's), or it is too large for any job; no job passes the limits; no job
holds one (profile, metric, unique_id) twice; a profile's events keep their order over and within
jobs, and its newer attributes are never followed by older ones.
"""

from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from sluice.contract import MAX_BODY_BYTES_OUT, MAX_EVENTS_PER_REQUEST, MAX_PROFILE_BYTES
from sluice.message import StoredMessage

_JOB_HEAD: Final = b'{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":['
_JOB_TAIL: Final = b"]}}}}"
_ENTRY_HEAD: Final = b'{"type":"event-bulk-create","attributes":{"profile":{"data":'
_ENTRY_HEAD_BACKFILL: Final = b'{"type":"event-bulk-create","attributes":{"backfill":true,"profile":{"data":'
_ENTRY_MIDDLE: Final = b'},"events":{"data":['
_ENTRY_TAIL: Final = b"]}}}"
_EVENT_HEAD: Final = b'{"type":"event","attributes":'
_EVENT_TAIL: Final = b"}"
_EVENT_JOINT: Final = _EVENT_TAIL + b"," + _EVENT_HEAD

_JOB_BYTES: Final = len(_JOB_HEAD) + len(_JOB_TAIL)
_ENTRY_BYTES: Final = len(_ENTRY_HEAD_BACKFILL) + len(_ENTRY_MIDDLE) + len(_ENTRY_TAIL) + 1
_EVENT_BYTES: Final = len(_EVENT_HEAD) + len(_EVENT_TAIL) + 1
_MAX_OPEN: Final = 32  # jobs that may still be added to; bounds the search for room


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where an event came from: the number of its message, and its place in the caller's document."""

    message: int
    entry: int
    event: int


class PackedEvent(msgspec.Struct):
    """One event of a job: its attributes and own profile as JSON, and all who sent it."""

    key: str
    id: str
    attributes: bytes
    profile: bytes
    backfill: bool
    origins: list[Origin]


class JobEntry(msgspec.Struct):
    """One profile's events of a job; `profile` is what its events' profiles merge to."""

    key: str
    profile: bytes
    backfill: bool
    events: list[PackedEvent]


class Job(msgspec.Struct):
    """One bulk-create request. It must not be sent before the jobs numbered in `after` are answered."""

    number: int
    entries: list[JobEntry] = []
    events: int = 0
    size: int = _JOB_BYTES  # bytes of `body`, at most
    after: set[int] = set()

    def body(self) -> bytes:
        """The request's JSON."""
        return _JOB_HEAD + b",".join([_entry_body(entry) for entry in self.entries]) + _JOB_TAIL


class Packing(msgspec.Struct):
    """What a batch came to: jobs, in the order to send them, and events no job can hold."""

    jobs: list[Job]
    oversized: list[PackedEvent]


def pack(messages: Iterable[tuple[int, StoredMessage]]) -> Packing:
    """Packs one account's messages, each with the caller's number for it."""
    in_order = sorted(messages, key=lambda numbered: numbered[1].accepted)
    return pack_events([_events(number, message) for number, message in in_order])


def pack_events(groups: list[list[PackedEvent]]) -> Packing:
    """Packs events in the order given; each group is kept in as few jobs as possible."""
    packer = _Packer(groups)
    for group in groups:
        packer.place(group)
    return Packing(packer.jobs, packer.oversized)


def without(job: Job, items: Collection[tuple[int, int | None]]) -> Job | None:
    """What is left of a job when items (an entry's index, and an event's or None) are taken out."""
    kept = []
    for index, entry in enumerate(job.entries):
        if (index, None) in items:
            continue
        events = [event for number, event in enumerate(entry.events) if (index, number) not in items]
        if events:
            kept.append(JobEntry(entry.key, entry.profile, entry.backfill, events))
    return job_of(job.number, kept) if kept else None


def unmerged(entry: JobEntry) -> list[JobEntry]:
    """An entry as one for each of the profiles that were merged into it, in their order."""
    parts: list[JobEntry] = []
    for event in entry.events:
        if not parts or parts[-1].profile != event.profile:
            parts.append(JobEntry(entry.key, event.profile, entry.backfill, []))
        parts[-1].events.append(event)
    return parts


def halves(job: Job) -> tuple[Job, Job]:
    """A job of at least two events as two, its events in order."""
    left: list[JobEntry] = []
    right: list[JobEntry] = []
    room = job.events // 2
    for entry in job.entries:
        first, second = entry.events[:room], entry.events[room:]
        room -= len(first)
        for side, events in ((left, first), (right, second)):
            if events:
                side.append(JobEntry(entry.key, entry.profile, entry.backfill, events))
    return job_of(job.number, left), job_of(job.number, right)


def job_of(number: int, entries: list[JobEntry]) -> Job:
    """A job of just these entries."""
    events = [event for entry in entries for event in entry.events]
    size = _JOB_BYTES + sum(len(entry.profile) + _ENTRY_BYTES for entry in entries)
    return Job(number, entries, len(events), size + sum(map(_event_size, events)), after=set())


def merge_profiles(older: bytes, newer: bytes) -> bytes | None:
    """One profile that does what `older` and then `newer` would, or None where none surely does.

    Both are profile data as JSON with equal identifiers. Attributes and custom properties are set
    one by one upstream, so the newer value wins; patches (`meta`) act, so they are not merged; a
    location is only replaced by one with at least its fields, as what else the upstream does with
    it is not documented.
    """
    if older == newer:
        return older
    old, new = msgspec.json.decode(older), msgspec.json.decode(newer)
    if "meta" in old or "meta" in new:
        return None
    before, after = old["attributes"], new["attributes"]
    if "location" in before and "location" in after and before["location"].keys() - after["location"].keys():
        return None
    merged = {**old, "attributes": before | after}
    if before.get("properties") and after.get("properties"):
        merged["attributes"]["properties"] = before["properties"] | after["properties"]
    body = msgspec.json.encode(merged)
    return body if len(body) <= MAX_PROFILE_BYTES else None


def _events(number: int, message: StoredMessage) -> list[PackedEvent]:
    packed = []
    for position, entry in enumerate(message.entries):
        key, profile, backfill = entry.key, bytes(entry.profile), entry.backfill
        at_entry = position if entry.at is None else entry.at
        for index, event in enumerate(entry.events):
            origin = Origin(number, at_entry, index if event.at is None else event.at)
            packed.append(PackedEvent(key, event.id, bytes(event.attributes), profile, backfill, [origin]))
    return packed


def _entry_body(entry: JobEntry) -> bytes:
    return b"".join(
        (
            _ENTRY_HEAD_BACKFILL if entry.backfill else _ENTRY_HEAD,
            entry.profile,
            _ENTRY_MIDDLE,
            _EVENT_HEAD,
            _EVENT_JOINT.join([event.attributes for event in entry.events]),
            _EVENT_TAIL,
            _ENTRY_TAIL,
        )
    )


def _event_size(event: PackedEvent) -> int:
    return len(event.attributes) + _EVENT_BYTES


def _lone_size(event: PackedEvent) -> int:
    """Bytes an event takes in a job that has nothing of its profile yet."""
    return _event_size(event) + len(event.profile) + _ENTRY_BYTES


class _Placed(msgspec.Struct):
    """Where a profile's, or an event's, latest occurrence went."""

    job: Job
    entry: JobEntry


class _Packer:
    def __init__(self, groups: list[list[PackedEvent]]) -> None:
        self.jobs: list[Job] = []
        self.oversized: list[PackedEvent] = []
        self._open: list[Job] = []
        self._profiles: dict[str, _Placed] = {}
        self._events: dict[tuple[str, str], tuple[Job, PackedEvent]] = {}
        events = sum(map(len, groups))
        self._fewest = -(-events // MAX_EVENTS_PER_REQUEST)  # jobs, if bytes do not ask for more

    def place(self, group: list[PackedEvent]) -> None:
        """Puts a group's events into one job if they fit one, else where there is room for each."""
        whole = self._room_for_all(group) if len(group) > 1 else None
        for event in group:
            if not self._is_repeat(event):
                self._place_one(event, whole)

    def _room_for_all(self, group: list[PackedEvent]) -> Job | None:
        size = sum(map(_lone_size, group))
        floor = max((self._floor(event) for event in group), default=0)
        for job in self._open:
            if job.number >= floor and _fits(job, len(group), size):
                return job
        return self._new_job() if len(self.jobs) < self._fewest else None

    def _place_one(self, event: PackedEvent, preferred: Job | None) -> None:
        if _JOB_BYTES + _lone_size(event) > MAX_BODY_BYTES_OUT:
            self.oversized.append(event)
            return
        floor = self._floor(event)
        if preferred is None or preferred.number < floor or not _fits(preferred, 1, _lone_size(event)):
            preferred = self._room_for_one(event, floor)
        self._add(preferred, event)

    def _room_for_one(self, event: PackedEvent, floor: int) -> Job:
        size = _lone_size(event)
        for job in self._open:
            if job.number >= floor and _fits(job, 1, size):
                return job
        return self._new_job()

    def _floor(self, event: PackedEvent) -> int:
        """The first job this event may go into: none before its profile's last, none with its like."""
        profile = self._profiles.get(event.key)
        if profile is None:
            return 0
        like = self._events.get((event.key, event.id))
        return max(profile.job.number, like[0].number + 1 if like else 0)

    def _is_repeat(self, event: PackedEvent) -> bool:
        like = self._events.get((event.key, event.id))
        if like is None or like[1].attributes != event.attributes:
            return False
        latest = self._profiles[event.key]
        merged = merge_profiles(latest.entry.profile, event.profile)
        growth = len(merged) - len(latest.entry.profile) if merged is not None else 0
        if merged is None or not _fits(latest.job, 0, growth):
            return False
        latest.job.size += growth
        latest.entry.profile = merged
        like[1].origins += event.origins
        return True

    def _add(self, job: Job, event: PackedEvent) -> None:
        latest = self._profiles.get(event.key)
        like = self._events.get((event.key, event.id))
        if like is not None:
            job.after.add(like[0].number)
        if latest is not None and latest.job is not job and latest.entry.profile != event.profile:
            job.after.add(latest.job.number)
        entry = self._entry_for(job, event, latest)
        entry.events.append(event)
        job.events += 1
        job.size += _event_size(event)
        self._profiles[event.key] = _Placed(job, entry)
        self._events[event.key, event.id] = (job, event)
        if job.events == MAX_EVENTS_PER_REQUEST:
            self._open.remove(job)

    def _entry_for(self, job: Job, event: PackedEvent, latest: _Placed | None) -> JobEntry:
        if latest is not None and latest.job is job and latest.entry.backfill == event.backfill:
            merged = merge_profiles(latest.entry.profile, event.profile)
            if merged is not None:
                # Never more than the room checked for a lone event: a merged profile is at most both.
                job.size += len(merged) - len(latest.entry.profile)
                latest.entry.profile = merged
                return latest.entry
        entry = JobEntry(event.key, event.profile, event.backfill, [])
        job.entries.append(entry)
        job.size += len(event.profile) + _ENTRY_BYTES
        return entry

    def _new_job(self) -> Job:
        job = Job(len(self.jobs), [], after=set())
        self.jobs.append(job)
        self._open.append(job)
        if len(self._open) > _MAX_OPEN:
            self._open.pop(0)
        return job


def _fits(job: Job, events: int, size: int) -> bool:
    return job.events + events <= MAX_EVENTS_PER_REQUEST and job.size + size <= MAX_BODY_BYTES_OUT
