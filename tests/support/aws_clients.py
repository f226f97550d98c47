"""Makes the clients of the emulated AWS once a process: making one takes longer than most tests."""

import functools
from typing import Any

import boto3


@functools.cache
def aws_client(service: str) -> Any:
    """Returns a client of a service, in whatever emulated account is the current one."""
    return boto3.client(service)  # type: ignore[call-overload]
