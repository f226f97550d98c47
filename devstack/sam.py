"""Builds and deploys with the real SAM CLI, into an emulator; `samconfig.toml` has the settings, as `local`.

SAM gets a home of its own, cannot read `~/.aws`, and sends no telemetry. Its own virtual environment comes
first on its PATH, because building needs a `python3.13` there.
"""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools import layers

BUCKET = "sluice-deployments"  # s3_bucket in samconfig.toml
STACK = "sluice"
TIMEOUT_SECONDS = 900
SOURCES = ("template.yaml", "samconfig.toml", "functions", "layers", "tools/layers")


class SamError(Exception):
    """Says that SAM failed; the text ends with the last lines that it wrote."""


def parameters() -> Mapping[str, str]:
    """Returns template parameters that differ from their defaults in a local run."""
    return {
        # Functions run under this machine's Python.
        "Architecture": "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64",
        # The emulator's own polling is not Lambda's; `devstack.event_source_mapping` does it.
        "PollingEnabled": "false",
    }


def fingerprint() -> str:
    """Returns a hash of everything that is built and deployed."""
    digest = hashlib.sha256(repr(sorted(parameters().items())).encode())
    for path in _sources():
        digest.update(f"\0{path}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build(sources: str, workspace: Path, log: Path) -> bool:
    """Builds functions and layers; returns False when the last build was of this fingerprint."""
    stamp = workspace / "built"
    if stamp.exists() and stamp.read_text() == sources:
        return False
    stamp.unlink(missing_ok=True)
    _run("build", parameters(), workspace, log)
    layers.make_lean(workspace / "build")
    stamp.write_text(sources)
    return True


def deploy(further: Mapping[str, str], workspace: Path, log: Path) -> None:
    """Deploys the last build to the place of AWS_ENDPOINT_URL, and waits until the stack is complete.

    further: parameters on top of, or instead of, `parameters()`.
    """
    _run("deploy", {**parameters(), **further}, workspace, log)


def _sources() -> Iterator[Path]:
    for source in map(Path, SOURCES):
        found = sorted(source.rglob("*")) if source.is_dir() else [source]
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _run(command: str, given: Mapping[str, str], workspace: Path, log: Path) -> None:
    sam = Path(os.environ.get("SLUICE_SAM", ".venv-sam/bin/sam")).absolute()
    if not sam.is_file():
        raise SamError(f"no SAM CLI at {sam}: let make install it or set SLUICE_SAM")
    overrides = [f"{name}={value}" for name, value in given.items()]
    environment = os.environ | {
        "PATH": f"{sam.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_DELAY": "0.1",
        "__SAM_CLI_APP_DIR": str((workspace / "sam").absolute()),
    }
    with log.open("wb") as output:
        finished = subprocess.run(
            [sam, command, "--config-env", "local", "--parameter-overrides", *overrides],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    if finished.returncode != 0:
        last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SamError(f"sam {command} failed ({log}):\n{last_lines}")
