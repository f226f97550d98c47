"""Writes JSON:API error envelopes: the one shape of every refusal (contract: errors)."""

import uuid
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

import msgspec

from sluice import runtime

MEDIA_TYPE: Final = "application/vnd.api+json"
MAX_PROBLEMS_LISTED: Final = 100
MAX_PROBLEMS_COUNTED: Final = 400  # beyond the listed ones: a bound on the work for one refusal
MAX_POINTER: Final = 500

TITLES: Final = {
    "invalid": "Invalid input.",
    "parse_error": "Malformed request.",
    "not_authenticated": "Authentication credentials were not provided.",
    "authentication_failed": "Incorrect authentication credentials.",
    "permission_denied": "You do not have permission to perform this action.",
    "not_found": "Not found.",
    "method_not_allowed": "Method not allowed.",
    "gone": "Revision is no longer available.",
    "payload_too_large": "Request body is too large.",
    "unsupported_media_type": "Unsupported media type.",
    "throttled": "Request was throttled.",
    "error": "A server error occurred.",
    "unavailable": "Service is unavailable.",
}


class Problem(msgspec.Struct, frozen=True):
    """Describes one mistake of a request: a code of the contract, what to put right, and where.

    `pointer` is a JSON pointer into the caller's document, `parameter` a header or query parameter.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


def pointer(*parts: str | int) -> str:
    """Returns a JSON pointer (RFC 6901) to `parts`, or to as many of them as `MAX_POINTER` characters
    hold.
    """
    result = ""
    for part in parts:
        step = pointer_step(part)
        if len(result) + len(step) > MAX_POINTER:
            break
        result += step
    return result


def pointer_step(part: str | int) -> str:
    """Returns one step of a JSON pointer: to a member or an item."""
    return f"/{str(part).replace('~', '~0').replace('/', '~1')}"


def pointer_parts(pointer: str) -> list[str]:
    """Returns the names of members and the numbers of items that a JSON pointer leads through."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def listed(problems: Iterable[Problem]) -> list[Problem]:
    """Returns the first `MAX_PROBLEMS_LISTED` problems and, if there are more, one that counts the rest."""
    found = iter(problems)
    first = list(islice(found, MAX_PROBLEMS_LISTED))
    rest = sum(1 for _ in islice(found, MAX_PROBLEMS_COUNTED + 1))
    if rest:
        more = f"More than {MAX_PROBLEMS_COUNTED}" if rest > MAX_PROBLEMS_COUNTED else f"{rest}"
        first.append(Problem("invalid", f"{more} further problems were found and are not listed.", "/data"))
    return first


def envelope(status: int, problems: Sequence[Problem]) -> bytes:
    """Returns the body of a refusal."""
    return msgspec.json.encode({"errors": [error(status, problem) for problem in problems]})


def error(status: int, problem: Problem) -> dict[str, object]:
    """Returns one problem as JSON:API writes it."""
    source = {"pointer": problem.pointer, "parameter": problem.parameter}
    return {
        "id": str(uuid.UUID(runtime.unique_id())),
        "status": status,
        "code": problem.code,
        "title": TITLES[problem.code],
        "detail": problem.detail,
        "source": {name: value for name, value in source.items() if value is not None},
        "links": {},
        "meta": {},
    }
