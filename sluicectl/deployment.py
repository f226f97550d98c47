"""Finds the deployment of a command: its names, and clients that reach it."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
)

from sluicectl.errors import Unreachable

# The file that `make up` writes. The emulator takes this key for the account root's.
LOCAL: Final = Path(__file__).parents[1] / ".local" / "stack.json"
_LOCAL_KEY: Final = "test"
_CONFIG: Final = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 3})


@dataclass(frozen=True)
class Target:
    """Says which deployment is meant, from the options."""

    stack: str
    region: str | None
    profile: str | None
    local: bool


@dataclass(frozen=True)
class Deployment:
    """Describes a deployment that was found; `outputs` are its stack's."""

    name: str
    outputs: Mapping[str, str]
    session: boto3.Session
    endpoint: str | None

    def client(self, service: str) -> Any:
        """Returns a client of an AWS service for this deployment."""
        with reaching():
            return self.session.client(
                service,  # type: ignore[call-overload]
                endpoint_url=self.endpoint,
                config=_CONFIG,
            )

    def output(self, name: str) -> str:
        """Returns an output of the stack; raises `Unreachable` if a stack of an older version has none."""
        if name not in self.outputs:
            raise Unreachable(f"{self.name} has no output {name}: deploy this version of the template first.")
        return self.outputs[name]


def find(target: Target) -> Deployment:
    """Returns the deployment that is meant; `Unreachable` says why there is none."""
    return _local() if target.local else _on_aws(target)


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Says what AWS's errors mean to who runs a command."""
    try:
        yield
    except NoCredentialsError:
        raise Unreachable("No AWS credentials were found. Run aws configure, or set AWS_PROFILE.") from None
    except NoRegionError:
        raise Unreachable("No AWS region is set. Give --region, or set AWS_REGION.") from None
    except ProfileNotFound as error:
        raise Unreachable(f"{error}. aws configure list-profiles shows those there are.") from None
    except EndpointConnectionError as error:
        raise Unreachable(f"{error} Is the network, or the local stack, up?") from None
    except ClientError as error:
        said = error.response["Error"]
        raise Unreachable(
            f"AWS refused {error.operation_name}: {said.get('Message') or said['Code']}"
        ) from None
    except BotoCoreError as error:
        raise Unreachable(f"AWS cannot be reached: {error}") from None


def _local() -> Deployment:
    try:
        state = json.loads(LOCAL.read_text())
    except FileNotFoundError:
        raise Unreachable("No local stack is running. make up starts one.") from None
    session = boto3.Session(_LOCAL_KEY, _LOCAL_KEY, region_name=state["region"])
    return Deployment("the local stack", state["outputs"], session, state["aws"])


def _on_aws(target: Target) -> Deployment:
    with reaching():
        session = boto3.Session(region_name=target.region, profile_name=target.profile)
    where = f"stack {target.stack} in {session.region_name}"
    found = Deployment(where, {}, session, None)
    client = found.client("cloudformation")
    try:
        with reaching():
            [stack] = client.describe_stacks(StackName=target.stack)["Stacks"]
    except Unreachable as error:
        if "does not exist" in str(error):
            raise Unreachable(f"There is no {where}. Give --stack, --region or --profile.") from None
        raise
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}
    return Deployment(where, outputs, session, None)
