"""Holds the one door of operators: a name that follows from the stack, two aliases, and a role of its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

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


def actions(template: Template, resource: str) -> Iterator[str]:
    """Yields the actions that operate's role has on a resource, by the text that names it."""
    [policy] = template["Resources"]["OperateFunctionRole"]["Properties"]["Policies"]
    for statement in policy["PolicyDocument"]["Statement"]:
        if resource in json.dumps(statement["Resource"]):
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
    """Checks that nothing but an operator's own IAM policy lets anybody invoke operate."""
    resources = expanded["Resources"]

    assert {
        name for name, each in resources.items() if each["Type"] == "AWS::Lambda::Alias"
    } == ALIASES.keys()
    for name, each in resources.items():
        if each["Type"] in {"AWS::Lambda::Permission", "AWS::Lambda::Url", "AWS::Lambda::EventSourceMapping"}:
            assert "Operate" not in json.dumps(each), name


def test_operate_sees_that_a_webhook_secret_exists_and_not_what_it_is(expanded: Template) -> None:
    assert list(actions(expanded, "/webhooks/*")) == ["secretsmanager:DescribeSecret"]


@pytest.mark.parametrize("queue", ["EventsQueue", "RejectedQueue"])
def test_operate_takes_nothing_from_a_queue(expanded: Template, queue: str) -> None:
    assert list(actions(expanded, f'"{queue}"')) == ["sqs:SendMessage"]


@pytest.mark.parametrize("store", ["ArchiveBucket", "ClaimBucket", "ConfigBucket", "StateTable"])
def test_operate_deletes_nothing(expanded: Template, store: str) -> None:
    assert not [each for each in actions(expanded, store) if "Delete" in each]


@pytest.mark.parametrize("prefix", ["operate/answers/", "operate/requests/"])
def test_what_travels_through_the_archive_is_soon_deleted(expanded: Template, prefix: str) -> None:
    rules = expanded["Resources"]["ArchiveBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]

    assert [each["ExpirationInDays"] for each in rules if each.get("Prefix") == prefix] == [1]
