"""Invokes the function operate as a client does, with the AWS services that it uses emulated in process."""

import io
import json
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from tests.support.aws_stack import REGION, Cloud, Context, Function

NAME = "sluice-operate"
ACCOUNT = "123456789012"


class Operate:
    """Holds the function of a deployment, and invokes it by one of its aliases."""

    def __init__(self, aws: Cloud) -> None:
        self.aws = aws
        self.function: Function = aws.load("operate")

    def __call__(self, command: str, alias: str = "admin", **arguments: Any) -> Any:
        request = {"version": 1, "command": command, "arguments": arguments}
        return self.invoke(f"{NAME}:{alias}", request)

    def invoke(self, name: str, request: dict[str, Any]) -> Any:
        """Invokes the function by a name with an alias."""
        context = Context(900.0)
        context.function_name = NAME
        context.invoked_function_arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
        return self.function(request, context)

    def serve(self, allowed: frozenset[str] = frozenset({"read", "admin"})) -> None:
        """Answers every `Invoke` of this process's clients that are allowed to use these aliases."""

        def invoke(parameters: dict[str, Any], _: Callable[[], Any]) -> Any:
            name = parameters["FunctionName"]
            arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
            function, _, alias = name.partition(":")
            if alias not in allowed:
                user = f"arn:aws:iam::{ACCOUNT}:user/ada"
                raise refusal(
                    "AccessDeniedException",
                    f"User: {user} is not authorized to perform: lambda:InvokeFunction on resource: {arn} "
                    "because no identity-based policy allows the lambda:InvokeFunction action",
                )
            if function != NAME:
                raise refusal("ResourceNotFoundException", f"Function not found: {arn}")
            answer = self.invoke(name, json.loads(parameters["Payload"]))
            return {"StatusCode": 200, "Payload": io.BytesIO(json.dumps(answer).encode())}

        self.aws.calls.instead("Invoke", invoke)


def refusal(code: str, message: str) -> ClientError:
    """Returns a refusal of Lambda's."""
    return ClientError({"Error": {"Code": code, "Message": message}}, "Invoke")
