"""Packs one account's accepted events into as few bulk jobs as the limits allow.

These rules always hold:

- Every event is in exactly one job, or in none because an equal one is (its origin is then beside that
  one's), or it is too large for any job.
- No job passes the limits, and no job holds one (profile, metric, unique_id) twice.
- A profile's events keep their order over and within jobs, and its newer attributes are never followed by
  older ones.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import msgspec

from sluice.contract import MAX_BODY_BYTES_OUT, MAX_EVENTS_PER_REQUEST, MAX_PROFILE_BYTES
from sluice.klaviyo.problems import CLIENT
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
_LONE_BYTES: Final = _ENTRY_BYTES + _EVENT_BYTES
_FULL_BYTES: Final = MAX_BODY_BYTES_OUT - 25_000  # a job is full enough beyond this
_MAX_OPEN: Final = 32  # jobs that still take events; bounds the search for room
_MAX_ROOMY: Final = 4  # jobs that may have room left in order to keep a message together


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Says where an event came from: the number of its message, and its position in the caller's document."""

    message: int
    entry: int
    event: int


class PackedEvent(msgspec.Struct, gc=False):
    """Holds one event of a job: its attributes and own profile as JSON, and the origins of all equal events.

    `origins` become a list with the second: a tuple is one object less for the garbage collector to visit.
    """

    key: str
    id: str
    attributes: bytes
    profile: bytes
    backfill: bool
    origins: tuple[Origin, ...] | list[Origin]


class JobEntry(msgspec.Struct, gc=False):
    """Holds one profile's events of a job; `profile` is what its events' profiles merge to."""

    key: str
    profile: bytes
    backfill: bool
    events: list[PackedEvent]


class Job(msgspec.Struct, gc=False):
    """Holds one bulk request, which must not be sent before the jobs numbered in `after` are answered."""

    number: int
    entries: list[JobEntry] = []
    events: int = 0
    size: int = _JOB_BYTES  # bytes of `body`, at most
    after: set[int] = set()

    def body(self) -> bytes:
        """Returns the request's JSON."""
        return _JOB_HEAD + b",".join([_entry_body(entry) for entry in self.entries]) + _JOB_TAIL

    def messages(self) -> set[int]:
        """Numbers of the messages its events came from."""
        return {
            origin.message for entry in self.entries for event in entry.events for origin in event.origins
        }


class Packing(msgspec.Struct):
    """Holds the result of packing: jobs, in the order to send them, and events that no job can hold."""

    jobs: list[Job]
    oversized: list[PackedEvent]


def pack(messages: Iterable[tuple[int, StoredMessage]]) -> Packing:
    """Packs one account's messages, each with the caller's number for it, anonymous callers' last."""
    given = dict(messages)
    last = strangers(given)
    in_order = sorted(given, key=lambda number: (number in last, given[number].accepted))
    return pack_events([_events(number, given[number]) for number in in_order])


def strangers(messages: Mapping[int, StoredMessage]) -> set[int]:
    """Returns the messages of anonymous callers that may come after all others.

    A profile's events keep their order. So a message with a profile that others' messages have keeps its
    place, and so do those that share a profile with it.
    """
    found = {number for number, message in messages.items() if message.surface in CLIENT}
    by_key: defaultdict[str, list[int]] = defaultdict(list)
    for number in found:
        for entry in messages[number].entries:
            by_key[entry.key].append(number)
    keys = [entry.key for number in messages.keys() - found for entry in messages[number].entries]
    while keys:
        for number in by_key.pop(keys.pop(), ()):
            if number in found:
                found.remove(number)
                keys += [entry.key for entry in messages[number].entries]
    return found


def pack_events(groups: list[list[PackedEvent]]) -> Packing:
    """Packs events in the order given; each group is kept together where a job has the room."""
    packer = _Packer(groups)
    for group in groups:
        packer.place(group)
    return Packing(packer.jobs, packer.oversized)


def without(
    job: Job,
    items: Collection[tuple[int, int | None]],
    instead: Mapping[int, Iterable[JobEntry]] = MappingProxyType({}),
    changed: Mapping[tuple[int, int], PackedEvent] = MappingProxyType({}),
) -> Job | None:
    """Returns the rest of a job after items (an entry's index, and an event's or None) are taken out.

    `instead` are entries that replace one that is taken out whole, `changed` events that replace others.
    """
    kept: list[JobEntry] = []
    for index, entry in enumerate(job.entries):
        if (index, None) in items:
            kept += instead.get(index, ())
            continue
        events = [
            changed.get((index, number), event)
            for number, event in enumerate(entry.events)
            if (index, number) not in items
        ]
        if events:
            kept.append(JobEntry(entry.key, entry.profile, entry.backfill, events))
    return job_of(job.number, kept) if kept else None


