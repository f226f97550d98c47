"""Tests `sluicectl accounts check`: every mistake is told before the document is stored, and no key."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sluicectl.cli import sluicectl

GOOD = {"site_id": "AbC123", "private_key": "pk_secret"}


def check(path: Path, document: object, *options: str) -> Result:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return CliRunner().invoke(sluicectl, ["accounts", "check", str(path), *options], catch_exceptions=False)


def test_a_valid_document_is_told_with_its_accounts(tmp_path: Path) -> None:
    result = check(tmp_path / "a.json", {"accounts": [GOOD], "pipeless": [{"app_id": 7, "api_key": "key"}]})

    assert result.exit_code == 0
    assert "is valid: AbC123, pipeless-7." in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("document", "problems"),
    [
        ("{", ["it is not JSON"]),
        ({"accounts": [GOOD | {"name": "Main shop"}, GOOD | {"site_id": 7}]}, ["accounts[0]", "accounts[1]"]),
        ({"accounts": [GOOD, GOOD], "note": ""}, ["accounts[1]", "'note'"]),
    ],
)
def test_every_mistake_is_told_and_no_key(tmp_path: Path, document: object, problems: list[str]) -> None:
    result = check(tmp_path / "a.json", document)

    assert result.exit_code == 1
    assert len(result.output.splitlines()) == len(problems)
    assert all(word in line for word, line in zip(problems, result.output.splitlines(), strict=True))
    assert "pk_secret" not in result.output


def test_programs_get_the_same(tmp_path: Path) -> None:
    result = check(tmp_path / "a.json", {"accounts": [GOOD, 5]}, "--json")

    told = json.loads(result.output)
    assert (told["valid"], told["accounts"], len(told["problems"])) == (False, ["AbC123"], 1)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("click.open_file", refuse)

    result = check(tmp_path / "a.json", {})

    assert result.exit_code == 1
    assert "cannot be read: Input/output error" in result.output
