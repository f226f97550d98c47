"""JSON:API error envelopes: the one shape every refusal has (contract: errors)."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

MEDIA_TYPE: Final = "application/vnd.api+json"
MAX_PROBLEMS_LISTED: Final = 100

_TITLES: Final = {
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
    """One thing wrong with a request: a code of the contract, what to put right, and where.

    `pointer` is a JSON pointer into the caller's document, `parameter` a header or query parameter.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901) to `parts`."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def envelope(status: int, problems: Sequence[Problem]) -> bytes:
    """The body of a refusal: at most `MAX_PROBLEMS_LISTED` problems, then one that counts the rest."""
    listed: Iterable[Problem] = problems
    if (unlisted := len(problems) - MAX_PROBLEMS_LISTED) > 0:
        more = f"{unlisted} more problems were found and are not listed."
        listed = [*problems[:MAX_PROBLEMS_LISTED], Problem("invalid", more, "/data")]
    return msgspec.json.encode({"errors": [_error(status, problem) for problem in listed]})


def _error(status: int, problem: Problem) -> dict[str, object]:
    source = {"pointer": problem.pointer, "parameter": problem.parameter}
    return {
        "id": str(uuid.uuid4()),
        "status": status,
        "code": problem.code,
        "title": _TITLES[problem.code],
        "detail": problem.detail,
        "source": {name: value for name, value in source.items() if value is not None},
        "links": {},
        "meta": {},
    }
