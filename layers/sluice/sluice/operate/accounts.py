"""Implements the commands `accounts …` on the accounts document.

Each change is made to what is stored at that moment, and stored only if that is so still. So two operators
never overwrite each other. No command shows a private key.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from sluice import accounts
from sluice.accounts import KeyReference, StoredAccounts
from sluice.errors import Misconfigured, Retryable
from sluice.operate import accounts_document, key_storage, sources
from sluice.operate.accounts_document import AccountsDocument, Change, Entry
from sluice.operate.command import Access, AccountId, Arguments, Command, Context, Failed, Result
from sluice.operate.key_storage import NewKey
from sluice.operate.ports import Conflict, StoredDocument

MAX_DOCUMENT_BYTES: Final = 2_000_000  # about five thousand accounts; each process reads all of it
_ATTEMPTS: Final = 5  # of a change, while others make theirs
_SECRET: Final = Field(min_length=1, max_length=1_000, repr=False)

type Scope = Literal["events:write", "events:read"]


class ListArguments(Arguments):
    """Holds no argument."""


class KeyShown(BaseModel):
    """Describes an ingest key: its id is the beginning of its hash."""

    id: str
    scopes: list[str]


class AccountShown(BaseModel):
    """Describes an account and its ingest keys."""

    id: str
    kind: str
    base_url: str
    keys: list[KeyShown]


class ListResult(Result):
    """Holds the valid accounts, and what is wrong with the document."""

    accounts: list[AccountShown]
    problems: list[str]


class ShowArguments(Arguments):
    """Holds no argument."""


class ShowResult(Result):
    """Holds the valid accounts of the document without private keys, its tag, and what is wrong with it."""

    document: dict[str, Any]
    etag: str
    problems: list[str]


class AddArguments(Arguments):
    """Describes a new account; what is None has its default."""

    model_config = ConfigDict(hide_input_in_errors=True)

    account: AccountId
    private_key: Annotated[str, _SECRET]
    base_url: str | None = None
    calls_per_minute: int | None = None
    limit_metrics: bool | None = None
    shared_unique_ids: bool | None = None


class RotateArguments(Arguments):
    """Names an account, and the key to call its upstream with from now on."""

    model_config = ConfigDict(hide_input_in_errors=True)

    account: AccountId
    private_key: Annotated[str, _SECRET]


class AddKeyArguments(Arguments):
    """Names an account, and the hash of a new ingest key that its maker alone knows.

    With `seconds` it ends by itself after so many.
    """

    account: AccountId
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: frozenset[Scope]
    seconds: Annotated[int, Field(ge=1, le=3_600)] | None = None


class RevokeKeyArguments(Arguments):
    """Names an account, and the id of one of its ingest keys."""

    account: AccountId
    key: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{accounts_document.KEY_ID_DIGITS}}}$")]


class ChangeResult(Result):
    """Says what was changed, which keys the account has now, and what is wrong with the document."""

    changes: list[Change]
    keys: list[KeyShown]
    warnings: list[str]
    problems: list[str]

    def counts(self) -> dict[str, int]:
        return {"changes": len(self.changes)}


class RemoveArguments(Arguments):
    """Names an account to remove. `etag` names the stored document that was looked at; a dry run, which
    removes nothing, needs none.
    """

    account: AccountId
    etag: str | None = None
    dry_run: bool = False


class RemoveResult(Result):
    """Says what is removed, and what there is of the account in the stack.

    `queued` counts the messages on the events queue, of all accounts. `parked` counts objects of up to 500
    messages. `open` counts refused events that nobody has dealt with. `sources` post to the account.
    """

    removed: bool
    changes: list[Change]
    queued: int
    parked: int
    open: int
    sources: list[str]
    warnings: list[str]
    etag: str

    def counts(self) -> dict[str, int]:
        return {"removed": int(self.removed)}


class PutArguments(Arguments):
    """Holds the text of a document, in JSON, and what to do with it.

    An account without a private key keeps the one it has. `etag` names the stored document that this one
    replaces. A dry run may leave it out, and stores nothing. Accounts and ingest keys are removed only with
    `remove`.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    text: Annotated[str, Field(repr=False)]
    etag: str | None = None
    dry_run: bool = False
    remove: bool = False


