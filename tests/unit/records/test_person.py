"""Tests how a person is found in what is stored, and that nothing of anybody else is taken away."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.records import person

KEY = b"key of hashes"
ANN = "Ann@example.com"
PHONE = "+1 (415) 555-0100"
ID = "cust-7"
OTHERS: list[Any] = ["bob@example.com", "+14155550199", "cust-77", "7", 7, None, 1.5, "", "ann@example.org"]


def is_person(identifier: str) -> bool:
    return person.hashed(identifier, KEY) in {person.hashed(each, KEY) for each in (ANN, PHONE, ID)}


def left(document: Any) -> Any:
    found = person.without(json.dumps(document).encode(), is_person)
    return None if found is None else json.loads(found)


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("ann@example.com", " Ann@EXAMPLE.com ", True),
        ("+14155550100", "+1 415-555-0100", True),
        ("+1 (415) 555-0100", "+1.415.555.0100", True),
        ("14155550100", "+14155550100", False),
        ("cust-7", "cust-77", False),
        ("cust-7", "cust7", False),
    ],
)
def test_identifiers_are_compared_without_blanks_case_and_separators(
    one: str, other: str, are_same: bool
) -> None:
    assert (person.hashed(one, KEY) == person.hashed(other, KEY)) is are_same
    assert person.hashed(one, KEY) != person.hashed(one, b"another key")


@pytest.mark.parametrize(
    "document",
    [
        {"payload": {"profile": {"email": "ann@example.com"}, "events": [{}]}},
        {"payload": {"profile": {"data": {"attributes": {"phone_number": "+14155550100"}}}}},
        {
            "payload": {
                "profile": {"properties": {"note": "write to ann@example.com, please"}},
                "events": [{}],
            }
        },
        {"payload": {"events": [{"start_object": {"type": "user", "id": "cust-7"}}]}},
        {"payload": {"customer": {"id": "cust-7"}, "id": 5}},
        {"payload": "a body that nobody could read: ann@example.com"},
        {"payload": "mailto:ann@example.com?subject=x"},
        {"payload": {}, "detail": "'ann@example.com' is not accepted"},
        {"data": [{"data": [{"data": "ann@example.com"}]}]},
        "ann@example.com",
    ],
)
def test_what_is_only_of_the_person_goes_whole(document: Any) -> None:
    assert left(document) is None


@pytest.mark.parametrize(
    ("document", "remains"),
    [
        (
            {
                "payload": {
                    "entries": [{"profile": {"email": ANN}}, {"profile": {"email": "bob@example.com"}}]
                }
            },
            {"payload": {"entries": [{"profile": {"email": "bob@example.com"}}]}},
        ),
        (
            {"profile": {"id": "b"}, "events": [{"properties": {"friend": ANN}}, {"properties": {}}]},
            {"profile": {"id": "b"}, "events": [{"properties": {}}]},
        ),
        (
            {"data": {"attributes": {"events-bulk-create": {"data": [{"profile": {"id": ID}}, {"a": 1}]}}}},
            {"data": {"attributes": {"events-bulk-create": {"data": [{"a": 1}]}}}},
        ),
        (
            {"events": [{"end_object": {"id": ID}}, {"end_object": {"id": "p"}}]},
            {"events": [{"end_object": {"id": "p"}}]},
        ),
    ],
)
def test_what_is_of_others_in_the_same_message_stays(document: Any, remains: Any) -> None:
    assert left(document) == remains


@pytest.mark.parametrize(
    "document",
    [
        {"payload": {"profile": {"email": "bob@example.com"}, "events": [{"properties": {"id": ID}}]}},
        {"payload": {"profile": {"external_id": "cust-77"}, "events": [{"id": ID}]}},
        {"payload": {"profile": {"properties": {"id": ID}}, "events": []}},
        {"payload": "cust-7"},
        {"id": ID},
    ],
)
def test_an_id_counts_only_where_it_stands_for_a_person(document: Any) -> None:
    assert left(document) == document


def test_what_is_not_touched_stays_byte_for_byte() -> None:
    document = b'{"events" : [ {"x":1E5,  "y": "\\u00e9\\/"} , {"profile": {"email": "ann@example.com"}}]}'

    assert person.without(document, is_person) == b'{"events":[{"x":1E5,  "y": "\\u00e9\\/"}]}'
    assert person.without(b"\xff\xfe no json", is_person) == b"\xff\xfe no json"
    assert person.without(b"\xff ann@example.com", is_person) is None


def test_depth_is_bounded() -> None:
    deep = b'{"data":' * 900 + b'"ann@example.com"' + b"}" * 900

    assert person.without(deep, is_person) is None


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "profile": st.fixed_dictionaries(
                    {
                        "email": st.sampled_from([ANN, "ann@EXAMPLE.com", *OTHERS]),
                        "id": st.sampled_from([ID, *OTHERS]),
                    }
                ),
                "events": st.lists(st.dictionaries(st.text(), st.integers()), max_size=2),
            }
        ),
        max_size=6,
    )
)
def test_of_many_entries_exactly_those_of_the_person_go(entries: list[Any]) -> None:
    def is_of_person(entry: Any) -> bool:
        profile = entry["profile"]
        return str(profile["email"]).casefold() == ANN.casefold() or profile["id"] == ID

    expected = [each for each in entries if not is_of_person(each)]
    found = left({"entries": entries, "receipt": "r"})

    assert found == ({"entries": expected, "receipt": "r"} if expected or not entries else None)
