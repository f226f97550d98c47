"""Lists every kind of item in the state table: its key, and how long it lives.

The IAM statements of the template grant access by these prefixes; a test compares them.
"""

from typing import Final

import msgspec

_DAY: Final = 86_400
MESSAGE_LIFE_SECONDS: Final = 15 * _DAY  # a little longer than SQS keeps a message

type Key = dict[str, dict[str, str]]


class ItemKind(msgspec.Struct, frozen=True):
    """Describes one kind of item, which expires `keep_seconds` after its last write, or never (None)."""

    prefix: str
    keep_seconds: int | None = None

    def key(self, name: str = "") -> Key:
        """Returns the primary key of an item of this kind."""
        return {"pk": {"S": self.prefix + name}}

    def name(self, key: Key) -> str:
        """Returns the name that `key` was given."""
        return key["pk"]["S"].removeprefix(self.prefix)

    def expiry(self, now: float) -> dict[str, str]:
        """Returns the attribute `expires_at` of an item written at `now` (epoch seconds)."""
        if self.keep_seconds is None:
            raise TypeError(f"{self.prefix} does not expire")
        return {"N": str(int(now) + self.keep_seconds)}


RATE_LIMIT: Final = ItemKind("pace#", 3_600)  # an account's slots
CIRCUIT: Final = ItemKind("circuit#")  # there while an account's circuit is open
PAUSE: Final = ItemKind("pause#")  # there while an operator pauses an account
# Events of an account that were refused alone and without a reason.
REFUSALS: Final = ItemKind("refusals#", MESSAGE_LIFE_SECONDS)
RECEIPT: Final = ItemKind("receipt#", MESSAGE_LIFE_SECONDS)
SOLO: Final = ItemKind("trial#", MESSAGE_LIFE_SECONDS)  # a message that is handled alone
IMPORT: Final = ItemKind("object#", MESSAGE_LIFE_SECONDS)  # how far an S3 object has been read
INBOUND: Final = ItemKind("inbound#", 120)  # a caller's requests of one minute
METRICS: Final = ItemKind("metrics#")  # the metric names of an account
# An object of a webhook's sender, such as an order: kept since its last delivery, longer than it can change.
WEBHOOK_OBJECT: Final = ItemKind("webhook#", 90 * _DAY)

KINDS: Final = (
    RATE_LIMIT,
    CIRCUIT,
    PAUSE,
    REFUSALS,
    RECEIPT,
    SOLO,
    IMPORT,
    INBOUND,
    METRICS,
    WEBHOOK_OBJECT,
)
