"""Brings parked messages back to the queues that they came from.

Nothing is deleted before it is on the queue again. So a message may come back twice, which is harmless, but
none is left behind.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from sluice import runtime
from sluice.accounts import Accounts
from sluice.aws import sqs
from sluice.aws.sealing import Sealing
from sluice.delivery import circuit_breaker, parking, pause
from sluice.errors import Retryable
from sluice.message import Body, wrap
from sluice.settings import ResumeSettings

PROBES: Final = 2  # two, because one of them may be bad itself


class ParkedAccount(msgspec.Struct, frozen=True):
    """Names an account with parked messages; `was_unknown` if the document did not name it at that time."""

    id: str
    was_unknown: bool = False

    @property
    def prefix(self) -> str:
        """Returns the prefix below which its messages are parked."""
        return parking.UNKNOWN_PREFIX if self.was_unknown else parking.PARKED_PREFIX


class Resumed(msgspec.Struct):
    """Tells whether an account's circuit is open, how many messages were sent, how many parked objects are
    `not_sealed` by Sluice, so that they stay where they are, and whether an operator paused the account.
    """

    is_open: bool = False
    messages: int = 0
    not_sealed: int = 0
    is_paused: bool = False


class Store(msgspec.Struct, frozen=True):
    """Names the places that a resumption works on."""

    settings: ResumeSettings

    @property
    def sealing(self) -> Sealing:
        """Returns the seals of messages and parked objects."""
        return Sealing(self.settings.sealing_secret)

    def parked_accounts(self) -> list[ParkedAccount]:
        """Returns the accounts that have messages parked, by chance, so that none is always the last."""
        found = list(map(ParkedAccount, parking.parked_accounts(self.settings.claim_bucket)))
        runtime.chance().shuffle(found)
        return found

    def unknown_accounts(self) -> list[str]:
        """Returns the ids of accounts that were unknown when messages of them were parked."""
        return parking.unknown_accounts(self.settings.claim_bucket)

    def send(
        self, account_id: str, messages: Sequence[bytes], *, probe: bool, is_background: bool
    ) -> list[bytes]:
        """Sends messages to the queue that they came from and returns those that could not be sent."""
        settings = self.settings
        unsent = sqs.send_messages(
            settings.background_queue_url if is_background else settings.events_queue_url,
            [_body(message) for message in messages],
            claim_bucket=settings.claim_bucket,
            sealing=self.sealing,
            group=account_id,
            attributes={"resumed": "1"} | ({"probe": "1"} if probe else {}),
        )
        return [messages[index] for index in sorted(unsent)]


def now_known(unknown: Sequence[str], accounts: Accounts) -> list[ParkedAccount]:
    """Returns those of these accounts that the accounts document names by now."""
    return [ParkedAccount(id, was_unknown=True) for id in unknown if accounts.names(id)]


def resume(store: Store, account: ParkedAccount, has_time: Callable[[], bool]) -> Resumed:
    """Sends a message or two if the account's circuit is open, else all while there is time.

    Nothing is sent of an account that an operator paused. `Retryable` says that some messages did not get to
    the queue; they are still parked.
    """
    if pause.find(store.settings.state_table, account.id) is not None:
        return Resumed(is_paused=True)
    result = Resumed(circuit_breaker.is_open(store.settings.state_table, account.id))
    probes = 0
    for key in parking.parked_objects(store.settings.claim_bucket, account.id, prefix=account.prefix):
        # The oldest are sent as probes. A probe that came back is the newest, so a bad one blocks no other.
        if probes == PROBES or not (result.is_open or has_time()):
            break
        try:
            result.messages += _send(store, account.id, key, probe=result.is_open)
        except parking.NotSealed:
            result.not_sealed += 1
            continue
        probes += result.is_open
    return result


def _send(store: Store, account_id: str, key: str, *, probe: bool) -> int:
    """Sends a parked object's messages, or the first of them as a probe; what is not sent stays in it."""
    bucket = store.settings.claim_bucket
    messages = parking.parked_messages(bucket, key, store.sealing)
    due, rest = (messages[:1], messages[1:]) if probe else (messages, [])
    unsent = store.send(account_id, due, probe=probe, is_background=parking.is_background(key))
    if len(unsent) < len(due):
        parking.keep_only(bucket, key, unsent + rest, store.sealing)
    if unsent:
        raise Retryable(f"{len(unsent)} parked messages could not be sent to the queue")
    return len(due)


def _body(message: bytes) -> Body:
    return wrap(message, f"claims/resumed/{runtime.unique_id()}.json.zst")