class PutResult(Result):
    """Says what a document changes, or why it is refused, and which stored document that holds for.

    `lost` names what is removed of a stored document that is not valid.
    """

    stored: bool
    changed: bool
    changes: list[Change]
    lost: list[str]
    warnings: list[str]
    problems: list[str]
    etag: str

    def counts(self) -> dict[str, int]:
        return {"stored": int(self.stored), "changes": len(self.changes)}


def _list(_: ListArguments, context: Context) -> ListResult:
    found = accounts.read(context.ports.accounts.read().content)
    shown = [
        AccountShown(
            id=each.id,
            kind=accounts_document.kind_of(each.id).name,
            base_url=each.base_url,
            keys=[
                KeyShown(id=accounts_document.key_id(key.sha256), scopes=sorted(key.scopes))
                for key in each.keys
            ],
        )
        for each in found.accounts.every()
    ]
    return ListResult(accounts=shown, problems=list(found.flaws))


def _show(_: ShowArguments, context: Context) -> ShowResult:
    stored = context.ports.accounts.read()
    found = accounts.read(stored.content)
    document = accounts_document.without_private_keys(found.accounts)
    return ShowResult(document=document, etag=stored.etag, problems=list(found.flaws))


def _add(arguments: AddArguments, context: Context) -> ChangeResult:
    id = arguments.account
    if not accounts.is_account_id(id):
        raise Failed(
            "invalid_arguments",
            f"'{id}' is no account id. Klaviyo's have six letters or digits; an app at Pipeless is called "
            "pipeless-<app_id>.",
        )
    fields = arguments.model_dump(exclude={"account", "private_key"})
    entry = accounts_document.new_entry(id, arguments.private_key, **fields)

    def add(document: AccountsDocument) -> None:
        if id in document.entries():
            raise Failed(
                "exists",
                f"The accounts document has an account {id} already. sluicectl accounts rotate {id} changes "
                "its private key.",
            )
        document.add(id, entry)

    return _change(context, id, add)


def _rotate(arguments: RotateArguments, context: Context) -> ChangeResult:
    field = accounts_document.kind_of(arguments.account).key_field

    def rotate(document: AccountsDocument) -> None:
        _entry(document, arguments.account)[field] = arguments.private_key

    return _change(context, arguments.account, rotate)


def _add_key(arguments: AddKeyArguments, context: Context) -> ChangeResult:
    now = int(context.now.timestamp())
    key: Entry = {"sha256": arguments.sha256, "scopes": sorted(arguments.scopes)}
    if arguments.seconds is not None:
        key["expires"] = now + arguments.seconds

    def add(document: AccountsDocument) -> None:
        entry = _entry(document, arguments.account)
        live = [each for each in accounts_document.listed_keys(entry) if not _is_over(each, now)]
        entry["keys"] = [*live, key]

    return _change(context, arguments.account, add)


def _revoke_key(arguments: RevokeKeyArguments, context: Context) -> ChangeResult:
    def revoke(document: AccountsDocument) -> None:
        entry = _entry(document, arguments.account)
        listed = accounts_document.listed_keys(entry)
        left = [each for each in listed if not _has_id(each, arguments.key)]
        if left == listed:
            raise Failed("unknown_key", f"{arguments.account} has no ingest key {arguments.key}.")
        entry["keys"] = left

    return _change(context, arguments.account, revoke)


def _put(arguments: PutArguments, context: Context) -> PutResult:
    stored = context.ports.accounts.read()
    if arguments.etag != stored.etag and not (arguments.dry_run and arguments.etag is None):
        raise _replaced()
    try:
        new = AccountsDocument(arguments.text.encode())
    except Misconfigured as error:
        raise Failed("invalid_arguments", f"The document is refused: {error}.") from None
    before, valid_before = _stored_entries(stored), accounts.read(stored.content)
    references = accounts_document.references_of(before)
    valid = accounts.read_written(new.content, stored_keys=references.keys())
    problems = valid.flaws
    new.keep_private_keys(before)
    new_keys = [] if problems else _new_keys(context, before, new)
    changes = accounts_document.changes(before, new.entries())
    lost = _losses(valid_before)
    changed = not new.is_as(stored.content)
    stores = changed and not problems and not arguments.dry_run
    warnings = accounts_document.not_alone_any_more(valid_before.accounts, valid.accounts)
    if stores:
        if not arguments.remove and (lost or any(each.how == "removed" for each in changes)):
            raise Failed("would_remove", "This would remove accounts or ingest keys. Nothing is stored.")
        try:
            warnings += _store(context, new, new_keys, references, stored.etag)
        except Conflict:
            raise _replaced() from None
        _log(context, changes)
    return PutResult(
        stored=stores,
        changed=changed,
        changes=changes,
        lost=lost,
        warnings=warnings,
        problems=list(problems),
        etag=stored.etag,
    )


