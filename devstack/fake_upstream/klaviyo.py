"""Keeps Klaviyo's accounts: who may send, how fast, and the events taken; pure, with its clock injected.

A refused request takes nothing. A taken one takes everything but the events that Klaviyo would lose silently.
Every method may be called from any thread.
"""

import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import msgspec

from devstack.fake_upstream import rules
from devstack.fake_upstream.answers import JSON_API, Answer, Problem, Refused, error, invalid
from devstack.fake_upstream.service import LogLine, Service, count_statuses
from devstack.fake_upstream.settings import Settings, throttled
from devstack.fake_upstream.windows import FixedWindow, busiest

ROUTE = "/api/event-bulk-create-jobs"
_SCHEME = "Klaviyo-API-Key "
_REVISION = re.compile(r"\d{4}-\d\d-\d\d(\.pre)?", re.ASCII)
_DEFAULTS = Settings()


class TakenEvent(msgspec.Struct, frozen=True):
    """Holds one event that was taken, as it was sent; `time` is when its job arrived."""

    site_id: str
    job: int
    entry: int
    index: int
    time: float
    profile: dict[str, Any]
    event: dict[str, Any]
    backfill: dict[str, bool | None]


class RequestLine(LogLine, kw_only=True):
    """Holds one line of the request log, with the size of the request's body."""

    bytes: int
    site_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    arrived: float


@dataclass(frozen=True, slots=True)
class _Job:
    """Holds a taken job, with its body compressed: a million events as Python objects need gigabytes."""

    site_id: str
    sequence: int
    time: float
    entries: int
    events: int
    body: bytes
    lost: frozenset[tuple[int, int]]
    dropped: frozenset[tuple[int, int]]

    def taken(self) -> Iterator[TakenEvent]:
        document = msgspec.json.decode(zlib.decompress(self.body))
        for entry, index, attributes, event in rules.events_of(document):
            if (entry, index) not in self.lost | self.dropped:
                yield TakenEvent(
                    site_id=self.site_id,
                    job=self.sequence,
                    entry=entry,
                    index=index,
                    time=self.time,
                    profile=attributes["profile"]["data"],
                    event=event,
                    backfill={"entry": attributes.get("backfill"), "event": event.get("backfill")},
                )


@dataclass(slots=True)
class _Account:
    site_id: str
    recorded: set[bytes] = field(default_factory=set)
    burst: FixedWindow = field(default_factory=lambda: FixedWindow(1))
    steady: FixedWindow = field(default_factory=lambda: FixedWindow(60))
    duplicates_refused: int = 0


