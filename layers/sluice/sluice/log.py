"""Declares the log that use cases write to: constant messages, with ids and counts as fields."""

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
