"""Grants SQS permissions as AWS understands them, for an emulator that does not.

On AWS a role that may send, delete or hide one message may do so with a batch of them, and there is no
permission for batches. ministack asks for one named after the call. A role that is right for AWS gets those
here, each beside the permission that it belongs to. So policies can be enforced without being changed.
"""

import json
from typing import Any

BATCHES = {
    f"sqs:{action}": f"sqs:{action}Batch"
    for action in ("SendMessage", "DeleteMessage", "ChangeMessageVisibility")
}


def allow_batches(iam: Any) -> None:
    """Lets every role do in batches the calls that it may make one by one; doing so twice is fine."""
    for role in iam.list_roles()["Roles"]:
        name = role["RoleName"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            document = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            iam.put_role_policy(
                RoleName=name, PolicyName=policy, PolicyDocument=json.dumps(with_batches(document))
            )


def with_batches(document: dict[str, Any]) -> dict[str, Any]:
    """Returns a policy document that names the batches' permissions too."""
    return {**document, "Statement": [_with_batches(statement) for statement in document["Statement"]]}


def _with_batches(statement: dict[str, Any]) -> dict[str, Any]:
    given = statement.get("Action", [])
    actions = [given] if isinstance(given, str) else given
    batches = [BATCHES[action] for action in actions if action in BATCHES]
    return {**statement, "Action": [*actions, *(each for each in batches if each not in actions)]}
