"""Compares the items that functions may reach, by the template, with the kinds that the package knows."""

from pathlib import Path
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from sluice.aws import state_table
from sluice.aws.state_table import CIRCUIT, INBOUND, METRICS, PAUSE, RECEIPT, WEBHOOK_OBJECT, ItemKind
from sluice.records import items

RESOURCES: dict[str, Any] = yaml_parse(Path("template.yaml").read_text())["Resources"]
FUNCTIONS = [name for name, each in RESOURCES.items() if each["Type"] == "AWS::Serverless::Function"]


def leading_keys(function: str) -> set[str]:
    """Returns the patterns of the state table's keys that a role may reach, where it may not reach all."""
    found: set[str] = set()
    for policy in RESOURCES.get(f"{function}Role", {}).get("Properties", {}).get("Policies", []):
        for statement in policy["PolicyDocument"]["Statement"]:
            if "RecordsTable" in str(statement.get("Resource")):
                continue
            for condition in statement.get("Condition", {}).values():
                keys = condition.get("dynamodb:LeadingKeys", [])
                found.update([keys] if isinstance(keys, str) else keys)
    return found


@pytest.mark.parametrize(
    ("function", "kinds"),
    [
        ("IngestFunction", {INBOUND, METRICS, RECEIPT, WEBHOOK_OBJECT}),
        ("RejectFunction", {RECEIPT}),
        ("ResumeFunction", {CIRCUIT, PAUSE}),
        ("OperateFunction", {METRICS, PAUSE}),
    ],
)
def test_a_function_reaches_the_items_it_keeps_and_no_others(function: str, kinds: set[ItemKind]) -> None:
    assert leading_keys(function) == {f"{kind.prefix}*" for kind in kinds}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_pattern_is_that_of_a_kind(function: str) -> None:
    assert leading_keys(function) <= {f"{kind.prefix}*" for kind in state_table.KINDS}


def test_reject_looks_for_erased_people_and_for_no_other_items_of_the_records_table() -> None:
    [policy] = RESOURCES["RejectFunctionRole"]["Properties"]["Policies"]
    [queries] = [
        each
        for each in policy["PolicyDocument"]["Statement"]
        if "dynamodb:Query" in each["Action"] and "RecordsTable" in str(each["Resource"])
    ]

    assert queries["Condition"] == {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": items.ERASED}}


def test_no_kind_reaches_into_another() -> None:
    prefixes = [kind.prefix for kind in state_table.KINDS]

    assert len(set(prefixes)) == len(prefixes)
    assert not [(a, b) for a in prefixes for b in prefixes if a != b and a.startswith(b)]
