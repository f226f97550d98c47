"""Models Lambda's event source mapping of a queue, as AWS documents it, and invocations that end in every
way.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

from tests.simulation.aws.sqs import Message, Queue, attributes_of
from tests.simulation.environment import Context, Environment
from tests.simulation.scheduler import Killed, Process, Strand

MAX_PAYLOAD = 6_000_000
RECEIVES = 10  # messages of one ReceiveMessage
LOOKS = 6  # at the queue, within a long window


class Invoker:
    """Runs invocations, each in an environment that is warm or cold and is killed at the timeout."""

    def __init__(
        self,
        environment: Environment,
        seconds: float,
        memory: int,
        *,
        cold: Callable[[], bool] = lambda: False,
        skew: Callable[[Process], None] = lambda process: None,
        timed_out: Callable[[Process], None] = lambda process: None,
        ended: Callable[[Environment, Process, Any, bool], None] = lambda *_: None,
    ) -> None:
        self.environment = environment
        self.busy = False
        self.invocations = 0
        self.timeouts = 0
        self.crashes = 0
        self._seconds = seconds
        self._memory = memory
        self._cold = cold
        self._skew = skew
        self._timed_out = timed_out
        self._ended = ended

    def invoke(self, event: Any) -> Any:
        """Invokes the handler; raises `Killed` if its process ended, or what the handler raised."""
        environment = self.environment
        self.busy = True
        self.invocations += 1
        try:
            process = environment.process
            if process is None or not process.alive or self._cold():
                process = environment.start()
            self._skew(process)
            process.began = process.scheduler.now
            context = Context(process, self._seconds, self._memory)
            strand = process.spawn(lambda: environment.image.app.handler(event, context))
            scheduler = process.scheduler
            number = self.invocations
            scheduler.call_at(scheduler.now + self._seconds, lambda: self._time_out(process, number))
            try:
                answer = scheduler.join(strand)
            except Killed:
                self.crashes += 1
                self._ended(environment, process, event, True)
                environment.end()
                raise
            self._ended(environment, process, event, False)
            return answer
        finally:
            self.busy = False

    def _time_out(self, process: Process, number: int) -> None:
        if self.busy and self.invocations == number and process.alive:
            self.timeouts += 1
            self._timed_out(process)
            process.kill()


class Mapping:
    """Runs the pollers of one queue; each gathers a batch and invokes with it, at most `invokers` at once.

    If they work `together`, only one gathers at a time, so that batches are as full as they can be.
    """

    def __init__(
        self,
        process: Process,
        queue: Queue,
        invokers: list[Invoker],
        *,
        batch_size: int,
        window: float,
        loses: Callable[[Message], bool],
        ended: Callable[[str, BaseException], None],
        watch: Callable[[Strand], Strand],
        kept: Callable[[Environment, Message, str], None] = lambda *_: None,
        together: bool = False,
    ) -> None:
        self.queue = queue
        self.invokers = invokers
        self._scheduler = process.scheduler
        self._batch_size = batch_size
        self._window = window
        self._loses = loses
        self._ended = ended
        self._kept = kept
        self._idle: dict[Strand, float] = {}  # pollers that wait, and until when
        self._stopping = False
        self._together = together
        self._gathering = False
        for invoker in invokers:
            watch(process.spawn(functools.partial(self._poll, invoker)))

    def wake(self, after: float = 0.0) -> None:
        """Lets a poller that waits look at the queue after so many seconds, if it would wait for longer."""
        when = self._scheduler.now + after
        for strand, until in self._idle.items():
            if until > when:
                self._idle[strand] = when
                self._scheduler.wake(strand, when)
                return

    def stop(self) -> None:
        """Lets each poller end as soon as it has settled its batch."""
        self._stopping = True

    def _poll(self, invoker: Invoker) -> None:
        while not self._stopping:
            due = self.queue.next_visible()
            if self._gathering:
                due = None
            if due is None or due > self.queue.clock():
                self._wait(due)
                continue
            self._gathering = self._together
            batch = self._gather()
            self._gathering = False
            if self._together:
                self.wake()
            if batch:
                self._run(invoker, batch)

    def _wait(self, due: float | None) -> None:
        """Waits until a message is due, or until it is woken for an earlier one."""
        strand = self._scheduler.current
        assert strand is not None
        if due is None:
            self._idle[strand] = math.inf
            self._scheduler.park()
        else:
            seconds = max(due - self.queue.clock(), 0.01)
            self._idle[strand] = self._scheduler.now + seconds
            self._scheduler.sleep(seconds)
        del self._idle[strand]

    def _gather(self) -> list[Message]:
        """Receives until the batch is full, is as large as an invocation may be, or its window is over."""
        batch: list[Message] = []
        size = 0
        end = self._scheduler.now + self._window
        while len(batch) < self._batch_size and size < MAX_PAYLOAD:
            received = self.queue.receive(min(RECEIVES, self._batch_size - len(batch)))
            batch += received
            size += sum(len(message.body) for message in received)
            if not received:
                left = end - self._scheduler.now
                if left <= 0 or not batch:
                    break
                self._scheduler.sleep(min(max(1.0, self._window / LOOKS), left))
        return batch

    def _run(self, invoker: Invoker, batch: list[Message]) -> None:
        handles = [message.handles[-1] for message in batch]
        event = {"Records": [_record(message, self.queue.name) for message in batch]}
        try:
            answer = invoker.invoke(event)
        except (Killed, Exception) as error:
            self._ended(invoker.environment.function, error)
            return
        failed = _failed(answer, {message.id for message in batch})
        for message, handle in zip(batch, handles, strict=True):
            if message.id in failed:
                self._kept(invoker.environment, message, handle)
            elif not self._loses(message):
                self.queue.delete(handle)


def _record(message: Message, queue: str) -> dict[str, Any]:
    return {
        "messageId": message.id,
        "receiptHandle": message.handles[-1],
        "body": message.body,
        "attributes": attributes_of(message),
        "messageAttributes": {
            name: {"stringValue": value["StringValue"], "dataType": value["DataType"]}
            for name, value in message.attributes.items()
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:{queue}",
    }


def _failed(answer: Any, ids: set[str]) -> set[str]:
    """Returns the messages that stay: the named ones, or all if the answer cannot be right."""
    if answer in (None, {}):
        return set()
    try:
        failed = [each["itemIdentifier"] for each in answer["batchItemFailures"]]
    except (KeyError, TypeError):
        return ids
    return set(failed) if ids.issuperset(failed) else ids
