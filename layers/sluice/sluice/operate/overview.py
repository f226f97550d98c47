"""Declares what the status is made of: accounts, parked messages, queues, metrics and alarms."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from sluice.accounts import StoredAccounts
from sluice.delivery.circuit_breaker import OpenCircuit
from sluice.delivery.parking import ParkedMessages
from sluice.delivery.pause import Pause
from sluice.delivery.rate_limiter import SlotWindow


class AccountState(msgspec.Struct, frozen=True):
    """Holds what the state table says of an account."""

    circuit: OpenCircuit | None = None
    pause: Pause | None = None
    window: SlotWindow = SlotWindow()


class Queue(msgspec.Struct, frozen=True):
    """Describes a queue: messages to be received, in flight and delayed, and the age of the oldest one."""

    name: str
    visible: int
    in_flight: int
    delayed: int
    oldest_seconds: int | None


class Hour(msgspec.Struct, frozen=True):
    """Holds the sums of metrics over the last hour and over each of its minutes, and when resume last ticked.

    `refused` are deliveries of webhooks that were refused and not kept, by source.
    """

    sums: Mapping[str, int]
    refused: Mapping[str, int]
    last_tick: datetime | None
    minutes: Mapping[datetime, Mapping[str, int]]


class Alarm(msgspec.Struct, frozen=True):
    """Describes an alarm that sounds."""

    name: str
    since: datetime
    reason: str


class Overview(Protocol):
    """Reads how a deployment is doing. Its methods may raise `Retryable`."""

    def accounts(self) -> StoredAccounts:
        """Returns the accounts of the document that are valid, and what is wrong with the others."""
        ...

    def states(self, *, account_ids: Collection[str]) -> Mapping[str, AccountState]:
        """Returns the state of each account, read in batches."""
        ...

    def parked(self) -> Mapping[str, ParkedMessages]:
        """Returns what is parked for accounts that the document named at that time."""
        ...

    def parked_unknown(self, *, limit: int) -> tuple[int, Mapping[str, ParkedMessages]]:
        """Returns how many unknown accounts have messages parked, and what is parked for some of them."""
        ...

    def queues(self) -> Sequence[Queue]:
        """Returns the queues."""
        ...

    def hour(self, *, sources: Collection[str]) -> Hour:
        """Returns the metrics of the last hour, those of some sources of webhooks among them."""
        ...

    def alarms(self) -> Sequence[Alarm]:
        """Returns the alarms of this deployment that sound."""
        ...
