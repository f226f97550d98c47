"""Tests packing: nothing lost, nothing twice, no limit passed, order kept, jobs full; and that it scales."""

import cProfile
import json
import random
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from itertools import count, product
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice import contract, message
from sluice.contract import MAX_BODY_BYTES_OUT, MAX_EVENTS_PER_REQUEST, Surface
from sluice.klaviyo import packing, parser
from sluice.klaviyo.packing import Job, Origin, PackedEvent, Packing, merge_profiles, pack, pack_events
from sluice.message import Message, PipelessMessage, StoredMessage
from tests.support import factories

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
numbers = count()


def profile(key: str = "ann", meta: dict[str, Any] | None = None, **attributes: Any) -> bytes:
    document: dict[str, Any] = {"type": "profile", "attributes": {"external_id": key, **attributes}}
    if meta is not None:
        document["meta"] = meta
    return json.dumps(document, separators=(",", ":")).encode()


ANN = profile()


def event(
    key: str = "ann",
    unique_id: str | None = None,
    of: bytes | None = None,
    *,
    says: str = "",
    size: int = 0,
    backfill: bool = False,
) -> PackedEvent:
    """Makes one event to pack, its id new unless given, its attributes `size` bytes if that is more than
    needed.
    """
    number = next(numbers)
    body = b'{"unique_id":"%s","says":"%s"}' % (str(unique_id).encode(), says.encode())
    body = body.ljust(size) if size else body
    unique = f"{number}" if unique_id is None else unique_id
    return PackedEvent(key, unique, body, of or profile(key), backfill, [Origin(0, 0, number)])


def origins(events: Iterable[PackedEvent]) -> Counter[Origin]:
    return Counter(origin for each in events for origin in each.origins)


def events_of(job: Job) -> list[PackedEvent]:
    return [each for entry in job.entries for each in entry.events]


def all_events(packing: Packing) -> list[PackedEvent]:
    return [each for job in packing.jobs for each in events_of(job)] + packing.oversized


def numbers_of(packing: Packing) -> list[int]:
    return [job.events for job in packing.jobs]


def reference_body(job: Job) -> dict[str, Any]:
    """Builds a job's document without any care for speed."""
    return {
        "data": {
            "type": "event-bulk-create-job",
            "attributes": {
                "events-bulk-create": {
                    "data": [
                        {
                            "type": "event-bulk-create",
                            "attributes": {
                                **({"backfill": True} if entry.backfill else {}),
                                "profile": {"data": json.loads(entry.profile)},
                                "events": {
                                    "data": [
                                        {"type": "event", "attributes": json.loads(each.attributes)}
                                        for each in entry.events
                                    ]
                                },
                            },
                        }
                        for entry in job.entries
                    ]
                }
            },
        }
    }


# The upstream's documents leave two questions open: if a location replaces the one before or only its fields,
# and if null properties clear the existing ones. In either case, packing must not change the result.
type Reading = tuple[str, str]
READINGS: list[Reading] = list(product(("replace", "merge"), ("clear", "keep")))


def apply(state: dict[str, Any], profile_bytes: bytes, reading: Reading) -> dict[str, Any]:
    """Returns the upstream's profile after one more set of attributes, by a reading of the documents."""
    locations, nulls = reading
    document = json.loads(profile_bytes)
    for name, value in document["attributes"].items():
        if name == "properties" and value is None:
            state["properties"] = {} if nulls == "clear" else state.get("properties", {})
        elif name == "properties":
            state["properties"] = state.get("properties", {}) | value
        elif name == "location" and locations == "merge":
            state["location"] = state.get("location", {}) | value
        else:
            state[name] = value
    for name in document.get("meta", {}).get("patch_properties", {}).get("unset", []):
        state.get("properties", {}).pop(name, None)
    for name, value in document.get("meta", {}).get("patch_properties", {}).get("append", {}).items():
        state.setdefault("appended", []).append((name, value))
    return state


def applied(profiles: Iterable[bytes], reading: Reading) -> dict[str, Any]:
    state: dict[str, Any] = {"properties": {"old": True}, "location": {"ip": "192.0.2.1"}}
    for each in profiles:
        apply(state, each, reading)
    return state