def _remove(arguments: RemoveArguments, context: Context) -> RemoveResult:
    id, ports = arguments.account, context.ports
    stored = ports.accounts.read()
    if not arguments.dry_run and arguments.etag != stored.etag:
        raise _replaced()
    document = AccountsDocument(stored.content)
    _entry(document, id)
    before, references = document.entries(), document.references()
    document.remove(id)
    changes = accounts_document.changes(before, document.entries())
    result = RemoveResult(
        removed=not arguments.dry_run,
        changes=changes,
        queued=ports.backlog.queued(),
        parked=ports.backlog.parked(account_id=id),
        open=sum(group.open for group in ports.records.groups(id)),
        sources=sources.of_account(ports.sources.read(), id),
        warnings=[],
        etag=stored.etag,
    )
    if result.removed:
        try:
            warnings = _store(context, document, [], references, stored.etag)
        except Conflict:
            raise _replaced() from None
        _log(context, changes)
        return result.model_copy(update={"warnings": warnings})
    return result


def _change(context: Context, account_id: str, edit: Callable[[AccountsDocument], None]) -> ChangeResult:
    """Makes one change to the stored document, whatever others change in it meanwhile."""
    for _ in range(_ATTEMPTS):
        stored = context.ports.accounts.read()
        before, after = AccountsDocument(stored.content), AccountsDocument(stored.content)
        edit(after)
        valid = accounts.read_edited(after.content)
        problems = valid.flaws
        if len(problems) > len(before.valid.flaws):
            new = next(each for each in problems if each not in before.valid.flaws)
            raise Failed("invalid_arguments", f"Nothing is stored, because then {new}.")
        new_keys = _new_keys(context, before.entries(), after)
        changes = accounts_document.changes(before.entries(), after.entries())
        warnings = accounts_document.not_alone_any_more(before.valid.accounts, valid.accounts)
        try:
            if changes:
                warnings += _store(context, after, new_keys, before.references(), stored.etag)
        except Conflict:
            continue
        _log(context, changes)
        keys = _shown_keys(after.entries().get(account_id, {}))
        return ChangeResult(changes=changes, keys=keys, warnings=warnings, problems=list(problems))
    raise Failed("conflict", "Others are changing the accounts document all the time. Try again.")


def _new_keys(context: Context, before: Mapping[str, Entry], document: AccountsDocument) -> list[NewKey]:
    """Returns the private keys that a document brings or sends elsewhere.

    In place of one that is stored already, the document refers to it afterwards.
    """
    reader = key_storage.Reader(context.ports.private_keys)
    found: list[NewKey] = []
    for id, entry in document.entries().items():
        kind, old = accounts_document.kind_of(id), before.get(id, {})
        given, base_url = entry.get(kind.key_field), accounts_document.base_url_of(entry, kind)
        reference = accounts_document.reference_of(old, kind)
        is_moved = reference is not None and base_url != accounts_document.base_url_of(old, kind)
        if not isinstance(given, str) and not is_moved:
            continue
        kept = reader.find(reference) if reference else None
        if not isinstance(given, str):
            if kept is None:
                raise Failed(
                    "invalid_arguments",
                    f"The private key of {id} is gone: sluicectl accounts rotate {id} stores one.",
                )
            found.append(NewKey(id, kept.key, base_url))
        elif kept is not None and (kept.key, kept.base_url) == (given, base_url):
            entry[kind.key_field] = old[kind.key_field]
        else:
            found.append(NewKey(id, given, base_url))
    return found


