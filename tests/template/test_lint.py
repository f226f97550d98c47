"""Applies the linters' own rules to the template as written, and as SAM expands it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from cfnlint.api import lint  # type: ignore[import-untyped]
from cfnlint.config import ManualArgs  # type: ignore[import-untyped]

REGIONS = ["us-east-1", "eu-central-1", "ap-southeast-2"]
# Rules that are not kept, each with the reason.
EXCEPTIONS = {
    "I3042": "SAM writes the partition into the permissions it makes for the API",
}
SAM = Path(os.environ.get("SLUICE_SAM", ".venv-sam/bin/sam"))


def test_sam_finds_nothing_in_the_template(tmp_path: Path) -> None:
    private = {
        "SAM_CLI_TELEMETRY": "0",
        "__SAM_CLI_APP_DIR": str(tmp_path),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }

    finished = subprocess.run(
        [SAM, "validate", "--lint", "--region", "us-east-1"],
        env=os.environ | private,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_cfn_lint_finds_nothing_in_the_expanded_template(expanded: dict[str, Any]) -> None:
    arguments = ManualArgs(regions=REGIONS, include_checks=["I"], ignore_checks=list(EXCEPTIONS))

    found = lint(json.dumps(expanded), config=arguments)

    assert "\n".join(map(str, found)) == ""


def test_cfn_lint_finds_nothing_in_the_producers_template() -> None:
    found = lint(
        Path("docs/producers.yaml").read_text(), config=ManualArgs(regions=REGIONS, include_checks=["I"])
    )

    assert "\n".join(map(str, found)) == ""
