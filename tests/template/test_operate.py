"""Holds the one door of operators: a name that follows from the stack, two aliases, and a role of its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sluice.operate import job_commands
from sluice.operate.commands import COMMANDS
from sluice.operate.door import VERSION, Request

type Template = dict[str, Any]

ALIASES = {"OperateReadAlias": "read", "OperateAdminAlias": "admin"}
# Properties by which the resources of the template could be given a name of ours.
NAMES = {
    "AWS::Lambda::Function": "FunctionName",
    "AWS::IAM::Role": "RoleName",
    "AWS::DynamoDB::Table": "TableName",
    "AWS::S3::Bucket": "BucketName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::SecretsManager::Secret": "Name",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::Events::Rule": "Name",
    "AWS::CloudWatch::Alarm": "AlarmName",
}


def statements(template: Template, resource: str) -> list[dict[str, Any]]:
    """Returns what operate's role may do with a resource, by the text that names it."""
    [policy] = template["Resources"]["OperateFunctionRole"]["Properties"]["Policies"]
    return [
        statement
        for statement in policy["PolicyDocument"]["Statement"]
        if resource in json.dumps(statement["Resource"])
    ]


def actions(template: Template, resource: str) -> Iterator[str]:
    """Yields the actions that operate's role has on a resource."""
    for statement in statements(template, resource):
        given = statement["Action"]
        yield from [given] if isinstance(given, str) else given


def test_operate_has_the_one_name_that_follows_from_the_stacks(expanded: Template) -> None:
    named = {
        name: resource["Properties"][NAMES[resource["Type"]]]
        for name, resource in expanded["Resources"].items()
        if NAMES.get(resource["Type"]) in resource.get("Properties", {})
    }

    assert named == {"OperateFunction": {"Fn::Sub": "${AWS::StackName}-operate"}}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_follows_the_code(expanded: Template, alias: str, name: str) -> None:
    resource = expanded["Resources"][alias]

    assert resource["Type"] == "AWS::Lambda::Alias"
    assert resource["Properties"]["Name"] == name
    assert resource["Properties"]["FunctionName"] == {"Ref": "OperateFunction"}
    assert resource["Properties"]["FunctionVersion"] == "$LATEST"
    assert {"Ref": alias} in [output["Value"] for output in expanded["Outputs"].values()]


def test_there_is_no_other_way_in(expanded: Template) -> None:
    """Checks that nothing but an operator's own IAM policy, and the schedule of jobs, invokes operate."""
    resources = expanded["Resources"]

    assert {
        name for name, each in resources.items() if each["Type"] == "AWS::Lambda::Alias"
    } == ALIASES.keys()
    ways = {"AWS::Lambda::Permission", "AWS::Lambda::Url", "AWS::Lambda::EventSourceMapping"}
    assert [
        name for name, each in resources.items() if each["Type"] in ways and "Operate" in json.dumps(each)
    ] == ["JobSchedulePermission"]
    permission = resources["JobSchedulePermission"]["Properties"]
    assert permission["SourceArn"] == {"Fn::GetAtt": ["JobSchedule", "Arn"]}


def test_jobs_go_on_by_a_schedule(expanded: Template) -> None:
    schedule = expanded["Resources"]["JobSchedule"]["Properties"]

    [target] = schedule["Targets"]
    assert (schedule["ScheduleExpression"], target["Arn"]) == ("rate(1 minute)", {"Ref": "OperateAdminAlias"})
    request = Request.model_validate_json(target["Input"])
    assert (request.version, COMMANDS[request.command]) == (VERSION, job_commands.TICK)
    job_commands.TICK.arguments.model_validate(request.arguments)


def test_operate_sees_that_a_webhook_secret_exists_and_not_what_it_is(expanded: Template) -> None:
    assert list(actions(expanded, "/webhooks/*")) == ["secretsmanager:DescribeSecret"]


@pytest.mark.parametrize("queue", ["BackgroundQueue", "RejectedQueue"])
def test_operate_takes_nothing_from_a_queue(expanded: Template, queue: str) -> None:
    assert set(actions(expanded, f'"{queue}"')) == {"sqs:GetQueueAttributes", "sqs:SendMessage"}


def test_operate_puts_nothing_among_live_events(expanded: Template) -> None:
    assert list(actions(expanded, '"EventsQueue"')) == ["sqs:GetQueueAttributes"]


@pytest.mark.parametrize("role", ["IngestFunctionRole", "RejectFunctionRole"])
def test_background_takes_what_operators_send_and_nothing_else(expanded: Template, role: str) -> None:
    assert '"BackgroundQueue"' not in json.dumps(expanded["Resources"][role])


@pytest.mark.parametrize(
    "queue", ["EventsDeadLetterQueue", "BackgroundDeadLetterQueue", "RejectedDeadLetterQueue"]
)
def test_operate_only_counts_dead_letters(expanded: Template, queue: str) -> None:
    assert list(actions(expanded, f'"{queue}"')) == ["sqs:GetQueueAttributes"]


def test_operate_deletes_parked_messages_and_no_others(expanded: Template) -> None:
    deleting = [
        each["Resource"]
        for each in statements(expanded, "ClaimBucket")
        if "s3:DeleteObject" in each["Action"]
    ]

    assert deleting == [
        [{"Fn::Sub": f"${{ClaimBucket.Arn}}/{prefix}/*"} for prefix in ("parked", "unknown")],
    ]


@pytest.mark.parametrize("store", ["ArchiveBucket", "ConfigBucket"])
def test_operate_deletes_nothing(expanded: Template, store: str) -> None:
    assert not [each for each in actions(expanded, store) if "Delete" in each]


def test_operate_changes_nothing_in_the_state_table_but_pauses_and_metrics(expanded: Template) -> None:
    allowed = {
        json.dumps(each["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"]): each["Action"]
        for each in statements(expanded, "StateTable")
        if "Condition" in each
    }
    anywhere = [each["Action"] for each in statements(expanded, "StateTable") if "Condition" not in each]

    assert allowed == {
        '"metrics#*"': "dynamodb:UpdateItem",
        '"pause#*"': ["dynamodb:DeleteItem", "dynamodb:PutItem"],
    }
    assert anywhere == [["dynamodb:BatchGetItem", "dynamodb:GetItem"]]


def test_private_keys_are_all_that_operate_writes_of_secrets(expanded: Template) -> None:
    assert set(actions(expanded, "secret:${AWS::StackName}/accounts/*")) == {
        "secretsmanager:CreateSecret",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    }
    for secret in ("RecordsSecret", "SealingSecret"):
        assert set(actions(expanded, secret)) == {"secretsmanager:GetSecretValue"}


@pytest.mark.parametrize("prefix", ["operate/answers/", "operate/requests/"])
def test_what_travels_through_the_archive_is_soon_deleted(expanded: Template, prefix: str) -> None:
    rules = expanded["Resources"]["ArchiveBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]

    assert [each["ExpirationInDays"] for each in rules if each.get("Prefix") == prefix] == [1]
