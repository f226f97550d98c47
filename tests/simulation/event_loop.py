"""Runs asyncio in simulated time: a loop that waits by letting other strands run."""

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.simulation.scheduler import Killed, Process, Strand


class Executor:
    """Plays a ThreadPoolExecutor in simulated time: each call in a strand, so many at a time."""

    def __init__(self, process: Process, workers: int) -> None:
        self._process = process
        self._free = workers
        self._waiting: deque[tuple[Callable[[], Any], Callable[[Strand], None]]] = deque()

    def submit(self, call: Callable[[], Any], done: Callable[[Strand], None]) -> None:
        """Runs a call as soon as a worker is free; `done` is given its strand at the end."""
        if self._free:
            self._free -= 1
            self._start(call, done)
        else:
            self._waiting.append((call, done))

    def map[T, R](self, call: Callable[[T], R], arguments: list[T]) -> list[R]:
        """Returns the results in order, or raises the first error once all calls have ended."""
        scheduler = self._process.scheduler
        current = scheduler.current
        assert current is not None
        strands: dict[int, Strand] = {}

        def note(index: int, strand: Strand) -> None:
            strands[index] = strand
            if len(strands) == len(arguments):
                scheduler.wake(current, scheduler.now)

        for index, argument in enumerate(arguments):
            self.submit(functools.partial(call, argument), functools.partial(note, index))
        if arguments:
            scheduler.park()
        for index in range(len(arguments)):
            if (error := strands[index].error) is not None:
                raise error
        return [strands[index].result for index in range(len(arguments))]

    def shutdown(self, wait: bool = True) -> None:
        """Does nothing: strands end by themselves."""

    def _start(self, call: Callable[[], Any], done: Callable[[Strand], None]) -> None:
        strand = self._process.spawn(call)
        strand.waiter = lambda: self._end(strand, done)

    def _end(self, strand: Strand, done: Callable[[Strand], None]) -> None:
        if self._process.alive:
            if self._waiting:
                self._start(*self._waiting.popleft())
            else:
                self._free += 1
            done(strand)


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """Gives a task a hash that does not depend on its address, so that sets of tasks have one order."""

    _numbers = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _Task._numbers += 1
        self._number = _Task._numbers
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class EventLoop(asyncio.BaseEventLoop):
    """Runs the event loop of one process."""

    _stopping: bool
    _thread_id: int | None
    _run_once: Callable[[], None]
    _check_closed: Callable[[], None]
    _check_running: Callable[[], None]

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._selector = self
        self._strand: Strand | None = None
        self._tasks: list[_Task] = []
        self._clock_resolution = 1e-6
        self._threads: Executor | None = None
        self.set_task_factory(self._new_task)
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        """Returns the seconds since the start of the simulation, by no clock that anybody sets."""
        return self._process.scheduler.now

    def run_forever(self) -> None:
        """Runs until it is stopped. Leaves out what only real threads and signals need."""
        self._check_closed()
        self._check_running()
        self._thread_id = threading.get_ident()
        asyncio._set_running_loop(self)
        try:
            while True:
                self._run_once()
                if self._stopping:
                    break
        finally:
            self._stopping = False
            self._thread_id = None
            asyncio._set_running_loop(None)

    def select(self, timeout: float | None) -> list[Any]:
        """Waits as a selector would, but in pretended time and for nothing but the time and strands."""
        if timeout is not None and timeout <= 0:
            if not self._process.alive:
                raise Killed
            return []
        scheduler = self._process.scheduler
        self._strand = scheduler.current
        if timeout is None:
            scheduler.park()
        else:
            scheduler.sleep(timeout)
        self._strand = None
        return []

    def set_default_executor(self, executor: Any) -> None:
        """Sets the strands that `run_in_executor` uses."""
        self._threads = executor

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Runs a function in a strand of the process."""
        assert self._threads is not None
        future = self.create_future()

        def finish(strand: Strand) -> None:
            if future.cancelled():
                return
            if strand.error is not None:
                future.set_exception(strand.error)
            else:
                future.set_result(strand.result)
            self._write_to_self()

        (executor or self._threads).submit(lambda: func(*args), finish)
        return future

    def abandon(self) -> None:
        """Closes what is left of a loop whose process is dead, in one order and now, not when it is found."""
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                with contextlib.suppress(Killed, Exception):  # whatever it still wants to do, it is dead
                    coroutine.close()  # type: ignore[union-attr]
        self._tasks.clear()
        self.close()

    def _new_task(self, loop: Any, coroutine: Any, **kwargs: Any) -> _Task:
        if len(self._tasks) > 256:
            self._tasks = [each for each in self._tasks if not each.done()]
        task = _Task(coroutine, loop=loop, **kwargs)
        self._tasks.append(task)
        return task

    def _process_events(self, event_list: list[Any]) -> None:
        """Has no events: there are no files."""

    def _write_to_self(self) -> None:
        if self._strand is not None and not self._strand.done:
            scheduler = self._process.scheduler
            scheduler.wake(self._strand, scheduler.now)
