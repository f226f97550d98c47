"""Declares the sources document as operators write it: read by pydantic, which finds every mistake at once.

The declaration is also the document's JSON Schema. Ingest imports it only for a document whose normalised
form does not count.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import (
    CoreSchema,
    ErrorDetails,
    PydanticCustomError,
    PydanticKnownError,
    core_schema,
)

from sluice.contract import IDENTIFIERS, MAX_METRIC_NAME
from sluice.jsonapi import Problem, pointer
from sluice.webhooks import presets
from sluice.webhooks.expressions import Expression, MappingError, parse

MAX_TEMPLATE_DEPTH: Final = 20
_PLACEHOLDERS: Final = re.compile(r"\{[^{}]*\}")
# Tags of unions: pydantic puts them into the path of an error, where a name of the document cannot be told
# from one by anything but its brackets.
_TEXT, _OBJECT, _ARRAY, _OTHER = _TAGS = ("<text>", "<object>", "<array>", "<other>")


@dataclass(frozen=True)
class _Matches:
    """Accepts strings that match a pattern; `words` say what would be right of a `{field}` that does not."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"pattern": f"^{self.pattern}$"}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise _mistake(self.words)
        return value


def _mistake(words: str) -> PydanticCustomError:
    # Words may hold braces, which pydantic would take for names in its context.
    return PydanticCustomError("words", "{words}", {"words": words})


def _parse_expression(value: object) -> Expression:
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    try:
        return parse(value)
    except MappingError as error:
        raise _mistake(str(error)) from None


def _json_type(value: object) -> str:
    return _TEXT if isinstance(value, str) else _OBJECT if isinstance(value, dict) else _OTHER


def _template_type(value: object) -> str:
    return _ARRAY if isinstance(value, list) else _json_type(value)


def _check_depth(value: object) -> object:
    nodes, depth = [value], 0
    while nodes := [
        child
        for node in nodes
        if isinstance(node, dict | list)
        for child in (node.values() if isinstance(node, dict) else node)
    ]:
        depth += 1
        if depth > MAX_TEMPLATE_DEPTH:
            raise _mistake(f"'{{field}}' may be nested {MAX_TEMPLATE_DEPTH} levels deep at most.")
    return value


def _check_preset(name: str) -> str:
    if name not in presets.names():
        raise _mistake(f"There is no such preset: take one of {', '.join(presets.names())}.")
    return name


