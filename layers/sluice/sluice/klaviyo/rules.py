"""Checks the rules of the contract that types cannot state, one function each.

Every check appends its `Violation`s to a list, with paths relative to its argument, so a good event costs no
allocation. Details say how to put it right and never repeat the value.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from sluice import contract
from sluice.klaviyo.schemas import EventAttributes, Location, ProfileAttributes, ProfileData, ProfileMeta

type Path = tuple[str | int, ...]
type Violation = tuple[Path, str]

# Deliberately wider than any mail server's rule: the upstream decides about strange addresses.
_NEVER: Final = r"\s\x00-\x1f\x7f@<>(),;:\"\\"
_EMAIL: Final = re.compile(rf"[^{_NEVER}]+@(?:[^{_NEVER}.]+\.)+[^{_NEVER}.]{{2,}}")
_E164: Final = re.compile(r"\+[1-9][0-9]{1,14}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# Control, zero-width and bidirectional characters. Nobody sees them, and they make another name of a name.
# Two joiners (U+200C and U+200D) are not among them, because words and emoji are written with these.
_INVISIBLE_CHARACTERS: Final = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
)
_INVISIBLE: Final = re.compile(f"[{_INVISIBLE_CHARACTERS}]")
_BLANK: Final = re.compile(rf"[\s\u200c\u200d{_INVISIBLE_CHARACTERS}]*")
MAX_VIOLATIONS: Final = 600  # of one free-form object: more than an answer lists
_SHORT: Final = contract.MAX_STRING_BYTES // 4  # no string of so few characters can have too many bytes

_TIME_RANGE: Final = "'time' must not be before {:%Y-%m-%d}, or more than one year in the future."
_CURRENCY_CODE: Final = "'value_currency' must be an ISO 4217 code such as USD."
_UNIQUE_ID: Final = "'unique_id' must have no control characters, nor spaces at its ends."
_STRING: Final = f"A string must not exceed {contract.MAX_STRING_BYTES} bytes of UTF-8."
_INTEGER: Final = "An integer must fit in 64 bits; send a larger one as a string."
_ARRAY: Final = f"An array must not exceed {contract.MAX_ARRAY_LENGTH} elements."
_NESTING: Final = f"Nesting must not exceed {contract.MAX_NESTING} levels."
_EMAIL_ADDRESS: Final = f"'email' must be a valid e-mail address of at most {contract.MAX_EMAIL} characters."
_PHONE_NUMBER: Final = "'phone_number' must be in E.164 form, such as +15005550006."
_PROFILE_SIZE: Final = f"A profile must not exceed {contract.MAX_PROFILE_BYTES} bytes as JSON."
_EVENT_SIZE: Final = f"An event and its profile must not exceed {contract.MAX_EVENT_BYTES} bytes as JSON."
_INVISIBLE_CHARACTER: Final = "'{}' must not hold the invisible character U+{:04X}."
_BLANK_NAME: Final = "'name' must not be blank."
_TWO_METAS: Final = "'meta' is given twice: send it beside 'attributes' only."


class Rules(msgspec.Struct, frozen=True):
    """Holds the limits that depend on a request's revision and on when it arrived."""

    max_properties: int
    earliest: datetime
    latest: datetime


def rules_for(revision: str, now: datetime) -> Rules:
    """Returns the rules for a request of `revision` (YYYY-MM-DD) received at `now` (aware)."""
    return Rules(
        max_properties=contract.MAX_PROPERTIES
        if revision >= contract.PROPERTIES_400_SINCE
        else contract.MAX_PROPERTIES_BEFORE_2025_04_15,
        earliest=contract.EARLIEST_TIME
        if revision >= contract.YEAR_1990_SINCE
        else contract.EARLIEST_TIME_BEFORE_2026_07_15,
        latest=now + contract.LATEST_TIME_AHEAD,
    )


def check_event(event: EventAttributes, rules: Rules, found: list[Violation]) -> None:
    """Checks an event's own values: time, value, currency, unique_id, metric, number of properties."""
    time = event.time
    if isinstance(time, datetime) and not rules.earliest <= aware(time) <= rules.latest:
        found.append((("time",), _TIME_RANGE.format(rules.earliest)))
    currency = event.value_currency
    if isinstance(currency, str) and not _CURRENCY.fullmatch(currency):
        found.append((("value_currency",), _CURRENCY_CODE))
    if _is_large(event.value):
        found.append((("value",), _INTEGER))
    unique_id = event.unique_id
    if isinstance(unique_id, str) and not _is_visible(unique_id):
        found.append((("unique_id",), _UNIQUE_ID))
    metric = event.metric.data.attributes
    name_path = ("metric", "data", "attributes", "name")
    if metric.name and is_blank(metric.name):
        found.append((name_path, _BLANK_NAME))
    else:
        _check_invisible("name", metric.name, name_path, found)
    if isinstance(metric.service, str) and _is_long(metric.service):
        found.append((("metric", "data", "attributes", "service"), _STRING))
    if len(event.properties) > rules.max_properties:
        found.append((("properties",), f"'properties' must have at most {rules.max_properties} keys."))


