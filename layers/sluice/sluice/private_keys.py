"""Keeps the keys by which upstreams are called. Each is in a secret of the stack, with others.

An account of the document refers to its key by the secret and an id there. Under an id there is always the
same key, so a process keeps what it has read, and a change of the document changes all keys at once.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from sluice import runtime
from sluice.accounts import KlaviyoAccount, PipelessApp
from sluice.errors import Retryable
from sluice.validation.json_text import NOT_DECODED, encode_text

LOOK_SECONDS: Final = 5.0  # a secret that lacks a key, or fails, is left alone for so long


class PrivateKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Holds a private key, and whose it is.

    It is sent to this `base_url` alone, so whoever can write the document cannot have it sent elsewhere.
    `written` and `replaced` are when it was stored, and when another one was stored to replace it, in epoch
    seconds.
    """

    account: str
    key: str
    base_url: str
    written: int
    replaced: int | None = None

    def __repr__(self) -> str:
        return f"PrivateKey({self.account!r})"


class _Secret(msgspec.Struct, forbid_unknown_fields=True):
    keys: dict[str, PrivateKey]


def decode(text: str) -> dict[str, PrivateKey]:
    """Returns the keys in the text of a secret, by their ids; raises `Retryable` for another text."""
    try:
        return msgspec.json.decode(encode_text(text), type=_Secret).keys
    except NOT_DECODED:  # its message could quote a key
        raise Retryable("a secret of private keys is not valid") from None


def encode(keys: Mapping[str, PrivateKey]) -> str:
    """Returns the text of a secret that has these keys."""
    return msgspec.json.encode(_Secret(dict(keys))).decode()


class PrivateKeysCache:
    """Keeps the private keys that a process needed.

    `fetch` returns the text of a secret by its name in a `KeyReference`, and may raise `Retryable`.
    """

    def __init__(self, fetch: Callable[[str], str]) -> None:
        self._fetch = fetch
        self._keys: dict[tuple[str, str], PrivateKey] = {}
        self._looked: dict[str, float] = {}

    def find(self, account: KlaviyoAccount | PipelessApp) -> str:
        """Returns the key to call an account's upstream with; raises `Retryable` if it cannot be had."""
        reference = account.key_reference
        place = reference.secret, reference.id
        if place not in self._keys:
            self._look(reference.secret)
        found = self._keys.get(place)
        if found is None or found.account != account.id:
            raise Retryable(f"the secret {reference.secret} has no private key of {account.id}")
        if found.base_url != account.base_url:
            raise Retryable(f"the private key of {account.id} is for another base_url")
        return found.key

    def _look(self, secret: str) -> None:
        now = runtime.monotonic()
        if now - self._looked.get(secret, -LOOK_SECONDS) < LOOK_SECONDS:
            return
        self._looked[secret] = now
        for id, key in decode(self._fetch(secret)).items():
            self._keys[secret, id] = key
