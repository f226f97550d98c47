"""Defines the commands of `sluicectl`, their common options, and their exit codes."""

import functools
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import click
from pydantic import ValidationError

from sluice import __version__
from sluice.contract import SCOPE_EVENTS_READ, SCOPE_EVENTS_WRITE
from sluice.operate import door
from sluice.operate.replay_commands import MAX_WHY
from sluice.records.record import State
from sluice.rejection import Reason
from sluicectl import (
    accounts,
    completion,
    erase,
    jobs,
    logs,
    parked,
    pauses,
    probe,
    rejections,
    replays,
    smoke,
    sources,
    status,
)
from sluicectl.deployment import Target
from sluicectl.errors import Failure
from sluicectl.imports import declaration, importer
from sluicectl.moments import MOMENT
from sluicectl.screen import Screen

_EPILOG = """\b
Exit codes:
  0  done, and nothing is wrong
  1  the document or the payload has problems
  2  wrong usage: an unknown command or option, a missing file
  3  the deployment cannot be reached: credentials, stack, permission, network

\b
On AWS your own credentials are used, as by the AWS CLI (AWS_PROFILE, aws sso login, …).
With --local it is the stack that `make up` started on this machine.
"""
_DECLARATION = click.Path(exists=True, dir_okay=False)
_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)


@click.group(
    epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="sluicectl", message="%(prog)s %(version)s")
def sluicectl() -> None:
    """Operates a deployment of Sluice."""


