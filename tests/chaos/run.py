"""Carries a plan out on a stack, until it is at rest, and counts."""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from signal import Signals
from typing import Any, Final

import boto3

from devstack.stack import Stack
from tests.chaos.functions import mapped, runtime
from tests.chaos.ledger import Accepted, Archive, Count, StandIn, count
from tests.chaos.plan import REFUSED, Plan, Sending, Way
from tests.chaos.proxy import Mischief
from tests.chaos.runtime import KILLED, TIMED_OUT, Runtime

VISIBILITY: Final = 8
LONGEST_WAIT: Final = 3
DISPATCHERS: Final = 3
RESUME_SECONDS: Final = 3.0  # instead of a minute
# Sent before anything is taken from the queue, so that the poison is known before it is read.
HEAD_START: Final = 2.0
SENDERS: Final = 4
LOOK_SECONDS: Final = 0.2
SAY_SECONDS: Final = 10.0
# After the load the wait is given up when nothing has changed for so long, or in any case after so long: what
# is then still on its way counts as lost.
PATIENCE_SECONDS: Final = 60.0
STILL_SECONDS: Final = 10.0  # after so long without a change, the next late sending goes
REST_SECONDS: Final = 480.0
PARAMETERS: Final = {
    "DispatchBatchingWindow": "1",
    "RejectBatchingWindow": "1",
    "DispatchTimeout": "60",
    "DispatchConcurrency": str(DISPATCHERS),
}


@dataclass(frozen=True)
class Result:
    """Holds a run's figures, and what happened in it, by name."""

    count: Count
    done: dict[str, int]
    faults: int
    not_accepted: tuple[str, ...]

    @property
    def kills(self) -> int:
        return self.done.get(KILLED, 0)

    @property
    def timeouts(self) -> int:
        return self.done.get(TIMED_OUT, 0)


