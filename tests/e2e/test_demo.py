"""Runs the demo as a user does, with little of its data."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_it_accounts_for_every_event_and_leaves_nothing_running() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "devstack.demo", "--rows", "300", "--window", "2"],
        cwd=ROOT,
        env=os.environ | {"TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert re.fullmatch(
        r"demo: accepted=303 delivered=300 rejected=3 lost=0 duplicated=0 jobs=\d+ fill=\d+%",
        run.stdout.splitlines()[-1],
    )
    assert "3 x refused_by_upstream" in run.stdout
    assert "\x1b" not in run.stdout
    [port] = re.findall(r"emulator on port (\d+)", run.stdout)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=1)
    assert processes_of(ROOT / ".local" / "demo") == []


def processes_of(folder: Path) -> list[str]:
    """Returns the command lines of processes that use a folder, whoever started them."""
    listed = subprocess.run(["ps", "-ww", "-eo", "command="], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(folder) in line]
