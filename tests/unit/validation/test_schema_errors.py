"""Tests structure: what is refused, where the problem points, and what it says."""

from typing import Any

import pytest

from sluice.contract import Surface
from tests.support.factories import bulk, client_bulk, flat, replaced, single, without
from tests.support.parsing import refusal

ENTRY = "/data/attributes/events-bulk-create/data/0"
EVENT = f"{ENTRY}/attributes/events/data/0"
PROFILE = f"{ENTRY}/attributes/profile/data"

DOCUMENTS: dict[str, tuple[Surface, dict[str, Any]]] = {
    "bulk": (Surface.BULK, bulk()),
    "client bulk": (Surface.CLIENT_BULK, client_bulk()),
    "single": (Surface.EVENT, single()),
    "client single": (Surface.CLIENT_EVENT, single()),
    "flat": (Surface.EVENT, flat()),
}

REQUIRED = [
    ("bulk", ["/data", "/data/type", "/data/attributes", "/data/attributes/events-bulk-create"]),
    ("bulk", ["/data/attributes/events-bulk-create/data"]),
    ("bulk", [f"{ENTRY}/type", f"{ENTRY}/attributes", f"{ENTRY}/attributes/events/data"]),
    ("bulk", [f"{ENTRY}/attributes/profile", f"{ENTRY}/attributes/events", PROFILE]),
    ("bulk", [f"{PROFILE}/type", f"{PROFILE}/attributes", f"{EVENT}/type", f"{EVENT}/attributes"]),
    ("bulk", [f"{EVENT}/attributes/properties", f"{EVENT}/attributes/metric"]),
    ("bulk", [f"{EVENT}/attributes/metric/data", f"{EVENT}/attributes/metric/data/attributes/name"]),
    ("client bulk", ["/data", "/data/type", "/data/attributes/profile", "/data/attributes/events"]),
    ("single", ["/data", "/data/type", "/data/attributes/metric", "/data/attributes/properties"]),
    ("single", ["/data/attributes/profile", "/data/attributes/profile/data/type"]),
    ("client single", ["/data/attributes/profile/data/attributes"]),
    ("flat", ["/data/attributes/metric", "/data/attributes/metric/name", "/data/attributes/properties"]),
]


@pytest.mark.rule
@pytest.mark.parametrize(
    ("kind", "where"), [(kind, where) for kind, several in REQUIRED for where in several]
)
def test_a_required_field_that_is_missing_is_named(kind: str, where: str) -> None:
    surface, document = DOCUMENTS[kind]

    [problem] = refusal(surface, without(document, where))

    assert problem.pointer == where
    assert f"'{where.rpartition('/')[2]}' is a required field for the resource" in problem.detail


@pytest.mark.rule
@pytest.mark.parametrize(
    ("kind", "holder", "members"),
    [
        (kind, holder, members)
        for kind, within in [
            ("bulk", f"{ENTRY}/attributes"),
            ("client bulk", "/data/attributes"),
            ("single", "/data/attributes"),
            ("client single", "/data/attributes"),
        ]
        for holder, members in [
            (f"{within}/profile", {}),
            (f"{within}/profile", {"email": "a@b.example"}),
            (f"{within}/profile", {"type": "profile", "attributes": {"email": "a@b.example"}}),
            (
                f"{within}/events/data/0/attributes/metric" if "bulk" in kind else f"{within}/metric",
                {"type": "metric", "attributes": {}},
            ),
        ]
    ],
)
def test_what_stands_a_level_too_high_is_asked_for_its_data(
    kind: str, holder: str, members: dict[str, Any]
) -> None:
    surface, document = DOCUMENTS[kind]

    [problem] = refusal(surface, replaced(document, holder, members))

    assert problem.pointer == f"{holder}/data"
    assert problem.detail.startswith("'data' is a required field")


