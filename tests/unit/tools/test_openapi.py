"""Tests that the API's description agrees with the code it is made from."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from sluice import contract
from sluice.ingest_api import IngestApi
from tests.support.wsgi_gateway import routes
from tools.openapi import document, models
from tools.openapi.__main__ import FILE

DESCRIPTION = document.description()
OPERATIONS = {
    (method.upper(), path): operation
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
}


def resolved(part: Any) -> Any:
    """Returns the part that a reference leads to."""
    while "$ref" in part:
        _, *steps = part["$ref"].split("/")
        part = DESCRIPTION
        for step in steps:
            part = part[step]
    return part


def contents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every content of every request and answer, with its name."""
    for (method, path), operation in OPERATIONS.items():
        holders = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for name, holder in holders.items():
            for media_type, content in resolved(holder).get("content", {}).items():
                yield f"{method} {path} {name} {media_type}", content


def shown(content: dict[str, Any]) -> list[Any]:
    examples = [example["value"] for example in content.get("examples", {}).values()]
    return [*examples, content["example"]] if "example" in content else examples


def faults(schema: dict[str, Any], value: Any) -> list[str]:
    complete = {**schema, "components": DESCRIPTION["components"]}
    return [error.message for error in jsonschema.Draft202012Validator(complete).iter_errors(value)]


def test_what_is_served_is_what_would_be_written_now() -> None:
    assert FILE.read_text("utf-8") == document.text(), "out of date: make openapi"


def test_it_works_at_whatever_path_the_api_is_served() -> None:
    assert [server["url"] for server in DESCRIPTION["servers"]] == ["."]


def test_every_route_is_described() -> None:
    nothing: Any = None  # routes are made without ports
    ingest: dict[str, set[str]] = defaultdict(set)
    for route in IngestApi(nothing, nothing, nothing)._routes:
        if route.method != "OPTIONS":
            ingest[re.sub(r"\{\w+\}", "*", route.path)].add(route.method)
    docs = {path: {"GET"} for _, path, function in routes() if function == "DocsFunction"}
    described: dict[str, set[str]] = defaultdict(set)
    for method, path in OPERATIONS:
        described[re.sub(r"\{\w+\}", "*", path)].add(method)

    assert described == ingest | docs


@pytest.mark.parametrize(
    ("name", "content"), list(contents()), ids=lambda given: given if isinstance(given, str) else ""
)
def test_examples_are_of_the_schema_they_stand_beside(name: str, content: dict[str, Any]) -> None:
    for example in shown(content):
        assert faults(content["schema"], example) == []


@pytest.mark.parametrize(
    "operation", list(OPERATIONS.values()), ids=lambda operation: operation["operationId"]
)
def test_what_to_send_and_what_comes_of_it_is_shown(operation: dict[str, Any]) -> None:
    holders = [operation.get("requestBody", {}), operation["responses"].get("202", {})]

    assert all(shown(content) for holder in holders for content in holder.get("content", {}).values())


@pytest.mark.parametrize(
    "operation", list(OPERATIONS.values()), ids=lambda operation: operation["operationId"]
)
def test_every_refusal_has_the_shape_of_its_api(operation: dict[str, Any]) -> None:
    for status, answer in operation["responses"].items():
        if status >= "400":
            content = dict(resolved(answer)["content"])
            errors = content.pop("application/vnd.api+json")
            assert errors["schema"] == models.ref("Errors")
            assert all(error["status"] == int(status) for each in shown(errors) for error in each["errors"])
            rest = {media_type: each["schema"] for media_type, each in content.items()}
            is_pipeless = operation["tags"] == ["Pipeless"]
            assert rest == ({"application/json": models.ref("StringErrors")} if is_pipeless else {})
        if status in {"429", "503", "504"} and operation["tags"] != ["Pipeless"]:
            assert "Retry-After" in resolved(answer)["headers"]


def test_the_limits_are_the_contracts() -> None:
    schemas = DESCRIPTION["components"]["schemas"]

    for name in ("EventAttributes", "SingleAttributes", "FlatAttributes"):
        fields = schemas[name]["properties"]
        assert fields["properties"]["maxProperties"] == contract.MAX_PROPERTIES
        assert fields["unique_id"]["maxLength"] == contract.MAX_UNIQUE_ID
    assert schemas["MetricAttributes"]["properties"]["name"]["maxLength"] == contract.MAX_METRIC_NAME
    assert schemas["ProfileAttributes"]["properties"]["email"]["maxLength"] == contract.MAX_EMAIL
    assert schemas["EventList"]["properties"]["data"]["maxItems"] == contract.MAX_EVENTS_PER_REQUEST
