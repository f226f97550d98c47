"""Implements `sluicectl accounts`: who may send, and how each account is reached upstream.

No private key is an argument, because a shell keeps those. It is asked for, or read from standard input.
"""

import hashlib
import secrets
import sys
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

from sluice import accounts
from sluice.operate.accounts import (
    ADD,
    ADD_KEY,
    LIST,
    PUT,
    REMOVE,
    REVOKE_KEY,
    ROTATE,
    SHOW,
    AddArguments,
    AddKeyArguments,
    ChangeResult,
    KeyShown,
    ListArguments,
    PutArguments,
    PutResult,
    RemoveArguments,
    RemoveResult,
    RevokeKeyArguments,
    RotateArguments,
    ShowArguments,
)
from sluice.operate.accounts_document import Change
from sluice.validation.json_text import NOT_DECODED
from sluicectl import documents
from sluicectl.deployment import Target, find
from sluicectl.errors import FAULTY, Failure
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen, table

VERSION_FIELD: Final = "version"  # of a shown document: the stored one that it is a copy of
_KEY_BYTES: Final = 17  # of chance in an ingest key
_PARKED_THEN: Final = "parked until the account is added again"
_SIGNS: Final = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


def check(screen: Screen, file: str) -> int:
    """Shows every mistake of an accounts document, without quoting it: it holds keys."""
    stored = accounts.read_written(documents.read_file(file))
    names = [each.id for each in stored.accounts.every()]
    document = {
        "file": file,
        "valid": not stored.flaws,
        "accounts": names,
        "problems": _told(stored.flaws),
    }

    def draw(console: Console) -> None:
        _draw_flaws(console, file, stored.flaws)
        if not stored.flaws:
            console.print(f"{file} is valid: {', '.join(names) or 'no accounts'}.", markup=False)

    screen.show(document, draw)
    return FAULTY if stored.flaws else 0


def listing(screen: Screen, target: Target) -> int:
    """Shows the accounts and the ids of their ingest keys."""
    deployment = find(target)
    found = OperateClient(deployment).call(LIST, ListArguments())

    def draw(console: Console) -> None:
        if found.accounts:
            console.print(
                table(
                    ("account", "kind", "ingest keys"),
                    [(each.id, each.kind, _keys(each.keys)) for each in found.accounts],
                )
            )
        else:
            console.print(
                f"{deployment.name} has no account yet: sluicectl accounts add SITE_ID", markup=False
            )
        _draw_problems(console, found.problems)

    screen.show(found.model_dump(mode="json"), draw)
    return 0


def show(screen: Screen, target: Target) -> int:
    """Shows the accounts document without private keys, so that it can be mended and put again."""
    found = OperateClient(find(target)).call(SHOW, ShowArguments())
    document = {VERSION_FIELD: found.etag, **found.document}
    screen.show(
        document,
        # Not wrapped: it is made to be redirected into a file.
        lambda console: console.print_json(data=document, indent=2),
    )
    for problem in found.problems:
        click.echo(f"left out: {problem}", err=True)
    return 0


def add(screen: Screen, target: Target, account: str, **settings: Any) -> int:
    """Adds an account. Another one of the same id is left as it is."""
    client = OperateClient(find(target))
    arguments = AddArguments(account=account, private_key=_private_key(account), **settings)
    result = client.call(ADD, arguments)
    _show_change(
        screen,
        account,
        result,
        f"Events for {account} are sent within a minute. Its callers need an ingest key:\n"
        f"  sluicectl accounts keys add {account}",
    )
    return 0


def rotate(screen: Screen, target: Target, account: str) -> int:
    """Replaces the key that an account's upstream is called with."""
    client = OperateClient(find(target))
    result = client.call(ROTATE, RotateArguments(account=account, private_key=_private_key(account)))
    _show_change(
        screen,
        account,
        result,
        "The new key is used within a minute. Work that has begun may use the old one for some minutes "
        "more: delete it upstream after 20 minutes.",
    )
    return 0


def add_key(screen: Screen, target: Target, account: str, scopes: Sequence[str]) -> int:
    """Makes an ingest key, and shows it once. It is not sent anywhere, only its hash is."""
    _make_key(screen, OperateClient(find(target)), account, scopes, f"{account} has a new ingest key.")
    return 0


