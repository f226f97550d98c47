"""Sends a synchronous batch straight to Pipeless within the caller's request, and answers with the outcome.

Nothing is stored, so nothing is tried again. If it is not known whether the batch was taken, the answer says
so. This is a module of its own because nothing else in ingest needs HTTP.
"""

import functools
from collections.abc import Mapping
from typing import Final

import msgspec

from sluice import runtime
from sluice.accounts import PipelessApp
from sluice.delivery import http, responses
from sluice.delivery.responses import Accepted, JobRejected, RateLimited, Response
from sluice.pipeless import api
from sluice.pipeless.responses import classify, errors
from sluice.pipeless.schemas import BatchDocument
from sluice.validation.json_text import NOT_DECODED

SECONDS: Final = 10.0  # for the upstream's answer: the function that waits has fifteen


class Reply(msgspec.Struct, frozen=True):
    """Holds the answer to the caller, with JSON as its body."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


def create(app: PipelessApp, private_key: str, batch: BatchDocument) -> Reply:
    """Sends a batch to Pipeless and returns the outcome."""
    body = msgspec.json.encode(batch)
    return reply(runner().run(api.create_events(http.client(), app, private_key, body, SECONDS)))


@functools.cache
def runner() -> runtime.Runner:
    """Returns the process's event loop, to which the connections to the upstream belong."""
    return runtime.new_runner(1)


def reply(answer: Response) -> Reply:
    """Turns an upstream's answer into the caller's, who is not told of faults that are not the batch's."""
    if answer.status is None:
        return _failed(504, "Pipeless did not answer. It may have taken the batch.")
    match classify(answer):
        case Accepted():
            return Reply(answer.status, answer.body if _is_json(answer.body) else b"{}")
        case JobRejected(fault):
            return _failed(answer.status, *(errors(answer) or [fault.detail]))
        case RateLimited(after):
            headers = {} if after is None else {"Retry-After": str(max(1, round(after)))}
            return _failed(
                429,
                "Pipeless had too many requests of this app. Send the batch again later.",
                headers=headers,
            )
        case responses.AccountRejected():
            return _failed(502, "Pipeless refused this gateway's request for the app. Nothing was taken.")
        case _:
            return _failed(502, f"Pipeless failed ({answer.status}). It may have taken the batch.")


def _failed(status: int, *said: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, msgspec.json.encode({"errors": said}), headers or {})


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except NOT_DECODED:
        return False
    return True