class TestMergeProfiles:
    attributes = st.fixed_dictionaries(
        {},
        optional={
            "first_name": st.sampled_from(["Ann", "Bea", None, ""]),
            "title": st.sampled_from(["Dr", None]),
            "location": st.dictionaries(
                st.sampled_from(["city", "zip", "ip"]), st.sampled_from(["x", "y", None])
            ),
            "properties": st.none()
            | st.dictionaries(
                st.sampled_from(["a", "b", "old"]), st.sampled_from([0, None, {"c": 1}, {"d": [2]}])
            ),
        },
    )
    metas = st.none() | st.sampled_from(
        [{"patch_properties": {"unset": ["a"]}}, {"patch_properties": {"append": {"a": 1}}}]
    )

    @given(st.lists(st.tuples(attributes, metas), min_size=2, max_size=4), st.booleans())
    def test_a_merged_profile_does_what_its_parts_do_in_order(
        self, parts: list[tuple[dict[str, Any], dict[str, Any] | None]], is_same: bool
    ) -> None:
        profiles = [profile(meta=meta, **attributes) for attributes, meta in parts]
        if is_same:
            profiles[1] = bytes(bytearray(profiles[0]))

        merged = profiles[0]
        for each in profiles[1:]:
            longer = merge_profiles(merged, each)
            if longer is None:
                return
            assert len(longer) <= len(merged) + len(each)
            merged = longer

        for reading in READINGS:
            assert applied([merged], reading) == applied(profiles, reading)

    @pytest.mark.parametrize(
        ("older", "newer", "expected"),
        [
            ({"first_name": "Ann"}, {"last_name": "Lee"}, {"first_name": "Ann", "last_name": "Lee"}),
            ({"first_name": "Ann"}, {"first_name": "Bea"}, {"first_name": "Bea"}),
            ({"first_name": "Ann"}, {"first_name": None}, {"first_name": None}),
            ({"properties": {"a": 1}}, {"properties": {"b": 2}}, {"properties": {"a": 1, "b": 2}}),
            ({"properties": {"a": 1}}, {"properties": {}}, {"properties": {"a": 1}}),
            ({"properties": {"a": [1]}}, {"properties": {"a": [2]}}, {"properties": {"a": [2]}}),
            ({"properties": {"a": 1}}, {"properties": None}, None),
            ({"properties": None}, {"properties": {"a": 1}}, None),
            ({"properties": None}, {"title": "Dr", "properties": None}, {"properties": None, "title": "Dr"}),
            ({"location": {"zip": "1"}}, {"location": {"zip": "2"}}, {"location": {"zip": "2"}}),
            ({"location": {"city": "x", "zip": "1"}}, {"location": {"city": "y"}}, None),
            ({"location": {"city": "x"}}, {"title": "Dr"}, {"location": {"city": "x"}, "title": "Dr"}),
            ({"properties": {"a": "x" * 50_000}}, {"properties": {"b": "x" * 50_000}}, None),
        ],
    )  # fmt: skip
    def test_is_by_attribute_and_property_and_only_if_sure(
        self, older: dict[str, Any], newer: dict[str, Any], expected: dict[str, Any] | None
    ) -> None:
        merged = merge_profiles(profile(**older), profile(**newer))

        found = None if merged is None else json.loads(merged)["attributes"]
        assert found == (None if expected is None else {"external_id": "ann", **expected})

    @pytest.mark.parametrize("email", [{}, {"email": None}])
    def test_never_changes_the_case_of_an_address(self, email: dict[str, Any]) -> None:
        lower, mixed = profile(email="ann@mail.example"), profile(email="Ann@mail.example")

        assert merge_profiles(lower, mixed) is merge_profiles(mixed, lower) is None
        merged = merge_profiles(profile(**email), ANN)
        assert merged is not None
        assert json.loads(merged)["attributes"].items() >= email.items()

    def test_never_merges_patches_but_of_one_entry(self) -> None:
        appending = profile(meta={"patch_properties": {"append": {"seen": "x"}}})
        again = bytes(bytearray(appending))

        assert merge_profiles(appending, appending) is appending
        assert merge_profiles(appending, again) is None
        assert merge_profiles(ANN, appending) is None
        assert merge_profiles(appending, ANN) is None

    def test_keeps_an_id_beside_the_attributes(self) -> None:
        older = b'{"type":"profile","id":"01A","attributes":{"first_name":"Ann"}}'
        newer = b'{"type":"profile","id":"01A","attributes":{"title":"Dr"}}'

        merged = merge_profiles(older, newer)

        assert merged is not None
        assert json.loads(merged) == {
            "type": "profile",
            "id": "01A",
            "attributes": {"first_name": "Ann", "title": "Dr"},
        }


# Limits so low that a few events reach them all.
FEW_EVENTS, FEW_BYTES, FEW_PROFILE_BYTES = 6, 3_000, 400


def small_limits() -> AbstractContextManager[object]:
    return mock.patch.multiple(
        packing,
        MAX_EVENTS_PER_REQUEST=FEW_EVENTS,
        MAX_BODY_BYTES_OUT=FEW_BYTES,
        MAX_PROFILE_BYTES=FEW_PROFILE_BYTES,
        _FULL_BYTES=2_900,
        _MAX_OPEN=4,
    )


PROFILES: list[dict[str, Any]] = [
    {},
    {"first_name": "Ann"},
    {"first_name": "Bea", "properties": {"a": 1}},
    {"properties": {"b": 2}},
    {"properties": None},
    {"location": {"city": "x", "zip": "1"}},
    {"location": {"city": "y"}},
    {"title": "x" * 200},
    {"meta": {"patch_properties": {"unset": ["a"]}}},
]


