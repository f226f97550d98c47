"""Starts and stops a whole Sluice on this machine.

    python -m devstack.stack up [--port 4566] [--upstream URL] [NAME=VALUE ...]
    python -m devstack.stack down

`up` starts the AWS emulator with IAM policies enforced and the fake upstream (unless `--upstream` names
another). It builds and deploys with the real SAM CLI, puts an account by operate, and runs
the event source mappings. NAME=VALUE sets a parameter of the template, until another value is given. It may
be repeated: a running stack is kept and gets the changes.
`.local/stack.json` says what runs and how to reach it, and `.local/logs` has the logs. `down` ends exactly
the processes that are named there. `running` is a stack of its own for a `with` block, beside that one; it
ends with its process, also when that is killed.

Another upstream has accounts of its own: SLUICE_UPSTREAM_ACCOUNT=SITE_ID:PRIVATE_KEY names the one to use.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import string
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import boto3
import yaml

from devstack import emulator, permissions, processes, sam, sam_local
from devstack.emulator import REGION, ROOT_CREDENTIALS, Emulator, EmulatorError
from devstack.lifeline import Lifeline
from devstack.processes import Service, ServiceError
from sluice.operate.door import VERSION
from sluice.webhooks import presets
from tools import events

WORKSPACE = Path(".local").absolute()
DEFAULT_PORT = 4566
# Linux's file system in memory, and the least free space that an emulator needs to be put there.
MEMORY = Path("/dev/shm")
ROOM_BYTES = 2 * 1024**3
# How long invocations that run may take to finish before they are cut off, as a Lambda timeout would.
GRACE_SECONDS = 5


class StackError(Exception):
    """Says that a command cannot be done; the text says why in one sentence."""


@dataclass(frozen=True)
class Stack:
    """Holds the content of `stack.json` in its folder: every address, and the processes that are ours.

    `webhook_secrets` are the secrets that senders sign with, by the name of the webhook source. `parameters`
    are the template's that `up` was given.
    """

    api: str
    aws: str
    region: str
    outputs: dict[str, str]
    upstream: str
    site_id: str
    key: str
    app_id: int
    app_key: str
    pids: dict[str, int]
    sources: str
    folder: str = str(WORKSPACE)
    webhook_secrets: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path = WORKSPACE) -> Self | None:
        try:
            return cls(**json.loads(_state(folder).read_text()))
        except FileNotFoundError:
            return None

    def save(self) -> None:
        state = _state(Path(self.folder))
        half = state.with_suffix(".part")
        half.touch(mode=0o600)
        half.write_text(json.dumps(asdict(self), indent=2) + "\n")
        half.replace(state)

    @property
    def port(self) -> int:
        return urllib.parse.urlsplit(self.aws).port or 0

    @property
    def emulator(self) -> Emulator:
        return Emulator(self.pids["emulator"], self.port)

    @property
    def services(self) -> dict[str, Service]:
        folder = Path(self.folder)
        return {
            name: Service(pid, _ready_file(folder, name))
            for name, pid in self.pids.items()
            if name != "emulator"
        }

    def healthy(self) -> bool:
        return (
            all(each.alive() for each in self.services.values())
            and self.emulator.alive()
            and self.emulator.healthy()
        )

    def stop(self) -> None:
        """Ends the mappings first, so that they can still delete completed messages."""
        for name in ("mapping", "forwarder", "standin"):
            if name in self.services:
                self.services[name].stop(2 * GRACE_SECONDS)
        self.emulator.stop()
        _remove_emulator_folders(Path(self.folder))
        _state(Path(self.folder)).unlink(missing_ok=True)


@dataclass(frozen=True)
class Account:
    """Holds the one account of a local stack and its one app at Pipeless.

    The keys that callers use and the keys that we use are different ones.
    """

    site_id: str
    private_key: str
    key: str
    app_id: int
    api_key: str
    app_key: str

    @classmethod
    def create(cls) -> Self:
        given_site_id, _, given_key = os.environ.get("SLUICE_UPSTREAM_ACCOUNT", "").partition(":")
        letters = string.ascii_letters + string.digits
        return cls(
            site_id=given_site_id or "".join(secrets.choice(letters) for _ in range(6)),
            private_key=given_key or f"pk_{secrets.token_hex(17)}",
            key=f"pk_{secrets.token_hex(17)}",
            app_id=secrets.randbelow(9_000) + 1_000,
            api_key=f"pl_{secrets.token_hex(17)}",
            app_key=f"pl_{secrets.token_hex(17)}",
        )

    def document(self, upstream: str) -> str:
        """Returns the accounts document that holds nothing else."""
        return json.dumps(
            {
                "accounts": [
                    {
                        "site_id": self.site_id,
                        "private_key": self.private_key,
                        "base_url": upstream,
                        "keys": [_ingest_key(self.key)],
                    }
                ],
                "pipeless": [
                    {
                        "app_id": self.app_id,
                        "api_key": self.api_key,
                        "base_url": upstream,
                        "keys": [_ingest_key(self.app_key)],
                    }
                ],
            }
        )


def _ingest_key(text: str) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "scopes": ["events:write"]}


def up(port: int | None, upstream: str | None, parameters: Mapping[str, str]) -> Stack:
    """Brings the stack up, or up to date when it runs already."""
    _require_known(parameters)
    stack = Stack.load()
    with Lifeline() as lifeline:
        if stack is not None and stack.healthy():
            stack = _refresh(_same(stack, port, upstream), parameters, lifeline)
        else:
            if stack is not None:
                print("cleaning up after a stack that is no longer whole")
                stack.stop()
            stack = _start(WORKSPACE, port or DEFAULT_PORT, upstream, parameters, lifeline)
        stack = prepare_sam_local(stack, lifeline)
        lifeline.release()
    return stack


def down() -> None:
    """Ends the stack."""
    stack = Stack.load()
    if stack is None:
        print("nothing is running")
        return
    with _step("stopping"):
        stack.stop()
        sam_local.remove_network()


@contextlib.contextmanager
def running(folder: Path, parameters: Mapping[str, str], *, polls: bool = True) -> Iterator[Stack]:
    """Runs a stack for the length of a `with` block, with a folder and a port of its own, beside any other.

    parameters: the template's, where they are to differ from those of `up`. polls: whether queues are polled
    from the beginning, and not only within `polling`. Processes that an earlier block in this folder could
    not end are ended first.
    """
    with contextlib.ExitStack() as block:
        block.enter_context(_alone(folder))
        with _alone(WORKSPACE, wait=True):  # all stacks share what is built
            left = Stack.load(folder)
            if left is not None:
                left.stop()
            lifeline = block.enter_context(Lifeline())
            stack = _start(folder, emulator.free_port(), None, parameters, lifeline, polls=polls)
            block.callback(stack.stop)
        yield stack


def prepare_sam_local(stack: Stack, lifeline: Lifeline) -> Stack:
    """Lets `sam local` work on a running stack; where there is Docker, containers reach it afterwards."""
    folder = Path(stack.folder)
    _isolate(stack.port)
    with _step("preparing sam local") as note:
        address = sam_local.gateway()
        sam_local.write(folder, WORKSPACE / "build", stack.aws, address)
        events.write(folder / "events", _names(stack))
        if address is None:
            note.append("without Docker")
            return stack
        if "forwarder" in stack.services and stack.services["forwarder"].alive():
            return stack
        urls = (stack.aws, stack.upstream) if "standin" in stack.pids else (stack.aws,)
        forwarder = processes.start(
            "devstack.forwarder",
            ["--listen", address, *(str(urllib.parse.urlsplit(url).port) for url in urls)],
            _ready_file(folder, "forwarder"),
            _log(folder, "forwarder"),
            lifeline,
        )
        stack = replace(stack, pids=stack.pids | {"forwarder": forwarder.pid})
        stack.save()
    return stack


def _names(stack: Stack) -> events.Names:
    """Returns the names of a running stack that its events have."""
    urls = {name.removesuffix("Url"): url for name, url in stack.outputs.items() if name.endswith("QueueUrl")}
    parts = {name: urllib.parse.urlsplit(url).path.split("/") for name, url in urls.items()}
    return events.Names(
        key=stack.key,
        account=stack.site_id,
        webhook_token=stack.webhook_secrets["bigcommerce"],
        queues=tuple(
            (name, f"arn:aws:sqs:{stack.region}:{account}:{queue}")
            for name, (_, account, queue) in parts.items()
        ),
    )


@contextlib.contextmanager
def polling(stack: Stack) -> Iterator[None]:
    """Polls the queues of a stack that does not do so itself, for the length of a `with` block."""
    with Lifeline() as lifeline:
        mapping = _start_mapping(Path(stack.folder), stack.aws, lifeline)
        try:
            yield
        finally:
            mapping.stop(2 * GRACE_SECONDS)


def next_steps(stack: Stack) -> str:
    """Returns what a user of a running stack may do now, as lines of a shell with their explanations."""
    event = {
        "data": {
            "type": "event",
            "attributes": {
                "profile": {"data": {"type": "profile", "attributes": {"email": "ada@example.com"}}},
                "metric": {"data": {"type": "metric", "attributes": {"name": "Placed Order"}}},
                "properties": {"order": "1001"},
                "value": 19.9,
            },
        }
    }
    arrival = (
        f"curl {stack.upstream}/_standin/events" if "standin" in stack.pids else f"# look at {stack.upstream}"
    )
    return "\n".join(
        (
            "# Send an event:",
            f"curl {stack.api}/api/events \\",
            f"  -H 'Authorization: Klaviyo-API-Key {stack.key}' -H 'revision: 2026-07-15' \\",
            f"  -H 'Content-Type: application/vnd.api+json' -d '{json.dumps(event)}'",
            f"# Some seconds later (DispatchBatchingWindow) it is upstream, in a job:\n{arrival}",
            f"# Every field and route, in a browser:\n#   {stack.api}/docs",
            "# After a change of code or template: make up. To stop all of it: make down.",
        )
    )


def template_parameters() -> frozenset[str]:
    """Returns the names of the template's parameters."""
    # Composed and not loaded: the tags of CloudFormation's functions mean nothing to YAML.
    template: Any = yaml.compose(Path("template.yaml").read_text(), Loader=yaml.SafeLoader)
    sections = {name.value: content.value for name, content in template.value}
    return frozenset(name.value for name, _ in sections["Parameters"])


