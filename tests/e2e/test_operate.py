"""Tests the operator's permission with a stack that enforces it: exactly one action on one alias."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from sluice.operate.command import Access
from sluice.operate.commands import COMMANDS
from sluice.operate.door import INVOCATION_BYTES
from sluice.operate.sources import PUT, SHOW, PutArguments, ShowArguments
from sluice.operate.transfers import UPLOAD, UploadArguments
from sluicectl.deployment import Deployment
from sluicectl.errors import Failure
from sluicectl.operate_client import OperateClient
from tests.e2e.conftest import Stack, eventually

DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"}


@dataclass(frozen=True)
class Operator:
    """Holds a user whose one permission is to invoke one alias."""

    arn: str
    alias: Access
    session: boto3.Session
    stack: Stack

    def client(self, service: str) -> Any:
        return self.session.client(service, endpoint_url=self.stack.aws)  # type: ignore[call-overload]

    def operate(self) -> OperateClient:
        function = self.stack.outputs["OperateFunctionName"]
        return OperateClient(Deployment("the stack", function, self.session, self.stack.aws))

    def request(self, name: str, command: str) -> Any:
        """Invokes a function by a name with a command that has no arguments."""
        request = {"version": 1, "command": command, "who": {"name": "ada"}}
        answer = self.client("lambda").invoke(FunctionName=name, Payload=json.dumps(request).encode())
        return json.loads(answer["Payload"].read())


@contextlib.contextmanager
def operating(stack: Stack, alias: Access) -> Iterator[Operator]:
    iam = stack.client("iam")
    name = f"operator-{alias}"
    user = iam.create_user(UserName=name)["User"]
    arn = stack.outputs[f"Operate{alias.title()}AliasArn"]
    statement = {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
    iam.put_user_policy(UserName=name, PolicyName="operate", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    session = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name=stack.region)
    try:
        yield Operator(user["Arn"], alias, session, stack)
    finally:
        iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
        iam.delete_user_policy(UserName=name, PolicyName="operate")
        iam.delete_user(UserName=name)


@pytest.fixture(params=list(Access))
def operator(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Operator]:
    with operating(stack, request.param) as operator:
        yield operator


def denied(error: pytest.ExceptionInfo[ClientError]) -> bool:
    return error.value.response["Error"]["Code"] in DENIED


def test_an_operator_may_invoke_the_alias_and_nothing_else(operator: Operator) -> None:
    function = operator.stack.outputs["OperateFunctionName"]
    other = next(each for each in Access if each is not operator.alias)

    assert "result" in operator.request(f"{function}:{operator.alias}", "sources show")
    for name in (f"{function}:{other}", function, f"{function}:$LATEST"):
        with pytest.raises(ClientError) as error:
            operator.request(name, "sources show")
        assert denied(error), name


def test_read_can_do_none_of_admins_commands(operator: Operator) -> None:
    where = f"{operator.stack.outputs['OperateFunctionName']}:{operator.alias}"
    answers = {
        name: operator.request(where, name).get("error", {}).get("code")
        for name, command in COMMANDS.items()
        if command.access is Access.ADMIN
    }

    assert "sources put" in answers
    if operator.alias is Access.READ:
        assert set(answers.values()) == {"forbidden"}
    else:
        assert "forbidden" not in answers.values()


def test_an_operator_may_call_nothing_else(operator: Operator) -> None:
    outputs = operator.stack.outputs
    calls = [
        ("lambda", "get_function", {"FunctionName": outputs["OperateFunctionName"]}),
        ("lambda", "invoke", {"FunctionName": outputs["IngestFunctionName"]}),
        ("cloudformation", "describe_stacks", {"StackName": "sluice"}),
        ("s3", "list_objects_v2", {"Bucket": outputs["ArchiveBucketName"]}),
        ("s3", "get_object", {"Bucket": outputs["ConfigBucketName"], "Key": "sources.json"}),
        ("secretsmanager", "get_secret_value", {"SecretId": f"{outputs['AccountSecretsPrefix']}klaviyo-1"}),
        ("dynamodb", "scan", {"TableName": outputs["RecordsTableName"]}),
        ("sqs", "send_message", {"QueueUrl": outputs["EventsQueueUrl"], "MessageBody": "{}"}),
    ]
    for service, call, parameters in calls:
        with pytest.raises(ClientError) as error:
            getattr(operator.client(service), call)(**parameters)
        assert denied(error), (service, call)


def test_the_log_has_who_changed_something_as_sts_says(stack: Stack) -> None:
    function = stack.outputs["OperateFunctionName"]
    configuration = stack.client("lambda").get_function_configuration(FunctionName=function)
    group = configuration["LoggingConfig"]["LogGroup"]

    with operating(stack, Access.ADMIN) as admin:
        began = time.time()
        admin.operate().call(UPLOAD, UploadArguments(size=5))

    def lines() -> list[Any]:
        events = stack.client("logs").filter_log_events(
            logGroupName=group, startTime=int(began * 1_000) - 1_000
        )["events"]
        found = [json.loads(each["message"]) for each in events if each["message"].startswith("{")]
        return [line for line in found if line.get("message") == "command ended" and line["who"] == admin.arn]

    assert [(line["command"], line["outcome"]) for line in eventually(lines)] == [("upload", "done")]


def test_what_exceeds_an_invocation_travels_without_a_permission_on_the_bucket(stack: Stack) -> None:
    s3, bucket = stack.client("s3"), stack.outputs["ConfigBucketName"]
    large = '{"sources": {}, "padding": "' + "é" * (INVOCATION_BYTES // 2) + '"}'
    before = s3.get_object(Bucket=bucket, Key="sources.json")["Body"].read()  # other tests post to these

    with operating(stack, Access.ADMIN) as admin:
        try:
            s3.put_object(Bucket=bucket, Key="sources.json", Body=large.encode())
            shown = admin.operate().call(SHOW, ShowArguments())
        finally:
            s3.put_object(Bucket=bucket, Key="sources.json", Body=before)
        with pytest.raises(Failure, match="the sources document exceeds 1048576 bytes"):
            admin.operate().call(PUT, PutArguments(text=large))

    assert shown.text == large
