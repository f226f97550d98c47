"""Brings parked messages back to the events queue.

Nothing is deleted before it is on the queue again, so a message may come back twice, which is
harmless, but none is left behind.
"""

import uuid
from collections.abc import Callable, Iterable
from itertools import batched
from typing import Final

import msgspec

from sluice import aws, circuit
from sluice.errors import Retryable
from sluice.message import Body, wrap
from sluice.settings import ResumeSettings

_AT_ONCE: Final = 500  # messages sent between two looks at the clock


class Store(msgspec.Struct, frozen=True):
    """The places a resumption works on."""

    settings: ResumeSettings

    def accounts(self) -> dict[str, int]:
        """How often something was parked for each account that may have messages parked."""
        return circuit.accounts_with_parked(self.settings.state_table)

    def send(self, site_id: str, messages: Iterable[bytes], *, probe: bool) -> None:
        """Puts messages on the events queue, or raises `Retryable`."""
        unsent = aws.send_all(
            self.settings.events_queue_url,
            [_body(message) for message in messages],
            claim_bucket=self.settings.claim_bucket,
            group=site_id,
            attributes={"probe": "1"} if probe else {},
        )
        if unsent:
            raise Retryable(f"{len(unsent)} parked messages did not get to the queue")


def resume(store: Store, site_id: str, parked: int, has_time: Callable[[], bool]) -> tuple[bool, int]:
    """Sends one message if the account's circuit is open, else all while there is time.

    `parked` is the account's count from `Store.accounts`. Returns whether the circuit is open, and
    how many messages were sent.
    """
    table, bucket = store.settings.state_table, store.settings.claim_bucket
    is_open = circuit.is_open(table, site_id)
    keys = circuit.parked_objects(bucket, site_id)
    if is_open:
        return True, _send_probe(store, site_id, keys[0]) if keys else 0
    sent = 0
    for key in keys:
        messages = list(circuit.parked_messages(bucket, key))
        for chunk in batched(messages, _AT_ONCE, strict=False):
            if not has_time():
                return False, sent
            store.send(site_id, chunk, probe=False)
            sent += len(chunk)
        circuit.discard(bucket, key)
    if not keys:
        circuit.forget(table, site_id, parked)
    return False, sent


def _send_probe(store: Store, site_id: str, smallest: str) -> int:
    table, bucket = store.settings.state_table, store.settings.claim_bucket
    probe, *rest = circuit.parked_messages(bucket, smallest)
    if rest:
        circuit.park(table, bucket, site_id, rest)
    store.send(site_id, [probe], probe=True)
    circuit.discard(bucket, smallest)
    return 1


def _body(message: bytes) -> Body:
    return wrap(message, f"claims/resumed/{uuid.uuid4().hex}.json.zst")