def _require_known(parameters: Mapping[str, str]) -> None:
    known = template_parameters()
    for name in parameters:
        if name in sam.parameters():
            raise StackError(f"{name} is decided by this machine: leave it out")
        if name not in known:
            raise StackError(f"the template has no parameter {name}; it has {', '.join(sorted(known))}")


def _same(stack: Stack, port: int | None, upstream: str | None) -> Stack:
    if port not in {None, stack.port}:
        raise StackError(f"a stack runs on port {stack.port} already: make down ends it")
    if upstream is None and "standin" in stack.pids:
        return stack
    if upstream != stack.upstream:
        raise StackError(f"a stack runs with upstream {stack.upstream} already: make down ends it")
    return stack


def _start(
    folder: Path,
    port: int,
    upstream: str | None,
    parameters: Mapping[str, str],
    lifeline: Lifeline,
    *,
    polls: bool = True,
) -> Stack:
    account = Account.create()
    sources = sam.fingerprint()
    _isolate(port)
    with contextlib.ExitStack() as started:
        with _step(f"starting the emulator on port {port}"):
            emulated = _start_emulator(folder, port, lifeline)
            started.callback(_remove_emulator_folders, folder)
            started.callback(emulated.stop)
        pids = {"emulator": emulated.pid}
        if upstream is None:
            with _step("starting a fake Klaviyo and Pipeless"):
                upstream, pids["standin"] = _start_standin(folder, account, started, lifeline)
        _build(folder, sources)
        outputs = _deploy(folder, parameters)
        with _step("writing accounts and sources" + ", polling the queues" * polls):
            _put_accounts(account.document(upstream))
            webhook_secrets = _write_sources(outputs, account.site_id)
            if polls:
                mapping = _start_mapping(folder, emulated.endpoint, lifeline)
                started.callback(mapping.stop, 0)
                pids["mapping"] = mapping.pid
        stack = Stack(
            api=_api(emulated.endpoint, outputs),
            aws=emulated.endpoint,
            region=REGION,
            outputs=outputs,
            upstream=upstream,
            site_id=account.site_id,
            key=account.key,
            app_id=account.app_id,
            app_key=account.app_key,
            pids=pids,
            sources=sources,
            folder=str(folder),
            webhook_secrets=webhook_secrets,
            parameters=dict(parameters),
        )
        stack.save()
        started.pop_all()
    return stack


