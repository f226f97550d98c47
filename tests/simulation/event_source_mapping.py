"""Models Lambda's event source mapping of a queue, as AWS documents it, and invocations that end in every
way.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.simulation.aws.sqs import Message, Queue, attributes_of
from tests.simulation.environment import Context, Environment
from tests.simulation.scheduler import Killed, Process, Strand

POLL_SECONDS = 20.0
MAX_PAYLOAD = 6_000_000
RECEIVES = 10  # messages of one ReceiveMessage


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
        ended: Callable[[Environment, Process, bool], None] = lambda environment, process, killed: None,
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
            context = Context(process, self._seconds, self._memory)
            strand = process.spawn(lambda: environment.image.app.handler(event, context))
            scheduler = process.scheduler
            number = self.invocations
            scheduler.call_at(scheduler.now + self._seconds, lambda: self._time_out(process, number))
            try:
                answer = scheduler.join(strand)
            except Killed:
                self.crashes += 1
                self._ended(environment, process, True)
                environment.end()
                raise
            self._ended(environment, process, False)
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
        overlaps: Callable[[Message], None] = lambda message: None,
        together: bool = False,
    ) -> None:
        self.queue = queue
        self.invokers = invokers
        self._scheduler = process.scheduler
        self._batch_size = batch_size
        self._window = window
        self._loses = loses
        self._ended = ended
        self._idle: list[Any] = []
        self._stopping = False
        self._overlaps = overlaps
        self._in_hand: Counter[str] = Counter()  # messages of invocations that have not ended
        self._together = together
        self._gathering = False
        for invoker in invokers:
            watch(process.spawn(functools.partial(self._poll, invoker)))

    def wake(self) -> None:
        """Lets a poller that waits look at the queue at once."""
        if self._idle:
            self._scheduler.wake(self._idle.pop(0), self._scheduler.now)

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
        strand = self._scheduler.current
        self._idle.append(strand)
        if due is None:
            self._scheduler.park()
        else:
            self._scheduler.sleep(min(max(due - self.queue.clock(), 0.01), POLL_SECONDS))
        if strand in self._idle:
            self._idle.remove(strand)

    def _gather(self) -> list[Message]:
        """Receives until the batch is full, is as large as an invocation may be, or its window is over."""
        batch: list[Message] = []
        size = 0
        end = self._scheduler.now + self._window
        while len(batch) < self._batch_size and size < MAX_PAYLOAD:
            received = self.queue.receive(min(RECEIVES, self._batch_size - len(batch)))
            for message in received:
                if self._in_hand[message.id]:
                    self._overlaps(message)
            batch += received
            size += sum(len(message.body) for message in received)
            if not received:
                left = end - self._scheduler.now
                if left <= 0 or not batch:
                    break
                self._scheduler.sleep(min(1.0, left))
        return batch

    def _run(self, invoker: Invoker, batch: list[Message]) -> None:
        handles = [message.handles[-1] for message in batch]
        event = {"Records": [_record(message) for message in batch]}
        ids = [message.id for message in batch]
        self._in_hand.update(ids)
        try:
            answer = invoker.invoke(event)
        except (Killed, Exception) as error:
            self._ended(invoker.environment.function, error)
            return
        finally:
            self._in_hand.subtract(ids)
        failed = _failed(answer, {message.id for message in batch})
        for message, handle in zip(batch, handles, strict=True):
            if message.id not in failed and not self._loses(message):
                self.queue.delete(handle)


def _record(message: Message) -> dict[str, Any]:
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
