"""What becomes of a batch's messages: delivered, rejected, parked, or kept on the queue.

A message is done only when each of its events is delivered or rejected: one event that waits keeps its
message on the queue, one that is set aside has its message parked.
"""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Set

import msgspec

from sluice.delivery.backoff import Retry
from sluice.errors import Retryable
from sluice.message import PipelessMessage, StoredMessage
from sluice.rejection import Rejection


class Refusal(msgspec.Struct, frozen=True):
    """A rejection that is due, of the events at these places of a record's message."""

    record: int
    rejection: Rejection
    receipt: str = ""
    positions: tuple[int, ...] = ()


class Outcome(msgspec.Struct):
    """What became of a batch, by the records' numbers; `retry` holds those to keep on the queue, and why."""

    retry: dict[int, Retry] = {}
    parked: set[int] = set()
    refusals: list[Refusal] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)


class Receipts(msgspec.Struct, frozen=True):
    """The ledger of requests of several events: what is done of each, and noting what was delivered."""

    completed: Callable[[list[str]], Awaitable[dict[str, frozenset[int]]]]
    record_delivered: Callable[[str, list[int]], Awaitable[None]]


class Circuits(msgspec.Struct, frozen=True):
    """The accounts' circuits, by `id`. `open` takes the status that opens one; True if it was closed."""

    is_open: Callable[[str], Awaitable[bool]]
    open: Callable[[str, int], Awaitable[bool]]
    close: Callable[[str], Awaitable[None]]
    park: Callable[[str, list[bytes]], Awaitable[None]]


class AccountBatch[Kind: (StoredMessage, PipelessMessage) = StoredMessage](msgspec.Struct):
    """One account's messages of a batch, by their records' numbers.

    Those that come `again` may be delivered in part; `probes` were sent back to the queue to find out
    whether the account answers again; `lasting` ones were received `backoff.LASTING` times and more.
    """

    messages: dict[int, Kind]
    redelivered: Set[int] = frozenset()
    probes: Set[int] = frozenset()
    long_failing: Set[int] = frozenset()


async def park(
    account: str,
    messages: Mapping[int, StoredMessage | PipelessMessage],
    circuits: Circuits,
    outcome: Outcome,
) -> None:
    """Parks messages of an account, by its `id`; on the queue stay those that cannot be."""
    if not messages:
        return
    try:
        await circuits.park(account, [msgspec.json.encode(message) for message in messages.values()])
    except Retryable as error:
        outcome.retry.update(dict.fromkeys(messages, Retry(error.after)))
        return
    outcome.parked.update(messages)
    outcome.counts["ParkedMessages"] += len(messages)
    for number in messages:
        outcome.retry.pop(number, None)


async def open_circuit(account: str, status: int, circuits: Circuits, outcome: Outcome) -> None:
    """Opens an account's circuit, by its `id`, before its messages are parked.

    They may be parked all the same where that fails: with the circuit closed they are back in a minute.
    """
    with contextlib.suppress(Retryable):
        if await circuits.open(account, status):
            outcome.counts["CircuitsOpened"] += 1


async def close_circuit(account: str, circuits: Circuits, outcome: Outcome) -> bool:
    """Closes an account's circuit, by its `id`; False where that fails, and the next probe has to."""
    try:
        await circuits.close(account)
    except Retryable:
        return False
    outcome.counts["CircuitsClosed"] += 1
    return True
