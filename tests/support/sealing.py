"""Seals messages as Sluice's functions do, with keys of the tests."""

from typing import Any, Final

from sluice import message, seals
from sluice.aws.sealing import Sealing

SECRET: Final = '{"current": "the key that makes the seals of tests"}'
KEYS: Final = seals.parse(SECRET)
SEALING: Final = Sealing("sealing")  # with the secret of this name, where there is one


def seal(body: str) -> str:
    """Returns the seal that Sluice sends a message with."""
    return seals.make(KEYS, seals.MESSAGE, body)


def attributes(body: str, named: dict[str, str]) -> Any:
    """Returns the attributes of a queue message: those named, and the seal of a body in stored form.

    A test that names a seal itself decides what it is; an empty one is left out.
    """
    own = {seals.NAME: seal(body)} if message.is_stored(body) else {}
    return {name: {"DataType": "String", "StringValue": text} for name, text in (own | named).items() if text}
