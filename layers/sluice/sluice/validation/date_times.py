"""Reads times of the many forms of ISO 8601 whose instant is certain."""

import re
from datetime import datetime
from typing import Final

# Extended or basic form, to the minute at least. Python reads the rest of what it lets through.
_FORM: Final = re.compile(
    r"(?:\d{4}-\d\d-\d\d|\d{8}|\d{4}-?W\d\d-?\d)[Tt ]\d\d:?\d\d(?::?\d\d(?:[.,]\d+)?)?"
    r"(?:[Zz]|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)


def parse(text: str) -> datetime | None:
    """Returns the time that a text states, without an offset if the text has none; None if it is no time.

    A date alone is no time. Nor is a leap second, which Python and the upstream cannot represent.
    """
    if not _FORM.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError:
        return None
