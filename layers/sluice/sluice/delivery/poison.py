"""Keeps messages that end their process from taking others with them.

What a process had in hand when it ended is suspect. Suspects are handled after all others, a few at a
time and in another order each time, and what is done is deleted at once. What those few end a process
with is a smaller group of suspects, which is next taken apart itself: so of those that died together ever
fewer are left with a culprit, until each is tried alone. What has then ended `TRIALS` processes is a
culprit, and is not tried again.

No part of a batch is more than memory can hold, as what a message says is small may unpack to be large.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final

PARTS: Final = 16
TRIALS: Final = 16


def parts(
    sizes: Mapping[int, int], died_with: Iterable[Set[int]], most: int, chance: random.Random
) -> list[list[int]]:
    """The messages' numbers in the parts to handle one after the other, each of at most `most` bytes.

    `sizes` are the messages' by number, `died_with` those that a process had in hand when it ended, by
    process. Those that none had come first, and together if they fit.
    """
    left = set(sizes)
    groups = []
    for group in sorted(died_with, key=len):  # in the smallest it was in a message is most suspect
        groups.append(sorted(group & left))
        left -= group
    chunks = [[number for number in sizes if number in left]]
    for suspects in reversed(groups):
        chance.shuffle(suspects)
        size = -(-len(suspects) // PARTS) or 1
        chunks += [suspects[start : start + size] for start in range(0, len(suspects), size)]
    return [part for chunk in chunks for part in _fitting(chunk, sizes, most)]


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
