"""Tests which rejections have one cause, and that a cause holds nothing of an event's values."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.records.cause import MAX_POINTER_BYTES, MAX_WORDS_BYTES, cause_of, pointer_pattern, words_pattern
from sluice.rejection import Reason, Rejection
from tests.support.factories import NOON, SITE_ID

CURRENCY = "/data/attributes/events-bulk-create/data/{}/attributes/events/data/{}/attributes/value_currency"


def refused(detail: str, pointer: str | None = None, **fields: Any) -> Rejection:
    return Rejection(Reason.REFUSED, detail, msgspec.Raw(b"{}"), NOON, pointer=pointer, **fields)


def group(detail: str, pointer: str | None = None, value: Any = None, account: str = SITE_ID) -> str:
    return cause_of(refused(detail, pointer), account, None, value).group


def test_five_thousand_wrong_currencies_have_one_cause() -> None:
    groups = {
        group(f"'{currency}' is not a currency.", CURRENCY.format(entry, event), currency)
        for currency in ("EURO", "US$", "Pfund")
        for entry in range(40)
        for event in range(40)
    }

    assert len(groups) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Invalid e-mail address ann@example.com.", "Invalid e-mail address bob+x@shop.example."),
        ("+491701234567 is no number", "+15555555555 is no number"),
        ("The time 2026-07-20T12:00:00Z lies ahead", "The time 2027-01-01 lies ahead"),
        ('"Ann" may not stand here', '"Bob Miller" may not stand here'),
        ("Received 500 times", "Received 7 times"),
    ],
)
def test_values_make_no_other_cause(one: str, other: str) -> None:
    assert group(one) == group(other)


def test_a_value_without_quotes_is_known_by_its_place() -> None:
    assert group("EURO is no currency", "/data/x", "EURO") == group(
        "Pfund is no currency", "/data/x", "Pfund"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"account": "XyZ789"},
        {"detail": "Is too long."},
        {"pointer": "/data/attributes/time"},
        {"pointer": None},
    ],
)
def test_what_matters_makes_another_cause(other: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"detail": "Is wrong.", "pointer": "/data/attributes/value"}

    assert group(**usual) != group(**usual | other)


def test_the_name_of_a_field_that_is_pointed_at_stays() -> None:
    assert words_pattern("'email' is not 'ann'.", "/data/attributes/email") == "'email' is not '…'."


def test_the_names_of_properties_are_no_part_of_a_cause() -> None:
    assert (
        pointer_pattern("/data/3/attributes/properties/ann@example.com/0")
        == "/data/*/attributes/properties/*"
    )


@given(st.text(), st.text(), st.one_of(st.text(), st.integers(), st.none(), st.floats(), st.booleans()))
def test_any_refusal_has_a_cause_of_a_bounded_size(detail: str, pointer: str, value: Any) -> None:
    found = cause_of(refused(detail, pointer), SITE_ID, None, value)

    assert len(found.words.encode()) <= MAX_WORDS_BYTES
    assert found.pointer is not None
    assert len(found.pointer.encode()) <= MAX_POINTER_BYTES
    assert found.group == cause_of(refused(detail, pointer), SITE_ID, None, value).group


@given(st.emails())
def test_no_address_is_left_in_the_words(address: str) -> None:
    assert address not in words_pattern(f"The address {address} is wrong.", "")


def test_when_it_happened_is_no_part_of_a_cause() -> None:
    later = Rejection(Reason.REFUSED, "x", msgspec.Raw(b"{}"), datetime(2027, 1, 1, tzinfo=UTC))

    assert cause_of(later, SITE_ID).group == group("x")
