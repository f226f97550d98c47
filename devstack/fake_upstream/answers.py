"""Defines the answers: their form, and the JSON:API error envelope that every refusal uses."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import uuid4

import msgspec

JSON_API = "application/vnd.api+json"

_CODES = {
    401: "authentication_failed",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    410: "gone",
    413: "payload_too_large",
    415: "unsupported_media_type",
    429: "throttled",
}
_TITLES = {
    "invalid": "Invalid input.",
    "throttled": "Request was throttled.",
    "not_authenticated": "Authentication credentials were not provided.",
    "authentication_failed": "Incorrect authentication credentials.",
    "permission_denied": "You do not have permission to perform this action.",
    "not_found": "Not found.",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds an HTTP answer; `delay` (seconds) and `ending` tell the transport how to deliver it, or not
    to.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterator[bytes] = b""
    delay: float = 0.0
    ending: Literal["answered", "reset", "hung"] = "answered"


@dataclass(frozen=True, slots=True)
class Problem:
    """Holds one mistake of a document, and the JSON pointer to it."""

    pointer: str
    detail: str
    title: str = _TITLES["invalid"]


class Refused(Exception):
    """Says that the request is refused with this answer and nothing of it is taken."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def code_of(status: int) -> str:
    """Returns the error code that usually goes with a status."""
    return _CODES.get(status, "invalid" if status < 500 else "error")


def error(
    status: int,
    detail: str,
    *,
    code: str | None = None,
    source: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Returns an answer with a single error; `source` defaults to the whole document, `/data`."""
    code = code or code_of(status)
    title = _TITLES.get(code, code.replace("_", " ").capitalize() + ".")
    return _envelope(status, [_error(status, code, title, detail, source or {"pointer": "/data"})], headers)


def invalid(problems: Iterable[Problem]) -> Answer:
    """Returns a 400 with one error for each problem."""
    return _envelope(
        400, [_error(400, "invalid", each.title, each.detail, {"pointer": each.pointer}) for each in problems]
    )


def _envelope(
    status: int, errors: list[dict[str, object]], headers: Mapping[str, str] | None = None
) -> Answer:
    body = msgspec.json.encode({"errors": errors})
    return Answer(status, {"Content-Type": JSON_API, **(headers or {})}, body)


def _error(status: int, code: str, title: str, detail: str, source: Mapping[str, str]) -> dict[str, object]:
    return {
        "id": str(uuid4()),
        "status": status,
        "code": code,
        "title": title,
        "detail": detail,
        "source": source,
        "links": {},
        "meta": {},
    }
