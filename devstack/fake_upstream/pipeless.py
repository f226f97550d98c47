"""Keeps Pipeless's apps, and what was written to each; pure and synchronous, with its clock injected.

A refused call writes nothing, a taken one all of it, in its order. There is one object for each type and id:
written again it is reused, and those of its dates that are given anew are changed. A relationship that is
`single` exists once between two objects. Every method may be called from any thread.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from devstack.fake_upstream.answers import JSON_API, Answer, Refused
from devstack.fake_upstream.service import LogLine, Service, count_statuses
from devstack.fake_upstream.settings import PipelessSettings
from devstack.fake_upstream.windows import FixedWindow, busiest

ROUTES = "/v1/apps/"
_ROUTE = re.compile(rf"{ROUTES}([^/]+)/events/batch/?")
_JSON = {"Content-Type": "application/json"}
_DATE = "%Y-%m-%dT%H:%M:%S"
_DATE_FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
_MAX_EVENTS = 10
_MAX_ID = 40
_OBJECT_TYPES = frozenset(
    "user product image comment article post video content tag category app book person skill job company"  # noqa: SIM905
    " account card country state film cart".split()
)
_RELATIONSHIP_TYPES = frozenset(
    "posted followed liked favorited saved disliked purchased commentedOn created viewed reported blocked"  # noqa: SIM905
    " deleted authored used dismissed loggedIn taggedWith categorizedIn interestedIn locatedIn readQuarter"
    " readHalf readAll subscribedTo subscribedFrom addedTo madeBy pausedOn".split()
)
_DEFAULTS = PipelessSettings()

type _Identity = tuple[str, str]


class StoredObject(msgspec.Struct):
    """Holds the one object of a type and id; `writes` counts how often it was written."""

    app_id: int
    type: str
    id: str
    created_on: str
    modified_on: str
    writes: int = 1


class StoredRelationship(msgspec.Struct, frozen=True):
    """Holds a relationship between two objects, each as (type, id)."""

    app_id: int
    start: _Identity
    type: str
    end: _Identity
    created_on: str
    single: bool


class TakenCall(msgspec.Struct, frozen=True):
    """Holds a call that was taken, its events as they were sent; `time` is when it arrived."""

    app_id: int
    time: float
    synchronous: bool
    events: list[dict[str, Any]]


class CallLine(LogLine, kw_only=True):
    """Holds one line of the log of calls."""

    app_id: int | None = None


@dataclass(slots=True)
class _App:
    id: int
    objects: dict[_Identity, StoredObject] = field(default_factory=dict)
    relationships: list[StoredRelationship] = field(default_factory=list)
    related: set[tuple[_Identity, str, _Identity]] = field(default_factory=set)
    calls: list[TakenCall] = field(default_factory=list)
    window: FixedWindow = field(default_factory=lambda: FixedWindow(1))


class Pipeless:
    """Keeps the apps behind `POST /v1/apps/{app_id}/events/batch`.

    Parameters: `apps` maps an app's id to its API key; `clock` gives epoch seconds.
    """

    def __init__(
        self,
        apps: Mapping[int, str],
        settings: PipelessSettings = _DEFAULTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = {key: app_id for app_id, key in apps.items()}
        self._service = Service[PipelessSettings, CallLine](settings, clock)
        self.reset()

    def reset(self) -> None:
        """Forgets everything written, logged and counted, and returns to the settings of the start."""
        with self._service.lock:
            self._service.reset()
            self._apps = {app_id: _App(app_id) for app_id in self._keys.values()}

    @property
    def settings(self) -> PipelessSettings:
        return self._service.settings

    def configure(self, /, **changes: object) -> PipelessSettings:
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
            line = CallLine(time=self._service.clock() if arrived is None else arrived)
            given = {name.lower(): value for name, value in headers.items()}
            return self._service.answer(line, lambda: self._serve(method, path, given, body, line))

    def objects(self, app_id: int | None = None) -> Iterator[StoredObject]:
        """Yields every object, in the order in which they were first written, of one app or all."""
        for app in self._apps_of(app_id):
            yield from app.objects.values()

    def relationships(self, app_id: int | None = None) -> Iterator[StoredRelationship]:
        """Yields every relationship, in the order in which they were written."""
        for app in self._apps_of(app_id):
            yield from app.relationships

    def calls(self, app_id: int | None = None) -> Iterator[TakenCall]:
        """Yields every call that was taken, in order."""
        for app in self._apps_of(app_id):
            yield from app.calls

    def requests(self, app_id: int | None = None) -> list[CallLine]:
        """Returns the log of calls so far, of one app or all, unauthenticated ones included."""
        with self._service.lock:
            return [line for line in self._service.log if app_id in {None, line.app_id}]

    def summary(self) -> dict[str, Any]:
        """Counts for each app, and how many calls belonged to none."""
        with self._service.lock:
            return {
                "apps": {str(app.id): self._summary_of(app) for app in self._apps.values()},
                "unauthenticated": sum(line.app_id is None for line in self._service.log),
            }

    def _summary_of(self, app: _App) -> dict[str, Any]:
        lines = self.requests(app.id)
        return {
            "requests": len(lines),
            "by_status": dict(count_statuses(lines)),
            "calls": len(app.calls),
            "fill": [len(call.events) for call in app.calls],
            "events": sum(len(call.events) for call in app.calls),
            "objects": len(app.objects),
            "relationships": len(app.relationships),
            "max_in_1s": busiest([line.time for line in lines], 1),
        }

    def _apps_of(self, app_id: int | None) -> list[_App]:
        with self._service.lock:
            return [app for app in self._apps.values() if app_id in {None, app.id}]

    def _serve(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, line: CallLine
    ) -> Answer:
        app = self._app(method, path, headers)
        line.app_id = app.id
        limit = self.settings.limit
        if limit is not None and app.window.count(line.time) > limit:
            raise Refused(_errors(429, ["Too many requests."], {"Retry-After": "1"}))
        strike = self._service.strike(str(app.id), line)
        answer = strike.instead
        if answer is None:
            answer = self._write(app, headers, body, line)
        return _in_own_words(strike.alter(answer))

    def _app(self, method: str, path: str, headers: Mapping[str, str]) -> _App:
        """Returns the app of a request, if it shows the app's key."""
        match = _ROUTE.fullmatch(path)
        if match is None:
            raise Refused(_errors(404, ["There is no such path."]))
        if method != "POST":
            raise Refused(_errors(405, ["Method not allowed."], {"Allow": "POST"}))
        key = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if key not in self._keys:
            raise Refused(_errors(401, ["The API key is not valid."]))
        app_id = int(match[1]) if match[1].isdecimal() else 0
        if app_id not in self._apps:
            raise Refused(_errors(404, ["There is no such app."]))
        if self._keys[key] != app_id:
            raise Refused(_errors(403, ["The API key is another app's."]))
        return self._apps[app_id]

    def _write(self, app: _App, headers: Mapping[str, str], body: bytes, line: CallLine) -> Answer:
        try:
            document = _read(headers, body)
            found = [*_problems(document), *self._poisoned(document)]
        except Refused as refusal:
            return refusal.answer
        if found:
            return _errors(400, found)
        synchronous = bool(document.get("synchronous", False))
        now = datetime.fromtimestamp(line.time, UTC).strftime(_DATE)
        for event in document["events"]:
            _upsert(app, event["start_object"], now)
            _upsert(app, event["end_object"], now)
            _relate(app, event, now)
        line.events = len(document["events"])
        app.calls.append(TakenCall(app.id, line.time, synchronous, document["events"]))
        return Answer(201 if synchronous else 202, _JSON, b"{}")

    def _poisoned(self, document: Any) -> list[str]:
        if not isinstance(document, dict) or not isinstance(document.get("events"), list):
            return []
        ids = [_id(event, side) for event in document["events"] for side in ("start_object", "end_object")]
        return ["An id is not valid." for text in self.settings.poison for id_ in ids if text in id_][:1]


