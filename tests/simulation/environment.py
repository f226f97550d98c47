"""Models a Lambda environment of a function: its image, its process, and its way to the outside."""

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from tests.simulation import http
from tests.simulation.aws.client import Client
from tests.simulation.event_loop import EventLoop, Executor
from tests.simulation.faults import Fault
from tests.simulation.image import Image
from tests.simulation.scheduler import Process


class Environment:
    """Runs one function in one place; a cold start gives it a new process, and it forgets."""

    def __init__(self, function: str, number: int) -> None:
        self.function = function
        self.name = f"{function}-{number}"
        self.process: Process | None = None
        self.counts: dict[str, float] = {}
        self._world: Any = None
        self._starts = 0
        self._loops: list[EventLoop] = []
        self._environ: dict[str, str] = {}
        self._turned: dict[tuple[str, str], Any] = {}  # what the run before has changed, as it was
        self.chance = random.Random(0)
        self.image = Image(function, self._seams())
        vars(self.image.module("runtime"))["current"] = _Runtime(self)
        self._let_poison_end_it()

    def bind(self, world: Any) -> None:
        """Enters a new run."""
        self._world = world
        self._starts = 0
        self._environ.clear()
        self._environ.update(
            {f"SLUICE_{name}": value for name, value in world.settings[self.function].items()}
        )
        self.counts = {}
        self.leave()
        for (module, name), value in world.knobs.items():
            content = vars(self.image.module(module))
            self._turned[module, name] = content[name]
            content[name] = value

    def leave(self) -> None:
        """Leaves a run: as new, with the package's own limits."""
        self.end()
        for (module, name), value in self._turned.items():
            vars(self.image.module(module))[name] = value
        self._turned.clear()

    def start(self) -> Process:
        """Starts a new process, cold."""
        self.end()
        self._starts += 1
        world = self._world
        process = Process(world.outside.scheduler, f"{self.name}.{self._starts}")
        self.chance = random.Random(f"{world.seed}/{process.name}")
        self.process = process
        return process

    def end(self) -> None:
        """Ends the process, if there is one, and forgets all that it remembered."""
        if self.process is not None:
            self.process.kill()
            self.process = None
        for loop in self._loops:
            loop.abandon()
        self._loops.clear()
        self.image.forget()

    def new_loop(self, threads: int) -> EventLoop:
        """Returns an event loop of the process."""
        assert self.process is not None
        loop = EventLoop(self.process)
        loop.set_default_executor(Executor(self.process, threads))
        self._loops.append(loop)
        return loop

    def count(self, name: str, value: float) -> None:
        """Adds to a metric."""
        self.counts[name] = self.counts.get(name, 0) + value

    def say(self, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Notes a line of the log."""
        assert self.process is not None
        outside = self._world.outside
        outside.trace.add(outside.scheduler.now, self.process.name, f"log {level}: {message}", fields)

    def client(self, service: str, config: Any = None) -> Client:
        """Returns a client of an AWS service for the process."""
        assert self.process is not None
        return Client(service, self._world.services[service], self.process, self._world.outside, config)

    def transport(self) -> http.Transport:
        """Returns the way to the upstreams for the process."""
        assert self.process is not None
        return http.Transport(self.process, self._world.upstream)

    def _let_poison_end_it(self) -> None:
        """Ends the process where it decodes a message that no process survives."""
        message = vars(self.image.module("message"))
        decode = message["decode"]

        def guarded(body: str, fetch_claim: Any) -> Any:
            if self.function == "dispatch" and self._world.is_odd(body):
                raise RuntimeError("nobody foresaw this")
            decoded = decode(body, fetch_claim)
            if self._world.is_poison(body):
                assert self.process is not None
                self._world.outside.crash(self.process, "message.decode", "poison", Fault.CRASH_AFTER)
            return decoded

        message["decode"] = guarded

    def _seams(self) -> dict[str, ModuleType]:
        return {
            "boto3": _module("boto3", client=self.client),
            "httpx2": http.module_with(self.transport),
            "os": _module("os", **{**vars(os), "environ": self._environ}),
            "aws_lambda_powertools": _module(
                "aws_lambda_powertools", Logger=lambda **_: _Logger(self), Metrics=lambda **_: _Metrics(self)
            ),
        }


class _Runtime:
    """Implements the package's port for what differs from run to run, in simulated time."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    @property
    def chance(self) -> random.Random:
        return self._environment.chance

    def time(self) -> float:
        return self._process.time()

    def monotonic(self) -> float:
        return self._process.scheduler.now

    def processor_time(self) -> float:
        return 0.0  # computing takes no time here

    def sleep(self, seconds: float) -> None:
        self._process.scheduler.sleep(seconds)

    def unique_id(self) -> str:
        return f"{self.chance.getrandbits(128):032x}"

    def new_runner(self, threads: int = 1) -> asyncio.Runner:
        loop = self._environment.new_loop(threads)
        return asyncio.Runner(loop_factory=lambda: loop)

    def map_concurrently[T, R](
        self, call: Callable[[T], R], arguments: Iterable[T], *, threads: int
    ) -> list[R]:
        return Executor(self._process, threads).map(call, list(arguments))

    @property
    def _process(self) -> Process:
        process = self._environment.process
        assert process is not None
        return process


class _Logger:
    """Powertools' logger, whose lines go into the trace."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.handlers: list[Any] = []

    def inject_lambda_context(self, **_: Any) -> Callable[[Any], Any]:
        return lambda handler: handler

    def append_keys(self, **_: Any) -> None:
        """Needs no keys."""

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda message, **fields: self._environment.say(level, message, fields)


class _Metrics:
    """Powertools' metrics, which are summed."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def log_metrics(self, handler: Any) -> Any:
        return handler

    def add_metric(self, name: str, unit: Any, value: float) -> None:
        self._environment.count(name, value)


class Context:
    """Plays Lambda's context of one invocation."""

    function_name = "function"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:function"
    aws_request_id = "request"

    def __init__(self, process: Process, seconds: float, memory: int) -> None:
        self._scheduler = process.scheduler
        self._end = self._scheduler.now + seconds
        self.memory_limit_in_mb = str(memory)

    def get_remaining_time_in_millis(self) -> int:
        """Returns the time that is left, by a clock that nobody sets."""
        return int((self._end - self._scheduler.now) * 1_000)


def _module(name: str, /, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module
