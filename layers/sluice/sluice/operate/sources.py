"""Implements the commands `sources show` and `sources put`, on the sources document."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from sluice.errors import Misconfigured, Retryable
from sluice.operate.command import Access, Arguments, Command, Context, Failed, Result
from sluice.operate.ports import Conflict, Secrets, StoredDocument
from sluice.webhooks import normalised, sources
from sluice.webhooks.sources import Source


class ShowArguments(Arguments):
    """Holds no argument."""


class ShowResult(Result):
    """Holds the text of the stored document and its ETag; both are None if there is none yet."""

    text: str | None
    etag: str | None


class PutArguments(Arguments):
    """Holds the text of a document, in JSON, and what to do with it.

    `etag` names the stored document that it replaces, None the absence of one. With `dry_run` nothing is
    stored. Sources are removed only with `remove`.
    """

    text: str
    etag: str | None = None
    dry_run: bool = False
    remove: bool = False


class PutResult(Result):
    """Says whether the document was stored, which sources it removes, and which references lead nowhere."""

    stored: bool
    changed: bool
    removed: list[str]
    warnings: list[str]

    def counts(self) -> dict[str, int]:
        return {"stored": int(self.stored), "removed": len(self.removed)}


def _show(_: ShowArguments, context: Context) -> ShowResult:
    stored = context.ports.sources.read()
    if stored is None:
        return ShowResult(text=None, etag=None)
    text = normalised.remove(stored.content).decode("utf-8", "replace")
    return ShowResult(text=text, etag=stored.etag)


def _put(arguments: PutArguments, context: Context) -> PutResult:
    written = normalised.remove(arguments.text.encode())
    try:
        new = sources.decode(written).sources
    except Misconfigured as error:
        raise Failed("invalid_arguments", f"The document is refused: {error}.") from None
    stored = context.ports.sources.read()
    if (stored.etag if stored else None) != arguments.etag:
        raise _replaced()
    content = sources.to_store(written)
    changed = stored is None or stored.content != content
    removed = sorted(_declared(stored).keys() - new.keys())
    stores = changed and not arguments.dry_run
    if stores and removed and not arguments.remove:
        raise Failed("would_remove", f"This would remove {', '.join(removed)}. Nothing is stored.")
    warnings = find_missing(context.ports.secrets, new.values()) if changed else []
    if stores:
        try:
            context.ports.sources.replace(content=content, etag=arguments.etag)
        except Conflict:
            raise _replaced() from None
    return PutResult(stored=stores, changed=changed, removed=removed, warnings=warnings)


def _replaced() -> Failed:
    return Failed("conflict", "Somebody else stored another document just now. Look at it, and put again.")


def _declared(stored: StoredDocument | None) -> dict[str, Any]:
    """Returns the sources of the stored document by name, valid or not, as far as it can be read."""
    try:
        document = json.loads(stored.content) if stored else None
    except ValueError:
        document = None
    found = document.get("sources") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def of_account(stored: StoredDocument | None, account_id: str) -> list[str]:
    """Returns the names of the sources that name an account, valid or not."""
    return sorted(
        name
        for name, each in _declared(stored).items()
        if isinstance(each, dict) and each.get("account") == account_id
    )


def find_missing(secrets: Secrets, declared: Iterable[Source]) -> list[str]:
    """Returns which accounts and secrets the sources name and the deployment does not have.

    It also names those that could not be looked up, because that is no reason to keep a document back.
    """
    by_name = sorted(declared, key=lambda source: source.name)
    said: list[str] = []
    for look_up, what in ((_missing_accounts, "accounts"), (_missing_secrets, "secrets")):
        try:
            said += look_up(secrets, by_name)
        except (Retryable, Misconfigured) as error:
            said.append(f"The sources' {what} could not be looked up: {error}.")
    return said


def _missing_accounts(secrets: Secrets, declared: Iterable[Source]) -> Iterator[str]:
    known = {account.site_id for account in secrets.accounts().accounts}
    for source in declared:
        if source.account not in known:
            yield (
                f"{source.name}: the account {source.account} is not in the accounts document. "
                "Its events are parked until it is."
            )


def _missing_secrets(secrets: Secrets, declared: Iterable[Source]) -> Iterator[str]:
    for source in declared:
        if not secrets.has_value(secret=source.secret):
            name = secrets.full_name(secret=source.secret)
            yield (
                f"{source.name}: the secret {name} has no value in Secrets Manager. "
                "Deliveries are answered 503 until it has."
            )


SHOW: Final = Command("sources show", Access.READ, ShowArguments, ShowResult, _show)
PUT: Final = Command("sources put", Access.ADMIN, PutArguments, PutResult, _put)
