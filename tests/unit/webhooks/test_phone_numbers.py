"""Tests phone numbers: each way of writing one makes that one, and a doubtful one makes none."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.webhooks.phone_numbers import MAX_LENGTH, e164


def wide(text: str) -> str:
    """Writes the same in the characters of East Asian keyboards."""
    return "".join("\u3000" if sign == " " else chr(ord(sign) + 0xFEE0) for sign in text)


@pytest.mark.parametrize(
    ("phone", "country", "number"),
    [
        # by itself
        ("+1 (500) 555-0006", "", "+15005550006"),
        ("+44 (0)20 7946 0958", "", "+442079460958"),
        ("+44 020 7946 0958", "", "+442079460958"),
        ("(+44) 20-7946-0958", "1", "+442079460958"),
        ("+39 06 698 12345", "", "+390669812345"),
        ("+7 8 495 123-45-67", "", "+74951234567"),
        ("+36 06 1 234 5678", "", "+3612345678"),
        ("+800 1234 5678", "", "+80012345678"),
        ("0049 30 1234567", "", "+49301234567"),
        ("(00 49) 30 1234567", "", "+49301234567"),
        ("+0049 30 1234567", "", "+49301234567"),
        # as dialled in its country
        ("020 7946 0958", "44", "+442079460958"),
        ("20 7946 0958", "44", "+442079460958"),
        ("030 / 1234567", "49", "+49301234567"),
        ("01.23.45.67.89", "33", "+33123456789"),
        ("06 698 1234 5", "39", "+390669812345"),
        ("347 123 4567", "39", "+393471234567"),
        ("8 (495) 123-45-67", "7", "+74951234567"),
        ("8 701 123 45 67", "7", "+77011234567"),
        ("06 1 234 5678", "36", "+3612345678"),
        ("0 11 15-2345-6789", "54", "+5491123456789"),
        ("0 15 21 2345-6789", "55", "+552123456789"),
        ("416-555-0123", "1", "+14165550123"),
        # whose ISO 3166 code is given
        ("020 7946 0958", "GB", "+442079460958"),
        ("020 7946 0958", " gb ", "+442079460958"),
        ("44 20 7946 0958", "GB", "+442079460958"),
        ("416-555-0123", "CA", "+14165550123"),
        ("011 44 20 7946 0958", "US", "+442079460958"),
        ("+44 20 7946 0958", "US", "+442079460958"),
        ("+44 20 7946 0958", "XX", "+442079460958"),
        # with a calling code already
        ("1-500-555-0006", "1", "+15005550006"),
        ("44 20 7946 0958", "44", "+442079460958"),
        ("39 06 698 12345", "39", "+390669812345"),
        ("00 44 20 7946 0958", "44", "+442079460958"),
        # as dialled from its country to another
        ("+44 20 7946 0958", "1", "+442079460958"),
        ("011 44 20 7946 0958", "1", "+442079460958"),
        ("8~10 44 20 7946 0958", "7", "+442079460958"),
        ("0011 44 20 7946 0958", "61", "+442079460958"),
        # and from most others, though not from this one
        ("0044 20 7946 0958", "1", "+442079460958"),
        ("0044 20 7946 0958", "7", "+442079460958"),
        ("0061 412 345 678", "61", "+61412345678"),
        # in other digits and signs
        (wide("500-555-0006"), "1", "+15005550006"),
        (wide("+44 20 7946 0958"), "", "+442079460958"),
        ("\u0660\u0662\u0660 7946 0958", "44", "+442079460958"),
        ("03\u30fc1234\u30fc5678", "81", "+81312345678"),
        ("\u00a0020\u200b7946\u00a00958\n", "44", "+442079460958"),
        (" " * 1_000 + "020 7946 0958", "44", "+442079460958"),
    ],
)
def test_what_people_write_becomes_their_number(phone: str, country: str, number: str) -> None:
    assert e164(phone, country) == number


@pytest.mark.parametrize(
    ("phone", "country"),
    [
        ("", ""),
        ("", "1"),
        ("+", "1"),
        ("0", "44"),
        ("00", "44"),
        ("n/a", "1"),
        # whose country nobody says
        ("500 555 0006", ""),
        ("15005550006", ""),
        ("020 7946 0958", "0"),
        ("020 7946 0958", "XX"),
        ("020 7946 0958", "Great Britain"),
        ("020 7946 0958", "001"),
        ("020 7946 0958", "044"),
        ("020 7946 0958", "4444"),
        ("020 7946 0958", "999"),
        ("1234 5678", "800"),
        ("+999 1234 5678", ""),
        # too short or too long, in which a shorter one may be found
        ("555-0006", "1"),
        ("+1 555 0006", ""),
        ("+1 500 555 00067", ""),
        ("+49 12345678901234", ""),
        ("020 7946 0958 / 020 7946 0959", "44"),
        ("030 1234\n030 1235", "49"),
        # with words, which also stand for digits
        ("1-800-FLOWERS", "1"),
        ("555-555-SHIP", "1"),
        ("+1 800 FLOWERS", ""),
        ("555 1234 Ann", "1"),
        ("Tel. 020 7946 0958", "44"),
        ("tel:+44-20-7946-0958", ""),
        ("+44 20 7946 0958 (доб. 5)", ""),
        ("+44 20 7946 0958²", ""),
        # somebody else's for each extension
        ("+1 650 253 0000 ext. 5", ""),
        ("+1 650 253 0000x5", ""),
        ("+1 650 253 0000 #5", ""),
        ("+1 650 253 0000,5", ""),
        ("650 253 0000 ~5", "1"),
        ("001 650 253 0000 #5", ""),
        # what is typed into a field that must not be empty
        ("000 000 0000", "1"),
        ("111-111-1111", "1"),
        ("123 456 7890", "1"),
        ("(555) 555-5555", "1"),
        ("12 34 56 78", "47"),
        # a mobile number with its calling code, or one in Leer without its zero
        ("4915123456789", "49"),
        ("390 123 4567", "39"),
        ("62812345678", "62"),
    ],
)
def test_what_is_not_surely_a_number_is_none(phone: str, country: str) -> None:
    assert e164(phone, country) is None


def test_one_with_a_plus_need_not_be_in_use() -> None:
    """Checks that such a number is taken: its writer knew all of it, and the library's lists may be older."""
    assert e164("+1 555 555 5555") == "+15555555555"
    assert e164("+47 12 34 56 78") == "+4712345678"


