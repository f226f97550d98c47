"""Tests what a record says of a rejection: where the fault is in the payload, whose it is, its size."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.contract import PIPELESS_SURFACE, Surface
from sluice.records import items
from sluice.records.person import hashed
from sluice.records.record import (
    Location,
    Record,
    State,
    is_record_id,
    place_in,
    record_of,
    resolve,
)
from sluice.rejection import UNKNOWN_ACCOUNT, Reason, Rejection, rejection_id
from tests.simulation.aws.dynamodb import item_size
from tests.support.factories import NOON, SITE_ID

KEY = b"a key of hashes"
WHERE = Location("0" * 32, 0, 10)
PAYLOAD: dict[str, Any] = {
    "profile": {"type": "profile", "attributes": {"email": "Ann@Example.com", "phone_number": "+1555"}},
    "events": [
        {
            "metric": {"data": {"type": "metric", "attributes": {"name": "Placed Order"}}},
            "value_currency": "EURO",
        },
        {"metric": {"data": {"type": "metric", "attributes": {"name": "Ordered Product"}}}},
    ],
    "backfill": False,
}


def rejected(payload: Any = PAYLOAD, **fields: Any) -> Rejection:
    raw = msgspec.Raw(msgspec.json.encode(payload))
    usual: dict[str, Any] = {"account": SITE_ID, "accepted": NOON, "surface": "bulk", "receipt": "r1"}
    return Rejection(Reason.REFUSED, "Refused.", raw, NOON + timedelta(hours=1), **usual | fields)


def made(*given: Any, **fields: Any) -> Record:
    return record_of(rejected(*given, **fields), WHERE, KEY)[0]


BULK = "/data/attributes/events-bulk-create/data/3"


@pytest.mark.parametrize(
    ("pointer", "place"),
    [
        (f"{BULK}/attributes/events/data/17/attributes/value_currency", "/events/0/value_currency"),
        (f"{BULK}/attributes/profile/data/attributes/phone_number", "/profile/attributes/phone_number"),
        ("/data/attributes/events/data/1/attributes/time", "/events/0/time"),
        ("/data/attributes/profile/data/attributes/email", "/profile/attributes/email"),
        ("/data/attributes/value_currency", "/events/0/value_currency"),
        ("/data/2/attributes/value_currency", "/events/0/value_currency"),
        ("/data/2/attributes/profile/data/attributes/email", "/profile/attributes/email"),
        (f"{BULK}/attributes/events/data/17", None),
        (BULK, None),
        ("/data/attributes/properties/a/b/c", None),
        ("/elsewhere", None),
        ("", None),
        (None, None),
    ],
)
def test_the_place_in_the_payload_follows_from_the_pointer(pointer: str | None, place: str | None) -> None:
    assert place_in(PAYLOAD, pointer) == place


def test_a_place_that_the_refusal_names_is_taken_if_it_is_there() -> None:
    known, gone = made(place="/events/0/value_currency"), made(place="/events/7/value_currency")

    assert (known.place, gone.place) == ("/events/0/value_currency", None)


def test_an_event_has_one_cause_whichever_way_it_came_in() -> None:
    pointers = [
        "/data/attributes/value_currency",
        f"{BULK}/attributes/events/data/1/attributes/value_currency",
    ]

    groups = {made(pointer=pointer).group for pointer in pointers}
    groups.add(made(place="/events/0/value_currency").group)

    assert len(groups) == 1


def test_the_place_of_a_pipeless_event() -> None:
    event = {"start_object": {"id": "ada", "type": "user"}, "relationship": {"type": "liked"}}
    record = made({"events": [event]}, surface=PIPELESS_SURFACE, pointer="/events/4/relationship/type")

    assert record.place == "/events/0/relationship/type"
    assert record.profiles == (hashed("ada", KEY),)


def test_a_record_names_nobody() -> None:
    record = made()

    assert set(record.profiles) == {hashed("ann@example.com ", KEY), hashed("+1555", KEY)}
    assert "example" not in repr(items.record_item(record, 0)).lower()
    assert hashed("ann@example.com", b"another key") not in record.profiles


def test_a_record_says_how_many_events_of_which_metric() -> None:
    record = made()

    assert (record.events, record.metric, record.account) == (2, "Placed Order", SITE_ID)


def test_a_dead_letter_counts_its_events() -> None:
    stored = {"sluice": 1, "entries": [{"profile": PAYLOAD["profile"], "events": [{}, {}]}, {"events": [{}]}]}
    record = made(stored)

    assert record.events == 3
    assert hashed("ann@example.com", KEY) in record.profiles


@pytest.mark.parametrize("payload", ["no JSON of ours", None, [], {}, {"events": []}, {"entries": "x"}, 7])
def test_any_payload_has_a_record(payload: Any) -> None:
    record = made(payload, pointer="/data/attributes/time")

    assert (record.events, record.place, record.metric) == (1, None, None)


def test_the_account_that_a_producer_named_may_be_none() -> None:
    assert made(account="../elsewhere").account == UNKNOWN_ACCOUNT


@pytest.mark.parametrize("surface", Surface)
def test_callers_without_a_key_are_known(surface: Surface) -> None:
    assert made(surface=surface).is_anonymous == surface.startswith("client")


def test_the_same_rejection_has_the_same_id_and_ids_are_in_the_order_of_acceptance() -> None:
    ids = [rejection_id(NOON + timedelta(milliseconds=step), f"r{-step}") for step in range(300)]

    assert ids == sorted(ids)
    assert rejection_id(NOON, "r1") == rejection_id(NOON, "r1") != rejection_id(NOON, "r2")
    assert all(map(is_record_id, ids))
    assert made(id=ids[7]).accepted_at == NOON + timedelta(milliseconds=7)


text = st.text(max_size=3_000)
long_name = st.one_of(st.none(), text)


@given(
    st.builds(
        rejected,
        st.just(PAYLOAD) | st.dictionaries(text, text, max_size=3),
        account=st.sampled_from([SITE_ID, "pipeless-9223372036854775807"]) | text,
        code=long_name,
        pointer=long_name,
        surface=st.sampled_from([*Surface, None]),
        source=long_name,
        receipt=long_name,
        line=long_name,
        replays=st.none() | st.just(rejection_id(NOON, "before")),
    ),
    text,
    text,
)
def test_a_record_never_takes_more_than_one_write_unit(rejection: Rejection, who: str, why: str) -> None:
    record = record_of(rejection, Location("f" * 32, 10**9, 10**9), KEY)[0]
    changed = msgspec.structs.replace(
        record,
        state=State.REJECTED_AGAIN,
        successor=rejection_id(NOON, "after"),
        job=rejection_id(NOON, "job"),
        who=who,
        why=why,
        changed_at=NOON,
    )
    item = items.record_item(changed, 2_000_000_000)

    assert item_size(item) <= 1_024
    assert items.record_item(items.record_from(item), 2_000_000_000) == item


def test_the_longest_record_takes_one_write_unit() -> None:
    name = "ä" * 3_000
    rejection = Rejection(
        Reason.PROBABLY_RECORDED,
        name,
        msgspec.Raw(
            msgspec.json.encode(
                {
                    "profile": {
                        "attributes": {"email": name, "phone_number": f"{name}1", "external_id": f"{name}2"}
                    },
                    "events": [{"metric": {"name": name}}],
                }
            )
        ),
        NOON,
        account="pipeless-9223372036854775807",
        code=name,
        pointer="/data/attributes/" + "x" * 89,
        surface=Surface.CLIENT_EVENT,
        source=name,
        receipt="r" * 64,
        accepted=NOON,
        replays=rejection_id(NOON, "before"),
    )
    record = record_of(rejection, Location("f" * 32, 10**9, 10**9), KEY)[0]
    changed = msgspec.structs.replace(
        record,
        state=State.REJECTED_AGAIN,
        events=1_000,
        successor=rejection_id(NOON, "after"),
        job=rejection_id(NOON, "job"),
        who=name,
        why=name,
        changed_at=NOON,
    )

    assert changed.place is not None
    assert 900 < item_size(items.record_item(changed, 2_000_000_000)) <= 1_024


def test_a_pointer_is_resolved_as_written() -> None:
    assert resolve({"a/b": [{"m~n": 1}]}, "/a~1b/0/m~0n") == 1
    assert resolve({"a": [1]}, "/a/1") is None
    assert resolve({"a": 1}, "/a/b") is None
    assert resolve({"a": 1}, "") == {"a": 1}
