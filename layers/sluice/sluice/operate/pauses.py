"""Implements the commands `accounts pause` and `accounts resume`."""

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import Field

from sluice.operate.command import Access, AccountId, Arguments, Command, Context, Failed, Result

type Why = Annotated[str, Field(min_length=1, max_length=500)]


class PauseArguments(Arguments):
    """Says which account to pause, and why: this is shown as long as the pause lasts."""

    account: AccountId
    why: Why


class PauseResult(Result):
    """Describes the pause that is in force; `changed` says whether it began now."""

    account: str
    changed: bool
    since: datetime
    who: str
    why: str

    def counts(self) -> dict[str, int]:
        return {"changed": int(self.changed)}


class ResumeArguments(Arguments):
    """Says of which account the pause ends; `why` is for the log."""

    account: AccountId
    why: Why | None = None


class ResumeResult(Result):
    """Says whether a pause ended now; else there was none."""

    account: str
    changed: bool

    def counts(self) -> dict[str, int]:
        return {"changed": int(self.changed)}


def _pause(arguments: PauseArguments, context: Context) -> PauseResult:
    account = arguments.account
    if not context.ports.secrets.accounts().names(account):
        raise Failed("unknown_account", f"The accounts document has no account {account}.")
    changed = context.ports.pauses.begin(account_id=account, who=context.who, why=arguments.why)
    pause = context.ports.pauses.find(account_id=account)
    if pause is None:
        raise Failed("conflict", f"Somebody ended the pause of {account} just now. Look at the status.")
    if changed:
        context.log.info("account paused", account=account, who=context.who, why=arguments.why)
    return PauseResult(
        account=account,
        changed=changed,
        since=datetime.fromtimestamp(pause.at, UTC),
        who=pause.who,
        why=pause.why,
    )


def _resume(arguments: ResumeArguments, context: Context) -> ResumeResult:
    # The document need not name it (any more): nobody should be left with a pause that cannot be ended.
    changed = context.ports.pauses.end(account_id=arguments.account)
    if changed:
        context.log.info("account resumed", account=arguments.account, who=context.who, why=arguments.why)
    elif not context.ports.secrets.accounts().names(arguments.account):
        raise Failed("unknown_account", f"The accounts document has no account {arguments.account}.")
    return ResumeResult(account=arguments.account, changed=changed)


PAUSE: Final = Command("accounts pause", Access.ADMIN, PauseArguments, PauseResult, _pause)
RESUME: Final = Command("accounts resume", Access.ADMIN, ResumeArguments, ResumeResult, _resume)
