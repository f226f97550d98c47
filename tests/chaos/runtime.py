"""Runs one execution environment as Lambda has it: the real runtime client in the Runtime Interface Emulator.

Both come with the SAM CLI's environment. The emulator starts the function's process, hands it one event at a
time, ends it at the function's timeout, and starts another one after any end.
"""

import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from devstack import emulator
from devstack.event_source_mapping.runner import Answer

PYTHON = Path(".venv-sam/bin/python").absolute()
START_SECONDS = 20
# Beyond the function's timeout: for a new process after the last one's end.
ANSWER_SECONDS = 30
TIMED_OUT = "timed out"
KILLED = "killed"


class RuntimeMissingError(Exception):
    """Says that there is no Runtime Interface Emulator for this machine; the text says why."""


def interface_emulator() -> Path:
    """Returns the binary that the SAM CLI brings."""
    architecture = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"
    found = list(
        PYTHON.parent.parent.glob(f"lib/*/site-packages/samcli/local/rapid/aws-lambda-rie-{architecture}")
    )
    if platform.system() != "Linux" or not found:
        raise RuntimeMissingError(
            "the Runtime Interface Emulator runs on Linux, with the SAM CLI in .venv-sam"
        )
    return found[0]


class Runtime:
    """Runs one such environment, from `start()` to `close()`, one invocation at a time.

    name: of this environment, for its folder and log. code: folders to import from, the handler's first.
    environment: the function's variables, its credentials and region among them. timeout: in seconds.
    """

    def __init__(
        self, name: str, folder: Path, code: list[Path], environment: Mapping[str, str], timeout: int
    ) -> None:
        self.name = name
        self.busy = False
        self._folder = folder / name
        self._code = code
        self._environment = environment
        self._timeout = timeout
        self._port = emulator.free_port()
        self._lock = threading.Lock()
        self._struck: int | None = None

    def start(self) -> None:
        """Starts the emulator; the function's process comes with the first invocation."""
        self._folder.mkdir(parents=True, exist_ok=True)
        bootstrap = self._folder / "bootstrap"
        bootstrap.write_text(
            f'#!/bin/sh\necho $$ > "{self._pid_file}"\nexec "{PYTHON}" -m awslambdaric app.handler\n'
        )
        bootstrap.chmod(0o755)
        self._pid_file.unlink(missing_ok=True)
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    interface_emulator(),
                    "--runtime-interface-emulator-address",
                    f"{emulator.HOST}:{self._port}",
                    "--runtime-api-address",
                    f"{emulator.HOST}:{emulator.free_port()}",
                    "--log-level",
                    "error",
                    bootstrap,
                ],
                cwd=self._folder,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": str(self._folder),
                    "PYTHONPATH": os.pathsep.join(map(str, self._code)),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "LAMBDA_TASK_ROOT": str(self._code[0]),
                    "AWS_LAMBDA_FUNCTION_TIMEOUT": str(self._timeout),
                    **self._environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeMissingError(f"{self.name} did not come up: see {self._folder / 'log'}")
            time.sleep(0.05)

    def invoke(self, event: bytes) -> Answer:
        """Runs the function once."""
        request = urllib.request.Request(
            f"http://{emulator.HOST}:{self._port}/2015-03-31/functions/function/invocations", data=event
        )
        self.busy = True
        try:
            with urllib.request.urlopen(request, timeout=self._timeout + ANSWER_SECONDS) as answer:
                return _understood(answer.read())
        except urllib.error.HTTPError:
            return Answer(error=KILLED)
        except OSError as error:
            return Answer(error=type(error).__name__)
        finally:
            self.busy = False

    def strike(self, number: signal.Signals) -> bool:
        """Sends the function's process a signal; returns False if it has had one already, or there is
        none.
        """
        with self._lock:
            pid = self._pid()
            if pid is None or pid == self._struck:
                return False
            self._struck = pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
                return True
        return False

    def close(self) -> None:
        """Ends both processes; closing twice is fine."""
        if self._process.poll() is None:
            pid = self._pid()
            self._process.kill()
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(START_SECONDS)

    @property
    def _pid_file(self) -> Path:
        return self._folder / "pid"

    def _pid(self) -> int | None:
        """Returns the function's process: the one in the file, if it still is the emulator's child."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid = int(self._pid_file.read_text())
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            return pid if int(parent) == self._process.pid else None
        return None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((emulator.HOST, self._port), 1):
            return True
        return False


def _understood(payload: bytes) -> Answer:
    """Interprets an answer of status 200, which a timeout and an exception have too."""
    try:
        document = json.loads(payload)
    except ValueError:
        return Answer(error=TIMED_OUT if b"timed out" in payload else "not JSON")
    if isinstance(document, dict) and "errorType" in document:
        return Answer(error=str(document["errorType"]))
    return Answer(payload)
