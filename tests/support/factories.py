"""Makes bodies as callers send them, each valid until a test changes it."""

import copy
import json
from datetime import UTC, datetime
from typing import Any

NOON = datetime(2026, 7, 20, 12, tzinfo=UTC)
NEWEST = "2026-07-15"
SITE_ID = "AbC123"
KEY = "pk_0123456789abcdef"


def event(**attributes: Any) -> dict[str, Any]:
    """Makes an event; pass attributes to add or replace them."""
    return {
        "type": "event",
        "attributes": {
            "properties": {"product": "Desk lamp"},
            "metric": {"data": {"type": "metric", "attributes": {"name": "Viewed Product"}}},
            **attributes,
        },
    }


def metric(name: str, **attributes: Any) -> dict[str, Any]:
    """Makes the `metric` attribute of an event."""
    return {"data": {"type": "metric", "attributes": {"name": name, **attributes}}}


def profile(**attributes: Any) -> dict[str, Any]:
    """Makes a profile, with an e-mail address unless other attributes are given."""
    return {"data": {"type": "profile", "attributes": attributes or {"email": "ann@example.com"}}}


def entry(*events: dict[str, Any], of: dict[str, Any] | None = None, **attributes: Any) -> dict[str, Any]:
    """Makes an entry: one profile's events, as in a bulk request; alone it is a client bulk request's
    data.
    """
    return {
        "type": "event-bulk-create",
        "attributes": {
            "profile": of or profile(),
            "events": {"data": list(events or [event()])},
            **attributes,
        },
    }


def bulk(*entries: dict[str, Any]) -> dict[str, Any]:
    """Makes a bulk request."""
    return {
        "data": {
            "type": "event-bulk-create-job",
            "attributes": {"events-bulk-create": {"data": list(entries or [entry()])}},
        }
    }


def client_bulk(*events: dict[str, Any], of: dict[str, Any] | None = None) -> dict[str, Any]:
    """Makes a client bulk request."""
    return {"data": entry(*events, of=of)}


def single(of: dict[str, Any] | None = None, **attributes: Any) -> dict[str, Any]:
    """Makes a single event's request, for either route."""
    document = event(**attributes)
    document["attributes"]["profile"] = of or profile()
    return {"data": document}


def flat(of: dict[str, Any] | None = None, **attributes: Any) -> dict[str, Any]:
    """Makes a single event's request in the deprecated flat shape."""
    return {
        "data": {
            "type": "event",
            "attributes": {
                "profile": {"$email": "ann@example.com"} if of is None else of,
                "metric": {"name": "Viewed Product"},
                "properties": {"product": "Desk lamp"},
                **attributes,
            },
        }
    }


def encoded(document: object) -> bytes:
    """Encodes a document as JSON bytes, escaped only where necessary."""
    return json.dumps(document, ensure_ascii=False).encode()


def nested(levels: int) -> dict[str, Any]:
    """Makes `properties` of so many levels, alternately objects and arrays."""
    value: Any = 1
    for level in range(levels - 1, 0, -1):
        value = [value] if level % 2 else {"deeper": value}
    return {"deeper": value}


def at(document: Any, pointer: str) -> Any:
    """Returns the value at a JSON pointer (RFC 6901); raises `KeyError` or `IndexError` if there is none."""
    for part in pointer.split("/")[1:]:
        document = document[_key(document, part)]
    return document


def without(document: dict[str, Any], pointer: str) -> dict[str, Any]:
    """Copies a document without the value at a pointer."""
    copied = copy.deepcopy(document)
    parent, _, name = pointer.rpartition("/")
    holder = at(copied, parent)
    del holder[_key(holder, name)]
    return copied


def replaced(document: dict[str, Any], pointer: str, value: Any) -> dict[str, Any]:
    """Copies a document with another, or a new, value at a pointer."""
    copied = copy.deepcopy(document)
    parent, _, name = pointer.rpartition("/")
    holder = at(copied, parent)
    holder[_key(holder, name)] = value
    return copied


def _key(holder: Any, part: str) -> Any:
    return int(part) if isinstance(holder, list) else part.replace("~1", "/").replace("~0", "~")


APP_ID = 123
APP = f"pipeless-{APP_ID}"
APP_KEY = "sluice_0123456789abcdef"


def happening(
    start: str = "u1", end: str = "a1", *, of: str = "liked", dates: Any = None, **relationship: Any
) -> dict[str, Any]:
    """Makes an event for Pipeless: user `start` likes article `end`; `dates` are the start object's."""
    return {
        "start_object": {"id": start, "type": "user", **(dates or {})},
        "relationship": {"type": of, **relationship},
        "end_object": {"id": end, "type": "article"},
    }


def batch(*events: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Makes a batch for Pipeless."""
    return {"events": list(events or [happening()]), **fields}
