"""Classifies Acme's answers, by status and media type."""

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

type Classification = Accepted | JobRejected | RateLimited | Transient | AccountRejected


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
    fault = Fault("", f"HTTP {answer.status}: {answer.body[:200].decode(errors='replace')}")
    if answer.status in responses.CONTENT_STATUSES:
        return JobRejected(fault, answer.status)
    return AccountRejected(answer.status, fault)