type ExpressionField = Annotated[
    Expression,
    PlainValidator(_parse_expression, json_schema_input_type=str),
    Field(description="A JMESPath expression. A text of your own stands in single quotes."),
]
type TemplateField = Annotated[
    Annotated[ExpressionField, Tag(_TEXT)]
    | Annotated[dict[str, TemplateField], Tag(_OBJECT)]
    | Annotated[list[TemplateField], Tag(_ARRAY)]
    | Annotated[int | float | bool | None, Tag(_OTHER)],
    Discriminator(_template_type),
]
type Properties = Annotated[dict[str, TemplateField], BeforeValidator(_check_depth)]
type HeaderName = Annotated[
    str,
    _Matches(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", "'{field}' must be the name of a header."),
    AfterValidator(str.lower),
]
type SourceName = Annotated[
    str,
    _Matches(r"[a-z0-9][a-z0-9-]{0,62}", "A source's name has a to z, 0 to 9 and hyphens only, at most 63."),
]
type MetricName = Annotated[str, Field(min_length=1, max_length=MAX_METRIC_NAME)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class SenderSignature(_Config):
    """Verifies requests as the sender documents it; there is nothing more to say."""

    scheme: Literal["shopify", "stripe", "standard-webhooks", "woocommerce", "github", "klaviyo", "basic"]


class BearerSignature(_Config):
    """Verifies requests by the secret itself, in a header."""

    scheme: Literal["bearer"]
    header: HeaderName = Field("authorization", description="The header that holds the secret.")
    prefix: str = Field("Bearer ", description="The text before the secret; nothing in a `header` of yours.")


class HmacSignature(_Config):
    """Verifies requests by a signature of their body, written as declared here."""

    scheme: Literal["hmac"]
    header: HeaderName = Field(description="The header that holds the signature.")
    algorithm: Literal["sha256", "sha1", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = Field("", description="The text before the signature, such as `sha256=`.")
    separator: str = Field("", description="The text between the elements of the header, if it has several.")
    timestamp_header: HeaderName = Field("", description="The header that holds `{timestamp}`.")
    timestamp_prefix: str = Field(
        "", description="The text before `{timestamp}` in its element of the signature's header."
    )
    id_header: HeaderName = Field("", description="The header that holds `{id}`.")
    signed: str = Field(
        "{body}",
        description="The signed text: `{body}`, and perhaps `{timestamp}` and `{id}`.",
        validate_default=True,
    )

    @field_validator("timestamp_prefix")
    @classmethod
    def _check_separator(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("separator") == "":
            raise _mistake("'timestamp_prefix' goes with the 'separator' between the time and the signature.")
        return value

    @field_validator("signed")
    @classmethod
    def _check_signed(cls, value: str, info: ValidationInfo) -> str:
        """Says all that is wrong with `signed`. A field that is wrong itself is not in `info.data`."""
        mistakes = []
        unknown = set(_PLACEHOLDERS.findall(value)) - {"{body}", "{timestamp}", "{id}"}
        if unknown or value.count("{body}") != 1:
            mistakes.append("'signed' holds {body} once, and may hold {timestamp} and {id}.")
        times = [info.data.get(name) for name in ("timestamp_header", "timestamp_prefix")]
        if None not in times and sum(map(bool, times)) != ("{timestamp}" in value):
            mistakes.append(
                "A time is signed and found: {timestamp} goes with 'timestamp_header' or 'timestamp_prefix'."
            )
        identifier = info.data.get("id_header")
        if identifier is not None and bool(identifier) != ("{id}" in value):
            mistakes.append("{id} goes with 'id_header'.")
        if mistakes:
            raise _mistake(" ".join(mistakes))
        return value


class LocationConfig(_Config):
    """Maps a profile's location, with an expression for each field."""

    address1: ExpressionField | None = None
    address2: ExpressionField | None = None
    city: ExpressionField | None = None
    country: ExpressionField | None = None
    region: ExpressionField | None = None
    zip: ExpressionField | None = None
    timezone: ExpressionField | None = None
    ip: ExpressionField | None = None
    latitude: ExpressionField | None = None
    longitude: ExpressionField | None = None


class ProfileConfig(_Config):
    """Maps a profile, with an expression for each field."""

    id: ExpressionField | None = None
    email: ExpressionField | None = None
    phone_number: ExpressionField | None = None
    external_id: ExpressionField | None = None
    anonymous_id: ExpressionField | None = None
    kx: ExpressionField | None = Field(None, alias="_kx")
    first_name: ExpressionField | None = None
    last_name: ExpressionField | None = None
    organization: ExpressionField | None = None
    locale: ExpressionField | None = None
    title: ExpressionField | None = None
    image: ExpressionField | None = None
    location: LocationConfig | None = None
    properties: Properties | None = None


class MetricConfig(_Config):
    """Maps a metric whose name is in the payload."""

    expression: ExpressionField


class EventConfig(_Config):
    """Maps a payload to an event. Every string but `metric` is an expression."""

    metric: Annotated[
        Annotated[MetricName, Tag(_TEXT)] | Annotated[MetricConfig, Tag(_OBJECT)],
        Discriminator(
            _json_type, custom_error_type="metric", custom_error_message="must be a string or an object"
        ),
    ] = Field(description="The name of the metric as it is, or an `expression` for it.")
    profile: ProfileConfig = Field(description="Whose event it is: an identifier, and what else is known.")
    topics: list[str] | None = Field(
        None,
        description="The topics of the deliveries it is for. Default: all.",
        json_schema_extra={"minItems": 1},
    )
    when: ExpressionField | None = Field(None, description="The mapping yields nothing unless this is true.")
    each: ExpressionField | None = Field(
        None, description="The list whose elements become an event each; without it the payload becomes one."
    )
    properties: Properties | None = Field(
        None, description="The event's properties. A string is an expression, anything else is itself."
    )
    value: ExpressionField | None = None
    value_currency: ExpressionField | None = None
    time: ExpressionField | None = Field(None, description="Default: the time of acceptance.")
    unique_id: ExpressionField | None = Field(
        None, description="Default: the delivery's id and the number of the event in it."
    )
    object_id: ExpressionField | None = Field(
        None,
        description="The object of the sender that events tell of, such as an order: they do not repeat.",
    )
    waits_for_identity: bool = Field(
        False, description="An event of nobody is left to a later delivery of its object, and not rejected."
    )
    backfill: ExpressionField | None = None

    @field_validator("profile")
    @classmethod
    def _check_identifiers(cls, profile: ProfileConfig) -> ProfileConfig:
        fields = type(profile).model_fields
        if not {fields[name].alias or name for name in profile.model_fields_set} & set(IDENTIFIERS):
            raise _mistake(f"A profile needs one of {', '.join(IDENTIFIERS)}.")
        return profile

    @field_validator("topics")
    @classmethod
    def _check_topics(cls, topics: list[str] | None) -> list[str] | None:
        if topics == []:
            raise _mistake("'topics' must name at least one topic.")
        return topics

    @field_validator("object_id")
    @classmethod
    def _check_object_id(cls, object_id: Expression | None, info: ValidationInfo) -> Expression | None:
        if object_id is not None and info.data.get("unique_id", ...) is None:
            raise _mistake("'object_id' goes with 'unique_id', which tells the events of one object apart.")
        return object_id

    @field_validator("waits_for_identity")
    @classmethod
    def _check_waits(cls, waits: bool, info: ValidationInfo) -> bool:
        if waits and info.data.get("object_id", ...) is None:
            raise _mistake("'waits_for_identity' goes with 'object_id', by which a later delivery is told.")
        return waits


class SourceConfig(_Config):
    """Declares one source: who may post to its address, and which events its payloads become."""

    account: Annotated[
        str, _Matches(r"[A-Za-z0-9]{6}", "'account' must be a site id: six letters or digits.")
    ] = Field(description="The site id of the account its events belong to: six letters or digits.")
    secret: Annotated[
        str,
        _Matches(r"[A-Za-z0-9_-]{1,100}", "'secret' is a name of letters, digits, hyphens and underscores."),
    ] = Field(description="The name of its secret in Secrets Manager, below the stack's prefix.")
    preset: Annotated[str, AfterValidator(_check_preset)] | None = Field(
        None,
        description="The preset this source is merged over: objects merge, null removes, all else replaces.",
    )
    signature: SenderSignature | BearerSignature | HmacSignature = Field(
        discriminator="scheme", description="How a request is verified."
    )
    profile: ProfileConfig | None = Field(
        None, description="Fields of every event's profile, unless the event says otherwise."
    )
    events: dict[str, EventConfig] = Field(
        min_length=1, description="The events that a payload becomes: mappings by a name of your choice."
    )
    delivery_id: ExpressionField | None = Field(
        None, description="The id of a delivery. Default: where the sender of the scheme puts it."
    )
    topic: ExpressionField | None = Field(
        None, description="The topic of a delivery. Default: where the sender of the scheme says it."
    )
    on_invalid: Literal["accept", "refuse"] = Field(
        "accept", description="`refuse`: a payload with anything invalid is answered 400 and not kept."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, written: object) -> object:
        try:
            return presets.merge(written) if isinstance(written, dict) else written
        except RecursionError:
            raise _mistake("This is nested too deeply.") from None


class SourcesConfig(_Config):
    """Declares the sources of Sluice: who may post webhooks, and which events they become."""

    sources: dict[SourceName, SourceConfig] = Field(
        description="Every source by its name, which is the end of its address: /webhooks/<name>."
    )


class MappingsConfig(_Config):
    """Declares mappings that stand alone: what the rows of an imported file become."""

    profile: ProfileConfig | None = Field(
        None, description="Fields of every event's profile, unless the event says otherwise."
    )
    events: dict[str, EventConfig] = Field(
        min_length=1, description="The events that a row becomes: mappings by a name of your choice."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_profile(cls, written: object) -> object:
        return presets.with_profile(written) if isinstance(written, dict) else written


class _LoneMappings(BaseModel):
    """Puts mappings where `_path` finds them: at the place of a source."""

    sources: dict[str, MappingsConfig]


type Flaws = dict[str | None, list[Problem]]  # by the source they are in; None for the document's own


def read(document: Any) -> tuple[dict[str, dict[str, Any]], Flaws]:
    """Reads a parsed document: the sources that are valid, merged over their presets, and every mistake.

    A mistake has a JSON pointer into what was written. It may lead to what is missing, or to what a preset
    has and the document has not.
    """
    flaws: Flaws = {}
    try:
        SourcesConfig.model_validate(document)
    except ValidationError as error:
        flaws = _flaws(error, document)
    written = document.get("sources") if isinstance(document, dict) else None
    if not isinstance(written, dict):
        return {}, flaws
    return {name: presets.merge(each) for name, each in written.items() if name not in flaws}, flaws


def read_mappings(document: Any) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Reads mappings that stand alone: the events by name, each with its whole profile, and every mistake."""
    placed = {"sources": {"rows": document}}
    try:
        _LoneMappings.model_validate(placed)
    except ValidationError as error:
        found = _flaws(error, placed)["rows"]
        prefix = pointer("sources", "rows")
        return {}, [
            Problem(each.code, each.detail, (each.pointer or "").removeprefix(prefix)) for each in found
        ]
    events: dict[str, dict[str, Any]] = presets.with_profile(document)["events"]
    return events, []


def _flaws(error: ValidationError, document: Any) -> Flaws:
    found: dict[str | None, dict[Problem, None]] = {}  # events that share a profile share its mistakes
    errors = error.errors(include_url=False, include_input=False)
    without_preset = {each["loc"][:2] for each in errors if each["loc"][2:] == ("preset",)}
    for each in errors:
        place = each["loc"]
        is_of_preset = each["type"] == "missing" and place[2:] in {("signature",), ("events",)}
        if not (is_of_preset and place[:2] in without_preset):
            name = str(place[1]) if len(place) > 1 else None
            found.setdefault(name, {})[_problem(each, document)] = None
    return {name: list(problems) for name, problems in found.items()}


_REQUIRED: Final = "'{name}' is a required field for the resource '{resource}'."
_WORDS: Final = {
    "bool_type": "{field} must be true or false.",
    "dict_type": "{field} must be an object.",
    "extra_forbidden": "'{name}' is not a valid field for the resource '{resource}'.",
    "header_missing": "'hmac' needs the name of the header with the signature.",
    "list_type": "{field} must be an array.",
    "literal_error": "{field} must be {expected}.",
    "metric": "{field} must be a string or an object.",
    "missing": _REQUIRED,
    "model_attributes_type": "{field} must be an object.",
    "model_type": "{field} must be an object.",
    "of_another_scheme": "'{name}' is not for the scheme '{scheme}'.",
    "string_too_long": "{field} must have at most {max_length} characters.",
    "string_too_short": "{field} must not be empty.",
    "string_type": "{field} must be a string.",
    "too_short": "A source needs at least one event.",
    "union_tag_invalid": "{field} must be {schemes}.",
    "union_tag_not_found": _REQUIRED,
}
_MAX_NAME: Final = 100  # characters of a name that a message quotes


def _problem(error: ErrorDetails, document: Any) -> Problem:
    path = _path(error, document)
    return Problem("invalid", _detail(error, path), pointer(*path) or "/")


def _path(error: ErrorDetails, document: Any) -> list[str | int]:
    """Returns where a mistake stands in what was written: pydantic saw each source merged."""
    place = error["loc"]
    path = [*place[:4], *(part for part in place[4:] if part not in _TAGS)]  # names may look like tags
    if path[-1:] == ["[key]"]:
        path.pop()
    if path[2:3] == ["signature"]:
        del path[3:4]  # the scheme, as the tag of its union
        if error["type"].startswith("union_tag"):
            path.append("scheme")
    if path[2:3] == ["events"] and path[4:5] == ["profile"]:
        source = document["sources"][path[1]]
        if not _leads_to(source, path[2:]) and _leads_to(source, path[4:]):
            del path[2:4]
    return path


def _leads_to(node: Any, path: list[str | int]) -> bool:
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _field(path: list[str | int]) -> str:
    match path:
        case []:
            return "The document"
        case [*_, str(name), int(index)]:
            return f"Item {index} of '{name[:_MAX_NAME]}'"
        case _:
            return f"'{str(path[-1])[:_MAX_NAME]}'"


def _detail(error: ErrorDetails, path: list[str | int]) -> str:
    """Says what is wrong, and what would be right."""
    name, context = str(path[-1])[:_MAX_NAME] if path else "", error.get("ctx", {})
    if error["type"] == "words":
        return str(context["words"]).replace("{field}", name)
    kind = error["type"]
    if path[2:] == ["signature", "header"] and kind == "missing":
        kind = "header_missing"
    elif path[2:3] == ["signature"] and kind == "extra_forbidden" and name in HmacSignature.model_fields:
        kind = "of_another_scheme"
    return _WORDS.get(kind, "{field} is not valid: {said}.").format(
        name=name,
        field=_field(path),
        resource="source" if len(path) > 1 else "document",
        scheme=error["loc"][3] if len(error["loc"]) > 3 else "",
        schemes=" or ".join(sorted(context.get("expected_tags", "").split(", "))),
        said=error["msg"],
        expected=context.get("expected"),
        max_length=context.get("max_length"),
    )
