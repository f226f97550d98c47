"""Background processes that outlive the command that started them.

Each is known by two things that go into a file and come back: its process id, and the path of the ready file
it was told to write. That path stands on its command line, so that a later process with the same id, or
another checkout's, is never taken for it.
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


class ServiceError(Exception):
    """A process did not come up; the text says which and where its log is."""


@dataclass(frozen=True)
class Service:
    """One running process, leading a process group of its own."""

    pid: int
    ready_file: Path

    def alive(self) -> bool:
        """Whether it still runs."""
        with contextlib.suppress(ChildProcessError):  # started by an earlier command: not ours to collect
            os.waitpid(self.pid, os.WNOHANG)
        shown = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(self.pid)], capture_output=True, text=True, check=False
        )
        return str(self.ready_file) in shown.stdout

    def stop(self, seconds: float) -> None:
        """Ask it to end and, after so many seconds, end it. Stopping twice is fine."""
        deadline = time.monotonic() + seconds
        ending = signal.SIGTERM
        while self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, ending)
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.05)
            ending = signal.SIGKILL
        self.ready_file.unlink(missing_ok=True)


def start(module: str, arguments: Sequence[str], ready_file: Path, log: Path, seconds: float) -> Service:
    """Run `python -m module` and wait until it has written its ready file.

    Raises ServiceError, with nothing left running, when it ends before that or takes longer than `seconds`.
    """
    ready_file.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "--ready-file", str(ready_file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
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
