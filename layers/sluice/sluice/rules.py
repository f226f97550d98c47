"""What a field's type cannot say: the rules of the contract that look at values, one function each.

Every check appends what it finds to a list of `Finding`s, relative to what it was given, so that a
good event costs no allocation. Details say how to put it right and never repeat the value.
"""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UnsetType

from sluice import contract
from sluice.documents import EventAttributes, ProfileData

if TYPE_CHECKING:
    from collections.abc import Iterable

type Path = tuple[str | int, ...]
type Finding = tuple[Path, str]

# Deliberately wider than any mail server's: a strange address is the upstream's to refuse.
_EMAIL: Final = re.compile(r"[^\s@<>(),;:\"\\]+@(?:[^\s@<>(),;:\"\\.]+\.)+[^\s@<>(),;:\"\\.]{2,}")
_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_ASCII_SAFE_LENGTH: Final = contract.MAX_STRING_BYTES // 4  # no string this short can have too many bytes


class Rules(msgspec.Struct, frozen=True):
    """The limits that depend on a request's revision and on when it arrived."""

    max_properties: int
    earliest: datetime
    latest: datetime


def rules_for(revision: str, now: datetime) -> Rules:
    """The rules for a request of `revision` (YYYY-MM-DD…) received at `now` (aware)."""
    return Rules(
        max_properties=contract.MAX_PROPERTIES
        if revision >= contract.PROPERTIES_400_SINCE
        else contract.MAX_PROPERTIES_BEFORE_2025_04_15,
        earliest=contract.EARLIEST_TIME
        if revision >= contract.YEAR_1990_SINCE
        else contract.EARLIEST_TIME_BEFORE_2026_07_15,
        latest=now + contract.LATEST_TIME_AHEAD,
    )


def check_event(event: EventAttributes, rules: Rules, found: list[Finding]) -> None:
    """An event's own values: time, currency, properties."""
    time = event.time
    if isinstance(time, datetime):
        aware = time if time.tzinfo else time.replace(tzinfo=UTC)
        if not rules.earliest <= aware <= rules.latest:
            found.append((("time",), _time_range(rules)))
    currency = event.value_currency
    if isinstance(currency, str) and not _CURRENCY.fullmatch(currency):
        found.append((("value_currency",), "'value_currency' must be an ISO 4217 code such as USD."))
    value = event.value
    if isinstance(value, int) and not contract.MIN_INTEGER <= value <= contract.MAX_INTEGER:
        found.append((("value",), _INTEGER))
    properties = event.properties
    if len(properties) > rules.max_properties:
        found.append((("properties",), f"'properties' must have at most {rules.max_properties} keys."))
    check_value(properties, ("properties",), found)


def check_profile(profile: ProfileData, found: list[Finding]) -> None:
    """A profile's identifiers, size and free-form properties.

    A bad phone number beside another identifier is no finding: it can be left out (`bad_phone`).
    """
    attributes = profile.attributes
    email = attributes.email
    if isinstance(email, str) and email and not is_email(email):
        found.append((("attributes", "email"), _EMAIL_DETAIL))
    given = {name for name, value in identifiers(profile).items() if value}
    if not given:
        found.append((("attributes",), _missing_identifier(profile)))
    elif given == {"phone_number"} and bad_phone(profile):
        found.append((("attributes", "phone_number"), _PHONE_DETAIL))
    if isinstance(attributes.properties, dict):
        check_value(attributes.properties, ("attributes", "properties"), found)
    if len(msgspec.json.encode(profile)) > contract.MAX_PROFILE_BYTES:
        found.append(((), f"A profile must not exceed {contract.MAX_PROFILE_BYTES} bytes."))


def bad_phone(profile: ProfileData) -> bool:
    """Whether a phone number is given that is not E.164."""
    phone = profile.attributes.phone_number
    return isinstance(phone, str) and phone != "" and not _E164.fullmatch(phone)


def is_email(text: str) -> bool:
    """Whether this can be an e-mail address of the allowed length."""
    return len(text) <= contract.MAX_EMAIL and _EMAIL.fullmatch(text) is not None


def identifiers(profile: ProfileData) -> dict[str, str | UnsetType | None]:
    """A profile's identifiers, strongest first, as the contract orders them."""
    attributes = profile.attributes
    return {
        "id": profile.id,
        "email": attributes.email,
        "phone_number": attributes.phone_number,
        "external_id": attributes.external_id,
        "anonymous_id": attributes.anonymous_id,
        "_kx": attributes.kx,
    }


def check_value(
    container: dict[str, Any] | list[Any], path: Path, found: list[Finding], level: int = 1
) -> None:
    """A free-form object or array: string bytes, array length, nesting, 64-bit integers."""
    items: Iterable[tuple[str | int, Any]]
    if isinstance(container, dict):
        items = container.items()
    else:
        if len(container) > contract.MAX_ARRAY_LENGTH:
            found.append((path, f"An array must not exceed {contract.MAX_ARRAY_LENGTH} elements."))
        items = enumerate(container)
    for name, value in items:
        kind = type(value)
        if kind is str:
            if len(value) > _ASCII_SAFE_LENGTH and len(value.encode()) > contract.MAX_STRING_BYTES:
                found.append(((*path, name), _STRING))
        elif kind is int:
            if not contract.MIN_INTEGER <= value <= contract.MAX_INTEGER:
                found.append(((*path, name), _INTEGER))
        elif kind is dict or kind is list:
            if level == contract.MAX_NESTING:
                found.append(((*path, name), f"Nesting must not exceed {contract.MAX_NESTING} levels."))
            else:
                check_value(value, (*path, name), found, level + 1)


_STRING: Final = f"A string must not exceed {contract.MAX_STRING_BYTES} bytes of UTF-8."
_INTEGER: Final = "An integer must fit in 64 bits; send a larger one as a string."
_EMAIL_DETAIL: Final = f"'email' must be a valid e-mail address of at most {contract.MAX_EMAIL} characters."


_PHONE_DETAIL: Final = "'phone_number' must be in E.164 form, such as +15005550006."


def _time_range(rules: Rules) -> str:
    return f"'time' must not be before {rules.earliest:%Y-%m-%d} or more than one year in the future."


def _missing_identifier(profile: ProfileData) -> str:
    detail = f"A profile needs at least one identifier: {', '.join(contract.IDENTIFIERS)}."
    properties = profile.attributes.properties
    misplaced = properties.keys() & set(contract.IDENTIFIERS) if isinstance(properties, dict) else set()
    if misplaced:
        names = ", ".join(f"'{name}'" for name in sorted(misplaced))
        detail += f" Under 'properties', {names} identifies nobody: move it up into 'attributes'."
    return detail
