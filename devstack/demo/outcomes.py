"""Looks at the other end: the fake upstream, the archive of rejections, and the queues."""

import json
import time
from collections.abc import Callable
from typing import Any

import boto3
import httpx2

from devstack.demo.proof import reasons_of
from devstack.stack import Stack

LOOK_SECONDS = 0.5
SAY_SECONDS = 5.0


class OutcomesError(Exception):
    """Says that an outcome cannot be looked up; the text says where, and what happened."""


class Outcomes:
    """Reads the outcomes of a stack while it runs."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._standin = httpx2.Client(base_url=f"{stack.upstream}/_standin", timeout=30, trust_env=False)
        self._s3 = boto3.client("s3")
        self._sqs = boto3.client("sqs")

    def refuse_upstream(self, marker: str) -> None:
        """Makes the fake upstream refuse every profile whose e-mail contains `marker`, although it is
        valid.
        """
        poison = [{"contains": marker, "attributed": True}]
        self._standin.put("/settings", json={"poison": poison}).raise_for_status()

    def summary(self) -> dict[str, Any]:
        """Returns the counts of the fake upstream."""
        counts: dict[str, Any] = self._get("/summary").json()["accounts"][self._stack.site_id]
        return counts

    def arrivals(self) -> list[dict[str, Any]]:
        """Returns every event that the fake upstream took."""
        return [json.loads(line) for line in self._get("/events").text.splitlines()]

    def rejections(self) -> list[dict[str, Any]]:
        """Returns every line of the archive."""
        bucket = self._stack.outputs["ArchiveBucketName"]
        listed = self._s3.list_objects_v2(Bucket=bucket, Prefix="rejections/").get("Contents", [])
        bodies = (self._s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed)
        return [json.loads(line) for body in bodies for line in body.splitlines()]

    def wait(
        self, accepted: int, patience: float, report: Callable[[int], None], say: Callable[[str], None]
    ) -> int:
        """Waits until `accepted` events have an outcome and nothing is queued.

        report: gets the number that arrived. say: is told now and then what is waited for.

        Returns the number of messages left in the queues when nothing has changed for `patience` seconds. It
        is 0 if all went well.
        """
        before, deadline, said = None, 0.0, time.monotonic()
        while True:
            standing = (self.summary()["events"], len(reasons_of(self.rejections())), self._queued())
            arrived, archived, queued = standing
            report(arrived)
            if arrived + archived >= accepted and not queued:
                return 0
            if standing != before:
                before, deadline = standing, time.monotonic() + patience
            elif time.monotonic() > deadline:
                say(f"given up: {standing_words(accepted, *standing)} for {patience:.0f} s")
                return queued
            if time.monotonic() - said > SAY_SECONDS:
                say(f"waiting: {standing_words(accepted, *standing)}")
                said = time.monotonic()
            time.sleep(LOOK_SECONDS)

    def _queued(self) -> int:
        """Returns the number of messages that may still be processed."""
        return sum(
            int(count)
            for name, url in self._stack.outputs.items()
            if name.endswith("QueueUrl")
            for count in self._sqs.get_queue_attributes(
                QueueUrl=url,
                AttributeNames=[
                    "ApproximateNumberOfMessages",
                    "ApproximateNumberOfMessagesDelayed",
                    "ApproximateNumberOfMessagesNotVisible",
                ],
            )["Attributes"].values()
        )

    def _get(self, path: str) -> httpx2.Response:
        try:
            return self._standin.get(path).raise_for_status()
        except httpx2.HTTPError as error:
            raise OutcomesError(f"the fake upstream did not answer {path}: {error!r}") from error


def standing_words(accepted: int, arrived: int, archived: int, queued: int) -> str:
    return (
        f"{arrived:,} of {accepted:,} accepted events have arrived upstream, {archived:,} are rejected,"
        f" {queued:,} messages are queued"
    )