def pass_fast_check(events: Iterable[EventAttributes], rules: Rules) -> bool:
    """Tells whether `check_event` surely finds nothing in any of these events; it is kept quick for good
    events.
    """
    earliest, latest, most = rules.earliest, rules.latest, rules.max_properties
    currencies, services, names = set(), set(), set()
    for event in events:
        time, value, unique_id = event.time, event.value, event.unique_id
        if isinstance(time, datetime) and not earliest <= (time if time.tzinfo else aware(time)) <= latest:
            return False
        if isinstance(value, int) and not contract.MIN_INTEGER <= value <= contract.MAX_INTEGER:
            return False
        if isinstance(unique_id, str) and not (unique_id.isprintable() and unique_id == unique_id.strip()):
            return False
        if len(event.properties) > most:
            return False
        currencies.add(event.value_currency)
        services.add(event.metric.data.attributes.service)
        names.add(event.metric.data.attributes.name)
    return (
        all(_CURRENCY.fullmatch(each) for each in currencies if isinstance(each, str))
        and not any(len(each) > _SHORT for each in services if isinstance(each, str))
        and not any(is_blank(each) or _INVISIBLE.search(each) for each in names)
    )


def check_profile(profile: ProfileData, profile_bytes: int, found: list[Violation]) -> None:
    """Checks the identifiers, size and free-form parts of a profile of so many bytes as JSON.

    A bad phone number beside another identifier is no violation: it can be left out (`bad_phone`).
    """
    attributes = profile.attributes
    given = identifiers(profile)
    if not any(given):
        found.append((("attributes",), _missing_identifier(attributes)))
    elif bad_phone(profile) and list(filter(None, given)) == [attributes.phone_number]:
        found.append((("attributes", "phone_number"), _PHONE_NUMBER))
    _check_identifiers(given, found)
    if isinstance(attributes.location, Location):
        _check_location(attributes.location, found)
    if isinstance(attributes.properties, dict):
        check_value(attributes.properties, ("attributes", "properties"), found)
    if profile.meta is not UNSET or attributes.meta is not UNSET:
        _check_metas(profile, found)
    if profile_bytes > contract.MAX_PROFILE_BYTES:
        found.append(((), _PROFILE_SIZE))


def check_size(event: EventAttributes, profile_bytes: int, found: list[Violation]) -> None:
    """Checks that an event fits a job of its own, beside a profile of so many bytes."""
    if profile_bytes + len(msgspec.json.encode(event)) > contract.MAX_EVENT_BYTES:
        found.append(((), _EVENT_SIZE))


def check_value(value: dict[str, Any] | list[Any], path: Path, found: list[Violation]) -> None:
    """Checks a free-form object or array: string bytes, array length, nesting, 64-bit integers."""
    if not _is_sound(value, 1):
        found += islice(_unsound(value, path, 1), MAX_VIOLATIONS)


