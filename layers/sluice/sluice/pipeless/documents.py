"""The bodies callers of Pipeless's route send, as types. What types cannot say is `intake`'s.

The same event travels on the queue and goes upstream.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from sluice.contract import MAX_OBJECT_ID


class _Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    pass


class Object(_Document):
    """An object to be written: created if it is missing, else used, with the dates that are given."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_OBJECT_ID)]
    type: str
    created_on: str | UnsetType = UNSET
    modified_on: str | UnsetType = UNSET


class Relationship(_Document):
    """How the start object relates to the end object; one that is `single` exists once between the two."""

    type: str
    created_on: str | UnsetType = UNSET
    single: bool = True


class Event(_Document):
    start_object: Object
    relationship: Relationship
    end_object: Object


class BatchDocument(_Document):
    """A request; one that is `synchronous` is answered when it is done."""

    events: list[Event]
    synchronous: bool = False
