"""Records what becomes of a batch's messages: delivered, rejected, parked, or kept on the queue.

A message is done only when each of its events is delivered or rejected. One event that waits keeps its
message on the queue. One event of an account with an open circuit has its message parked.
"""

from collections import Counter
from collections.abc import Set

import msgspec

from sluice.delivery.backoff import Retry
from sluice.message import StoredMessage
from sluice.rejection import Rejection


class Refusal(msgspec.Struct, frozen=True):
    """Holds a rejection that is due, of the events at these positions of a record's message."""

    record: int
    rejection: Rejection
    receipt: str = ""
    positions: tuple[int, ...] = ()


class LeftOutField(msgspec.Struct, frozen=True):
    """Names a field that the upstream refused, and without which its event was sent again.

    `pointer` leads to the field in the caller's document.
    """

    account: str
    receipt: str
    pointer: str
    line: str | None = None


class Outcome(msgspec.Struct):
    """Holds the outcome of a batch by the records' numbers; `retry` has those kept on the queue, and why.

    `unforeseen` counts messages by the error that nobody foresaw: its type and place.
    """

    retry: dict[int, Retry] = {}
    parked: set[int] = set()
    refusals: list[Refusal] = []
    left_out: list[LeftOutField] = []
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    unforeseen: Counter[str] = msgspec.field(default_factory=Counter)


class AccountBatch[Kind: msgspec.Struct = StoredMessage](msgspec.Struct):
    """Holds one account's messages of a batch, by their records' numbers.

    `redelivered` messages may be delivered in part. `probes` were sent back to the queue to find out whether
    the account is processed again. `long_failing` ones were received `backoff.FAST_RETRIES` times or more.
    `worn` ones are parked when they have to wait for a slot once more.
    """

    messages: dict[int, Kind]
    redelivered: Set[int] = frozenset()
    probes: Set[int] = frozenset()
    released: Set[int] = frozenset()
    long_failing: Set[int] = frozenset()
    worn: Set[int] = frozenset()
