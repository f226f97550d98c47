"""Tests the policies given to an emulator that wants permissions for batches."""

import json

import boto3
import pytest
from moto import mock_aws

from devstack.permissions import allow_batches, with_batches


def statement(actions: str | list[str]) -> dict[str, object]:
    return {"Effect": "Allow", "Action": actions, "Resource": "*"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("sqs:SendMessage", ["sqs:SendMessage", "sqs:SendMessageBatch"]),
        (
            ["sqs:DeleteMessage", "sqs:ChangeMessageVisibility"],
            [
                "sqs:DeleteMessage",
                "sqs:ChangeMessageVisibility",
                "sqs:DeleteMessageBatch",
                "sqs:ChangeMessageVisibilityBatch",
            ],
        ),
        (["sqs:SendMessage", "sqs:SendMessageBatch"], ["sqs:SendMessage", "sqs:SendMessageBatch"]),
        (["sqs:ReceiveMessage", "s3:PutObject"], ["sqs:ReceiveMessage", "s3:PutObject"]),
    ],
)
def test_a_batch_is_allowed_where_its_single_form_is(given: str | list[str], wanted: list[str]) -> None:
    document = {"Version": "2012-10-17", "Statement": [statement(given)]}

    assert with_batches(document)["Statement"] == [statement(wanted)]


@mock_aws
def test_every_role_is_given_what_it_lacks() -> None:
    iam = boto3.client("iam", region_name="us-east-1")
    for role in ("sender", "reader"):
        iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")
    for role, action in (("sender", "sqs:SendMessage"), ("reader", "sqs:ReceiveMessage")):
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement(action)]})
        iam.put_role_policy(RoleName=role, PolicyName="own", PolicyDocument=document)

    allow_batches(iam)
    allow_batches(iam)

    found = {
        role: iam.get_role_policy(RoleName=role, PolicyName="own")["PolicyDocument"]["Statement"][0]["Action"]
        for role in ("sender", "reader")
    }
    assert found == {"sender": ["sqs:SendMessage", "sqs:SendMessageBatch"], "reader": ["sqs:ReceiveMessage"]}
