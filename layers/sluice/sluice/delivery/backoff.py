"""Decides how long a message waits before it is tried again."""

import random
from datetime import timedelta
from typing import Final

import msgspec

FIRST_SECONDS: Final = 4.0
MAX_SECONDS: Final = 900.0
FAST_RETRIES: Final = 4  # receives until which waits double; about half a minute
SLOT_RETRIES: Final = 6  # receives while waiting for a slot, until which waits do not grow
GROWTH: Final = 1.1  # factor for each further receive
# A background message that has waited for slots for so long is parked: in S3 that costs no receives, and no
# retention ends it.
MAX_BACKGROUND_RECEIVES: Final = 100
MAX_BACKGROUND_AGE: Final = timedelta(days=7)
JITTER_SECONDS: Final = 10.0  # of the longest wait; shorter waits are spread over their second half


class Retry(msgspec.Struct, frozen=True):
    """Says why a message waits: for a slot that is known to come, or because something failed.

    `seconds` is a time that is known to be too early. A message that `made_progress` only let others go
    first.
    """

    seconds: float | None = None
    rate_limited: bool = False
    made_progress: bool = False


def longest(one: Retry, other: Retry) -> Retry:
    """Returns the one of two reasons to wait that keeps a message longer."""
    return max(one, other, key=lambda wait: (not wait.rate_limited, wait.seconds or 0.0))


def delay(receives: int, wait: Retry, chance: random.Random) -> int:
    """Returns the whole seconds until the next try of a message received `receives` times (from 1).

    A wait after a failure doubles for half a minute. From then on every wait grows slowly, because receives
    tell how long a message has been waiting, not how often it failed. The end of a backlog must not be hidden
    while nobody uses the rate, and no outage may use up a message's receives. Jitter keeps messages that wait
    together from coming back together.
    """
    if wait.made_progress:
        return 0
    known = wait.seconds or 0.0
    if wait.rate_limited and receives <= SLOT_RETRIES:
        least, jitter = known, FIRST_SECONDS / 2
    else:
        step = min(MAX_SECONDS, _step(receives, wait))
        jitter = step / 2 if step < MAX_SECONDS else JITTER_SECONDS
        least = max(known, step - jitter)
    return round(min(MAX_SECONDS, least + chance.uniform(0, jitter)))


def is_worn(receives: int, age: timedelta) -> bool:
    """Tells whether a background message should not wait for slots on its queue any longer."""
    return receives >= MAX_BACKGROUND_RECEIVES or age >= MAX_BACKGROUND_AGE


def _step(receives: int, wait: Retry) -> float:
    if wait.rate_limited:
        return FIRST_SECONDS * _growth(receives - SLOT_RETRIES)
    return FIRST_SECONDS * 2.0 ** (min(receives, FAST_RETRIES) - 1) * _growth(receives - FAST_RETRIES)


def _growth(receives: int) -> float:
    # Bounded, as a power that is too large for a float is an error.
    return GROWTH ** min(max(receives, 0), 100)
