"""Keeps one message that ends its process from taking others with it.

What a process had in hand when it ended is suspect. Suspects are handled after all others, a few at a
time and in another order each time, and what is done is deleted at once: so of those that died together
ever fewer are left with the culprit, until each is tried alone. What has then ended `TRIALS` processes is
the culprit, and is not tried again.

No part of a batch is more than memory can hold, as what a message says is small may unpack to be large.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final

PARTS: Final = 16
TRIALS: Final = 16


def parts(sizes: Mapping[int, int], suspects: Set[int], most: int, chance: random.Random) -> list[list[int]]:
    """The messages' numbers in the parts to handle one after the other, each of at most `most` bytes.

    `sizes` are the messages' by number. Those that are no suspects come first, and together if they fit.
    """
    shuffled = sorted(suspects)
    chance.shuffle(shuffled)
    size = -(-len(shuffled) // PARTS) or 1
    chunks = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    rest = [number for number in sizes if number not in suspects]
    return [part for chunk in (rest, *chunks) for part in _fitting(chunk, sizes, most)]


def _fitting(numbers: Iterable[int], sizes: Mapping[int, int], most: int) -> Iterator[list[int]]:
    part: list[int] = []
    total = 0
    for number in numbers:
        if part and total + sizes[number] > most:
            yield part
            part, total = [], 0
        part.append(number)
        total += sizes[number]
    if part:
        yield part
