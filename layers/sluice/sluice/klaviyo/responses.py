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

    `duplicates` are recorded upstream already: they count as delivered. No event is named twice, by itself
    and with its entry.
    """

    faults: dict[tuple[int, int | None], Fault]
    duplicates: frozenset[tuple[int, int]]


type Classification = Accepted | ItemsRejected | JobRejected | RateLimited | Transient | AccountRejected

_ITEM: Final = re.compile(
    r"/data/attributes/events-bulk-create/data/(?P<entry>[^/]+)"
    r"(?:(?:/attributes)?/events/data/(?P<event>[^/]+))?"
    r"(?P<tail>(?:/.*)?)",
    re.DOTALL,
)
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,3}")
_UNIQUE_ID: Final = frozenset({"/attributes/unique_id", "/unique_id"})
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
    return _attributed(errors, job) or JobRejected(fault)


def rate_left(answer: Response) -> tuple[int, float] | None:
    """Returns the requests left of the account's steady limit, and for how many seconds; None if it is not
    said.
    """
    with contextlib.suppress(ValueError):
        remaining = int(header(answer, "ratelimit-remaining"))
        return max(0, remaining), parse_seconds(header(answer, "ratelimit-reset"))
    return None


def _is_about_the_request(errors: list[_Error]) -> bool:
    """Tells whether a header or parameter is at fault: then no event is, and no job will fare better."""
    return any(error.parameter for error in errors) and not any(error.pointer for error in errors)


def _attributed(errors: list[_Error], job: Job) -> ItemsRejected | None:
    """Returns the items that errors point at, if there are any."""
    faults: dict[tuple[int, int | None], Fault] = {}
    duplicates: set[tuple[int, int]] = set()
    for error in errors:
        if (found := _item(error.pointer, job)) is None:
            continue
        entry, event, tail = found
        if event is not None and tail in _UNIQUE_ID:
            # Its form is checked before it is sent, so the only cause left is that it is there already.
            duplicates.add((entry, event))
        else:
            faults.setdefault((entry, event), Fault(error.code, error.detail, tail))
    # A recorded event is delivered, whatever else is said of it. An entry's own fault waits until those of
    # its events are handled: it will be named again.
    in_part = {entry for entry, event in faults.keys() | duplicates if event is not None}
    for entry, event in list(faults):
        if (entry, event) in duplicates or (event is None and entry in in_part):
            del faults[entry, event]
    return ItemsRejected(faults, frozenset(duplicates)) if faults or duplicates else None


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
