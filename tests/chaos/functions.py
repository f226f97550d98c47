"""Runs dispatch and resume as on Lambda, with the mappings around them, beside a stack that is up."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import boto3

from devstack import processes
from devstack.event_source_mapping import settings
from devstack.event_source_mapping.runner import Answer, Invoke, Runner
from devstack.lifeline import Lifeline
from devstack.stack import GRACE_SECONDS, WORKSPACE, Stack
from tests.chaos.proxy import Mischief, Proxy
from tests.chaos.runtime import Runtime

TWICE: Final = 0.05  # of the messages received
TWICE_WITHIN: Final = 4  # seconds
OTHER_MAPPINGS: Final = (
    *("BackgroundMappingId", "RejectedMappingId"),
    *("EventsDeadLetterMappingId", "BackgroundDeadLetterMappingId", "RejectedDeadLetterMappingId"),
)


@contextlib.contextmanager
def runtime(stack: Stack, function: str, name: str, timeout: int, mischief: Mischief) -> Iterator[Runtime]:
    """Runs a deployed function, by its logical id, with its own variables and its role's permissions."""
    deployed = boto3.client("lambda").get_function_configuration(
        FunctionName=stack.outputs[f"{function}Name"]
    )
    role = boto3.client("sts").assume_role(RoleArn=deployed["Role"], RoleSessionName=name)["Credentials"]
    built = WORKSPACE / "build"
    proxy = Proxy(name.partition("-")[0], mischief, stack.port)
    with proxy.serving() as endpoint:
        environment = {
            **deployed["Environment"]["Variables"],
            "AWS_LAMBDA_FUNCTION_NAME": deployed["FunctionName"],
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(deployed["MemorySize"]),
            "AWS_REGION": stack.region,
            "AWS_DEFAULT_REGION": stack.region,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": role["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": role["SecretAccessKey"],
            "AWS_SESSION_TOKEN": role["SessionToken"],
        }
        code = [
            built / function,
            *(built / layer / "python" for layer in ("DependenciesLayer", "SluiceLayer")),
        ]
        made = Runtime(name, Path(stack.folder) / "runtimes", code, environment, timeout)
        made.start()
        proxy.runtime = made
        try:
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def mapped(
    stack: Stack, dispatchers: list[Runtime], visibility: int, timeout: int, mischief: Mischief
) -> Iterator[None]:
    """Maps the events queue to these runtimes, and the other queues to the emulator's functions."""
    functions, sqs = boto3.client("lambda"), boto3.client("sqs")
    deployed = settings.read(stack.outputs["EventsMappingId"], functions, sqs)
    # Read as it is deployed and pressed afterwards: shorter than the function's timeout, AWS would refuse it.
    pressed = replace(deployed, visibility=visibility, function_timeout=timeout, concurrency=len(dispatchers))
    sqs.set_queue_attributes(QueueUrl=deployed.queue_url, Attributes={"VisibilityTimeout": str(visibility)})
    stack.services["mapping"].stop(2 * GRACE_SECONDS)
    folder = Path(stack.folder)
    with (folder / "logs" / "events-mapping.log").open("w") as log, Lifeline() as lifeline:

        def report(event: str, **fields: Any) -> None:
            with contextlib.suppress(ValueError):  # closed: an invocation that ends after all is over
                print(json.dumps({"event": event, **fields}), file=log, flush=True)

        events = Runner(pressed, _Twice(sqs, mischief), _by_turns(dispatchers, mischief), report)  # type: ignore[arg-type]
        others = processes.start(
            "devstack.event_source_mapping",
            [*(stack.outputs[name] for name in OTHER_MAPPINGS), "--endpoint", stack.aws],
            folder / "other-mappings.ready",
            folder / "logs" / "other-mappings.log",
            lifeline,
        )
        events.start()
        try:
            yield
        finally:
            events.stop(GRACE_SECONDS)
            others.stop(2 * GRACE_SECONDS)


def _by_turns(runtimes: list[Runtime], mischief: Mischief) -> Invoke:
    """Returns a function that invokes any free runtime; the mapping's concurrency leaves at least one
    free.
    """
    free: SimpleQueue[Runtime] = SimpleQueue()
    for each in runtimes:
        free.put(each)

    def invoke(_function: str, batch: bytes) -> Answer:
        taken = free.get()
        try:
            answer = taken.invoke(batch)
        finally:
            free.put(taken)
        if answer.error:
            mischief.note(answer.error)
        return answer

    return invoke


class _Twice:
    """Receives from a queue, and lets some messages be received once more, by another worker, soon."""

    def __init__(self, sqs: Any, mischief: Mischief) -> None:
        self._sqs = sqs
        self._mischief = mischief

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sqs, name)

    def receive_message(self, **request: Any) -> Any:
        answer = self._sqs.receive_message(**request)
        for message in answer.get("Messages", []):
            drawn = self._mischief.plan.chance("delivery", self._mischief.number("delivery"))
            if drawn < TWICE:
                self._mischief.note("messages handed out twice")
                self._sqs.change_message_visibility(
                    QueueUrl=request["QueueUrl"],
                    ReceiptHandle=message["ReceiptHandle"],
                    VisibilityTimeout=int(drawn / TWICE * TWICE_WITHIN),
                )
        return answer
