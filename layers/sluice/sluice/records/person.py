"""Finds a person in what is stored, by a keyed hash, and takes away only what is of that person.

An identifier counts where it stands for a person: in a profile, in a customer, in a user of Pipeless. An
e-mail address or a phone number counts anywhere, also within a longer text.
"""

import hmac
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from sluice.validation.json_text import NOT_DECODED

IDENTIFIERS: Final = ("email", "phone_number", "external_id", "id", "anonymous_id", "_kx")
_PEOPLE: Final = frozenset({"profile", "customer", "customer_properties", "start_object", "end_object"})
_NO_PERSON: Final = frozenset({"properties"})  # below it, a name says nothing of a person
_ADDRESS: Final = re.compile(r"[^\s<>()\[\],;:\"'=?&/\\]+@[^\s<>()\[\],;:\"'=?&/\\]+")
_PHONE_NUMBER: Final = re.compile(r"\+\d(?:[ ()./-]{0,3}\d){6,14}(?!\d)")
_SEPARATORS: Final = re.compile(r"[ ()./-]+")
# Names of what may hold things of several people, each in an element of its own.
_TOGETHER: Final = frozenset({"payload", "data", "attributes", "events-bulk-create", "entries", "events"})
MAX_LEVELS: Final = 24  # more than a message or a body of any upstream has

type IsPerson = Callable[[str], bool]


def normal(identifier: str) -> str:
    """Returns the form of an identifier in which it is compared: without blanks, case and separators."""
    named = identifier.strip().casefold()
    return _SEPARATORS.sub("", named) if _PHONE_NUMBER.fullmatch(named) else named


def hashed(identifier: str, hash_key: bytes) -> str:
    """Returns the keyed hash under which an identifier of a person is found: 12 hexadecimal digits."""
    return hmac.digest(hash_key, normal(identifier).encode("utf-8", "replace"), "sha256").hex()[:12]


def mentioned(value: Any) -> Iterator[str]:
    """Yields the identifiers of people in a decoded JSON value, some of them several times."""
    waiting: list[tuple[str, Any, bool]] = [("", value, False)]
    while waiting:
        name, held, is_person = waiting.pop()
        match held:
            case dict():
                for key, below in held.items():
                    waiting.append((key, below, key in _PEOPLE or (is_person and key not in _NO_PERSON)))
            case list():
                waiting.extend((name, below, is_person) for below in held)
            case str() if held.strip():
                if is_person and name in IDENTIFIERS:
                    yield held
                if "@" in held:
                    yield from _ADDRESS.findall(held)
                if "+" in held:
                    yield from _PHONE_NUMBER.findall(held)
            case int() if is_person and name in IDENTIFIERS and not isinstance(held, bool):
                yield str(held)


def is_mentioned(value: Any, is_person: IsPerson) -> bool:
    """Tells whether a person is mentioned in a decoded JSON value."""
    return any(map(is_person, mentioned(value)))


def without(document: bytes, is_person: IsPerson) -> bytes | None:
    """Returns a JSON document without what is of a person; None if nothing of it is of anybody else.

    An entry, an event or a message of a list goes alone. The rest stays byte for byte as it was, but for
    the blanks around it. A document that nobody can read is taken for a text.
    """
    try:
        found = msgspec.json.decode(document)
    except NOT_DECODED:
        found = document.decode("utf-8", "replace")
    if not is_mentioned(found, is_person):
        return document
    left = None if isinstance(found, str) else _left(msgspec.Raw(document), found, is_person, MAX_LEVELS)
    return None if left is None else bytes(left)


def _left(raw: msgspec.Raw, found: Any, is_person: IsPerson, levels: int) -> msgspec.Raw | None:
    """Returns what is left of a value that may hold things of several people, or None.

    Something of the person that is nested deeper than so many levels takes all around it with it.
    """
    if not is_mentioned(found, is_person):
        return raw
    if isinstance(found, list) and levels:
        parts = msgspec.json.decode(raw, type=list[msgspec.Raw])
        pairs = zip(parts, found, strict=True)
        kept = [left for each in pairs if (left := _left(*each, is_person, levels - 1)) is not None]
        return msgspec.Raw(msgspec.json.encode(kept)) if kept else None
    if isinstance(found, dict) and levels:
        held: dict[str, msgspec.Raw] = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        for name, value in found.items():
            left = _left(held[name], value, is_person, levels - 1) if name in _TOGETHER else None
            if left is None and is_mentioned({name: value}, is_person):
                return None
            held[name] = left or held[name]
        return msgspec.Raw(msgspec.json.encode(held))
    return None
