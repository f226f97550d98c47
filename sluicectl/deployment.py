"""Finds the deployment of a command, and makes clients that reach it."""

import contextlib
import json
from collections.abc import Iterator
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

from sluicectl.errors import Failure, Unreachable

# The file that `make up` writes. The emulator takes this key for the account root's.
LOCAL: Final = Path(__file__).parents[1] / ".local" / "stack.json"
_LOCAL_KEY: Final = "test"


@dataclass(frozen=True)
class Target:
    """Says which deployment is meant, from the options."""

    stack: str
    region: str | None
    profile: str | None
    local: bool


@dataclass(frozen=True)
class Deployment:
    """Describes a deployment: its name for people, and the function that does what operators ask for."""

    name: str
    function: str
    session: boto3.Session
    endpoint: str | None

    def client(self, service: str, config: Config | None = None) -> Any:
        """Returns a client of an AWS service for this deployment."""
        with reaching():
            return self.session.client(
                service,  # type: ignore[call-overload]
                endpoint_url=self.endpoint,
                config=config,
            )


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


def api_of(target: Target) -> str:
    """Returns the URL of a deployment's API, as far as this machine knows it."""
    if not target.local:
        raise Failure("Say where the API is: --api with the stack's output ApiUrl.")
    url: str = _local_state()["api"]
    return url


def _local_state() -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(LOCAL.read_text())
    except FileNotFoundError:
        raise Unreachable("No local stack is running. make up starts one.") from None
    return state


def _local() -> Deployment:
    state = _local_state()
    if (function := state["outputs"].get("OperateFunctionName")) is None:
        raise Unreachable("The local stack is of an older version. make up brings it up to date.")
    session = boto3.Session(_LOCAL_KEY, _LOCAL_KEY, region_name=state["region"])
    return Deployment("the local stack", function, session, state["aws"])


def _on_aws(target: Target) -> Deployment:
    with reaching():
        session = boto3.Session(region_name=target.region, profile_name=target.profile)
    # The template gives it this name, so that nobody needs a permission to look it up.
    function = f"{target.stack}-operate"
    return Deployment(f"stack {target.stack} in {session.region_name}", function, session, None)
