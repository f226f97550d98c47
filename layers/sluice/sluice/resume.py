"""Brings parked messages back to the events queue.

Nothing is deleted before it is on the queue again. So a message may come back twice, which is harmless, but
none is left behind.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from sluice import runtime
from sluice.aws import sqs
from sluice.delivery import circuit_breaker, parking
from sluice.errors import Retryable
from sluice.message import Body, wrap
from sluice.settings import ResumeSettings

PROBES: Final = 2  # two, because one of them may be bad itself


class Store(msgspec.Struct, frozen=True):
    """Names the places that a resumption works on."""

    settings: ResumeSettings

    def accounts(self) -> dict[str, str]:
        """Returns the accounts that may have messages parked, by site id, with their marks."""
        return parking.registered_accounts(self.settings.state_table)

    def send(self, site_id: str, messages: Sequence[bytes], *, probe: bool) -> list[bytes]:
        """Sends messages to the events queue and returns those that could not be sent."""
        unsent = sqs.send_messages(
            self.settings.events_queue_url,
            [_body(message) for message in messages],
            claim_bucket=self.settings.claim_bucket,
            group=site_id,
            attributes={"resumed": "1"} | ({"probe": "1"} if probe else {}),
        )
        return [messages[index] for index in sorted(unsent)]


def resume(store: Store, site_id: str, mark: str, has_time: Callable[[], bool]) -> tuple[bool, int]:
    """Sends a message or two if the account's circuit is open, else all while there is time.

    `mark` is the account's from `Store.accounts`. Returns whether the circuit is open, and how many
    messages were sent. `Retryable` says that some did not get to the queue; they are still parked.
    """
    table, bucket = store.settings.state_table, store.settings.claim_bucket
    is_open = circuit_breaker.is_open(table, site_id)
    parked = parking.parked_objects(bucket, site_id)
    if is_open:
        # The oldest are sent. A probe that came back is the newest, so a bad one blocks no other.
        return True, sum(_send(store, site_id, key, probe=True) for key in list(parked)[:PROBES])
    sent = 0
    for key in parked:
        if not has_time():
            break
        sent += _send(store, site_id, key, probe=False)
    if not parked:
        parking.deregister(table, site_id, mark)
    return False, sent


def _send(store: Store, site_id: str, key: str, *, probe: bool) -> int:
    """Sends a parked object's messages, or the first of them as a probe; what is not sent stays in it."""
    bucket = store.settings.claim_bucket
    messages = parking.parked_messages(bucket, key)
    due, rest = (messages[:1], messages[1:]) if probe else (messages, [])
    unsent = store.send(site_id, due, probe=probe)
    if len(unsent) < len(due):
        parking.keep_only(bucket, key, unsent + rest)
    if unsent:
        raise Retryable(f"{len(unsent)} parked messages could not be sent to the queue")
    return len(due)


def _body(message: bytes) -> Body:
    return wrap(message, f"claims/resumed/{runtime.unique_id()}.json.zst")
