"""Asks what Klaviyo's documents leave open: the questions of `sluicectl probe`, and what their answers tell.

Each question is a job of marked test events. An answer becomes a setting of the fake upstream, with which it
behaves as the account did.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sluicectl.errors import Failure

METRIC: Final = "Sluice Probe"
OTHER_METRIC: Final = "Sluice Probe 2"
UNREAL_PHONE_NUMBER: Final = "+15555555555"
MAX_QUESTIONS: Final = 12
_ENTRIES: Final = "/data/attributes/events-bulk-create/data"
_IN_EVENT: Final = re.compile(rf"{_ENTRIES}/\d+/attributes/events/data/(\d+)(/.*)?")
_EVENTS: Final = re.compile(rf"{_ENTRIES}/\d+/attributes/events/?")
_ENTRY: Final = re.compile(rf"{_ENTRIES}/\d+/?")

type Document = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """Holds an answer of Klaviyo's; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def is_taken(self) -> bool:
        """Tells whether the job was taken."""
        return 200 <= self.status < 300

    def sources(self) -> list[dict[str, str]]:
        """Returns where its errors say that the fault is."""
        try:
            errors = json.loads(self.body)["errors"]
            return [error.get("source") or {} for error in errors]
        except (ValueError, KeyError, TypeError, AttributeError):
            return []

    def pointers(self) -> list[str]:
        """Returns the pointers of its errors."""
        return [source["pointer"] for source in self.sources() if isinstance(source.get("pointer"), str)]


@dataclass(frozen=True)
class Finding:
    """Holds what was found out: a `setting` of the fake upstream, if it has one for it.

    `found` is None if the answers do not tell.
    """

    question: str
    assumed: str
    found: str | None
    setting: str | None = None

    @property
    def holds(self) -> bool | None:
        """Tells whether the assumption holds."""
        return None if self.found is None else self.found == self.assumed


type Ask = Callable[[str, Document, bool], Answer]


