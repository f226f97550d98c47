"""Tests the event source mapping against a real emulator, with functions that record their events."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import pytest

from devstack import emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient

# Each invocation is one line: when it began and ended, and the records' bodies and receive counts.
FUNCTION = """
import json, os, time
def handler(event, context):
    began = time.time()
    records = [[r["body"], int(r["attributes"]["ApproximateReceiveCount"])] for r in event["Records"]]
    try:
        return answer(event["Records"])
    finally:
        line = json.dumps({"began": began, "ended": time.time(), "records": records}) + "\\n"
        journal = os.open(os.environ["JOURNAL"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(journal, line.encode())
        os.close(journal)
"""
SUCCEED = "def answer(records): return None"
CRASH = "def answer(records): raise RuntimeError('crash')"
HANG = "def answer(records): time.sleep(60)"
TAKE_A_WHILE = "def answer(records): time.sleep(0.4)"
SAY_SO_FIRST = """
def answer(records):
    open(os.environ["JOURNAL"] + ".began", "w").close()
    time.sleep(2)
"""
FAIL_BAD_ONCE = """
def answer(records):
    return {"batchItemFailures": [
        {"itemIdentifier": r["messageId"]} for r in records
        if r["body"].startswith("bad") and r["attributes"]["ApproximateReceiveCount"] == "1"
    ]}
"""
FAIL_UNKNOWN = "def answer(records): return {'batchItemFailures': [{'itemIdentifier': 'unknown'}]}"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[emulator.Emulator]:
    with emulator.running(tmp_path_factory.mktemp("emulator")) as running:
        yield running


def client(aws: emulator.Emulator, service: str) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=aws.endpoint,
        region_name=emulator.REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


class Stack:
    """Holds a queue, its dead-letter queue, a function and the mapping between them."""

    def __init__(self, aws: emulator.Emulator, folder: Path, role: str) -> None:
        self.aws = aws
        self.sqs: SQSClient = client(aws, "sqs")
        self.functions: LambdaClient = client(aws, "lambda")
        self.folder = folder
        self.role = role
        self.name = f"t{uuid4().hex[:12]}"
        self.journal = folder / "journal"

    def deploy(
        self, code: str, *, timeout: int = 5, visibility: int = 60, receives: int = 5, **mapping: Any
    ) -> None:
        self.dead = self.sqs.create_queue(QueueName=f"{self.name}-dead")["QueueUrl"]
        redrive = {"deadLetterTargetArn": self._arn(f"{self.name}-dead"), "maxReceiveCount": receives}
        self.queue = self.sqs.create_queue(
            QueueName=self.name,
            Attributes={"VisibilityTimeout": str(visibility), "RedrivePolicy": json.dumps(redrive)},
        )["QueueUrl"]
        self.functions.create_function(
            FunctionName=self.name,
            Runtime="python3.13",
            Role=self.role,
            Handler="app.handler",
            Code={"ZipFile": _zipped(f"{FUNCTION}\n{code}")},
            Timeout=timeout,
            Environment={"Variables": {"JOURNAL": str(self.journal)}},
        )
        self.uuid = self.functions.create_event_source_mapping(
            FunctionName=self.name,
            EventSourceArn=self._arn(self.name),
            Enabled=False,
            FunctionResponseTypes=["ReportBatchItemFailures"],
            **mapping,
        )["UUID"]

    def send(self, *bodies: str) -> None:
        for start in range(0, len(bodies), 10):
            entries = [
                {"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])
            ]
            answer = self.sqs.send_message_batch(QueueUrl=self.queue, Entries=entries)  # type: ignore[arg-type]
            assert not answer.get("Failed")

    @contextmanager
    def mapped(self) -> Iterator[subprocess.Popen[str]]:
        """Runs the runner as its users start it; ends it by SIGTERM, and checks that it ends well."""
        ready = self.folder / "ready"
        command = [
            sys.executable,
            "-m",
            "devstack.event_source_mapping",
            self.uuid,
            "--endpoint",
            self.aws.endpoint,
        ]
        with (self.folder / "mapping.log").open("w") as log:
            process = subprocess.Popen([*command, "--ready-file", str(ready)], stderr=log, text=True)
            try:
                until(ready.exists)
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                code = process.wait(timeout=20)
        assert code == 0

    def invocations(self) -> list[dict[str, Any]]:
        if not self.journal.exists():
            return []
        written = self.journal.read_text()
        # Text after the end of the last line is being written at this moment.
        whole = written[: written.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def sizes(self) -> list[int]:
        return [len(invocation["records"]) for invocation in self.invocations()]

    def counts(self, queue: str) -> tuple[int, int]:
        """Returns how many messages a queue shows and hides."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        attributes = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        shown, hidden = (int(attributes[name]) for name in names)  # type: ignore[index]
        return shown, hidden

    def _arn(self, queue: str) -> str:
        return f"arn:aws:sqs:{emulator.REGION}:000000000000:{queue}"


@pytest.fixture
def stack(aws: emulator.Emulator, tmp_path: Path) -> Stack:
    return Stack(aws, tmp_path, "arn:aws:iam::000000000000:role/any")


def _zipped(code: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("app.py", code)
    return content.getvalue()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_full_batches_go_at_once_and_the_rest_is_given_back(stack: Stack) -> None:
    stack.deploy(SUCCEED, BatchSize=100, MaximumBatchingWindowInSeconds=60)
    stack.send(*map(str, range(250)))

    with stack.mapped():
        until(lambda: stack.sizes() == [100, 100])
        until(lambda: stack.counts(stack.queue) == (0, 50))

    assert stack.counts(stack.queue) == (50, 0)


def test_nothing_goes_before_the_window_ends(stack: Stack) -> None:
    stack.deploy(SUCCEED, BatchSize=100, MaximumBatchingWindowInSeconds=6)

    with stack.mapped():
        sent = time.time()
        stack.send("a", "b")
        time.sleep(3)
        stack.send("c")
        until(lambda: stack.sizes() == [3])

    assert 6 <= stack.invocations()[0]["began"] - sent < 9


def test_without_a_window_messages_go_as_they_come(stack: Stack) -> None:
    stack.deploy(SUCCEED, BatchSize=10)

    with stack.mapped():
        sent = time.time()
        stack.send("a")
        until(lambda: stack.sizes() == [1])

    assert stack.invocations()[0]["began"] - sent < 4


def test_an_invocation_carries_at_most_six_megabytes(stack: Stack) -> None:
    stack.deploy(SUCCEED, BatchSize=100, MaximumBatchingWindowInSeconds=5)
    for _ in range(8):
        stack.send("x" * 1_000_000)

    with stack.mapped():
        until(lambda: stack.sizes() == [6, 2])


def test_exactly_the_failed_messages_come_back(stack: Stack) -> None:
    stack.deploy(FAIL_BAD_ONCE, visibility=5, BatchSize=20, MaximumBatchingWindowInSeconds=3)
    stack.send(*[f"good {n}" for n in range(17)], *[f"bad {n}" for n in range(3)])

    with stack.mapped():
        until(lambda: stack.sizes() == [20])
        until(lambda: stack.counts(stack.queue) == (0, 3))
        until(lambda: stack.sizes() == [20, 3])
        until(lambda: stack.counts(stack.queue) == (0, 0))

    again = stack.invocations()[1]["records"]
    assert sorted(again) == [["bad 0", 2], ["bad 1", 2], ["bad 2", 2]]
    assert stack.counts(stack.dead) == (0, 0)


@pytest.mark.parametrize("code", [CRASH, HANG, FAIL_UNKNOWN], ids=["crash", "timeout", "unknown id"])
def test_what_never_works_ends_in_the_dead_letter_queue(stack: Stack, code: str) -> None:
    stack.deploy(code, timeout=1, visibility=3, receives=2, BatchSize=20, MaximumBatchingWindowInSeconds=1)
    sent = time.time()
    stack.send(*map(str, range(15)))

    with stack.mapped():
        until(lambda: stack.counts(stack.dead) == (15, 0))
        assert stack.counts(stack.queue) == (0, 0)

    if code != HANG:
        received = [(count, each["began"]) for each in stack.invocations() for _, count in each["records"]]
        assert Counter(count for count, _ in received) == {1: 15, 2: 15}
        assert min(began for count, began in received if count == 2) - sent >= 3


def test_no_more_invocations_at_once_than_allowed(stack: Stack) -> None:
    stack.deploy(TAKE_A_WHILE, BatchSize=1, ScalingConfig={"MaximumConcurrency": 2})
    stack.send(*map(str, range(9)))

    with stack.mapped():
        until(lambda: len(stack.sizes()) == 9)

    assert _most_at_once(stack.invocations()) == 2


def test_throttled_batches_wait_without_being_received_again(stack: Stack) -> None:
    stack.deploy(TAKE_A_WHILE, BatchSize=1, ScalingConfig={"MaximumConcurrency": 4})
    stack.functions.put_function_concurrency(FunctionName=stack.name, ReservedConcurrentExecutions=1)
    stack.send(*map(str, range(4)))

    with stack.mapped():
        until(lambda: stack.counts(stack.queue) == (0, 0))

    received = [record for invocation in stack.invocations() for record in invocation["records"]]
    assert sorted(received) == [[str(n), 1] for n in range(4)]
    assert _most_at_once(stack.invocations()) == 1


def test_a_running_invocation_finishes_at_the_end(stack: Stack) -> None:
    stack.deploy(SAY_SO_FIRST, timeout=20, BatchSize=10)
    stack.send("a")

    with stack.mapped():
        until(stack.journal.with_suffix(".began").exists)

    assert stack.sizes() == [1]
    assert stack.counts(stack.queue) == (0, 0)


def test_the_emulators_own_mapping_stays_disabled(stack: Stack) -> None:
    stack.deploy(SUCCEED, BatchSize=100, MaximumBatchingWindowInSeconds=60)
    stack.functions.update_event_source_mapping(UUID=stack.uuid, Enabled=True)

    with stack.mapped():
        assert _state(stack) == "Disabled"
        stack.functions.update_event_source_mapping(
            UUID=stack.uuid, Enabled=True, MaximumBatchingWindowInSeconds=1
        )
        until(lambda: _state(stack) == "Disabled")
        until(lambda: "settings changed" in (stack.folder / "mapping.log").read_text())
        stack.send("a", "b")
        until(lambda: stack.sizes() == [2])


def test_a_role_that_may_not_delete_is_refused_where_policies_are_enforced(tmp_path: Path) -> None:
    statement = {"Effect": "Allow", "Resource": "*"}
    with emulator.running(tmp_path / "emulator", auth=True) as aws:
        iam = client(aws, "iam")
        role = iam.create_role(RoleName="narrow", AssumeRolePolicyDocument=json.dumps({"Statement": []}))
        allowed = {**statement, "Action": ["sqs:ReceiveMessage", "sqs:GetQueueAttributes"]}
        iam.put_role_policy(
            RoleName="narrow", PolicyName="queue", PolicyDocument=json.dumps({"Statement": [allowed]})
        )
        stack = Stack(aws, tmp_path, role["Role"]["Arn"])
        stack.deploy(SUCCEED, BatchSize=10)

        ended = _command("--all", "--endpoint", aws.endpoint)

    assert ended.returncode == 1
    assert "does not have permissions to call DeleteMessage on SQS" in ended.stderr


def test_an_unknown_mapping_is_one_sentence(aws: emulator.Emulator) -> None:
    ended = _command("00000000-0000-0000-0000-000000000000", "--endpoint", aws.endpoint)

    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1


def _state(stack: Stack) -> str:
    return stack.functions.get_event_source_mapping(UUID=stack.uuid)["State"]


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devstack.event_source_mapping", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def _most_at_once(invocations: list[dict[str, Any]]) -> int:
    spans = [(float(invocation["began"]), float(invocation["ended"])) for invocation in invocations]
    return max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans)
