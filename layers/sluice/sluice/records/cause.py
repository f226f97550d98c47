"""Tells which rejections have one cause, so that five thousand wrong currencies are one thing to look at.

A cause is an account, a reason, a code, and the pointer and the words of the refusal without what differs
from event to event. Nothing of an event's values is left in it.
"""

import hashlib
import re
from typing import Any, Final

import msgspec

from sluice.rejection import Reason, Rejection

MAX_WORDS_BYTES: Final = 200
MAX_POINTER_BYTES: Final = 120
MAX_CODE_BYTES: Final = 40
BLANK: Final = "…"
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|“[^”]*”")
# A word that holds a digit or an @: numbers, ids, dates, e-mail addresses.
_VALUE: Final = re.compile(r"[^\s()\[\],;]*[\d@][^\s()\[\],;]*")
_INDEX: Final = re.compile(r"/\d+(?=/|\Z)")
_PROPERTIES: Final = re.compile(r"/properties/.*", re.DOTALL)


class Cause(msgspec.Struct, frozen=True):
    """Describes why events were refused; `pointer` and `words` have `…` in place of what differs."""

    account: str
    reason: Reason
    code: str | None
    pointer: str | None
    words: str

    @property
    def group(self) -> str:
        """Returns the id of the group of rejections that have this cause: 12 hexadecimal digits."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=6).hexdigest()


def cause_of(rejection: Rejection, account: str, place: str | None = None, value: Any = None) -> Cause:
    """Returns the cause of a rejection.

    `place` is the pointer into its payload, and `value` is what stands there. The same place has the same
    pointer there, whichever way an event came in.
    """
    pointer = place or rejection.pointer
    where = None if pointer is None else pointer_pattern(pointer)
    code = None if rejection.code is None else shortened(rejection.code, MAX_CODE_BYTES)
    words = words_pattern(rejection.detail, where or "", value)
    return Cause(account, rejection.reason, code, where, words)


def pointer_pattern(pointer: str) -> str:
    """Returns a pointer with `*` for each index, and without the names of properties.

    The caller chooses the names of properties, and they may hold anything.
    """
    return shortened(_PROPERTIES.sub("/properties/*", _INDEX.sub("/*", pointer)), MAX_POINTER_BYTES)


def words_pattern(detail: str, pointer: str, value: Any = None) -> str:
    """Returns the words of a refusal without values: only quoted names that are part of the pointer stay."""
    if isinstance(value, str | int | float) and not isinstance(value, bool) and len(str(value)) > 1:
        detail = detail.replace(str(value), BLANK)
    names = {*pointer.split("/")} - {"", "*"}
    words = _QUOTED.sub(lambda found: _kept(found[0], names), detail)
    return shortened(_VALUE.sub(BLANK, words), MAX_WORDS_BYTES)


def shortened(text: str, most: int) -> str:
    """Returns a text of at most so many bytes of UTF-8; one that was cut ends in `…`."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most:
        return encoded.decode()
    return encoded[: most - len(BLANK.encode())].decode("utf-8", "ignore") + BLANK


def _kept(quoted: str, names: set[str]) -> str:
    return quoted if quoted[1:-1] in names else f"{quoted[0]}{BLANK}{quoted[-1]}"
