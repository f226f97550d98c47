"""Runs the short form of `make chaos`: kills, a timeout, faults, failing calls and messages that come
twice.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_is_lost_nor_delivered_twice_and_nothing_is_left_running() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--seed", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    figures = dict(re.findall(r"(\w+)=(\d+)", run.stdout.splitlines()[-1]))
    assert int(figures["accepted"]) == int(figures["delivered"]) + int(figures["rejected"]) > 0
    assert figures["lost"] == figures["duplicated"] == figures["throttled_by_us"] == "0"
    assert processes_of(ROOT / ".local" / "chaos") == []


def processes_of(folder: Path) -> list[str]:
    """Returns the command lines of processes that use a folder, whoever started them."""
    listed = subprocess.run(["ps", "-ww", "-eo", "command="], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(folder) in line]
