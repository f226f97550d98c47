"""Starts and stops one ministack, the AWS emulator that everything local runs on.

An emulator listens on 127.0.0.1 only, keeps all of its files in one folder given by the caller, and never
talks to Docker. It sees nothing of the caller's environment, so no real credentials reach an emulated
function. It has a process group of its own, because its functions run in worker processes that have to end
with it. It ends with the process that started it, or if its lifeline is released, when it is stopped. Any
process can stop it: keep the two numbers of an `Emulator` and call `stop()` on an equal one.

ministack pins its own botocore and runs functions under its own interpreter. So it has a virtual environment
of its own, with the runtime's Python: `.venv-emulator`, or the one that `SLUICE_EMULATOR_PYTHON` names.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack.lifeline import Lifeline

HOST = "127.0.0.1"
REGION = "us-east-1"
# The account's root user at ministack, whom no policy restricts.
ROOT_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
SERVICES = (
    "apigateway",
    "cloudformation",
    "dynamodb",
    "events",
    "iam",
    "kms",
    "lambda",
    "logs",
    "monitoring",
    "s3",
    "secretsmanager",
    "sns",
    "sqs",
    "ssm",
    "sts",
)
START_SECONDS = 60.0
STOP_SECONDS = 10.0


class EmulatorError(Exception):
    """Says that the emulator cannot be started or used; the text says why in one sentence."""


@dataclass(frozen=True)
class Emulator:
    """Identifies a running emulator by its process, which leads its process group, and by its port."""

    pid: int
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def alive(self) -> bool:
        """Tells whether that process still runs and still is an emulator, because process ids are used
        again.
        """
        with contextlib.suppress(ChildProcessError):  # started by somebody else: not ours to collect
            os.waitpid(self.pid, os.WNOHANG)
        shown = subprocess.run(
            ["ps", "-o", "command=", "-p", str(self.pid)], capture_output=True, text=True, check=False
        )
        return "ministack" in shown.stdout

    def healthy(self) -> bool:
        """Tells whether it answers on its port."""
        try:
            with urllib.request.urlopen(f"{self.endpoint}/_ministack/health", timeout=2) as answer:
                return "services" in json.load(answer)
        except (OSError, ValueError):
            return False

    def stop(self) -> None:
        """Ends the emulator and every worker process of its functions; stopping twice is fine."""
        if not self.alive():
            return
        os.killpg(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        # A worker in the middle of a handler may ignore the first signal; nobody would time it out any more.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def interpreter() -> Path:
    """Returns the Python of the emulator's virtual environment."""
    python = Path(os.environ.get("SLUICE_EMULATOR_PYTHON", ".venv-emulator/bin/python"))
    if not python.is_file():
        raise EmulatorError(f"no emulator at {python}: let make build it or set SLUICE_EMULATOR_PYTHON")
    return python.absolute()


def free_port() -> int:
    """Returns a loopback port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    port: int,
    data_dir: Path,
    lifeline: Lifeline,
    *,
    auth: bool,
    log: Path | None = None,
    services: Sequence[str] = SERVICES,
    region: str = REGION,
    extra_environment: Mapping[str, str] | None = None,
) -> Emulator:
    """Starts an emulator and waits until it answers.

    data_dir: the folder of all its files: functions' code, objects, its log (`ministack.log`). log: where to
    write the log instead; the folder is then removed too if the starter is gone. auth: enforce the IAM
    policies of each caller, above all of each function's role. services: the services to run, by ministack's
    names. extra_environment: further variables of the emulator; its functions see them too.
    Raises EmulatorError when the port is taken or the emulator does not come up.
    """
    _require_free(port)
    environment = _environment(port, data_dir, auth, services, region) | dict(extra_environment or {})
    written = log or data_dir / "ministack.log"
    with written.open("ab") as output:
        process = lifeline.start(
            [interpreter(), "-m", "ministack"],
            remove=data_dir if log else None,
            cwd=data_dir,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    emulator = Emulator(process.pid, port)
    deadline = time.monotonic() + START_SECONDS
    try:
        while not emulator.healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                raise EmulatorError(f"the emulator did not come up on port {port}: see {written}")
            time.sleep(0.1)
    except BaseException:
        emulator.stop()
        raise
    finally:
        # From here on the process is known by its number alone; this keeps Popen from warning about it.
        process.returncode = process.returncode or 0
    return emulator


@contextlib.contextmanager
def running(
    data_dir: Path, *, auth: bool = False, services: Sequence[str] = SERVICES, port: int | None = None
) -> Iterator[Emulator]:
    """Runs an emulator for the length of a `with` block, on a free port unless one is given."""
    with Lifeline() as lifeline:
        emulator = start(port or free_port(), data_dir, lifeline, auth=auth, services=services)
        try:
            yield emulator
        finally:
            emulator.stop()


def _environment(
    port: int, data_dir: Path, auth: bool, services: Sequence[str], region: str
) -> dict[str, str]:
    folders = {name: data_dir.absolute() / name for name in ("home", "tmp", "state", "s3")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folders["home"]),
        "TMPDIR": str(folders["tmp"]),
        "STATE_DIR": str(folders["state"]),
        "S3_DATA_DIR": str(folders["s3"]),
        "PYTHONUNBUFFERED": "1",
        "BIND_HOST": HOST,
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": region,
        "AUTH": "true" if auth else "false",
        "SERVICES": ",".join(services),
        "LAMBDA_EXECUTOR": "local",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # It would otherwise look for containers of its own to remove in the developer's Docker.
        "DOCKER_HOST": f"unix://{folders['tmp']}/no-docker.sock",
        **ROOT_CREDENTIALS,
    }


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EmulatorError(
                f"port {port} on {HOST} is taken: stop what uses it or choose another"
            ) from error
