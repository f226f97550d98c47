"""Looks for the body that costs the most work or memory for its size: `make search-worst`.

It mutates the structure of bodies, keeps the costliest, and mutates those again. Work is counted in calls of
functions, which are the same on every machine. A body that it finds becomes one of those of
tests/unit/klaviyo/test_bounded_work.py.
"""

import argparse
import contextlib
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

from sluice.contract import Surface
from sluice.errors import Refused
from sluice.klaviyo import parser
from tests.support.factories import NEWEST, NOON, encoded, event, single
from tests.support.work import calls_of, memory_of

SIZE = 256 * 1024
KEPT = 6  # bodies that are mutated again
_LEAVES = (
    b"0",
    b"9e9",
    b"-0",
    b"null",
    b"true",
    b'"ab"',
    b'"\\ud83c"',
    b"18446744073709551616",
    b"[]",
    b"{}",
)
_WRAPS = ((b"[", b"]"), (b'{"a":', b"}"), (b'{"type":"event","attributes":', b"}"), (b'{"time":', b"}"))
_EVENTS = b'{"data":{"type":"event-bulk-create","attributes":{"profile":{},"events":{"data":[FILL]}}}}'
_JOBS = b'{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":[FILL]}}}}'
_FIELDS = b'{"data":{"type":"event","attributes":{"x":[FILL]}}}'
_PROPERTY = encoded(single(properties={"p": ["FILL"]})).replace(b'"FILL"', b"FILL")
_GOOD = encoded(event())
_SURFACES = (Surface.CLIENT_BULK, Surface.CLIENT_EVENT)
_PLACES = (_PROPERTY, _EVENTS, _JOBS, _FIELDS, b"[FILL]")


@dataclass(frozen=True, order=True)
class Candidate:
    """Describes a body: a place that is filled with a piece again and again. The first field is its cost."""

    cost: int
    place: bytes
    piece: bytes

    def body(self) -> bytes:
        """Returns the body."""
        before, after = self.place.split(b"FILL")
        count = (SIZE - len(before) - len(after)) // (len(self.piece) + 1)
        return before + b",".join([self.piece] * max(1, count)) + after


def attempt(body: bytes, surface: Surface) -> None:
    """Reads a body as a request's, whatever comes of it."""
    with contextlib.suppress(Refused):
        parser.read(surface, body, NEWEST, NOON)


def mutated(chance: random.Random, place: bytes, piece: bytes) -> tuple[bytes, bytes]:
    """Returns a place and a piece that differ from these in their structure."""
    match chance.randrange(5):
        case 0:
            return chance.choice(_PLACES), piece
        case 1:
            before, after = chance.choice(_WRAPS)
            return place, before + piece + after
        case 2:
            return place, piece + b"," + chance.choice((*_LEAVES, _GOOD))
        case 3:
            return place, b"[" + b",".join([piece] * chance.randint(2, 8)) + b"]"
        case _:
            return place, chance.choice((*_LEAVES, _GOOD))


def search(seed: int, rounds: int, cost: Callable[[Callable[[], None]], int]) -> list[Candidate]:
    """Returns the costliest bodies of a search, the worst first."""
    chance = random.Random(seed)
    found: dict[tuple[bytes, bytes], Candidate] = {}

    def look(place: bytes, piece: bytes) -> None:
        if (place, piece) not in found and len(piece) < SIZE // 64:
            body = Candidate(0, place, piece).body()
            worst = max(cost(functools.partial(attempt, body, surface)) for surface in _SURFACES)
            found[place, piece] = Candidate(worst, place, piece)

    for place in _PLACES:
        look(place, chance.choice(_LEAVES))
    for _ in range(rounds):
        parent = chance.choice(sorted(found.values(), reverse=True)[:KEPT])
        look(*mutated(chance, parent.place, parent.piece))
    return sorted(found.values(), reverse=True)[:KEPT]


def main() -> None:
    """Searches, and prints what costs the most."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--rounds", type=int, default=200)
    given = options.parse_args()
    for name, cost in (("calls of functions", calls_of), ("bytes of memory", memory_of)):
        print(f"most {name} for a body of {SIZE} bytes:")
        for each in search(given.seed, given.rounds, cost):
            before = each.place.partition(b"FILL")[0][-30:].decode()
            print(f"  {each.cost:12,.0f}  {before} {each.piece[:60].decode()}")


if __name__ == "__main__":
    main()
