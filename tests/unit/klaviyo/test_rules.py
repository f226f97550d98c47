"""Tests every limit of the contract, at the boundary and one past it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sluice import contract
from sluice.contract import Surface
from sluice.klaviyo import packing
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
    nested,
    profile,
    single,
)
from tests.support.parsing import delivered, only_event, only_profile, pointers, read, refusal, stored

ENTRY = "/data/attributes/events-bulk-create/data/0/attributes"
EVENT = f"{ENTRY}/events/data/0/attributes"
PROFILE = f"{ENTRY}/profile/data"
BY_ID = profile(external_id="1")


@dataclass(frozen=True)
class Shape:
    """Makes a surface's document of an event and its profile, and says where it has them."""

    surface: Surface
    document: Callable[..., dict[str, Any]]
    event: str
    profile: str


def flat_of(of: dict[str, Any], metric: dict[str, Any] | None = None, **attributes: Any) -> dict[str, Any]:
    if metric is not None:
        attributes["metric"] = metric["data"]["attributes"]
    given = of["data"]["attributes"]
    return flat({"$id": "1", "$email": given.get("email", "ann@example.com")}, **attributes)


SHAPES = {
    "bulk": Shape(Surface.BULK, lambda of, **rest: bulk(entry(event(**rest), of=of)), EVENT, PROFILE),
    "client-bulk": Shape(
        Surface.CLIENT_BULK,
        lambda of, **rest: client_bulk(event(**rest), of=of),
        "/data/attributes/events/data/0/attributes",
        "/data/attributes/profile/data",
    ),
    "event": Shape(Surface.EVENT, single, "/data/attributes", "/data/attributes/profile/data"),
    "client-event": Shape(Surface.CLIENT_EVENT, single, "/data/attributes", "/data/attributes/profile/data"),
    "flat": Shape(Surface.EVENT, flat_of, "/data/attributes", "/data/attributes/profile"),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
CURRENT = {name: shape for name, shape in SHAPES.items() if name != "flat"}
every_current_shape = pytest.mark.parametrize("shape", CURRENT.values(), ids=CURRENT)


def numbered(count: int) -> dict[str, int]:
    return {f"p{number}": number for number in range(count)}


def event_with(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: bulk(entry(event(**{name: value})))


def profile_with(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: bulk(entry(of=profile(**{"external_id": "1", name: value})))


def email_of(length: int) -> str:
    return "a" * (length - len("@example.com")) + "@example.com"


def in_property(most: Any, too_much: Any, within: str = "") -> tuple[str, Any, Any, str]:
    return "properties", {"p": most}, {"p": too_much}, f"/properties/p{within}"


DEEP = "/deeper/0" * 5
NAME = "/metric/data/attributes/name"
# An event's attribute, the most it may be and one more, and where the problem is.
EVENT_LIMITS: dict[str, tuple[str, Any, Any, str]] = {
    "properties": ("properties", numbered(400), numbered(401), "/properties"),
    "string": in_property("x" * 102_400, "x" * 102_401),
    "string of two bytes": in_property("é" * 51_200, "é" * 51_200 + "x"),
    "string of three bytes": in_property("€" * 34_133, "€" * 34_134),
    "string of four bytes": in_property("🎉" * 25_600, "🎉" * 25_600 + "x"),
    "string of quotes": in_property('"' * 102_400, '"' * 102_401),
    "string in an array": in_property(["x" * 102_400], ["x" * 102_401], "/0"),
    "array": in_property([0] * 4_000, [0] * 4_001),
    "array in an object": in_property({"a": [0] * 4_000}, {"a": [0] * 4_001}, "/a"),
    "nesting": ("properties", nested(10), nested(11), f"/properties{DEEP}"),
    "integer": in_property(2**63 - 1, 2**63),
    "negative integer": in_property(-(2**63), -(2**63) - 1),
    "integer in an array": in_property([2**63 - 1], [2**63], "/0"),
    "value": ("value", 2**63 - 1, 2**63, "/value"),
    "negative value": ("value", -(2**63), -(2**63) - 1, "/value"),
    "metric name": ("metric", metric("x" * 127), metric("x" * 128), NAME),
    "metric name in characters": ("metric", metric("🎉" * 127), metric("🎉" * 128), NAME),
    "shortest metric name": ("metric", metric("x"), metric(""), NAME),
    "metric service": (
        "metric",
        metric("x", service="x" * 102_400),
        metric("x", service="x" * 102_401),
        "/metric/data/attributes/service",
    ),
    "unique_id": ("unique_id", "x" * 255, "x" * 256, "/unique_id"),
    "unique_id in characters": ("unique_id", "€" * 255, "€" * 256, "/unique_id"),
    "shortest unique_id": ("unique_id", "x", "", "/unique_id"),
}


@pytest.mark.rule
@every_shape
@pytest.mark.parametrize("limit", EVENT_LIMITS)
def test_an_events_limit_holds_at_its_boundary(limit: str, shape: Shape) -> None:
    name, most, too_much, where = EVENT_LIMITS[limit]
    if shape is SHAPES["flat"]:
        where = where.replace("/data/attributes", "")

    assert refusal(shape.surface, shape.document(BY_ID, **{name: most})) == []
    assert pointers(shape.surface, shape.document(BY_ID, **{name: too_much})) == [shape.event + where]


# The same for a profile's attribute. The limit of the whole profile is below.
PROFILE_LIMITS: dict[str, tuple[str, Any, Any, str]] = {
    "email": ("email", email_of(99), email_of(100), "/email"),
    "integer": ("properties", {"p": 2**63 - 1}, {"p": 2**63}, "/properties/p"),
    "array": ("properties", {"p": [0] * 4_000}, {"p": [0] * 4_001}, "/properties/p"),
    "nesting": ("properties", nested(10), nested(11), f"/properties{DEEP}"),
    "coordinate": (
        "location",
        {"latitude": 2**63 - 1, "longitude": -(2**63)},
        {"latitude": 2**63},
        "/location/latitude",
    ),
    "other coordinate": (
        "location",
        {"longitude": 2**63 - 1},
        {"longitude": -(2**63) - 1},
        "/location/longitude",
    ),
    "patched array": (
        "meta",
        {"patch_properties": {"append": {"p": [0] * 4_000}}},
        {"patch_properties": {"append": {"p": [0] * 4_001}}},
        "/meta/patch_properties/append/p",
    ),
    "array of names to unset": (
        "meta",
        {"patch_properties": {"unset": ["p"] * 4_000}},
        {"patch_properties": {"unset": ["p"] * 4_001}},
        "/meta/patch_properties/unset",
    ),
}


@pytest.mark.rule
@every_current_shape
@pytest.mark.parametrize("limit", PROFILE_LIMITS)
def test_a_profiles_limit_holds_at_its_boundary(limit: str, shape: Shape) -> None:
    name, most, too_much, where = PROFILE_LIMITS[limit]

    assert refusal(shape.surface, shape.document(profile(external_id="1", **{name: most}))) == []
    found = pointers(shape.surface, shape.document(profile(external_id="1", **{name: too_much})))
    assert found == [f"{shape.profile}/attributes{where}"]


@pytest.mark.rule
@pytest.mark.parametrize(
    ("revision", "most"), [("2025-04-14", 300), ("2025-04-15", 400), ("2023-01-24", 300), (NEWEST, 400)]
)
def test_how_many_properties_depends_on_the_revision(revision: str, most: int) -> None:
    document = event_with("properties")

    assert refusal(Surface.BULK, document(numbered(most)), revision) == []
    assert pointers(Surface.BULK, document(numbered(most + 1)), revision) == [f"{EVENT}/properties"]


@pytest.mark.rule
@every_shape
@pytest.mark.parametrize(
    "unique_id", [" ", " a", "a ", "a\u00a0", "\u2003a", "a\n", "a\tb", "a\x00b", "\x00", "a\x7fb", "a\x1f"]
)
def test_a_unique_id_has_no_form_to_find_fault_with(unique_id: str, shape: Shape) -> None:
    found = pointers(shape.surface, shape.document(BY_ID, unique_id=unique_id))

    assert found == [f"{shape.event}/unique_id"]


@pytest.mark.rule
@pytest.mark.parametrize(
    ("revision", "earliest", "too_early"),
    [
        ("2026-07-15", "1990-01-01T00:00:00Z", "1989-12-31T23:59:59Z"),
        ("2026-07-14", "2000-01-01T00:00:00Z", "1999-12-31T23:59:59Z"),
        ("2026-07-14", "2000-01-01T02:00:00+02:00", "2000-01-01T01:59:59+02:00"),
        ("2026-07-15", "1990-01-01T00:00:00", "0001-01-01T00:00:00+23:59"),
    ],
)
def test_the_earliest_time_depends_on_the_revision(revision: str, earliest: str, too_early: str) -> None:
    document = event_with("time")

    assert refusal(Surface.BULK, document(earliest), revision) == []
    assert pointers(Surface.BULK, document(too_early), revision) == [f"{EVENT}/time"]


@pytest.mark.rule
@pytest.mark.parametrize("zone", ["+00:00", "", "-11:30"])
def test_the_latest_time_is_a_year_ahead(zone: str) -> None:
    document = event_with("time")
    latest = NOON + timedelta(days=365)
    if zone == "-11:30":
        latest -= timedelta(hours=11, minutes=30)

    def spelled(seconds: int) -> str:
        return f"{latest + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}{zone}"

    assert refusal(Surface.BULK, document(spelled(0))) == []
    assert pointers(Surface.BULK, document(spelled(1))) == [f"{EVENT}/time"]


@pytest.mark.rule
@pytest.mark.parametrize(
    ("spelling", "sent"),
    [
        ("2026-03-02T09:15:27Z", "2026-03-02T09:15:27Z"),
        ("2026-03-02T09:15:27+00:00", "2026-03-02T09:15:27Z"),
        ("2026-03-02T09:15:27.000Z", "2026-03-02T09:15:27Z"),
        ("2026-03-02T09:15:27.123Z", "2026-03-02T09:15:27.123000Z"),
        ("2026-03-02T09:15:27.123456+00:00", "2026-03-02T09:15:27.123456Z"),
        ("2026-03-02T09:15:27.123456", "2026-03-02T09:15:27.123456Z"),
        ("2026-03-02T09:15:27", "2026-03-02T09:15:27Z"),
        ("2026-03-02T09:15:27-05:00", "2026-03-02T14:15:27Z"),
        ("2026-03-02T09:15:27+0000", "2026-03-02T09:15:27Z"),
        ("2026-03-02 09:15:27Z", "2026-03-02T09:15:27Z"),
        ("2026-03-02 09:15:27+00", "2026-03-02T09:15:27Z"),
        ("2026-03-02 09:15:27.5+01", "2026-03-02T08:15:27.500000Z"),
        ("20260302T091527Z", "2026-03-02T09:15:27Z"),
        ("20260302T091527+0100", "2026-03-02T08:15:27Z"),
        ("2026-W10-1T09:15:27Z", "2026-03-02T09:15:27Z"),
        ("2026-03-02T09:15:27,123Z", "2026-03-02T09:15:27.123000Z"),
        ("2026-03-02T09:15:27.123456789Z", "2026-03-02T09:15:27.123457Z"),
        ("2026-03-02T09:15Z", "2026-03-02T09:15:00Z"),
        ("2026-03-02t09:15:27z", "2026-03-02T09:15:27Z"),
        ("2026-03-29T02:30:00", "2026-03-29T02:30:00Z"),
        ("2026-03-29T02:30:00-00:00", "2026-03-29T02:30:00Z"),
        ("2000-01-01T00:59:59+01:00", None),
        ("2027-01-01T00:00:00+14:00", "2026-12-31T10:00:00Z"),
    ],
)
def test_times_are_taken_as_sdks_spell_them_and_sent_in_utc(spelling: str, sent: str) -> None:
    if sent is None:
        assert pointers(Surface.BULK, event_with("time")(spelling), "2026-07-14") == [f"{EVENT}/time"]
    else:
        assert only_event(read(Surface.BULK, event_with("time")(spelling)))["time"] == sent


@pytest.mark.rule
@every_shape
@pytest.mark.parametrize("spelling", ["2026-03-02 09:15:27+00", "20260302T091527Z"])
def test_a_time_is_taken_in_every_form_whatever_the_shape(spelling: str, shape: Shape) -> None:
    document = shape.document(BY_ID, time=spelling, properties={"long": "x" * 30_000})

    assert only_event(read(shape.surface, document))["time"] == "2026-03-02T09:15:27Z"
    [problem] = refusal(shape.surface, shape.document(BY_ID, time=spelling, value="x"))
    assert str(problem.pointer).endswith("/value")


@pytest.mark.rule
@pytest.mark.parametrize(
    "spelling",
    [
        "2026-03-02",
        "2026-02-30T00:00:00Z",
        "2026-03-02T24:00:00Z",
        "2016-12-31T23:59:60Z",
        "2026-03-02T09Z",
        "2026-03-02x09:15:27Z",
        "2026-03-02T09:15:27+25:00",
        "2026-03-02T09:15:27 Europe/Paris",
        "Mon, 02 Mar 2026 09:15:27 GMT",
        "03/02/2026 09:15",
        "10000-01-01T00:00:00Z",
        "1772442927",
        "yesterday",
        "",
        1772442927,
        True,
    ],
)
def test_what_is_no_time_is_refused(spelling: Any) -> None:
    [problem] = refusal(Surface.BULK, event_with("time")(spelling))

    assert problem.pointer == f"{EVENT}/time"
    assert "RFC 3339, such as 2026-01-31T12:00:00Z" in problem.detail


@pytest.mark.rule
@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "0000-01-01T00:00:00Z"]
)
def test_a_time_at_the_ends_of_the_calendar_is_refused(time: str) -> None:
    assert pointers(Surface.BULK, event_with("time")(time)) == [f"{EVENT}/time"]


@pytest.mark.parametrize(
    ("text", "sent"),
    [("-0", 0), ("-0.0", 0), ("1e-400", 0), ("9007199254740993", 9007199254740993), ("1E300", 1e300)],
)
def test_numbers_at_the_ends_of_their_range_are_taken(text: str, sent: float) -> None:
    body = encoded(event_with("properties")({"n": "N"})).replace(b'"N"', text.encode())

    assert only_event(read(Surface.BULK, body))["properties"] == {"n": sent}


@pytest.mark.rule
@pytest.mark.parametrize(
    "address",
    ["ann@example.com", "a+b.c_d@sub.example.co", "名前@例え.テスト", "o'neil@example.com"],
)
def test_an_email_address_is_taken(address: str) -> None:
    assert refusal(Surface.BULK, bulk(entry(of=profile(email=address)))) == []


@pytest.mark.rule
@pytest.mark.parametrize(
    "address",
    [
        "ann",
        "@example.com",
        "ann@",
        "ann@example",
        "ann@@example.com",
        "a b@example.com",
        "ann@example..com",
        "ann@example.com\n",
        "a\x00b@example.com",
        "ann@example.c",
        "ann@example.com.",
        '"ann lee"@example.com',
        "ann@b@example.com",
        "ann@\u202eexample.com",
        "ann@example.com\u200b",
    ],
)
def test_what_is_no_email_address_is_refused(address: str) -> None:
    document = profile_with("email")

    assert pointers(Surface.BULK, document(address)) == [f"{PROFILE}/attributes/email"]


GOOD_PHONES = ["+15005550006", "+4930123456", "+123456789012345"]
BAD_PHONES = [
    "5005550006",
    "+05005550006",
    "+1 500 555 0006",
    "+1234567890123456",
    "+1-500",
    "+1\u0665\u0665\u0665",
    "+15005550006\n",
]


@pytest.mark.rule
@pytest.mark.parametrize("number", GOOD_PHONES)
def test_a_phone_number_in_e164_form_is_an_identifier(number: str) -> None:
    assert only_profile(read(Surface.BULK, bulk(entry(of=profile(phone_number=number)))))["attributes"] == {
        "phone_number": number
    }


@pytest.mark.rule
@pytest.mark.parametrize("number", BAD_PHONES)
def test_a_bad_phone_number_beside_another_identifier_is_left_out_and_told(number: str) -> None:
    accepted = read(Surface.BULK, profile_with("phone_number")(number))

    assert accepted.ignored == {"phone_number"}
    assert only_profile(accepted)["attributes"] == {"external_id": "1"}


@pytest.mark.rule
@pytest.mark.parametrize("number", BAD_PHONES)
def test_a_bad_phone_number_alone_is_refused(number: str) -> None:
    found = pointers(Surface.BULK, bulk(entry(of=profile(phone_number=number))))

    assert found == [f"{PROFILE}/attributes/phone_number"]


@pytest.mark.rule
@pytest.mark.parametrize("code", ["USD", "EUR"])
def test_a_currency_code_is_taken(code: str) -> None:
    assert refusal(Surface.BULK, event_with("value_currency")(code)) == []


@pytest.mark.rule
@pytest.mark.parametrize("code", ["usd", "US", "USDT", "", "$", "USD\n"])
def test_what_is_no_currency_code_is_refused(code: str) -> None:
    assert pointers(Surface.BULK, event_with("value_currency")(code)) == [f"{EVENT}/value_currency"]


@pytest.mark.parametrize("unique_id", ["a b", "a\u00a0b", "a\u200bb", "\u200b", "\ue000", "é €", "\x80"])
def test_a_unique_id_of_visible_characters_is_taken(unique_id: str) -> None:
    assert refusal(Surface.BULK, event_with("unique_id")(unique_id)) == []


@pytest.mark.rule
@pytest.mark.parametrize("name", contract.IDENTIFIERS)
def test_each_identifier_is_enough(name: str) -> None:
    value = {"email": "ann@example.com", "phone_number": "+15005550006"}.get(name, "x")
    document = bulk(entry(of=profile(**{name: value})))
    if name == "id":
        document = bulk(entry(of={"data": {"type": "profile", "id": "x", "attributes": {}}}))

    assert refusal(Surface.BULK, document) == []


@pytest.mark.rule
@pytest.mark.parametrize(
    "attributes",
    [{"first_name": "Ann"}, {"email": None, "first_name": "Ann"}, {"external_id": "", "first_name": "Ann"}],
)
def test_a_profile_without_an_identifier_is_refused(attributes: dict[str, Any]) -> None:
    assert pointers(Surface.BULK, bulk(entry(of=profile(**attributes)))) == [f"{PROFILE}/attributes"]


GOOD_IDENTIFIERS = {
    name: {"email": "ann@example.com", "phone_number": "+15005550006"}.get(name, "x")
    for name in contract.IDENTIFIERS
}
BLANKS = [None, "", " ", "\u00a0\t", "\u200b", "\u202e\u202c", "\ufeff", "\x00"]
FLAT_NAMES = {"email": "$email", "phone_number": "$phone_number", "external_id": "$id"}


def profile_by(**identifiers: Any) -> dict[str, Any]:
    """Makes a profile of just these identifiers, `id` among them."""
    data: dict[str, Any] = {"type": "profile", "attributes": {**identifiers}}
    if "id" in identifiers:
        data["id"] = data["attributes"].pop("id")
    return {"data": data}


def identified(shape: str, **identifiers: Any) -> tuple[Surface, dict[str, Any]] | None:
    """Makes a document of a shape with these identifiers; None if the shape has none of such a name."""
    if shape != "flat":
        return SHAPES[shape].surface, SHAPES[shape].document(profile_by(**identifiers))
    if not identifiers.keys() <= FLAT_NAMES.keys():
        return None
    return Surface.EVENT, flat({FLAT_NAMES[name]: value for name, value in identifiers.items()})


@pytest.mark.rule
@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
@pytest.mark.parametrize("name", contract.IDENTIFIERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_blank_identifier_is_one_that_is_not_given(shape: str, name: str, blank: str | None) -> None:
    alone = identified(shape, **{name: blank})
    if alone is None:
        return
    other = "email" if name != "email" else "external_id"
    beside = identified(shape, **{name: blank, other: GOOD_IDENTIFIERS[other]})
    without = identified(shape, **{other: GOOD_IDENTIFIERS[other]})
    assert beside is not None
    assert without is not None

    [problem] = refusal(*alone)
    assert "needs at least one identifier" in problem.detail
    accepted = read(*beside)
    assert accepted.ignored == frozenset()
    assert delivered(accepted) == delivered(read(*without))


@pytest.mark.rule
@pytest.mark.parametrize(
    "character", ["\x00", "\x1f", "\x85", "\u200b", "\u200e", "\u202e", "\u2066", "\ufeff"]
)
@pytest.mark.parametrize("name", [name for name in contract.IDENTIFIERS if name != "phone_number"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_invisible_character_in_an_identifier_is_named(shape: str, name: str, character: str) -> None:
    good = GOOD_IDENTIFIERS[name]
    given = identified(shape, **{name: f"{good[:1]}{character}{good}"})
    if given is None:
        return

    [problem] = refusal(*given)

    assert f"must not hold the invisible character U+{ord(character):04X}" in problem.detail
    assert str(problem.pointer).endswith(FLAT_NAMES[name] if shape == "flat" else f"/{name}")


@pytest.mark.rule
@every_shape
@pytest.mark.parametrize(
    "name", [" ", "\u200b", "Placed\u200bOrder", "Placed\x00Order", "\u202eredrO decalP"], ids=ascii
)
def test_a_metric_has_a_name_that_can_be_seen(name: str, shape: Shape) -> None:
    where = NAME if shape is not SHAPES["flat"] else "/metric/name"

    assert pointers(shape.surface, shape.document(BY_ID, metric=metric(name))) == [shape.event + where]


@every_shape
@pytest.mark.parametrize(
    "name", ["Achat terminé", "👩\u200d🍳 Recipe Viewed", "cœur\u200cs", "Placed  Order "]
)
def test_a_metric_is_called_as_people_write(name: str, shape: Shape) -> None:
    assert refusal(shape.surface, shape.document(BY_ID, metric=metric(name))) == []


@pytest.mark.rule
@pytest.mark.parametrize("shape", SHAPES)
def test_an_external_id_has_as_many_characters_as_were_seen_to_work(shape: str) -> None:
    most, too_many = identified(shape, external_id="é" * 255), identified(shape, external_id="é" * 256)
    assert most is not None
    assert too_many is not None

    assert refusal(*most) == []
    [problem] = refusal(*too_many)
    assert problem.detail.endswith("must have at most 255 characters.")


META = {"patch_properties": {"unset": ["plan"]}, "patch_identifiers": {"append": {"email": "b@example.com"}}}
NULLABLE_PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "location": ({"location": None}, {}),
    "meta": ({"meta": None}, {}),
    "all of meta": ({"meta": dict.fromkeys(META)}, {}),
    "patch_properties": (
        {"meta": {**META, "patch_properties": None}},
        {"meta": META.keys() - {"patch_properties"}},
    ),
    "patch_identifiers": (
        {"meta": {**META, "patch_identifiers": None}},
        {"meta": META.keys() - {"patch_identifiers"}},
    ),
}


@pytest.mark.rule
@every_current_shape
@pytest.mark.parametrize("beside_attributes", [False, True])
@pytest.mark.parametrize("part", NULLABLE_PARTS)
def test_a_part_that_is_null_is_absent(part: str, beside_attributes: bool, shape: Shape) -> None:
    given, left = NULLABLE_PARTS[part]
    of = profile(external_id="1", **given)
    if beside_attributes and "meta" in given:
        of["data"]["meta"] = of["data"]["attributes"].pop("meta")

    sent = only_profile(read(shape.surface, shape.document(of)))

    kept = set(left.get("meta", ()))
    if shape.surface in {Surface.CLIENT_BULK, Surface.CLIENT_EVENT}:
        kept -= {"patch_identifiers"}
    assert sent["attributes"] == {"external_id": "1"}
    assert set(sent.get("meta", ())) == kept


@pytest.mark.rule
def test_an_identifier_under_properties_is_told_where_it_belongs() -> None:
    # Klaviyo's own published example has the e-mail address there.
    [problem] = refusal(Surface.BULK, bulk(entry(of=profile(properties={"email": "ann@example.com"}))))

    assert "'email' identifies nobody: move it up into 'attributes'" in problem.detail


@pytest.mark.rule
def test_a_profile_fits_95_kilobytes() -> None:
    def document(length: int) -> dict[str, Any]:
        return profile_with("properties")({"p": "x" * length})

    around = len(b'{"type":"profile","attributes":{"external_id":"1","properties":{"p":""}}}')

    assert refusal(Surface.BULK, document(97_280 - around)) == []
    assert pointers(Surface.BULK, document(97_280 - around + 1)) == [PROFILE]


@pytest.mark.rule
def test_meta_may_stand_in_either_place_and_travels_in_the_one() -> None:
    meta = {"patch_properties": {"unset": ["plan"]}}
    within = read(Surface.EVENT, single(profile(email="ann@example.com", meta=meta)))
    beside = profile(email="ann@example.com")
    beside["data"]["meta"] = meta

    assert only_profile(within) == only_profile(read(Surface.EVENT, single(beside)))
    assert only_profile(within)["meta"] == meta


def test_what_is_done_to_a_profile_is_done_wherever_it_is_repeated() -> None:
    meta = {"patch_properties": {"append": {"skus": "92538"}}}
    given = profile(email="a@shop.example", phone_number="5005550006", meta=meta)

    document = bulk(entry(of=given), entry(of=profile(external_id="other")), entry(of=given))
    accepted = read(Surface.BULK, document)

    first, other, last = delivered(accepted)
    assert first["profile"] == last["profile"] == profile(email="a@shop.example")["data"] | {"meta": meta}
    assert first["key"] == last["key"] != other["key"]
    assert accepted.ignored == {"phone_number"}


@pytest.mark.rule
def test_meta_in_both_places_is_refused() -> None:
    both = profile(email="ann@example.com", meta={})
    both["data"]["meta"] = {}

    assert pointers(Surface.EVENT, single(both)) == ["/data/attributes/profile/data/attributes/meta"]


@pytest.mark.parametrize(
    ("surface", "document"),
    [
        (Surface.BULK, bulk(entry(event(time="1980-01-01T00:00:00Z", value="5")))),
        (Surface.EVENT, single(time="1980-01-01T00:00:00Z", value="5")),
        (Surface.EVENT, flat(time="1980-01-01T00:00:00Z", value="5")),
    ],
)
def test_a_part_with_a_wrong_type_is_held_to_the_rules_all_the_same(
    surface: Surface, document: dict[str, Any]
) -> None:
    found = [str(where).rpartition("/")[2] for where in pointers(surface, document)]

    assert found == ["value", "time"]


@pytest.mark.rule
def test_details_never_repeat_a_value() -> None:
    secret = "s3cret"
    document = bulk(
        entry(
            event(
                time=secret, value=secret, value_currency=secret, metric=metric(secret * 99), backfill=secret
            ),
            of=profile(email=secret, phone_number=secret, location=secret, first_name=[secret]),
        )
    )

    found = refusal(Surface.BULK, document)

    assert len(found) == 8
    assert secret not in "".join(problem.detail for problem in found)


@pytest.mark.rule
def test_an_event_and_its_profile_fit_a_job_of_their_own() -> None:
    # Strings are limited, so it takes many to make one event too large.
    most = 4_999_500
    small = profile(external_id="1")

    def document(size: int) -> dict[str, Any]:
        properties = {f"p{number}": "x" * 100_000 for number in range(49)} | {"rest": ""}
        attributes = event(properties=properties)["attributes"]
        around = len(encoded(attributes).replace(b": ", b":").replace(b", ", b","))
        around += len(encoded(small["data"]).replace(b": ", b":").replace(b", ", b","))
        properties["rest"] = "x" * (size - around)
        return bulk(entry(event(properties=properties), of=small))

    accepted = read(Surface.BULK, document(most))
    [job] = packing.pack([(0, stored(accepted))]).jobs
    assert len(job.body()) <= 5_000_000
    assert pointers(Surface.BULK, document(most + 1)) == [EVENT]
