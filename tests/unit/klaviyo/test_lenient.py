"""Tests that bad events are taken out of a bulk body: nothing good is lost, nothing bad gets through."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.contract import Surface
from sluice.errors import Refused
from sluice.klaviyo import lenient, parser, rules
from sluice.klaviyo.lenient import InvalidEvents, Separated
from sluice.klaviyo.parser import ParsedRequest
from tests.support.factories import NEWEST, NOON, at, bulk, encoded, entry, event, metric, profile

ENTRIES = "/data/attributes/events-bulk-create/data"
GOOD, BAD = event(value=1), event(value="1")
NOBODY = {"data": {"type": "profile", "attributes": {"first_name": "Ann"}}}


def separate(document: Any) -> Separated | None:
    return lenient.separate(encoded(document), rules.rules_for(NEWEST, NOON))


def read(document: Any) -> ParsedRequest:
    return parser.read_leniently(encoded(document), NEWEST, NOON)


def places(found: ParsedRequest) -> list[tuple[int | None, int | None]]:
    return [(event.entry_index, event.event_index) for entry in found.entries for event in entry.events]


def refusal(document: Any) -> list[tuple[str, str | None]]:
    with pytest.raises(Refused) as raised:
        read(document)
    assert raised.value.status == 400
    return [(problem.code, problem.pointer) for problem in raised.value.problems]


def test_a_good_body_is_read_as_ever() -> None:
    found = read(bulk(entry(GOOD, GOOD)))

    assert (found.events, list(found.bad)) == (2, [])
    assert places(found) == [(None, None)] * 2


def test_good_events_remember_where_they_stood_and_bad_ones_what_they_were() -> None:
    ann = profile(email="ann@example.com")
    found = read(bulk(entry(BAD), entry(GOOD, BAD, GOOD, of=ann, backfill=True)))

    assert places(found) == [(1, 0), (1, 2)]
    assert [(bad.entry, bad.events) for bad in found.bad] == [(0, (0,)), (1, (1,))]
    assert [problem.pointer for bad in found.bad for problem in bad.problems] == [
        f"{ENTRIES}/0/attributes/events/data/0/attributes/value",
        f"{ENTRIES}/1/attributes/events/data/1/attributes/value",
    ]
    assert json.loads(found.bad[1].payload) == {
        "profile": ann["data"],
        "events": [BAD["attributes"]],
        "backfill": True,
    }


@pytest.mark.parametrize(
    ("bad", "events", "payload"),
    [
        (entry(GOOD, BAD, of=NOBODY), (0, 1), {"profile": NOBODY["data"], "backfill": False}),
        ({**entry(GOOD), "extra": 1}, (0,), {"profile": profile()["data"], "backfill": False}),
        (entry(GOOD, 5, of=5), (0, 1), {"profile": 5, "backfill": False}),  # type: ignore[arg-type]
        (entry() | {"attributes": {"events": {"data": [GOOD]}}}, (0,), {"profile": None, "backfill": False}),
        (entry() | {"attributes": {"events": {"data": []}}}, (0,), None),
        (entry() | {"attributes": {"events": {"data": {"0": GOOD}}}}, (0,), None),
        ({}, (0,), None),
        (None, (0,), None),
    ],
)
def test_an_entry_that_is_bad_itself_goes_with_all_its_events(
    bad: Any, events: tuple[int, ...], payload: dict[str, Any] | None
) -> None:
    separated = separate(bulk(entry(GOOD), bad))

    assert separated is not None
    assert separated.places == [(0, [0])]
    [only] = separated.bad
    assert (only.entry, only.events) == (1, events)
    content = json.loads(only.payload)
    if payload is None:
        assert content == bad
    else:
        given = bad["attributes"]["events"]["data"]
        attributes = [each["attributes"] if isinstance(each, dict) else each for each in given]
        assert content == {**payload, "events": attributes}


@pytest.mark.parametrize(
    "document",
    [
        bulk(entry(BAD)),
        bulk(entry(BAD, BAD), entry(GOOD, of=NOBODY)),
        bulk(entry(*[GOOD] * 1_000), entry(BAD)),
        bulk(entry(GOOD), *[{}] * 1_000),
        {**bulk(entry(GOOD, BAD)), "extra": 1},
        {
            "data": {
                "type": "event-bulk-create-job",
                "attributes": {"events-bulk-create": {"data": {"0": BAD}}},
            }
        },
        {"data": 5},
    ],
    ids=[
        "nothing good",
        "nothing good either",
        "too many",
        "too many entries",
        "extra",
        "no list",
        "no data",
    ],
)
def test_what_is_wrong_as_a_whole_is_refused_as_without_it(document: Any) -> None:
    with pytest.raises(Refused) as strictly:
        parser.read(Surface.BULK, encoded(document), NEWEST, NOON)

    assert refusal(document) == [(problem.code, problem.pointer) for problem in strictly.value.problems]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"data": 1, "data": 2}',
        encoded(bulk(entry(BAD))).replace(b'"value"', b'"value": 1, "value"'),
    ],
)
def test_what_cannot_be_parsed_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as raised:
        parser.read_leniently(body, NEWEST, NOON)

    assert {problem.code for problem in raised.value.problems} == {"parse_error"}


def test_a_large_profile_is_not_set_aside_a_thousand_times() -> None:
    large = profile(email="ann@example.com", properties={"p": "x" * 90_000})

    assert separate(bulk(entry(GOOD), entry(*[BAD] * 100, of=large))) is not None
    assert separate(bulk(entry(GOOD), entry(*[BAD] * 300, of=large))) is None


def test_problems_without_end_refuse_the_body() -> None:
    many = event(properties={}, **{f"unknown{number}": 1 for number in range(lenient.MAX_PROBLEMS + 1)})

    assert separate(bulk(entry(GOOD, many))) is None


@pytest.mark.rule
@pytest.mark.parametrize("half", [b"\\ud83c", b"gift \\udf89"])
@pytest.mark.parametrize(
    "broken",
    [
        {"properties": {"note": "HALF"}},
        {"properties": {"a": [{"b": "HALF"}]}},
        {"properties": {"HALF": 1}},
        {"unique_id": "HALF"},
        {"metric": metric("HALF")},
    ],
)
def test_half_of_a_surrogate_pair_costs_its_own_event_alone(broken: dict[str, Any], half: bytes) -> None:
    body = encoded(bulk(entry(*[GOOD] * 4, event(**broken), *[GOOD] * 5))).replace(b"HALF", half)

    found = parser.read_leniently(body, NEWEST, NOON)

    assert found.events == 9
    [bad] = found.bad
    assert (bad.entry, bad.events) == (0, (4,))
    assert "half of a surrogate pair" in bad.problems[0].detail
    assert "\ufffd" in bad.payload.decode()


flags = st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=5)


@given(flags, st.data())
def test_every_event_is_either_accepted_or_bad_at_its_own_place(good: list[list[bool]], data: Any) -> None:
    faulty = [data.draw(st.booleans()) for _ in good]
    of_good, of_bad = profile(email="ann@example.com"), NOBODY
    document = bulk(
        *(
            entry(
                *(event(value=f if not f else 1, properties={"at": [i, j]}) for j, f in enumerate(each)),
                of=of_bad if faulty[i] else of_good,
            )
            for i, each in enumerate(good)
        )
    )
    expected = {(i, j) for i, each in enumerate(good) for j, f in enumerate(each) if f and not faulty[i]}
    everything = {(i, j) for i, each in enumerate(good) for j in range(len(each))}

    if not expected:
        assert refusal(document)
        return
    found = read(document)

    taken = {
        (at_entry, at_event): each
        for index, found_entry in enumerate(found.entries)
        for at_entry, at_event, each in found_entry.positioned(index)
    }
    refused = [(bad.entry, number) for bad in found.bad for number in bad.events]
    assert taken.keys() == expected
    assert found.events == len(expected)
    assert sorted(refused) == sorted(everything - expected)
    for place, each in taken.items():
        assert each.attributes.properties["at"] == list(place)
    for bad in found.bad:
        check(document, bad)


def check(document: Any, bad: InvalidEvents) -> None:
    events = [at(document, f"{ENTRIES}/{bad.entry}/attributes/events/data/{n}") for n in bad.events]
    assert json.loads(bad.payload)["events"] == [each["attributes"] for each in events]
    assert bad.problems
    assert all((problem.pointer or "").startswith(f"{ENTRIES}/{bad.entry}/") for problem in bad.problems)
