"""Makes examples: requests that ingest accepts, and its answers, each put through the functions that decide
it.

A request that would be refused, or a refusal that would be a success, is an error here, so none is published.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from sluice import contract, ingest, jsonapi
from sluice.accounts import Accounts, IngestKey, KeyReference, KlaviyoAccount, PipelessApp
from sluice.admission import request
from sluice.aws import state_table
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.ingest import Accepted
from sluice.klaviyo import parser
from sluice.pipeless import ingest as pipeless
from sluice.pipeless import parser as pipeless_intake
from sluice.receipts import Receipt
from sluice.webhooks import accept as webhooks

NOW: Final = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
SITE_ID: Final = "AbC123"
RECEIPT: Final = "6c1f2a0d9b3e4c5d8f7a6b5c4d3e2f10"
_REVISION: Final = contract.UPSTREAM_REVISION
_ERROR_ID: Final = "0f8c6a52-6f0e-4d0b-9a53-0d8d1c1f8b7e"


def _ingest_key(key: str, scope: str) -> IngestKey:
    return IngestKey(hashlib.sha256(key.encode()).hexdigest(), frozenset({scope}))


_KEYS: Final = (
    _ingest_key("pk_reader", contract.SCOPE_EVENTS_READ),
    _ingest_key("pk_other", "profiles:read"),
)
_PRIVATE_KEY: Final = KeyReference("klaviyo-1", "0" * 32)
_APP_PRIVATE_KEY: Final = KeyReference("pipeless-1", "0" * 32)
_APP: Final = PipelessApp(123, _APP_PRIVATE_KEY, keys=(_ingest_key("app", contract.SCOPE_EVENTS_WRITE),))
_ACCOUNTS: Final = Accounts(
    (KlaviyoAccount(SITE_ID, _PRIVATE_KEY, keys=_KEYS),),
    (_APP, PipelessApp(7, _APP_PRIVATE_KEY)),
)
_APP_KEY: Final = {"authorization": "Bearer app"}
_READER: Final = {"authorization": "Klaviyo-API-Key pk_reader"}
_OTHER: Final = {"authorization": "Klaviyo-API-Key pk_other"}

type Document = dict[str, Any]

_METRIC: Final = {"data": {"type": "metric", "attributes": {"name": "Placed Order"}}}
_EVENT: Final = {
    "properties": {"order": "1001", "items": ["Desk lamp"]},
    "metric": _METRIC,
    "time": "2026-11-21T09:29:58Z",
    "value": 19.9,
    "value_currency": "EUR",
    "unique_id": "order-1001",
}
_PROFILE: Final = {
    "data": {"type": "profile", "attributes": {"email": "ada@example.com", "first_name": "Ada"}}
}
_STRANGER: Final = {"data": {"type": "profile", "attributes": {"anonymous_id": "visitor-42"}}}
_VIEWED: Final = {
    "properties": {"product": "Desk lamp"},
    "metric": {"data": {"type": "metric", "attributes": {"name": "Viewed Product"}}},
}


def _entry(profile: Document, *events: Document) -> Document:
    listed = {"data": [{"type": "event", "attributes": event} for event in events]}
    return {"type": "event-bulk-create", "attributes": {"profile": profile, "events": listed}}


def _bulk(*entries: Document) -> Document:
    listed = {"events-bulk-create": {"data": list(entries)}}
    return {"data": {"type": "event-bulk-create-job", "attributes": listed}}


BULK: Final = _bulk(_entry(_PROFILE, _EVENT, _VIEWED))
SINGLE: Final = {"data": {"type": "event", "attributes": {"profile": _PROFILE, **_EVENT}}}
FLAT: Final = {
    "data": {
        "type": "event",
        "attributes": {
            "profile": {"$email": "ada@example.com", "$first_name": "Ada", "favourite_colour": "blue"},
            "metric": {"name": "Placed Order"},
            "properties": {"order": "1001"},
            "time": "2026-11-21T09:29:58",
        },
    }
}
CLIENT_BULK: Final = {"data": _entry(_STRANGER, _VIEWED)}
CLIENT_SINGLE: Final = {"data": {"type": "event", "attributes": {"profile": _STRANGER, **_VIEWED}}}

BATCH: Final = {
    "events": [
        {
            "start_object": {"id": "ada", "type": "user"},
            "relationship": {"type": "purchased"},
            "end_object": {"id": "1001", "type": "product", "created_on": "2026-11-01T08:00:00"},
        }
    ]
}

# Each body with something wrong in it.
_UNNAMED: Final = {**_EVENT, "metric": {"data": {"type": "metric", "attributes": {}}}, "time": "yesterday"}
_MISPLACED: Final = {"data": {"type": "profile", "attributes": {"properties": {"email": "ada@example.com"}}}}
BAD_BULK: Final = _bulk(_entry(_PROFILE, _EVENT, _UNNAMED), _entry(_MISPLACED, _EVENT))
BAD_SINGLE: Final = {"data": {"type": "event", "attributes": {"profile": _MISPLACED, **_UNNAMED}}}
BAD_BATCH: Final = {
    "events": [{"start_object": {"id": "ada", "type": "visitor"}, "end_object": {"id": "1001"}}]
}
BAD_CLIENT_BULK: Final = {"data": _entry(_MISPLACED, _UNNAMED)}


def accepted(surface: Surface, *bodies: Document) -> Document:
    """Returns the answer to such a request."""
    for body in bodies:
        parser.read(surface, msgspec.json.encode(body), _REVISION, NOW)
    read = parser.read(surface, msgspec.json.encode(bodies[0]), _REVISION, NOW)
    return _receipt(Accepted(RECEIPT, SITE_ID, read.events, NOW, frozenset(), frozenset()))


def accepted_leniently(body: Document) -> Document:
    """Returns the answer to a bulk request of which some events are bad."""
    read = parser.read_leniently(msgspec.json.encode(body), _REVISION, NOW)
    rejected = sum(len(bad.events) for bad in read.bad)
    applied = frozenset({ingest.LENIENT})
    return _receipt(Accepted(RECEIPT, SITE_ID, read.events, NOW, frozenset(), applied, read.bad, rejected))


def progress() -> Document:
    """Returns the answer to a question about a bulk request."""
    receipt = Receipt(
        SITE_ID,
        NOW,
        NOW + timedelta(seconds=state_table.MESSAGE_LIFE_SECONDS),
        1000,
        998,
        1,
        NOW + timedelta(seconds=7),
    )
    return _decoded(ingest.request_status(RECEIPT, _READER, accounts=_ACCOUNTS, find=lambda _: receipt))


def invalid(surface: Surface, body: Document) -> Document:
    """Returns the refusal of a body with a mistake in it."""
    return _refusal(lambda: parser.read(surface, msgspec.json.encode(body), _REVISION, NOW))


def not_json(surface: Surface) -> Document:
    return _refusal(lambda: parser.read(surface, b'{"data": NaN}', _REVISION, NOW))


def without_revision() -> Document:
    return _refusal(lambda: request.revision({}, NOW))


def retired_revision() -> Document:
    headers = {"revision": "2022-10-17", "x-klaviyo-revision-fall-forward-opt-out": "1"}
    return _refusal(lambda: request.revision(headers, NOW))


def unknown_company() -> Document:
    return _refusal(lambda: request.admit(Surface.CLIENT_EVENT, {}, {"company_id": "nobody"}, _ACCOUNTS))


def exposed_key() -> Document:
    return _refusal(lambda: request.admit(Surface.CLIENT_EVENT, _OTHER, {}, _ACCOUNTS))


def not_authenticated() -> Document:
    return _refusal(lambda: request.admit(Surface.EVENT, {}, {}, _ACCOUNTS))


def unknown_key() -> Document:
    headers = {"authorization": "Klaviyo-API-Key pk_unknown"}
    return _refusal(lambda: request.admit(Surface.EVENT, headers, {}, _ACCOUNTS))


def without_scope(*scopes: str) -> Document:
    return _refusal(lambda: request.authorized(_OTHER, _ACCOUNTS, frozenset(scopes)))


def unknown_receipt() -> Document:
    return _refusal(lambda: ingest.request_status(RECEIPT, _READER, accounts=_ACCOUNTS, find=lambda _: None))


def too_large() -> Document:
    body = b" " * (contract.MAX_BODY_BYTES_IN + 1)
    return _refusal(lambda: request.decode_body({"content-type": jsonapi.MEDIA_TYPE}, body))


def unsupported() -> Document:
    return _refusal(lambda: request.decode_body({"content-type": "text/plain"}, b"{}"))


def stored_batch() -> Document:
    """Returns the answer to a batch for Pipeless."""
    pipeless_intake.read(msgspec.json.encode(BATCH), _APP)
    return {"receipt": RECEIPT}


def bad_batch() -> Document:
    return _pipeless_refusal(lambda: pipeless_intake.read(msgspec.json.encode(BAD_BATCH), _APP))


def no_app_key() -> Document:
    return _pipeless_refusal(lambda: pipeless.admit("123", {}, _ACCOUNTS))


def other_apps_key() -> Document:
    return _pipeless_refusal(lambda: pipeless.admit("7", _APP_KEY, _ACCOUNTS))


def unknown_app() -> Document:
    return _pipeless_refusal(lambda: pipeless.admit("9", _APP_KEY, _ACCOUNTS))


def unsupported_batch() -> Document:
    return _pipeless_refusal(lambda: pipeless.read(_APP, {"content-type": "text/plain"}, b"{}"))


def too_large_batch() -> Document:
    body = b" " * (contract.MAX_BODY_BYTES_IN + 1)
    return _pipeless_refusal(lambda: pipeless.read(_APP, {"content-type": "application/json"}, body))


def _pipeless_refusal(refuse: Callable[[], object]) -> Document:
    return _decoded(pipeless.errors(_refused(refuse).problems))


def delivery(events: int) -> Document:
    """Returns the answer to a webhook of so many events."""
    return _decoded(webhooks.answer(webhooks.Delivered(RECEIPT, SITE_ID, events=events)))


def gateway(kind: str) -> Document:
    """Returns the answer that the gateway gives by itself, by its own name for it."""
    template = yaml.load(Path("template.yaml").read_text("utf-8"), _Template)
    found = (resource.get("Properties", {}) for resource in template["Resources"].values())
    [answer] = next(each for each in found if each.get("ResponseType") == kind)["ResponseTemplates"].values()
    return _with_id(_decoded(answer.encode()))


class _Template(yaml.SafeLoader):
    """Reads CloudFormation's tags as nothing: no answer has any."""


_Template.add_multi_constructor("!", lambda *_: None)


def _receipt(accepted: Accepted) -> Document:
    return _with_id(_decoded(ingest.accepted_document(accepted)))


def _refusal(refuse: Callable[[], object]) -> Document:
    refused = _refused(refuse)
    return _with_id(_decoded(jsonapi.envelope(refused.status, refused.problems)))


def _refused(refuse: Callable[[], object]) -> Refused:
    try:
        refuse()
    except Refused as refused:
        return refused
    raise AssertionError("an example of a refusal is accepted")


def _decoded(answer: bytes) -> Document:
    document: Document = msgspec.json.decode(answer)
    return document


def _with_id(document: Document) -> Document:
    """Returns errors with one id, so that the same description is written each time."""
    for error in document.get("errors", []) + document.get("meta", {}).get("errors", []):
        error["id"] = _ERROR_ID
    return document
