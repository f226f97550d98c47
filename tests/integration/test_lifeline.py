"""Tests that processes end with the one that started them, and only then."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack.lifeline import Lifeline

# Starts a process on a lifeline, says so, and goes on until it is ended itself.
STARTER = """
import pathlib, sys, time
from devstack.lifeline import Lifeline
lifeline = Lifeline()
lifeline.start([sys.executable, "-c", sys.argv[1]], remove=pathlib.Path(sys.argv[2]))
{then}
print("started", flush=True)
time.sleep(60)
"""
# Has a process of its own, as the emulator has workers, and takes no notice of being asked to end.
STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({pids!r}).write_text(str(other.pid))
time.sleep({seconds})
"""


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held


def lives(pid: int) -> bool:
    """Tells whether a process runs; one that ended and was not collected yet does not."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(shown.stdout.strip()) and not shown.stdout.startswith("Z")


def start(source: str, folder: Path, then: str = "") -> subprocess.Popen[str]:
    """Runs a process that starts another on a lifeline; returns once it has done so."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER.format(then=then), source, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "started\n"
    return starter


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ends_with_its_starter_and_takes_all_with_it(tmp_path: Path, ending: int) -> None:
    folder, pids = tmp_path / "made", tmp_path / "pid"
    folder.mkdir()
    with start(STUBBORN.format(pids=str(pids), seconds=1), folder) as starter:
        assert eventually(lambda: pids.exists() and pids.read_text() != "")
        other = int(pids.read_text())
        assert lives(other)

        starter.send_signal(ending)

    assert eventually(lambda: not lives(other))
    assert eventually(lambda: not folder.exists())


def test_a_released_process_outlives_its_starter(tmp_path: Path) -> None:
    pids, kept = tmp_path / "pid", tmp_path / "kept"
    kept.mkdir()
    source = (
        f"import os, pathlib, time; pathlib.Path({str(pids)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    with start(source, kept, then="lifeline.release()") as starter:
        assert eventually(lambda: pids.exists() and pids.read_text() != "")
        starter.kill()
    time.sleep(0.3)

    other = int(pids.read_text())
    try:
        assert lives(other)
        assert kept.exists()
    finally:
        os.kill(other, signal.SIGKILL)


def test_cutting_it_ends_the_process_and_one_signal_to_the_group_reaches_it() -> None:
    with Lifeline() as lifeline:
        first = lifeline.start([sys.executable, "-c", "import time; time.sleep(60)"])
        second = lifeline.start([sys.executable, "-c", "import time; time.sleep(60)"])
        time.sleep(0.2)  # until they lead their groups and are ready for signals
        os.killpg(second.pid, signal.SIGTERM)
        assert second.wait(timeout=10) != 0
        assert first.poll() is None

    assert first.wait(timeout=10) != 0


def test_the_status_of_the_command_is_the_status_of_its_leader() -> None:
    with Lifeline() as lifeline:
        assert lifeline.start([sys.executable, "-c", "raise SystemExit(3)"]).wait(timeout=10) == 3
