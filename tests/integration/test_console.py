"""Tests how `sluicectl console` begins: where it listens, and what it prints."""

import contextlib
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from sluicectl import deployment
from sluicectl.cli import sluicectl


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, Any]]:
    """Notes what is served where, in place of serving it."""
    state = {"outputs": {"OperateFunctionName": "f"}, "region": "eu-central-1", "aws": "http://127.0.0.1:1"}
    monkeypatch.setattr(deployment, "LOCAL", tmp_path / "stack.json")
    deployment.LOCAL.write_text(json.dumps(state))
    found: list[tuple[Any, Any]] = []

    def run(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        found.append((server.config, sockets[0].getsockname()))
        sockets[0].close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return found


def console(*arguments: str) -> Result:
    return CliRunner().invoke(sluicectl, ["console", "--local", *arguments], catch_exceptions=False)


def test_it_listens_at_this_machine_alone_and_prints_the_address_that_opens_it(
    served: list[tuple[Any, Any]],
) -> None:
    done = console("--port", "0")

    [(config, (host, port))] = served
    assert (done.exit_code, host) == (0, "127.0.0.1")
    assert done.stdout.startswith("The console of the local stack, for this machine only:\n")
    address = re.search(r"^http://127\.0\.0\.1:(\d+)/\?token=[\w-]{32}$", done.stdout, re.MULTILINE)
    assert address is not None
    assert int(address[1]) == port
    assert config.access_log is False  # it would hold the token
    with contextlib.closing(TestClient(config.app, base_url=f"http://127.0.0.1:{port}")) as client:
        assert client.get("/").status_code == 403
        assert client.get(address[0]).status_code == 200


def test_each_start_has_a_token_of_its_own(served: list[tuple[Any, Any]]) -> None:
    urls = [json.loads(console("--port", "0", "--json").stdout)["url"] for _ in range(2)]

    assert len({url.partition("token=")[2] for url in urls}) == 2
    assert len(served) == 2


def test_a_port_that_is_taken_is_told(served: list[tuple[Any, Any]]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = console("--port", str(port))

    assert done.exit_code == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in done.stderr
    assert served == []
