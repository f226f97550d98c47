"""Tests the deprecated flat shape: taken, translated by the contract's table, and refused in its own
words.
"""

from typing import Any

import pytest

from sluice.contract import Surface
from sluice.klaviyo import flat_event as flat_shape
from sluice.klaviyo import pointers
from tests.support.factories import flat, single
from tests.support.parsing import only_event, only_profile, read, refusal

ATTRIBUTES = ["email", "phone_number", "first_name", "last_name", "image", "title", "organization"]
LOCATION = ["city", "region", "country", "zip", "address1", "address2", "latitude", "longitude", "timezone"]


@pytest.mark.rule
def test_every_field_goes_where_the_table_says() -> None:
    given: dict[str, Any] = {f"${name}": f"+15005550006 {name}" for name in ATTRIBUTES + LOCATION}
    given |= {"$email": "ann@example.com", "$phone_number": "+15005550006"}
    given |= {"$id": "customer-1", "$consent": ["sms", "email"], "plan": "gold", "location": {"$city": 1}}

    accepted = read(Surface.EVENT, flat(given))

    assert accepted.flat
    assert only_profile(accepted) == {
        "type": "profile",
        "attributes": {
            **{name: given[f"${name}"] for name in ATTRIBUTES},
            "external_id": "customer-1",
            "location": {name: given[f"${name}"] for name in LOCATION},
            "properties": {"$consent": ["sms", "email"], "plan": "gold", "location": {"$city": 1}},
        },
    }


@pytest.mark.rule
def test_the_event_is_that_of_the_current_shape() -> None:
    attributes: dict[str, Any] = {"time": "2022-11-08T00:00:00Z", "value": 9.99, "unique_id": "order-1"}
    metric = {"name": "Viewed Product", "service": "api"}

    sent = only_event(read(Surface.EVENT, flat(metric=metric, **attributes)))

    assert sent == {
        "properties": {"product": "Desk lamp"},
        "metric": {"data": {"type": "metric", "attributes": metric}},
        **attributes,
    }


@pytest.mark.rule
@pytest.mark.parametrize("time", ["2022-11-08T09:15:27", "2022-11-08T09:15:27.654321"])
def test_a_time_without_an_offset_is_in_utc(time: str) -> None:
    assert only_event(read(Surface.EVENT, flat(time=time)))["time"] == f"{time}Z"


@pytest.mark.parametrize("surface", [Surface.BULK, Surface.CLIENT_BULK, Surface.CLIENT_EVENT])
def test_other_routes_do_not_take_it(surface: Surface) -> None:
    assert refusal(surface, flat())


@pytest.mark.rule
@pytest.mark.parametrize(
    ("document", "where"),
    [
        (flat({}), "/data/attributes/profile"),
        (flat({"email": "ann@example.com"}), "/data/attributes/profile"),
        (flat({"$email": "ann"}), "/data/attributes/profile/$email"),
        (flat({"$email": 5}), "/data/attributes/profile/$email"),
        (flat({"$phone_number": "5"}), "/data/attributes/profile/$phone_number"),
        (flat({"$id": 5}), "/data/attributes/profile/$id"),
        (flat({"$id": "1", "$city": 5}), "/data/attributes/profile/$city"),
        (flat({"$id": "1", "a": {"b": 2**70}}), "/data/attributes/profile/a/b"),
        (flat({"$id": "1", "properties": {"a": 2**70}}), "/data/attributes/profile/properties/a"),
        (flat({"$id": "1", "location": 2**70}), "/data/attributes/profile/location"),
        (flat({"$id": "1", "bio": "x" * 97_280}), "/data/attributes/profile"),
        (flat(metric={"name": ""}), "/data/attributes/metric/name"),
        (flat(metric={"name": "x", "data": {}}), "/data/attributes/metric/data"),
        (flat(properties={"a": 2**70}), "/data/attributes/properties/a"),
        (flat(time="1999-12-31T23:59:59"), "/data/attributes/time"),
    ],
)
def test_problems_point_into_the_flat_document(document: dict[str, Any], where: str) -> None:
    [problem] = refusal(Surface.EVENT, document, "2023-01-24")

    assert problem.pointer == where


def test_an_identifier_that_is_missing_is_asked_for_by_its_flat_name() -> None:
    [problem] = refusal(Surface.EVENT, flat({"email": "ann@example.com"}))

    assert problem.detail == "A profile needs at least one identifier: $email, $phone_number or $id."


@pytest.mark.parametrize(
    "profile",
    [{"$email": "ann"}, {"$email": 5}, {"$phone_number": "5"}, {"$id": 5}, {"$city": 5, "$id": "1"}],
)
def test_a_problem_calls_a_field_by_its_flat_name(profile: dict[str, Any]) -> None:
    [problem] = refusal(Surface.EVENT, flat(profile))

    assert problem.detail.startswith(f"'{next(iter(profile))}' must be ")


@pytest.mark.rule
@pytest.mark.parametrize("document", [None, [], {}, {"data": []}, {"data": {"attributes": {}}}, single()])
def test_only_a_profile_without_data_makes_a_document_flat(document: object) -> None:
    assert flat_shape.to_current(document) is None


@pytest.mark.parametrize(
    ("tail", "where"),
    [
        ("", "/data"),
        ("/attributes/time", "/data/attributes/time"),
        ("/attributes/metric/data/attributes/name", "/data/attributes/metric/name"),
        ("/attributes/profile/data/attributes/email", "/data/attributes/profile/$email"),
        ("/attributes/profile/data/attributes/location/zip", "/data/attributes/profile/$zip"),
        ("/attributes/profile/data/attributes/properties/plan", "/data/attributes/profile/plan"),
        ("/attributes/profile/data/attributes/location", "/data/attributes/profile"),
        ("/attributes/profile/data/attributes", "/data/attributes/profile"),
        ("/attributes/profile/data/id", "/data/attributes/profile/id"),
    ],
)
def test_what_the_upstream_points_at_is_found_in_the_flat_document(tail: str, where: str) -> None:
    assert pointers.caller_pointer(Surface.EVENT, True, 0, 0, tail) == where
