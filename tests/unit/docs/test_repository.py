"""Checks what surrounds the code: decisions, licence, changelog, workflows and hooks."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

import sluice

DECISIONS = sorted(Path("docs/adr").glob("[0-9]*.md"))
DECISION = re.compile(
    r"# (?P<number>\d+)\. (?P<title>.+)\n\n"
    r"- Status: (?P<status>accepted|superseded by \[ADR \d+\]\(\S+\))\n"
    r"- Date: (?P<date>\d{4}-\d{2}-\d{2})\n\n"
    r"## Context\n\n.+\n\n## Decision\n\n.+\n\n## What is given up\n\n.+\n",
    re.DOTALL,
)
WORKFLOWS = sorted(Path(".github/workflows").glob("*.yml"))
HOOKS = Path(".pre-commit-config.yaml")
PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", Path("Makefile").read_text(), re.MULTILINE))


def _steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("file", DECISIONS, ids=lambda file: file.name[:4])
def test_a_decision_says_its_context_and_what_is_given_up(file: Path) -> None:
    found = DECISION.fullmatch(file.read_text())

    assert found, f"{file} does not have the form of the others"
    assert int(found["number"]) == int(file.name[:4])
    date.fromisoformat(found["date"])


def test_decisions_are_numbered_without_a_gap_and_listed() -> None:
    rows = re.findall(
        r"^\| \[(\d+)\. (.+)\]\((.+)\) \| (\w+)", Path("docs/adr/README.md").read_text(), re.MULTILINE
    )

    expected = []
    for number, file in enumerate(DECISIONS, start=1):
        found = DECISION.fullmatch(file.read_text())
        assert found, file
        expected.append((str(number), found["title"], file.name, found["status"].split()[0]))
    assert rows == expected


def test_the_licence_is_apache_2() -> None:
    text = Path("LICENSE").read_text()

    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_knows_the_version() -> None:
    headings = re.findall(r"^## (.+)$", Path("CHANGELOG.md").read_text(), re.MULTILINE)

    assert headings[0] == "Unreleased"
    assert headings[1].startswith(f"{sluice.__version__} - ")
    for heading in headings[1:]:
        date.fromisoformat(heading.split(" - ")[1])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_runs_make_and_pins_its_actions(workflow: Path) -> None:
    commands = [step["run"] for step in _steps(workflow) if "run" in step]
    actions = [line.strip("- ") for line in workflow.read_text().splitlines() if "uses: " in line]

    assert commands
    assert all(command.split()[0] == "make" and command.split()[1] in TARGETS for command in commands)
    assert actions
    assert [action for action in actions if not PINNED.fullmatch(action.strip())] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_may_only_read_and_ends_by_itself(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text())

    assert content["permissions"] == {"contents": "read"}
    assert all(0 < job["timeout-minutes"] <= 60 for job in content["jobs"].values())


def test_hooks_fetch_nothing_and_run_pinned_tools() -> None:
    repositories = yaml.safe_load(HOOKS.read_text())["repos"]
    pinned = Path("requirements/development.txt").read_text()
    packages = {"ruff": "ruff", "mypy": "mypy", "lint-imports": "import-linter", "python": "pytest"}

    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        commands = [word for word in hook["entry"].split() if word.startswith(".venv/bin/")]
        assert hook["language"] == "system"
        assert [f"\n{packages[Path(command).name]}==" in f"\n{pinned}" for command in commands] == [True]


def test_updates_are_looked_for_wherever_something_is_pinned() -> None:
    updates = yaml.safe_load(Path(".github/dependabot.yml").read_text())["updates"]
    watched = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }

    locks = [*Path("requirements").glob("*.txt"), *Path("layers").glob("*/requirements.txt")]
    manifests = [
        file for folder in ("tests", "benchmarks") for file in Path(folder).rglob("package-lock.json")
    ]
    manifests = [file for file in manifests if "node_modules" not in file.parts]
    expected = {("pip", f"/{file.parent}") for file in locks if "==" in file.read_text()}
    expected |= {("npm", f"/{file.parent}") for file in manifests}
    assert watched == expected | {("github-actions", "/")}
