"""Tests `sluicectl` with a deployment: the document that is stored, and the words for AWS's refusals."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result

from sluice.aws import sts
from sluice.webhooks import normalised, sources
from sluicectl.cli import sluicectl
from tests.support.aws_stack import Cloud, cloud
from tests.support.operate import Operate

DOCUMENT = """\
sources:
  own:
    account: AbC123
    secret: own
    signature: {scheme: github}
    events:
      signed-up: {metric: Signed Up, profile: {email: user.email}}
"""


class Deployment:
    """Runs `sluicectl sources` in a folder with some files, and looks into the deployment that it reaches."""

    def __init__(self, aws: Cloud) -> None:
        self.aws = aws
        self.operate = Operate(aws)
        self.operate.serve()

    def __call__(self, *arguments: str, document: str = DOCUMENT, answer: str = "") -> Result:
        Path("s.yaml").write_text(document)
        Path("p.json").write_text('{"user": {"email": "ada@mail.example"}}')
        return CliRunner().invoke(sluicectl, ["sources", *arguments], answer, catch_exceptions=False)

    def stored(self) -> bytes:
        return self.aws.content("configuration", sources.KEY)

    def store(self, content: bytes) -> None:
        self.aws.s3.put_object(Bucket="configuration", Key=sources.KEY, Body=content)

    def changed_at(self) -> Any:
        return self.aws.s3.head_object(Bucket="configuration", Key=sources.KEY)["LastModified"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setattr(sts, "caller_arn", lambda *_, **__: "arn:aws:iam::123456789012:user/ada")
    with cloud(monkeypatch) as aws:
        deployment = Deployment(aws)
        monkeypatch.chdir(tmp_path)
        yield deployment


def test_what_is_put_is_what_the_functions_read(run: Deployment) -> None:
    result = run("put", "s.yaml")

    assert result.exit_code == 0
    assert "+  own:" in result.output
    assert "1 source stored in stack sluice in us-east-1. It is used within a minute." in result.output
    assert list(sources.decode(run.stored()).sources) == ["own"]


def test_what_is_shown_can_be_put_again_and_changes_nothing(run: Deployment) -> None:
    assert "has no sources document yet" in run("show").output
    run("put", "s.yaml")
    before = run.changed_at()

    shown = run("show").output
    again = run("put", "s.yaml", document=shown)

    assert again.output == "stack sluice in us-east-1 has this document already: nothing has changed.\n"
    assert run.changed_at() == before
    assert json.loads(run("show", "--json").output) == normalised.without(json.loads(run.stored()))


def test_what_changes_is_shown_and_not_stored_in_a_dry_run(run: Deployment) -> None:
    run("put", "s.yaml")
    before = run.stored()
    changed = DOCUMENT.replace("Signed Up", "Signed In")

    dry = run("put", "s.yaml", "--dry-run", document=changed)
    told = json.loads(run("put", "s.yaml", "--json", document=changed).output)

    assert "-        metric: Signed Up" in dry.output.replace("metric:  ", "metric: ")
    assert "would be stored in" in dry.output
    assert before != run.stored()
    assert (told["stored"], told["changed"], told["problems"]) == (True, True, [])
    assert [line for line in told["diff"] if line.startswith("+ ")] == ["+        metric: Signed In"]


def test_a_dry_run_stores_nothing(run: Deployment) -> None:
    run("put", "s.yaml", "--dry-run")

    assert "has no sources document yet" in run("show").output


def test_a_bad_document_is_refused_with_the_line_and_nothing_is_stored(run: Deployment) -> None:
    run("put", "s.yaml")
    before = run.stored()

    result = run("put", "s.yaml", document=DOCUMENT.replace("AbC123", "x"))

    assert result.exit_code == 1
    assert result.output.startswith("s.yaml:3:5: 'account' must be a site id")
    assert run.stored() == before


THREE = (
    DOCUMENT
    + """\
  first: {account: AbC123, secret: own, preset: stripe}
  second: {account: AbC123, secret: own, preset: shopify}
