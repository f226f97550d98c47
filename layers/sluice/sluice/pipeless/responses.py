"""Classifies Pipeless's answer to a call, by status and media type, never by an error's text.

Its errors are strings that name no event, so a bad event has to be found by halving.
"""

import contextlib
from typing import Final

import msgspec

from sluice.delivery import responses
from sluice.delivery.responses import (
    Accepted,
    AccountRejected,
    Fault,
    JobRejected,
    RateLimited,
    Response,
    Transient,
)
from sluice.validation.json_text import NOT_DECODED

type Classification = Accepted | JobRejected | RateLimited | Transient | AccountRejected

_MAX_DETAIL: Final = 500


def classify(answer: Response) -> Classification:
    """Classifies an answer to a call."""
    if answer.status is None:
        return Transient(None)
    if responses.is_success(answer):
        return Accepted()
    if answer.status == 429:
        return RateLimited(responses.retry_after(answer))
    if responses.is_transient(answer, answer.status):
        return Transient(answer.status, responses.retry_after(answer))
    said = errors(answer)
    fault = Fault("", " ".join(said)[:_MAX_DETAIL] or f"HTTP {answer.status} without an explanation.")
    return (
        JobRejected(fault, answer.status)
        if answer.status in responses.CONTENT_STATUSES
        else AccountRejected(answer.status, fault)
    )


def errors(answer: Response) -> list[str]:
    """Returns the errors of an answer, as far as it states them in the documented shape."""
    with contextlib.suppress(*NOT_DECODED):
        match msgspec.json.decode(answer.body):
            case {"errors": list(found)}:
                return [each for each in found if isinstance(each, str)]
    return []
