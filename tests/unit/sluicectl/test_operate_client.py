"""Tests what `sluicectl` makes of the answers of operate and of Lambda, with a Lambda that is pretended."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import boto3
import httpx2
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from sluice import __version__
from sluice.operate.door import INVOCATION_BYTES
from sluice.operate.sources import PUT, SHOW, PutArguments, ShowArguments, ShowResult
from sluicectl.deployment import Deployment
from sluicectl.errors import Failure, Unreachable
from sluicectl.operate_client import OperateClient

NOTHING = {"text": None, "etag": None}
DONE = {"version": 1, "sluice": __version__, "result": NOTHING}


@dataclass
class Lambda:
    """Plays Lambda: `answers` has what each alias answers, an error or the payload."""

    answers: Callable[[str, Any], Any] = lambda _, __: DONE
    failed: bool = False
    asked: list[tuple[str, Any]] = field(default_factory=list)

    class meta:  # noqa: N801 - as boto3 calls it
        region_name = "eu-central-1"

    def invoke(self, **parameters: Any) -> dict[str, Any]:
        name, kind = parameters["FunctionName"], parameters.get("InvocationType")
        request = kind or json.loads(parameters["Payload"])
        self.asked.append((name, request))
        answer = self.answers(name, request)
        if isinstance(answer, Exception):
            raise answer
        said = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        failed = {"FunctionError": "Unhandled"} if self.failed else {}
        return {"StatusCode": 200, "Payload": io.BytesIO(said), **failed}


class Pretended(Deployment):
    """Stands for a deployment with a pretended Lambda."""

    def client(self, service: str, config: Config | None = None) -> Any:
        return LAMBDAS[id(self.session)] if service == "lambda" else super().client(service, config)


LAMBDAS: dict[int, Lambda] = {}


@pytest.fixture
def aws() -> Lambda:
    return Lambda()


@pytest.fixture
def client(aws: Lambda, monkeypatch: pytest.MonkeyPatch) -> OperateClient:
    session = boto3.Session("AKIDEXAMPLE", "secret", region_name="eu-central-1")
    monkeypatch.setitem(LAMBDAS, id(session), aws)
    return OperateClient(Pretended("stack sluice", "sluice-operate", session, None))


def refusal(code: str, message: str = "No.") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Invoke")


def show(client: OperateClient) -> ShowResult:
    return client.call(SHOW, ShowArguments())


def failure(client: OperateClient, kind: type[Failure] = Unreachable) -> str:
    with pytest.raises(Failure) as raised:
        show(client)
    assert type(raised.value) in {kind, *kind.__subclasses__()}
    return str(raised.value)


def test_a_command_goes_through_the_alias_that_it_needs_with_a_proof_of_who_calls(
    client: OperateClient, aws: Lambda
) -> None:
    show(client)
    aws.answers = lambda *_: (
        DONE | {"result": {"stored": True, "changed": True, "removed": [], "warnings": []}}
    )
    client.call(PUT, PutArguments(text="{}"))

    assert [name for name, _ in aws.asked] == ["sluice-operate:read", "sluice-operate:admin"]
    request = aws.asked[1][1]
    assert (request["version"], request["command"]) == (1, "sources put")
    assert request["arguments"] == {"text": "{}"}
    assert request["who"]["url"].startswith(
        "https://sts.eu-central-1.amazonaws.com/?Action=GetCallerIdentity&"
    )
    assert "x-sluice-function" in request["who"]["url"]
    assert request["who"]["name"]


def test_an_operator_who_may_only_use_admin_looks_through_it(client: OperateClient, aws: Lambda) -> None:
    aws.answers = lambda name, _: DONE if name.endswith(":admin") else refusal("AccessDeniedException")

    show(client)
    show(client)

    assert [name.partition(":")[2] for name, _ in aws.asked] == ["read", "admin", "admin"]


@pytest.mark.parametrize("code", [None, "AccessDeniedException"])
def test_whether_something_may_be_changed_is_known_without_an_invocation(
    client: OperateClient, aws: Lambda, code: str | None
) -> None:
    aws.answers = lambda _, __: DONE if code is None else refusal(code)

    assert client.may_change() is (code is None)
    assert aws.asked == [("sluice-operate:admin", "DryRun")]


def test_a_function_that_is_not_there_may_be_changed_by_nobody(client: OperateClient, aws: Lambda) -> None:
    aws.answers = lambda _, __: refusal("ResourceNotFoundException")

    with pytest.raises(Unreachable, match="There is no function"):
        client.may_change()


def test_a_missing_permission_is_named(client: OperateClient, aws: Lambda) -> None:
    arn = "arn:aws:lambda:eu-central-1:123456789012:function:{}"
    aws.answers = lambda name, _: refusal(
        "AccessDeniedException",
        f"User: arn:aws:iam::1:user/a is not authorized to perform: lambda:InvokeFunction on resource: "
        f"{arn.format(name)} because no identity-based policy allows the action",
    )

    assert failure(client) == (
        f"You lack a permission: lambda:InvokeFunction on {arn.format('sluice-operate:read')}."
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            refusal("ResourceNotFoundException"),
            "There is no function sluice-operate:read in eu-central-1: deploy this version of the template "
            "first, or give another --stack, --region or --profile.",
        ),
        (
            refusal("AccessDeniedException", "Denied."),
            "You lack a permission: lambda:InvokeFunction on the function sluice-operate:read.",
        ),
        (
            refusal("TooManyRequestsException"),
            "Lambda has no room for another invocation of sluice-operate:read now. Try again.",
        ),
        (refusal("ExpiredTokenException", "The token expired."), "AWS refused Invoke: The token expired."),
        (NoCredentialsError(), "No AWS credentials were found. Run aws configure, or set AWS_PROFILE."),
        (
            EndpointConnectionError(endpoint_url="https://aws.example"),
            'Could not connect to the endpoint URL: "https://aws.example" '
            "Is the network, or the local stack, up?",
        ),
        (
            ReadTimeoutError(endpoint_url="https://aws.example"),
            'AWS cannot be reached: Read timeout on endpoint URL: "https://aws.example"',
        ),
    ],
)
def test_what_aws_refuses_is_one_sentence(
    client: OperateClient, aws: Lambda, error: Exception, said: str
) -> None:
    aws.answers = lambda *_: error

    assert failure(client) == said


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"errorMessage": "Task timed out after 900.00 seconds"}, "Task timed out after 900.00 seconds"),
        (b"", "Lambda gives no reason"),
        ([], "Lambda gives no reason"),
    ],
)
def test_a_function_that_ended_without_an_answer_is_told_so(
    client: OperateClient, aws: Lambda, payload: Any, why: str
) -> None:
    aws.answers, aws.failed = lambda *_: payload, True

    assert failure(client) == f"sluice-operate:read ended without an answer: {why}. Its log says more."


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"null", "is of another version"),
        ({"version": 1, "sluice": "9.0", "result": {"other": 1}}, "is of Sluice 9.0"),
        ({"version": 2, "sluice": "9.0", "result": NOTHING}, "is of Sluice 9.0"),
    ],
)
def test_an_answer_of_another_version_is_told_so(
    client: OperateClient, aws: Lambda, answer: Any, what: str
) -> None:
    aws.answers = lambda *_: answer

    said = failure(client)

    assert said.startswith(
        f"The deployment {what}, and sluicectl {__version__} does not understand its answer."
    )


def test_what_a_newer_function_adds_is_passed_over(client: OperateClient, aws: Lambda) -> None:
    aws.answers = lambda *_: DONE | {"result": NOTHING | {"new": 1}, "new": 1}

    assert show(client).text is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("conflict", Failure),
        ("invalid_arguments", Failure),
        ("unavailable", Unreachable),
        ("forbidden", Unreachable),
        ("other_version", Unreachable),
    ],
)
def test_an_error_of_the_function_is_passed_on(
    client: OperateClient, aws: Lambda, code: str, kind: type[Failure]
) -> None:
    aws.answers = lambda *_: {
        "version": 1,
        "sluice": __version__,
        "error": {"code": code, "message": "It is so."},
    }

    assert failure(client, kind) == "It is so."


LINK = {"url": "https://answers.example/secret", "expires_at": "2026-03-02T00:00:00Z"}


def test_a_result_elsewhere_is_fetched(
    client: OperateClient, aws: Lambda, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.answers = lambda *_: {"version": 1, "sluice": __version__, "result_at": LINK}
    status, content = 200, b'{"text": "a", "etag": "b"}'

    def get(url: str, **_: Any) -> httpx2.Response:
        assert url == LINK["url"]
        return httpx2.Response(status, content=content, request=httpx2.Request("GET", url))

    monkeypatch.setattr(httpx2, "get", get)
    assert show(client) == ShowResult(text="a", etag="b")

    status = 403
    assert failure(client) == "The answer cannot be downloaded: status 403. Try again."

    status, content = 200, b"no JSON"
    assert "secret" not in failure(client)


def test_arguments_that_exceed_an_invocation_are_uploaded(
    client: OperateClient, aws: Lambda, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: list[bytes] = []

    def answer(_: str, request: Any) -> Any:
        result: Any = {"stored": True, "changed": True, "removed": [], "warnings": []}
        if request["command"] == "upload":
            result = {"key": "operate/requests/1", **LINK}
        return {"version": 1, "sluice": __version__, "result": result}

    def put(url: str, content: bytes, **_: Any) -> httpx2.Response:
        assert url == LINK["url"]
        uploaded.append(content)
        return httpx2.Response(200 if len(uploaded) == 1 else 403, request=httpx2.Request("PUT", url))

    monkeypatch.setattr(httpx2, "put", put)
    aws.answers = answer
    arguments = PutArguments(text="é" * (INVOCATION_BYTES // 6))

    client.call(PUT, arguments)

    [(_, asked), (_, request)] = aws.asked
    assert asked["arguments"] == {"size": len(uploaded[0])}
    assert "arguments" not in request
    assert request["arguments_key"] == "operate/requests/1"
    assert PutArguments.model_validate_json(uploaded[0]) == arguments
    with pytest.raises(Unreachable, match="The request cannot be uploaded: status 403"):
        client.call(PUT, arguments)


def test_somebody_without_a_name_may_call_too(
    client: OperateClient, aws: Lambda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise OSError("no user")

    monkeypatch.setattr("getpass.getuser", fail)
    show(client)

    assert aws.asked[0][1]["who"]["name"] == "unknown"
