"""Tests `sluicectl accounts` with a deployment: what is stored, what is shown, and that no key is."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sluice.aws import sts
from sluicectl import accounts as accounts_commands
from sluicectl.cli import sluicectl
from tests.support.aws_stack import PRIVATE_KEY, Cloud, cloud, read_accounts
from tests.support.factories import SITE_ID
from tests.support.operate import Operate

STACK = "stack sluice in us-east-1"
OTHER = "pk_of_another"


class Deployment:
    """Runs `sluicectl accounts` in a folder, and looks into the deployment that it reaches."""

    def __init__(self, aws: Cloud) -> None:
        self.aws = aws
        Operate(aws).serve()

    def __call__(self, *arguments: str, answer: str = "") -> Result:
        result = CliRunner().invoke(
            sluicectl, ["accounts", *arguments], answer, catch_exceptions=False, env={"COLUMNS": "80"}
        )
        for key in (PRIVATE_KEY, OTHER):
            assert key not in result.output
        return result

    def document(self, *arguments: str, answer: str = "") -> Any:
        return json.loads(self(*arguments, "--json", answer=answer).stdout)

    def stored(self) -> Any:
        return read_accounts()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setattr(sts, "caller_arn", lambda *_, **__: "arn:aws:iam::123456789012:user/ada")
    with cloud(monkeypatch) as aws:
        deployment = Deployment(aws)
        monkeypatch.chdir(tmp_path)
        yield deployment


def write(document: object) -> str:
    Path("a.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return "a.json"


def test_no_account_yet_is_said_with_what_to_do(run: Deployment) -> None:
    run.aws.name_accounts()

    assert run("list").output == f"{STACK} has no account yet: sluicectl accounts add SITE_ID\n"
    assert run.document("list")["accounts"] == []


def test_accounts_are_listed_with_their_kinds_and_keys(run: Deployment) -> None:
    run("add", "pipeless-7", answer=OTHER)
    made = run.document("keys", "add", SITE_ID, "--scope", "events:write", "--scope", "events:read")

    shown = run("list").output
    listed = {each["id"]: each for each in run.document("list")["accounts"]}

    assert listed[SITE_ID]["keys"] == [made["key"]]
    assert made["key"]["scopes"] == ["events:read", "events:write"]
    assert (listed[SITE_ID]["kind"], listed["pipeless-7"]["kind"]) == ("klaviyo", "pipeless")
    assert f"{made['key']['id']} events:read events:write" in shown
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())


def test_a_mistake_in_the_stored_document_is_listed(run: Deployment) -> None:
    run.aws.name_accounts({"site_id": SITE_ID, "private_ky": OTHER})

    assert "problem: the accounts document is not valid: accounts[0]: " in run("list").output


def test_an_account_is_added_with_its_key_from_standard_input(run: Deployment) -> None:
    result = run("add", "NeW456", "--shared-unique-ids", answer=f"{OTHER}\n")

    assert result.exit_code == 0
    assert result.output.startswith("+ account NeW456\n")
    assert "sluicectl accounts keys add NeW456" in result.output
    assert run.stored()["accounts"] == [
        {"site_id": SITE_ID, "private_key": PRIVATE_KEY},
        {"site_id": "NeW456", "private_key": OTHER, "shared_unique_ids": True},
    ]


def test_an_account_that_is_there_is_not_overwritten(run: Deployment) -> None:
    result = run("add", SITE_ID, answer=OTHER)

    assert result.exit_code == 1
    assert f"has an account {SITE_ID} already. sluicectl accounts rotate {SITE_ID}" in result.stderr
    assert run.stored()["accounts"] == [{"site_id": SITE_ID, "private_key": PRIVATE_KEY}]


@pytest.mark.parametrize("command", ["add", "rotate"])
def test_without_a_key_nothing_is_done(run: Deployment, command: str) -> None:
    result = run(command, SITE_ID, answer="\n")

    assert result.exit_code == 1
    assert "No private key was given." in result.stderr


def test_on_a_terminal_the_key_is_asked_for_and_not_shown(
    run: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    def prompt(text: str, **options: object) -> str:
        asked.append((text, options))
        return OTHER

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("click.prompt", prompt)
    monkeypatch.setattr(accounts_commands, "sys", type("Sys", (), {"stdin": Terminal()}))

    run("rotate", SITE_ID)

    assert asked == [(f"Private key of {SITE_ID} upstream", {"hide_input": True, "err": True})]
    assert run.stored()["accounts"][0]["private_key"] == OTHER


def test_a_private_key_is_replaced_once(run: Deployment) -> None:
    first = run("rotate", SITE_ID, answer=OTHER).output
    second = run("rotate", SITE_ID, answer=OTHER).output

    assert first.startswith(f"~ {SITE_ID}: private_key\n")
    assert "delete it upstream after 20 minutes" in first
    assert second == "Nothing has changed.\n"
    assert run.stored()["accounts"][0]["private_key"] == OTHER


def test_an_ingest_key_is_shown_once_and_stored_as_its_hash(run: Deployment) -> None:
    result = run("keys", "add", SITE_ID)

    [key] = [line.strip() for line in result.output.splitlines() if line.startswith("  pk_")]
    assert "it is shown once and stored nowhere" in result.output
    assert run.stored()["accounts"][0]["keys"] == [
        {"sha256": sha256(key.encode()).hexdigest(), "scopes": ["events:write"]}
    ]
    assert key not in json.dumps(run.aws.calls.made, default=str)
    assert key not in run("list").output


def test_two_keys_live_while_one_is_replaced(run: Deployment) -> None:
    old = run.document("keys", "add", SITE_ID, "--scope", "events:read")

    rotated = run("rotate", SITE_ID, "--key", old["key"]["id"])
    both = run.document("list")["accounts"][0]["keys"]
    revoked = run("keys", "revoke", SITE_ID, old["key"]["id"])

    assert f"sluicectl accounts keys revoke {SITE_ID} {old['key']['id']}" in rotated.output
    assert [each["scopes"] for each in both] == [["events:read"], ["events:read"]]
    assert revoked.output.startswith(f"- {SITE_ID}: ingest key {old['key']['id']} (events:read)\n")
    assert "no ingest key any more" not in revoked.output
    assert [each for each in both if each["id"] != old["key"]["id"]] == (
        run.document("list")["accounts"][0]["keys"]
    )


def test_the_last_key_is_revoked_with_a_hint(run: Deployment) -> None:
    key = run.document("keys", "add", SITE_ID)["key"]["id"]

    told = run("keys", "revoke", SITE_ID, key).output

    assert f"{SITE_ID} has no ingest key any more: sluicectl accounts keys add {SITE_ID}" in told


def test_a_key_that_is_not_there_is_not_replaced(run: Deployment) -> None:
    result = run("rotate", SITE_ID, "--key", "0" * 12)

    assert result.exit_code == 1
    assert f"{SITE_ID} has no ingest key 000000000000" in result.stderr


def test_what_is_shown_is_mended_and_put(run: Deployment) -> None:
    document = run.document("show")
    assert document == json.loads(run("show").stdout)
    document["accounts"][0]["limit_metrics"] = True

    put = run("put", write(document))

    assert put.output == (
        f"~ {SITE_ID}: limit_metrics: default to true\nStored in {STACK}. It is used within a minute.\n"
    )
    assert run.stored()["accounts"] == [
        {"site_id": SITE_ID, "limit_metrics": True, "private_key": PRIVATE_KEY}
    ]


def test_what_is_left_out_of_a_shown_document_is_told(run: Deployment) -> None:
    run.aws.name_accounts({"site_id": SITE_ID, "private_ky": OTHER})

    shown = run("show")

    assert json.loads(shown.stdout)["accounts"] == []
    assert "left out: the accounts document is not valid: accounts[0]" in shown.stderr


def test_a_document_that_was_shown_before_another_change_is_not_put(run: Deployment) -> None:
    document = run.document("show")
    run("keys", "add", SITE_ID)
    before = run.stored()

    result = run("put", write(document), "--yes")

    assert result.exit_code == 1
    assert "Somebody else changed the accounts document" in result.stderr
    assert run.stored() == before


def test_the_same_document_changes_nothing(run: Deployment) -> None:
    told = run.document("put", write(run.document("show")))

    assert (told["stored"], told["changed"], told["changes"]) == (False, False, [])
    assert run("put", "a.json").output == f"{STACK} has this document already: nothing has changed.\n"


def test_a_dry_run_stores_nothing(run: Deployment) -> None:
    before = run.stored()

    result = run("put", write({"accounts": []}), "--dry-run")

    assert result.output == f"- account {SITE_ID}\nIt would be stored in {STACK}.\n"
    assert run.stored() == before


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_nothing_is_removed_unless_that_is_meant(run: Deployment, answer: str) -> None:
    before = run.stored()

    result = run("put", write({"accounts": []}), answer=answer)

    assert result.exit_code == 1
    assert f"This removes account {SITE_ID}: callers" in result.stderr
    assert f"Nothing is stored, because it would remove account {SITE_ID}." in result.stderr
    assert run.stored() == before


@pytest.mark.parametrize(("options", "answer"), [((), "y\n"), (("--yes",), ""), (("--yes", "--json"), "")])
def test_what_is_meant_to_go_is_removed(run: Deployment, options: tuple[str, ...], answer: str) -> None:
    result = run("put", write({"accounts": []}), *options, answer=answer)

    assert result.exit_code == 0
    assert run.stored() == {"accounts": []}
    if "--json" in options:
        assert json.loads(result.output)["removed"] == [f"account {SITE_ID}"]


def test_a_stored_document_that_cannot_be_read_is_replaced_only_if_that_is_meant(run: Deployment) -> None:
    run.aws.write_accounts("{")
    good = write({"accounts": []})

    asked = run("put", good, answer="n\n")
    agreed = run("put", good, answer="y\n")

    assert "warning: All of the stored document is replaced" in asked.stdout
    assert "This removes what cannot be read of the stored document" in asked.stderr
    assert agreed.exit_code == 0
    assert run.stored() == {"accounts": []}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_document_with_mistakes_is_not_stored(run: Deployment, options: tuple[str, ...]) -> None:
    before = run.stored()

    result = run("put", write({"accounts": [{"site_id": "NeW456"}]}), "--yes", *options)

    assert result.exit_code == 1
    assert "accounts[0]: Object missing required field `private_key`" in result.output
    assert run.stored() == before


@pytest.mark.parametrize(
    ("document", "said"),
    [("{", "a.json is no JSON: sluicectl accounts show"), ("[]", "it has no list 'accounts'")],
)
def test_what_is_no_document_is_told(run: Deployment, document: str, said: str) -> None:
    result = run("put", write(document))

    assert result.exit_code == 1
    assert said in result.stderr


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_an_account_is_not_removed_unless_that_is_meant(run: Deployment, answer: str) -> None:
    before = run.stored()

    result = run("remove", SITE_ID, answer=answer)

    assert result.exit_code == 1
    assert "0 messages on the queue" in result.stdout
    assert f"Remove {SITE_ID}?" in result.stderr
    assert f"Nothing is removed. Give --yes to remove {SITE_ID} without being asked." in result.stderr
    assert run.stored() == before


@pytest.mark.parametrize(("options", "answer"), [((), "y\n"), (("--yes",), ""), (("--yes", "--json"), "")])
def test_an_account_is_removed_if_that_is_meant(
    run: Deployment, options: tuple[str, ...], answer: str
) -> None:
    run.aws.s3.put_object(Bucket="claims", Key=f"parked/{SITE_ID}/1", Body=b"")
    run.aws.s3.put_object(Bucket="configuration", Key="sources.json", Body=b"{")

    result = run("remove", SITE_ID, *options, answer=answer)

    assert result.exit_code == 0
    assert run.stored() == {"accounts": []}
    if "--json" in options:
        told = json.loads(result.stdout)
        assert (told["removed"], told["queued"], told["parked"], told["open"]) == (True, 0, 1, 0)
        assert told["sources"] == []
    else:
        assert "1 object" in result.stdout
        assert f"{SITE_ID} is removed." in result.stdout
        assert all(len(line.rstrip()) <= 80 for line in result.stdout.splitlines())


def test_who_is_not_alone_any_more_is_warned_of(run: Deployment) -> None:
    assert f"warning: {SITE_ID} is not the only account any more" in run("add", "NeW456", answer=OTHER).output
