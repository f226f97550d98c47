"""How long a message waits before it is tried again."""

import random
from typing import Final

import msgspec

FIRST_SECONDS: Final = 4.0
MAX_SECONDS: Final = 900.0
JITTER_SECONDS: Final = 10.0  # at most; half of a short wait
LASTING: Final = 4  # receives of a message that has failed for half a minute and would wait for another
PATIENCE: Final = 6  # receives a message may spend waiting for its turn before its waits grow


class Wait(msgspec.Struct, frozen=True):
    """Why a message waits: for a turn that is known to come, or because something failed.

    `seconds` is how long is known to be too early. One that `got_on` only gave others a chance.
    """

    seconds: float | None = None
    for_turn: bool = False
    got_on: bool = False


def longer(one: Wait, other: Wait) -> Wait:
    """Of two reasons to wait, the one that keeps a message longer."""
    return max(one, other, key=lambda wait: (not wait.for_turn, wait.seconds or 0.0))


def delay(receives: int, wait: Wait, chance: random.Random) -> int:
    """Whole seconds until the next try of a message received `receives` times (from 1).

    After a failure the wait doubles each time, as it does for a turn that has not come for long: no
    outage may use up a message's receives. Jitter keeps what waits together from coming back together.
    """
    if wait.got_on:
        return 0
    doublings = receives - (PATIENCE if wait.for_turn else 1)
    step = min(MAX_SECONDS, FIRST_SECONDS * 2.0 ** max(0, min(doublings, 10)))
    jitter = min(JITTER_SECONDS, step / 2)
    known = wait.seconds or 0.0
    least = known if wait.for_turn and doublings <= 0 else max(known, step - jitter)
    return round(min(MAX_SECONDS, least + chance.uniform(0, jitter)))
