"""Runs background processes, which outlive the command that started them if their lifeline is released.

Each is identified by its process id and by the path of the ready file that it was told to write. Both go into
a file and come back. The path stands on the command line of the process, so a later process with the same id,
or another checkout's, is never taken for it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack.lifeline import Lifeline

START_SECONDS = 60.0


class ServiceError(Exception):
    """Says that a process did not come up; the text says which, and where its log is."""


@dataclass(frozen=True)
class Service:
    """Identifies one running process, which leads a process group of its own."""

    pid: int
    ready_file: Path

    def alive(self) -> bool:
        """Tells whether it still runs."""
        with contextlib.suppress(ChildProcessError):  # started by an earlier command: not ours to collect
            os.waitpid(self.pid, os.WNOHANG)
        shown = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(self.pid)], capture_output=True, text=True, check=False
        )
        return str(self.ready_file) in shown.stdout

    def stop(self, seconds: float) -> None:
        """Asks it to end and, after `seconds`, ends it; stopping twice is fine."""
        deadline = time.monotonic() + seconds
        ending = signal.SIGTERM
        while self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, ending)
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.05)
            ending = signal.SIGKILL
        self.ready_file.unlink(missing_ok=True)


def start(
    module: str,
    arguments: Sequence[str],
    ready_file: Path,
    log: Path,
    lifeline: Lifeline,
    *,
    seconds: float = START_SECONDS,
) -> Service:
    """Runs `python -m module` and waits until it has written its ready file.

    Raises ServiceError, with nothing left running, when it ends before that or takes longer than `seconds`.
    """
    ready_file.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = lifeline.start(
            [sys.executable, "-m", module, *arguments, "--ready-file", str(ready_file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = Service(process.pid, ready_file)
    deadline = time.monotonic() + seconds
    try:
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"{module} did not come up: see {log}")
            time.sleep(0.05)
    except BaseException:
        service.stop(seconds=0)
        raise
    finally:
        # From here on the process is known by its id alone; this keeps Popen from warning about it.
        process.returncode = process.returncode or 0
    return service
