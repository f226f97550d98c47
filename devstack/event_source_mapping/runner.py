"""Runs one mapping: receivers gather a batch, invocations send it, deleters settle it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from .batches import Gathering, Held, hold, payload
from .response import failed_ids

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import (
        ChangeMessageVisibilityBatchRequestEntryTypeDef,
        DeleteMessageBatchRequestEntryTypeDef,
    )

    from .settings import Settings

RECEIVERS = 8
DELETERS = 4
# Twenty on AWS. Short here, because an end has to wait for it: a receiver that just left would take the
# messages of its unread answer out of sight for a visibility timeout.
LONG_POLL_SECONDS = 1
RETRY_SECONDS = 2.0
THROTTLED_SECONDS = (0.1, 5.0)
DELETE_ATTEMPTS = 4

type Report = Callable[..., None]
type Invoke = Callable[[str, bytes], Answer]


class ThrottledError(Exception):
    """Says that the function takes no invocation now."""


@dataclass(frozen=True)
class Answer:
    """Holds the result of an invocation: the function's payload, or the kind of error that it ended with."""

    payload: bytes = b""
    error: str | None = None


def through(functions: LambdaClient) -> Invoke:
    """Returns a function that invokes through a Lambda API.

    The client must not retry, because a repeated Invoke runs the batch twice, and must wait longer than the
    function may run.
    """

    def invoke(function_arn: str, batch: bytes) -> Answer:
        try:
            answer = functions.invoke(
                FunctionName=function_arn, InvocationType="RequestResponse", Payload=batch
            )
            return Answer(answer["Payload"].read(), answer.get("FunctionError"))
        except functions.exceptions.TooManyRequestsException as error:
            raise ThrottledError from error
        except (BotoCoreError, ClientError) as error:
            return Answer(error=type(error).__name__)

    return invoke


@dataclass(frozen=True)
class Outcome:
    """Holds the outcome of an invocation: the messages that failed, and the cause if all did."""

    failed: frozenset[str]
    error: str | None = None


