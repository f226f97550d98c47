"""What a producer put on the queue becomes what ingest would have stored of it.

Nobody waits for an answer here: what a caller would be told is `Undeliverable` and becomes a rejection.
"""

from typing import Any

import msgspec

from sluice import contract, intake
from sluice.accounts import Accounts, is_site_id
from sluice.envelopes import Body
from sluice.errors import Refused, Undeliverable
from sluice.message import Message
from sluice.rejection import Reason


def accept(body: Body, receipt: str, accounts: Accounts) -> Message[Any]:
    """The request that a body is, under this receipt."""
    site_id = _site_id(body.account, accounts)
    content = body.text.encode("utf-8", "surrogatepass")
    surface = _surface(body, content)
    try:
        read = intake.read(surface, content, contract.UPSTREAM_REVISION, body.sent)
    except Refused as refused:
        first = refused.problems[0]
        detail = " ".join(problem.detail for problem in refused.problems[:10])
        reason = Reason.MALFORMED if first.code == "parse_error" else Reason.INVALID
        raise Undeliverable(reason, detail, first.pointer) from refused
    return Message(receipt, site_id, surface, body.sent, read.entries, flat=read.flat)


def _site_id(named: str | None, accounts: Accounts) -> str:
    """Whose a body is. One of an account that the secret does not name (yet) is for dispatch to keep."""
    only = accounts.only()
    if not named and only is not None:
        return only.site_id
    if not named:
        detail = f"Name the account, by its site id: the secret has {len(accounts.accounts)} accounts."
        raise Undeliverable(Reason.INVALID, detail)
    if not is_site_id(named):
        raise Undeliverable(Reason.INVALID, "What names the account is no site id: six letters or digits.")
    return named


def _surface(body: Body, content: bytes) -> contract.Surface:
    try:
        named = contract.Surface(body.surface) if body.surface else None
        surface = named or intake.surface_of(msgspec.json.decode(content))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Undeliverable(Reason.MALFORMED, "The message is not JSON.") from None
    except ValueError:
        names = ", ".join(contract.Surface)
        raise Undeliverable(Reason.INVALID, f"What names the surface must be one of {names}.") from None
    if surface is None:
        detail = "The message is no body of a known surface: 'data.type' names none."
        raise Undeliverable(Reason.INVALID, detail)
    return surface
