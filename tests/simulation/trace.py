"""Records a run, in order, line by line: the same seed gives the same lines."""

import hashlib
from collections.abc import Iterator
from typing import Any

type Line = tuple[float, str, str, Any, str]


class Trace:
    """Holds the lines of a run: each has the moment, the actor, the action, its object, and the result."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def add(self, when: float, who: str, what: str, to: Any = "", how: str = "") -> None:
        """Adds a line. It is made text only when somebody reads it."""
        self.lines.append((when, who, what, to, how))

    def digest(self) -> str:
        """Returns a hash of all lines."""
        found = hashlib.blake2b(digest_size=16)
        for line in self.text():
            found.update(line.encode())
        return found.hexdigest()

    def text(self) -> Iterator[str]:
        """Yields the lines as text."""
        for when, who, what, to, how in self.lines:
            yield f"{when:14.6f} {who:<12} {what:<42} {to} {how}".rstrip()