class Runner:
    """Runs one mapping, from `start()` to `stop()`.

    sqs retries by itself. invoke runs the function once, by its ARN, or raises ThrottledError. report gets a
    constant text and fields, never a body.
    """

    def __init__(
        self,
        settings: Settings,
        sqs: SQSClient,
        invoke: Invoke,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._sqs = sqs
        self._invoke_function = invoke
        self._report = report
        self._clock = clock
        self._changed = threading.Condition()
        self._gathering = Gathering(settings.limits)
        self._running = 0
        self._stopping = threading.Event()
        self._deleters = ThreadPoolExecutor(DELETERS)
        self._receivers = [threading.Thread(target=self._receive, daemon=True) for _ in range(RECEIVERS)]
        self._sender = threading.Thread(target=self._send, daemon=True)

    def start(self) -> None:
        for thread in (*self._receivers, self._sender):
            thread.start()

    def adopt(self, settings: Settings, invoke: Invoke) -> None:
        """Changes the settings; a batch already sent keeps its own."""
        with self._changed:
            self.settings = settings
            self._invoke_function = invoke
            self._gathering.limit(settings.limits)
            self._changed.notify_all()

    def ask_to_stop(self) -> None:
        """Ends receiving and invoking."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def stop(self, grace: float) -> bool:
        """Stops: gives back the messages held, and lets running invocations finish for `grace` seconds.

        Returns whether they did. The messages of the others reappear when their visibility ends.
        """
        self.ask_to_stop()
        deadline = self._clock() + grace
        for thread in (*self._receivers, self._sender):
            thread.join(max(0.0, deadline - self._clock()))
        with self._changed:
            held = self._gathering.drain()
        self._give_back(held)
        with self._changed:
            finished = self._changed.wait_for(lambda: self._running == 0, max(0.0, deadline - self._clock()))
        self._deleters.shutdown(wait=finished, cancel_futures=not finished)
        return finished

    def _receive(self) -> None:
        while asked := self._ask():
            received: list[Held] = []
            try:
                received = self._receive_once(asked)
            except (BotoCoreError, ClientError) as error:
                self._report("receive failed", mapping=self.settings.label, error=type(error).__name__)
                self._stopping.wait(RETRY_SECONDS)
            finally:
                with self._changed:
                    self._gathering.answer(asked, received)
                    self._changed.notify_all()

    def _ask(self) -> int:
        """Waits until messages are wanted, and returns how many, or 0 at the end."""
        with self._changed:
            while not self._stopping.is_set():
                if self._running < self.settings.concurrency and (asked := self._gathering.ask()):
                    return asked
                self._changed.wait()
            return 0

    def _receive_once(self, asked: int) -> list[Held]:
        answer = self._sqs.receive_message(
            QueueUrl=self.settings.queue_url,
            MaxNumberOfMessages=asked,
            WaitTimeSeconds=LONG_POLL_SECONDS,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        now = self._clock()
        return [hold(message, self.settings.queue_arn, now) for message in answer.get("Messages", [])]

    def _send(self) -> None:
        while batch := self._next_batch():
            threading.Thread(target=self._run, args=(batch, self.settings), daemon=True).start()

    def _next_batch(self) -> list[Held]:
        """Waits for a batch that has to go and a free place to run it; returns nothing at the end."""
        with self._changed:
            while not self._stopping.is_set():
                wait = None
                if self._running < self.settings.concurrency:
                    now = self._clock()
                    if batch := self._gathering.take(now):
                        self._running += 1
                        self._changed.notify_all()
                        return batch
                    due = self._gathering.due
                    wait = None if due is None else max(0.0, due - now)
                self._changed.wait(wait)
            return []

    def _run(self, batch: list[Held], settings: Settings) -> None:
        try:
            self._invoke_and_settle(batch, settings)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _invoke_and_settle(self, batch: list[Held], settings: Settings) -> None:
        started = self._clock()
        pause, longest = THROTTLED_SECONDS
        while (outcome := self._invoke(batch, settings)) is None:
            self._stopping.wait(pause)
            pause = min(2 * pause, longest)
            batch = [message for message in batch if self._gathering.ours(message, self._clock())]
            if self._stopping.is_set():
                self._give_back(batch)
                return
            if not batch:
                self._report("throttled until visibility ended", mapping=settings.label)
                return
        seconds = self._clock() - started
        done = [message for message in batch if message.message_id not in outcome.failed]
        undeleted = self._delete(done, settings)
        self._report(
            "invoked",
            mapping=settings.label,
            records=len(batch),
            failed=len(batch) - len(done),
            gathered=round(started - batch[0].received_at, 3),
            seconds=round(seconds, 3),
            **({"error": outcome.error} if outcome.error else {}),
            **({"undeleted": undeleted} if undeleted else {}),
        )

    def _invoke(self, batch: Sequence[Held], settings: Settings) -> Outcome | None:
        """Invokes the function once; returns None when it was throttled."""
        ids = frozenset(message.message_id for message in batch)
        try:
            answer = self._invoke_function(settings.function_arn, payload(batch))
        except ThrottledError:
            return None
        if answer.error:
            return Outcome(ids, answer.error)
        return Outcome(failed_ids(answer.payload, ids) if settings.reports_failures else frozenset())

    def _delete(self, messages: Sequence[Held], settings: Settings) -> int:
        """Deletes messages, and returns how many could not be deleted.

        A message cannot be deleted if its visibility has ended or the queue fails.
        """
        return sum(self._deleters.map(lambda ten: self._delete_ten(ten, settings), _tens(messages)))

    def _delete_ten(self, messages: Sequence[Held], settings: Settings) -> int:
        stale = 0
        for attempt in range(DELETE_ATTEMPTS):
            self._stopping.wait(0.1 * attempt)
            entries: list[DeleteMessageBatchRequestEntryTypeDef] = [
                {"Id": str(n), "ReceiptHandle": m.receipt_handle} for n, m in enumerate(messages)
            ]
            try:
                answer = self._sqs.delete_message_batch(QueueUrl=settings.queue_url, Entries=entries)
            except (BotoCoreError, ClientError):
                break
            failed = answer.get("Failed", [])
            # A sender's fault is an outdated receipt handle: the message is somebody else's by now.
            again = [messages[int(entry["Id"])] for entry in failed if not entry["SenderFault"]]
            stale += len(failed) - len(again)
            messages = again
            if not messages:
                break
        return stale + len(messages)

    def _give_back(self, messages: Sequence[Held]) -> None:
        """Makes messages that were never sent visible to everybody again."""
        for ten in _tens(messages):
            entries: list[ChangeMessageVisibilityBatchRequestEntryTypeDef] = [
                {"Id": str(n), "ReceiptHandle": m.receipt_handle, "VisibilityTimeout": 0}
                for n, m in enumerate(ten)
            ]
            try:
                self._sqs.change_message_visibility_batch(QueueUrl=self.settings.queue_url, Entries=entries)
            except (BotoCoreError, ClientError) as error:
                self._report("giving back failed", mapping=self.settings.label, error=type(error).__name__)
                return
        if messages:
            self._report("given back", mapping=self.settings.label, records=len(messages))


def _tens(messages: Sequence[Held]) -> list[Sequence[Held]]:
    return [messages[start : start + 10] for start in range(0, len(messages), 10)]
