"""Checks that the package, the stack, the logs and the command line tell one version."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sluice import __version__


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's tags as nothing: the version has none."""


_Loader.add_multi_constructor("!", lambda *_: None)


def test_the_package_is_installed_under_its_version() -> None:
    assert importlib.metadata.version("sluice") == __version__


def test_the_stack_puts_it_out() -> None:
    template = yaml.load(Path("template.yaml").read_text(), _Loader)

    assert template["Outputs"]["Version"]["Value"] == __version__


def test_the_command_line_tells_it() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "sluicectl", "--version"], capture_output=True, text=True, check=True
    )

    assert ran.stdout == f"sluicectl {__version__}\n"


@pytest.mark.parametrize("function", ["dispatch", "ingest", "reject", "resume"])
def test_each_log_line_has_it(function: str) -> None:
    code = "import app; app.logger.info('said')"
    folder = Path("functions", function)

    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)

    assert json.loads(ran.stdout)["version"] == __version__
