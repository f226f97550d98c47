"""Mends one refused event and sends it again, with the commands that an operator would use."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
from rich.console import Console

from devstack import sam
from devstack.demo.outcomes import Outcomes, OutcomesError
from devstack.emulator import ROOT_CREDENTIALS
from devstack.stack import Stack

MENDED_EMAIL = "mended@example.com"
COMMAND_SECONDS = 120


def mend_one(stack: Stack, outcomes: Outcomes, console: Console) -> int:
    """Shows the groups of refused events, replays one event with another address, and sees it arrive.

    Returns the number of events that were replayed and arrived.
    """
    operator = Operator(stack, console)
    operator.show("rejections", "groups")
    [refused] = operator.read("rejections", "list", "--limit", "1")["rejections"]
    before = len(outcomes.arrivals())
    mend = f"/profile/attributes/email={json.dumps(MENDED_EMAIL)}"
    operator.show("rejections", "replay", refused["id"], "--set", mend, "--yes")
    arrived = outcomes.arrivals()[before:]
    return sum(each["profile"]["attributes"].get("email") == MENDED_EMAIL for each in arrived)


def send_at_once(stack: Stack) -> None:
    """Lets dispatch take what is replayed without waiting for more."""
    boto3.client("lambda").update_event_source_mapping(
        UUID=stack.outputs["BackgroundMappingId"], MaximumBatchingWindowInSeconds=1
    )


class Operator:
    """Runs commands of `sluicectl` on a stack."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self._console = console
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            **ROOT_CREDENTIALS,
            "AWS_ENDPOINT_URL": stack.aws,
            "AWS_REGION": stack.region,
            "SLUICE_STACK": sam.STACK,
            "COLUMNS": str(console.width),
        }

    def show(self, *arguments: str) -> None:
        """Runs a command, and shows it and its output."""
        self._console.print(
            f"\n$ sluicectl {shlex.join(arguments)}",
            style="bold",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        self._console.print(self._run(*arguments).rstrip(), highlight=False, markup=False, soft_wrap=True)

    def read(self, *arguments: str) -> Any:
        """Runs a command, and returns what it says to programs."""
        return json.loads(self._run(*arguments, "--json"))

    def _run(self, *arguments: str) -> str:
        program = str(Path(sys.executable).with_name("sluicectl"))
        try:
            done = subprocess.run(
                [program, *arguments],
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise OutcomesError(
                f"sluicectl {shlex.join(arguments)} did not end within {COMMAND_SECONDS} s"
            ) from None
        if done.returncode:
            raise OutcomesError(f"sluicectl {shlex.join(arguments)} failed: {done.stdout}{done.stderr}")
        return done.stdout
