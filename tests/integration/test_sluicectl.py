"""Tests `sluicectl` with a deployment: the document that is stored, and the words for AWS's refusals."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result
from moto import mock_aws

from sluice.webhooks import sources
from sluicectl.cli import sluicectl

STACKS: dict[str, list[dict[str, str]]] = {
    "sluice": [{"OutputKey": "ConfigBucketName", "OutputValue": "documents"}],
    "old": [],
}
DOCUMENT = """\
sources:
  own:
    account: AbC123
    secret: own
    signature: {scheme: github}
    events:
      signed-up: {metric: Signed Up, profile: {email: user.email}}
"""

type Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    instead(monkeypatch, "DescribeStacks", described)
    with mock_aws():
        boto3.client("s3").create_bucket(
            Bucket="documents", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )

        def command(*arguments: str, document: str = DOCUMENT, answer: str = "") -> Result:
            Path("s.yaml").write_text(document)
            Path("p.json").write_text('{"user": {"email": "ada@mail.example"}}')
            return CliRunner().invoke(sluicectl, ["sources", *arguments], answer, catch_exceptions=False)

        yield command


def stored() -> Any:
    return boto3.client("s3").get_object(Bucket="documents", Key=sources.KEY)["Body"].read()


def test_what_is_put_is_what_the_functions_read(run: Run) -> None:
    result = run("put", "s.yaml")

    assert result.exit_code == 0
    assert "+  own:" in result.output
    assert "1 source stored in stack sluice in eu-central-1. It is used within a minute." in result.output
    assert list(sources.decode(stored()).sources) == ["own"]


def test_what_is_shown_can_be_put_again_and_changes_nothing(run: Run) -> None:
    assert "has no sources document yet" in run("show").output
    run("put", "s.yaml")
    before = boto3.client("s3").head_object(Bucket="documents", Key=sources.KEY)["LastModified"]

    shown = run("show").output
    again = run("put", "s.yaml", document=shown)

    assert again.output == "stack sluice in eu-central-1 has this document already: nothing has changed.\n"
    assert boto3.client("s3").head_object(Bucket="documents", Key=sources.KEY)["LastModified"] == before
    assert json.loads(run("show", "--json").output) == json.loads(stored())


def test_what_changes_is_shown_and_not_stored_in_a_dry_run(run: Run) -> None:
    run("put", "s.yaml")
    before = stored()
    changed = DOCUMENT.replace("Signed Up", "Signed In")

    dry = run("put", "s.yaml", "--dry-run", document=changed)
    told = json.loads(run("put", "s.yaml", "--json", document=changed).output)

    assert "-        metric: Signed Up" in dry.output.replace("metric:  ", "metric: ")
    assert "would be stored in" in dry.output
    assert before != stored()
    assert (told["stored"], told["changed"], told["problems"]) == (True, True, [])
    assert [line for line in told["diff"] if line.startswith("+ ")] == ["+        metric: Signed In"]


def test_a_dry_run_stores_nothing(run: Run) -> None:
    run("put", "s.yaml", "--dry-run")

    assert "has no sources document yet" in run("show").output


def test_a_bad_document_is_refused_with_the_line_and_nothing_is_stored(run: Run) -> None:
    run("put", "s.yaml")
    before = stored()

    result = run("put", "s.yaml", document=DOCUMENT.replace("AbC123", "x"))

    assert result.exit_code == 1
    assert result.output.startswith("s.yaml:3:5: 'account' must be a site id")
    assert stored() == before


THREE = (
    DOCUMENT
    + """\
  first: {account: AbC123, secret: own, preset: stripe}
  second: {account: AbC123, secret: own, preset: shopify}
