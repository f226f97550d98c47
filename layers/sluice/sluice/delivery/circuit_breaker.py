"""Opens and closes an account's circuit: it is open while every job of the account would be refused.

It opens when the upstream refuses the account itself, or everything that is sent (`lone_refusals`). It stays
open until the upstream looks at a probe. Meanwhile the account's messages are parked (`parking`), and some of
them go back to the queue each minute as probes.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from sluice import runtime
from sluice.aws import clients, state_table
from sluice.delivery import lone_refusals
from sluice.delivery.lone_refusals import RefusalRecord
from sluice.errors import Retryable


class CircuitState(msgspec.Struct, frozen=True):
    """Says whether an account's circuit is open, what may open it, and whether an operator paused it."""

    is_open: bool
    refusals: RefusalRecord = RefusalRecord()
    is_paused: bool = False


class OpenCircuit(msgspec.Struct, frozen=True):
    """Says since when a circuit is open (epoch seconds), and the upstream's status, 0 for no answer."""

    opened_at: int
    status: int


def circuit_of(item: Mapping[str, Any]) -> OpenCircuit:
    """Returns the open circuit that an item of the state table holds."""
    return OpenCircuit(int(item["opened_at"]["N"]), int(item["status"]["N"]))


def state(table: str, account_id: str) -> CircuitState:
    """Returns the state of an account's circuit, read at once."""
    kinds = (state_table.CIRCUIT, state_table.REFUSALS, state_table.PAUSE)
    circuit, refusals, pause = (kind.key(account_id) for kind in kinds)
    with clients.failing_fast(clients.dynamodb, "the state table cannot be read") as client:
        answer = client.batch_get_item(
            RequestItems={table: {"Keys": [circuit, refusals, pause], "ConsistentRead": True}}
        )
    if answer.get("UnprocessedKeys"):
        raise Retryable("the state table is throttled")
    found = {item["pk"]["S"]: item for item in answer["Responses"].get(table, [])}
    return CircuitState(
        is_open=circuit["pk"]["S"] in found,
        refusals=lone_refusals.record_of(found.get(refusals["pk"]["S"])),
        is_paused=pause["pk"]["S"] in found,
    )


def is_open(table: str, account_id: str) -> bool:
    """Tells whether an account's circuit is open."""
    with clients.failing_fast(clients.dynamodb, "the state table cannot be read") as client:
        return "Item" in client.get_item(
            TableName=table, Key=state_table.CIRCUIT.key(account_id), ConsistentRead=True
        )


def open_circuit(table: str, account_id: str, status: int) -> bool:
    """Opens an account's circuit because of an answer's `status`; True if it was closed."""
    item = {"status": {"N": str(status)}, "opened_at": {"N": str(int(runtime.time()))}}
    with clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client:
        try:
            client.put_item(
                TableName=table,
                Item={**state_table.CIRCUIT.key(account_id), **item},
                ConditionExpression="attribute_not_exists(pk)",
            )
        except client.exceptions.ConditionalCheckFailedException:
            return False
    return True


def close_circuit(table: str, account_id: str) -> None:
    """Closes an account's circuit; what is parked goes back to the queue at the next tick."""
    with clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client:
        client.delete_item(TableName=table, Key=state_table.CIRCUIT.key(account_id))
