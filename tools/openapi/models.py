"""Makes schemas of the bodies that routes take and answer, with the rules that types cannot state."""

from collections.abc import Set
from typing import Any, Final

import msgspec

from sluice import contract
from sluice.klaviyo import flat_event
from sluice.klaviyo.schemas import BulkDocument, ClientBulkDocument, SingleDocument
from sluice.pipeless.schemas import BatchDocument
from tools.openapi import answers

type Schema = dict[str, Any]

_TYPES: Final = (
    BulkDocument[Any],
    ClientBulkDocument[Any],
    SingleDocument[Any],
    answers.Accepted,
    answers.Progress,
    answers.Errors,
    BatchDocument,
    answers.Stored,
    answers.Delivery,
    answers.StringErrors,
)
_REF: Final = "#/components/schemas/"

_TEXT: Final = f"Strings hold at most {contract.MAX_STRING_BYTES:,} bytes of UTF-8 (ours: 100 KB as that)"
_FREE: Final = (
    f"Free-form. {_TEXT}, arrays {contract.MAX_ARRAY_LENGTH:,} elements, integers 64 bits with sign. "
    f"At most {contract.MAX_NESTING} levels deep (ours: this object is the first)."
)
_IDENTIFIER: Final = "One of the identifiers."
_TIME: Final = (
    f"ISO 8601. Not before {contract.EARLIEST_TIME:%Y-%m-%d} "
    f"({contract.EARLIEST_TIME_BEFORE_2026_07_15:%Y-%m-%d} for revisions before {contract.YEAR_1990_SINCE}) "
    "and at most a year ahead. Without it, the second in which the request is accepted. "
    "Ours: without an offset it is in UTC."
)


def _one_of(names: Set[str]) -> Schema:
    return {
        "anyOf": [{"enum": sorted(names)}, {"description": "A name that Pipeless has added for the app."}]
    }


_EVENT: Final[dict[str, Schema]] = {
    "properties": {
        "maxProperties": contract.MAX_PROPERTIES,
        "description": (
            f"{_FREE} At most {contract.MAX_PROPERTIES} keys "
            f"({contract.MAX_PROPERTIES_BEFORE_2025_04_15} for revisions before "
            f"{contract.PROPERTIES_400_SINCE}; ours: those of this object itself)."
        ),
    },
    "time": {"format": "date-time", "description": _TIME},
    "value": {"description": "An integer must fit in 64 bits with sign."},
    "value_currency": {"pattern": "^[A-Z]{3}$", "description": "ISO 4217."},
    "unique_id": {
        "pattern": r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$",
        "description": (
            "Counts once for a profile and metric. Ours: without it, a hash of profile, metric, "
            "second, properties, value and currency; no control characters, nor spaces at its ends."
        ),
    },
    "backfill": {"description": "Record without triggering flows."},
}
_DATE: Final = {
    "pattern": (
        "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$"
    )
}
# Properties of a field that its type does not state: `rules` checks them, or `parser` applies them.
FIELDS: Final[dict[tuple[str, str], Schema]] = {
    ("EntryList", "data"): {"minItems": 1, "maxItems": contract.MAX_EVENTS_PER_REQUEST},
    ("EventList", "data"): {
        "minItems": 1,
        "maxItems": contract.MAX_EVENTS_PER_REQUEST,
        "description": f"At most {contract.MAX_EVENTS_PER_REQUEST:,} events in a request, over all entries.",
    },
    ("EntryAttributes", "backfill"): {"description": "As if each of the events said so."},
    **{
        (holder, name): schema
        for holder in ("EventAttributes", "SingleAttributes", "FlatAttributes")
        for name, schema in _EVENT.items()
    },
    ("MetricAttributes", "name"): {
        "description": (
            f"Where an account is held to Klaviyo's former limit of {contract.MAX_METRICS} metrics (ours: "
            "off by default), one of these."
        )
    },
    ("MetricAttributes", "service"): {"description": f"{_TEXT}."},
    ("ProfileData", "id"): {"description": f"Klaviyo's own id. {_IDENTIFIER}"},
    ("ProfileAttributes", "email"): {
        "format": "email",
        "maxLength": contract.MAX_EMAIL,
        "description": _IDENTIFIER,
    },
    ("ProfileAttributes", "phone_number"): {
        "description": (
            f"E.164. {_IDENTIFIER} A bad one beside another identifier is left out and named in "
            "`X-Klaviyo-Partial-Failure` (ours: on every route)."
        ),
        "examples": ["+15005550006"],
    },
    ("ProfileAttributes", "external_id"): {"description": _IDENTIFIER},
    ("ProfileAttributes", "anonymous_id"): {"description": _IDENTIFIER},
    ("ProfileAttributes", "_kx"): {"description": _IDENTIFIER},
    ("ProfileAttributes", "properties"): {"description": _FREE},
    ("ProfileAttributes", "meta"): {
        "description": "Where single events of revisions 2024-02-15 to 2026-07-15 have the profile's `meta`.",
    },
    ("ProfileMeta", "patch_identifiers"): {"description": "Ours: left out on the client routes."},
    ("PatchProperties", "append"): {"description": _FREE},
    ("PatchProperties", "unappend"): {"description": _FREE},
    ("PatchIdentifiers", "append"): {"description": _FREE},
    ("PatchIdentifiers", "unappend"): {"description": _FREE},
    ("BatchDocument", "events"): {"minItems": 1, "maxItems": contract.MAX_EVENTS_PER_CALL},
    ("PipelessObject", "type"): _one_of(contract.OBJECT_TYPES),
    ("PipelessObject", "created_on"): {**_DATE, "description": "In UTC, without an offset."},
    ("PipelessObject", "modified_on"): {**_DATE, "description": "In UTC, without an offset."},
    ("PipelessRelationship", "type"): _one_of(contract.RELATIONSHIP_TYPES),
    ("PipelessRelationship", "created_on"): {
        **_DATE,
        "description": "In UTC, without an offset. Ours: without it, when the batch is accepted.",
    },
}

