"""Defines the errors of this package, named by their remedy.

Each says who has to act:

    SluiceError
    ├── Refused          the caller must change the request: an HTTP status and one problem or more
    ├── Undeliverable    nobody can deliver this as it is: it belongs in the rejections, with the reason
    ├── Retryable        nothing is wrong with the request or message: try again later
    └── Misconfigured    an operator must act; it names what to change
"""

import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluice.jsonapi import Problem


class SluiceError(Exception):
    """Marks everything that this package raises on purpose."""


class Refused(SluiceError):
    """Refuses a request, with every problem found in it.

    `headers` go into the answer beside the problems (`Allow`, `Retry-After`).
    """

    def __init__(
        self, status: int, problems: "Sequence[Problem]", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status}: {len(problems)} problem(s)")
        self.status = status
        self.problems = problems
        self.headers = headers or {}


class Undeliverable(SluiceError):
    """Says that a message on the queue can never be delivered as it is.

    `pointer` leads into the message's own document, if the fault has a place in it.
    """

    def __init__(self, reason: str, detail: str, pointer: str | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.pointer = pointer


class Retryable(SluiceError):
    """Says that a service we depend on has a transient fault; `after` is in seconds, if it is known."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


class Misconfigured(SluiceError):
    """Says that a setting or an account document cannot work; the message names it and the remedy."""


def place_of(error: BaseException) -> str:
    """Returns where an unforeseen error was raised. Its text is not for a log: it may quote a payload."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{place.name}:{place.lineno}"