def _id(event: Any, side: str) -> str:
    part = event.get(side) if isinstance(event, dict) else None
    return str(part.get("id")) if isinstance(part, dict) else ""


def _read(headers: Mapping[str, str], body: bytes) -> Any:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(_errors(415, ["The content type must be application/json."]))
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refused(_errors(400, ["Not valid JSON."])) from None


def _problems(document: Any) -> Iterator[str]:
    """Yields every mistake of a call, without its place: the vendor's errors are plain strings."""
    if not isinstance(document, dict) or not isinstance(document.get("events"), list):
        yield "events must be an array."
        return
    if not isinstance(document.get("synchronous", False), bool):
        yield "synchronous must be a boolean."
    if not 1 <= len(document["events"]) <= _MAX_EVENTS:
        yield f"There must be 1 to {_MAX_EVENTS} events."
    for event in document["events"]:
        if not isinstance(event, dict):
            yield "An event must be an object."
            continue
        for name in ("start_object", "end_object"):
            yield from _object_problems(name, event.get(name))
        yield from _relationship_problems(event.get("relationship"))


def _object_problems(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{name} is required."
        return
    id_ = value.get("id")
    if not isinstance(id_, str) or not 1 <= len(id_) <= _MAX_ID:
        yield f"The id of {name} must have 1 to {_MAX_ID} characters."
    if not _is_one_of(_OBJECT_TYPES, value):
        yield f"The type of {name} is not known."
    for date in ("created_on", "modified_on"):
        if date in value and not _is_date(value[date]):
            yield f"{date} of {name} must have the form YYYY-MM-DDTHH:MM:SS."


def _relationship_problems(value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield "relationship is required."
        return
    if not _is_one_of(_RELATIONSHIP_TYPES, value):
        yield "The type of relationship is not known."
    if "created_on" in value and not _is_date(value["created_on"]):
        yield "created_on of relationship must have the form YYYY-MM-DDTHH:MM:SS."
    if not isinstance(value.get("single", True), bool):
        yield "single must be a boolean."


def _is_one_of(types: frozenset[str], value: Mapping[str, Any]) -> bool:
    given = value.get("type")
    return isinstance(given, str) and given in types


def _is_date(value: Any) -> bool:
    if not isinstance(value, str) or not _DATE_FORM.fullmatch(value):
        return False
    try:
        datetime.strptime(value, _DATE)  # noqa: DTZ007
    except ValueError:
        return False
    return True


def _upsert(app: _App, given: Mapping[str, str], now: str) -> None:
    identity = given["type"], given["id"]
    known = app.objects.get(identity)
    if known is None:
        created = given.get("created_on", now)
        modified = given.get("modified_on", created)
        app.objects[identity] = StoredObject(app.id, *identity, created, modified)
        return
    known.created_on = given.get("created_on", known.created_on)
    known.modified_on = given.get("modified_on", known.modified_on)
    known.writes += 1


def _relate(app: _App, event: Any, now: str) -> None:
    start, end = ((event[side]["type"], event[side]["id"]) for side in ("start_object", "end_object"))
    given = event["relationship"]
    single = given.get("single", True)
    between = (start, given["type"], end)
    if not single or between not in app.related:
        app.related.add(between)
        app.relationships.append(StoredRelationship(app.id, *between, given.get("created_on", now), single))


def _errors(status: int, errors: list[str], headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, {**_JSON, **(headers or {})}, msgspec.json.encode({"errors": errors}))


def _in_own_words(answer: Answer) -> Answer:
    """Returns a fault's answer as Pipeless would give it: its errors are strings."""
    if answer.headers.get("Content-Type") != JSON_API or not isinstance(answer.body, bytes):
        return answer
    details = [error["detail"] for error in msgspec.json.decode(answer.body)["errors"]]
    return replace(answer, headers={**answer.headers, **_JSON}, body=msgspec.json.encode({"errors": details}))
