"""Ends processes when the one that started them ends, however it ends: also killed, also in the middle.

A lifeline is a pipe. Only the starter holds its write end, so reading ends when the starter is gone. The
process that is started runs below a small one that reads: this module, run as a program. Both are in a
process group of their own, which the small one leads, so one signal to the group reaches all.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

GRACE_SECONDS = 10.0


class Lifeline:
    """Starts processes that end with this one, unless they are released."""

    def __init__(self) -> None:
        self._held: list[int] = []

    def start(
        self, command: Sequence[str | Path], *, remove: Path | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Starts a command, in a process group of its own; the process that is returned leads the group.

        remove: a folder to be removed with it if this process is gone. options: those of Popen.
        """
        theirs, ours = os.pipe()
        self._held.append(ours)
        try:
            return subprocess.Popen(
                [sys.executable, __file__, str(theirs), str(remove or ""), *map(str, command)],
                pass_fds=[theirs],
                start_new_session=True,
                **options,
            )
        finally:
            os.close(theirs)

    def release(self) -> None:
        """Lets the processes outlive this one."""
        for each in self._held:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                os.write(each, b".")
        self.cut()

    def cut(self) -> None:
        """Ends the processes that were not released, without waiting for their end."""
        while self._held:
            os.close(self._held.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()


def main() -> int:
    lifeline, folder, *command = sys.argv[1:]
    asked_to_end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # The command gets the same signals, being in the same group, and decides when to end.
        signal.signal(number, lambda *_: asked_to_end.set())
    starter_is_gone = threading.Event()
    with subprocess.Popen(command) as child:
        if asked_to_end.is_set():
            child.terminate()
        threading.Thread(target=_watch, args=(int(lifeline), child, starter_is_gone), daemon=True).start()
        status = child.wait()
    if starter_is_gone.is_set():
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)  # nobody else would end what the command itself has started
    return status


def _watch(lifeline: int, child: subprocess.Popen[bytes], starter_is_gone: threading.Event) -> None:
    if os.read(lifeline, 1):
        return
    starter_is_gone.set()
    os.killpg(0, signal.SIGTERM)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
