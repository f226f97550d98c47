"""Runs the clients with which people send events, each as it is, in a process of its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
MODULES = HERE / "node" / "node_modules"
TIMEOUT_SECONDS = 120

type Way = Literal["bulk", "single"]
type Outcome = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """Describes one use of a client: where it is pointed at, what it sends and how."""

    api: str
    key: str
    way: Way
    document: dict[str, Any]


@dataclass(frozen=True)
class Client:
    """Describes a client: the command that makes its calls (`python/call.py` says how), and its properties.

    path, media_type, revision: what it sends, at the first of its ways. raises: the exception it raises, by
    status. unasked: how often it writes `"backfill": false` for one event without being asked. backfill: it
    sends one that is true. flat: it writes the deprecated flat shape. retries: it sends again after 429 or
    503.
    """

    name: str
    command: tuple[str | Path, ...]
    ways: tuple[Way, ...]
    path: str
    media_type: str
    revision: str
    raises: Mapping[int, str]
    unasked: int = 0
    backfill: bool = True
    flat: bool = False
    retries: bool = True

    @property
    def name_in_path(self) -> str:
        return self.name.replace(" ", "-")

    def make(self, calls: Mapping[str, Call]) -> dict[str, Outcome]:
        """Makes calls, and returns the outcome of each by its name."""
        run = subprocess.run(
            self.command,
            input=json.dumps({name: vars(call) for name, call in calls.items()}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert run.returncode == 0, f"{self.name}: {run.stderr}"
        outcomes: dict[str, Outcome] = json.loads(run.stdout)
        return outcomes


def make_all(calls_of: Callable[[Client], Mapping[str, Call]]) -> dict[str, dict[str, Outcome]]:
    """Makes every client's calls at once, and returns their outcomes by the client's name."""
    with ThreadPoolExecutor(len(INSTALLED)) as pool:
        made = pool.map(lambda client: client.make(calls_of(client)), INSTALLED)
        return dict(zip([client.name for client in INSTALLED], made, strict=True))


def missing(client: Client) -> str:
    """Returns why a client cannot be run on this machine; empty if it can be."""
    program = client.command[0]
    if shutil.which(program) is None:
        return f"{program} is not here"
    if program == "node" and not (MODULES / ".ready").exists():
        return "what `make test` installs with npm is not here"
    return ""


def _python(interpreter: str) -> tuple[str | Path, ...]:
    return (interpreter, HERE / "python" / "call.py")


BULK = "/api/event-bulk-create-jobs"
JSON_API = "application/vnd.api+json"
PYTHON_RAISES = {
    400: "BadRequestException",
    401: "UnauthorizedException",
    403: "ForbiddenException",
    404: "NotFoundException",
    413: "ApiException",
}

CLIENTS = [
    Client(
        "klaviyo-api 25.0.0 for Python",
        _python(sys.executable),
        ("bulk", "single"),
        path=BULK,
        media_type=JSON_API,
        revision="2026-10-15",
        raises=PYTHON_RAISES,
        unasked=2,
    ),
    Client(
        "klaviyo-api 9.0.0 for Python",
        _python(".venv-clients/bin/python"),
        ("bulk", "single"),
        path=f"{BULK}/",
        media_type="application/json",
        revision="2024-06-15",
        raises=PYTHON_RAISES,
        backfill=False,
    ),
    Client(
        "klaviyo-api 1.1.0 for Python",
        _python(".venv-clients-1/bin/python"),
        ("single",),
        path="/api/events/",
        media_type="application/json",
        revision="2023-01-24",
        raises=PYTHON_RAISES | {400: "ApiException"},
        flat=True,
    ),
    Client(
        "klaviyo-api 23.0.0 for Node",
        ("node", HERE / "node" / "call.mjs", "sdk"),
        ("bulk", "single"),
        path=BULK,
        media_type="application/json",
        revision="2026-07-15",
        raises=dict.fromkeys((400, 401, 403, 404, 413), "AxiosError"),
    ),
    Client(
        "Windmill script",
        ("node", HERE / "node" / "call.mjs", "windmill"),
        ("bulk",),
        path=BULK,
        media_type=JSON_API,
        revision="2026-07-15",
        raises=dict.fromkeys((400, 401, 403, 404, 413, 429, 503), "Error"),
        retries=False,
    ),
]
INSTALLED = [client for client in CLIENTS if not missing(client)]
