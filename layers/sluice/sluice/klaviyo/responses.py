"""Classifies an upstream's answer to a bulk job, by the contract's table.

Status, media type and pointers decide, never the text of an error.
"""

import contextlib
import re
from typing import Final

import msgspec

from sluice.delivery.responses import (
    CONTENT_STATUSES,
    Accepted,
    AccountRejected,
    Fault,
    JobRejected,
    RateLimited,
    Response,
    Transient,
    header,
    is_success,
    is_transient,
    parse_seconds,
    retry_after,
)
from sluice.klaviyo.packing import Job
from sluice.validation.json_text import NOT_DECODED


class ItemsRejected(msgspec.Struct, frozen=True):
    """Says that nothing was taken because of these items: an entry's index, and an event's or None.

    `duplicates` are events whose unique_id is named: the upstream may have them. No event is named twice, by
    itself and with its entry.
    """

    faults: dict[tuple[int, int | None], Fault]
    duplicates: dict[tuple[int, int], Fault] = {}


type Classification = Accepted | ItemsRejected | JobRejected | RateLimited | Transient | AccountRejected

_ITEM: Final = re.compile(
    r"/data/attributes/events-bulk-create/data/(?P<entry>[^/]+)"
    r"(?:(?:/attributes)?/events/data/(?P<event>[^/]+))?"
    r"(?P<tail>(?:/.*)?)",
    re.DOTALL,
)
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,3}")
_UNIQUE_ID: Final = frozenset({"/attributes/unique_id", "/unique_id"})
_EVENTS_OF_ENTRY: Final = re.compile(r"(/attributes)?(/events(/.*)?)?/?", re.DOTALL)
# Parameters and headers that are the same in every request of an account.
_REQUEST_PARAMETERS: Final = frozenset({"revision", "authorization", "content-type", "accept"})
_MAX_DETAIL: Final = 500
_MAX_TAIL: Final = 1_000


class _Error(msgspec.Struct, frozen=True):
    """Holds the usable parts of one error of an answer."""

    code: str = ""
    detail: str = ""
    pointer: str = ""
    parameter: str = ""  # or header


def classify(answer: Response, job: Job) -> Classification:
    """Classifies an `answer` to `job`."""
    if answer.status is None:
        return Transient(None)
    if is_success(answer):
        return Accepted(header(answer, "x-klaviyo-partial-failure"))
    if answer.status == 429:
        return RateLimited(retry_after(answer))
    if is_transient(answer, answer.status):
        return Transient(answer.status, retry_after(answer))
    errors = _errors(answer)
    first = errors[0] if errors else _Error(detail=f"HTTP {answer.status} without an explanation.")
    fault = Fault(first.code, first.detail)
    if answer.status not in CONTENT_STATUSES or _is_about_the_request(errors):
        return AccountRejected(answer.status, fault)
    return _attributed(errors, job) or JobRejected(fault, answer.status)


def rate_left(answer: Response) -> tuple[int, float] | None:
    """Returns how many requests are left of a minute, and for how many seconds; None if that is not said.

    The headers are of the minute, or of the window that binds, with all windows in a list after its limit:
    `10, 10;w=1, 150;w=60`. The rest of a second is over before anybody could use it.
    """
    with contextlib.suppress(ValueError):
        limit, *policies = header(answer, "ratelimit-limit").replace(" ", "").split(",")
        if policies and not any(policy.startswith(f"{limit};") and ";w=60" in policy for policy in policies):
            return None
        remaining = int(header(answer, "ratelimit-remaining"))
        return max(0, remaining), parse_seconds(header(answer, "ratelimit-reset"))
    return None


def may_be_one_event(tail: str) -> bool:
    """Tells whether a pointer within an entry leads to it or to its events: then one of them may be why."""
    return _EVENTS_OF_ENTRY.fullmatch(tail) is not None


def _is_about_the_request(errors: list[_Error]) -> bool:
    """Tells whether a header that every request has is at fault: then no event is, and no job will fare
    better.
    """
    named = {error.parameter.strip().lower().replace("_", "-").replace(" ", "-") for error in errors}
    return bool(named & _REQUEST_PARAMETERS) and not any(error.pointer for error in errors)


def _attributed(errors: list[_Error], job: Job) -> ItemsRejected | None:
    """Returns the items that errors point at, if there are any."""
    faults: dict[tuple[int, int | None], Fault] = {}
    duplicates: dict[tuple[int, int], Fault] = {}
    for error in errors:
        if (found := _item(error.pointer, job)) is None:
            continue
        entry, event, tail = found
        fault = Fault(error.code, error.detail, tail)
        if event is not None and tail in _UNIQUE_ID:
            # Its form is checked before it is sent, so the only cause left is that it is there already.
            duplicates.setdefault((entry, event), fault)
        else:
            faults.setdefault((entry, event), fault)
    # A recorded event is delivered, whatever else is said of it. An entry's own fault waits until those of
    # its events are handled: it will be named again.
    in_part = {entry for entry, event in faults.keys() | duplicates.keys() if event is not None}
    for entry, event in list(faults):
        if (entry, event) in duplicates or (event is None and entry in in_part):
            del faults[entry, event]
    return ItemsRejected(faults, duplicates) if faults or duplicates else None


def _item(pointer: str, job: Job) -> tuple[int, int | None, str] | None:
    """Returns the entry, event and pointer within it that a pointer leads to, if the job has them."""
    match = _ITEM.fullmatch(pointer)
    if match is None or (entry := _index(match["entry"], len(job.entries))) is None:
        return None
    tail = match["tail"] if len(match["tail"]) <= _MAX_TAIL else ""
    if match["event"] is None:
        return entry, None, tail
    event = _index(match["event"], len(job.entries[entry].events))
    return None if event is None else (entry, event, tail)


def _index(text: str, length: int) -> int | None:
    return int(text) if _INDEX.fullmatch(text) and int(text) < length else None


def _errors(answer: Response) -> list[_Error]:
    """Returns an answer's errors in the documented shape; one of another shape spoils no other."""
    with contextlib.suppress(*NOT_DECODED):
        match msgspec.json.decode(answer.body):
            case {"errors": list(errors)}:
                return [_error(error) for error in errors if isinstance(error, dict)]
    return []


def _error(error: dict[str, object]) -> _Error:
    source = error.get("source")
    where = source if isinstance(source, dict) else {}
    return _Error(
        _text(error.get("code"))[:_MAX_DETAIL],
        _text(error.get("detail"))[:_MAX_DETAIL],
        _text(where.get("pointer")),
        _text(where.get("parameter") or where.get("header")),
    )


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""
