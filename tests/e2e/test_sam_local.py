"""Runs functions with `sam local`, in containers, on the running stack."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml

from devstack import emulator, processes, sam, sam_local
from devstack.lifeline import Lifeline
from tests.e2e.conftest import Stack, eventually
from tools import events

BUILD = Path(".local/build").absolute()
SAM = Path(".venv-sam/bin/sam").absolute()
IMAGE = f"public.ecr.aws/lambda/python:3.13-{sam.parameters()['Architecture']}"


def why_not() -> str:
    """Returns why functions cannot be run in containers here, or nothing if they can."""
    if shutil.which("docker") is None:
        return "there is no Docker"
    for command in (["docker", "info"], ["docker", "image", "inspect", IMAGE]):
        if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
            return f"`{' '.join(command)}` fails"
    return ""


@pytest.fixture
def at_emulator(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points boto3 at the stack's emulator."""
    settings = {
        "AWS_ENDPOINT_URL": stack.aws,
        "AWS_DEFAULT_REGION": stack.region,
        **emulator.ROOT_CREDENTIALS,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@dataclass
class Local:
    """Runs SAM's commands with the files that were written for a stack."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [str(SAM), "local", *arguments, "--config-file", str(self.folder / sam_local.CONFIGURATION)]

    def invoke(self, function: str, event: str) -> Any:
        """Invokes a function with one of the stack's events, and returns its answer."""
        path = self.folder / "events" / event
        done = subprocess.run(
            self.command("invoke", function, "--event", str(path)),
            env=os.environ | {"SAM_CLI_TELEMETRY": "0"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def local(stack: Stack, at_emulator: None, tmp_path: Path) -> Iterator[Local]:
    """Lets containers reach the stack, as `make up` does, for the length of a test."""
    if reason := why_not():
        pytest.skip(reason)
    address = sam_local.gateway()
    assert address is not None
    sam_local.write(tmp_path, BUILD, stack.aws, address)
    events.write(tmp_path / "events", events.Names(key=stack.key, account=stack.site_id))
    ports = [str(urlsplit(url).port) for url in (stack.aws, stack.upstream)]
    with Lifeline() as lifeline:
        ready, log = tmp_path / "ready", tmp_path / "log"
        forwarder = processes.start("devstack.forwarder", ["--listen", address, *ports], ready, log, lifeline)
        yield Local(tmp_path)
        forwarder.stop(5)


def declared_variables() -> dict[str, set[str]]:
    """Returns the variables that the built template declares for each function with an environment."""
    template = yaml.safe_load((BUILD / "template.yaml").read_text())
    shared = set(template["Globals"]["Function"]["Environment"]["Variables"])
    return {
        name: shared | set(each["Properties"]["Environment"]["Variables"])
        for name, each in template["Resources"].items()
        if each["Type"] == "AWS::Serverless::Function" and "Environment" in each["Properties"]
    }


def test_every_variable_of_every_function_has_a_value(
    stack: Stack, at_emulator: None, tmp_path: Path
) -> None:
    sam_local.write(tmp_path, BUILD, stack.aws, None)

    written = json.loads((tmp_path / sam_local.VARIABLES).read_text())
    for function, names in declared_variables().items():
        assert written[function].keys() == names | sam_local.connection("").keys()
    assert written["IngestFunction"]["SLUICE_EVENTS_QUEUE_URL"] == stack.outputs["EventsQueueUrl"]


def test_dispatch_delivers_a_batch_to_the_upstream(stack: Stack, local: Local) -> None:
    before = len(stack.taken_of("ada.lopez@example.com"))

    assert local.invoke("DispatchFunction", "dispatch.json") == {"batchItemFailures": []}

    assert len(stack.taken_of("ada.lopez@example.com")) == before + 2


def test_the_other_functions_do_their_work(stack: Stack, local: Local) -> None:
    archived = len(stack.archived())

    assert local.invoke("RejectFunction", "reject.json") == {"batchItemFailures": []}
    assert len(stack.archived()) > archived
    assert local.invoke("ResumeFunction", "resume.json") is None
    accepted = local.invoke("IngestFunction", "ingest-event.json")
    assert accepted["statusCode"] == 202, accepted
    assert local.invoke("DocsFunction", "docs.json")["statusCode"] == 200


def test_an_event_goes_in_by_start_api_and_arrives(stack: Stack, local: Local, tmp_path: Path) -> None:
    port = emulator.free_port()
    body = json.loads(events.body("event"))
    person = {"data": {"type": "profile", "attributes": {"email": "start-api@example.com"}}}
    body["data"]["attributes"] |= {"profile": person, "unique_id": "by-start-api"}
    headers = {"authorization": f"Klaviyo-API-Key {stack.key}", "revision": "2026-07-15"}

    with Lifeline() as lifeline, (tmp_path / "start-api").open("wb") as output:
        served = lifeline.start(
            local.command("start-api", "--port", str(port)), stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 120
            while "Running on" not in (tmp_path / "start-api").read_text():
                assert served.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            answer = httpx2.post(
                f"http://127.0.0.1:{port}/api/events", json=body, headers=headers, timeout=120
            )
        finally:
            os.killpg(served.pid, signal.SIGINT)
            served.wait(60)

    assert answer.status_code == 202, answer.text
    assert eventually(lambda: stack.taken_of("start-api@example.com"))
