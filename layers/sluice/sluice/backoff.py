"""How long a message waits before it is tried again."""

import random
from typing import Final

FIRST_SECONDS: Final = 4.0
MAX_SECONDS: Final = 900.0


def delay(receives: int, after: float | None, chance: random.Random) -> int:
    """Whole seconds until the next try of a message received `receives` times (from 1).

    `after` is how long is known to be too early. Without it the wait doubles each time; jitter keeps
    what failed together from coming back together.
    """
    step = min(MAX_SECONDS, FIRST_SECONDS * 2 ** min(receives - 1, 10))
    least = after if after is not None else step / 2
    return int(min(MAX_SECONDS, least + chance.uniform(0, step / 2)) + 0.5)