def _refresh(stack: Stack, parameters: Mapping[str, str], lifeline: Lifeline) -> Stack:
    """Deploys the changes; the emulator, its queues, the account and parameters not named here stay."""
    sources, changed = sam.fingerprint(), {**stack.parameters, **parameters}
    if (sources, changed) == (stack.sources, stack.parameters):
        print("running already, and nothing has changed")
        return stack
    print("running already: deploying what has changed")
    _isolate(stack.port)
    folder = Path(stack.folder)
    _build(folder, sources)
    stack.services["mapping"].stop(2 * GRACE_SECONDS)
    try:
        outputs = _deploy(folder, changed)
    finally:
        mapping = _start_mapping(folder, stack.aws, lifeline)
        stack = replace(stack, pids=stack.pids | {"mapping": mapping.pid})
        stack.save()
    stack = replace(stack, outputs=outputs, api=_api(stack.aws, outputs), sources=sources, parameters=changed)
    stack.save()
    return stack


def _put_accounts(document: str) -> None:
    """Stores the accounts document of a stack that has none yet, as an operator does."""
    request = {
        "version": VERSION,
        "command": "accounts put",
        "arguments": {"text": document, "etag": ""},
        "who": {"name": "devstack"},
    }
    answer = boto3.client("lambda").invoke(
        FunctionName=f"{sam.STACK}-operate", Qualifier="admin", Payload=json.dumps(request).encode()
    )
    result = json.loads(answer["Payload"].read())
    if not (result.get("result") or {}).get("stored"):
        raise StackError(f"the accounts cannot be stored: {result}")