class Klaviyo:
    """Keeps the accounts behind `POST /api/event-bulk-create-jobs`.

    Parameters: `accounts` maps a site id to its private key; `clock` gives epoch seconds.
    """

    def __init__(
        self,
        accounts: Mapping[str, str],
        settings: Settings = _DEFAULTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = {key: site_id for site_id, key in accounts.items()}
        self._service = Service[Settings, RequestLine](settings, clock)
        self.reset()

    def reset(self) -> None:
        """Forgets everything taken, logged and counted, and returns to the settings of the start."""
        with self._service.lock:
            self._service.reset()
            self._accounts = {site_id: _Account(site_id) for site_id in self._keys.values()}
            self._jobs: list[_Job] = []

    @property
    def clock(self) -> Callable[[], float]:
        return self._service.clock

    @property
    def settings(self) -> Settings:
        return self._service.settings

    def configure(self, /, **changes: object) -> Settings:
        """Replaces the named settings; naming `faults` or `seed` deals the faults anew."""
        return self._service.configure(changes)

    def handle(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        arrived: float | None = None,
    ) -> Answer:
        """Answers one request; `arrived` is when it came if that was before now."""
        with self._service.lock:
            arrived = self.clock() if arrived is None else arrived
            request = _Request(
                method, path, {key.lower(): value for key, value in headers.items()}, body, arrived
            )
            line = RequestLine(time=arrived, bytes=len(body))
            return self._service.answer(line, lambda: self._serve(request, line))

    def events(self, site_id: str | None = None) -> Iterator[TakenEvent]:
        """Yields every event taken so far, in order, of one account or all."""
        for job in self._jobs_of(site_id):
            yield from job.taken()

    def requests(self, site_id: str | None = None) -> list[RequestLine]:
        """Returns the request log so far, of one account or all, unauthenticated requests included."""
        with self._service.lock:
            return [line for line in self._service.log if site_id in {None, line.site_id}]

    def summary(self) -> dict[str, Any]:
        """Counts for each account, and how many requests belonged to none."""
        with self._service.lock:
            return {
                "accounts": {each.site_id: self._summary_of(each) for each in self._accounts.values()},
                "unauthenticated": sum(line.site_id is None for line in self._service.log),
            }

    def _summary_of(self, account: _Account) -> dict[str, Any]:
        lines = self.requests(account.site_id)
        jobs = self._jobs_of(account.site_id)
        fill = [job.events for job in jobs]
        times = [line.time for line in lines]
        by_status = count_statuses(lines)
        by_fault = sum(line.status == 429 and bool(line.faults) for line in lines)
        return {
            "requests": len(lines),
            "by_status": dict(by_status),
            "jobs": len(jobs),
            "entries": sum(job.entries for job in jobs),
            "events": sum(fill),
            "events_per_job": sum(fill) / len(fill) if fill else 0.0,
            "fill": fill,
            "largest_body": max((line.bytes for line in lines), default=0),
            "max_in_1s": busiest(times, 1),
            "max_in_60s": busiest(times, 60),
            "throttled_by_limit": by_status["429"] - by_fault,
            "throttled_by_fault": by_fault,
            "duplicates_refused": account.duplicates_refused,
            "silently_lost": sum(len(job.lost) for job in jobs),
            "dropped_after_acceptance": sum(len(job.dropped) for job in jobs),
        }

    def _jobs_of(self, site_id: str | None) -> list[_Job]:
        with self._service.lock:
            return [job for job in self._jobs if site_id in {None, job.site_id}]

    def _serve(self, request: _Request, line: RequestLine) -> Answer:
        _route(request)
        account = self._authenticate(request)
        line.site_id = account.site_id
        standing = self._admit(account, request.arrived)
        strike = self._service.strike(account.site_id, line)
        answer = strike.instead
        if answer is None:
            answer = self._create_job(account, request, line)
            answer = replace(answer, headers={**answer.headers, **standing})
        return strike.alter(answer)

    def _authenticate(self, request: _Request) -> _Account:
        credentials = request.headers.get("authorization", "")
        if not credentials.startswith(_SCHEME):
            detail = "Missing or invalid authorization scheme. Please use Klaviyo-API-Key."
            raise Refused(error(401, detail, code="not_authenticated", source={"pointer": "/data/"}))
        site_id = self._keys.get(credentials.removeprefix(_SCHEME).strip())
        if site_id is None:
            raise Refused(error(401, "Unknown API key.", source={"pointer": "/data/"}))
        return self._accounts[site_id]

    def _admit(self, account: _Account, now: float) -> dict[str, str]:
        """Counts the request in both windows, and returns the headers that describe the steady one."""
        burst, steady = account.burst.count(now), account.steady.count(now)
        burst_limit, steady_limit = self.settings.burst_limit, self.settings.steady_limit
        wait = 0
        if burst_limit is not None and burst > burst_limit:
            wait = account.burst.ends_in(now)
        if steady_limit is not None and steady > steady_limit:
            wait = account.steady.ends_in(now)
        if wait:
            raise Refused(throttled(wait, {"Retry-After": str(wait)}))
        windows = [
            (limit - count, limit, window)
            for limit, count, window in (
                (burst_limit, burst, account.burst),
                (steady_limit, steady, account.steady),
            )
            if limit is not None
        ]
        match self.settings.rate_limit_headers:
            case "steady":
                windows = [each for each in windows if each[2] is account.steady]
                policies = ""
            case "binding":
                policies = "".join(f", {limit};w={window.seconds}" for _, limit, window in windows)
            case "none":
                windows = []
        if not windows:
            return {}
        remaining, limit, window = min(windows, key=lambda each: each[0])
        return {
            "RateLimit-Limit": f"{limit}{policies}",
            "RateLimit-Remaining": str(remaining),
            "RateLimit-Reset": str(window.ends_in(now)),
        }

    def _create_job(self, account: _Account, request: _Request, line: RequestLine) -> Answer:
        try:
            request = self._unpacked(request)
            document = _read(request)
            self._refuse_problems(self._inspect(document, request))
            self._refuse_poison(document)
            line.events = self._take(account, request, document)
        except Refused as refusal:
            return refusal.answer
        is_partial = self.settings.unreal_phone_numbers == "ignore" and any(_unreal_phone_numbers(document))
        return Answer(202, {"X-Klaviyo-Partial-Failure": "phone_number"} if is_partial else {})

    def _unpacked(self, request: _Request) -> _Request:
        """Returns a request whose body is not compressed, if such bodies are taken."""
        if self.settings.gzipped_bodies == "refuse" or request.headers.get("content-encoding") != "gzip":
            return request
        try:
            body = zlib.decompress(request.body, wbits=31)
        except zlib.error:
            raise Refused(error(400, "The body is not gzipped.", code="parse_error")) from None
        return replace(request, body=body, headers={**request.headers, "content-encoding": "identity"})

    def _inspect(self, document: Any, request: _Request) -> list[Problem]:
        problems = rules.inspect(
            document,
            request.headers["revision"],
            request.arrived,
            may_be_null=self.settings.nulls == "take",
            may_be_unknown=self.settings.unknown_fields == "take",
        )
        if problems:
            return problems
        for entry, profile, phone_number in _unreal_phone_numbers(document):
            is_alone = sum(map(bool, rules.profile_identifiers(profile))) == 1
            if self.settings.unreal_phone_numbers == "refuse" or (
                is_alone and self.settings.unreal_phone_numbers == "ignore"
            ):
                pointer = f"{rules.ENTRIES}/{entry}/attributes/profile/data/attributes/phone_number"
                problems.append(Problem(pointer, f"{phone_number} is not a valid phone number."))
        return problems + list(_refused_fields(document, self.settings.refused_fields))

    def _take(self, account: _Account, request: _Request, document: Any) -> int:
        recorded: set[bytes] = set()
        lost: set[tuple[int, int]] = set()
        dropped: set[tuple[int, int]] = set()
        repeats: list[Problem] = []
        for entry, index, attributes, event in rules.events_of(document):
            key = _key(attributes, event, request.arrived, self.settings.duplicate_scope)
            email = attributes["profile"]["data"]["attributes"].get("email") or ""
            if any(text in email for text in self.settings.dropped):
                dropped.add((entry, index))
            if key not in recorded and key not in account.recorded:
                recorded.add(key)
            elif event.get("unique_id") is None or self.settings.duplicates == "ignore":
                lost.add((entry, index))
            else:
                repeats.append(_repeat(entry, index, event["unique_id"], self.settings.duplicate_pointer))
        account.duplicates_refused += bool(repeats)
        self._refuse_problems(repeats)

        account.recorded |= recorded
        job = _Job(
            site_id=account.site_id,
            sequence=len(self._jobs) + 1,
            time=request.arrived,
            entries=sum(1 for _ in rules.entries_of(document)),
            events=len(recorded),
            body=zlib.compress(request.body, level=1),
            lost=frozenset(lost),
            dropped=frozenset(dropped),
        )
        self._jobs.append(job)
        return job.events

    def _refuse_poison(self, document: Any) -> None:
        problems: list[Problem] = []
        for poison in self.settings.poison:
            found = list(_poisoned(document, poison.contains))
            if found and not poison.attributed:
                raise Refused(invalid([_UNATTRIBUTED]))
            problems += found
        self._refuse_problems(problems)

    def _refuse_problems(self, problems: list[Problem]) -> None:
        if problems:
            raise Refused(_refusal(problems, self.settings.attribution))


_UNATTRIBUTED = Problem("/data", "Something in the request is not valid.")
_EVENT = re.compile(rf"({rules.ENTRIES}/\d+)/attributes/events/data/\d+.*", re.DOTALL)
_IN_ENTRY = re.compile(rf"({rules.ENTRIES}/\d+)/.*", re.DOTALL)


def _refusal(problems: list[Problem], attribution: str) -> Answer:
    """Returns the 400 that tells of problems as precisely as it is set."""
    match attribution:
        case "all":
            return invalid(problems)
        case "first":
            return invalid(problems[:1])
        case "parameter":
            return error(400, problems[0].detail, source={"parameter": "events"})
        case "entry":
            pointers = [_IN_ENTRY.sub(r"\1", problem.pointer) for problem in problems]
        case "events":
            pointers = [_EVENT.sub(r"\1/attributes/events", problem.pointer) for problem in problems]
        case _:
            return invalid([_UNATTRIBUTED])
    return invalid(replace(problem, pointer=at) for problem, at in zip(problems, pointers, strict=True))


def _route(request: _Request) -> None:
    if request.path.removesuffix("/") != ROUTE:
        raise Refused(error(404, "There is no such path."))
    if request.method != "POST":
        raise Refused(error(405, f"Method '{request.method}' not allowed.", headers={"Allow": "POST"}))


def _read(request: _Request) -> Any:
    """Returns the request's document, once its headers and size are in order."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in {JSON_API, "application/json"}:
        raise Refused(error(415, f"The content type must be {JSON_API} or application/json."))
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(error(415, "No content encoding is understood."))
    if not _REVISION.fullmatch(request.headers.get("revision", "")):
        raise Refused(
            error(400, "The revision header is missing or wrong.", source={"parameter": "revision"})
        )
    if len(request.body) > rules.MAX_BODY_BYTES:
        raise Refused(error(413, f"The payload is larger than {rules.MAX_BODY_BYTES} bytes."))
    try:
        # Not orjson: it reads an integer beyond 64 bits as a float and so would hide it.
        return msgspec.json.decode(request.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refused(error(400, "Not valid JSON.", code="parse_error", source={"pointer": "/"})) from None


def _key(attributes: Any, event: Any, arrived: float, scope: str) -> bytes:
    """Returns the identity of an event: `unique_id` or else the second, and what that is unique for."""
    metric = event["metric"]["data"]["attributes"]
    unique_id = event.get("unique_id")
    if unique_id is None:
        moment = rules.moment(event.get("time") or "")
        unique_id = int(arrived if moment is None else moment)
    profile = rules.profile_identifiers(attributes["profile"]["data"])
    unique_for = {
        "metric": (*profile, metric["name"], metric.get("service")),
        "profile": profile,
        "account": (),
    }
    parts = (*unique_for["metric" if event.get("unique_id") is None else scope], unique_id)
    return blake2b(msgspec.msgpack.encode(parts), digest_size=16).digest()


def _repeat(entry: int, index: int, unique_id: str, pointer: str) -> Problem:
    at_entry = f"{rules.ENTRIES}/{entry}"
    at_event = f"{at_entry}/attributes/events/data/{index}"
    pointers = {
        "unique_id": f"{at_event}/attributes/unique_id",
        "event": at_event,
        "entry": at_entry,
        "events": f"{at_entry}/attributes/events",
        "none": "/data",
    }
    return Problem(
        pointers[pointer],
        f"The unique_id '{unique_id}' is a duplicate for this profile and metric.",
        title="Duplicate unique_id.",
    )


def _unreal_phone_numbers(document: Any) -> Iterator[tuple[int, Any, str]]:
    for entry, attributes in rules.entries_of(document):
        profile = attributes["profile"]["data"]
        phone_number = profile["attributes"].get("phone_number") or ""
        if phone_number.startswith("+1555"):
            yield entry, profile, phone_number


def _refused_fields(document: Any, names: tuple[str, ...]) -> Iterator[Problem]:
    for entry, attributes in rules.entries_of(document):
        pointer = f"{rules.ENTRIES}/{entry}/attributes"
        for name in names:
            if attributes["profile"]["data"]["attributes"].get(name) is not None:
                yield Problem(f"{pointer}/profile/data/attributes/{name}", f"Invalid {name}.")
            for index, event in enumerate(attributes["events"]["data"]):
                if event["attributes"].get(name) is not None:
                    yield Problem(f"{pointer}/events/data/{index}/attributes/{name}", f"Invalid {name}.")


def _poisoned(document: Any, contains: str) -> Iterator[Problem]:
    for entry, attributes in rules.entries_of(document):
        pointer = f"{rules.ENTRIES}/{entry}/attributes"
        if contains in (attributes["profile"]["data"]["attributes"].get("email") or ""):
            yield Problem(f"{pointer}/profile/data/attributes/email", "Invalid email address.")
        for index, event in enumerate(attributes["events"]["data"]):
            if contains in event["attributes"]["metric"]["data"]["attributes"]["name"]:
                name = f"{pointer}/events/data/{index}/attributes/metric/data/attributes/name"
                yield Problem(name, "Invalid metric name.")
