"""Delivers one account's batch behind its circuit breaker, whichever vendor the account belongs to.

While the circuit is open only the probes are sent. If the upstream processes one, the circuit closes and the
rest follows; else the rest is parked. While an operator pauses the account, only what
an operator releases is sent.
"""

import contextlib
from collections.abc import Mapping
from typing import Protocol

import msgspec

from sluice.delivery import backoff
from sluice.delivery.backoff import Retry
from sluice.delivery.lone_refusals import LoneRefusals
from sluice.delivery.outcome import AccountBatch, Outcome
from sluice.delivery.ports import Circuits
from sluice.errors import Retryable


class VendorDelivery[Kind: msgspec.Struct](Protocol):
    """Sends one account's messages to its vendor. `to_park` are the numbers of those that must be parked."""

    to_park: set[int]
    lone_refusals: LoneRefusals

    @property
    def account_error(self) -> int | None:
        """Returns the status with which the upstream refuses the account itself, if it does."""
        ...

    @property
    def is_processed(self) -> bool:
        """Tells whether the upstream processed anything that was sent."""
        ...

    async def prepare(self) -> Mapping[int, Kind]:
        """Returns the messages without the events that are completed; may raise `Retryable`."""
        ...

    async def send(self, messages: Mapping[int, Kind], *, one_at_a_time: bool) -> None:
        """Sends messages: each is delivered, rejected, kept for a retry, or added to `to_park`."""
        ...

    async def record_progress(self) -> None:
        """Records what is delivered of the messages that are not done."""
        ...


async def deliver[Kind: msgspec.Struct](
    account_id: str,
    batch: AccountBatch[Kind],
    vendor: VendorDelivery[Kind],
    circuits: Circuits,
    outcome: Outcome,
) -> None:
    """Brings every message of a batch to an outcome: delivered, rejected, parked or kept for a retry."""
    messages: Mapping[int, Kind] = batch.messages
    try:
        messages = await vendor.prepare()
        state = await circuits.state(account_id=account_id)
        vendor.lone_refusals.record = state.refusals
        if state.is_paused:
            released = {number: each for number, each in messages.items() if number in batch.released}
            await _send(account_id, vendor, released, circuits, outcome, one_at_a_time=False)
            vendor.to_park.update(messages.keys() - released.keys())
        elif state.is_open:
            probes = {number: message for number, message in messages.items() if number in batch.probes}
            rest = {number: message for number, message in messages.items() if number not in batch.probes}
            await _send(account_id, vendor, probes, circuits, outcome, one_at_a_time=True)
            if _is_accepted(vendor) and await _close(account_id, circuits, outcome):
                await _send(account_id, vendor, rest, circuits, outcome, one_at_a_time=False)
            else:
                # Probes that wait are parked, too. On the queue they would be tried between the ticks.
                vendor.to_park.update(rest, batch.probes & outcome.retry.keys())
        else:
            await _send(account_id, vendor, messages, circuits, outcome, one_at_a_time=False)
        if vendor.account_error is not None:
            await _open(account_id, vendor.account_error, circuits, outcome)
    except Retryable as error:
        for number in batch.messages:
            outcome.retry.setdefault(number, Retry(error.after))
    vendor.to_park |= {n for n in batch.worn if n in outcome.retry and outcome.retry[n].rate_limited}
    await vendor.record_progress()
    await park(account_id, {number: messages[number] for number in vendor.to_park}, circuits, outcome)


async def _send[Kind: msgspec.Struct](
    account_id: str,
    vendor: VendorDelivery[Kind],
    messages: Mapping[int, Kind],
    circuits: Circuits,
    outcome: Outcome,
    *,
    one_at_a_time: bool,
) -> None:
    """Sends messages, and settles what is refused without a reason: it may be the account's fault."""
    await vendor.send(messages, one_at_a_time=one_at_a_time)
    verdict = await vendor.lone_refusals.settle(account_id, circuits.record_refusals)
    for number in verdict.waiting:
        outcome.counts["UnexplainedRefusals"] += 1
        outcome.retry[number] = backoff.longest(outcome.retry.get(number, Retry()), Retry())
    if verdict.status is not None:
        await _open(account_id, verdict.status, circuits, outcome)
        vendor.to_park |= messages.keys() & outcome.retry.keys()


async def park(
    account_id: str,
    messages: Mapping[int, msgspec.Struct],
    circuits: Circuits,
    outcome: Outcome,
    *,
    is_known: bool = True,
) -> None:
    """Parks messages of an account. Those that cannot be parked stay on the queue."""
    if not messages:
        return
    try:
        await circuits.park(
            account_id=account_id,
            messages=[msgspec.json.encode(message) for message in messages.values()],
            is_known=is_known,
        )
    except Retryable as error:
        outcome.retry.update(dict.fromkeys(messages, Retry(error.after)))
        return
    outcome.parked.update(messages)
    outcome.counts["ParkedMessages"] += len(messages)
    for number in messages:
        outcome.retry.pop(number, None)


def _is_accepted[Kind: msgspec.Struct](vendor: VendorDelivery[Kind]) -> bool:
    is_doubted = vendor.account_error is not None or vendor.lone_refusals.is_account_suspect
    return vendor.is_processed and not is_doubted


async def _open(account_id: str, status: int, circuits: Circuits, outcome: Outcome) -> None:
    # The messages may be parked even if this fails: with a closed circuit they are back in a minute.
    with contextlib.suppress(Retryable):
        if await circuits.open(account_id=account_id, status=status):
            outcome.counts["CircuitsOpened"] += 1


async def _close(account_id: str, circuits: Circuits, outcome: Outcome) -> bool:
    """Closes a circuit; returns False where that fails, so that the next probe has to."""
    try:
        await circuits.close(account_id=account_id)
    except Retryable:
        return False
    outcome.counts["CircuitsClosed"] += 1
    return True
