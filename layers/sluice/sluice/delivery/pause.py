"""Pauses an account because an operator says so, until an operator ends it.

A pause is a state of its own beside the circuit: no probe is sent, and no delivery ends it. The account's
events are accepted and parked meanwhile. The item `pause#<account>` of the state table is there as long as
the pause lasts.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from sluice import runtime
from sluice.aws import clients, state_table


class Pause(msgspec.Struct, frozen=True):
    """Says since when an account is paused (epoch seconds), by whom and why."""

    at: int
    who: str
    why: str


def begin(table: str, account_id: str, *, who: str, why: str) -> bool:
    """Pauses an account; returns False if it is paused already, and leaves that pause as it is."""
    item = {"paused_at": {"N": str(int(runtime.time()))}, "who": {"S": who}, "why": {"S": why}}
    client = clients.dynamodb()
    with clients.translating_errors("the state table cannot be written"):
        try:
            client.put_item(
                TableName=table,
                Item={**state_table.PAUSE.key(account_id), **item},
                ConditionExpression="attribute_not_exists(pk)",
            )
        except client.exceptions.ConditionalCheckFailedException:
            return False
    return True


def end(table: str, account_id: str) -> bool:
    """Ends a pause; returns False if there is none. Parked messages come back at the next tick."""
    with clients.translating_errors("the state table cannot be written"):
        answer = clients.dynamodb().delete_item(
            TableName=table, Key=state_table.PAUSE.key(account_id), ReturnValues="ALL_OLD"
        )
    return bool(answer.get("Attributes"))


def find(table: str, account_id: str) -> Pause | None:
    """Returns the pause of an account, if there is one."""
    with clients.failing_fast(clients.dynamodb, "the state table cannot be read") as client:
        answer = client.get_item(TableName=table, Key=state_table.PAUSE.key(account_id), ConsistentRead=True)
    return pause_of(answer["Item"]) if "Item" in answer else None


def pause_of(item: Mapping[str, Any]) -> Pause:
    """Returns the pause that an item of the state table holds."""
    return Pause(int(item["paused_at"]["N"]), item["who"]["S"], item["why"]["S"])