"""
)


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_sources_are_not_removed_unless_that_is_meant(run: Run, answer: str) -> None:
    run("put", "s.yaml", document=THREE)
    before = stored()

    result = run("put", "s.yaml", answer=answer)

    assert result.exit_code == 1
    assert "This removes the sources first, second: from then on" in result.stderr
    assert "Nothing is stored, because it would remove the sources first, second." in result.stderr
    assert stored() == before


@pytest.mark.parametrize(("options", "answer"), [((), "y\n"), (("--yes",), ""), (("--yes", "--json"), "")])
def test_sources_are_removed_if_that_is_meant(run: Run, options: tuple[str, ...], answer: str) -> None:
    run("put", "s.yaml", document=THREE)

    result = run("put", "s.yaml", *options, answer=answer)

    assert result.exit_code == 0
    assert list(sources.decode(stored()).sources) == ["own"]
    if "--json" in options:
        assert json.loads(result.output)["removed"] == ["first", "second"]
    else:
        assert "removed: first\nremoved: second\n" in result.output


def test_a_program_is_not_asked_and_removes_nothing(run: Run) -> None:
    run("put", "s.yaml", document=THREE)
    before = stored()

    result = run("put", "s.yaml", "--json")

    assert result.exit_code == 1
    assert "it would remove the sources first, second" in json.loads(result.stdout)["error"]
    assert stored() == before


def test_a_dry_run_tells_what_would_be_removed_and_asks_nothing(run: Run) -> None:
    run("put", "s.yaml", document=THREE)

    result = run("put", "s.yaml", "--dry-run")

    assert result.exit_code == 0
    assert "removed: first\nremoved: second\n" in result.output
    assert "would be stored in" in result.output


def test_a_source_that_is_only_changed_or_added_is_not_asked_about(run: Run) -> None:
    run("put", "s.yaml")

    assert run("put", "s.yaml", document=THREE).exit_code == 0
    assert run("put", "s.yaml", document=THREE.replace("Signed Up", "Signed In")).exit_code == 0


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Provides a stack with an accounts document, and secrets by their names."""

    def keep(accounts: str, **secrets: str) -> None:
        client = boto3.client("secretsmanager")
        arn = client.create_secret(Name="accounts", SecretString=accounts)["ARN"]
        for name, text in secrets.items():
            client.create_secret(Name=f"sluice/webhooks/{name}", SecretString=text)
        outputs = {"AccountsSecretArn": arn, "WebhookSecretsPrefix": "sluice/webhooks/"}
        added = [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()]
        monkeypatch.setitem(STACKS, "sluice", STACKS["sluice"] + added)

    return keep


ACCOUNTS = '{"accounts": [{"site_id": "AbC123", "private_key": "pk_1"}]}'


def warnings(result: Result) -> list[str]:
    assert result.exit_code == 0
    told: list[str] = json.loads(result.output)["warnings"]
    return told


def test_a_document_whose_accounts_and_secrets_exist_has_no_warnings(
    run: Run, references: Callable[..., None]
) -> None:
    references(ACCOUNTS, own="s3cret")

    assert warnings(run("put", "s.yaml", "--json")) == []
    assert "warning" not in run("put", "s.yaml", document=DOCUMENT.replace("Up", "In")).output


def test_a_missing_account_and_a_missing_secret_are_told(run: Run, references: Callable[..., None]) -> None:
    references(ACCOUNTS, other="s3cret")
    document = DOCUMENT.replace("AbC123", "XyZ789")

    told = warnings(run("put", "s.yaml", "--json", "--dry-run", document=document))
    shown = run("put", "s.yaml", document=document)

    assert told == [
        "own: the account XyZ789 is not in the accounts document. Its events are parked until it is.",
        "own: the secret sluice/webhooks/own has no value in Secrets Manager. "
        "Deliveries are answered 503 until it has.",
    ]
    assert shown.exit_code == 0
    assert all(f"warning: {warning}\n" in shown.output for warning in told)


def test_a_secret_without_a_value_or_on_its_way_out_is_missing(
    run: Run, references: Callable[..., None]
) -> None:
    references(ACCOUNTS, own="s3cret")
    boto3.client("secretsmanager").delete_secret(SecretId="sluice/webhooks/own")

    [deleted] = warnings(run("put", "s.yaml", "--json", "--dry-run"))

    assert "the secret sluice/webhooks/own has no value" in deleted
    boto3.client("secretsmanager").create_secret(Name="sluice/webhooks/empty")
    [empty] = warnings(
        run("put", "s.yaml", "--json", "--dry-run", document=DOCUMENT.replace("secret: own", "secret: empty"))
    )
    assert "the secret sluice/webhooks/empty has no value" in empty


@pytest.mark.parametrize(
    ("operation", "what"), [("GetSecretValue", "accounts"), ("DescribeSecret", "secrets")]
)
def test_what_may_not_be_looked_up_is_told_and_stops_nothing(
    run: Run, references: Callable[..., None], monkeypatch: pytest.MonkeyPatch, operation: str, what: str
) -> None:
    references(ACCOUNTS, own="s3cret")
    refuse(monkeypatch, operation, "AccessDeniedException", "User ada is not authorized.")

    [told] = warnings(run("put", "s.yaml", "--json"))

    assert told == (
        f"The sources' {what} could not be looked up: AWS refused {operation}: User ada is not authorized."
    )
    assert list(sources.decode(stored()).sources) == ["own"]