def _store(
    context: Context,
    document: AccountsDocument,
    new_keys: Iterable[NewKey],
    before: Mapping[str, KeyReference],
    etag: str,
) -> list[str]:
    """Stores private keys, then the document that refers to them; returns what the operator has to know.

    `before` has the references of the document that is replaced. Raises `Conflict` if that is another one.
    """
    if len(document.content) > MAX_DOCUMENT_BYTES:
        raise Failed(
            "too_large",
            f"The accounts document would have {len(document.content):,} bytes, and may have "
            f"{MAX_DOCUMENT_BYTES:,}.",
        )
    secrets = context.ports.private_keys
    stored = key_storage.store(secrets, new_keys, before)
    document.refer(stored.references)
    try:
        context.ports.accounts.replace(content=document.content, etag=etag)
    except Conflict:
        _remove_keys(context, stored.references, before)
        raise
    warnings = [
        f"An earlier change of {account} had ended halfway and left a private key that nobody used. It is "
        "removed."
        for account in stored.abandoned
    ]
    after = document.references()
    removed = {id: reference for id, reference in before.items() if id not in after}
    if not _remove_keys(context, removed, after):
        warnings.append(
            f"The private keys of {', '.join(sorted(removed))} could not be removed now. Nobody uses them, "
            "and a later change of private keys removes them."
        )
    return warnings


def _remove_keys(
    context: Context, unused: Mapping[str, KeyReference], used: Mapping[str, KeyReference]
) -> bool:
    """Removes private keys that no document refers to; returns False if that fails, which harms nobody."""
    try:
        key_storage.remove(context.ports.private_keys, unused.values(), used)
    except Retryable as error:
        context.log.warning("private keys not removed", accounts=sorted(unused), cause=str(error))
        return False
    return True


def _log(context: Context, changes: Iterable[Change]) -> None:
    for each in changes:
        what = each.what and each.what.partition(":")[0]  # the names of fields, and not their values
        context.log.info(
            "accounts document changed", account=each.account, how=each.how, what=what, who=context.who
        )


def _stored_entries(stored: StoredDocument) -> dict[str, Entry]:
    """Returns what is stored; nothing of a document that cannot be read, which has to be replaced."""
    try:
        return AccountsDocument(stored.content).entries()
    except Misconfigured:
        return {}


def _losses(found: StoredAccounts) -> list[str]:
    """Returns what no list of changes names, because the stored document does not say whose it is."""
    if not found.is_readable:
        return [f"All of the stored document is replaced: {found.flaws[0]}."]
    nameless = found.flawed.count(None)
    return [f"Entries that name no account are removed: {nameless}."] if nameless else []


def _entry(document: AccountsDocument, account_id: str) -> Entry:
    entry = document.entries().get(account_id)
    if entry is None:
        raise Failed("unknown_account", f"The accounts document has no account {account_id}.")
    return entry


def _is_over(key: object, now: int) -> bool:
    match key:
        case {"expires": int(expires)}:
            return expires <= now
        case _:
            return False


def _has_id(key: object, key_id: str) -> bool:
    match key:
        case {"sha256": str(sha256)}:
            return accounts_document.key_id(sha256) == key_id
        case _:
            return False


def _shown_keys(entry: Entry) -> list[KeyShown]:
    keys = accounts_document.keys_of(entry)
    return [KeyShown(id=accounts_document.key_id(sha256), scopes=scopes) for sha256, scopes in keys.items()]


def _replaced() -> Failed:
    return Failed(
        "conflict",
        "Somebody else changed the accounts document since it was read. Look at it, and try again.",
    )


LIST: Final = Command("accounts list", Access.READ, ListArguments, ListResult, _list)
# It has the hashes of ingest keys, which tell a key that can be guessed.
SHOW: Final = Command("accounts show", Access.ADMIN, ShowArguments, ShowResult, _show)
ADD: Final = Command("accounts add", Access.ADMIN, AddArguments, ChangeResult, _add)
ROTATE: Final = Command("accounts rotate", Access.ADMIN, RotateArguments, ChangeResult, _rotate)
ADD_KEY: Final = Command("accounts keys add", Access.ADMIN, AddKeyArguments, ChangeResult, _add_key)
REVOKE_KEY: Final = Command(
    "accounts keys revoke", Access.ADMIN, RevokeKeyArguments, ChangeResult, _revoke_key
)
REMOVE: Final = Command("accounts remove", Access.ADMIN, RemoveArguments, RemoveResult, _remove)
PUT: Final = Command("accounts put", Access.ADMIN, PutArguments, PutResult, _put)
