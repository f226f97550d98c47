"""Names the errors of decoding JSON, and encodes text that may hold lone surrogates."""

from typing import Final

import msgspec

# Raised by msgspec for a document that is no JSON, has another form, is no UTF-8, is a text that holds half a
# character, or is nested too deeply.
NOT_DECODED: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)


def encode_text(text: str) -> bytes:
    """Returns text as UTF-8, whatever it holds: half an emoji as the three bytes that stand for it."""
    return text.encode("utf-8", "surrogatepass")
