"""Keeps one message that ends its process from taking others with it.

A message that dispatch gave back was made visible again soon; one whose process was killed came back
only when the queue's visibility timeout was over, every time. Those are handled after all others, a
few at a time and in another order each time, and what is done is deleted at once: so of those that
died together ever fewer are left with the culprit. What has ended `MOST_ENDS` processes in a row is
the culprit, and is not tried again: that others had the same bad luck so often is one in many thousands.
"""

import random
from collections.abc import Mapping
from typing import Final

import msgspec

PARTS: Final = 16
MOST_ENDS: Final = 16


class Receives(msgspec.Struct, frozen=True):
    """How often a message was received, and when first (epoch seconds)."""

    count: int
    first: float


def is_suspect(receives: Receives, now: float, visibility_timeout: float) -> bool:
    """Whether all earlier receives of a message must have ended with its process."""
    earlier = receives.count - 1
    return earlier > 0 and now - receives.first >= earlier * visibility_timeout


def is_culprit(receives: Receives, now: float, visibility_timeout: float) -> bool:
    """Whether a message has ended its process so often that it is not to be tried again."""
    return receives.count > MOST_ENDS and is_suspect(receives, now, visibility_timeout)


def parts(
    messages: Mapping[int, Receives], now: float, visibility_timeout: float, chance: random.Random
) -> list[list[int]]:
    """The messages' numbers in the parts to handle one after the other: in one, but for suspects."""
    suspects = [
        number for number, received in messages.items() if is_suspect(received, now, visibility_timeout)
    ]
    rest = [number for number in messages if number not in set(suspects)]
    chance.shuffle(suspects)
    size = -(-len(suspects) // PARTS) or 1
    chunks = [suspects[start : start + size] for start in range(0, len(suspects), size)]
    return ([rest] if rest else []) + chunks