@st.composite
def groups(draw: st.DrawFn) -> list[list[PackedEvent]]:
    """Draws messages of some profiles' events, with repeats of all kinds, and some too large for any job."""
    made = []
    for _ in range(draw(st.integers(1, 12))):
        group = []
        for _ in range(draw(st.integers(1, 4))):
            key = draw(st.sampled_from("abc"))
            of = profile(key, **draw(st.sampled_from(PROFILES)))
            for _ in range(draw(st.integers(1, 3))):
                each = event(
                    key,
                    draw(st.sampled_from("123456789")),
                    of,
                    says=draw(st.sampled_from(["", "", "", "x", "y"])),
                    size=draw(st.sampled_from([0, 0, 300, 1_200, 2_990])),
                    backfill=draw(st.booleans()),
                )
                group.append(each)
        made.append(group)
    return made


def copied(group_list: list[list[PackedEvent]]) -> list[list[PackedEvent]]:
    return [
        [msgspec.structs.replace(each, origins=list(each.origins)) for each in group] for group in group_list
    ]


def some_order(jobs: Iterable[Job], seed: int) -> list[Job]:
    """Returns an order in which jobs may be answered: any that respects `after`."""
    chance = random.Random(seed)
    waiting, order = list(jobs), list[Job]()
    done = set[int]()
    while waiting:
        ready = [job for job in waiting if job.after <= done]
        job = chance.choice(ready)
        waiting.remove(job)
        done.add(job.number)
        order.append(job)
    return order


class TestEveryBatch:
    @pytest.mark.rule
    @given(groups())
    @settings(max_examples=150)
    def test_each_event_is_in_one_place_and_no_job_passes_a_limit(
        self, batch: list[list[PackedEvent]]
    ) -> None:
        given_events = [each for group in copied(batch) for each in group]

        with small_limits():
            packed = pack_events(batch)

            assert origins(all_events(packed)) == origins(given_events)
            assert [job.number for job in packed.jobs] == list(range(len(packed.jobs)))
            for job in packed.jobs:
                inside = events_of(job)
                assert 1 <= job.events == len(inside) <= FEW_EVENTS
                assert len(job.body()) <= job.size <= FEW_BYTES
                assert max(Counter((each.key, each.id) for each in inside).values()) == 1
                assert all(number < job.number for number in job.after)
                assert all(entry.events for entry in job.entries)
                assert all(len(entry.profile) <= FEW_PROFILE_BYTES for entry in job.entries)

    @given(groups())
    @settings(max_examples=100)
    def test_an_event_keeps_what_it_says_and_its_backfill(self, batch: list[list[PackedEvent]]) -> None:
        by_origin = {each.origins[0]: each for group in copied(batch) for each in group}

        with small_limits():
            packed = pack_events(batch)

        for job in packed.jobs:
            for entry in job.entries:
                for each in entry.events:
                    first = by_origin[each.origins[0]]
                    assert entry.backfill == first.backfill
                    for origin in each.origins:
                        source = by_origin[origin]
                        assert (each.key, each.id, each.attributes) == (
                            source.key,
                            source.id,
                            source.attributes,
                        )
                        assert entry.key == source.key

    @given(groups())
    @settings(max_examples=100)
    def test_a_profiles_events_keep_their_order(self, batch: list[list[PackedEvent]]) -> None:
        with small_limits():
            packed = pack_events(batch)

        order = defaultdict(list)
        for job in packed.jobs:
            for each in events_of(job):
                order[each.key].append(each.origins[0].event)
        for found in order.values():
            assert found == sorted(found)

    @given(groups(), st.integers(0, 2**16))
    @settings(max_examples=150)
    def test_profiles_end_as_if_each_event_had_been_sent_alone(
        self, batch: list[list[PackedEvent]], seed: int
    ) -> None:
        expected = sent_one_by_one(copied(batch))

        with small_limits():
            packed = pack_events(batch)
        order = some_order(packed.jobs, seed)

        for reading in READINGS:
            for key, profiles in expected.items():
                sent = [entry.profile for job in order for entry in job.entries if entry.key == key]
                assert applied(sent, reading) == applied(profiles, reading)

    @given(groups())
    @settings(max_examples=100)
    def test_a_body_is_what_a_careless_builder_makes(self, batch: list[list[PackedEvent]]) -> None:
        with small_limits():
            packed = pack_events(batch)

        for job in packed.jobs:
            assert json.loads(job.body()) == reference_body(job)
            assert job.body() == packing.job_of(job.number, job.entries).body()
            assert packing.job_of(job.number, job.entries).size == job.size

    @given(groups())
    @settings(max_examples=100)
    def test_an_entry_does_what_it_was_merged_from_does(self, batch: list[list[PackedEvent]]) -> None:
        with small_limits():
            packed = pack_events(batch)

        for entry in [entry for job in packed.jobs for entry in job.entries]:
            parts = packing.unmerged(entry)
            assert [each for part in parts for each in part.events] == entry.events
            assert {(part.key, part.backfill) for part in parts} == {(entry.key, entry.backfill)}
            for reading in READINGS:
                assert applied([part.profile for part in parts], reading) == applied([entry.profile], reading)

    @given(groups(), st.randoms(use_true_random=False))
    @settings(max_examples=100)
    def test_taking_out_and_halving_lose_nothing(
        self, batch: list[list[PackedEvent]], chance: random.Random
    ) -> None:
        with small_limits():
            packed = pack_events(batch)

        for job in packed.jobs:
            places: list[tuple[int, int | None]] = [
                (i, j) for i, entry in enumerate(job.entries) for j in range(len(entry.events))
            ]
            places += [(i, None) for i in range(len(job.entries))]
            out = set(chance.sample(places, chance.randrange(len(places) + 1)))
            gone = [
                each
                for i, entry in enumerate(job.entries)
                for j, each in enumerate(entry.events)
                if (i, None) in out or (i, j) in out
            ]
            rest = packing.without(job, out)
            left = events_of(rest) if rest else []
            assert origins(left) + origins(gone) == origins(events_of(job))
            assert rest is None or (rest.events == len(left) and len(rest.body()) <= rest.size <= job.size)

            if job.events > 1:
                left_half, right_half = packing.halves(job)
                assert events_of(left_half) + events_of(right_half) == events_of(job)
                assert 0 <= right_half.events - left_half.events <= 1
                apart = [part for entry in job.entries for part in packing.unmerged(entry)]
                assert max(left_half.size, right_half.size) <= packing.job_of(job.number, apart).size
                assert all(
                    event.profile == entry.profile
                    for half in (left_half, right_half)
                    for entry in half.entries
                    for event in entry.events
                )


