"""Runs the skeleton of an upstream against one in memory, and compares the guide with the code."""

import ast
import asyncio
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from sluice.delivery.backoff import Retry
from sluice.delivery.circuit_breaker import CircuitState
from sluice.delivery.lone_refusals import RefusalRecord
from sluice.delivery.outcome import AccountBatch, Outcome
from sluice.delivery.rate_limiter import NoSlotBeforeDeadline
from sluice.delivery.responses import Response
from tests.support.factories import NOON

GUIDE = Path("docs/adding-an-upstream.md")
SKELETON = Path("docs/upstream_skeleton/acme")
PACKAGE = Path("layers/sluice/sluice")
MODULES = ("message", "parser", "packing", "responses", "api", "delivery")


@pytest.fixture(scope="module")
def acme() -> Iterator[SimpleNamespace]:
    """Builds the skeleton: imports it as a package of its own."""
    sys.path.insert(0, str(SKELETON.parent))
    modules: dict[str, ModuleType] = {name: importlib.import_module(f"acme.{name}") for name in MODULES}
    yield SimpleNamespace(**modules)
    sys.path.remove(str(SKELETON.parent))
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[name]


class World:
    """Plays Acme, and what dispatch's surroundings do for one account."""

    def __init__(self, acme: SimpleNamespace, *bodies: list[dict[str, Any]]) -> None:
        self.acme = acme
        self.messages = {
            number: acme.parser.read(
                json.dumps({"events": events}).encode(), account="shop", receipt=f"r{number}", accepted=NOON
            )
            for number, events in enumerate(bodies)
        }
        self.taken: list[list[str]] = []
        self.answers: list[Response] = []
        self.parked: list[Any] = []
        self.opened: list[int] = []
        self.completed: dict[str, frozenset[int]] = {}
        self.pauses: list[float | None] = []
        self.slots = 100

    def deliver(self, *, redelivered: frozenset[int] = frozenset()) -> Outcome:
        outcome = Outcome()
        account = self.acme.message.AcmeAccount("shop", "key")
        batch: AccountBatch[Any] = AccountBatch(dict(self.messages), redelivered)
        asyncio.run(self.acme.delivery.deliver(account, batch, self._ports(), outcome))
        return outcome

    async def acquire(self) -> float:
        self.slots -= 1
        if self.slots < 0:
            raise NoSlotBeforeDeadline("no slot", 30.0)
        return 0.0

    async def pause(self, seconds: float | None) -> None:
        self.pauses.append(seconds)

    async def _create_events(self, *, account: Any, body: bytes) -> Response:
        if self.answers:
            return self.answers.pop(0)
        users = [each["user"] for each in json.loads(body)["events"]]
        if "bad" in users:
            return Response(400, {}, b'{"error": "a user is bad"}')
        self.taken.append(users)
        return Response(202)

    def _ports(self) -> SimpleNamespace:
        async def state(**_: object) -> CircuitState:
            return CircuitState(False, RefusalRecord())

        async def open_circuit(*, account_id: str, status: int) -> bool:
            assert account_id == "acme-shop"
            self.opened.append(status)
            return True

        async def park(*, account_id: str, messages: list[bytes], is_known: bool = True) -> None:
            self.parked += [
                msgspec.json.decode(each, type=self.acme.message.AcmeMessage) for each in messages
            ]

        async def record_refusals(
            *, account_id: str, change: Callable[[RefusalRecord], RefusalRecord]
        ) -> RefusalRecord:
            return change(RefusalRecord())

        async def completed(*, receipts: list[str]) -> dict[str, frozenset[int]]:
            return {name: self.completed[name] for name in receipts if name in self.completed}

        async def record_delivered(*, receipt: str, positions: list[int]) -> None:
            self.completed[receipt] = frozenset(positions)

        circuits = SimpleNamespace(state=state, open=open_circuit, park=park, record_refusals=record_refusals)
        return SimpleNamespace(
            circuits=circuits,
            receipts=SimpleNamespace(completed=completed, record_delivered=record_delivered),
            create_events=self._create_events,
            rate_limiter=lambda account: self,
            now=lambda: NOON + timedelta(seconds=1),
        )


