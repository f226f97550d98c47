"""Runs every program that docs/sending.md shows, and waits for its events at the fake upstream."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.clients import MODULES
from tests.e2e.conftest import Stack, eventually

PAGE = Path("docs/sending.md")
SNIPPET = re.compile(r"```(python|js|sh|php|ruby)\n(.*?)```", re.DOTALL)
SENT = re.compile(r"\b10\d\d\b")
RUN = {
    "python": (sys.executable, "snippet.py"),
    "js": ("node", "snippet.mjs"),
    "sh": ("bash", "-eu", "snippet.sh"),
    "php": ("php", "snippet.php"),
    "ruby": ("ruby", "snippet.rb"),
}


def snippets() -> list[tuple[str, str]]:
    """Returns the programs under "Clients", each with its language."""
    section = PAGE.read_text().partition("\n## Clients\n")[2].partition("\n## ")[0]
    return SNIPPET.findall(section)


@pytest.mark.parametrize(("language", "program"), snippets(), ids=lambda value: value.split("\n")[0][:30])
def test_a_documented_program_sends_its_events(
    stack: Stack, tmp_path: Path, language: str, program: str
) -> None:
    if shutil.which(RUN[language][0]) is None:
        pytest.skip(f"{RUN[language][0]} is not installed")
    if "klaviyo-api" in program and not MODULES.exists():
        pytest.skip("Klaviyo's SDK for Node is not installed")
    (tmp_path / ".local").mkdir()
    names = ("api", "upstream", "key", "site_id", "app_id", "app_key")
    described = {name: getattr(stack, name) for name in names}
    (tmp_path / ".local" / "stack.json").write_text(json.dumps(described))
    if MODULES.exists():
        (tmp_path / "node_modules").symlink_to(MODULES.absolute())
    program = re.sub(r'API = "https:[^"]+"', f'API = "{stack.api}"', program)
    program = re.sub(r'SITE_ID = "\w+"', f'SITE_ID = "{stack.site_id}"', program)
    (tmp_path / RUN[language][-1]).write_text(program)
    numbers = set(SENT.findall(program))

    ran = subprocess.run(RUN[language], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert numbers
    assert eventually(lambda: numbers <= arrived(stack))


def arrived(stack: Stack) -> set[str]:
    """Returns the numbers of orders and products that the fake upstream has taken."""
    properties = [each["event"]["properties"] for each in stack.taken()]
    return {str(each.get("order") or each.get("product")) for each in properties}


def test_every_language_is_there_once() -> None:
    languages = [language for language, _ in snippets()]

    assert sorted(languages) == ["js", "js", "php", "python", "ruby", "sh"]
