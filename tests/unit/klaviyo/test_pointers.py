"""Tests the pointers into payloads of rejections."""

import pytest

from sluice.klaviyo import pointers


@pytest.mark.parametrize(
    ("tail", "whole_entry", "place"),
    [
        ("/attributes/value_currency", False, "/events/0/value_currency"),
        ("/attributes/properties/a~1b", False, "/events/0/properties/a~1b"),
        ("/attributes", False, None),
        ("", False, None),
        ("/attributes/profile/data/attributes/email", True, "/profile/attributes/email"),
        ("/attributes/profile/data", True, None),
        ("/attributes/events", True, None),
        ("", True, None),
    ],
)
def test_the_place_in_the_payload(tail: str, whole_entry: bool, place: str | None) -> None:
    assert pointers.payload_pointer(tail, whole_entry=whole_entry) == place