def aware(time: datetime) -> datetime:
    """Returns a time with its offset; one without is in UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def bad_phone(profile: ProfileData) -> bool:
    """Tells whether there is a phone number that is not E.164."""
    phone = profile.attributes.phone_number
    return isinstance(phone, str) and not is_blank(phone) and not _E164.fullmatch(phone)


def is_blank(text: str) -> bool:
    """Tells whether there is nothing to see in a text. As an identifier it identifies nobody."""
    return not text or ((text.isspace() or not text.isprintable()) and _BLANK.fullmatch(text) is not None)


def is_email(text: str) -> bool:
    """Tells whether this can be an e-mail address of the allowed length."""
    return len(text) <= contract.MAX_EMAIL and _EMAIL.fullmatch(text) is not None


def identifiers(profile: ProfileData) -> tuple[str | UnsetType | None, ...]:
    """Returns a profile's identifiers in the contract's order, the strongest first.

    A null, empty or blank one is not given: it is None.
    """
    given = _identifiers_as_sent(profile)
    if _are_plain(given):
        return given
    return tuple(value if isinstance(value, str) and not is_blank(value) else None for value in given)


def has_plain_identifiers(profile: ProfileData) -> bool:
    """Tells whether none of the identifiers sent is null or blank; it is kept quick for good profiles."""
    return _are_plain(_identifiers_as_sent(profile))


def _identifiers_as_sent(profile: ProfileData) -> tuple[str | UnsetType | None, ...]:
    given = profile.attributes
    return (
        profile.id,
        given.email,
        given.phone_number,
        given.external_id,
        given.anonymous_id,
        given.kx,
    )


def _are_plain(given: tuple[str | UnsetType | None, ...]) -> bool:
    """Tells whether these texts are not empty and surely hold no invisible character."""
    for value in given:
        if value is not UNSET and (not value or not value.isprintable() or value.isspace()):
            return False
    return True


def _check_identifiers(given: tuple[str | UnsetType | None, ...], found: list[Violation]) -> None:
    email = given[1]
    if _are_plain(given):
        if isinstance(email, str) and not is_email(email):
            found.append((("attributes", "email"), _EMAIL_ADDRESS))
        return
    for name, value in zip(contract.IDENTIFIERS, given, strict=True):
        if not isinstance(value, str) or name == "phone_number":  # a phone number has a form of its own
            continue
        path: Path = ("id",) if name == "id" else ("attributes", name)
        if not _check_invisible(name, value, path, found) and name == "email" and not is_email(value):
            found.append((path, _EMAIL_ADDRESS))


def _check_invisible(name: str, text: str, path: Path, found: list[Violation]) -> bool:
    """Checks that a name or identifier holds no invisible character; tells whether it does."""
    character = None if text.isprintable() else _INVISIBLE.search(text)
    if character:
        found.append((path, _INVISIBLE_CHARACTER.format(name, ord(character[0]))))
    return character is not None


def _check_location(location: Location, found: list[Violation]) -> None:
    if _is_large(location.latitude):
        found.append((("attributes", "location", "latitude"), _INTEGER))
    if _is_large(location.longitude):
        found.append((("attributes", "location", "longitude"), _INTEGER))


def _check_metas(profile: ProfileData, found: list[Violation]) -> None:
    places: list[tuple[Path, object]] = [
        (("meta",), profile.meta),
        (("attributes", "meta"), profile.attributes.meta),
    ]
    given = [(path, meta) for path, meta in places if isinstance(meta, ProfileMeta)]
    if len(given) > 1:
        found.append((("attributes", "meta"), _TWO_METAS))
    for path, meta in given:
        for name in meta.__struct_fields__:
            for action in ("append", "unappend", "unset"):
                content = getattr(getattr(meta, name), action, None)
                if isinstance(content, dict):
                    check_value(content, (*path, name, action), found)
                elif isinstance(content, list):
                    check_value({action: content}, (*path, name), found)


def _is_sound(container: dict[str, Any] | list[Any], level: int) -> bool:
    """Tells whether there is surely nothing to find; it is kept quick for good events."""
    values: Iterable[Any] = container.values() if isinstance(container, dict) else container
    for value in values:
        kind = type(value)
        if kind is str:
            if len(value) > _SHORT:
                return False
        elif kind is dict or kind is list:
            too_deep = level == contract.MAX_NESTING
            if too_deep or len(value) > contract.MAX_ARRAY_LENGTH or not _is_sound(value, level + 1):
                return False
        elif kind is int and not contract.MIN_INTEGER <= value <= contract.MAX_INTEGER:
            return False
    return True


def _unsound(container: dict[str, Any] | list[Any], path: Path, level: int) -> Iterator[Violation]:
    """Yields the violations of a free-form object or array."""
    if isinstance(container, list) and len(container) > contract.MAX_ARRAY_LENGTH:
        yield path, _ARRAY
    items: Iterable[tuple[str | int, Any]]
    items = (
        container.items()
        if isinstance(container, dict)
        else enumerate(container[: contract.MAX_ARRAY_LENGTH])
    )
    for name, value in items:
        kind = type(value)  # quickly, as in `_is_sound`: there may be many that are good beside a bad one
        if kind is str:
            if len(value) > _SHORT and _is_long(value):
                yield (*path, name), _STRING
        elif kind is int:
            if not contract.MIN_INTEGER <= value <= contract.MAX_INTEGER:
                yield (*path, name), _INTEGER
        elif kind is dict or kind is list:
            if level == contract.MAX_NESTING:
                yield (*path, name), _NESTING
            else:
                yield from _unsound(value, (*path, name), level + 1)


def _is_visible(text: str) -> bool:
    """Tells whether a text has no character whose form an upstream could refuse."""
    return (text.isprintable() or not _CONTROL.search(text)) and text == text.strip()


def _is_long(text: str) -> bool:
    return len(text.encode()) > contract.MAX_STRING_BYTES


def _is_large(value: object) -> bool:
    return isinstance(value, int) and not contract.MIN_INTEGER <= value <= contract.MAX_INTEGER


def _missing_identifier(attributes: ProfileAttributes) -> str:
    detail = f"A profile needs at least one identifier: {', '.join(contract.IDENTIFIERS)}."
    misplaced = sorted((attributes.properties or {}).keys() & set(contract.IDENTIFIERS))
    if misplaced:
        names = ", ".join(f"'{name}'" for name in misplaced)
        detail += f" Under 'properties', {names} identifies nobody: move it up into 'attributes'."
    return detail