def _write_sources(outputs: dict[str, str], site_id: str) -> dict[str, str]:
    """Writes a webhook source for each preset, and returns their secrets by name."""
    webhook_secrets = {preset: f"whsec_{secrets.token_hex(16)}" for preset in presets.names()}
    for name, secret in webhook_secrets.items():
        boto3.client("secretsmanager").create_secret(
            Name=outputs["WebhookSecretsPrefix"] + name, SecretString=secret
        )
    sources = {name: {"account": site_id, "secret": name, "preset": name} for name in webhook_secrets}
    boto3.client("s3").put_object(
        Bucket=outputs["ConfigBucketName"],
        Key="sources.json",
        Body=json.dumps({"sources": sources}).encode(),
    )
    return webhook_secrets


def _start_emulator(folder: Path, port: int, lifeline: Lifeline) -> Emulator:
    _remove_emulator_folders(folder)
    data, log = _emulator_folder(folder), _log(folder, "emulator")
    data.mkdir(mode=0o700)
    log.unlink(missing_ok=True)
    return emulator.start(port, data, lifeline, auth=True, log=log)


def _start_standin(
    folder: Path, account: Account, started: contextlib.ExitStack, lifeline: Lifeline
) -> tuple[str, int]:
    ready = _ready_file(folder, "standin")
    standin = processes.start(
        "devstack.fake_upstream",
        [
            *("--port", "0", "--account", f"{account.site_id}:{account.private_key}"),
            *("--app", f"{account.app_id}:{account.api_key}"),
        ],
        ready,
        _log(folder, "standin"),
        lifeline,
    )
    started.callback(standin.stop, 0)
    url: str = json.loads(ready.read_text())["url"]
    return url, standin.pid


def _start_mapping(folder: Path, endpoint: str, lifeline: Lifeline) -> Service:
    return processes.start(
        "devstack.event_source_mapping",
        ["--all", "--endpoint", endpoint, "--region", REGION, "--grace", str(GRACE_SECONDS)],
        _ready_file(folder, "mapping"),
        _log(folder, "mapping"),
        lifeline,
    )


def _build(folder: Path, sources: str) -> None:
    with _step("building functions and layers (sam build)") as note:
        if not sam.build(sources, WORKSPACE, _log(folder, "sam-build")):
            note.append("unchanged")


