"""Tests `sluicectl logs` with the log groups of a stack, emulated in process."""

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sluicectl import logs
from sluicectl.cli import sluicectl
from tests.support.aws_clients import aws_client
from tests.support.aws_stack import Cloud


def line(message: str, second: int, **fields: Any) -> str:
    return json.dumps(
        {
            "level": "INFO",
            "message": message,
            "timestamp": f"2026-11-21T09:30:{second:02d}.000Z",
            "service": "sluice-dispatch",
            **fields,
        }
    )


@pytest.fixture
def groups(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    client = aws_client("logs")
    written = {
        "sluice-DispatchFunctionLogGroup-1": [line("dispatched", 5, counts={"Jobs": 1}), "START RequestId"],
        "sluice-RejectFunctionLogGroup-2": [line("archived", 1, level="ERROR"), '{"_aws": {}}'],
    }
    for name, texts in written.items():
        client.create_log_group(logGroupName=name)
        client.create_log_stream(logGroupName=name, logStreamName="s")
        client.put_log_events(
            logGroupName=name,
            logStreamName="s",
            logEvents=[{"timestamp": int(time.time() * 1_000), "message": text} for text in texts],
        )
    monkeypatch.setattr(logs, "find", lambda target: SimpleNamespace(client=lambda service: client))


def run(*options: str) -> Result:
    return CliRunner().invoke(sluicectl, ["logs", *options], catch_exceptions=False)


@pytest.mark.usefixtures("groups")
def test_the_lines_of_all_functions_are_in_order() -> None:
    shown = run("--local").stdout.splitlines()
    found = json.loads(run("--local", "--json").stdout)["lines"]

    assert [each["message"] for each in found] == ["archived", "dispatched"]
    assert len(shown) == 2
    assert "dispatched" in shown[1]
    assert "Jobs" in shown[1]


@pytest.mark.usefixtures("groups")
def test_nothing_logged_is_said() -> None:
    assert "Nothing was logged" in run("--local", "--since", "2100-01-01").stdout


def test_on_aws_it_says_how_to_read_them() -> None:
    done = run("--stack", "mine")

    assert done.exit_code == 1
    assert "sam logs --stack-name mine --tail" in done.stderr
