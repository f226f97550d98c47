"""Seals what Sluice stores, so that only its own messages and objects are believed.

A seal is the HMAC of a content and of the place it is for, under a key that only Sluice's functions know.
Two keys are live: the current one makes seals, and the previous one proves those made before the change.
"""

import hashlib
import hmac
from typing import Annotated, Final

import msgspec

from sluice.errors import Misconfigured
from sluice.validation.json_text import NOT_DECODED, encode_text

NAME: Final = "seal"  # of the message attribute, and of an object's metadata
MESSAGE: Final = "message"  # the place that a queue message is sealed for
_VERSION: Final = "1"
_KEY_ID_DIGITS: Final = 8

type Key = Annotated[str, msgspec.Meta(min_length=32)]


class SealingKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Holds the live keys."""

    current: Key
    previous: Key | None = None


class UnknownKey(Exception):
    """Says that a seal was made with a key that is not live, or not known here yet."""


def parse(document: str) -> SealingKeys:
    """Reads the keys from the secret's JSON; `Misconfigured` quotes nothing of it."""
    try:
        return msgspec.json.decode(encode_text(document), type=SealingKeys)
    except NOT_DECODED:
        raise Misconfigured("the sealing secret must hold 'current', and may hold 'previous'") from None


def make(keys: SealingKeys, place: str, content: str | bytes) -> str:
    """Returns the seal of a content for a place."""
    return f"{_VERSION}.{_key_id(keys.current)}.{_mac(keys.current, place, content)}"


def is_genuine(keys: SealingKeys, seal: str, place: str, content: str | bytes) -> bool:
    """Tells whether a seal is that of a content for a place; raises `UnknownKey` if no live key made it."""
    version, _, rest = seal.partition(".")
    key_id, _, mac = rest.partition(".")
    if version != _VERSION or not seal.isascii():
        return False
    for key in filter(None, (keys.current, keys.previous)):
        if _key_id(key) == key_id:
            return hmac.compare_digest(mac, _mac(key, place, content))
    raise UnknownKey


def _key_id(key: str) -> str:
    return hashlib.sha256(b"key " + encode_text(key)).hexdigest()[:_KEY_ID_DIGITS]


def _mac(key: str, place: str, content: str | bytes) -> str:
    where = encode_text(place)
    what = encode_text(content) if isinstance(content, str) else content
    # The length separates the two, so no other pair makes the same text.
    return hmac.digest(encode_text(key), b"%d %s%s" % (len(where), where, what), "sha256").hex()
