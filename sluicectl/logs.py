"""Implements `sluicectl logs`."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from sluicectl.deployment import Target, find, reaching
from sluicectl.errors import Failure
from sluicectl.screen import Screen

MAX_LINES: Final = 1_000  # the last ones
_LEVELS: Final = {"ERROR": "bold red", "CRITICAL": "bold red", "WARNING": "yellow"}
_LEFT_OUT: Final = frozenset(
    (
        *("timestamp", "level", "service", "message", "location", "version", "cold_start", "xray_trace_id"),
        *("function_name", "function_arn", "function_memory_size", "function_request_id"),
    )
)


def show(screen: Screen, target: Target, *, since: datetime) -> int:
    """Shows what the functions of the local stack logged, the oldest line first."""
    if not target.local:
        raise Failure(
            "An operator has no permission on logs. Who has one reads them so: "
            f"sam logs --stack-name {target.stack} --tail"
        )
    client = find(target).client("logs")
    with reaching():
        found = sorted(_lines(client, since), key=lambda line: str(line.get("timestamp", "")))[-MAX_LINES:]

    def draw(console: Console) -> None:
        for line in found:
            console.print(_drawn(line), soft_wrap=True)
        if not found:
            console.print("Nothing was logged since then.")

    screen.show({"lines": found}, draw)
    return 0


def _lines(client: Any, since: datetime) -> Iterator[dict[str, Any]]:
    """Yields the lines that functions wrote; those of Lambda itself and metrics are left out."""
    for page in client.get_paginator("describe_log_groups").paginate():
        for group in page["logGroups"]:
            pages = client.get_paginator("filter_log_events").paginate(
                logGroupName=group["logGroupName"], startTime=int(since.timestamp() * 1_000)
            )
            for events in pages:
                yield from filter(None, (_parsed(event["message"]) for event in events["events"]))


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "message" in line else None


def _drawn(line: dict[str, Any]) -> Text:
    level = str(line.get("level", ""))
    more = " ".join(f"{name}={value}" for name, value in line.items() if name not in _LEFT_OUT)
    service = str(line.get("service", "")).removeprefix("sluice-")
    return Text.assemble(
        (str(line.get("timestamp", ""))[:23], "dim"),
        f" {service:<8} ",
        (f"{level:<7} ", _LEVELS.get(level, "dim")),
        str(line["message"]),
        (f"  {more}", "dim"),
    )