@pytest.mark.rule
@pytest.mark.parametrize(
    ("kind", "where", "resource"),
    [
        ("bulk", "/extra", "document"),
        ("bulk", "/data/extra", "event-bulk-create-job"),
        ("bulk", f"{ENTRY}/attributes/extra", "event-bulk-create"),
        ("bulk", f"{PROFILE}/extra", "profile"),
        ("bulk", f"{PROFILE}/attributes/extra", "profile"),
        ("bulk", f"{EVENT}/attributes/extra", "event"),
        ("bulk", f"{EVENT}/attributes/metric/data/attributes/extra", "metric"),
        ("client bulk", "/data/attributes/extra", "event-bulk-create"),
        ("single", "/data/attributes/extra", "event"),
        ("flat", "/data/attributes/extra", "event"),
        ("flat", "/data/attributes/metric/extra", "metric"),
    ],
)
def test_an_unknown_field_is_refused_in_the_words_of_the_contract(
    kind: str, where: str, resource: str
) -> None:
    surface, document = DOCUMENTS[kind]

    [problem] = refusal(surface, replaced(document, where, 1))

    assert problem.pointer == where
    assert problem.detail == f"'extra' is not a valid field for the resource '{resource}'."


@pytest.mark.rule
@pytest.mark.parametrize(
    ("kind", "where", "value", "detail"),
    [
        ("bulk", "/data", [], "'data' must be an object."),
        ("bulk", "/data/type", "event", "'type' must be 'event-bulk-create-job'."),
        ("bulk", "/data/attributes/events-bulk-create/data", {}, "'data' must be an array."),
        ("bulk", ENTRY, "x", "Item 0 of 'data' must be an object."),
        ("bulk", f"{PROFILE}/attributes/email", 5, "'email' must be a string."),
        ("bulk", f"{PROFILE}/attributes/first_name", ["x"], "'first_name' must be a string."),
        (
            "bulk",
            f"{PROFILE}/attributes/location",
            {"latitude": True},
            "'latitude' must be a string or a number.",
        ),
        ("bulk", f"{PROFILE}/attributes/location", [], "'location' must be an object."),
        ("bulk", f"{PROFILE}/attributes/properties", "x", "'properties' must be an object."),
        (
            "bulk",
            f"{PROFILE}/attributes/properties",
            [],
            "'properties' must be an object. PHP writes [] for an empty array: cast it to an object.",
        ),
        ("bulk", f"{EVENT}/attributes/properties", None, "'properties' must be an object."),
        ("bulk", f"{EVENT}/attributes/value", "9.99", "'value' must be a number."),
        ("bulk", f"{EVENT}/attributes/value", True, "'value' must be a number."),
        ("bulk", f"{EVENT}/attributes/backfill", "true", "'backfill' must be true or false."),
        ("bulk", f"{EVENT}/attributes/backfill", 1, "'backfill' must be true or false."),
        ("bulk", f"{EVENT}/attributes/unique_id", 7, "'unique_id' must be a string."),
        ("bulk", f"{EVENT}/attributes/metric", "x", "'metric' must be an object."),
        ("flat", "/data/attributes/metric", "x", "'metric' must be an object."),
        ("flat", "/data/attributes/properties", "x", "'properties' must be an object."),
        (
            "single",
            "/data/attributes/profile/data/meta",
            {"patch_properties": {"unset": 5}},
            "'unset' must be a string or an array.",
        ),
    ],
)
def test_a_wrong_type_says_which_is_right(kind: str, where: str, value: Any, detail: str) -> None:
    surface, document = DOCUMENTS[kind]

    [problem] = refusal(surface, replaced(document, where, value))

    assert problem.detail == detail
    assert problem.pointer is not None
    assert problem.pointer.startswith(where)


NULLABLE = [
    *(
        f"{PROFILE}/attributes/{name}"
        for name in ("phone_number", "external_id", "_kx", "title", "properties", "location", "meta")
    ),
    *(f"{EVENT}/attributes/{name}" for name in ("time", "value", "value_currency", "unique_id", "backfill")),
    f"{EVENT}/attributes/metric/data/attributes/service",
    f"{ENTRY}/attributes/backfill",
    f"{PROFILE}/id",
    f"{PROFILE}/meta",
]


@pytest.mark.rule
@pytest.mark.parametrize("where", NULLABLE)
def test_an_optional_field_may_be_null(where: str) -> None:
    assert refusal(Surface.BULK, replaced(bulk(), where, None)) == []


def test_a_long_name_is_cut_in_the_detail_and_left_out_of_the_pointer() -> None:
    name = "x" * 10_000

    [problem] = refusal(Surface.BULK, replaced(bulk(), f"{EVENT}/attributes/{name}", 1))

    assert len(problem.detail) < 200
    assert problem.pointer == f"{EVENT}/attributes"
