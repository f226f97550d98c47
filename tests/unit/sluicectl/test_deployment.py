"""Tests how `sluicectl` finds the function of a deployment."""

import json
from pathlib import Path
from typing import Any

import pytest

from sluicectl import deployment
from sluicectl.deployment import Target, find
from sluicectl.errors import Unreachable


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "stack.json"
    monkeypatch.setattr(deployment, "LOCAL", file)
    return file


def state(**outputs: str) -> Any:
    return json.dumps({"region": "us-east-1", "aws": "http://127.0.0.1:4566", "outputs": outputs})


def test_the_name_follows_from_the_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")

    found = find(Target("shop", "eu-central-1", None, local=False))

    assert (found.name, found.function) == ("stack shop in eu-central-1", "shop-operate")
    assert found.client("lambda").meta.endpoint_url == "https://lambda.eu-central-1.amazonaws.com"


def test_the_local_stack_is_found_by_its_file(local: Path) -> None:
    local.write_text(state(OperateFunctionName="sluice-operate"))

    found = find(Target("other", "eu-central-1", None, local=True))

    assert (found.name, found.function) == ("the local stack", "sluice-operate")
    assert found.client("lambda").meta.endpoint_url == "http://127.0.0.1:4566"


def test_a_local_stack_of_an_older_version_is_told_so(local: Path) -> None:
    local.write_text(state())

    with pytest.raises(Unreachable, match="make up brings it up to date"):
        find(Target("sluice", None, None, local=True))