def test_an_accounts_document_that_is_not_valid_is_told(run: Run, references: Callable[..., None]) -> None:
    references('{"accounts": 1}', own="s3cret")

    [told] = warnings(run("put", "s.yaml", "--json"))

    assert told.startswith("The sources' accounts could not be looked up: the accounts secret")


def test_what_is_stored_and_is_not_json_can_be_replaced(run: Run) -> None:
    boto3.client("s3").put_object(Bucket="documents", Key=sources.KEY, Body=b"not JSON")

    result = run("put", "s.yaml")

    assert result.exit_code == 0
    assert "-not JSON\n" in result.output.replace(" \n", "\n")
    assert list(sources.decode(stored()).sources) == ["own"]


def test_a_source_is_tried_though_another_that_is_stored_is_not_valid(run: Run) -> None:
    run("put", "s.yaml")
    document = json.loads(stored())
    document["sources"]["other"] = {}
    boto3.client("s3").put_object(Bucket="documents", Key=sources.KEY, Body=json.dumps(document).encode())

    assert run("try", "own", "p.json").exit_code == 0
    assert "/sources/other/account: 'account' is a required field" in run("try", "other", "p.json").stderr


def test_a_payload_is_tried_with_what_is_stored(run: Run) -> None:
    none = run("try", "own", "p.json")
    run("put", "s.yaml")

    result = run("try", "own", "p.json")

    assert (none.exit_code, result.exit_code) == (1, 0)
    assert "put one, or give --file" in none.stderr
    assert "Signed Up" in result.output
    assert "ada@mail.example" in result.output


def test_another_document_that_was_stored_meanwhile_is_not_overwritten(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = refuse(monkeypatch, "PutObject", "PreconditionFailed")

    result = run("put", "s.yaml")

    assert result.exit_code == 1
    assert "Somebody else stored another document just now." in result.stderr
    assert seen[0]["IfNoneMatch"] == "*"


def test_what_is_stored_and_does_not_work_is_told_so(run: Run) -> None:
    s3 = boto3.client("s3")
    s3.put_object(Bucket="documents", Key=sources.KEY, Body=b"not JSON")
    assert "The stored document is not JSON" in run("show").stderr
    assert "does not work" in run("try", "own", "p.json").stderr

    s3.put_object(Bucket="documents", Key=sources.KEY, Body=b'{"sources": {"own": {}}}')
    assert "does not work" in run("try", "own", "p.json").stderr
    assert run("put", "s.yaml").exit_code == 0


def test_a_stack_that_is_not_there_or_too_old_is_told_so(run: Run) -> None:
    missing, old = run("show", "--stack", "none"), run("show", "--stack", "old")

    assert (missing.exit_code, old.exit_code) == (3, 3)
    assert "There is no stack none in eu-central-1." in missing.stderr
    assert "has no output ConfigBucketName: deploy this version of the template first." in old.stderr


@pytest.mark.parametrize("operation", ["DescribeStacks", "GetObject", "PutObject"])
def test_what_aws_refuses_is_told_in_its_words(
    run: Run, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    refuse(monkeypatch, operation, "AccessDenied", "User ada is not authorized.")

    result = run("put", "s.yaml")

    assert result.exit_code == 3
    assert f"AWS refused {operation}: User ada is not authorized." in result.stderr
    assert "Traceback" not in result.output


def described(parameters: dict[str, Any]) -> Any:
    """Returns CloudFormation's description of a stack."""
    name = parameters["StackName"]
    if name not in STACKS:
        raise refusal("DescribeStacks", "ValidationError", f"Stack with id {name} does not exist")
    return {"Stacks": [{"Outputs": STACKS[name]}]}


def refusal(operation: str, code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def instead(
    monkeypatch: pytest.MonkeyPatch, operation: str, answer: Callable[[dict[str, Any]], Any]
) -> list[dict[str, Any]]:
    """Answers an operation's calls; returns their parameters."""
    real = BaseClient._make_api_call  # type: ignore[attr-defined]
    seen = []

    def call(client: Any, name: str, parameters: dict[str, Any]) -> Any:
        if name != operation:
            return real(client, name, parameters)
        seen.append(parameters)
        return answer(parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    return seen


def refuse(
    monkeypatch: pytest.MonkeyPatch, operation: str, code: str, message: str = "m"
) -> list[dict[str, Any]]:
    def answer(_: dict[str, Any]) -> Any:
        raise refusal(operation, code, message)

    return instead(monkeypatch, operation, answer)
