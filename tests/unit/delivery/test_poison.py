"""Tests that a poison message takes no others with it, and that healthy messages are never taken for one."""

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import message
from sluice.delivery import poison
from sluice.delivery.poison import SUSPECT_PARTS

chances = st.integers(0, 2**32).map(random.Random)


sizes = st.dictionaries(st.integers(0, 10_000), st.integers(1, 100), max_size=200)


@given(
    sizes=sizes,
    died_with=st.lists(st.sets(st.integers(0, 10_000)), max_size=5),
    most=st.integers(1, 2_000),
    chance=chances,
)
def test_parts_hold_every_message_once_suspects_last_and_apart(
    sizes: dict[int, int], died_with: list[set[int]], most: int, chance: random.Random
) -> None:
    parts = poison.split_batch(sizes, died_with, most, chance)

    assert sorted(number for part in parts for number in part) == sorted(sizes)
    assert all(parts)
    assert all(len(part) == 1 or sum(sizes[number] for number in part) <= most for part in parts)
    # How suspect a message is: by the smallest group that it was in.
    smallest = {
        number: -min((len(group) for group in died_with if number in group), default=sys.maxsize)
        for number in sizes
    }
    kinds = [{smallest[number] for number in part} for part in parts]
    assert all(len(kind) == 1 for kind in kinds)
    assert kinds == sorted(kinds, key=min)
    for part in parts:
        together = [len(group & sizes.keys()) for group in died_with if part[0] in group]
        assert not together or len(part) <= -(-max(together) // SUSPECT_PARTS)


def test_messages_that_fit_are_handled_together_in_their_order() -> None:
    sizes = dict.fromkeys([5, 3, 9, 1], 10)

    assert poison.split_batch(sizes, [], 40, random.Random(1)) == [[5, 3, 9, 1]]
    assert poison.split_batch(sizes, [], 39, random.Random(1)) == [[5, 3, 9], [1]]
    assert poison.split_batch(sizes, [], 1, random.Random(1)) == [[5], [3], [9], [1]]
    assert poison.split_batch({}, [], 40, random.Random(1)) == []


def test_a_few_suspects_are_tried_alone_and_in_another_order_each_time() -> None:
    chance = random.Random(1)
    sizes = dict.fromkeys(range(SUSPECT_PARTS + 3), 1)
    suspects = set(range(SUSPECT_PARTS))

    one, other = (poison.split_batch(sizes, [suspects], 100, chance) for _ in range(2))

    assert one[0] == other[0] == [SUSPECT_PARTS, SUSPECT_PARTS + 1, SUSPECT_PARTS + 2]
    assert [len(part) for part in one[1:]] == [1] * SUSPECT_PARTS
    assert one != other


@pytest.mark.parametrize(("culprits", "ends"), [(1, 6), (3, 18), (SUSPECT_PARTS + 1, 80), (40, 160)])
@pytest.mark.parametrize("seed", range(5))
def test_those_that_died_with_culprits_are_done_before_many_processes_ended(
    seed: int, culprits: int, ends: int
) -> None:
    chance = random.Random(seed)
    left = dict.fromkeys(range(10_000), 1)
    died_with: list[set[int]] = []
    counts: list[int] = []

    for _ in range(ends):
        # The process handles part after part until a culprit ends it; what was done is deleted.
        for part in poison.split_batch(left, died_with, 1_000_000, chance):
            if min(part) < culprits:
                died_with.append(set(part))
                break
            left = dict.fromkeys(left.keys() - set(part), 1)
        counts.append(len(left))

    assert counts[0] == 10_000
    assert sorted(left) == list(range(culprits))


@pytest.mark.parametrize("events", [1, 3_000])
def test_what_a_message_unpacks_to_is_told_from_its_beginning(events: int) -> None:
    plain = b'{"sluice":1,"events":[' + b",".join(b'"%d"' % n for n in range(events * 10)) + b"]}"
    body = message.wrap(plain, "claims/x").text

    assert message.unpacked_size(body) == len(plain)


def test_a_claim_that_does_not_tell_its_size_is_as_large_as_a_request_can_become() -> None:
    assert message.unpacked_size('{"sluice":1,"claim":"claims/x"}') == message.MAX_UNPACKED_BYTES


@pytest.mark.parametrize("body", ['{"sluice":1,"zstd":"AAAA"}', '{"sluice":1,"zstd":"%%%%"}'])
def test_a_message_that_cannot_be_unpacked_is_as_large_as_it_is(body: str) -> None:
    assert message.unpacked_size(body) == len(body)


def test_a_producers_message_is_as_large_as_it_can_become() -> None:
    assert message.unpacked_size('{"data": {}}') == 6 * 12
