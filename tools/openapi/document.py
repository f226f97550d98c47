"""Describes the routes: the bodies each takes, and each of its answers."""

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sluice import contract, jsonapi
from sluice.aws import state_table
from sluice.contract import Surface
from sluice.jsonapi import MAX_PROBLEMS_LISTED
from tools.openapi import examples, models
from tools.openapi.examples import Document

type Part = dict[str, Any]

_INFO: Final = {
    "title": "Sluice",
    "version": contract.UPSTREAM_REVISION,
    "description": f"""\
Sluice stands in front of Klaviyo's event APIs, and of Pipeless's batches. It takes events in as fast as they
come, answers 202 once they are stored, and sends them on as full bulk jobs at the allowed rate.

Sentences marked *ours* are Sluice's own decisions, where the vendors' documents leave something open, or
additions. The rest is as they document it.

- **Authentication.** Server routes take an ingest key: `Authorization: Klaviyo-API-Key …`, or
  `Authorization: Bearer …`. Client routes know their caller by the public site id in `company_id` alone, and
  refuse keys.
- **Paths** may end with a slash. Header names may be in any case.
- **Bodies** are UTF-8 JSON of at most {contract.MAX_BODY_BYTES_IN:,} bytes after decompression (ours: 5 MB as
  that), without repeated keys. `Content-Encoding` may be gzip or deflate.
- **Unknown fields** are refused. A request is taken whole or refused whole, with every problem listed
  (ours: up to {MAX_PROBLEMS_LISTED}, and then their number), unless lenient handling is asked for.
- **Browsers** may call the client routes: they answer `OPTIONS` too, and have CORS headers for the allowed
  origins. Server routes have none.
- **Limits.** Where this deployment limits its callers, answers to admitted requests have `RateLimit-Limit`,
  `-Remaining` and `-Reset`, and one request too many is answered 429.
- A route's other methods are answered 405 with `Allow`, other paths 404, in the shape of every error.
""",
}
_SECURITY: Final = {
    "Klaviyo-API-Key": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Klaviyo-API-Key` and an ingest key of this deployment.",
    },
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same keys."},
}
_TAGS: Final = {
    "Server": "For servers, with an ingest key.",
    "Client": (
        "For browsers and apps, without a key. Ours: what a stranger sends joins jobs of the server, so a "
        "profile keeps its strongest identifier alone and loses `patch_identifiers`."
    ),
    "Webhooks": "Deliveries of the sources that this deployment declares. Ours.",
    "Pipeless": "Batches for Pipeless, with an ingest key of the app. Errors are strings.",
    "Description": "This description.",
}

_PARAMETERS: Final[dict[str, Part]] = {
    "Revision": {
        "name": "revision",
        "in": "header",
        "required": True,
        "description": (
            "Date of the API's revision. Ours: one in the future is refused; one older than two years is "
            "served by a newer one."
        ),
        "schema": {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[A-Za-z0-9]+)?$"},
        "example": contract.UPSTREAM_REVISION,
    },
    "FallForwardOptOut": {
        "name": "X-Klaviyo-Revision-Fall-Forward-Opt-Out",
        "in": "header",
        "description": "`1` to get 410 for a retired revision and not to be served by a newer one.",
        "schema": {"type": "string"},
    },
    "CompanyId": {
        "name": "company_id",
        "in": "query",
        "required": True,
        "description": "The account's public API key (site ID).",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9]{6}$"},
        "example": examples.SITE_ID,
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": "Ours (RFC 7240): `return=minimal` for an answer without a body.",
        "schema": {"type": "string"},
        "example": "return=minimal",
    },
    "PreferBulk": {
        "name": "Prefer",
        "in": "header",
        "description": (
            "Ours (RFC 7240): `return=minimal` for an answer without a body, `handling=lenient` to have the "
            "good events taken and the bad ones rejected; by commas."
        ),
        "schema": {"type": "string"},
        "example": "handling=lenient",
    },
    "IfNoneMatch": {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}},
}
_HEADERS: Final[dict[str, Part]] = {
    "RetryAfter": {
        "description": "Seconds to wait before trying again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "PartialFailure": {
        "description": "Fields that were left out, `phone_number` only.",
        "schema": {"type": "string"},
    },
    "PreferenceApplied": {
        "description": "Ours: the preferences that were followed.",
        "schema": {"type": "string"},
    },
    "RateLimitLimit": {
        "description": (
            f"Requests a minute: {contract.STEADY_LIMIT} in bulk, {contract.EVENT_STEADY_LIMIT:,} of one."
        ),
        "schema": {"type": "integer"},
    },
    "RateLimitRemaining": {"description": "How many are left of them.", "schema": {"type": "integer"}},
    "RateLimitReset": {"description": "Seconds until there are all again.", "schema": {"type": "integer"}},
    "ETag": {"description": "Of what is served.", "required": True, "schema": {"type": "string"}},
}

_NAMES: Final = {
    "RetryAfter": "Retry-After",
    "PartialFailure": "X-Klaviyo-Partial-Failure",
    "PreferenceApplied": "Preference-Applied",
    "RateLimitLimit": "RateLimit-Limit",
    "RateLimitRemaining": "RateLimit-Remaining",
    "RateLimitReset": "RateLimit-Reset",
    "ETag": "ETag",
}
_OF_ACCEPTED: Final = (
    "PartialFailure",
    "PreferenceApplied",
    "RateLimitLimit",
    "RateLimitRemaining",
    "RateLimitReset",
)


def _ref(kind: str, name: str) -> Part:
    return {"$ref": f"#/components/{kind}/{name}"}


def _content(media_types: Iterable[str], schemas: Sequence[str], shown: dict[str, Document]) -> Part:
    references = [models.ref(name) for name in schemas]
    each: Part = {"schema": references[0] if len(references) == 1 else {"oneOf": references}}
    if len(shown) == 1:
        [each["example"]] = shown.values()
    elif shown:
        each["examples"] = {name: {"value": value} for name, value in shown.items()}
    return {"content": dict.fromkeys(media_types, each)}


def _refusal(description: str, shown: dict[str, Document], *headers: str) -> Part:
    content = _content([jsonapi.MEDIA_TYPE], ["Errors"], shown)
    return {"description": description, **_headers(*headers), **content}


def _headers(*names: str) -> Part:
    return {"headers": {_NAMES[name]: _ref("headers", name) for name in names}} if names else {}


_RESPONSES: Final[dict[str, Part]] = {
    "NotAuthenticated": _refusal(
        "No key, or one that is not known.",
        {"no key": examples.not_authenticated(), "unknown key": examples.unknown_key()},
    ),
    "Retired": _refusal(
        "The revision is retired, and falling forward was opted out of.", {"410": examples.retired_revision()}
    ),
    "TooLarge": _refusal("The body is too large.", {"413": examples.too_large()}),
    "UnsupportedMediaType": _refusal(
        "A media type or encoding that is not taken.", {"415": examples.unsupported()}
    ),
    "Throttled": _refusal("Too many requests.", {"429": examples.gateway("THROTTLED")}, "RetryAfter"),
    "Fault": _refusal("The fault is on this side. Nothing was accepted.", {}),
    "Unavailable": _refusal(
        "Nothing can be stored, or the gateway failed. Try again: an event with its own `time` or "
        "`unique_id` counts once.",
        {"503": examples.gateway("DEFAULT_5XX")},
        "RetryAfter",
    ),
    "TimedOut": _refusal(
        "The gateway got no answer in time. As 503.",
        {"504": examples.gateway("INTEGRATION_TIMEOUT")},
        "RetryAfter",
    ),
    "MayNotSend": _refusal(
        f"The key lacks the scope `{contract.SCOPE_EVENTS_WRITE}`.",
        {"403": examples.without_scope(contract.SCOPE_EVENTS_WRITE)},
    ),
    "MayNotAsk": _refusal(
        f"The key has neither `{contract.SCOPE_EVENTS_READ}` nor `{contract.SCOPE_EVENTS_WRITE}`.",
        {"403": examples.without_scope(contract.SCOPE_EVENTS_READ, contract.SCOPE_EVENTS_WRITE)},
    ),
    "Filtered": _refusal(
        "A firewall in front of the gateway does not let this request pass.",
        {"403": examples.gateway("WAF_FILTERED")},
    ),
}
_FAULTS: Final[dict[str, Part]] = {
    "429": _ref("responses", "Throttled"),
    "500": _ref("responses", "Fault"),
    "503": _ref("responses", "Unavailable"),
    "504": _ref("responses", "TimedOut"),
}


def _accepting(
    surface: Surface,
    name: str,
    summary: str,
    description: str,
    *,
    bodies: dict[str, tuple[str, Document]],
    refused: dict[str, Document],
) -> Part:
    """Describes an operation that takes events: `bodies` are an example and its schema, by name."""
    client = surface in {Surface.CLIENT_BULK, Surface.CLIENT_EVENT}
    shown = {title: body for title, (_, body) in bodies.items()}
    answers = {"202": examples.accepted(surface, *shown.values())}
    if surface is Surface.BULK:
        answers["lenient handling"] = examples.accepted_leniently(examples.BAD_BULK)
    prefer = "PreferBulk" if surface is Surface.BULK else "Prefer"
    parameters = ["Revision", "FallForwardOptOut", prefer] + (["CompanyId"] if client else [])
    refusals: dict[str, Part] = {
        "400": _refusal(
            "Something in the request is wrong.",
            {**refused, "not JSON": examples.not_json(surface), "no revision": examples.without_revision()},
        ),
        **({} if client else {"401": _ref("responses", "NotAuthenticated")}),
        "403": _ref("responses", "Filtered" if client else "MayNotSend"),
        "410": _ref("responses", "Retired"),
        "413": _ref("responses", "TooLarge"),
        "415": _ref("responses", "UnsupportedMediaType"),
    }
    return {
        "operationId": name,
        "summary": summary,
        "description": description,
        "tags": ["Client" if client else "Server"],
        "security": [] if client else _any_key(contract.SCOPE_EVENTS_WRITE),
        "parameters": [_ref("parameters", each) for each in parameters],
        "requestBody": {
            "required": True,
            **_content(
                sorted(contract.MEDIA_TYPES),
                list(dict.fromkeys(schema for schema, _ in bodies.values())),
                shown,
            ),
        },
        "responses": {
            "202": {
                "description": "The events are stored. Ours: a receipt unless `return=minimal` is preferred.",
                **_headers(*_OF_ACCEPTED),
                **_content([jsonapi.MEDIA_TYPE], ["Accepted"], answers),
            },
            **refusals,
            **_FAULTS,
        },
    }


def _batch_refusal(description: str, example: Document | None = None) -> Part:
    """Describes a refusal on Pipeless's route; the gateway's own answers have the shape of the other
    routes.
    """
    said = _content(["application/json"], ["StringErrors"], {"": example} if example else {})
    by_gateway = _content([jsonapi.MEDIA_TYPE], ["Errors"], {})
    return {"description": description, "content": {**said["content"], **by_gateway["content"]}}


def _any_key(*scopes: str) -> list[dict[str, list[str]]]:
    return [{scheme: [scope]} for scheme in _SECURITY for scope in scopes]


def _serving(name: str, summary: str, media_type: str, schema: Part) -> Part:
    """Describes an operation that serves a part of this description."""
    tag = _headers("ETag")
    return {
        "operationId": name,
        "summary": summary,
        "description": "Ours. For anybody.",
        "tags": ["Description"],
        "security": [],
        "parameters": [_ref("parameters", "IfNoneMatch")],
        "responses": {
            "200": {"description": f"{summary}.", **tag, "content": {media_type: {"schema": schema}}},
            "304": {"description": "The caller has it already.", **tag},
            **{status: answer for status, answer in _FAULTS.items() if status != "500"},
        },
    }


_CLIENT_REFUSALS: Final = {"unknown company": examples.unknown_company(), "a key": examples.exposed_key()}
PATHS: Final[dict[str, Part]] = {
    "/api/event-bulk-create-jobs": {
        "post": _accepting(
            Surface.BULK,
            "bulk_create_events",
            "Create events of many profiles",
            f"At most {contract.MAX_EVENTS_PER_REQUEST:,} events over all entries.",
            bodies={"two events of a profile": ("BulkDocument", examples.BULK)},
            refused={"several problems": examples.invalid(Surface.BULK, examples.BAD_BULK)},
        )
    },
    "/api/event-bulk-create-jobs/{id}": {
        "get": {
            "operationId": "get_event_bulk_create_job",
            "summary": "Ask what became of a bulk request",
            "description": (
                "Ours: Klaviyo has no such route for events. With any key of the account, for "
                f"{state_table.MESSAGE_LIFE_SECONDS // 86_400} days. It needs no `revision`."
            ),
            "tags": ["Server"],
            "security": _any_key(contract.SCOPE_EVENTS_READ, contract.SCOPE_EVENTS_WRITE),
            "parameters": [
                {
                    "name": "id",
                    "in": "path",
                    "required": True,
                    "description": "The receipt in the 202.",
                    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                    "example": examples.RECEIPT,
                }
            ],
            "responses": {
                "200": {
                    "description": "The outcome so far.",
                    **_content([jsonapi.MEDIA_TYPE], ["Progress"], {"200": examples.progress()}),
                },
                "401": _ref("responses", "NotAuthenticated"),
                "403": _ref("responses", "MayNotAsk"),
                "404": _refusal("No such receipt of this account.", {"404": examples.unknown_receipt()}),
                **_FAULTS,
            },
        }
    },
    "/api/events": {
        "post": _accepting(
            Surface.EVENT,
            "create_event",
            "Create an event",
            "The deprecated flat shape of 2022-10-17 to 2023-06-15 is told from the current one by its body "
            "(ours).",
            bodies={
                "current": ("SingleDocument", examples.SINGLE),
                "deprecated": ("FlatDocument", examples.FLAT),
            },
            refused={"several problems": examples.invalid(Surface.EVENT, examples.BAD_SINGLE)},
        )
    },
    "/client/event-bulk-create": {
        "post": _accepting(
            Surface.CLIENT_BULK,
            "bulk_create_client_events",
            "Create events of one profile",
            f"At most {contract.MAX_EVENTS_PER_REQUEST:,} events.",
            bodies={"a visitor's event": ("ClientBulkDocument", examples.CLIENT_BULK)},
            refused=_CLIENT_REFUSALS
            | {"several problems": examples.invalid(Surface.CLIENT_BULK, examples.BAD_CLIENT_BULK)},
        )
    },
    "/client/events": {
        "post": _accepting(
            Surface.CLIENT_EVENT,
            "create_client_event",
            "Create an event",
            "",
            bodies={"a visitor's event": ("SingleDocument", examples.CLIENT_SINGLE)},
            refused=_CLIENT_REFUSALS
            | {"several problems": examples.invalid(Surface.CLIENT_EVENT, examples.BAD_SINGLE)},
        )
    },
    "/webhooks/{source}": {
        "post": {
            "operationId": "deliver_webhook",
            "summary": "Deliver a webhook",
            "description": (
                "The source's declaration says how a delivery is signed and which events it becomes. A "
                "payload that makes no sense is a rejection and a success all the same, unless the source "
                "refuses it, because senders disable a hook that keeps failing."
            ),
            "tags": ["Webhooks"],
            "security": [],
            "parameters": [
                {
                    "name": "source",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string"},
                    "example": "shopify",
                }
            ],
            "requestBody": {
                "description": "As the sender signed it: JSON, or a form.",
                "required": True,
                "content": {
                    "application/json": {"schema": {}, "example": {"id": 1001, "total_price": "19.90"}},
                    "application/x-www-form-urlencoded": {
                        "schema": {"type": "object"},
                        "example": {"id": "1001", "total_price": "19.90"},
                    },
                },
            },
            "responses": {
                "200": {
                    "description": "There is no event in it, or nothing but rejections.",
                    **_content([jsonapi.MEDIA_TYPE], ["Delivery"], {"200": examples.delivery(0)}),
                },
                "202": {
                    "description": "Its events are stored.",
                    **_content([jsonapi.MEDIA_TYPE], ["Delivery"], {"202": examples.delivery(1)}),
                },
                "400": _refusal("The source is to refuse what makes no sense, and this does not.", {}),
                "401": _refusal("Not signed as the source asks, or not just now.", {}),
                "403": _ref("responses", "Filtered"),
                "404": _refusal("No such source.", {}),
                "413": _ref("responses", "TooLarge"),
                **_FAULTS,
            },
        }
    },
    contract.PIPELESS_EVENTS_PATH: {
        "post": {
            "operationId": "create_events_batch",
            "summary": "Create events of an app at once",
            "description": (
                f"At most {contract.MAX_EVENTS_PER_CALL}, taken whole or refused whole (ours). Objects are "
                "written by type and id: created if missing, else reused. It needs no `revision`."
            ),
            "tags": ["Pipeless"],
            "security": [{"Bearer": [contract.SCOPE_EVENTS_WRITE]}],
            "parameters": [
                {
                    "name": "app_id",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "integer", "minimum": 1},
                    "example": 123,
                }
            ],
            "requestBody": {
                "required": True,
                **_content(contract.PIPELESS_MEDIA_TYPES, ["BatchDocument"], {"a purchase": examples.BATCH}),
            },
            "responses": {
                "201": {
                    "description": "With `synchronous`: Pipeless has taken the batch; this is its answer.",
                    "content": {"application/json": {"schema": {}}},
                },
                "202": {
                    "description": "The batch is stored. Ours: with a receipt.",
                    **_content(["application/json"], ["Stored"], {"a receipt": examples.stored_batch()}),
                },
                "400": _batch_refusal("Something in the batch is wrong.", examples.bad_batch()),
                "401": _batch_refusal("No key, or one that is not known.", examples.no_app_key()),
                "403": _batch_refusal(
                    f"The key is another app's, or lacks the scope `{contract.SCOPE_EVENTS_WRITE}`.",
                    examples.other_apps_key(),
                ),
                "404": _batch_refusal("No such app.", examples.unknown_app()),
                "413": _batch_refusal("The body is too large.", examples.too_large_batch()),
                "415": _batch_refusal(
                    "A media type or encoding that is not taken.", examples.unsupported_batch()
                ),
                "422": _batch_refusal("With `synchronous`: Pipeless finds something in the batch wrong."),
                "429": _batch_refusal("Too many requests, here or with `synchronous` at Pipeless."),
                "500": _batch_refusal("The fault is on this side. Nothing was accepted."),
                "502": _batch_refusal("Ours. With `synchronous`: Pipeless failed, or refuses this gateway."),
                "503": _batch_refusal("Nothing can be stored. Try again after `Retry-After`."),
                "504": _batch_refusal(
                    "Ours. With `synchronous`: Pipeless did not answer, and may have taken the batch."
                ),
            },
        }
    },
    "/openapi.json": {
        "get": _serving("get_description", "This description", "application/json", {"type": "object"})
    },
    "/docs": {"get": _serving("get_docs", "This description as a page", "text/html", {"type": "string"})},
}


def text() -> str:
    """Returns the description as it is served."""
    return json.dumps(description(), indent=1, ensure_ascii=False) + "\n"


def description() -> Part:
    """Returns the whole description, which its reader may change: the parts are copied."""
    whole = {
        "openapi": "3.1.1",
        "info": _INFO,
        "servers": [{"url": "."}],
        "tags": [{"name": name, "description": told} for name, told in _TAGS.items()],
        "paths": PATHS,
        "components": {
            "securitySchemes": _SECURITY,
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": _RESPONSES,
            "schemas": models.schemas(),
        },
    }
    return copy.deepcopy(whole)
