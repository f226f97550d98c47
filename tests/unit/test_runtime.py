"""Tests the port for what differs from run to run, and that nothing goes past it."""

import random
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sluice import runtime

BANNED = [
    "import time\n\ntime.time()\n",
    "from time import monotonic\n\nmonotonic()\n",
    "import time\n\ntime.sleep(1)\n",
    "from datetime import UTC, datetime\n\ndatetime.now(UTC)\n",
    "import uuid\n\nuuid.uuid4()\n",
    "import random\n\nrandom.random()\n",
    "import secrets\n\nsecrets.token_hex()\n",
    "from concurrent.futures import ThreadPoolExecutor\n\nThreadPoolExecutor()\n",
    "import asyncio\n\nasyncio.Runner()\n",
    "import threading\n\nthreading.Thread()\n",
]


class Fixed:
    """Plays a runtime in which everything is known."""

    def __init__(self) -> None:
        self.chance = random.Random(1)
        self.slept: list[float] = []

    def time(self) -> float:
        return 1_000.5

    def monotonic(self) -> float:
        return 7.0

    def processor_time(self) -> float:
        return 0.25

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def unique_id(self) -> str:
        return "0" * 32

    def new_runner(self, threads: int) -> Any:
        return threads

    def map_concurrently(self, call: Any, arguments: Any, *, threads: int) -> Any:
        return [call(each) for each in arguments], threads


def test_whoever_replaces_the_runtime_decides_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Fixed()
    monkeypatch.setattr(runtime, "current", fixed)

    runtime.sleep(3.0)

    assert fixed.slept == [3.0]
    assert runtime.chance() is fixed.chance
    assert (runtime.time(), runtime.monotonic(), runtime.processor_time()) == (1_000.5, 7.0, 0.25)
    assert runtime.now() == datetime.fromtimestamp(1_000.5, UTC)
    assert runtime.unique_id() == "0" * 32
    assert runtime.new_runner(4) == 4  # type: ignore[comparison-overlap]
    assert runtime.map_concurrently(str, [1, 2], threads=3) == (["1", "2"], 3)  # type: ignore[comparison-overlap]


def test_the_system_has_real_clocks_ids_and_threads() -> None:
    before = time.time(), time.monotonic()

    runtime.sleep(0.01)

    assert runtime.time() > before[0]
    assert runtime.monotonic() >= before[1] + 0.01
    assert runtime.processor_time() > 0
    assert len({runtime.unique_id() for _ in range(100)}) == 100
    assert len(runtime.unique_id()) == 32


def test_calls_are_made_in_threads_and_answered_in_order() -> None:
    together = threading.Barrier(3)

    def call(number: int) -> int:
        together.wait(timeout=30)
        return -number

    assert runtime.map_concurrently(call, [1, 2, 3], threads=3) == [-1, -2, -3]


def test_a_call_that_raises_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        runtime.map_concurrently(lambda number: 1 / number, [1, 0], threads=2)


def test_a_runner_has_threads_of_its_own() -> None:
    together = threading.Barrier(2)

    async def two() -> list[int]:
        import asyncio

        return await asyncio.gather(*(asyncio.to_thread(together.wait, 30) for _ in range(2)))

    with runtime.new_runner(2) as runner:
        assert sorted(runner.run(two())) == [0, 1]


@pytest.mark.parametrize("source", BANNED)
def test_the_linter_refuses_what_goes_past_the_port(source: str) -> None:
    for name, is_refused in (("layers/sluice/sluice/receipts.py", True), ("devstack/stack.py", False)):
        found = subprocess.run(
            [
                str(Path(sys.executable).with_name("ruff")),
                "check",
                "--select",
                "TID251",
                "--stdin-filename",
                name,
                "-",
            ],
            input=source,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ("TID251" in found.stdout) == is_refused, found.stdout + found.stderr


def test_functions_are_held_to_the_port() -> None:
    for path in Path("functions").glob("*/app.py"):
        assert "import time" not in path.read_text()
