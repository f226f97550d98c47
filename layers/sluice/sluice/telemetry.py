"""Declares the log and the metrics of use cases: constant messages, ids and counts, never a payload."""

from typing import Any, Protocol


class Log(Protocol):
    """Writes structured lines. No field holds a payload or a key."""

    def info(self, msg: object, **fields: Any) -> None:
        """Writes a line about something expected."""
        ...

    def warning(self, msg: object, **fields: Any) -> None:
        """Writes a line about something that Sluice handles by itself."""
        ...

    def error(self, msg: object, **fields: Any) -> None:
        """Writes a line about something that an operator may have to act on."""
        ...

    def critical(self, msg: object, **fields: Any) -> None:
        """Writes a line about something that an operator has to act on."""
        ...

    def append_keys(self, **fields: Any) -> None:
        """Adds fields to every later line of the same invocation."""
        ...


class Metrics(Protocol):
    """Counts."""

    def count(self, name: str, value: int = 1, **dimensions: str) -> None:
        """Adds to a metric, apart from the rest where it has dimensions of its own."""
        ...