class Run:
    """Carries a plan out on a stack; `timeout` is dispatch's, in seconds."""

    def __init__(self, plan: Plan, stack: Stack, timeout: int, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._stack = stack
        self._timeout = timeout
        self._say = say
        self._sqs = boto3.client("sqs")
        self._s3 = boto3.client("s3")
        self._accepted = Accepted()
        self._not_accepted: list[str] = []
        self._mischief = Mischief(plan, LONGEST_WAIT, self._accepted.is_poison)
        self._stand_in = StandIn(stack.upstream)
        self._archive = Archive(self._s3, stack.outputs["ArchiveBucketName"])
        self._weather = ""
        self._ended = threading.Event()

    def carry_out(self) -> Result:
        """Carries out all of it, in some minutes."""
        self._stand_in.configure(poison=REFUSED)
        with contextlib.ExitStack() as block:
            resumer = block.enter_context(self._runtime("ResumeFunction", "resume", 60))
            dispatchers = [
                block.enter_context(self._runtime("DispatchFunction", f"dispatch-{number}", self._timeout))
                for number in range(1, DISPATCHERS + 1)
            ]
            for sending in self._plan.sendings:
                if sending.at < HEAD_START:
                    self._send(sending)
            block.enter_context(mapped(self._stack, dispatchers, VISIBILITY, self._timeout, self._mischief))
            threads = block.enter_context(ThreadPoolExecutor(SENDERS + 4))
            block.callback(self._ended.set)
            start = time.monotonic() - HEAD_START
            load = threads.submit(self._send_all, start, threads)
            tasks = [
                load,
                threads.submit(self._change_weather, start),
                threads.submit(self._strike_during_requests, dispatchers),
                threads.submit(self._resume, resumer),
            ]
            self._wait(start, load, tasks, dispatchers)
        return self._result()

    def _runtime(self, function: str, name: str, timeout: int) -> contextlib.AbstractContextManager[Runtime]:
        return runtime(self._stack, function, name, timeout, self._mischief)

    def _result(self) -> Result:
        self._archive.look()
        throttled: int = self._stand_in.summary()["throttled_by_limit"]
        return Result(
            count(self._plan, self._accepted, self._archive, self._stand_in.taken(), throttled),
            dict(self._mischief.done),
            self._stand_in.faults(),
            tuple(self._not_accepted),
        )

    # The parts of the plan, each in a thread of its own.

    def _send_all(self, start: float, threads: ThreadPoolExecutor) -> None:
        """Sends each request at its time, several at once; the load is over when all are answered."""
        sent: list[Future[None]] = []
        for sending in self._plan.sendings:
            if sending.at >= HEAD_START:
                if self._ended.wait(max(0.0, start + sending.at - time.monotonic())):
                    return
                sent.append(threads.submit(self._send, sending))
        for each in sent:
            each.result()

    def _send(self, sending: Sending) -> None:
        try:
            receipt = self._put_on_queue(sending) if sending.way is Way.QUEUE else self._post(sending)
        except urllib.error.HTTPError as error:
            self._not_accepted.append(f"{sending.way} {error.code} {error.read()[:300]!r}")
        except OSError:  # too slow, on a busy machine: it may have been accepted
            self._accepted.unanswered.append(sending)
        else:
            self._accepted.add(sending, receipt)

    def _put_on_queue(self, sending: Sending) -> str:
        url = self._stack.outputs["EventsQueueUrl"]
        return self._sqs.send_message(QueueUrl=url, MessageBody=sending.body.decode())["MessageId"]

    def _post(self, sending: Sending) -> str:
        headers = {"revision": "2026-07-15", "Content-Type": "application/vnd.api+json"}
        url = f"{self._stack.api}{sending.way}"
        if sending.way in {Way.CLIENT_BULK, Way.CLIENT_EVENT}:
            url += f"?company_id={self._stack.site_id}"
        else:
            headers["Authorization"] = f"Klaviyo-API-Key {self._stack.key}"
        request = urllib.request.Request(url, data=sending.body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(json.load(answer)["data"]["id"])

    def _change_weather(self, start: float) -> None:
        for number, weather in enumerate(self._plan.weather):
            if self._ended.wait(max(0.0, start + weather.at - time.monotonic())):
                return
            self._stand_in.configure(
                faults=weather.faults, attribution=weather.attribution, seed=self._plan.seed + number
            )
            self._weather = weather.name

    def _strike_during_requests(self, dispatchers: list[Runtime]) -> None:
        """Kills every busy dispatch at once when the fake upstream has received so many requests."""
        for number in self._plan.outages:
            while self._stand_in.summary()["requests"] < number:
                if self._ended.wait(LOOK_SECONDS):
                    return
            for each in dispatchers:
                if each.busy and each.strike(Signals.SIGKILL):
                    self._mischief.note("SIGKILL")

    def _resume(self, resumer: Runtime) -> None:
        while not self._ended.wait(RESUME_SECONDS):
            if error := resumer.invoke(b"{}").error:
                self._mischief.note(f"resume {error}")

    # The end.

    def _wait(
        self, start: float, load: Future[None], tasks: list[Future[None]], dispatchers: list[Runtime]
    ) -> None:
        """Waits until all is sent and the system is at rest, or nothing has changed for long."""
        before: object = None
        changed = said = over = time.monotonic()
        late_sendings = list(self._plan.late_sendings)
        while True:
            self._ended.wait(1.0)
            for task in tasks:
                if task.done():
                    task.result()
            now = time.monotonic()
            self._archive.look()
            summary, waiting = self._stand_in.summary(), self._waiting(dispatchers)
            state = (summary["events"], summary["jobs"], len(self._archive.marks), waiting, self._struck())
            if state != before:
                before, changed = state, now
            if now - said >= SAY_SECONDS:
                said = now
                self._say(
                    f"{now - start:4.0f} s  {self._weather:<26} accepted {len(self._accepted.marks)}, "
                    f"taken {summary['events']}, archived {len(self._archive.marks)}, "
                    f"struck {self._struck()}, waiting {waiting}"
                )
            if not load.done() or self._weather != "fair":
                over = now
            elif not any(waiting) or now - changed > PATIENCE_SECONDS or now - over > REST_SECONDS:
                return
            elif late_sendings and now - changed > STILL_SECONDS:
                self._send(late_sendings.pop(0))

    def _waiting(self, dispatchers: list[Runtime]) -> tuple[int, ...]:
        """Returns the messages on the queues, visible or hidden, parked objects, and dispatches that run."""
        names = ("EventsQueue", "EventsDeadLetterQueue", "RejectedQueue", "RejectedDeadLetterQueue")
        bucket = self._stack.outputs["ClaimBucketName"]
        parked = [self._s3.list_objects_v2(Bucket=bucket, Prefix=each) for each in ("parked/", "unknown/")]
        return (
            *(self._on(self._stack.outputs[f"{name}Url"]) for name in names),
            sum(found["KeyCount"] for found in parked),
            sum(each.busy for each in dispatchers),
        )

    def _on(self, queue: str) -> int:
        attributes: dict[Any, str] = self._sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])[
            "Attributes"
        ]
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        return sum(int(attributes[name]) for name in names)

    def _struck(self) -> int:
        done = self._mischief.done
        return done["SIGKILL"] + done["SIGSTOP"] + done["poisonings"]
