"""Seals messages and objects with the keys of the sealing secret."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from sluice import runtime, seals
from sluice.accounts_cache import CACHE_SECONDS
from sluice.aws import secrets
from sluice.errors import Misconfigured, Retryable
from sluice.seals import SealingKeys

_NOT_READ: Final = "the sealing secret cannot be read"
# A key may be in use before this process has read it.
NEW_KEY_AGE: Final = timedelta(seconds=2 * CACHE_SECONDS)


class Sealing(msgspec.Struct, frozen=True):
    """Makes and checks seals. Methods raise `Retryable` if the secret, by name or ARN, cannot be read."""

    secret: str

    def of_message(self, body: str) -> str:
        """Returns the seal of a queue message."""
        return seals.make(self._keys(), seals.MESSAGE, body)

    def is_own_message(self, body: str, seal: str | None, sent: datetime) -> bool:
        """Tells whether Sluice itself sent a message.

        Raises `Retryable` for a young message whose key is not known here yet.
        """
        if not seal:
            return False
        try:
            return seals.is_genuine(self._keys(), seal, seals.MESSAGE, body)
        except seals.UnknownKey:
            if runtime.now() - sent < NEW_KEY_AGE:
                raise Retryable("a message is sealed with a key that is not known yet") from None
            return False

    def of_object(self, key: str, content: bytes) -> str:
        """Returns the seal of an object."""
        return seals.make(self._keys(), key, content)

    def is_own_object(self, key: str, content: bytes, seal: str | None) -> bool:
        """Tells whether Sluice itself wrote an object, with a key that is live."""
        if not seal:
            return False
        try:
            return seals.is_genuine(self._keys(), seal, key, content)
        except seals.UnknownKey:
            return False

    def _keys(self) -> SealingKeys:
        try:
            return seals.parse(secrets.read_secret(self.secret, _NOT_READ))
        except Misconfigured:
            # A mistake in the new version does not stop what works with the one before.
            return seals.parse(secrets.read_secret(self.secret, _NOT_READ, previous=True))
