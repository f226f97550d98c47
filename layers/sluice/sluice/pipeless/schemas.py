"""Defines the bodies that callers of Pipeless's route send, as types; `parser` has the other rules."""

import msgspec

from sluice.message import PipelessEvent


class BatchDocument(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Holds a request; one that is `synchronous` is answered when Pipeless has answered."""

    events: list[PipelessEvent]
    synchronous: bool = False
