"""Gathers what rows became into parts, and sends those that are not sent yet."""

import gzip
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import httpx2

from sluice.operate.imports import PART, SEND, BadEvent, PartArguments, SendArguments, State
from sluicectl.errors import Unreachable
from sluicectl.imports.events import Outcome
from sluicectl.operate_client import OperateClient

PART_EVENTS: Final = 10_000  # bad ones among them
PART_BYTES: Final = 16 * 2**20  # unpacked; dispatch unpacks a part again each time it goes on with it
_UPLOAD_SECONDS: Final = 60.0


@dataclass
class Part:
    """Holds the events of some rows, good and bad; the rows of the next part begin at `next_line`."""

    events: list[bytes] = field(default_factory=list)
    bad: list[BadEvent] = field(default_factory=list)
    size: int = 0
    next_line: int = 1
    is_last: bool = False

    @property
    def is_full(self) -> bool:
        """Tells whether the next row belongs to another part."""
        return len(self.events) + len(self.bad) >= PART_EVENTS or self.size >= PART_BYTES

    def add(self, outcome: Outcome) -> None:
        """Adds what a row became."""
        self.events += outcome.events
        self.bad += outcome.bad
        self.size += sum(map(len, outcome.events)) + sum(len(each.text) for each in outcome.bad)
        self.next_line = outcome.line + 1

    def content(self) -> bytes:
        """Returns its good events as compressed JSON lines; the same ones are always the same bytes."""
        return gzip.compress(b"".join(b"%s\n" % event for event in self.events), mtime=0)


def gather(outcomes: Iterator[Outcome]) -> Iterator[Part]:
    """Yields parts. The last one may be empty."""
    part = Part()
    for outcome in outcomes:
        if part.is_full:
            yield part
            part = Part()
        part.add(outcome)
    part.is_last = True
    yield part


def send(
    client: OperateClient, state: State, parts: Iterator[Part], report: Callable[[State], None]
) -> State:
    """Sends the parts that follow a state, and reports each new one."""
    for part in parts:
        number = state.parts + 1
        digest = _upload(client, state.id, number, part.content()) if part.events else None
        state = client.call(
            SEND,
            SendArguments(
                id=state.id,
                number=number,
                digest=digest,
                events=len(part.events),
                bad=part.bad,
                next_line=part.next_line,
                is_last=part.is_last,
            ),
        )
        report(state)
    return state


def _upload(client: OperateClient, id: str, number: int, content: bytes) -> str:
    """Uploads a part unless it is there, and returns its digest."""
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    place = client.call(PART, PartArguments(id=id, number=number, digest=digest, size=len(content)))
    if place.url is not None:
        try:
            answer = httpx2.put(place.url, content=content, headers=place.headers, timeout=_UPLOAD_SECONDS)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            # Without the URL, which lets anybody write the object.
            why = type(error).__name__
            if isinstance(error, httpx2.HTTPStatusError):
                why = f"HTTP {error.response.status_code}"
            raise Unreachable(
                f"Part {number} cannot be uploaded ({why}). Run it again: it goes on there."
            ) from None
    return digest
