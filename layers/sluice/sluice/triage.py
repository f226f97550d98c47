"""What an upstream's answer to a bulk-create job means, and so what to do: the contract's table.

Decided by status, media type and pointers, never by the text of an error.
"""

import contextlib
import email.utils
import re
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from sluice.packing import Job


class Answer(msgspec.Struct, frozen=True):
    """An upstream's answer; `status` is None where none came, and `failure` then says what happened."""

    status: int | None
    headers: Mapping[str, str] = {}
    body: bytes = b""
    failure: str = ""


class Fault(msgspec.Struct, frozen=True):
    """What the upstream says is wrong with one item: `tail` points within the entry or event."""

    code: str
    detail: str
    tail: str = ""


class Taken(msgspec.Struct, frozen=True):
    """The job is recorded upstream; `ignored` are fields it says it left out."""

    ignored: str = ""


class Attributed(msgspec.Struct, frozen=True):
    """Nothing was taken, and these items are why. An item is an entry's index and an event's or None.

    `duplicates` are recorded upstream already: they count as delivered.
    """

    faults: dict[tuple[int, int | None], Fault]
    duplicates: frozenset[tuple[int, int]]


class Unattributed(msgspec.Struct, frozen=True):
    """Nothing was taken because of something in the job, but nobody says what."""

    fault: Fault


class Throttled(msgspec.Struct, frozen=True):
    """Too many requests for the account, ours or others': nobody sends before `after` seconds."""

    after: float | None


class Transient(msgspec.Struct, frozen=True):
    """A passing fault. The job may have been taken: its unique_ids make sending it again safe."""

    cause: str
    after: float | None = None


class AccountFault(msgspec.Struct, frozen=True):
    """Every job of this account would be answered so until somebody acts."""

    status: int
    detail: str


type Verdict = Taken | Attributed | Unattributed | Throttled | Transient | AccountFault

_ITEM: Final = re.compile(
    r"/data/attributes/events-bulk-create/data/(?P<entry>\d{1,4})"
    r"(?:/attributes/events/data/(?P<event>\d{1,4})|/events/data/(?P<short>\d{1,4}))?"
    r"(?P<tail>(?:/.*)?)"
)
_TRANSIENT: Final = frozenset({408, 425})
_ACCOUNT: Final = frozenset({401, 403, 404, 410})
_MAX_DETAIL: Final = 500


class _Source(msgspec.Struct):
    pointer: str | None = None


class _Error(msgspec.Struct):
    code: str = ""
    detail: str = ""
    source: _Source | None = None


class _Errors(msgspec.Struct):
    errors: list[_Error]


def judge(answer: Answer, job: Job) -> Verdict:
    """What an `answer` to `job` means."""
    if answer.status is None:
        return Transient(answer.failure)
    if 200 <= answer.status < 300:
        return Taken(_header(answer, "x-klaviyo-partial-failure"))
    if answer.status == 429:
        return Throttled(retry_after(answer))
    if _is_transient(answer, answer.status):
        return Transient(f"HTTP {answer.status}", retry_after(answer))
    errors = _errors(answer)
    if answer.status in _ACCOUNT:
        return AccountFault(answer.status, errors[0].detail[:_MAX_DETAIL] if errors else "")
    return _attribute(errors, job, answer.status)


def retry_after(answer: Answer) -> float | None:
    """Seconds the answer asks to wait: Retry-After as seconds or as an HTTP date; None without one."""
    text = _header(answer, "retry-after").strip()
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


def rate_left(answer: Answer) -> tuple[int, float] | None:
    """Requests left of the account's steady limit, and for how many seconds; None where it is not said."""
    with contextlib.suppress(ValueError):
        return int(_header(answer, "ratelimit-remaining")), float(_header(answer, "ratelimit-reset"))
    return None


def _is_transient(answer: Answer, status: int) -> bool:
    # A page instead of JSON comes from something in between, such as a CDN's challenge; only of a body
    # too large is it as good a word as the upstream's own.
    between = _is_html(answer) and status != 413
    return status >= 500 or status in _TRANSIENT or 300 <= status < 400 or between


def _attribute(errors: list[_Error], job: Job, status: int) -> Verdict:
    faults: dict[tuple[int, int | None], Fault] = {}
    duplicates: set[tuple[int, int]] = set()
    for error in errors:
        match = _ITEM.fullmatch(error.source.pointer or "") if error.source else None
        if match is None:
            continue
        entry, event, tail = int(match["entry"]), match["event"] or match["short"], match["tail"]
        index = None if event is None else int(event)
        if not _is_in(job, entry, index):
            continue
        if index is not None and tail.endswith("/unique_id"):
            # Its form is checked before it is sent, so only its being there already is left.
            duplicates.add((entry, index))
        else:
            faults.setdefault((entry, index), Fault(error.code, error.detail[:_MAX_DETAIL], tail))
    if faults or duplicates:
        return Attributed(faults, frozenset(duplicates))
    first = errors[0] if errors else _Error(detail=f"HTTP {status} without an explanation.")
    return Unattributed(Fault(first.code, first.detail[:_MAX_DETAIL]))


def _is_in(job: Job, entry: int, event: int | None) -> bool:
    return entry < len(job.entries) and (event is None or event < len(job.entries[entry].events))


def _errors(answer: Answer) -> list[_Error]:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(answer.body, type=_Errors).errors
    return []


def _is_html(answer: Answer) -> bool:
    return "html" in _header(answer, "content-type").lower() or answer.body.lstrip()[:1] == b"<"


def _header(answer: Answer, name: str) -> str:
    return answer.headers.get(name, "")
