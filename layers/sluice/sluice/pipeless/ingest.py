"""Accepts one batch: admitted, read, stamped, stored as one message. 202 means stored."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

import msgspec

from sluice import contract, message, runtime
from sluice.accounts import Accounts, PipelessApp
from sluice.admission import request
from sluice.errors import Refused
from sluice.jsonapi import Problem
from sluice.message import Body, PipelessMessage
from sluice.pipeless import parser
from sluice.pipeless.schemas import BatchDocument

_AUTHORIZATION: Final = re.compile(r"(?:Bearer[ ]+)?([^\s]+)", re.IGNORECASE)
_WHOLE: Final = {None, "/", "/data", "/data/"}  # pointers to no part of a batch
_APP_ID: Final = re.compile(r"[1-9][0-9]{0,18}")


class Store(Protocol):
    """Stores an encoded message. Once it returns, the events are safe; it may raise `Retryable`."""

    def __call__(self, *, body: Body, account_id: str) -> None:
        """Stores a message."""
        ...


class Accepted(msgspec.Struct, frozen=True):
    """Describes a stored batch: its receipt id, the `id` of its app, the number of its events."""

    receipt: str
    account: str
    events: int


def admit(app_id: str, headers: Mapping[str, str], accounts: Accounts) -> PipelessApp:
    """Returns the app of a request that shows the app's key, or raises `Refused`; `headers` are by lower-case
    name.

    A caller without a key learns nothing about which apps there are.
    """
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", "").strip())
    if match is None:
        raise _refused(401, "not_authenticated", "Send 'Authorization: Bearer' with an API key.")
    found = accounts.by_app_key(match[1])
    if found is None:
        accounts.check_complete()
        raise _refused(401, "authentication_failed", "Incorrect API key.")
    app = accounts.by_app_id(int(app_id)) if _APP_ID.fullmatch(app_id) else None
    if app is None:
        raise _refused(404, "not_found", "There is no such app.")
    owner, key = found
    if owner is not app:
        raise _refused(403, "permission_denied", "This API key is another app's.")
    if contract.SCOPE_EVENTS_WRITE not in key.scopes:
        detail = f"This API key does not have the scope {contract.SCOPE_EVENTS_WRITE}."
        raise _refused(403, "permission_denied", detail)
    return app


def read(app: PipelessApp, headers: Mapping[str, str], body: bytes) -> BatchDocument:
    """Reads the batch in a request's body; raises `Refused` with every problem if it cannot be taken."""
    return parser.read(request.decode_body(headers, body, contract.PIPELESS_MEDIA_TYPES), app)


def accept(app: PipelessApp, batch: BatchDocument, store: Store, now: datetime) -> Accepted:
    """Stores a batch, whole or not at all: once `store` returns, it is safe. Raises what `store` raises."""
    receipt = runtime.unique_id()
    stored = PipelessMessage(receipt, app.app_id, now, parser.stamped(batch.events, now))
    store(body=message.encode(stored), account_id=app.id)
    return Accepted(receipt, app.id, len(batch.events))


def errors(problems: Sequence[Problem]) -> bytes:
    """Returns a refusal's body: errors are strings, each with its place in the caller's document."""
    return msgspec.json.encode({"errors": [_text(problem) for problem in problems]})


def _text(problem: Problem) -> str:
    return problem.detail if problem.pointer in _WHOLE else f"{problem.pointer}: {problem.detail}"


def _refused(status: int, code: str, detail: str) -> Refused:
    return Refused(status, [Problem(code, detail)])
