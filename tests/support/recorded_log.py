"""Keeps what a use case logs."""

from typing import Any


class RecordedLog:
    """Holds the lines of a log: each message with its fields, whatever its level."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, msg: object, **fields: Any) -> None:
        self.lines.append((str(msg), fields))

    warning = error = critical = info

    def append_keys(self, **fields: Any) -> None:
        raise AssertionError
