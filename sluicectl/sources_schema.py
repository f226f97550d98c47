"""Builds the JSON Schema of the sources document, with which an editor completes and checks it.

pydantic's own schema is that of a document whose sources are merged over their presets. An operator's
document may leave out what a preset has, and remove it with null.
"""

from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from sluice.contract import IDENTIFIERS
from sluice.webhooks import presets
from sluice.webhooks.source_config import SourcesConfig

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_NULL: Final = {"type": "null"}
_NO_NULL_PROFILE: Final = {"properties": {"profile": {"type": "object"}}}
_OWN_PROFILE: Final = {
    "required": ["profile"],
    "properties": {
        "profile": {
            "type": "object",
            "anyOf": [{"required": [name], "properties": {name: {"type": "string"}}} for name in IDENTIFIERS],
        }
    },
}

type Schema = dict[str, Any]


def build() -> Schema:
    """Returns the schema, with what each preset makes optional."""
    schema = SourcesConfig.model_json_schema(schema_generator=_Untitled)
    definitions = schema["$defs"]
    definitions["EventConfig"]["required"].remove("profile")  # which all events of a source may share
    for each in definitions.values():
        _allow_null(each)
    definitions["EventConfig"]["required"].remove("metric")  # which a preset's event has
    _relax_source(definitions["SourceConfig"])
    del schema["title"]
    return {"$schema": DIALECT, "title": "Sluice's sources document", **schema}


class _Untitled(GenerateJsonSchema):
    """Leaves out titles, which would only repeat the names of fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def _allow_null(definition: Schema) -> None:
    """Lets null stand for what may be left out."""
    required = definition.get("required", [])
    for name, each in definition.get("properties", {}).items():
        if name not in required and _NULL not in each.get("anyOf", []):
            about = {key: each.pop(key) for key in ("description", "default") if key in each}
            definition["properties"][name] = {**about, "anyOf": [each.copy(), _NULL]}


def _relax_source(source: Schema) -> None:
    """Asks of a source only what its preset has not."""
    fields = source["properties"]
    source["required"] = ["account", "secret"]
    fields["preset"] = {
        "description": fields["preset"]["description"],
        "enum": [*presets.names(), None],
    }
    events = fields["events"]
    del events["minProperties"]
    events["additionalProperties"] = {"anyOf": [events["additionalProperties"], _NULL]}
    union = {key: fields["signature"].pop(key) for key in ("oneOf", "discriminator")}
    fields["signature"]["anyOf"] = [
        union,
        {"type": "object", "properties": {"scheme": False}, "additionalProperties": _NULL},
    ]
    preset_is_given = {"required": ["preset"], "properties": {"preset": {"type": "string"}}}
    source["allOf"] = [
        {"if": preset_is_given, "else": _required_beside({})},
        *(
            {
                "if": {"required": ["preset"], "properties": {"preset": {"const": name}}},
                "then": _required_beside(presets.load(name)),
            }
            for name in presets.names()
        ),
    ]


def _required_beside(base: Schema) -> Schema:
    """Returns what a source has to say beside its preset, or beside nothing."""
    known = base.get("events", {})
    profile_is_shared: Schema = {"properties": {"profile": {"type": "object"}}}
    if "profile" not in base:
        profile_is_shared["required"] = ["profile"]
    return {
        "required": [name for name in ("signature", "events") if name not in base],
        "properties": {
            "signature": {} if "signature" in base else {"required": ["scheme"]},
            "events": {
                "properties": {name: {} for name in known},
                "additionalProperties": {"required": ["metric"]},
                "not": {  # nothing is left
                    "required": list(known),
                    "additionalProperties": _NULL,
                },
            },
        },
        "if": {"not": profile_is_shared},
        "then": _required_without_shared_profile(known),
    }


def _required_without_shared_profile(known: Schema) -> Schema:
    """Returns what events have to say that have no profile of their source's."""
    without = [name for name, event in known.items() if "profile" not in event]
    of_known = {name: _OWN_PROFILE if name in without else _NO_NULL_PROFILE for name in known}
    return {
        "required": ["events"] if without else [],
        "properties": {
            "events": {"required": without, "properties": of_known, "additionalProperties": _OWN_PROFILE}
        },
    }