def sent_one_by_one(batch: list[list[PackedEvent]]) -> dict[str, list[bytes]]:
    """Returns each profile's attributes, event by event, without those of events that are exactly
    repeated.
    """
    told = defaultdict[tuple[str, str, bytes], list[bytes]](list)
    sent = defaultdict[str, list[bytes]](list)
    with small_limits():
        for each in [each for group in batch for each in group]:
            before = told[each.key, each.id, each.attributes]
            if packing.pack_events([[each]]).oversized:
                continue
            if each.profile not in before:
                sent[each.key].append(each.profile)
            before.append(each.profile)
    return sent


def singles(
    amount: int, key: Callable[[int], str] = lambda n: f"p{n}", **kwargs: Any
) -> list[list[PackedEvent]]:
    return [[event(key(n), **kwargs)] for n in range(amount)]


def bulk(amount: int, key: str = "own", **kwargs: Any) -> list[PackedEvent]:
    """Makes a message of so many events: each of its own profile, or all of one."""
    if key == "own":
        return [event(f"q{next(numbers)}", **kwargs) for _ in range(amount)]
    of = profile(key)
    return [event(key, of=of, **kwargs) for _ in range(amount)]


def spread(packing: Packing, group: list[PackedEvent]) -> int:
    """Returns over how many jobs a message's events are spread."""
    inside = {id(each) for each in group}
    return sum(any(id(each) in inside for each in events_of(job)) for job in packing.jobs)