def rotate_key(screen: Screen, target: Target, account: str, key: str) -> int:
    """Makes an ingest key with the scopes of another one. Both work until that one is revoked."""
    client = OperateClient(find(target))
    found = client.call(LIST, ListArguments()).accounts
    keys = [each for one in found if one.id == account for each in one.keys]
    scopes = next((each.scopes for each in keys if each.id == key), None)
    if scopes is None:
        raise Failure(f"{account} has no ingest key {key}: sluicectl accounts list shows those there are.")
    advice = (
        f"{account} has a new ingest key. The old one works as well until you revoke it:\n"
        f"  sluicectl accounts keys revoke {account} {key}"
    )
    _make_key(screen, client, account, scopes, advice)
    return 0


def revoke_key(screen: Screen, target: Target, account: str, key: str) -> int:
    """Revokes an ingest key."""
    result = OperateClient(find(target)).call(REVOKE_KEY, RevokeKeyArguments(account=account, key=key))
    said = "Requests with this key are answered 401 within a minute."
    if not result.keys:
        said += f" {account} has no ingest key any more: sluicectl accounts keys add {account}"
    _show_change(screen, account, result, said)
    return 0


def put(screen: Screen, file: str, target: Target, *, dry_run: bool, sure: bool) -> int:
    """Stores an accounts document if the stored one is that which it was made of, or which was compared."""
    text, version = _document(file)
    deployment = find(target)
    client = OperateClient(deployment)
    arguments = PutArguments(text=text, etag=version, dry_run=True)
    result = client.call(PUT, arguments)
    if result.problems:
        told = {"file": file, "stored": False, "changed": False, "problems": _told(result.problems)}
        screen.show(told, lambda console: _draw_flaws(console, file, result.problems))
        return FAULTY
    removed = [each for each in result.changes if each.how == "removed"]
    if result.changed:
        screen.draw(lambda console: _draw_put(console, result))
        if not dry_run:
            if (removed or result.lost) and not sure:
                _ask_to_remove(screen, removed)
            arguments = PutArguments(text=text, etag=result.etag, remove=True)
            planned = result.warnings
            result = client.call(PUT, arguments)
            _warn_more(screen, result, planned)
    document = {
        "file": file,
        "deployment": deployment.name,
        "stored": result.stored,
        "changed": result.changed,
        "changes": [each.model_dump() for each in result.changes],
        "removed": [_described(each) for each in removed],
        "warnings": [*result.lost, *result.warnings],
        "problems": [],
    }

    def draw(console: Console) -> None:
        if not result.changed:
            said = f"{deployment.name} has this document already: nothing has changed."
        elif result.stored:
            said = f"Stored in {deployment.name}. It is used within a minute."
        else:
            said = f"It would be stored in {deployment.name}."
        console.print(said, markup=False)

    screen.show(document, draw)
    return 0


def remove(screen: Screen, target: Target, account: str, *, sure: bool) -> int:
    """Removes an account, after it said what there is of it in the stack. Asks, unless `sure`."""
    client = OperateClient(find(target))
    plan = client.call(REMOVE, RemoveArguments(account=account, dry_run=True))
    screen.draw(lambda console: _draw_removal(console, account, plan))
    if not sure and not screen.agrees(f"Remove {account}?"):
        raise Failure(f"Nothing is removed. Give --yes to remove {account} without being asked.")
    done = client.call(REMOVE, RemoveArguments(account=account, etag=plan.etag))
    document = {"account": account, **done.model_dump(mode="json", exclude={"etag"})}

    def draw(console: Console) -> None:
        console.print(f"{account} is removed. Nothing is sent for it from a minute from now.", markup=False)
        _draw_warnings(console, done.warnings)

    screen.show(document, draw)
    return 0


def _make_key(
    screen: Screen, client: OperateClient, account: str, scopes: Sequence[str], advice: str
) -> None:
    key = f"pk_{secrets.token_hex(_KEY_BYTES)}"
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    arguments = AddKeyArguments.model_validate({"account": account, "sha256": sha256, "scopes": list(scopes)})
    result = client.call(ADD_KEY, arguments)
    made = next(each for each in result.keys if sha256.startswith(each.id))
    document = {"account": account, "key": made.model_dump(), "ingest_key": key, **_changed(result)}

    def draw(console: Console) -> None:
        _draw_changes(console, result.changes)
        console.print(f"\n  {key}\n", markup=False, soft_wrap=True)
        console.print(
            f"Give it to your callers now: it is shown once and stored nowhere. It works within a minute.\n"
            f"{advice}",
            markup=False,
            soft_wrap=True,
        )
        _draw_problems(console, result.problems)

    screen.show(document, draw)


