"""Tests that the JSON Schema of the sources document accepts good ones, and refuses another structure."""

import copy
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from sluice.webhooks import presets, sources
from sluice.webhooks.signatures import SCHEMES
from sluice.webhooks.source_config import (
    EventConfig,
    LocationConfig,
    ProfileConfig,
    SourceConfig,
    SourcesConfig,
)
from sluicectl import documents, sources_schema
from sluicectl.cli import sluicectl
from tests.support.webhook_samples import document, own

DOCUMENT = sources_schema.build()
SCHEMA = Draft202012Validator(DOCUMENT)
HMAC = {"scheme": "hmac", "header": "X-Signature"}


def examples() -> Iterator[tuple[str, Any]]:
    """Yields the sources documents of the documentation: whole ones, sources by name, and sources'
    signatures.
    """
    for page in sorted(Path("docs").glob("*.md")):
        for number, block in enumerate(page.read_text().split("```yaml\n")[1:]):
            shown = yaml.safe_load(block.partition("```")[0])
            if not isinstance(shown, dict):
                continue
            if set(shown) == {"signature"}:
                shown = {"shop": {**own()["sources"]["shop"], **shown}}
            if all(isinstance(each, dict) and "account" in each for each in shown.values()):
                shown = {"sources": shown}
            if "sources" in shown:
                yield f"{page.name} {number}", shown


EXAMPLES = dict(examples())


def test_the_command_prints_a_schema() -> None:
    for options in ([], ["--json"]):
        printed = CliRunner().invoke(sluicectl, ["sources", "schema", *options], catch_exceptions=False)

        assert printed.exit_code == 0
        assert json.loads(printed.output) == DOCUMENT
    Draft202012Validator.check_schema(DOCUMENT)
    assert DOCUMENT["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_accepts_the_documentations_examples(name: str) -> None:
    SCHEMA.validate(EXAMPLES[name])


def test_the_documentation_has_examples_of_each_kind() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("preset", presets.names())
def test_it_accepts_a_source_of_a_preset_and_the_preset_written_out(preset: str) -> None:
    written_out = json.loads(json.dumps(presets.load(preset)))

    SCHEMA.validate(document(preset=preset))
    SCHEMA.validate(document(**{"preset": None, **written_out}))


@pytest.mark.parametrize(
    "written",
    [
        {"sources": {}},
        document(events={"placed-order": None}),
        document(events={"placed-order": {"metric": "Bought", "properties": {"Tags": None, "Note": "note"}}}),
        document(events={"placed-order": {"profile": None}}, profile={"last_name": None}),
        document(on_invalid="refuse", delivery_id="token", signature={}),
        own(metric={"expression": "topic"}, properties={"a": {"b": ["c", 1, 1.5, True, None]}}, each="items"),
        *[
            own()
            | document(preset=None, signature={"scheme": scheme}, events=own()["sources"]["shop"]["events"])
            for scheme in SCHEMES
        ],
        own() | document(preset=None, signature=HMAC, events=own()["sources"]["shop"]["events"]),
    ],
)
def test_it_accepts_what_a_source_may_say(written: Any) -> None:
    assert sources.problems(written) == []
    SCHEMA.validate(written)


def in_event(**event: Any) -> dict[str, Any]:
    return own(**event)


MISTAKES: list[Any] = [
    [],
    {},
    {"sources": []},
    {"sources": {}, "more": 1},
    {"sources": {"shop": None}},
    {"sources": {"Shop!": document()["sources"]["shop"]}},
    document(account=None),
    document(account=1),
    document(account="AbC12"),
    document(secret=None),
    document(secret="../accounts"),
    document(preset="shopfy"),
    document(preset=None),
    document(colour="red"),
    document(on_invalid="ignore"),
    document(delivery_id=1),
    document(events=[]),
    document(events=dict.fromkeys(presets.load("shopify")["events"])),
    document(signature={"scheme": "none"}),
    document(signature={"header": "X-Other"}),
    document(signature={"scheme": "shopify", "header": "X-Other"}),
    document(signature={"scheme": "hmac"}),
    document(signature={**HMAC, "header": "X Signature"}),
    document(signature={**HMAC, "algorithm": "md5"}),
    document(events={"placed-order": 1}),
    document(events={"placed-order": {"metric": None}}),
    document(events={"placed-order": {"vaule": "total"}}),
    document(events={"placed-oder": {"value": "total"}}),
    document(profile={"mail": "a"}),
    document(profile={"location": {"town": "a"}}),
    document() | {"sources": {"shop": {**document()["sources"]["shop"], "profile": None}}},
    in_event(profile=None),
    in_event(profile={"first_name": "a"}),
    in_event(profile={"email": None}),
    in_event(metric=""),
    in_event(metric="x" * 128),
    in_event(metric=5),
    in_event(metric={"expression": 5}),
    in_event(metric={"expression": "a", "more": "b"}),
    in_event(properties=[]),
    in_event(time=5),
    in_event(topics="a"),
    in_event(topics=[]),
    in_event(topics=["a", 1]),
    in_event(waits_for_identity="yes"),
    in_event(object_id=5),
]


@pytest.mark.parametrize("written", MISTAKES, ids=range(len(MISTAKES)))
def test_it_refuses_what_has_another_structure(written: Any) -> None:
    assert sources.problems(written)
    assert not SCHEMA.is_valid(written)


BASES = [
    *(document(preset=preset)["sources"]["shop"] for preset in presets.names()),
    document(preset="shopify", events={"placed-order": {"metric": "A"}, "new": {"metric": "B"}})["sources"][
        "shop"
    ],
    own(properties={"a": ["b", {"c": "d"}]}, profile={"email": "e", "location": {"city": "c"}})["sources"][
        "shop"
    ],
    {**own()["sources"]["shop"], "profile": {"id": "i"}, "events": {"a": {"metric": {"expression": "t"}}}},
    {
        **own()["sources"]["shop"],
        "signature": {
            **HMAC,
            "signed": "{id}{timestamp}.{body}",
            "timestamp_prefix": "t=",
            "separator": ",",
            "id_header": "X-Id",
        },
    },
]
FIELDS = sorted(
    {
        *("account", "secret", "preset", "signature", "scheme", "header", "events", "placed-order", "refund"),
        *(
            "profile",
            "email",
            "_kx",
            "location",
            "city",
            "metric",
            "expression",
            "when",
            "properties",
            "signed",
        ),
        *("delivery_id", "topic", "on_invalid", "colour", "topics", "object_id", "waits_for_identity"),
    }
)
VALUES: list[Any] = [
    *(None, 0, 1.5, True, "", "text", "x" * 128, [], {}, ["a"], ["a", 1], {"a": "b"}),
    *({"scheme": "hmac"}, {"scheme": "github"}, HMAC, {"expression": "a"}, {"metric": "A"}, {"email": "e"}),
]


def objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for each in node.values():
            yield from objects(each)


@st.composite
def written_sources(draw: st.DrawFn) -> dict[str, Any]:
    """Draws a good source in which some fields are taken out, set anew or added."""
    source: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.sampled_from(list(objects(source))))
        if at and draw(st.booleans()):
            name = draw(st.sampled_from(sorted(at)))
        else:
            name = draw(st.sampled_from(FIELDS))
        if draw(st.booleans()):
            at.pop(name, None)
        else:
            at[name] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return source