class TestFill:
    @pytest.mark.parametrize(
        ("batch", "expected"),
        {
            "one event": (singles(1), [1]),
            "singles of many profiles": (singles(2_500), [1_000, 1_000, 500]),
            "singles of few profiles": (singles(2_500, key=lambda n: f"p{n % 7}"), [1_000, 1_000, 500]),
            "singles of one profile": (singles(2_500, key=lambda n: "ann"), [1_000, 1_000, 500]),
            "one, then full messages": ([bulk(1), *(bulk(1_000) for _ in range(5))], [1] + [1_000] * 5),
            "full messages, then one": ([*(bulk(1_000) for _ in range(5)), bulk(1)], [1_000] * 5 + [1]),
            "thrice 600 make 2": ([bulk(600) for _ in range(3)], [1_000, 800]),
            "600 and 400": ([bulk(600), bulk(600), bulk(400), bulk(400)], [1_000, 1_000]),
            "600 of one profile": ([bulk(600, "ann") for _ in range(10)], [1_000] * 6),
            "a message and singles": ([bulk(999), bulk(2), *singles(999)], [1_000, 1_000]),
            "nothing": ([[]], []),
        }.values(),
    )
    def test_jobs_are_as_few_as_can_be(self, batch: list[list[PackedEvent]], expected: list[int]) -> None:
        assert numbers_of(pack_events(batch)) == expected

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("profiles", [3, 50, 10**6])
    def test_all_but_the_last_few_jobs_are_full(self, profiles: int, seed: int) -> None:
        chance = random.Random(seed)
        batch = []
        for _ in range(60):
            keys = [f"p{chance.randrange(profiles)}" for _ in range(chance.choice([1, 20, 240, 600, 999]))]
            batch.append([event(key) for key in keys])

        packed = pack_events(batch)

        fewest = -(-sum(map(len, batch)) // MAX_EVENTS_PER_REQUEST)
        assert len(packed.jobs) <= fewest + packing._MAX_ROOMY
        assert sum(job.events < 990 for job in packed.jobs) <= packing._MAX_ROOMY

    @pytest.mark.parametrize("size", [6_000, 40_000])
    def test_jobs_are_full_where_bytes_limit_them(self, size: int) -> None:
        packed = pack_events([bulk(60_000 // size * 10, size=size) for _ in range(250)])

        assert sum(job.size < 0.99 * MAX_BODY_BYTES_OUT for job in packed.jobs) <= packing._MAX_ROOMY
        assert all(len(job.body()) <= MAX_BODY_BYTES_OUT for job in packed.jobs)

    def test_a_large_profile_is_counted_once_for_its_events(self) -> None:
        of = profile("ann", properties={"a": "x" * 90_000})
        message = [event("ann", of=of, size=4_700) for _ in range(1_000)]

        packed = pack_events([message])

        assert numbers_of(packed) == [1_000]
        assert 0.97 < len(packed.jobs[0].body()) / packed.jobs[0].size <= 1

    @pytest.mark.rule
    def test_the_limit_is_met_to_the_byte(self) -> None:
        rest = 5_000_000 - packing._JOB_BYTES - packing._lone_size(event(size=1_000)) + 1_000

        exact = pack_events([[event(size=rest, backfill=True)]])
        over = pack_events([[event(size=rest + 1)]])

        # Only the comma that a last entry does not have is left over: one for it, one for its event.
        assert len(exact.jobs[0].body()) == 4_999_998
        assert (over.jobs, len(over.oversized)) == ([], 1)

    def test_oversized_events_take_no_job_and_keep_none_from_one(self) -> None:
        packed = pack_events([[event("a", size=6_000_000), event("a", size=6_000_000)], [event("a")]])

        assert (numbers_of(packed), len(packed.oversized)) == ([1], 2)


class TestSpread:
    def test_a_message_that_fits_a_job_is_in_one(self) -> None:
        batch = [bulk(240), *singles(50), bulk(700), bulk(1_000), *singles(950), bulk(50)]

        packed = pack_events(batch)

        assert [spread(packed, group) for group in batch] == [1] * len(batch)

    def test_a_message_is_in_no_more_jobs_than_it_must(self) -> None:
        batch = [bulk(240) for _ in range(100)]

        packed = pack_events(batch)

        assert numbers_of(packed) == [1_000] * 24
        assert max(spread(packed, group) for group in batch) <= 2

    def test_a_message_of_one_profile_is_in_no_more_jobs_than_it_must(self) -> None:
        batch = [bulk(240, "ann") for _ in range(100)]

        packed = pack_events(batch)

        assert numbers_of(packed) == [1_000] * 24
        assert max(spread(packed, group) for group in batch) <= 2


class TestRepeats:
    def test_exact_repeats_collapse_and_all_who_sent_them_are_known(self) -> None:
        batch = [[event("ann", "1")] for _ in range(500)]
        sent = [group[0].origins[0] for group in batch]

        packed = pack_events(batch)

        assert numbers_of(packed) == [1]
        assert events_of(packed.jobs[0])[0].origins == sent

    def test_a_repeated_message_makes_no_job(self) -> None:
        first = [event(f"p{n}", "1") for n in range(600)]
        again = [event(f"p{n}", "1") for n in range(600)]

        assert numbers_of(pack_events([first, again])) == [600]

    def test_a_message_repeated_with_more_in_it_takes_room_only_for_that(self) -> None:
        first = [event(f"p{n}", "1") for n in range(600)]
        again = [*(event(f"p{n}", "2") for n in range(300)), *(event(f"p{n}", "1") for n in range(600))]

        assert numbers_of(pack_events([first, again])) == [900]

    @pytest.mark.parametrize("shape", ["one message", "messages of one", "two messages"])
    def test_500_conflicting_pairs_make_two_jobs(self, shape: str) -> None:
        pairs = [(event(f"p{n}", "1", says="x"), event(f"p{n}", "1", says="y")) for n in range(500)]
        flat = [each for pair in pairs for each in pair]
        batch = {
            "one message": [flat],
            "messages of one": [[each] for each in flat],
            "two messages": [[first for first, _ in pairs], [second for _, second in pairs]],
        }[shape]

        packed = pack_events(batch)

        assert numbers_of(packed) == [500, 500]
        assert [job.after for job in packed.jobs] == [set(), {0}]
        assert [each.attributes[-4:] for each in (events_of(job)[0] for job in packed.jobs)] == [
            b'"x"}',
            b'"y"}',
        ]

    def test_conflicting_repeats_that_come_back_collapse_too(self) -> None:
        batch = [[event("ann", "1", says=says)] for says in "xyxyxyzx"]

        assert numbers_of(pack_events(batch)) == [1, 1, 1]

    def test_the_same_unique_id_of_another_profile_is_no_repeat(self) -> None:
        assert numbers_of(pack_events([[event("ann", "1")], [event("bea", "1")]])) == [2]

    def test_a_repeat_brings_what_is_new_in_its_profile(self) -> None:
        batch = [
            [event("ann", "1", profile("ann", first_name="Ann"))],
            [event("ann", "2", profile("ann", title="Dr"))],
            [event("ann", "1", profile("ann", first_name="Anna"))],
        ]

        [job] = pack_events(batch).jobs

        assert json.loads(job.entries[0].profile)["attributes"] == {
            "external_id": "ann",
            "first_name": "Anna",
            "title": "Dr",
        }

    def test_a_repeats_new_profile_passes_no_limit(self) -> None:
        nearly_full = event("ann", "1", size=MAX_BODY_BYTES_OUT - 500)
        again = event("ann", "1", profile("ann", title="x" * 1_000), size=MAX_BODY_BYTES_OUT - 500)
        again.attributes = nearly_full.attributes

        packed = pack_events([[nearly_full], [again]])

        assert all(len(job.body()) <= job.size <= MAX_BODY_BYTES_OUT for job in packed.jobs)
        assert (numbers_of(packed), len(packed.oversized)) == ([1], 1)

    def test_a_late_exact_repeat_does_not_bring_back_old_attributes(self) -> None:
        old, new = profile("ann", title="Ms"), profile("ann", title="Dr")
        batch = [
            [event("ann", "1", old)],
            [event("ann", "2", new)],
            [event("ann", "1", bytes(bytearray(old)))],
        ]

        [job] = pack_events(batch).jobs

        assert job.entries[0].profile == new

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ({"title": "Ms"}, {"title": "Dr"}),
            ({"location": {"city": "x", "zip": "1"}}, {"location": {"city": "y"}}),
        ],
        ids=["merged", "not to be merged"],
    )
    def test_what_was_said_before_is_no_news(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        for said in ((old, new, old), (old, new, old, new)):
            batch = [[event("ann", "1", profile("ann", **attributes))] for attributes in said]

            last = pack_events(batch).jobs[-1]

            assert last.entries[-1].profile == profile("ann", **new)


class TestOrderOfJobs:
    def filled(self, *events: PackedEvent) -> list[list[PackedEvent]]:
        """Puts each of those events in a job that other profiles' events fill."""
        return [[*bulk(999), each] for each in events]

    def test_jobs_of_one_unchanged_profile_do_not_wait_for_each_other(self) -> None:
        same = [event("ann", of=profile("ann", title="Dr")) for _ in range(3)]

        assert [job.after for job in pack_events(self.filled(*same)).jobs] == [set(), set(), set()]

    def test_a_newer_profile_waits_for_every_job_of_the_older_one(self) -> None:
        old = [event("ann", of=profile("ann", title="Ms")) for _ in range(2)]
        new = event("ann", of=profile("ann", title="Dr"))

        assert [job.after for job in pack_events(self.filled(*old, new)).jobs] == [set(), set(), {0, 1}]

    def test_a_newer_profile_waits_where_it_joins_the_older_one(self) -> None:
        old = [event("ann", of=profile("ann", title="Ms")) for _ in range(2)]
        new = event("ann", of=profile("ann", title="Dr"))

        packed = pack_events([*self.filled(old[0]), [old[1]], [new]])

        assert [job.after for job in packed.jobs] == [set(), {0}]

    def test_a_repeats_newer_profile_waits_as_well(self) -> None:
        old = [event("ann", str(n), profile("ann", title="Ms")) for n in range(2)]
        again = event("ann", "1", profile("ann", title="Dr"))

        packed = pack_events([*self.filled(old[0]), [old[1]], [again]])

        assert [job.after for job in packed.jobs] == [set(), {0}]


def accepted(body: object, at: datetime = NOON, surface: Surface = Surface.BULK) -> Message[msgspec.Raw]:
    """Makes a message as dispatch reads it from the queue."""
    read = parser.read(surface, msgspec.json.encode(body), contract.UPSTREAM_REVISION, at)
    text = message.encode(Message("receipt", "AbC123", surface, at, read.entries)).text
    stored = message.decode(text, lambda _: b"")
    assert isinstance(stored, Message)
    return stored


def bulk_document(*entries: tuple[str, bool, list[tuple[str, dict[str, Any]]]]) -> dict[str, Any]:
    """Makes a bulk request: for each entry its email, backfill, and (metric, properties) of its events."""
    return {
        "data": {
            "type": "event-bulk-create-job",
            "attributes": {
                "events-bulk-create": {
                    "data": [
                        {
                            "type": "event-bulk-create",
                            "attributes": {
                                **({"backfill": True} if backfill else {}),
                                "profile": {"data": {"type": "profile", "attributes": {"email": email}}},
                                "events": {
                                    "data": [
                                        {
                                            "type": "event",
                                            "attributes": {
                                                "properties": properties,
                                                "metric": {
                                                    "data": {"type": "metric", "attributes": {"name": metric}}
                                                },
                                                "time": "2026-07-01T10:00:00Z",
                                                "unique_id": f"{email} {metric} {properties}",
                                            },
                                        }
                                        for metric, properties in events
                                    ]
                                },
                            },
                        }
                        for email, backfill, events in entries
                    ]
                }
            },
        }
    }


class TestMessages:
    def test_what_was_accepted_is_what_is_sent(self) -> None:
        one = bulk_document(
            ("ann@example.org", False, [("Viewed", {"a": "ü\u2028\"\\"}), ("Bought", {"b": [1, 2.5, None]})]),
            ("bea@example.org", True, [("Viewed", {})]),
        )  # fmt: skip
        two = bulk_document(("cleo@example.org", False, [("Viewed", {"c": {"d": True}})]))

        [job] = pack([(7, accepted(one)), (9, accepted(two))]).jobs

        entries = [
            entry
            for document in (one, two)
            for entry in document["data"]["attributes"]["events-bulk-create"]["data"]
        ]
        expected = bulk_document()
        expected["data"]["attributes"]["events-bulk-create"]["data"] = entries
        assert json.loads(job.body()) == expected
        assert [list(each.origins) for each in events_of(job)] == [
            [Origin(7, 0, 0)],
            [Origin(7, 0, 1)],
            [Origin(7, 1, 0)],
            [Origin(9, 0, 0)],
        ]

    def test_profiles_are_equal_if_all_their_identifiers_are(self) -> None:
        def viewed(number: int, **attributes: Any) -> Message[msgspec.Raw]:
            document = bulk_document(("ann@example.org", False, [("Viewed", {"n": number})]))
            [entry] = document["data"]["attributes"]["events-bulk-create"]["data"]
            entry["attributes"]["profile"]["data"]["attributes"].update(attributes)
            return accepted(document)

        given_ones = [
            viewed(1),
            viewed(2, phone_number="+15005550006"),
            viewed(3, external_id=None, first_name="Ann"),
            viewed(4, phone_number="+15005550006"),
        ]

        [job] = pack(enumerate(given_ones)).jobs

        places = [[each.origins[0].message for each in entry.events] for entry in job.entries]
        assert places == [[0, 2], [1, 3]]

    def test_messages_are_packed_in_the_order_they_were_accepted_in(self) -> None:
        def titled(title: str, second: int) -> Message[msgspec.Raw]:
            document = bulk_document(("ann@example.org", False, [("Viewed", {"title": title})]))
            [entry] = document["data"]["attributes"]["events-bulk-create"]["data"]
            entry["attributes"]["profile"]["data"]["attributes"]["title"] = title
            return accepted(document, NOON + timedelta(seconds=second))

        [job] = pack([(0, titled("newest", 9)), (1, titled("oldest", 1)), (2, titled("newer", 5))]).jobs

        assert json.loads(job.entries[0].profile)["attributes"]["title"] == "newest"
        assert [each.origins[0].message for each in job.entries[0].events] == [1, 2, 0]

    def test_a_message_left_from_a_larger_one_says_where_its_events_were(self) -> None:
        stored = accepted(bulk_document(("ann@example.org", False, [("Viewed", {}), ("Bought", {})])))
        first, second = stored.entries[0].events
        first.entry_index = second.entry_index = 4
        second.event_index = 8

        [job] = pack([(0, stored)]).jobs

        assert [list(each.origins) for each in events_of(job)] == [[Origin(0, 4, 0)], [Origin(0, 4, 8)]]


def shared(size: int) -> bytes:
    """Returns bytes of one size, made once, because packing is measured and not the making of events."""
    return b"{}".ljust(size)


def many(
    amount: int,
    key: Callable[[int], str],
    size: int = 400,
    of: Callable[[int], bytes] | None = None,
    width: int = 1,
    unique_id: Callable[[int], str] = str,
) -> list[list[PackedEvent]]:
    """Makes `amount` events in messages of `width`, `key`, `of` and `unique_id` by number."""
    text = shared(size)
    made = [
        PackedEvent(
            key(n), unique_id(n), text, of(n) if of else ANN, False, [Origin(n // width, 0, n % width)]
        )
        for n in range(amount)
    ]
    return [made[start : start + width] for start in range(0, amount, width)]


TITLES = [profile("ann", title=f"title {n}") for n in range(7)]
SHAPES = {
    "singles": lambda amount: many(amount, str),
    "few profiles": lambda amount: many(amount, lambda n: str(n % 50)),
    "changing attributes": lambda amount: many(amount, lambda n: "ann", of=lambda n: TITLES[n % 7]),
    "messages of 240": lambda amount: many(amount, str, width=240),
    "messages of one profile": lambda amount: many(amount, lambda n: str(n // 600), width=600),
    "large events": lambda amount: many(amount, str, size=90_000, width=7),
    "events of all sizes": lambda amount: [
        group for size in (300, 70_000, 2_600_000) for group in many(amount // 3, str, size=size)
    ],
    "repeats": lambda amount: many(amount, lambda n: "ann", unique_id=lambda n: "1"),
    "conflicts": lambda amount: [
        [msgspec.structs.replace(group[0], attributes=shared(400 + n % 2))]
        for n, group in enumerate(many(amount, lambda n: str(n // 2), unique_id=lambda n: "1"))
    ],
}


class TestScale:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_calls_for_each_event_do_not_grow_with_the_batch(self, shape: str) -> None:
        def calls(amount: int) -> float:
            batch = SHAPES[shape](amount)
            profiler = cProfile.Profile()
            profiler.runcall(pack_events, batch)
            return sum(each.callcount for each in profiler.getstats()) / amount

        few, more = calls(2_000), calls(20_000)

        assert more < few * 1.3
        assert more < 100

    @pytest.mark.parametrize("shape", ["singles", "few profiles", "conflicts"])
    def test_memory_for_each_event_does_not_grow_with_the_batch(self, shape: str) -> None:
        def peak(amount: int) -> float:
            batch = SHAPES[shape](amount)
            tracemalloc.start()
            try:
                packed = pack_events(batch)
                assert packed.jobs
                return tracemalloc.get_traced_memory()[1] / amount
            finally:
                tracemalloc.stop()

        assert max(peak(amount) for amount in (1_000, 5_000, 25_000)) < 700

    def test_a_hundred_thousand_events_make_a_hundred_jobs(self) -> None:
        packed = pack_events(many(100_000, lambda n: str(n % 5_000)))

        assert numbers_of(packed) == [1_000] * 100

    def test_numbers_of_jobs_grow_with_the_batch_only(self) -> None:
        assert [len(pack_events(SHAPES["large events"](n)).jobs) for n in (1_000, 10_000)] == pytest.approx(
            [1_000 / 55, 10_000 / 55], rel=0.1
        )


def test_an_entry_taken_apart_stays_in_its_place() -> None:
    older, newer = event(of=profile(plan="a")), event(of=profile(plan="b"))
    patched = event(of=profile(meta={"patch_properties": {"unset": "plan"}}))
    [job] = pack_events([[older, newer, patched]]).jobs
    merged, later = job.entries

    rest = packing.without(job, {(0, None)}, {0: packing.unmerged(merged)})

    assert rest is not None
    assert [entry.profile for entry in rest.entries] == [older.profile, newer.profile, later.profile]
    assert events_of(rest) == [older, newer, patched]


class TestStrangers:
    """Tests which messages of anonymous callers come after all others."""

    def test_strangers_come_last_and_fill_what_is_left(self) -> None:
        messages = {0: sent("ann", Surface.CLIENT_EVENT, 0), 1: sent("bob", Surface.EVENT, 1)}

        [job] = pack(messages.items()).jobs

        assert packing.strangers(messages) == {0}
        assert [event.origins[0].message for entry in job.entries for event in entry.events] == [1, 0]

    def test_a_profile_that_has_others_keeps_its_order(self) -> None:
        messages = {
            0: sent("ann", Surface.CLIENT_EVENT, 0),
            1: sent("ann", Surface.EVENT, 1),
            2: sent("ann", Surface.CLIENT_BULK, 2),
            3: sent("bob", Surface.CLIENT_BULK, 3),
        }

        assert packing.strangers(messages) == {3}

    def test_so_do_messages_that_share_a_profile_with_those(self) -> None:
        both = sent("bob", Surface.CLIENT_EVENT, 1)
        both.entries.extend(sent("cy", Surface.CLIENT_EVENT, 1).entries)
        messages = {
            0: sent("cy", Surface.CLIENT_EVENT, 0),
            1: both,
            2: sent("bob", Surface.EVENT, 2),
            3: sent("dee", Surface.CLIENT_EVENT, 3),
        }

        assert packing.strangers(messages) == {3}


def sent(name: str, surface: Surface, second: int) -> StoredMessage:
    """Returns a message of one event of a customer."""
    read = parser.read(
        Surface.EVENT,
        msgspec.json.encode(factories.single(factories.profile(email=f"{name}@mail.example"))),
        contract.UPSTREAM_REVISION,
        NOON,
    )
    accepted = NOON + timedelta(seconds=second)
    found = message.as_stored(Message(f"r{second}", "AbC123", surface, accepted, read.entries))
    assert not isinstance(found, PipelessMessage)
    return found