@dataclass
class Questions:
    """Asks the questions, one after the other; `wait` lets time pass before an event is repeated."""

    ask: Ask
    run: str
    email: str
    wait: Callable[[], None] = lambda: None
    findings: list[Finding] = field(default_factory=list)

    def investigate(self) -> list[Finding]:
        """Returns what the answers tell. Raises `Failure` if not even a plain event is taken."""
        plain = self._send("a plain event", self._entry(self._event("plain")))
        if not plain.is_taken:
            raise Failure(
                f"Klaviyo answers HTTP {plain.status} to a plain event, so nothing can be learned:"
                f" {plain.body[:300] or 'no explanation'}"
            )
        self._add("form of the RateLimit headers", "steady", _headers_form(plain), "rate_limit_headers")
        self._ask_about_bad_events()
        self._ask_about_repeats()
        self._ask_about_fields()
        return self.findings

    def _ask_about_bad_events(self) -> None:
        good = [self._event("good-1"), self._event("good-2")]
        one_bad = self._send("one bad event of three", self._entry(good[0], self._bad("bad"), good[1]))
        around = self._entry(self._bad("bad-1"), self._event("good-3"), self._bad("bad-2"))
        two_bad = self._send("two bad events of three", around)
        attribution = None if one_bad.is_taken or two_bad.is_taken else _attribution(two_bad)
        self._add("how a refusal names bad events", "all", attribution, "attribution")
        if one_bad.is_taken:
            self._add("events beside a bad one", "not taken", None)
            return
        again = self._send("the good events of a refused job again", self._entry(*good))
        self._add("events beside a bad one", "not taken", "not taken" if again.is_taken else "taken")

    def _ask_about_repeats(self) -> None:
        twice = self._event("twice")
        in_one_job = self._send("one unique_id twice in a job", self._entry(twice, twice))
        self._add("a unique_id twice in one job", "refused", "taken" if in_one_job.is_taken else "refused")
        self.wait()
        later = self._send("one unique_id again in a later job", self._entry(self._event("plain")))
        self._add(
            "a unique_id again in a later job",
            "fail",
            "ignore" if later.is_taken else "fail",
            "duplicates",
        )
        pointer = None if later.is_taken else _pointer_kind(later, "unique_id")
        self._add("how a refusal names a repeat", "unique_id", pointer, "duplicate_pointer")
        metric = self._send(
            "one unique_id for another metric", self._entry(self._event("plain", metric=OTHER_METRIC))
        )
        of_other = self._entry(self._event("plain"), email=f"other-{self.email}")
        profile = self._send("one unique_id for another profile", of_other)
        scope = None
        if not later.is_taken:
            scope = "metric" if metric.is_taken else "profile" if profile.is_taken else "account"
        self._add("a unique_id is unique for the profile and its", "metric", scope, "duplicate_scope")

    def _ask_about_fields(self) -> None:
        phone = self._send(
            "an unreal phone number beside an e-mail address",
            self._entry(self._event("phone"), phone_number=UNREAL_PHONE_NUMBER),
        )
        is_ignored = "x-klaviyo-partial-failure" in phone.headers
        self._add(
            "an unreal phone number beside an e-mail address",
            "take",
            "refuse" if not phone.is_taken else "ignore" if is_ignored else "take",
            "unreal_phone_numbers",
        )
        null = self._send("a location that is null", self._entry(self._event("null"), location=None))
        self._add("a location that is null", "take", _taken(null), "nulls")
        unknown = self._send("an unknown field", self._entry(self._event("unknown", sluice_unknown=1)))
        self._add("an unknown field", "refuse", _taken(unknown), "unknown_fields")
        zipped = self._send("a gzipped body", self._entry(self._event("gzip")), zipped=True)
        self._add("a gzipped body", "refuse", _taken(zipped), "gzipped_bodies")

    def _send(self, question: str, entry: Document, *, zipped: bool = False) -> Answer:
        attributes = {"events-bulk-create": {"data": [entry]}}
        job = {"data": {"type": "event-bulk-create-job", "attributes": attributes}}
        return self.ask(question, job, zipped)

    def _add(self, question: str, assumed: str, found: str | None, setting: str | None = None) -> None:
        self.findings.append(Finding(question, assumed, found, setting))

    def _entry(self, *events: Document, email: str | None = None, **attributes: Any) -> Document:
        profile = {"type": "profile", "attributes": {"email": email or self.email, **attributes}}
        content = {"profile": {"data": profile}, "events": {"data": list(events)}, "backfill": True}
        return {"type": "event-bulk-create", "attributes": content}

    def _event(self, name: str, *, metric: str = METRIC, **attributes: Any) -> Document:
        content = {
            "metric": {"data": {"type": "metric", "attributes": {"name": metric}}},
            "properties": {"sluice_probe": self.run},
            "unique_id": f"sluice-probe-{self.run}-{name}",
            **attributes,
        }
        return {"type": "event", "attributes": content}

    def _bad(self, name: str) -> Document:
        return self._event(name, time="this is no time")


def settings_of(findings: Iterable[Finding]) -> dict[str, str]:
    """Returns the settings with which the fake upstream answers as the account did."""
    return {each.setting: each.found for each in findings if each.setting and each.found is not None}


def _taken(answer: Answer) -> str:
    return "take" if answer.is_taken else "refuse"


def _headers_form(answer: Answer) -> str:
    limit = answer.headers.get("ratelimit-limit")
    return "none" if limit is None else "binding" if ";" in limit else "steady"


def _attribution(answer: Answer) -> str:
    """Returns how the refusal of a job with two bad events names them."""
    pointers = answer.pointers()
    events = {match[1] for pointer in pointers if (match := _IN_EVENT.fullmatch(pointer))}
    if events:
        return "all" if len(events) > 1 else "first"
    kind = _pointer_kind(answer, "")
    is_parameter = kind == "none" and any("parameter" in source for source in answer.sources())
    return "parameter" if is_parameter else kind


def _pointer_kind(answer: Answer, field_name: str) -> str:
    """Returns where a refusal points to: to a field, an event, an entry, its list of events, or nowhere."""
    for pointer in answer.pointers():
        if (match := _IN_EVENT.fullmatch(pointer)) is not None:
            return field_name if (match[2] or "").endswith(f"/{field_name}") else "event"
        if _EVENTS.fullmatch(pointer):
            return "events"
        if _ENTRY.fullmatch(pointer):
            return "entry"
    return "none"
