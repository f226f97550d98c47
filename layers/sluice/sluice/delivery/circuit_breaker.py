"""Opens and closes an account's circuit: it is open while every job of the account would be refused.

It opens when the upstream refuses the account itself, and stays open until the upstream looks at a probe.
Meanwhile the account's messages are parked (`parking`), and some of them go back to the queue each minute as
probes.
"""

from sluice import runtime
from sluice.aws import clients, state_table


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