"""
)


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_sources_are_not_removed_unless_that_is_meant(run: Deployment, answer: str) -> None:
    run("put", "s.yaml", document=THREE)
    before = run.stored()

    result = run("put", "s.yaml", answer=answer)

    assert result.exit_code == 1
    assert "This removes the sources first, second: from then on" in result.stderr
    assert "Nothing is stored, because it would remove the sources first, second." in result.stderr
    assert run.stored() == before


@pytest.mark.parametrize(("options", "answer"), [((), "y\n"), (("--yes",), ""), (("--yes", "--json"), "")])
def test_sources_are_removed_if_that_is_meant(run: Deployment, options: tuple[str, ...], answer: str) -> None:
    run("put", "s.yaml", document=THREE)

    result = run("put", "s.yaml", *options, answer=answer)

    assert result.exit_code == 0
    assert list(sources.decode(run.stored()).sources) == ["own"]
    if "--json" in options:
        assert json.loads(result.output)["removed"] == ["first", "second"]
    else:
        assert "removed: first\nremoved: second\n" in result.output


def test_a_program_is_not_asked_and_removes_nothing(run: Deployment) -> None:
    run("put", "s.yaml", document=THREE)
    before = run.stored()

    result = run("put", "s.yaml", "--json")

    assert result.exit_code == 1
    assert "it would remove the sources first, second" in json.loads(result.stdout)["error"]
    assert run.stored() == before


def test_a_dry_run_tells_what_would_be_removed_and_asks_nothing(run: Deployment) -> None:
    run("put", "s.yaml", document=THREE)

    result = run("put", "s.yaml", "--dry-run")

    assert result.exit_code == 0
    assert "removed: first\nremoved: second\n" in result.output
    assert "would be stored in" in result.output


def test_a_source_that_is_only_changed_or_added_is_not_asked_about(run: Deployment) -> None:
    run("put", "s.yaml")

    assert run("put", "s.yaml", document=THREE).exit_code == 0
    assert run("put", "s.yaml", document=THREE.replace("Signed Up", "Signed In")).exit_code == 0


def with_secrets(run: Deployment, *names: str) -> None:
    """Makes the account of the document, and secrets by their names."""
    run.aws.name_accounts({"site_id": "AbC123", "private_key": "pk_1"})
    for name in names:
        run.aws.secrets.create_secret(Name=f"sluice/webhooks/{name}", SecretString="s3cret")


def warnings(result: Result) -> list[str]:
    assert result.exit_code == 0
    told: list[str] = json.loads(result.output)["warnings"]
    return told


def test_a_document_whose_accounts_and_secrets_exist_has_no_warnings(run: Deployment) -> None:
    with_secrets(run, "own")

    assert warnings(run("put", "s.yaml", "--json")) == []
    assert "warning" not in run("put", "s.yaml", document=DOCUMENT.replace("Up", "In")).output


def test_a_missing_account_and_a_missing_secret_are_told(run: Deployment) -> None:
    with_secrets(run, "other")
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


def test_a_secret_without_a_value_or_on_its_way_out_is_missing(run: Deployment) -> None:
    with_secrets(run, "own")
    run.aws.secrets.delete_secret(SecretId="sluice/webhooks/own")

    [deleted] = warnings(run("put", "s.yaml", "--json", "--dry-run"))

    assert "the secret sluice/webhooks/own has no value" in deleted
    run.aws.secrets.create_secret(Name="sluice/webhooks/empty")
    [empty] = warnings(
        run("put", "s.yaml", "--json", "--dry-run", document=DOCUMENT.replace("secret: own", "secret: empty"))
    )
    assert "the secret sluice/webhooks/empty has no value" in empty


@pytest.mark.parametrize(
    ("operation", "warning"),
    [
        ("GetObject", "accounts could not be looked up: the accounts document cannot be read."),
        (
            "DescribeSecret",
            "secrets could not be looked up: the secret sluice/webhooks/own cannot be looked up.",
        ),
    ],
)
def test_what_cannot_be_looked_up_is_told_and_stops_nothing(
    run: Deployment, operation: str, warning: str
) -> None:
    with_secrets(run, "own")
    run.aws.calls.fail(operation, when=lambda call: call.get("Key") != "sources.json")

    assert warnings(run("put", "s.yaml", "--json")) == [f"The sources' {warning}"]
    assert list(sources.decode(run.stored()).sources) == ["own"]


def test_an_accounts_document_that_is_not_valid_is_told(run: Deployment) -> None:
    with_secrets(run, "own")
    run.aws.write_accounts('{"accounts": 1}')

    [told] = warnings(run("put", "s.yaml", "--json"))

    assert told.startswith("The sources' accounts could not be looked up: the accounts document")


def test_what_is_stored_and_is_not_json_can_be_replaced(run: Deployment) -> None:
    run.store(b"not JSON")

    result = run("put", "s.yaml")

    assert result.exit_code == 0
    assert "-not JSON\n" in result.output.replace(" \n", "\n")
    assert list(sources.decode(run.stored()).sources) == ["own"]


def test_a_source_is_tried_though_another_that_is_stored_is_not_valid(run: Deployment) -> None:
    run("put", "s.yaml")
    document = json.loads(run.stored())
    document["sources"]["other"] = {}
    run.store(json.dumps(document).encode())

    assert run("try", "own", "p.json").exit_code == 0
    assert "/sources/other/account: 'account' is a required field" in run("try", "other", "p.json").stderr


def test_a_payload_is_tried_with_what_is_stored(run: Deployment) -> None:
    none = run("try", "own", "p.json")
    run("put", "s.yaml")

    result = run("try", "own", "p.json")

    assert (none.exit_code, result.exit_code) == (1, 0)
    assert "put one, or give --file" in none.stderr
    assert "Signed Up" in result.output
    assert "ada@mail.example" in result.output


def test_another_document_that_was_stored_meanwhile_is_not_overwritten(run: Deployment) -> None:
    def refuse(parameters: dict[str, Any], _: Callable[[], Any]) -> Any:
        assert parameters["IfNoneMatch"] == "*"
        raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")

    run.aws.calls.instead("PutObject", refuse)

    result = run("put", "s.yaml")

    assert result.exit_code == 1
    assert "Somebody else stored another document just now." in result.stderr


def test_a_document_that_is_stored_while_somebody_is_asked_is_not_overwritten(
    run: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("put", "s.yaml", document=THREE)
    theirs = b'{"sources": {}}'

    def confirm(*_: Any, **__: Any) -> bool:
        run.store(theirs)
        return True

    monkeypatch.setattr("click.confirm", confirm)

    result = run("put", "s.yaml")

    assert result.exit_code == 1
    assert "Somebody else stored another document just now." in result.stderr
    assert run.stored() == theirs


def test_what_is_stored_and_does_not_work_is_told_so(run: Deployment) -> None:
    run.store(b"not JSON")
    assert "The stored document is not JSON" in run("show").stderr
    assert "does not work" in run("try", "own", "p.json").stderr

    run.store(b'{"sources": {"own": {}}}')
    assert "does not work" in run("try", "own", "p.json").stderr
    assert run("put", "s.yaml").exit_code == 0


def test_a_stack_that_is_not_there_is_told_so(run: Deployment) -> None:
    result = run("show", "--stack", "none")

    assert result.exit_code == 3
    assert "There is no function none-operate:read in us-east-1: deploy this version" in result.stderr
    assert "Traceback" not in result.output


def test_who_may_look_only_can_put_nothing(run: Deployment) -> None:
    run("put", "s.yaml")
    before = run.stored()
    run.operate.serve(frozenset({"read"}))

    shown, put = run("show"), run("put", "s.yaml", document=THREE)

    assert shown.exit_code == 0
    assert put.exit_code == 3
    arn = "arn:aws:lambda:us-east-1:123456789012:function:sluice-operate:admin"
    assert put.stderr == f"error: You lack a permission: lambda:InvokeFunction on {arn}.\n"
    assert run.stored() == before


def test_the_permission_for_admin_is_enough_for_everything(run: Deployment) -> None:
    run.operate.serve(frozenset({"admin"}))

    assert run("put", "s.yaml").exit_code == 0
    assert run("show").exit_code == 0


def test_who_may_do_nothing_is_told_what_is_missing_to_look(run: Deployment) -> None:
    run.operate.serve(frozenset())

    result = run("show")

    assert result.exit_code == 3
    assert "function:sluice-operate:read." in result.stderr


def test_sts_says_who_stored_it(run: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def caller_arn(url: str, *, function: str) -> str:
        asked.append((url, function))
        return "arn:aws:iam::123456789012:user/ada"

    monkeypatch.setattr(sts, "caller_arn", caller_arn)
    run("put", "s.yaml", "--json")

    ended = run.operate.function.lines("command ended")
    assert [(each["who"], each["counts"]) for each in ended] == [
        ("arn:aws:iam::123456789012:user/ada", {"stored": 0, "removed": 0}),
        ("arn:aws:iam::123456789012:user/ada", {"stored": 1, "removed": 0}),
    ]
    url, function = asked[0]
    query = parse_qs(urlsplit(url).query)
    assert url.startswith("https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&")
    assert query["X-Amz-SignedHeaders"] == ["host;x-sluice-function"]
    assert function == "sluice-operate"


def unavailable(*_: Any) -> Any:
    """Refuses a call."""
    raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "Call")
