"""Leaves out of an event or a profile a field that the upstream refuses, if it means the same without it.

Without its metric, its time or its last identifier an event would be another one, so these are never left
out.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sluice.contract import IDENTIFIERS
from sluice.klaviyo.packing import JobEntry, PackedEvent

PHONE_NUMBER: Final = "/attributes/profile/data/attributes/phone_number"
_OF_EVENT: Final = re.compile(r"(?:/attributes)?/(value|value_currency|properties/.+)", re.DOTALL)
_OF_PROFILE: Final = re.compile(
    r"(?:/attributes)?/profile(?:/data)?(?:(?P<outer>/id|/meta/.+)|(?:/attributes)?/(?P<attribute>.+))",
    re.DOTALL,
)
_ATTRIBUTES: Final = frozenset(
    {"first_name", "last_name", "organization", "locale", "title", "image", "location"}
)


def without_event_field(event: PackedEvent, tail: str) -> PackedEvent | None:
    """Returns an event without the field that `tail` points at; None if it cannot be left out."""
    match = _OF_EVENT.fullmatch(tail)
    if match is None or (attributes := _without(event.attributes, _names(match[1]))) is None:
        return None
    return msgspec.structs.replace(event, attributes=attributes)


def without_profile_field(entry: JobEntry, tail: str) -> JobEntry | None:
    """Returns an entry whose profile lacks the field that `tail` points at; None if it cannot be left out."""
    path = _profile_path(tail)
    profile = _without(entry.profile, path) if path else None
    if profile is None or not _is_identified(profile):
        return None
    events = [
        msgspec.structs.replace(event, profile=_without(event.profile, path) or event.profile)
        for event in entry.events
    ]
    return JobEntry(entry.key, profile, entry.backfill, events)


def without_phone_number(entry: JobEntry) -> JobEntry | None:
    """Returns an entry without the phone number of its profile; None if nothing else identifies it."""
    return without_profile_field(entry, PHONE_NUMBER)


def _profile_path(tail: str) -> list[str]:
    """Returns the names that lead to a profile's optional field; none if `tail` leads to no such field."""
    match = _OF_PROFILE.fullmatch(tail)
    if match is None:
        return []
    if match["outer"]:
        return _names(match["outer"][1:])
    names = _names(match["attribute"])
    is_optional = (
        names[0] in _ATTRIBUTES or names[0] in IDENTIFIERS or (names[0] == "properties" and len(names) > 1)
    )
    return ["attributes", *names] if is_optional else []


def _names(path: str) -> list[str]:
    return [name.replace("~1", "/").replace("~0", "~") for name in path.split("/")]


def _without(document: bytes, path: Sequence[str]) -> bytes | None:
    """Returns an object's JSON without one member; None if it does not have it.

    A path that leads into a list or a value ends at its member: a list is left out whole.
    """
    name, *rest = path
    try:
        members = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        inner = _without(bytes(members[name]), rest) if rest else None
    except (msgspec.MsgspecError, KeyError):
        return None
    if inner is not None:
        members[name] = msgspec.Raw(inner)
    elif rest and _is_object(members[name]):
        return None
    else:
        del members[name]
    return msgspec.json.encode(members)


def _is_object(value: msgspec.Raw) -> bool:
    return bytes(value).lstrip().startswith(b"{")


def _is_identified(profile: bytes) -> bool:
    decoded: dict[str, Any] = msgspec.json.decode(profile)
    return bool(decoded.get("id")) or any(decoded["attributes"].get(name) for name in IDENTIFIERS)
