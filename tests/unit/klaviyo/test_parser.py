"""Tests what is accepted, what is stamped, and the properties that hold for every document."""

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import contract, message
from sluice.contract import MAX_EVENT_BYTES, Surface
from sluice.errors import Refused
from sluice.klaviyo import flat_event as flat_shape
from sluice.klaviyo import packing, parser, problems, rules
from sluice.klaviyo.pointers import caller_pointer
from sluice.message import Message
from tests.support import factories, parsing
from tests.support.factories import (
    NEWEST,
    NOON,
    bulk,
    client_bulk,
    encoded,
    entry,
    event,
    flat,
    metric,
    profile,
    single,
)
from tests.support.parsing import delivered, only_event, only_profile, pointers, read

CLIENT = [Surface.CLIENT_BULK, Surface.CLIENT_EVENT]
SHAPES: dict[Surface, list[Any]] = {
    Surface.BULK: [bulk()],
    Surface.CLIENT_BULK: [client_bulk()],
    Surface.EVENT: [single(), flat()],
    Surface.CLIENT_EVENT: [single()],
}


def client_document(surface: Surface, of: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    if surface is Surface.CLIENT_BULK:
        return client_bulk(event(**attributes), of=of)
    return single(of, **attributes)


@pytest.mark.rule
@pytest.mark.parametrize(
    ("surface", "document"), [(surface, document) for surface in SHAPES for document in SHAPES[surface]]
)
def test_the_smallest_body_of_each_surface_is_accepted(surface: Surface, document: dict[str, Any]) -> None:
    accepted = read(surface, document)

    assert accepted.events == 1
    assert only_profile(accepted)["attributes"] == {"email": "ann@example.com"}
    assert only_event(accepted) == {
        "properties": {"product": "Desk lamp"},
        "metric": metric("Viewed Product"),
        "time": "2026-07-20T12:00:00Z",
        "unique_id": only_event(accepted)["unique_id"],
    }


@pytest.mark.rule
def test_what_the_caller_set_is_not_stamped() -> None:
    given_by_caller: dict[str, Any] = {
        "time": "2026-03-02T09:15:27Z",
        "unique_id": "order-1",
        "backfill": True,
        "value": 0,
    }

    assert only_event(read(Surface.EVENT, single(**given_by_caller))) == {
        "properties": {"product": "Desk lamp"},
        "metric": metric("Viewed Product"),
        **given_by_caller,
    }


@pytest.mark.rule
def test_nulls_zeros_and_empty_strings_are_kept() -> None:
    kept: dict[str, Any] = {
        "a": None,
        "b": 0,
        "c": "",
        "d": [],
        "e": {},
        "f": False,
        "$extra": {"x": None},
        "": "\x00\uffff",
    }
    document = bulk(
        entry(event(properties=kept), of=profile(email="ann@example.com", title=None, properties=kept))
    )

    accepted = read(Surface.BULK, document)

    assert only_event(accepted)["properties"] == kept
    assert only_profile(accepted)["attributes"] == {
        "email": "ann@example.com",
        "title": None,
        "properties": kept,
    }


@pytest.mark.rule
def test_the_stamped_time_is_the_second_of_acceptance() -> None:
    accepted = read(
        Surface.EVENT, encoded(single(time=None)), accepted=NOON + timedelta(microseconds=999_999)
    )

    assert only_event(accepted)["time"] == "2026-07-20T12:00:00Z"


def unique_id_of(document: dict[str, Any], seconds: float = 0) -> str:
    accepted = read(Surface.EVENT, encoded(document), accepted=NOON + timedelta(seconds=seconds))
    unique_id: str = only_event(accepted)["unique_id"]
    return unique_id


@pytest.mark.rule
@pytest.mark.parametrize(
    "same",
    [
        single(properties={"b": 2, "a": 1}),
        single(unique_id=None, properties={"a": 1, "b": 2}),
        single(time="2026-07-20T12:00:00.5+00:00", properties={"a": 1, "b": 2}),
        single(time="2026-07-20T14:00:00+02:00", properties={"a": 1, "b": 2}),
        single(time="2026-07-20T12:00:00", properties={"a": 1, "b": 2}),
        single(profile(email="ann@example.com", first_name="Ann"), properties={"a": 1, "b": 2}),
        single(profile(email="Ann@Example.COM"), properties={"a": 1, "b": 2}),
    ],
)
def test_an_event_repeated_in_its_second_gets_the_same_unique_id(same: dict[str, Any]) -> None:
    assert unique_id_of(same, seconds=0.9) == unique_id_of(single(properties={"a": 1, "b": 2}))


DIFFERENT = [
    single(),
    single(properties={}),
    single(properties={"product": "Desk lamp "}),
    single(properties={"product": None}),
    single(value=1),
    single(value=0),
    single(value=1, value_currency="USD"),
    single(value=1, value_currency="EUR"),
    single(time="2026-07-20T12:00:01Z"),
    single(metric=metric("Placed Order")),
    single(metric=metric("Viewed Product", service="api")),
    single(profile(email="bob@example.com")),
    single(profile(email="ann@example.com", external_id="1")),
    single(profile(external_id="ann@example.com")),
    single(profile(external_id="Ann@example.com")),
    single(profile(anonymous_id="ann@example.com")),
]


@pytest.mark.rule
def test_different_events_get_different_unique_ids() -> None:
    assert len({unique_id_of(document) for document in DIFFERENT}) == len(DIFFERENT)


def test_no_two_metrics_and_unique_ids_share_an_id() -> None:
    pairs = [("a", "b c"), ("a b", "c"), ("1 a", "b"), ("a", "1 b"), ("11", "1"), ("1", "11")]
    events = [event(unique_id=unique_id, metric=metric(name)) for unique_id, name in pairs]

    [entry_of_all] = delivered(read(Surface.BULK, bulk(entry(*events))))

    assert len({each["id"] for each in entry_of_all["events"]}) == len(pairs)


@pytest.mark.trust("A browser's profile keeps one identifier and can change no other.")
@pytest.mark.rule
@pytest.mark.parametrize("surface", CLIENT)
def test_an_anonymous_caller_keeps_only_the_strongest_identifier(surface: Surface) -> None:
    everything = profile(
        email="ann@example.com",
        phone_number="+15005550006",
        external_id="1",
        anonymous_id="2",
        _kx="3",
        first_name="Ann",
    )
    identified = {"data": {**everything["data"], "id": "01ABC"}}

    kept = only_profile(read(surface, client_document(surface, everything)))
    by_id = only_profile(read(surface, client_document(surface, identified)))

    assert kept["attributes"] == {"email": "ann@example.com", "first_name": "Ann"}
    assert (by_id["id"], by_id["attributes"]) == ("01ABC", {"first_name": "Ann"})


@pytest.mark.trust("A browser's profile keeps one identifier and can change no other.")
@pytest.mark.rule
@pytest.mark.parametrize("surface", CLIENT)
def test_an_anonymous_caller_cannot_patch_identifiers(surface: Surface) -> None:
    patches = {"patch_identifiers": {"append": {"email": "victim@example.com"}}}
    harmless = {"patch_properties": {"append": {"plan": "gold"}}}

    def meta_sent(meta: dict[str, Any]) -> object:
        of = profile(anonymous_id="1", meta=meta)
        return only_profile(read(surface, client_document(surface, of))).get("meta")

    assert meta_sent(patches) is None
    assert meta_sent({**patches, **harmless}) == harmless


IDENTIFIER_VALUES = {"email": "ann@example.com", "phone_number": "+15005550006"}


@pytest.mark.rule
@pytest.mark.parametrize("surface", CLIENT)
@pytest.mark.parametrize("strongest", contract.IDENTIFIERS)
@pytest.mark.parametrize("other", [None, "", " ", "x"])
def test_an_anonymous_callers_profile_goes_upstream_with_one_identifier(
    surface: Surface, strongest: str, other: str | None
) -> None:
    names = contract.IDENTIFIERS[contract.IDENTIFIERS.index(strongest) :]
    given = dict.fromkeys(names[1:], other) | {strongest: IDENTIFIER_VALUES.get(strongest, "x")}
    if other == "x":
        given |= {name: value for name, value in IDENTIFIER_VALUES.items() if name in names}
    of = profile(**({name: value for name, value in given.items() if name != "id"} or {"title": "x"}))
    of["data"] |= {"id": given["id"]} if "id" in given else {"id": None}

    sent = only_profile(read(surface, client_document(surface, of)))

    present = sent.keys() | sent["attributes"].keys()
    assert present & set(contract.IDENTIFIERS) == {strongest}
    assert None not in sent["attributes"].values()


@pytest.mark.rule
@pytest.mark.parametrize("surface", CLIENT)
@pytest.mark.parametrize("name", ["$email", "$phone_number", "$id", "$external_id", "$anonymous_id", "$kx"])
def test_an_anonymous_caller_cannot_change_an_identifier_as_a_property(surface: Surface, name: str) -> None:
    others = {"plan": "gold", "email": "kept: it is a property of the caller's own"}
    patch = {"append": {name: "x", **others}, "unappend": {name: "x", **others}, "unset": [name, "plan"]}
    of = profile(
        email="ann@example.com",
        first_name=None,
        properties={name: None, **others},
        meta={"patch_properties": patch},
    )

    sent = only_profile(read(surface, client_document(surface, of)))

    assert sent["attributes"] == {"email": "ann@example.com", "properties": others}
    assert sent["meta"] == {"patch_properties": {"append": others, "unappend": others, "unset": ["plan"]}}
    of["data"]["attributes"]["meta"] = {"patch_properties": {"unset": name}}
    assert "meta" not in only_profile(read(surface, client_document(surface, of)))


@pytest.mark.rule
@pytest.mark.parametrize("surface", [Surface.CLIENT_BULK, Surface.CLIENT_EVENT])
@pytest.mark.parametrize("unique_id", ["order:5001", "x" * 255, None, *"a\U0001f600"])
def test_an_anonymous_callers_unique_id_is_never_a_servers(surface: Surface, unique_id: str | None) -> None:
    given = {"unique_id": unique_id} if unique_id else {}
    anonymous = _unique_id(surface, client_document(surface, profile(), **given))
    keyed = _unique_id(Surface.EVENT, single(profile(), **given))

    assert anonymous != keyed
    assert anonymous.startswith("anonymous/")
    assert 1 <= len(anonymous) <= 255
    # It is the same each time, so that a repeat of the browser's counts once.
    assert anonymous == _unique_id(surface, client_document(surface, profile(), **given))


@pytest.mark.parametrize("surface", [Surface.CLIENT_BULK, Surface.CLIENT_EVENT])
def test_different_anonymous_ids_stay_different(surface: Surface) -> None:
    ids = ["a", "b", "x" * 245, "x" * 246, "x" * 255, "y" + "x" * 254, "anonymous/a"]

    found = {_unique_id(surface, client_document(surface, profile(), unique_id=each)) for each in ids}

    assert len(found) == len(ids)


def test_an_account_may_share_ids_between_browser_and_server() -> None:
    body = encoded(client_document(Surface.CLIENT_EVENT, profile(), unique_id="order:5001"))

    read_shared = parser.read(Surface.CLIENT_EVENT, body, NEWEST, NOON, shared_ids=True)

    [sent] = parsing.stored(read_shared, Surface.CLIENT_EVENT).entries[0].events
    assert msgspec.json.decode(sent.attributes)["unique_id"] == "order:5001"


def _unique_id(surface: Surface, document: Any) -> str:
    [sent] = parsing.stored(read(surface, document), surface).entries[0].events
    unique_id: str = msgspec.json.decode(sent.attributes)["unique_id"]
    assert sent.id == f"{len(unique_id)} {unique_id}Viewed Product"
    return unique_id


@pytest.mark.parametrize("surface", CLIENT)
def test_a_bad_phone_number_is_not_what_an_anonymous_caller_keeps(surface: Surface) -> None:
    accepted = read(surface, client_document(surface, profile(phone_number="5", anonymous_id="1")))

    assert only_profile(accepted)["attributes"] == {"anonymous_id": "1"}
    assert accepted.ignored == {"phone_number"}


def test_a_server_side_caller_keeps_all_identifiers() -> None:
    of = profile(email="ann@example.com", external_id="1", meta={"patch_identifiers": {"append": {"a": 1}}})

    sent = only_profile(read(Surface.BULK, bulk(entry(of=of))))

    assert sent["attributes"] == {"email": "ann@example.com", "external_id": "1"}
    assert sent["meta"] == {"patch_identifiers": {"append": {"a": 1}}}


@pytest.mark.rule
@pytest.mark.parametrize("surface", [Surface.BULK, Surface.CLIENT_BULK])
def test_a_request_holds_a_thousand_events_over_all_entries(surface: Surface) -> None:
    where = {
        Surface.BULK: "/data/attributes/events-bulk-create/data",
        Surface.CLIENT_BULK: "/data/attributes/events/data",
    }

    def document(count: int) -> dict[str, Any]:
        events = [event() for _ in range(count)]
        if surface is Surface.CLIENT_BULK:
            return client_bulk(*events)
        return bulk(entry(*events[:600]), entry(*events[600:]))

    assert read(surface, document(1_000)).events == 1_000
    assert pointers(surface, document(1_001)) == [where[surface]]


@pytest.mark.rule
def test_a_request_needs_an_event_and_so_does_each_entry() -> None:
    none = bulk()
    none["data"]["attributes"]["events-bulk-create"]["data"] = []
    empty = entry()
    empty["attributes"]["events"]["data"] = []
    entries = "/data/attributes/events-bulk-create/data"

    assert pointers(Surface.BULK, none) == [entries]
    assert pointers(Surface.BULK, bulk(entry(), empty)) == [f"{entries}/1/attributes/events/data"]
    assert pointers(Surface.CLIENT_BULK, {"data": empty}) == ["/data/attributes/events/data"]


def test_an_entrys_backfill_travels_with_it() -> None:
    read_back = delivered(read(Surface.BULK, bulk(entry(backfill=True), entry(backfill=False), entry())))

    assert [(each.get("backfill", False), len(each["events"])) for each in read_back] == [
        (True, 1),
        (False, 2),
    ]


ANN, BEN = profile(email="ann@example.com"), profile(email="ben@example.com")
RENAMED = profile(email="ann@example.com", first_name="Ann")
PATCHED = {"data": {**ANN["data"], "meta": {"patch_properties": {"append": {"seen": 1}}}}}


@pytest.mark.parametrize(
    ("entries", "places"),
    [
        ([{"of": ANN}, {"of": BEN}, {"of": ANN}, {"of": BEN}], [[(0, 0), (2, 0)], [(1, 0), (3, 0)]]),
        ([{"of": ANN}, {"of": ANN}, {"of": BEN}], [[(0, 0), (1, 0)], [(2, 0)]]),
        ([{"of": ANN}, {"of": RENAMED}, {"of": ANN}], [[(0, 0)], [(1, 0)], [(2, 0)]]),
        ([{"of": ANN}, {"of": ANN, "backfill": True}, {"of": ANN}], [[(0, 0)], [(1, 0)], [(2, 0)]]),
        ([{"of": PATCHED}, {"of": PATCHED}], [[(0, 0)], [(1, 0)]]),
    ],
    ids=["apart", "neighbours", "something newer between", "backfill between", "patches"],
)
def test_entries_that_say_the_same_of_a_profile_travel_as_one(
    entries: list[dict[str, Any]], places: list[list[tuple[int, int]]]
) -> None:
    found = read(Surface.BULK, bulk(*(entry(**each) for each in entries)))

    assert [
        [(at_entry, at_event) for at_entry, at_event, _ in each.positioned(index)]
        for index, each in enumerate(found.entries)
    ] == places


WAYS_TO_WRITE_ONE_ENTRY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("2026-03-02T09:15:27Z", {}, {}),
    ("2026-03-02T09:15:27.000Z", {}, {}),
    ("2026-03-02T09:15:27+00:00", {"backfill": False}, {"backfill": False}),
    ("2026-03-02T09:15:27", {"backfill": None}, {}),
    ("2026-03-02T11:15:27+02:00", {}, {"backfill": None}),
]


