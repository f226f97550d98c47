"""What Pipeless's answer to a call means, decided by status and media type, never by an error's text.

Its errors are strings that name no event, so what is bad has to be found by halving.
"""

import contextlib
from typing import Final

import msgspec

from sluice.delivery import responses
from sluice.delivery.responses import AccountFault, Answer, Fault, Taken, Throttled, Transient, Unattributed

type Verdict = Taken | Unattributed | Throttled | Transient | AccountFault

_MAX_DETAIL: Final = 500


def judge(answer: Answer) -> Verdict:
    """What an answer means for the call it is an answer to."""
    if answer.status is None:
        return Transient(None)
    if responses.is_success(answer):
        return Taken()
    if answer.status == 429:
        return Throttled(responses.retry_after(answer))
    if responses.is_passing(answer, answer.status):
        return Transient(answer.status, responses.retry_after(answer))
    said = errors(answer)
    fault = Fault("", " ".join(said)[:_MAX_DETAIL] or f"HTTP {answer.status} without an explanation.")
    return Unattributed(fault) if answer.status in responses.CONTENT else AccountFault(answer.status, fault)


def errors(answer: Answer) -> list[str]:
    """What an answer says is wrong, as far as it says so in the documented shape."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        match msgspec.json.decode(answer.body):
            case {"errors": list(found)}:
                return [each for each in found if isinstance(each, str)]
    return []
