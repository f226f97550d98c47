"""Compares the documents with what they describe: settings, commands, paths and links."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

README = Path("README.md")
DOCUMENTS = sorted([*Path().glob("*.md"), *Path("docs").rglob("*.md")])
BLOCK = re.compile(r"```.*?```", re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
SETTING = re.compile(r"\| `(\w+)` \| (?:`([^`]*)`|empty) \| (.+) \|")
PATH = re.compile(r"(?:docs|functions|layers|local|requirements|tests)/[\w./-]+|\w+\.(?:toml|yaml)")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=str)


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's tags as nothing: parameters have none."""


_Loader.add_multi_constructor("!", lambda *_: None)


def _section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _anchors(text: str) -> Iterator[str]:
    """Yields the fragments by which a document's headings can be linked."""
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _targets(document: Path) -> set[str]:
    """Returns the make targets that a document names, in code."""
    text = document.read_text()
    return set(TARGET.findall("\n".join(BLOCK.findall(text) + SPAN.findall(BLOCK.sub("", text)))))


def _leads_somewhere(document: Path, link: str) -> bool:
    path, _, fragment = link.partition("#")
    target = document.parent / path if path else document
    return target.exists() and (not fragment or fragment in _anchors(target.read_text()))


def test_settings_are_the_templates_parameters() -> None:
    parameters: dict[str, Any] = yaml.load(Path("template.yaml").read_text(), _Loader)["Parameters"]

    listed = SETTING.findall(_section(README.read_text(), "Settings"))

    assert listed == [
        (name, str(parameter["Default"]), parameter["Description"]) for name, parameter in parameters.items()
    ]


def test_metrics_that_sound_an_alarm_are_explained() -> None:
    resources: dict[str, Any] = yaml.load(Path("template.yaml").read_text(), _Loader)["Resources"]
    alarms = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::CloudWatch::Alarm"]

    ours = {alarm["MetricName"] for alarm in alarms if alarm.get("Namespace") == "Sluice"}

    assert ours
    assert ours <= set(SPAN.findall(Path("docs/operations.md").read_text()))


@every_document
def test_make_targets_exist(document: Path) -> None:
    existing = re.findall(r"^([a-z][a-z-]*):", Path("Makefile").read_text(), re.MULTILINE)

    assert _targets(document) <= set(existing)


def test_the_first_commands_are_named() -> None:
    assert {"demo", "test", "up", "down"} <= _targets(README)


@every_document
def test_internal_links_lead_somewhere(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text()) if not link.startswith("https://")]

    assert [link for link in links if not _leads_somewhere(document, link)] == []


@every_document
def test_paths_exist(document: Path) -> None:
    spans = SPAN.findall(BLOCK.sub("", document.read_text()))

    assert [span for span in spans if PATH.fullmatch(span) and not Path(span).exists()] == []
