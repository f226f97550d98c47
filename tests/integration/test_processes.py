"""Tests background processes: known again by another command, ended for certain, never mistaken for
others.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devstack import processes
from devstack.lifeline import Lifeline
from devstack.processes import Service, ServiceError

READY = "import pathlib, sys, time; pathlib.Path(sys.argv[-1]).touch()\n"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
type Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a service from its source, and ends it afterwards."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ready_file = tmp_path / "ready"
    started: list[Service] = []
    lifeline = Lifeline()

    def start(source: str, seconds: float = 10) -> Service:
        (tmp_path / "program.py").write_text(source)
        log = tmp_path / "log"
        started.append(processes.start("program", [], ready_file, log, lifeline, seconds=seconds))
        return started[-1]

    yield start
    for each in started:
        each.stop(seconds=0)
    lifeline.cut()


def test_it_is_alive_until_it_is_stopped(start: Start) -> None:
    running = start(READY + "time.sleep(60)")

    assert replace(running).alive()
    running.stop(seconds=5)

    assert not running.alive()
    assert not running.ready_file.exists()
    running.stop(seconds=5)


def test_one_that_does_not_listen_is_ended_after_the_bound(start: Start) -> None:
    running = start(DEAF + READY + "time.sleep(60)")
    began = time.monotonic()

    running.stop(seconds=0.5)

    assert not running.alive()
    assert 0.5 <= time.monotonic() - began < 5


@pytest.mark.parametrize("source", ["raise SystemExit(1)", "import time; time.sleep(60)"])
def test_one_that_does_not_come_up_is_an_error_and_leaves_nothing(
    source: str, start: Start, tmp_path: Path
) -> None:
    with pytest.raises(ServiceError, match="program did not come up"):
        start(source, seconds=0.5)

    left = subprocess.run(["ps", "-ww", "-eo", "command="], capture_output=True, text=True, check=True)
    assert str(tmp_path / "ready") not in left.stdout


def test_a_later_process_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        remembered = Service(other.pid, tmp_path / "ready")

        remembered.stop(seconds=0)

        assert not remembered.alive()
        assert other.poll() is None
        os.kill(other.pid, 9)