@pytest.mark.rule
@pytest.mark.parametrize(("time", "of_event", "of_entry"), WAYS_TO_WRITE_ONE_ENTRY)
@pytest.mark.parametrize("unique_id", [{}, {"unique_id": "view-1"}])
def test_one_event_is_the_same_on_the_queue_whichever_client_wrote_it(
    time: str, of_event: dict[str, Any], of_entry: dict[str, Any], unique_id: dict[str, Any]
) -> None:
    plain = bulk(entry(event(time="2026-03-02T09:15:27Z", **unique_id)))
    written = bulk(entry(event(time=time, **of_event, **unique_id), **of_entry))

    assert encoded(delivered(read(Surface.BULK, written))) == encoded(delivered(read(Surface.BULK, plain)))


@pytest.mark.rule
def test_an_event_is_backfilled_when_it_or_its_entry_says_so() -> None:
    [first, second] = delivered(
        read(Surface.BULK, bulk(entry(event(backfill=True)), entry(event(backfill=False), backfill=True)))
    )

    assert (first.get("backfill"), first["events"][0]["attributes"]["backfill"]) == (None, True)
    assert (second["backfill"], second["events"][0]["attributes"].get("backfill")) == (True, None)


def test_an_event_of_the_largest_size_goes_into_a_job() -> None:
    properties = {f"p{number}": "x" * 100_000 for number in range(49)}
    properties["rest"] = "x" * (MAX_EVENT_BYTES - 4_900_000 - 49 * 14 - 200)
    accepted = read(Surface.BULK, bulk(entry(event(properties=properties, unique_id="x" * 255))))
    stored = message.as_stored(Message("receipt", "AbC123", Surface.BULK, NOON, accepted.entries))
    assert isinstance(stored, Message)

    packed = packing.pack([(0, stored)])

    assert [job.events for job in packed.jobs] == [1]
    assert packed.oversized == []


