"""Describes an account at Acme, and the messages of EventsQueue that are for it."""

from datetime import datetime
from typing import Final

import msgspec

SURFACE: Final = "acme"


class AcmeAccount(msgspec.Struct, frozen=True):
    """Holds one account of the accounts document."""

    name: str
    api_key: str
    base_url: str = "https://api.acme.example"
    calls_per_minute: int = 60

    @property
    def id(self) -> str:
        """Returns the account's id in metrics, logs, circuits and receipts."""
        return f"acme-{self.name}"


class AcmeEvent(msgspec.Struct, forbid_unknown_fields=True):
    """Holds one event, stamped when it is accepted: sending it again changes nothing."""

    user: str
    name: str
    id: str = ""
    time: datetime | None = None


class AcmeMessage(msgspec.Struct, omit_defaults=True, tag_field="sluice", tag="acme"):
    """Holds one accepted request, as it is stored."""

    receipt: str
    name: str
    accepted: datetime
    events: list[AcmeEvent]
    line: str | None = None
    replayed: list[str] | None = None

    @property
    def account(self) -> str:
        """Returns the `id` of its account."""
        return f"acme-{self.name}"

    @property
    def surface(self) -> str:
        """Returns the surface it came in by."""
        return SURFACE

    @property
    def source(self) -> None:
        """Returns no webhook source: none delivers to Acme."""