def _said(command: Callable[..., int]) -> Callable[..., None]:
    """Gives a command its screen, and turns its end into an exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Write one JSON document instead of text.")
    @functools.wraps(command)
    def run(*arguments: Any, as_json: bool, **options: Any) -> None:
        screen = Screen(as_json=as_json)
        try:
            code = command(screen, *arguments, **options)
        except Failure as failure:
            screen.fail(failure)
            code = failure.exit_code
        except ValidationError as error:  # an argument of the command that is called, and not its answer
            raise click.UsageError(door.first_mistake(error)) from None
        click.get_current_context().exit(code)

    return run


def _targeted(command: Callable[..., int]) -> Callable[..., int]:
    """Gives a command the options that say which deployment is meant, as one `Target`."""

    @click.option(
        "--stack", envvar="SLUICE_STACK", default="sluice", show_default=True, help="Name of the stack."
    )
    @click.option(
        "--region",
        envvar="AWS_REGION",  # which the AWS CLI knows, but not its SDK
        help="Region of the stack; else the one your AWS configuration says.",
    )
    @click.option("--aws-profile", help="Profile of your AWS configuration.")
    @click.option("--local", is_flag=True, help="The stack that make up started on this machine.")
    @functools.wraps(command)
    def run(
        *arguments: Any,
        stack: str,
        region: str | None,
        aws_profile: str | None,
        local: bool,
        **options: Any,
    ) -> int:
        return command(*arguments, target=Target(stack, region, aws_profile, local), **options)

    return run


@sluicectl.group("accounts", short_help="Which accounts events are sent to, and who may send.")
def _accounts() -> None:
    """Manages the accounts document: which accounts events are sent to, and who may send.

    An account is named by its site id, an app at Pipeless as pipeless-<app_id>. Private keys are asked for,
    or read from standard input. A file that is given as - is standard input. Changes are used within a
    minute.

    \b
    sluicectl accounts add AbC123                  # asks for its private key
    sluicectl accounts keys add AbC123             # a key for its callers
    """


@_accounts.command("check")
@click.argument("file", type=_FILE)
@_said
def _check_accounts(screen: Screen, file: str) -> int:
    """Shows every mistake of an accounts document, before it is stored.

    It asks no deployment, and prints no key.
    """
    return accounts.check(screen, file)


@_accounts.command("list")
@_said
@_targeted
def _list_accounts(screen: Screen, target: Target) -> int:
    """Shows the accounts, and the ids of their ingest keys."""
    return accounts.listing(screen, target)


@_accounts.command("show")
@_said
@_targeted
def _show_accounts(screen: Screen, target: Target) -> int:
    """Shows the accounts document without private keys.

    It can be mended and put again. Accounts then keep the private keys that are stored.
    """
    return accounts.show(screen, target)


@_accounts.command("add")
@click.argument("account")
@click.option("--base-url", help="Where its events are sent; else the vendor's own URL.")
@click.option("--calls-per-minute", type=int, help="Calls to Pipeless at most.")
@click.option("--limit-metrics", is_flag=True, default=None, help="Refuse the 201st metric.")
@click.option(
    "--shared-unique-ids", is_flag=True, default=None, help="Let web pages and servers share unique_ids."
)
@_said
@_targeted
def _add_account(screen: Screen, account: str, target: Target, **settings: Any) -> int:
    """Adds an account, and leaves all others as they are.

    \b
    sluicectl accounts add AbC123 < private-key.txt
    sluicectl accounts add pipeless-123 --calls-per-minute 300
    """
    return accounts.add(screen, target, account, **settings)


@_accounts.command("rotate")
@click.argument("account")
@click.option("--key", metavar="KEY", help="Make an ingest key beside this one instead; both work.")
@_said
@_targeted
def _rotate_account(screen: Screen, account: str, target: Target, key: str | None) -> int:
    """Replaces the private key that the account's upstream is called with.

    Make a new key there first, and delete the old one 20 minutes after this. Nothing is lost with a key that
    does not work: events are parked until the next one.
    """
    if key is None:
        return accounts.rotate(screen, target, account)
    return accounts.rotate_key(screen, target, account, key)


@_accounts.command("put")
@click.argument("file", type=_FILE)
@click.option("--dry-run", is_flag=True, help="Show what would change, and store nothing.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Remove accounts and keys without being asked.")
@_said
@_targeted
def _put_accounts(screen: Screen, file: str, target: Target, dry_run: bool, sure: bool) -> int:
    """Stores an accounts document in place of the one that it was made of.

    It shows the changes, and asks before it removes an account or an ingest key. An account without a private
    key keeps the one that is stored.

    \b
    sluicectl accounts show > accounts.json
    sluicectl accounts put accounts.json
    """
    return accounts.put(screen, file, target, dry_run=dry_run, sure=sure)


@_accounts.command("remove")
@click.argument("account")
@click.option("--yes", "-y", "sure", is_flag=True, help="Remove it without being asked.")
@_said
@_targeted
def _remove_account(screen: Screen, account: str, target: Target, sure: bool) -> int:
    """Removes an account with its keys, after it has shown what waits, is parked or is open for it.

    Its callers are answered 401. Messages on the way are parked, and come back if the account is added again.
    """
    return accounts.remove(screen, target, account, sure=sure)


@_accounts.group("keys", short_help="The keys with which callers send events.")
def _keys() -> None:
    """Manages ingest keys: with these callers send events to Sluice, and to nothing else."""


@_keys.command("add")
@click.argument("account")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([SCOPE_EVENTS_WRITE, SCOPE_EVENTS_READ]),
    default=[SCOPE_EVENTS_WRITE],
    show_default=True,
    help="Lets the key do this; may be repeated.",
)
@_said
@_targeted
def _add_key(screen: Screen, account: str, target: Target, scopes: tuple[str, ...]) -> int:
    """Makes an ingest key for an account's callers, beside those it has.

    The key is made on this machine and shown once. Only its hash is sent and stored.
    """
    return accounts.add_key(screen, target, account, scopes)


@_keys.command("revoke")
@click.argument("account")
@click.argument("key")
@_said
@_targeted
def _revoke_key(screen: Screen, account: str, key: str, target: Target) -> int:
    """Revokes an ingest key, by the id that accounts list shows."""
    return accounts.revoke_key(screen, target, account, key)


@_accounts.command("pause")
@click.argument("account")
@click.option("--why", required=True, help="Shown in the status as long as the pause lasts.")
@_said
@_targeted
def _pause_account(screen: Screen, account: str, target: Target, why: str) -> int:
    """Sends nothing of an account until it is resumed.

    Its events are accepted and parked meanwhile. No probe ends the pause.
    """
    return pauses.pause(screen, target, account, why=why)


@_accounts.command("resume")
@click.argument("account")
@click.option("--why", help="Kept in the log.")
@_said
@_targeted
def _resume_account(screen: Screen, account: str, target: Target, why: str | None) -> int:
    """Ends the pause of an account. Parked messages come back within a minute or two."""
    return pauses.resume(screen, target, account, why=why)


@sluicectl.command("logs")
@click.option("--since", type=MOMENT, default="1h", show_default=True, help="A time, or 90min, 12h, 7d ago.")
@_said
@_targeted
def _logs(screen: Screen, target: Target, since: datetime) -> int:
    """Shows what the functions of the local stack logged. On AWS, it says how to read the logs."""
    return logs.show(screen, target, since=since)


@sluicectl.group("parked", short_help="Messages that wait for paused or unknown accounts.")
def _parked() -> None:
    """Deals with messages that wait for accounts that are paused, or that do not exist.

    Messages that wait for an open circuit come back by themselves.
    """


@_parked.command("list")
@_said
@_targeted
def _parked_list(screen: Screen, target: Target) -> int:
    """Shows what is parked, account by account."""
    return parked.listing(screen, target)


@_parked.command("release")
@click.argument("account")
@click.option("--yes", "-y", "sure", is_flag=True, help="Do it without being asked.")
@_said
@_targeted
def _parked_release(screen: Screen, account: str, target: Target, sure: bool) -> int:
    """Sends what is parked for a paused account, although it is paused."""
    return parked.release(screen, target, account, sure=sure)


@_parked.command("reroute")
@click.argument("account")
@click.option("--to", required=True, help="The account that gets the events instead.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Do it without being asked.")
@_said
@_targeted
def _parked_reroute(screen: Screen, account: str, target: Target, to: str, sure: bool) -> int:
    """Sends what is parked for an account to another account."""
    return parked.reroute(screen, target, account, to=to, sure=sure)


@_parked.command("discard")
@click.argument("account")
@click.option("--why", required=True, help="Kept with each of the dead letters.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Do it without being asked.")
@_said
@_targeted
def _parked_discard(screen: Screen, account: str, target: Target, why: str, sure: bool) -> int:
    """Archives what is parked for an account as dead letters, which can be replayed."""
    return parked.discard(screen, target, account, why=why, sure=sure)


@sluicectl.command("console")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=7483,
    show_default=True,
    help="Port of 127.0.0.1; 0 takes any.",
)
@_said
@_targeted
def _console(screen: Screen, target: Target, port: int) -> int:
    """Serves a page on this machine, to operate the deployment with a browser.

    It prints the page's address, which has a token. The page does what you may do, with your credentials.
    """
    from sluicectl.console import server  # noqa: PLC0415 - no other command needs a web server

    return server.run(screen, target, port=port)


@sluicectl.command("status")
@click.option("--watch", is_flag=True, help="Show it again every 5 s, until it is interrupted.")
@_said
@_targeted
def _status(screen: Screen, target: Target, watch: bool) -> int:
    """Shows how the deployment is doing: accounts, queues, the last hour, alarms.

    Accounts in trouble come first.
    """
    return status.show(screen, target, watch=watch)


@sluicectl.command("completion")
@click.argument("shell", type=click.Choice(list(completion.SHELLS)))
@_said
def _completion(screen: Screen, shell: str) -> int:
    """Shows the script by which a shell completes commands and options.

    \b
    source <(sluicectl completion bash)     # in ~/.bashrc
    source <(sluicectl completion zsh)      # in ~/.zshrc, after compinit
    sluicectl completion fish | source      # in ~/.config/fish/config.fish
    """
    return completion.show(screen, sluicectl, shell)


@sluicectl.command("probe", short_help="Ask a real account what Klaviyo's documents leave open.")
@click.argument("account", metavar="SITE_ID")
@click.option("--accounts", "file", type=_FILE, help="The accounts document with the account's key.")
@click.option("--base-url", metavar="URL", help="Ask there; else where the document says, or at Klaviyo.")
@click.option(
    "--email-domain", default="example.com", show_default=True, help="Domain of the test profiles' addresses."
)
@click.option(
    "--pause",
    type=click.FloatRange(0, 600),
    default=30.0,
    show_default=True,
    help="Seconds to wait before an event is repeated, because Klaviyo processes it after its answer.",
)
@click.option("--write", "directory", metavar="FOLDER", help="Write there; else to probe-SITE_ID-DATE.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Send without being asked.")
@_said
def _probe(screen: Screen, account: str, **options: Any) -> int:
    """Asks an account at Klaviyo what Klaviyo's documents leave open, with marked test events.

    It shows which assumptions of docs/compatibility.md hold, and writes two files: settings.json, with which
    the fake upstream behaves as the account did, and exchanges.json, all questions and answers without the
    key. The key is read from the accounts document, from KLAVIYO_PRIVATE_KEY, or asked for. Use a test
    account: the events stay there.

    \b
    sluicectl probe AbC123 --accounts accounts.json
    """
    return probe.probe(screen, account, **options)


@sluicectl.command("import", short_help="Send the rows of a file, CSV or JSON lines, as events.")
@click.argument("file")
@click.option("--map", "map_file", type=_DECLARATION, help="A mapping of its rows, in YAML or JSON.")
@click.option("--preset", type=click.Choice(declaration.presets()), help="The mapping of a known export.")
@click.option("--account", help="Site id of the account, where the deployment has several.")
@click.option("--dry-run", is_flag=True, help="Show the first events and every bad row, and send nothing.")
@click.option("--trigger-flows", is_flag=True, help="Let the events trigger flows: without backfill.")
@_said
@_targeted
def _import(
    screen: Screen, file: str, *, map_file: str | None, preset: str | None, target: Target, **options: Any
) -> int:
    """Sends the rows of a file as events.

    FILE is CSV or JSON lines, plain, gzipped or compressed with Zstandard, on this machine or
    s3://BUCKET/KEY. Rows that become no event are rejections. A second run goes on where the first one ended,
    and sends nothing twice.

    \b
    sluicectl import orders_export.csv --preset shopify-orders --dry-run
    sluicectl import s3://exports/points.csv.gz --map points.yaml
    """
    if map_file is not None and preset is None:
        declared = declaration.load_file(map_file)
    elif preset is not None and map_file is None:
        declared = declaration.load_preset(preset)
    else:
        raise click.UsageError("Give one of --map FILE and --preset NAME: what the rows become.")
    return importer.run(screen, file, target, declared, **options)


def _selecting(command: Callable[..., int]) -> Callable[..., int]:
    """Gives a command the options that say which rejections are meant."""
    options = (
        click.option("--group", help="Of one group of rejections."),
        click.option("--account", help="Of one account."),
        click.option("--reason", type=click.Choice([each.value for each in Reason]), help="For one reason."),
        click.option("--metric", help="Of one metric."),
        click.option("--profile", help="Of one person: an e-mail address, phone number or id."),
        click.option("--source", help="Of one webhook source."),
        click.option("--receipt", help="Of one request."),
        click.option("--since", type=MOMENT, help="Rejected since: a time, or 90min, 12h, 7d ago."),
        click.option("--until", type=MOMENT, help="Rejected before: a time, or 90min, 12h, 7d ago."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@sluicectl.group("rejections", short_help="Refused events: find, understand, mend and send them again.")
def _rejections() -> None:
    """Finds refused events, shows why they were refused, and sends them again.

    \b
    sluicectl rejections groups                                  # what is wrong
    sluicectl rejections list --group 3f9a1c2e7b04               # whose events
    sluicectl rejections replay --group 3f9a1c2e7b04 --fault '"EUR"'
    """


@_rejections.command("groups")
@click.option("--account", help="Of one account.")
@click.option("--all", "settled", is_flag=True, help="Also groups of which nothing is open.")
@_said
@_targeted
def _rejection_groups(screen: Screen, target: Target, account: str | None, settled: bool) -> int:
    """Shows refused events by cause: one line for all that were refused for the same reason.

    The causes with the most open events come first.
    """
    return rejections.groups(screen, target, account=account, settled=settled)


@_rejections.command("list")
@click.option("--state", type=click.Choice([each.value for each in State]), help="In one state.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="ID", help="Go on after the last one of an earlier list.")
@_said
@_targeted
@_selecting
def _rejection_list(screen: Screen, target: Target, limit: int, after: str | None, **selection: Any) -> int:
    """Shows rejections, the last accepted ones first."""
    return rejections.listing(screen, target, limit=limit, after=after, **selection)


@_rejections.command("show")
@click.argument("record_id", metavar="ID")
@click.option("--reveal", is_flag=True, help="Show the payload with personal data; this is logged.")
@_said
@_targeted
def _rejection_show(screen: Screen, record_id: str, target: Target, reveal: bool) -> int:
    """Shows one rejection: whose, when, why, what it means, and what to do about it."""
    return rejections.show(screen, target, record_id, reveal=reveal)


@_rejections.command("index")
@click.option("--after", metavar="KEY", help="Go on after an object, where an earlier run ended.")
@_said
@_targeted
def _rejection_index(screen: Screen, target: Target, after: str | None) -> int:
    """Writes the records that are missing, from the archive.

    It is for a records table that was lost, or for an archive of an older version. Records that are there
    stay as they are. It can be run again.
    """
    return rejections.index(screen, target, after=after)


@_rejections.command("export")
@click.option("--state", type=click.Choice([each.value for each in State]), help="In one state.")
@click.option("--limit", type=click.IntRange(1), help="At most so many; else all.")
@click.option("--reveal", is_flag=True, help="With personal data in the payloads; this is logged.")
@_said
@_targeted
@_selecting
def _rejection_export(
    screen: Screen, target: Target, limit: int | None, reveal: bool, **selection: Any
) -> int:
    """Writes rejections with their payloads as JSON lines."""
    return rejections.export(screen, target, limit=limit, reveal=reveal, **selection)


class _Id(click.ParamType[str]):
    """Reads an id of so many hexadecimal digits."""

    def __init__(self, name: str, digits: int) -> None:
        self.name = name
        self._form = re.compile(rf"[0-9a-f]{{{digits}}}")
        self._digits = digits

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not self._form.fullmatch(value):
            self.fail(f"'{value}' is no id: it has {self._digits} hexadecimal digits.", param, ctx)
        return str(value)


_RECORD: Final = _Id("id", 32)
_JOB: Final = _Id("job", 20)


def _json(_: click.Context, parameter: click.Parameter, given: str | None) -> tuple[Any, ...]:
    """Reads a JSON value, as a tuple that is empty where none is given."""
    return () if given is None else (_parsed(given, parameter),)


def _changes(_: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """Reads values by the pointers where they are to be set."""
    changes = {}
    for each in given:
        pointer, equals, value = each.partition("=")
        if not equals:
            raise click.BadParameter(f"it is written POINTER=JSON, not '{each}'.")
        changes[pointer] = _parsed(value, parameter)
    return changes


def _patch(_: click.Context, parameter: click.Parameter, given: str | None) -> Any:
    """Reads a patch from a file."""
    if given is None:
        return None
    with click.open_file(given) as file:
        patch = _parsed(file.read(), parameter)
    if not isinstance(patch, list):
        raise click.BadParameter("a patch of RFC 6902 is an array of operations.")
    return patch


def _short(_: click.Context, __: click.Parameter, given: str) -> str:
    """Reads a reason that fits into a record."""
    if not 1 <= len(given.strip()) <= MAX_WHY:
        raise click.BadParameter(f"say it in 1 to {MAX_WHY} characters.")
    return given.strip()


def _parsed(text: str, parameter: click.Parameter) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        hint = f" A text is written '\"{shown}\"'." if parameter.name != "patch" and shown.isalnum() else ""
        raise click.BadParameter(f"{shown} is no JSON.{hint}") from None


@_rejections.command("replay")
@click.argument("ids", nargs=-1, type=_RECORD, metavar="[ID]...")
@click.option(
    "--set", "changes", multiple=True, metavar="POINTER=JSON", callback=_changes, help="Set a value."
)
@click.option("--remove", "removed", multiple=True, metavar="POINTER", help="Remove what is there.")
@click.option("--fault", metavar="JSON", callback=_json, help="Set this at each one's own refused place.")
@click.option("--patch", type=_FILE, callback=_patch, help="Apply a patch (RFC 6902) from a file.")
@click.option("--trigger-flows", is_flag=True, help="Let flows start for events older than a day.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent and what not, and send nothing.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Send without being asked.")
@_said
@_targeted
@_selecting
def _rejection_replay(
    screen: Screen,
    target: Target,
    *,
    changes: dict[str, Any],
    removed: tuple[str, ...],
    fault: tuple[Any, ...],
    patch: Any,
    **options: Any,
) -> int:
    """Sends refused events again, mended, and waits until it is known what became of them.

    It shows first how many can be sent now, how many not and why, and one of them before and after, and asks.
    An event keeps its unique_id and time, so sending it twice counts once. Events older than a day start no
    flow. Pointers lead into the payload that `rejections show` shows.

    \b
    sluicectl rejections replay --group 3f9a1c2e7b04 --fault '"EUR"'
    sluicectl rejections replay 0190… --set /events/0/value=9.9 --remove /profile/attributes/phone_number
    """
    mend = replays.mend_of(changes=changes, removed=removed, fault=fault, patch=patch)
    return replays.replay(screen, target, mend=mend, **options)


@_rejections.command("discard")
@click.argument("ids", nargs=-1, type=_RECORD, metavar="[ID]...")
@click.option(
    "--why", required=True, callback=_short, help="The reason, which the record keeps: up to 60 characters."
)
@click.option("--dry-run", is_flag=True, help="Count them, and change nothing.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Discard without being asked.")
@_said
@_targeted
@_selecting
def _rejection_discard(screen: Screen, target: Target, **options: Any) -> int:
    """Marks open rejections as not needed. For a day, `rejections restore` takes it back."""
    return replays.discard(screen, target, **options)


@_rejections.command("restore")
@click.argument("ids", nargs=-1, type=_RECORD, metavar="[ID]...")
@_said
@_targeted
@_selecting
def _rejection_restore(screen: Screen, target: Target, **options: Any) -> int:
    """Opens rejections again that were discarded within a day."""
    return replays.restore(screen, target, **options)


@sluicectl.group("jobs", short_help="Long work: replays, imports and erasures.")
def _jobs() -> None:
    """Shows long work: replays, imports and erasures. Replays and erasures go on by themselves."""


@_jobs.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="At most so many."
)
@_said
@_targeted
def _job_list(screen: Screen, target: Target, limit: int) -> int:
    """Shows jobs, the newest first."""
    return jobs.listing(screen, target, limit=limit)


@_jobs.command("show")
@click.argument("job_id", type=_JOB, metavar="JOB")
@_said
@_targeted
def _job_show(screen: Screen, job_id: str, target: Target) -> int:
    """Shows how far a job is."""
    return jobs.show(screen, target, job_id)


@_jobs.command("cancel")
@click.argument("job_id", type=_JOB, metavar="JOB")
@_said
@_targeted
def _job_cancel(screen: Screen, job_id: str, target: Target) -> int:
    """Cancels a job: it does nothing more. Its events that are sent stay sent, and erased ones erased."""
    return jobs.cancel(screen, target, job_id)


@sluicectl.command("smoke", short_help="Send one event the whole way, to see that it comes through.")
@click.argument("account")
@click.option("--profile", required=True, metavar="EMAIL", help="The profile that the event is of.")
@click.option("--api", envvar="SLUICE_API", metavar="URL", help="The stack's output ApiUrl.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Send without being asked.")
@_said
@_targeted
def _smoke(screen: Screen, account: str, target: Target, **options: Any) -> int:
    """Sends one event to an account, and follows it step by step: accepted, on the queue, delivered.

    The event is marked: its metric is 'Sluice smoke test', and it starts no flow. It creates a profile at
    Klaviyo, so the command asks first. The ingest key that it makes is revoked at the end, and expires by
    itself.

    \b
    sluicectl smoke AbC123 --profile you@example.com --api "$(output ApiUrl)"
    """
    return smoke.smoke(screen, target, account, **options)


@sluicectl.command("erase", short_help="Remove what is stored of a person.")
@click.option("--profile", required=True, help="An e-mail address, phone number (+…) or id of the person.")
@click.option("--dry-run", is_flag=True, help="Count what is stored, and remove nothing.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Remove it without being asked.")
@_said
@_targeted
def _erase(screen: Screen, target: Target, profile: str, dry_run: bool, sure: bool) -> int:
    """Removes what the deployment stores of a person: refused events, records, parked and imported ones.

    It looks first, says what it found, and asks. It knows the person by this one identifier: run it for each
    that you know. An e-mail address or a phone number is found anywhere, an id only where it stands for a
    person. Events of others in the same message stay.

    Events that come back later from a queue, and were accepted before, are not archived again.
    """
    return erase.erase(screen, target, profile, dry_run=dry_run, sure=sure)


@sluicectl.group("sources", short_help="Who may post webhooks, and which events they become.")
def _sources() -> None:
    """Manages the sources document: who may post webhooks, and which events they become.

    The document is written as YAML or JSON, checked, and stored where the deployment finds it within a
    minute. A file that is given as - is standard input.
    """


def _headers(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Reads headers by lower-case name."""
    headers = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"a header is written NAME:VALUE, not '{each}'.")
        headers[name.strip().lower()] = value.strip()
    return headers


