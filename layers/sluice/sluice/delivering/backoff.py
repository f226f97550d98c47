"""How long a message waits before it is tried again."""

import random
from typing import Final

import msgspec

FIRST_SECONDS: Final = 4.0
MAX_SECONDS: Final = 900.0
JITTER_SECONDS: Final = 10.0  # at most; half of a short wait
LASTING: Final = 4  # receives of a message that has failed for half a minute and would wait for another
FAILURE_GROWTH: Final = 2.0  # a receive
TURN_GROWTH: Final = 1.1  # a receive
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

    After a failure the wait doubles each time: no outage may use up a message's receives. One for a turn
    grows slowly, and is spread over half of itself: else the last messages of a backlog are hidden while
    nobody uses the rate. Jitter keeps what waits together from coming back together.
    """
    if wait.got_on:
        return 0
    known = wait.seconds or 0.0
    if not wait.for_turn:
        step = _grown(FAILURE_GROWTH, receives - 1)
        jitter = min(JITTER_SECONDS, step / 2)
    elif receives <= PATIENCE:
        step, jitter = 0.0, FIRST_SECONDS / 2
    else:
        step = _grown(TURN_GROWTH, receives - PATIENCE)
        jitter = step / 2 if step < MAX_SECONDS else JITTER_SECONDS
    least = max(known, step - jitter)
    return round(min(MAX_SECONDS, least + chance.uniform(0, jitter)))


def _grown(factor: float, times: int) -> float:
    # Bounded, as a power that is too large for a float is an error.
    return min(MAX_SECONDS, FIRST_SECONDS * factor ** min(times, 100))
