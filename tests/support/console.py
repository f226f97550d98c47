"""Runs the console in process, for a deployment that is pretended."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.testclient import TestClient

from sluice.operate.command import Arguments, Command, Result
from sluicectl.console import server

PORT = 7483
TOKEN = "a-token"


@dataclass
class FakeDoor:
    """Answers commands with what `answers` has for them, and remembers what it was asked."""

    answers: Mapping[str, Any] = field(default_factory=dict)
    changes: bool = True
    failure: Exception | None = None
    called: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def call[A: Arguments, R: Result](self, command: Command[A, R], arguments: A) -> R:
        given = arguments.model_dump(mode="json", exclude_defaults=True)
        self.called.append((command.name, given))
        if self.failure is not None:
            raise self.failure
        answer = self.answers[command.name]
        return command.result.model_validate(answer(given) if callable(answer) else answer)

    def may_change(self) -> bool:
        return self.changes


@contextlib.contextmanager
def console(door: FakeDoor) -> Iterator[TestClient]:
    """Yields a client of a console, without its cookie."""
    app = server.build(door, "the stack", port=PORT, token=TOKEN)
    with contextlib.closing(TestClient(app, base_url=f"http://127.0.0.1:{PORT}")) as client:
        yield client


def ask(client: TestClient, name: str, **arguments: Any) -> Any:
    """Calls as the page does; returns the answer."""
    headers = {"origin": f"http://127.0.0.1:{PORT}", "cookie": f"sluice-console-{PORT}={TOKEN}"}
    return client.post(f"/api/{name}", content=json.dumps(arguments), headers=headers).json()
