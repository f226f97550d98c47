"""Every limit of the contract, at the boundary and one past it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from sluice import contract
from sluice.contract import Surface
from tests.bodies import NEWEST, NOON, bulk, encoded, entry, event, flat, metric, nested, profile, single
from tests.reading import delivered, only_event, only_profile, pointers, read, refusal

ENTRY = "/data/attributes/events-bulk-create/data/0/attributes"
EVENT = f"{ENTRY}/events/data/0/attributes"
PROFILE = f"{ENTRY}/profile/data"


def numbered(count: int) -> dict[str, int]:
    return {f"p{number}": number for number in range(count)}


def event_with(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: bulk(entry(event(**{name: value})))


def property_of(value: Any) -> dict[str, Any]:
    return bulk(entry(event(properties={"p": value})))


def profile_with(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: bulk(entry(of=profile(**{"external_id": "1", name: value})))


def email_of(length: int) -> str:
    return "a" * (length - len("@example.com")) + "@example.com"


LIMITS = [
    ("properties", event_with("properties"), numbered(400), numbered(401), f"{EVENT}/properties"),
    ("string", property_of, "x" * 102_400, "x" * 102_401, f"{EVENT}/properties/p"),
    ("string of two bytes", property_of, "é" * 51_200, "é" * 51_200 + "x", f"{EVENT}/properties/p"),
    ("string of three bytes", property_of, "€" * 34_133, "€" * 34_134, f"{EVENT}/properties/p"),
    ("string of four bytes", property_of, "🎉" * 25_600, "🎉" * 25_600 + "x", f"{EVENT}/properties/p"),
    ("string of quotes", property_of, '"' * 102_400, '"' * 102_401, f"{EVENT}/properties/p"),
    ("array", property_of, [0] * 4_000, [0] * 4_001, f"{EVENT}/properties/p"),
    (
        "nesting",
        event_with("properties"),
        nested(10),
        nested(11),
        f"{EVENT}/properties" + "/deeper/0" * 5,
    ),
    ("integer", property_of, 2**63 - 1, 2**63, f"{EVENT}/properties/p"),
    ("negative integer", property_of, -(2**63), -(2**63) - 1, f"{EVENT}/properties/p"),
    ("integer in an array", property_of, [2**63 - 1], [2**63], f"{EVENT}/properties/p/0"),
    ("value", event_with("value"), 2**63 - 1, 2**63, f"{EVENT}/value"),
    (
        "metric name",
        event_with("metric"),
        metric("x" * 127),
        metric("x" * 128),
        f"{EVENT}/metric/data/attributes/name",
    ),
    ("metric name", event_with("metric"), metric("x"), metric(""), f"{EVENT}/metric/data/attributes/name"),
    (
        "metric service",
        event_with("metric"),
        metric("x", service="x" * 102_400),
        metric("x", service="x" * 102_401),
        f"{EVENT}/metric/data/attributes/service",
    ),
    ("unique_id", event_with("unique_id"), "x" * 255, "x" * 256, f"{EVENT}/unique_id"),
    ("unique_id in characters", event_with("unique_id"), "€" * 255, "€" * 256, f"{EVENT}/unique_id"),
    ("shortest unique_id", event_with("unique_id"), "x", "", f"{EVENT}/unique_id"),
    ("email", profile_with("email"), email_of(99), email_of(100), f"{PROFILE}/attributes/email"),
    (
        "profile property",
        profile_with("properties"),
        {"p": 2**63 - 1},
        {"p": 2**63},
        f"{PROFILE}/attributes/properties/p",
    ),
    (
        "profile nesting",
        profile_with("properties"),
        nested(10),
        nested(11),
        f"{PROFILE}/attributes/properties" + "/deeper/0" * 5,
    ),
    (
        "coordinate",
        profile_with("location"),
        {"latitude": 2**63 - 1},
        {"latitude": 2**63},
        f"{PROFILE}/attributes/location/latitude",
    ),
    (
        "patched array",
        profile_with("meta"),
        {"patch_properties": {"append": {"p": [0] * 4_000}}},
        {"patch_properties": {"append": {"p": [0] * 4_001}}},
        f"{PROFILE}/attributes/meta/patch_properties/append/p",
    ),
]


@pytest.mark.parametrize(
    ("document_of", "most", "too_much", "where"),
    [limit[1:] for limit in LIMITS],
    ids=[limit[0] for limit in LIMITS],
)
def test_a_limit_holds_at_its_boundary(
    document_of: Callable[[Any], dict[str, Any]], most: Any, too_much: Any, where: str
) -> None:
    assert refusal(Surface.BULK, document_of(most)) == []
    assert pointers(Surface.BULK, document_of(too_much)) == [where]


@pytest.mark.parametrize(
    ("revision", "most"), [("2025-04-14", 300), ("2025-04-15", 400), ("2023-01-24", 300), (NEWEST, 400)]
)
def test_how_many_properties_depends_on_the_revision(revision: str, most: int) -> None:
    document = event_with("properties")

    assert refusal(Surface.BULK, document(numbered(most)), revision) == []
    assert pointers(Surface.BULK, document(numbered(most + 1)), revision) == [f"{EVENT}/properties"]


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
    ],
)
def test_times_are_taken_as_sdks_spell_them_and_sent_in_utc(spelling: str, sent: str) -> None:
    assert only_event(read(Surface.BULK, event_with("time")(spelling)))["time"] == sent


@pytest.mark.parametrize(
    "spelling",
    [
        "2026-03-02",
        "2026-02-30T00:00:00Z",
        "2026-03-02T24:00:00Z",
        "1772442927",
        "yesterday",
        "",
        1772442927,
        True,
    ],
)
def test_what_is_no_time_is_refused(spelling: Any) -> None:
    assert pointers(Surface.BULK, event_with("time")(spelling)) == [f"{EVENT}/time"]


@pytest.mark.parametrize(
    "address",
    ["ann@example.com", "a+b.c_d@sub.example.co", "名前@例え.テスト", "o'neil@example.com"],
)
def test_an_email_address_is_taken(address: str) -> None:
    assert refusal(Surface.BULK, bulk(entry(of=profile(email=address)))) == []


@pytest.mark.parametrize(
    "address",
    [
        "",
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
    ],
)
def test_what_is_no_email_address_is_refused(address: str) -> None:
    document = profile_with("email")

    assert pointers(Surface.BULK, document(address)) == [f"{PROFILE}/attributes/email"]


GOOD_PHONES = ["+15005550006", "+4930123456", "+123456789012345"]
BAD_PHONES = [
    "",
    "5005550006",
    "+05005550006",
    "+1 500 555 0006",
    "+1234567890123456",
    "+1-500",
    "+1\u0665\u0665\u0665",
    "+15005550006\n",
]


@pytest.mark.parametrize("number", GOOD_PHONES)
def test_a_phone_number_in_e164_form_is_an_identifier(number: str) -> None:
    assert only_profile(read(Surface.BULK, bulk(entry(of=profile(phone_number=number)))))["attributes"] == {
        "phone_number": number
    }


@pytest.mark.parametrize("number", BAD_PHONES)
def test_a_bad_phone_number_beside_another_identifier_is_left_out_and_told(number: str) -> None:
    accepted = read(Surface.BULK, profile_with("phone_number")(number))

    assert accepted.ignored == {"phone_number"}
    assert only_profile(accepted)["attributes"] == {"external_id": "1"}


@pytest.mark.parametrize("number", BAD_PHONES[1:])
def test_a_bad_phone_number_alone_is_refused(number: str) -> None:
    found = pointers(Surface.BULK, bulk(entry(of=profile(phone_number=number))))

    assert found == [f"{PROFILE}/attributes/phone_number"]


@pytest.mark.parametrize("code", ["USD", "EUR"])
def test_a_currency_code_is_taken(code: str) -> None:
    assert refusal(Surface.BULK, event_with("value_currency")(code)) == []


@pytest.mark.parametrize("code", ["usd", "US", "USDT", "", "$", "USD\n"])
def test_what_is_no_currency_code_is_refused(code: str) -> None:
    assert pointers(Surface.BULK, event_with("value_currency")(code)) == [f"{EVENT}/value_currency"]


@pytest.mark.parametrize("unique_id", ["a b", "a\u00a0b", "a\u200bb", "\u200b", "\ue000", "é €", "\x80"])
def test_a_unique_id_of_visible_characters_is_taken(unique_id: str) -> None:
    assert refusal(Surface.BULK, event_with("unique_id")(unique_id)) == []


@pytest.mark.parametrize(
    "unique_id", [" ", " a", "a ", "a\u00a0", "\u2003a", "a\n", "a\tb", "a\x00b", "\x00", "a\x7fb", "a\x1f"]
)
def test_a_unique_id_with_control_characters_or_spaces_at_its_ends_is_refused(unique_id: str) -> None:
    assert pointers(Surface.BULK, event_with("unique_id")(unique_id)) == [f"{EVENT}/unique_id"]


@pytest.mark.parametrize("name", contract.IDENTIFIERS)
def test_each_identifier_is_enough(name: str) -> None:
    value = {"email": "ann@example.com", "phone_number": "+15005550006"}.get(name, "x")
    document = bulk(entry(of=profile(**{name: value})))
    if name == "id":
        document = bulk(entry(of={"data": {"type": "profile", "id": "x", "attributes": {}}}))

    assert refusal(Surface.BULK, document) == []


@pytest.mark.parametrize(
    "attributes",
    [{"first_name": "Ann"}, {"email": None, "first_name": "Ann"}, {"external_id": "", "first_name": "Ann"}],
)
def test_a_profile_without_an_identifier_is_refused(attributes: dict[str, Any]) -> None:
    assert pointers(Surface.BULK, bulk(entry(of=profile(**attributes)))) == [f"{PROFILE}/attributes"]


def test_an_identifier_under_properties_is_told_where_it_belongs() -> None:
    # Klaviyo's own published example has the e-mail address there.
    [problem] = refusal(Surface.BULK, bulk(entry(of=profile(properties={"email": "ann@example.com"}))))

    assert "'email' identifies nobody: move it up into 'attributes'" in problem.detail


def test_a_profile_fits_95_kilobytes() -> None:
    def document(length: int) -> dict[str, Any]:
        return profile_with("properties")({"p": "x" * length})

    around = len(b'{"type":"profile","attributes":{"external_id":"1","properties":{"p":""}}}')

    assert refusal(Surface.BULK, document(97_280 - around)) == []
    assert pointers(Surface.BULK, document(97_280 - around + 1)) == [PROFILE]


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


def test_an_event_and_its_profile_fit_a_job_of_their_own() -> None:
    # Strings are limited, so it takes many to make one event too large.
    most = contract.MAX_EVENT_BYTES
    small = profile(external_id="1")

    def document(size: int) -> dict[str, Any]:
        properties = {f"p{number}": "x" * 100_000 for number in range(49)} | {"rest": ""}
        attributes = event(properties=properties)["attributes"]
        around = len(encoded(attributes).replace(b": ", b":").replace(b", ", b","))
        around += len(encoded(small["data"]).replace(b": ", b":").replace(b", ", b","))
        properties["rest"] = "x" * (size - around)
        return bulk(entry(event(properties=properties), of=small))

    assert refusal(Surface.BULK, document(most)) == []
    assert pointers(Surface.BULK, document(most + 1)) == [EVENT]
