"""Tests starting and stopping the emulator."""

from __future__ import annotations

import io
import subprocess
import time
import zipfile
from typing import TYPE_CHECKING

import boto3
import pytest

from devstack import emulator
from devstack.lifeline import Lifeline

if TYPE_CHECKING:
    from pathlib import Path

SLOW_TO_END = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def handler(event, context):
    return dict(os.environ)
"""


def zipped(code: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("app.py", code)
    return content.getvalue()


def processes_of_group(group: int) -> int:
    """Counts the live processes of a group; an ended orphan may wait a while for init to collect it."""
    listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True)
    states = [line.split() for line in listed.stdout.splitlines()]
    return sum(int(leader) == group and not state.startswith("Z") for leader, state in states)


def eventually_nothing_lives_of(group: int) -> None:
    """Waits until no process of a group lives: killing is certain, but takes a moment."""
    deadline = time.monotonic() + 5
    while processes_of_group(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of_group(group) == 0


def test_it_ends_with_the_workers_of_its_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the developer's own")
    with emulator.running(tmp_path) as running:
        functions = boto3.client(
            "lambda",
            endpoint_url=running.endpoint,
            region_name=emulator.REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        functions.create_function(
            FunctionName="f",
            Runtime="python3.13",
            Role="arn:aws:iam::000000000000:role/any",
            Handler="app.handler",
            Code={"ZipFile": zipped(SLOW_TO_END)},
        )

        seen = functions.invoke(FunctionName="f")["Payload"].read()

        assert b"the developer's own" not in seen
        assert (
            processes_of_group(running.pid) == 3
        )  # the emulator, a worker, and the leader that watches for us

    eventually_nothing_lives_of(running.pid)
    assert not running.alive()


def test_everything_it_writes_is_in_its_folder(tmp_path: Path) -> None:
    with emulator.running(tmp_path / "data") as running:
        written = {path.name for path in (tmp_path / "data").iterdir()}
        temporary = list((tmp_path / "data" / "tmp").iterdir())

    assert written == {"home", "ministack.log", "s3", "state", "tmp"}
    assert [path.name for path in temporary] == [f"ministack-{running.port}.pid"]


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with (
        emulator.running(tmp_path / "first") as first,
        pytest.raises(emulator.EmulatorError, match=f"port {first.port} on 127.0.0.1 is taken"),
    ):
        emulator.start(first.port, tmp_path / "second", Lifeline(), auth=False)


def test_an_emulator_that_does_not_come_up_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(emulator.EmulatorError, match="did not come up"):
        emulator.start(
            emulator.free_port(),
            tmp_path,
            Lifeline(),
            auth=False,
            extra_environment={"PYTHONHOME": str(tmp_path)},
        )


def test_a_missing_interpreter_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLUICE_EMULATOR_PYTHON", str(tmp_path / "python"))

    with pytest.raises(emulator.EmulatorError, match="no emulator at"):
        emulator.start(emulator.free_port(), tmp_path, Lifeline(), auth=False)
