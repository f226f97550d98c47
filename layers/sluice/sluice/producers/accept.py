"""Turns a producer's message into the request that ingest would have stored.

Nobody waits for an answer here. A refusal is `Undeliverable` and becomes a rejection.
"""

from typing import Any, Final

from sluice import contract
from sluice.accounts import Accounts, KlaviyoAccount, Producer, is_site_id
from sluice.contract import PIPELESS_SURFACE, Surface
from sluice.errors import Refused, Undeliverable
from sluice.klaviyo import parser, problems
from sluice.message import Message, PipelessMessage
from sluice.pipeless import parser as pipeless
from sluice.producers import envelopes
from sluice.producers.envelopes import Body
from sluice.rejection import Reason
from sluice.validation.json_text import encode_text

_NAMED: Final = {surface.value: surface for surface in Surface if surface in parser.BODIES}


class NotABody(Undeliverable):
    """Says that a message is no body of any surface: not JSON, or JSON of another kind."""


def accept(
    body: Body, receipt: str, accounts: Accounts, producer: Producer | None
) -> Message[Any] | PipelessMessage:
    """Returns the request of a body, under this receipt. Without a producer an operator sends it.

    Raises `Retryable` while there is no account that it could belong to.
    """
    content = encode_text(body.text)
    try:
        surface = _surface(body, content)
        if surface is None:
            return _batch(content, body, receipt, accounts, producer)
        account = _account(body.account, accounts, producer)
        shared_ids = account.shared_unique_ids
        read = parser.read(surface, content, contract.UPSTREAM_REVISION, body.sent, shared_ids=shared_ids)
    except Refused as refused:
        first = refused.problems[0]
        detail = " ".join(problem.detail for problem in refused.problems[:10])
        if first.code == "parse_error":
            raise NotABody(Reason.MALFORMED, detail, first.pointer) from refused
        raise Undeliverable(Reason.INVALID, detail, first.pointer) from refused
    return Message(receipt, account.site_id, surface, body.sent, read.entries, flat=read.flat)


def _batch(
    content: bytes, body: Body, receipt: str, accounts: Accounts, producer: Producer | None
) -> PipelessMessage:
    app = accounts.app(body.account)
    if app is None:
        accounts.check_not_empty()
        accounts.check_complete()
        detail = "'account' must name an app of the accounts document: 'pipeless-' and its id."
        raise Undeliverable(Reason.INVALID, detail)
    _check_producer(app.id, accounts, producer)
    batch = pipeless.read(content, app)
    return PipelessMessage(receipt, app.app_id, body.sent, pipeless.stamped(batch.events, body.sent))


def _account(named: str | None, accounts: Accounts, producer: Producer | None) -> KlaviyoAccount:
    """Returns the account of a body, if its producer may send for it."""
    if named and not is_site_id(named):
        raise Undeliverable(Reason.INVALID, "'account' must be a site id: six letters or digits.")
    account = accounts.by_site_id(named) if named else accounts.single_account()
    if account is None:
        accounts.check_not_empty()
        accounts.check_complete()
        detail = f"{named} is not an account of the accounts document."
        if not named:
            number = len(accounts.accounts)
            detail = f"'account' is needed, a site id: the accounts document has {number} accounts."
        raise Undeliverable(Reason.INVALID, detail)
    _check_producer(account.id, accounts, producer)
    return account


def _check_producer(account_id: str, accounts: Accounts, producer: Producer | None) -> None:
    if not accounts.may_send(producer, account_id):
        detail = f"{producer} may not send for {account_id}: 'producers' of the account does not name it."
        raise Undeliverable(Reason.INVALID, detail)


def _surface(body: Body, content: bytes) -> Surface | None:
    """Returns the surface by which the body could have come in; None is Pipeless's route."""
    if body.surface:
        return _named_surface(body.surface)
    problems.check_density(content)
    document = problems.parse_body(Surface.EVENT, content).document
    surface = parser.surface_of(document)
    if surface is None and not pipeless.is_batch(document):
        known = envelopes.name_unsupported(body.text)
        detail = f"It is {known}." if known else "'data.type' names none."
        raise NotABody(Reason.INVALID, f"The message is no body of a known surface. {detail}")
    return surface


def _named_surface(name: str) -> Surface | None:
    if name == PIPELESS_SURFACE:
        return None
    try:
        return _NAMED[name]
    except KeyError:
        names = ", ".join([*_NAMED, PIPELESS_SURFACE])
        raise Undeliverable(Reason.INVALID, f"'surface' must be one of {names}.") from None