_TEXT_SCHEMA: Final = {"type": "string", "minLength": 1}
WHOLE: Final[dict[str, Schema]] = {
    "BulkDocument": {"description": "Events of many profiles."},
    "ClientBulkDocument": {"description": "Events of one profile."},
    "SingleDocument": {"description": "One event."},
    "ProfileData": {
        "description": (
            f"At most {contract.MAX_PROFILE_BYTES:,} bytes as JSON (ours: 95 KB as that), with at least one "
            "identifier. Ours: a client route keeps the strongest one alone, in the order "
            f"{', '.join(contract.IDENTIFIERS)}."
        ),
        "anyOf": [
            {"required": ["id"], "properties": {"id": _TEXT_SCHEMA}},
            *(
                {"properties": {"attributes": {"required": [name], "properties": {name: _TEXT_SCHEMA}}}}
                for name in contract.IDENTIFIERS[1:]
            ),
        ],
        # In one of the two places where it may be.
        "not": {"required": ["meta"], "properties": {"attributes": {"required": ["meta"]}}},
    },
}


def schemas() -> dict[str, Schema]:
    """Returns the description's components, by name."""
    _, generated = msgspec.json.schema_components(_TYPES, ref_template=f"{_REF}{{name}}")
    components = {_plain(name): _readable(schema) for name, schema in generated.items()}
    components |= _flat(components)
    for name, schema in WHOLE.items():
        components[name] |= schema
    for (name, field), schema in FIELDS.items():
        components[name]["properties"][field] |= schema
    return components


def ref(name: str) -> Schema:
    """Returns a reference to a component; raises `KeyError` if there is none."""
    return {"$ref": _REF + name}


def _flat(components: dict[str, Schema]) -> dict[str, Schema]:
    """Describes the deprecated shape of a single event, which has no types because it is translated."""
    attributes, profile = (
        components[name]["properties"] for name in ("SingleAttributes", "ProfileAttributes")
    )
    known = {
        old: profile[new] | FIELDS.get(("ProfileAttributes", new), {})
        for old, new in flat_event.ATTRIBUTES.items()
    }
    known |= {old: components["Location"]["properties"][new] for old, new in flat_event.LOCATION.items()}
    return {
        "FlatDocument": _object({"data": ref("FlatData")})
        | {"description": "One event in the deprecated shape."},
        "FlatData": _object({"type": {"const": "event"}, "attributes": ref("FlatAttributes")}),
        "FlatAttributes": _object(
            {**attributes, "profile": ref("FlatProfile"), "metric": ref("MetricAttributes")},
            required=["profile", "metric", "properties"],
        ),
        "FlatProfile": {
            "type": "object",
            "description": (
                "Told from the current shape by having no `data`. At least one of `$email`, `$phone_number` "
                "and `$id`. A field that is not listed is a custom property; ours: so is `$consent`, which "
                "subscribes nobody."
            ),
            "properties": known,
            "anyOf": [
                {"required": [name], "properties": {name: _TEXT_SCHEMA}}
                for name in ("$email", "$phone_number", "$id")
            ],
            "not": {"required": ["data"]},
        },
    }


def _object(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {name: dict(schema) for name, schema in properties.items()},
        "required": required or list(properties),
        "additionalProperties": False,
    }


def _plain(name: str) -> str:
    return name.removesuffix("_Any_")


def _readable(node: Any) -> Any:
    """Returns a generated schema as one would write it by hand."""
    match node:
        case {"anyOf": [*choices], **rest} if all(choice.keys() == {"type"} for choice in choices):
            kinds = dict.fromkeys(choice["type"] for choice in choices)
            if "number" in kinds:
                kinds.pop("integer", None)
            return {"type": list(kinds), **rest}
        case {"anyOf": [{"type": str(kind), **limits}, {"type": "null"}], **rest}:
            return _readable({"type": [kind, "null"], **limits, **rest})
        case {"enum": [only], **rest}:
            return {"const": only, **rest}
        case dict():
            return {
                name: _readable_part(name, part) for name, part in node.items() if not _is_title(name, part)
            }
        case list():
            return [_readable(item) for item in node]
        case _:
            return node


def _readable_part(name: str, part: Any) -> Any:
    return _plain(part) if name == "$ref" and isinstance(part, str) else _readable(part)


def _is_title(name: str, part: Any) -> bool:
    return name == "title" and isinstance(part, str)  # a type's own name, which is the component's already