@pytest.mark.parametrize(
    ("surface", "is_flat", "event_index", "where"),
    [
        (Surface.BULK, False, 3, "/data/attributes/events-bulk-create/data/2/attributes/events/data/3/x"),
        (Surface.BULK, False, None, "/data/attributes/events-bulk-create/data/2/x"),
        (Surface.CLIENT_BULK, False, 3, "/data/attributes/events/data/3/x"),
        (Surface.CLIENT_BULK, False, None, "/data/x"),
        (Surface.EVENT, False, 0, "/data/x"),
        (Surface.CLIENT_EVENT, False, None, "/data/x"),
        (Surface.EVENT, True, 0, "/data/x"),
        (Surface.WEBHOOK, False, 0, "/data/2/x"),
        (Surface.WEBHOOK, False, None, "/data/2/x"),
    ],
)
def test_a_rejection_points_into_the_callers_document(
    surface: Surface, is_flat: bool, event_index: int | None, where: str
) -> None:
    assert caller_pointer(surface, is_flat, 2, event_index, "/x") == where


@pytest.mark.parametrize(
    ("document", "surface"),
    [
        (bulk(), Surface.BULK),
        (single(), Surface.EVENT),
        (flat(), Surface.EVENT),
        (client_bulk(), Surface.CLIENT_BULK),
        ([], None),
    ],
)
def test_a_producers_surface_is_told_by_the_type(document: object, surface: Surface | None) -> None:
    assert parser.surface_of(document) is surface