def test_what_is_long_is_not_read() -> None:
    """Checks the bound, because reading takes time that grows much faster than the length."""
    short, long = (f"020{' ' * (length - 11)}79460958" for length in (MAX_LENGTH, MAX_LENGTH + 1))

    assert e164(short, "44") == "+442079460958"
    assert e164(long, "44") is None


BEGINNINGS = ["", "+", "00", "0", "(0)", "+44 (0)", "+49", "1-", "39 ", "011 44 "]
NUMBERS = ["20 7946 0958", "500.555-0006", "30/1234567", "06 698 12345", "11 15-2345-6789", "4915123456789"]
NOISE = [*"+0159 -/#,;~*.()x\n", "\u00b2", "\u0662", "\u30fc", "\ud800"]


@given(
    st.sampled_from(BEGINNINGS),
    st.sampled_from(NUMBERS),
    st.text(NOISE, max_size=3),
    st.sampled_from(["", "1", "39", "44", "49", "800"]),
    st.integers(0, 20),
)
def test_whatever_comes_out_is_e164_of_the_digits_that_went_in(
    beginning: str, number: str, noise: str, country: str, place: int
) -> None:
    phone = f"{beginning}{number[:place]}{noise}{number[place:]}"

    found = e164(phone, country)

    if found is not None:
        assert re.fullmatch(r"\+[1-9][0-9]{1,14}", found)
        given_digits = iter(country + "".join(str(int(sign)) for sign in phone if sign.isdecimal()))
        assert all(digit in given_digits for digit in found[1:])
