"""Runs the demo as a user does, with little of its data."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack import stack
from devstack.lifeline import Lifeline

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".local" / "demo"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the demo; it ends with the test, also if that is killed."""
    with (tmp_path / "output").open("wb") as output, Lifeline() as lifeline:
        yield lifeline.start(
            [sys.executable, "-m", "devstack.demo", "--rows", "300"],
            cwd=ROOT,
            env=os.environ | {"TERM": "dumb"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def test_it_accounts_for_every_event_and_leaves_nothing(
    demo: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    status = demo.wait(timeout=240)

    said = (tmp_path / "output").read_text()
    assert status == 0, said
    assert (
        said.splitlines()[-1]
        == "demo: accepted=303 delivered=300 rejected=3 lost=0 duplicated=0 jobs=1 fill=30% replayed=1"
    )
    assert "3 x refused_by_upstream" in said
    assert "PASSED: each of 303 accepted events has exactly one outcome" in said
    assert "\x1b" not in said
    assert_nothing_is_left(said)


@pytest.mark.parametrize(
    ("point", "ending"),
    [
        (r"deploying \(sam deploy\) \.\.\. $", signal.SIGKILL),
        (r"accounts and sources \.\.\. [0-9.]+ s$", signal.SIGINT),
    ],
)
def test_ended_in_the_middle_it_leaves_nothing(
    demo: subprocess.Popen[bytes], tmp_path: Path, point: str, ending: signal.Signals
) -> None:
    output = tmp_path / "output"
    deadline = time.monotonic() + 240
    while not re.search(point, output.read_text(), re.MULTILINE):
        assert demo.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)

    [pid] = processes(lambda parent, _: parent == demo.pid)
    os.kill(pid, ending)
    demo.wait(timeout=90)

    if ending == signal.SIGINT:
        assert "interrupted; nothing is left running" in output.read_text()
    assert_nothing_is_left(output.read_text())


def assert_nothing_is_left(said: str) -> None:
    """Holds that the stack's processes and files are gone, or are a few seconds after a kill."""
    [port] = re.findall(r"emulator on port (\d+)", said)
    deadline = time.monotonic() + 30
    while left := [
        *processes(lambda _, command: str(FOLDER) in command),
        *(folder for folder in stack.emulator_folders(FOLDER) if folder.exists()),
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=1)


def processes(chosen: Callable[[int, str], bool]) -> list[int]:
    """Returns the processes, whoever started them, that are chosen by their parent and command line."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,command="], capture_output=True, text=True, check=True
    )
    lines = (line.split(maxsplit=2) for line in listed.stdout.splitlines())
    return [int(pid) for pid, parent, command in lines if chosen(int(parent), command)]