def _private_key(account: str) -> str:
    """Asks for a private key without showing it; a script writes it to standard input."""
    if sys.stdin.isatty():
        key = click.prompt(f"Private key of {account} upstream", hide_input=True, err=True)
    else:
        key = sys.stdin.readline()
    if not (key := key.strip()):
        raise Failure("No private key was given. It is read from standard input, or asked for on a terminal.")
    return key


def _document(file: str) -> tuple[str, str | None]:
    """Returns the text of a document, and the version that it was made of, if it says so."""
    try:
        document = msgspec.json.decode(documents.read_file(file))
    except NOT_DECODED:
        raise Failure(f"{file} is no JSON: sluicectl accounts show begins a good one.") from None
    version = document.pop(VERSION_FIELD, None) if isinstance(document, dict) else None
    return msgspec.json.encode(document).decode(), version if isinstance(version, str) else None


def _ask_to_remove(screen: Screen, removed: Sequence[Change]) -> None:
    """Raises `Failure` unless the operator says yes."""
    what = ", ".join(map(_described, removed)) or "what cannot be read of the stored document"
    if not screen.agrees(
        f"This removes {what}: callers with such keys are answered 401, and events for such accounts are "
        "parked. Remove?"
    ):
        raise Failure(
            f"Nothing is stored, because it would remove {what}. Keep what is to stay, or give --yes."
        )


def _show_change(screen: Screen, account: str, result: ChangeResult, advice: str) -> None:
    def draw(console: Console) -> None:
        _draw_changes(console, result.changes)
        said = advice if result.changes else "Nothing has changed."
        console.print(said, markup=False, soft_wrap=True)
        _draw_warnings(console, result.warnings)
        _draw_problems(console, result.problems)

    keys = [each.model_dump() for each in result.keys]
    screen.show({"account": account, "keys": keys, **_changed(result)}, draw)


def _changed(result: ChangeResult) -> dict[str, Any]:
    return {
        "changes": [each.model_dump() for each in result.changes],
        "warnings": result.warnings,
        "problems": _told(result.problems),
    }


def _draw_removal(console: Console, account: str, plan: RemoveResult) -> None:
    _draw_changes(console, plan.changes)
    rows = [
        ("waits", f"{_counted(plan.queued, 'message')} on the queue, of all accounts", _PARKED_THEN),
        ("parked", f"{_counted(plan.parked, 'object')}, each of up to 500 messages", _PARKED_THEN),
        ("open", _counted(plan.open, "refused event"), f"sluicectl rejections groups --account {account}"),
        ("webhooks", ", ".join(plan.sources) or "no source", "what is posted there is parked"),
    ]
    console.print(table(("", "there is", "then"), rows))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _draw_put(console: Console, result: PutResult) -> None:
    _draw_changes(console, result.changes)
    _draw_warnings(console, [*result.lost, *result.warnings])


def _warn_more(screen: Screen, result: PutResult, planned: Sequence[str]) -> None:
    """Shows the warnings that were not foreseen."""
    more = [each for each in result.warnings if each not in planned]
    screen.draw(lambda console: _draw_warnings(console, more))


def _draw_warnings(console: Console, warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.print(Text.assemble(("warning: ", "bold yellow"), warning), soft_wrap=True)


def _draw_changes(console: Console, changes: Sequence[Change]) -> None:
    for each in changes:
        sign, style = _SIGNS[each.how]
        console.print(Text(f"{sign} {_described(each)}", style), soft_wrap=True)


def _described(change: Change) -> str:
    return f"{change.account}: {change.what}" if change.what else f"account {change.account}"


def _draw_problems(console: Console, problems: Sequence[str]) -> None:
    for problem in problems:
        console.print(Text.assemble(("problem: ", "bold red"), problem), soft_wrap=True)


def _draw_flaws(console: Console, file: str, flaws: Sequence[str]) -> None:
    for flaw in flaws:
        console.print(f"{file}: {flaw}", markup=False, soft_wrap=True)


def _told(flaws: Sequence[str]) -> list[dict[str, str]]:
    return [{"detail": flaw} for flaw in flaws]


def _keys(keys: Sequence[KeyShown]) -> str | None:
    return "\n".join(f"{each.id} {' '.join(each.scopes)}".rstrip() for each in keys) or None
