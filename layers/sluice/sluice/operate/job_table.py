"""Keeps jobs in the records table.

job    pk `jobs`        sk its id, which is in the order of time
slice  pk `job#<id>`    sk its number
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from sluice import runtime
from sluice.aws import clients
from sluice.errors import Retryable
from sluice.operate.jobs import Job, Slice
from sluice.records import items

KEEP: Final = timedelta(days=90)
_ATTEMPTS: Final = 6
_UNREADABLE: Final = "the jobs cannot be read"
_UNWRITABLE: Final = "the jobs cannot be written"


class JobTable(msgspec.Struct, frozen=True):
    """Reaches the jobs in the records table with a name. Its methods raise `Retryable`."""

    name: str

    def find(self, *, job_id: str) -> Job | None:
        """Returns a job, or None if there is none (any more)."""
        with clients.translating_errors(_UNREADABLE):
            answer = clients.dynamodb().get_item(
                TableName=self.name, Key=_job_key(job_id), ConsistentRead=True
            )
        return _job(answer["Item"]) if "Item" in answer else None

    def newest(self, *, limit: int) -> Sequence[Job]:
        """Returns jobs, the newest first."""
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": "jobs"}},
            "ScanIndexForward": False,
            "ConsistentRead": True,
            "Limit": limit,
        }
        found: list[Job] = []
        while True:
            with clients.translating_errors(_UNREADABLE):
                answer = clients.dynamodb().query(**request)
            found += map(_job, answer["Items"])
            if len(found) >= limit or "LastEvaluatedKey" not in answer:
                return found[:limit]
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def save(self, *, job: Job, opened: Mapping[tuple[str, str], tuple[int, int]]) -> bool:
        """Writes a job if the one in the table has the version before it; tells whether it did.

        With it, and only with it, `opened` is added to the open events and records of groups.
        """
        put: dict[str, Any] = {
            "TableName": self.name,
            "Item": _job_key(job.id)
            | {
                "version": {"N": str(job.version)},
                "job": {"S": msgspec.json.encode(job).decode()},
                "expires_at": {"N": str(int(runtime.time() + KEEP.total_seconds()))},
            },
            "ConditionExpression": "attribute_not_exists(pk)",
        }
        if job.version > 1:
            put |= {
                "ConditionExpression": "version = :before",
                "ExpressionAttributeValues": {":before": {"N": str(job.version - 1)}},
            }
        counts = [
            {"Update": {"TableName": self.name, **items.open_update(*group, *change)}}
            for group, change in opened.items()
            if change != (0, 0)
        ]
        written: Any = [{"Put": put}, *counts]
        client = clients.dynamodb()
        for attempt in range(_ATTEMPTS):
            with clients.translating_errors(_UNWRITABLE):
                try:
                    client.transact_write_items(TransactItems=written)
                except client.exceptions.TransactionCanceledException as error:
                    codes = {reason.get("Code") for reason in error.response.get("CancellationReasons", [])}
                    if "ConditionalCheckFailed" in codes:
                        return False
                    if codes != {"None", "TransactionConflict"}:
                        raise
                else:
                    return True
            runtime.sleep(0.05 * 2**attempt)  # a group's counter is written by reject as well
        raise Retryable(_UNWRITABLE)

    def propose_slice(self, *, job_id: str, slice: Slice) -> Slice:
        """Writes a slice down unless there is one with its number; returns the one that is there."""
        client = clients.dynamodb()
        item = _slice_key(job_id, slice.number) | {
            "slice": {"S": msgspec.json.encode(slice).decode()},
            "expires_at": {"N": str(int(runtime.time() + KEEP.total_seconds()))},
        }
        with clients.translating_errors(_UNWRITABLE):
            try:
                client.put_item(
                    TableName=self.name, Item=item, ConditionExpression="attribute_not_exists(pk)"
                )
            except client.exceptions.ConditionalCheckFailedException:
                [there] = self.find_slices(job_id=job_id, numbers=[slice.number])
                return there
        return slice

    def find_slices(self, *, job_id: str, numbers: Sequence[int]) -> Sequence[Slice]:
        """Returns slices by their numbers, as far as they are there."""

        def find(number: int) -> Slice | None:
            with clients.translating_errors(_UNREADABLE):
                answer = clients.dynamodb().get_item(
                    TableName=self.name, Key=_slice_key(job_id, number), ConsistentRead=True
                )
            item = answer.get("Item")
            return msgspec.json.decode(item["slice"]["S"], type=Slice) if item else None

        return [found for found in clients.map_concurrently(find, numbers) if found is not None]


def _job_key(job_id: str) -> items.Item:
    return {"pk": {"S": "jobs"}, "sk": {"S": job_id}}


def _slice_key(job_id: str, number: int) -> items.Item:
    return {"pk": {"S": f"job#{job_id}"}, "sk": {"S": f"{number:08d}"}}


def _job(item: Mapping[str, Any]) -> Job:
    return msgspec.json.decode(item["job"]["S"], type=Job)
