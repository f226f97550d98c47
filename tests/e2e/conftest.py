"""Runs one emulated stack for all tests here, and looks into it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import boto3
import httpx2
import pytest

from devstack import emulator
from devstack import stack as stacks
from sluice import accounts

FOLDER = Path(".local/e2e").absolute()
# Short windows: these tests are about what happens, not about filling jobs.
PARAMETERS = {
    "DispatchBatchingWindow": "1",
    "RejectBatchingWindow": "1",
    "ImportBuckets": "sluice-exports,sluice-events",
}


@dataclass(frozen=True)
class Stack:
    """Describes a running stack; `read_only_key` is a key of its account that may not write events."""

    api: str
    upstream: str
    site_id: str
    key: str
    app_id: int
    app_key: str
    read_only_key: str
    outputs: dict[str, str]
    aws: str
    region: str
    webhook_secrets: dict[str, str]

    def client(self, service: str) -> Any:
        """Returns a boto3 client that may do everything."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.aws,
            region_name=self.region,
            aws_access_key_id=emulator.ROOT_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=emulator.ROOT_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def taken(self) -> list[dict[str, Any]]:
        """Returns every event that the upstream has taken: its profile, the event's attributes and its
        job.
        """
        lines = httpx2.get(f"{self.upstream}/_standin/events").text.splitlines()
        return [json.loads(line) for line in lines]

    def taken_of(self, email: str) -> list[dict[str, Any]]:
        """Returns the events of one profile that the upstream has taken."""
        return [each for each in self.taken() if each["profile"]["attributes"].get("email") == email]

    def archived(self) -> list[dict[str, Any]]:
        """Returns every rejection in the archive."""
        s3, bucket = self.client("s3"), self.outputs["ArchiveBucketName"]
        keys = [
            each["Key"]
            for each in s3.list_objects_v2(Bucket=bucket, Prefix="rejections/").get("Contents", [])
        ]
        lines = [s3.get_object(Bucket=bucket, Key=key)["Body"].read().splitlines() for key in keys]
        # Blanks are in place of lines of people who were erased.
        return [json.loads(line) for several in lines for line in several if line.strip()]

    def claims(self) -> list[str]:
        """Returns the keys of all claim checks of requests."""
        listed = self.client("s3").list_objects_v2(Bucket=self.outputs["ClaimBucketName"], Prefix="claims/")
        return [each["Key"] for each in listed.get("Contents", [])]

    def waiting(self, queue: str) -> int:
        """Counts the messages of a queue (an output's name), those being processed included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = self.outputs[queue]
        counts = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(counts[name]) for name in names)

    def put(self, body: str) -> None:
        """Puts a message on EventsQueue as a direct producer does."""
        self.client("sqs").send_message(QueueUrl=self.outputs["EventsQueueUrl"], MessageBody=body)


def eventually[Found](look: Callable[[], Found], seconds: float = 20) -> Found:
    """Returns what `look` finds once it finds something, or its last result when that takes too long."""
    end = time.monotonic() + seconds
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    before = dict(os.environ)
    with stacks.running(FOLDER, PARAMETERS) as running:
        # Starting it points this process at the emulator, which is not what every other test wants.
        os.environ.clear()
        os.environ.update(before)
        started = Stack(
            api=running.api,
            upstream=running.upstream,
            site_id=running.site_id,
            key=running.key,
            app_id=running.app_id,
            app_key=running.app_key,
            read_only_key=f"{running.key}0",
            outputs=running.outputs,
            aws=running.aws,
            region=running.region,
            webhook_secrets=running.webhook_secrets,
        )
        _allow_reading_only(started)
        yield started


def _allow_reading_only(stack: Stack) -> None:
    place, s3 = {"Bucket": stack.outputs["ConfigBucketName"], "Key": accounts.KEY}, stack.client("s3")
    document = json.loads(s3.get_object(**place)["Body"].read())
    digest = sha256(stack.read_only_key.encode()).hexdigest()
    document["accounts"][0]["keys"].append({"sha256": digest, "scopes": ["profiles:read"]})
    s3.put_object(**place, Body=json.dumps(document).encode())