@_sources.command("check")
@click.argument("file", type=_FILE)
@_said
def _check(screen: Screen, file: str) -> int:
    """Shows every problem of a sources document.

    It prints one a line, as compilers do: FILE:LINE:COLUMN: what is wrong. It asks no deployment.
    """
    return sources.check(screen, file)


@_sources.command("put")
@click.argument("file", type=_FILE)
@click.option("--dry-run", is_flag=True, help="Show what would change, and store nothing.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Remove sources without being asked.")
@_said
@_targeted
def _put(screen: Screen, file: str, target: Target, dry_run: bool, sure: bool) -> int:
    """Stores a sources document, if nothing is wrong with it.

    It shows the changes, and the secrets and accounts that are missing. It asks before it removes a source.
    Storing the same again changes nothing.
    """
    return sources.put(screen, file, target, dry_run=dry_run, sure=sure)


@_sources.command("schema")
@_said
def _schema(screen: Screen) -> int:
    """Shows the JSON Schema of the sources document.

    With it an editor completes and checks the document. Begin sources.yaml with this line:

    \b
    # yaml-language-server: $schema=sources.schema.json

    and write the schema beside it:

    \b
    sluicectl sources schema > sources.schema.json
    """
    return sources.show_schema(screen)


@_sources.command("show")
@_said
@_targeted
def _show(screen: Screen, target: Target) -> int:
    """Shows the stored sources document.

    The output is YAML, which can be mended and put again.
    """
    return sources.show(screen, target)


@_sources.command("try")
@click.argument("source")
@click.argument("payload", type=_FILE)
@click.option("--file", type=_FILE, help="Try this document instead of the one that is stored.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    callback=_headers,
    help="A header of the webhook; may be repeated.",
)
@_said
@_targeted
def _try(
    screen: Screen, source: str, payload: str, *, target: Target, file: str | None, headers: dict[str, str]
) -> int:
    """Shows the events that a payload would become, with every problem.

    Nothing is sent, and no signature is asked for. With --file no deployment is asked either. The payload
    is JSON, or a form if a header Content-Type says so.

    \b
    sluicectl sources try shop order.json --file sources.yaml --header X-Shopify-Topic:orders/create
    """
    return sources.attempt(screen, source, payload, file=file, target=target, headers=headers)