# Random documents: valid ones of every shape, and the same with anything anywhere.

TEXT = st.text(max_size=5) | st.sampled_from(['":', "\\", "\ufffe", "\x00", "é", "\U0001f389"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SMALL_INTEGERS = st.integers(-(2**63), 2**63 - 1)
FREE = st.dictionaries(
    TEXT,
    SMALL_INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.lists(TEXT, max_size=2),
    max_size=3,
)
TIMES = st.sampled_from(
    ["2026-03-02T09:15:27Z", "2026-03-02T09:15:27.123456", "2026-03-02T09:15:27+02:00", None]
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draws objects with any of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


VISIBLE = st.text("aé €", max_size=8).map(lambda text: f"x{text}")
EVENTS = some(
    properties=FREE,
    time=TIMES,
    value=st.none() | SMALL_INTEGERS | st.floats(allow_nan=False, allow_infinity=False),
    value_currency=st.sampled_from(["USD", None]),
    unique_id=st.text(min_size=1, max_size=9).map(lambda text: f"id {text!a}") | st.none(),
    backfill=st.booleans() | st.none(),
    metric=st.builds(metric, VISIBLE),
).map(lambda attributes: event(**attributes))
PROFILES = some(
    external_id=VISIBLE,
    anonymous_id=VISIBLE,
    phone_number=st.sampled_from(["+15005550006", "5"]),
    location=some(city=TEXT, latitude=SMALL_INTEGERS | TEXT),
    properties=FREE,
    meta=some(patch_properties=some(append=FREE, unset=TEXT | st.lists(TEXT, max_size=2))),
).map(lambda attributes: profile(email="ann@example.com", **attributes))
ENTRIES = st.builds(
    lambda events, of, rest: entry(*events, of=of, **rest),
    st.lists(EVENTS, min_size=1, max_size=3),
    PROFILES,
    some(backfill=st.booleans()),
)
SINGLES = st.builds(lambda each, of: single(of, **each["attributes"]), EVENTS, PROFILES)
FLATS = st.builds(
    lambda rest, properties: flat({"$email": "ann@example.com", **rest}, properties=properties),
    FREE.filter(lambda rest: "data" not in rest),
    FREE,
)
VALID = st.one_of(
    st.tuples(st.just(Surface.BULK), st.lists(ENTRIES, min_size=1, max_size=3).map(lambda all_: bulk(*all_))),
    st.tuples(st.just(Surface.CLIENT_BULK), ENTRIES.map(lambda each: {"data": each})),
    st.tuples(st.sampled_from([Surface.EVENT, Surface.CLIENT_EVENT]), SINGLES),
    st.tuples(st.just(Surface.EVENT), FLATS),
)


def places(document: Any, pointer: str = "") -> list[str]:
    """Returns pointers to everything in a document but itself."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found = []
    for name, value in items:
        where = f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"
        found.append(where)
        if isinstance(value, dict | list):
            found += places(value, where)
    return found


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Surface, Any]:
    """Draws a valid document in which something was replaced, added or taken away; or any JSON at all."""
    surface, document = draw(VALID)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(places(document) or [""]))
        how = draw(st.sampled_from(["replace", "remove", "add", "anything"]))
        if how == "anything" or not where:
            return surface, draw(JSON)
        if how == "remove":
            document = factories.without(document, where)
        elif how == "replace":
            document = factories.replaced(document, where, draw(JSON))
        elif isinstance(factories.at(document, where), dict):
            document = factories.replaced(
                document, f"{where}/{draw(st.sampled_from(['id', 'x', 'time']))}", draw(JSON)
            )
    return surface, document


def current_shape(surface: Surface, document: Any) -> Any:
    current = flat_shape.to_current(document) if surface is Surface.EVENT else None
    return document if current is None else current


def events_of(surface: Surface, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the attributes of a current document's events, as the caller wrote them."""
    data = current_shape(surface, document)["data"]
    if surface in problems.SINGLE:
        return [{name: value for name, value in data["attributes"].items() if name != "profile"}]
    entries = data["attributes"]["events-bulk-create"]["data"] if surface is Surface.BULK else [data]
    return [each["attributes"] for one in entries for each in one["attributes"]["events"]["data"]]


def same_moment(sent: str, given_by_caller: str) -> bool:
    """Tells whether a time that goes upstream, in UTC, is the caller's; one without an offset is in UTC."""
    moment = msgspec.convert(given_by_caller, datetime)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return sent.endswith("Z") and bool(msgspec.convert(sent, datetime) == aware)


@given(VALID)
def test_every_accepted_event_is_the_callers_and_stamped(drawn: tuple[Surface, dict[str, Any]]) -> None:
    surface, document = drawn

    accepted = read(surface, document)

    in_order = sorted(
        (at_entry, at_event, bytes(each.attributes))
        for index, one in enumerate(parsing.stored(accepted, surface).entries)
        for at_entry, at_event, each in one.positioned(index)
    )
    sent = [msgspec.json.decode(attributes) for _, _, attributes in in_order]
    expected = events_of(surface, document)
    assert len(sent) == len(expected) == accepted.events
    stamps = ("time", "unique_id", "backfill")
    for ours, theirs in zip(sent, expected, strict=True):
        assert {**ours, **dict.fromkeys(stamps)} == {**theirs, **dict.fromkeys(stamps)}
        own = theirs.get("unique_id")
        if surface in problems.CLIENT:
            assert ours["unique_id"].startswith("anonymous/")
            assert not own or len(own) > 245 or ours["unique_id"] == f"anonymous/{own}"
        else:
            assert ours["unique_id"] == (own or ours["unique_id"])
        assert same_moment(ours["time"], theirs.get("time") or "2026-07-20T12:00:00Z")
        assert ours.get("backfill", False) == bool(theirs.get("backfill"))


@given(mutated())
def test_any_document_is_accepted_or_refused_with_pointers_into_it(drawn: tuple[Surface, Any]) -> None:
    surface, document = drawn

    found = parsing.refusal(surface, document)

    for problem in found:
        assert problem != problems._UNEXPLAINED
        assert problem.pointer is not None
        # A missing value has no place of its own, so the place is its holder's.
        factories.at(document, problem.pointer.rpartition("/")[0])
    if not found:
        accepted = read(surface, document)
        assert sum(len(each["events"]) for each in delivered(accepted, surface)) == accepted.events > 0


@given(mutated())
def test_the_quick_way_accepts_exactly_what_the_thorough_one_finds_nothing_wrong_with(
    drawn: tuple[Surface, Any],
) -> None:
    surface, document = drawn
    limits = rules.rules_for(NEWEST, NOON)

    thorough = list(problems._problems(surface, current_shape(surface, document), limits))

    assert bool(parsing.refusal(surface, document)) == bool(thorough)


@given(VALID)
def test_the_same_document_always_gets_the_same_unique_ids(drawn: tuple[Surface, dict[str, Any]]) -> None:
    surface, document = drawn

    def ids(body: bytes) -> list[str]:
        entries = delivered(read(surface, body), surface)
        return [each["attributes"]["unique_id"] for one in entries for each in one["events"]]

    assert ids(encoded(document)) == ids(json.dumps(copy.deepcopy(document), indent=1).encode())


@given(st.binary(max_size=200) | JSON.map(encoded))
def test_no_bytes_at_all_raise_anything_but_a_refusal(body: bytes) -> None:
    for surface in parser.BODIES:
        with pytest.raises(Refused):
            read(surface, body)