def removes_no_field(source: dict[str, Any]) -> bool:
    """Tells whether null stands where there is no such field: harmless, but a typo to an editor."""

    def strays(node: Any, fields: Collection[str]) -> bool:
        return isinstance(node, dict) and any(
            value is None and name not in fields for name, value in node.items()
        )

    def strays_in_profile(profile: Any) -> bool:
        location = profile.get("location") if isinstance(profile, dict) else None
        return strays(profile, {*ProfileConfig.model_fields, "_kx"}) or strays(
            location, LocationConfig.model_fields
        )

    events = source.get("events")
    mappings = (
        [each for each in events.values() if isinstance(each, dict)] if isinstance(events, dict) else []
    )
    return (
        strays(source, SourceConfig.model_fields)
        or strays(source.get("signature"), ())
        or any(map(strays_in_profile, [source.get("profile"), *(each.get("profile") for each in mappings)]))
        or any(strays(each, EventConfig.model_fields) for each in mappings)
        or any(strays(each.get("metric"), ()) for each in mappings)
    )


@settings(max_examples=400, deadline=None)
@given(written_sources())
def test_it_refuses_whatever_pydantic_refuses_for_its_structure_and_accepts_what_is_good(
    source: dict[str, Any],
) -> None:
    written = {"sources": {"shop": source}}
    try:
        SourcesConfig.model_validate(written)
    except ValidationError as error:
        # No schema can state our own checks, of expressions and of fields that go together.
        if any(each["type"] != "words" for each in error.errors()):
            assert not SCHEMA.is_valid(written)
    else:
        assert SCHEMA.is_valid(written) or removes_no_field(source)


def test_an_editor_is_told_what_a_field_means_and_what_it_may_hold() -> None:
    definitions = DOCUMENT["$defs"]
    account = definitions["SourceConfig"]["properties"]["account"]
    scheme = definitions["SenderSignature"]["properties"]["scheme"]

    assert "six letters or digits" in account["description"]
    assert {*scheme["enum"], "bearer"} == set(SCHEMES)
    assert definitions["SourceConfig"]["properties"]["preset"]["enum"] == [*presets.names(), None]


def test_yaml_is_checked_as_it_is_read() -> None:
    assert SCHEMA.is_valid(
        documents.parse("sources:\n  shop: {account: AbC123, preset: shopify, secret: no}\n").value
    )
