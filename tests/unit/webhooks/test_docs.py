"""Compares docs/webhooks.md with what it describes: its documents are valid, its tables complete."""

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from jmespath.functions import Functions

from sluice.webhooks import expressions, presets, sources
from sluice.webhooks.signatures import SCHEMES, Hmac

TEXT = Path("docs/webhooks.md").read_text()
BLOCKS = [
    yaml.safe_load(block) for block in re.findall(r"^ *```yaml\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
]


def whole(block: dict[str, Any]) -> dict[str, Any]:
    """Returns the document that a block is, or is a part of."""
    if "signature" in block:
        texts = {"metric": "Seen", "profile": {"id": "id"}}
        return {
            "sources": {"own": {"account": "AbC123", "secret": "own", "events": {"seen": texts}, **block}}
        }
    return block if "sources" in block else {"sources": block}


def section(heading: str) -> str:
    return TEXT.partition(f"\n{heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: next(iter(block)))
def test_every_document_in_it_is_good(block: dict[str, Any]) -> None:
    assert sources.problems(whole(block)) == []


def test_every_scheme_is_in_the_table() -> None:
    table = section("## Signature schemes").partition("`hmac` has these fields")[0]
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) - {"scheme"}

    assert listed == {*SCHEMES, "hmac"}


def test_every_field_of_a_scheme_of_ones_own_is_in_the_table() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", section("`hmac` has these fields:"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}

    assert listed == set(Hmac.__struct_fields__) - {"whsec", "sent_path"}


def rows(preset: str) -> list[list[str]]:
    """Returns the topics, event and metric of each row of a preset's table."""
    table = TEXT.partition(f"\n### {preset}\n")[2].partition("\n#")[0]
    return [re.split(r" *\| *", line)[1:4] for line in table.splitlines() if line.startswith("|")][2:]


IN_A_TABLE = [preset for preset in presets.names() if f"\n### {preset}\n" in TEXT]


@pytest.mark.parametrize("preset", IN_A_TABLE)
def test_every_event_of_a_preset_is_in_its_table(preset: str) -> None:
    events = presets.load(preset)["events"]
    listed = {re.findall(r"`([a-z-]+)`", event)[0]: metric.strip("* ") for _, event, metric in rows(preset)}

    assert listed == {name: event["metric"] for name, event in events.items()}


@pytest.mark.parametrize("preset", IN_A_TABLE)
def test_every_topic_of_a_preset_is_in_its_table(preset: str) -> None:
    events = presets.load(preset)["events"]
    listed = {
        re.findall(r"`([a-z-]+)`", event)[0]: re.findall(r"`([^`]+)`", topics)
        for topics, event, _ in rows(preset)
    }

    assert listed == {name: event["topics"] for name, event in events.items()}


@pytest.mark.parametrize("preset", sorted({*presets.names()} - {*IN_A_TABLE}))
def test_a_preset_without_a_table_describes_itself_at_the_top_of_its_file(preset: str) -> None:
    file = Path(f"layers/sluice/sluice/webhooks/presets/{preset}.toml")
    top = "".join(takewhile(lambda line: line.startswith("#"), file.read_text().splitlines(keepends=True)))
    events = presets.load(preset)["events"]
    named = {*events, *(event["metric"] for event in events.values())}
    named |= {topic for event in events.values() for topic in event.get("topics", ())}

    assert {name for name in named if name not in top} == set()


def test_every_function_is_listed() -> None:
    rows = re.findall(r"^\| (`[a-z_0-9]+\(.*?) \| [^|]*\|$", section("## The mapping language"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([a-z_0-9]+)", row)}

    own = expressions.FUNCTIONS - Functions.FUNCTION_TABLE.keys()
    assert listed == own
