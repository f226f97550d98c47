"""Tests that shells complete the commands of `sluicectl`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sluice import __version__
from sluicectl.cli import sluicectl


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script(shell: str) -> None:
    shown = CliRunner().invoke(sluicectl, ["completion", shell])
    told = json.loads(CliRunner().invoke(sluicectl, ["completion", shell, "--json"]).output)

    assert shown.exit_code == 0
    assert f"_SLUICECTL_COMPLETE={shell}_complete" in shown.output
    assert told["shell"] == shell
    assert told["script"].strip() == shown.output.strip()


def test_another_shell_is_wrong_usage() -> None:
    assert CliRunner().invoke(sluicectl, ["completion", "csh"]).exit_code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "completed"), [(("sou",), ["sources"]), (("sources", "s"), ["schema", "show"])]
)
def test_bash_completes_commands(words: tuple[str, ...], completed: list[str]) -> None:
    program = Path(sys.executable).with_name("sluicectl")
    script = (
        f'source <("{program}" completion bash); COMP_WORDS=(sluicectl {" ".join(words)}); '
        f"COMP_CWORD={len(words)}; _sluicectl_completion sluicectl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    environment = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}

    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == completed


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(sluicectl, ["--version"]).output == f"sluicectl {__version__}\n"
