"""Holds who may read private keys: no function that does not send with them."""

import json
from typing import Any

import pytest

type Template = dict[str, Any]


def readable_secrets(template: Template, role: str) -> list[str]:
    """Returns the secrets whose values a role may read, by what names them."""
    [policy] = template["Resources"][role]["Properties"]["Policies"]
    found: list[str] = []
    for each in policy["PolicyDocument"]["Statement"]:
        statement = each["Fn::If"][1] if "Fn::If" in each else each
        if "secretsmanager:GetSecretValue" in statement["Action"]:
            listed = statement["Resource"]
            found += [json.dumps(one) for one in (listed if isinstance(listed, list) else [listed])]
    return [each.partition(":secret:")[2] or each for each in found]


@pytest.mark.parametrize(
    ("function", "places"),
    [
        ("Ingest", ['${AWS::StackName}/accounts/pipeless-*"}']),
        ("Dispatch", ['${AWS::StackName}/accounts/*"}']),
        ("Operate", ['${AWS::StackName}/accounts/*"}']),
        ("Resume", []),
        ("Reject", []),
    ],
)
def test_a_function_reads_the_private_keys_that_it_sends_with(
    expanded: Template, function: str, places: list[str]
) -> None:
    readable = readable_secrets(expanded, f"{function}FunctionRole")

    assert [each for each in readable if "accounts" in each] == places
    others = [each for each in readable if "accounts" not in each and "webhooks" not in each]
    assert {json.loads(each)["Fn::GetAtt"][0] for each in others} <= {"SealingSecret", "RecordsSecret"}


def test_only_operate_writes_the_accounts_document(expanded: Template) -> None:
    writing = {
        name
        for name, each in expanded["Resources"].items()
        if each["Type"] == "AWS::IAM::Role"
        for policy in each["Properties"].get("Policies", [])
        for statement in policy["PolicyDocument"]["Statement"]
        if "accounts.json" in json.dumps(statement) and "s3:PutObject" in json.dumps(statement)
    }

    assert writing == {"OperateFunctionRole"}
