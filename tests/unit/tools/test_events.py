"""Tests that there is an event for every trigger of every function, and that `make events` made them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.events import FOLDER, TRIGGERS, Names, events

TRIGGER_TYPES = {
    "AWS::ApiGateway::Method",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Events::Rule",
}


def resources() -> dict[str, str]:
    """Returns the type of each resource of the template; its functions' tags mean nothing to YAML."""
    template: Any = yaml.compose(Path("template.yaml").read_text(), Loader=yaml.SafeLoader)
    [found] = [content.value for name, content in template.value if name.value == "Resources"]
    return {
        name.value: next(value.value for field, value in resource.value if field.value == "Type")
        for name, resource in found
    }


def test_every_trigger_has_an_event() -> None:
    triggers = {name for name, kind in resources().items() if kind in TRIGGER_TYPES}

    assert TRIGGERS.keys() == triggers | {"OperateFunction"}  # which people invoke
    assert {name for names in TRIGGERS.values() for name in names} == events(Names()).keys()


@pytest.mark.parametrize("name", sorted(events(Names())))
def test_a_file_is_as_the_command_writes_it(name: str) -> None:
    assert json.loads((FOLDER / name).read_text()) == events(Names())[name]


def test_no_other_file_is_in_the_folder() -> None:
    assert {path.name for path in FOLDER.glob("*.json")} == events(Names()).keys()


def test_the_names_of_a_stack_are_in_its_events() -> None:
    arn = "arn:aws:sqs:eu-west-1:1:other"
    made = events(Names("pk_1", "XyZ789", "token-1", (("RejectedQueue", arn),)))

    assert made["ingest.json"]["headers"]["Authorization"] == "Klaviyo-API-Key pk_1"
    assert made["ingest-webhook.json"]["headers"]["Authorization"] == "Bearer token-1"
    [record] = made["reject.json"]["Records"]
    assert (record["eventSourceARN"], json.loads(record["body"])["account"]) == (arn, "XyZ789")
