"""Turns phone numbers from the way people write them into E.164.

A number identifies a person, so a wrong one is worse than none. A number that could be a mistake or a
placeholder is no number. Import this on first use, because it brings libphonenumber.
"""

import re
from typing import Final

from phonenumbers import (
    NumberParseException,
    PhoneNumber,
    PhoneNumberFormat,
    ValidationResult,
    format_number,
    is_possible_number_with_reason,
    is_valid_number,
    parse,
    region_code_for_country_code,
)
from phonenumbers.phonenumberutil import SUPPORTED_REGIONS, country_code_for_region

MAX_LENGTH: Final = 40  # characters; the worst 250 would take a tenth of a second to parse
MAX_DIGITS: Final = 15  # of E.164; Germany has had longer ones
_LETTER: Final = re.compile(r"[^\W\d_\u30fc]")  # but for Japan's long dash
_CALLING_CODE: Final = re.compile(r"\+?([1-9][0-9]{0,2})")
_ABROAD: Final = re.compile(r"^\W*00")  # the prefix that most countries dial for a plus sign


def e164(phone: str, country: str = "") -> str | None:
    """Returns a phone number in E.164 form; None if it is doubtful.

    A number with a plus sign is taken if its country has numbers of that length. Any other is read in each
    way it may be meant: as dialled in the country of the calling code, such as "44" or "+44", or with a
    calling code in it. It is taken if these make one number of a range in use, and no other.
    """
    phone = phone.strip()
    if len(phone) > MAX_LENGTH or _LETTER.search(phone):
        return None
    international = _read(phone)
    if international:
        return _written(international)
    readings = [_read(_ABROAD.sub("+", phone))]
    region, code = _place(country.strip())
    if region:
        whole = _read(f"+{phone}")
        readings.append(_read(phone, region))
        readings.append(whole if whole and whole.country_code == code else None)
    found = {_written(number) for number in readings if number and is_valid_number(number)}
    return found.pop() if len(found) == 1 else None


def _place(country: str) -> tuple[str | None, int]:
    """Returns the region and calling code of a country; no region if there is no such country."""
    region = country.upper()
    if region in SUPPORTED_REGIONS:
        return region, country_code_for_region(region)
    if code := _CALLING_CODE.fullmatch(country):
        return region_code_for_country_code(int(code[1])), int(code[1])
    return None, 0


def _read(phone: str, region: str | None = None) -> PhoneNumber | None:
    """Reads the number of a text, by itself or as dialled in a region; returns None if it cannot be E.164."""
    try:
        number = parse(phone, region)
    except NumberParseException:
        return None
    # Each extension belongs to somebody else, so the number alone identifies nobody.
    if number.extension or is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        return None
    return number if len(_written(number)) <= 1 + MAX_DIGITS else None


def _written(number: PhoneNumber) -> str:
    return format_number(number, PhoneNumberFormat.E164)