def unmerged(entry: JobEntry) -> list[JobEntry]:
    """Splits an entry into one for each of the profiles that were merged into it, in their order."""
    parts: list[JobEntry] = []
    for event in entry.events:
        if not parts or parts[-1].profile != event.profile:
            parts.append(JobEntry(entry.key, event.profile, entry.backfill, []))
        parts[-1].events.append(event)
    return parts


def alone(job: Job, event: PackedEvent) -> Job:
    """Makes a job of just this one of a job's events."""
    return job_of(job.number, [JobEntry(event.key, event.profile, event.backfill, [event])])


def cut(job: Job, entry: int) -> tuple[Job | None, Job, Job | None]:
    """Cuts a job into the entries before one, that one, and the entries after it."""
    before, after = job.entries[:entry], job.entries[entry + 1 :]
    return (
        job_of(job.number, before) if before else None,
        job_of(job.number, [job.entries[entry]]),
        job_of(job.number, after) if after else None,
    )


def unique_id(event_id: str) -> str:
    """Returns the unique_id of an event's `id`, which names the metric, too."""
    length, _, rest = event_id.partition(" ")
    return rest[: int(length)] if length.isdecimal() and len(length) < 5 else event_id


def positions_of_repeats(job: Job) -> set[tuple[int, int]]:
    """Returns the positions of a job's events that share a unique_id, whatever their metrics."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, entry in enumerate(job.entries):
        for number, event in enumerate(entry.events):
            found[unique_id(event.id)].append((index, number))
    return {position for positions in found.values() if len(positions) > 1 for position in positions}


def spread(job: Job, events: Iterable[PackedEvent]) -> list[Job]:
    """Spreads some of a job's events over jobs that hold a unique_id once, whatever its metric.

    A profile's events keep their order.
    """
    layers: list[list[JobEntry]] = []
    by_profile: dict[str, int] = {}
    by_id: dict[str, int] = {}
    for event in events:
        name = unique_id(event.id)
        layer = max(by_profile.get(event.key, 0), by_id.get(name, 0))
        by_profile[event.key], by_id[name] = layer, layer + 1
        if layer == len(layers):
            layers.append([])
        layers[layer].append(JobEntry(event.key, event.profile, event.backfill, [event]))
    return [job_of(job.number, entries) for entries in layers]


def halves(job: Job) -> tuple[Job, Job]:
    """Splits a job of at least two events into two, its events in order, each with its own profile again."""
    left: list[JobEntry] = []
    right: list[JobEntry] = []
    room = job.events // 2
    for entry in (part for merged in job.entries for part in unmerged(merged)):
        first, second = entry.events[:room], entry.events[room:]
        room -= len(first)
        for side, events in ((left, first), (right, second)):
            if events:
                side.append(JobEntry(entry.key, entry.profile, entry.backfill, events))
    return job_of(job.number, left), job_of(job.number, right)


def job_of(number: int, entries: list[JobEntry]) -> Job:
    """Makes a job of just these entries."""
    events = [event for entry in entries for event in entry.events]
    size = _JOB_BYTES + sum(len(entry.profile) + _ENTRY_BYTES for entry in entries)
    return Job(number, entries, len(events), size + sum(map(_event_size, events)), after=set())


def merge_profiles(older: bytes, newer: bytes) -> bytes | None:
    """Returns one profile that does what `older` and then `newer` would, or None if none surely does.

    Both are profile data as JSON of one key. Attributes and custom properties are set one by one upstream, so
    the newer value wins. Patches (`meta`) act each time they are applied, so they are not merged. The
    upstream's documents leave three more results open: of addresses that differ in case, of a null among two
    sets of properties, and of a location, unless a newer one has at least its fields. These are not merged
    either. A profile without the form in which ingest writes profiles is left for the upstream to refuse.
    """
    if _does_the_same(older, newer):
        return older
    old, new = _decoded(older), _decoded(newer)
    if old is None or new is None:
        return None
    before, after = old["attributes"], new["attributes"]
    if "meta" in old or "meta" in new or (before.get("email") or "") != (after.get("email") or ""):
        return None
    merged = before | after
    if "location" in before and "location" in after and before["location"].keys() - after["location"].keys():
        return None
    if "properties" in before and "properties" in after and before["properties"] != after["properties"]:
        if before["properties"] is None or after["properties"] is None:
            return None
        merged["properties"] = before["properties"] | after["properties"]
    body = msgspec.json.encode({**old, "attributes": merged})
    return body if len(body) <= MAX_PROFILE_BYTES else None


class _Attributes(msgspec.Struct):
    """Holds the attributes that merging looks into."""

    email: str | None = None
    location: dict[str, Any] = {}
    properties: dict[str, Any] | None = None


class _Profile(msgspec.Struct):
    attributes: _Attributes


def _decoded(profile: bytes) -> dict[str, Any] | None:
    """Decodes a profile, if it has the form to be merged."""
    try:
        decoded: dict[str, Any] = msgspec.json.decode(profile)
        msgspec.convert(decoded, _Profile)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return decoded


def _does_the_same(profile: bytes, other: bytes) -> bool:
    """Tells whether two profiles together do what one of them does alone.

    Patches act each time, but those of one caller's entry, which is one object here, are meant once.
    """
    return profile == other and (profile is other or b'"meta"' not in profile)


def _events(number: int, message: StoredMessage) -> list[PackedEvent]:
    packed = []
    for position, entry in enumerate(message.entries):
        key, profile, backfill = entry.key, bytes(entry.profile), entry.backfill
        for at_entry, at_event, event in entry.positioned(position):
            origin = Origin(number, at_entry, at_event)
            packed.append(PackedEvent(key, event.id, bytes(event.attributes), profile, backfill, (origin,)))
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
    """Returns the bytes that an event takes in a job that has nothing of its profile yet."""
    return len(event.attributes) + len(event.profile) + _LONE_BYTES


def _row_size(events: Iterable[PackedEvent]) -> int:
    """Returns the most bytes that consecutive events take in a new job: those of one entry share its
    profile.
    """
    size, profile = 0, None
    for event in events:
        size += len(event.attributes) + _EVENT_BYTES
        if event.profile is not profile:
            profile = event.profile
            size += len(profile) + _ENTRY_BYTES
    return size


class _Placed(msgspec.Struct, gc=False):
    """Holds what is placed of a profile: where its latest event went, and each event by its id, with its job.

    `same` numbers the jobs before that hold the very profile.
    """

    job: Job
    entry: JobEntry
    same: tuple[int, ...]
    events: dict[str, tuple[int, PackedEvent]]

    def floor(self, event: PackedEvent) -> int:
        """Returns the first job that an event may go into: not before its profile's last, and not one with
        its like.
        """
        like = self.events.get(event.id)
        return self.job.number if like is None else max(self.job.number, like[0] + 1)

    def update(self, profile: bytes) -> bool:
        """Merges a newer profile into the latest entry; returns False if it cannot be merged."""
        merged = merge_profiles(self.entry.profile, profile)
        if merged is None:
            return False
        growth = len(merged) - len(self.entry.profile)
        if not _fits(self.job, 0, growth):
            return False
        self.entry.profile = merged
        self.job.size += growth
        self.job.after.update(self.same)
        self.same = ()
        return True


class _Packer:
    def __init__(self, groups: list[list[PackedEvent]]) -> None:
        self.jobs: list[Job] = []
        self.oversized: list[PackedEvent] = []
        self._groups = groups
        self._open: dict[int, Job] = {}
        self._profiles: dict[str, _Placed] = {}
        self._superseded: dict[tuple[str, str, bytes], PackedEvent] = {}
        self._told: set[tuple[str, str, bytes, bytes]] = set()  # a repeated one changes nothing

    def place(self, group: list[PackedEvent]) -> None:
        """Places a group's events in one job if they fit one, else in as few as possible."""
        job: Job | None = None
        for index, event in enumerate(group):
            floor = 0
            placed = self._profiles.get(event.key)
            if placed is not None:
                floor = placed.job.number
                if event.id in placed.events:
                    if self._is_repeat(placed, event):
                        continue
                    floor = placed.floor(event)
            size = len(event.attributes) + len(event.profile) + _LONE_BYTES
            if _JOB_BYTES + size > MAX_BODY_BYTES_OUT:
                self.oversized.append(event)
                continue
            if job is None or not (_fits(job, 1, size) or _fits(job, 1, _growth(job, placed, event))):
                whole = self._room_for_all(event, group[index + 1 :]) if len(group) > 1 else None
                job = whole or self._room_for(floor, size)
            self._add(job if job.number >= floor else self._room_for(floor, size), placed, event)

    def _room_for(self, floor: int, size: int) -> Job:
        return self._open_job(floor, 1, size) or self._new_job()

    def _room_for_all(self, first: PackedEvent, rest: list[PackedEvent]) -> Job | None:
        """Returns a job that takes all of these events, or None if they have to be spread."""
        if not self._open:
            return self._new_job()
        events = [first]
        floor = self._floor(first)
        for event in rest:
            if event.key not in self._profiles:
                events.append(event)
            elif self._like(event) is None:
                events.append(event)
                floor = max(floor, self._floor(event))
        job = self._open_job(floor, len(events), _row_size(events))
        return self._new_job() if job is None and self._may_begin_job(events) else job

    def _may_begin_job(self, events: list[PackedEvent]) -> bool:
        """Tells whether these may have a new job while there is room for some of them in others.

        They may only if that room can be expected to be used: not if there is much of it, and not if the
        profile moves on, because it cannot come back.
        """
        if len(self.jobs) >= self._fewest or len(self._open) >= _MAX_ROOMY:
            return False
        placed = map(self._profiles.get, {event.key for event in events})
        return not any(profile is not None and profile.job.number in self._open for profile in placed)

    @cached_property
    def _fewest(self) -> int:
        """Returns the number of jobs that there must be in the end."""
        by_count = -(-sum(map(len, self._groups)) // MAX_EVENTS_PER_REQUEST)
        return max(by_count, -(-sum(map(_row_size, self._groups)) // MAX_BODY_BYTES_OUT))

    def _open_job(self, floor: int, events: int, size: int) -> Job | None:
        for number, job in self._open.items():
            if number >= floor and _fits(job, events, size):
                return job
        return None

    def _floor(self, event: PackedEvent) -> int:
        placed = self._profiles.get(event.key)
        return 0 if placed is None else placed.floor(event)

    def _like(self, event: PackedEvent) -> PackedEvent | None:
        """Returns the event among those placed that this one repeats."""
        placed = self._profiles.get(event.key)
        if placed is None or event.id not in placed.events:
            return None
        _, like = placed.events[event.id]
        if like.attributes == event.attributes:
            return like
        return self._superseded.get((event.key, event.id, event.attributes))

    def _is_repeat(self, placed: _Placed, event: PackedEvent) -> bool:
        """Tells whether an equal event is there already, and keeps what is new in this one's profile."""
        like = self._like(event)
        if like is None:
            return False
        if like.profile != event.profile and _statement(event) not in self._told:
            if not placed.update(event.profile):
                return False
            last = placed.entry.events[-1]
            self._told |= {_statement(last), _statement(event)}
            last.profile = merge_profiles(last.profile, event.profile) or placed.entry.profile
        like.origins = like.origins if isinstance(like.origins, list) else list(like.origins)
        like.origins += event.origins
        return True

    def _add(self, job: Job, placed: _Placed | None, event: PackedEvent) -> None:
        if placed is None or placed.job is not job or not _joins(placed, event):
            placed = self._begin_entry(job, placed, event)
        placed.entry.events.append(event)
        if (like := placed.events.get(event.id)) is not None:
            job.after.add(like[0])
            self._superseded[event.key, event.id, like[1].attributes] = like[1]
            self._told.add(_statement(like[1]))
        placed.events[event.id] = (job.number, event)
        job.events += 1
        job.size += len(event.attributes) + _EVENT_BYTES
        if job.events == MAX_EVENTS_PER_REQUEST or job.size > _FULL_BYTES:
            self._open.pop(job.number, None)

    def _begin_entry(self, job: Job, placed: _Placed | None, event: PackedEvent) -> _Placed:
        """Begins a new entry of a job for an event; later events of its profile are placed from there on."""
        entry = JobEntry(event.key, event.profile, event.backfill, [])
        job.entries.append(entry)
        job.size += len(event.profile) + _ENTRY_BYTES
        if placed is None:
            placed = self._profiles[event.key] = _Placed(job, entry, (), {})
            return placed
        if placed.job is not job:
            placed.same = (*placed.same, placed.job.number)
        if not _does_the_same(placed.entry.profile, event.profile):
            job.after.update(placed.same)
            placed.same = ()
        placed.job, placed.entry = job, entry
        return placed

    def _new_job(self) -> Job:
        job = Job(len(self.jobs))
        self.jobs.append(job)
        self._open[job.number] = job
        if len(self._open) > _MAX_OPEN:
            del self._open[next(iter(self._open))]
        return job


def _statement(event: PackedEvent) -> tuple[str, str, bytes, bytes]:
    return event.key, event.id, event.attributes, event.profile


def _joins(placed: _Placed, event: PackedEvent) -> bool:
    """Tells whether an event can join its profile's latest entry, which then does what both do."""
    entry = placed.entry
    if entry.backfill != event.backfill:
        return False
    last = entry.events[-1].profile
    return last is event.profile or _does_the_same(last, event.profile) or placed.update(event.profile)


def _growth(job: Job, placed: _Placed | None, event: PackedEvent) -> int:
    """Returns the most bytes that a job grows by if it takes an event."""
    if placed is None or placed.job is not job or placed.entry.backfill != event.backfill:
        return _lone_size(event)
    return _event_size(event) if placed.entry.events[-1].profile is event.profile else _lone_size(event)


def _fits(job: Job, events: int, size: int) -> bool:
    return job.events + events <= MAX_EVENTS_PER_REQUEST and job.size + size <= MAX_BODY_BYTES_OUT