def event(user: str) -> dict[str, Any]:
    return {"user": user, "name": "Placed Order"}


def test_single_messages_become_full_calls(acme: SimpleNamespace) -> None:
    world = World(acme, *([event(f"u{n}")] for n in range(150)))

    outcome = world.deliver()

    assert [len(call) for call in world.taken] == [100, 50]
    assert (outcome.retry, outcome.refusals) == ({}, [])
    assert outcome.counts["DeliveredEvents"] == 150


def test_a_bad_event_is_found_and_the_others_are_delivered(acme: SimpleNamespace) -> None:
    world = World(acme, [event("a"), event("bad"), event("c")], [event("d")])

    outcome = world.deliver()

    assert sorted(user for call in world.taken for user in call) == ["a", "c", "d"]
    [refusal] = outcome.refusals
    assert (refusal.record, refusal.positions, refusal.rejection.pointer) == (0, (1,), "/events/1")
    assert refusal.rejection.account == "acme-shop"
    assert world.completed == {"acme-shop#r0": frozenset({0, 2})}


def test_a_refused_account_is_parked_and_its_circuit_opens(acme: SimpleNamespace) -> None:
    world = World(acme, [event("a")])
    world.answers = [Response(401, {}, b'{"error": "key"}')]

    outcome = world.deliver()

    assert (world.opened, world.parked, outcome.parked) == ([401], [world.messages[0]], {0})


def test_a_limit_is_waited_for_and_a_fault_keeps_the_message(acme: SimpleNamespace) -> None:
    world = World(acme, [event("a")])
    world.answers = [Response(429, {"retry-after": "3"}), Response(503)]

    outcome = world.deliver()

    assert (world.pauses, world.taken) == ([3.0], [])
    assert outcome.retry == {0: Retry(None)}


def test_without_a_slot_messages_wait(acme: SimpleNamespace) -> None:
    world = World(acme, [event("a")])
    world.slots = 0

    assert world.deliver().retry == {0: Retry(30.0, rate_limited=True)}


def test_what_is_done_is_not_sent_again(acme: SimpleNamespace) -> None:
    world = World(acme, [event("a"), event("b")])
    world.completed = {"acme-shop#r0": frozenset({0})}

    world.deliver(redelivered=frozenset({0}))

    assert world.taken == [["b"]]


def test_an_event_is_stamped_once(acme: SimpleNamespace) -> None:
    [read] = World(acme, [event("a")]).messages.values()

    assert (read.events[0].id, read.events[0].time) == ("r0-0", NOON)
    with pytest.raises(msgspec.ValidationError, match=r"\$\.events\[0\]"):
        acme.parser.read(b'{"events": [{"user": 1}]}', account="shop", receipt="r", accepted=NOON)


def test_the_guide_names_each_file_of_the_skeleton() -> None:
    listed = re.findall(r"^\| `([a-z_]+\.py)` \|", GUIDE.read_text(), re.MULTILINE)

    assert set(listed) == {path.name for path in SKELETON.glob("*.py")} - {"__init__.py"}


def test_the_guide_names_each_place_that_imports_a_vendor() -> None:
    places = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "pipeless" not in path.relative_to(PACKAGE).parts and imports(path, "sluice.pipeless")
    }
    named = set(re.findall(r"`sluice/([a-z_/]+\.py)`", GUIDE.read_text()))

    assert places <= named
    assert [each for each in named if not (PACKAGE / each).is_file()] == []


def imports(path: Path, package: str) -> bool:
    """Tells whether a module imports from a package, or the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
            if any(f"{name}.".startswith(f"{package}.") for name in names):
                return True
    return False