def _deploy(folder: Path, parameters: Mapping[str, str]) -> dict[str, str]:
    with _step("deploying (sam deploy)"):
        boto3.client("s3").create_bucket(Bucket=sam.BUCKET)
        sam.deploy(parameters, WORKSPACE, _log(folder, "sam-deploy"))
        permissions.allow_batches(boto3.client("iam"))
        [deployed] = boto3.client("cloudformation").describe_stacks(StackName=sam.STACK)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in deployed["Outputs"]}


def _api(endpoint: str, outputs: dict[str, str]) -> str:
    """Returns the emulator's address for the AWS address in the ApiUrl output."""
    deployed = urllib.parse.urlsplit(outputs["ApiUrl"])
    api_id = deployed.netloc.partition(".")[0]
    return f"{endpoint}/_aws/execute-api/{api_id}{deployed.path}"


def _state(folder: Path) -> Path:
    return folder / "stack.json"


def _emulator_folder(folder: Path) -> Path:
    """Returns where an emulator is to keep its files: in memory, if there is room.

    Each worker of a function unpacks thousands of files of its own, which a disk takes long to remove.
    """
    in_memory, on_disk = emulator_folders(folder)
    try:
        roomy = shutil.disk_usage(in_memory.parent).free >= ROOM_BYTES
    except OSError:
        roomy = False
    return in_memory if roomy and os.access(in_memory.parent, os.W_OK) else on_disk


def emulator_folders(folder: Path) -> tuple[Path, Path]:
    """Returns both places where the emulator of a stack may keep its files, in memory and on disk."""
    digest = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    return MEMORY / f"sluice-{digest}", folder / "emulator"


def _remove_emulator_folders(folder: Path) -> None:
    for each in emulator_folders(folder):
        shutil.rmtree(each, ignore_errors=True)


def _ready_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.ready"


def _log(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def _isolate(port: int) -> None:
    """Points this process and its children at the emulator, away from the user's AWS settings."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= ROOT_CREDENTIALS | {
        "AWS_ENDPOINT_URL": f"http://{emulator.HOST}:{port}",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextlib.contextmanager
def _step(name: str) -> Iterator[list[str]]:
    """Prints a step while it is done, and its duration; details that the caller appends are added."""
    notes: list[str] = []
    print(f"{name} ... ", end="", flush=True)
    began = time.monotonic()
    try:
        yield notes
    except BaseException:
        print("failed", flush=True)
        raise
    print(", ".join([f"{time.monotonic() - began:.1f} s", *notes]), flush=True)


@contextlib.contextmanager
def _alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Locks a folder, so that two commands at once do not start two stacks in it.

    wait: wait for the other command instead of refusing this one.
    """
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise StackError(f"another command is at work in {folder}") from error
        yield


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.stack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("up", help="start it, or bring it up to date")
    starting.add_argument("--port", type=_port, help=f"port of the emulator (default {DEFAULT_PORT})")
    starting.add_argument("--upstream", type=_url, metavar="URL", help="send jobs there, not to a fake one")
    starting.add_argument(
        "parameters", nargs="*", type=_parameter, metavar="NAME=VALUE", help="parameters of the template"
    )
    commands.add_parser("down", help="stop it")
    return parser.parse_args()


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"'{text}' is not a port: take one of 1 to 65535")
    return int(text)


def _url(text: str) -> str:
    parts = urllib.parse.urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise argparse.ArgumentTypeError(f"'{text}' is not a URL such as http://127.0.0.1:4600")
    return text


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE, such as ImportBuckets=exports")
    return name, value


def _terminated(_number: int, _frame: Any) -> None:
    sys.exit("ended by a signal")


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with _alone(WORKSPACE):
            if arguments.command == "down":
                down()
                return
            stack = up(arguments.port, arguments.upstream, dict(arguments.parameters))
    except (StackError, EmulatorError, ServiceError, sam.SamError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing is left running")
    print(f"API       {stack.api}\nupstream  {stack.upstream}")
    print(f"keys      in {_state(Path('.local'))}\nlogs      in .local/logs\n")
    print(next_steps(stack))


if __name__ == "__main__":
    main()
