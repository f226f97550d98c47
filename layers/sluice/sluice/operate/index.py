"""Implements the command `rejections index`: writes the records that are missing, from the archive.

It leaves every record that is there as it is. So it may be run at any time, and again.
"""

import io
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from pydantic import Field

from sluice import runtime
from sluice.errors import place_of
from sluice.operate.command import Access, Arguments, Command, Context, Result
from sluice.records.record import ARCHIVE_PREFIX, Location, is_record_id, record_of
from sluice.rejection import Rejection, rejection_id

SECONDS: Final = 20.0  # for which one call reads objects; the next one goes on
_BATCH: Final = 500  # of records that are written together


class IndexArguments(Arguments):
    """Says after which object of the archive to go on; None is the beginning."""

    after: Annotated[str, Field(max_length=1_024)] | None = None


class IndexResult(Result):
    """Says what was read, and how much of it was missing.

    `unreadable` lines are no rejections. `after` is where the next call goes on, None at the end.
    """

    objects: int
    lines: int
    added: int
    unreadable: int
    after: str | None

    def counts(self) -> dict[str, int]:
        return {"objects": self.objects, "lines": self.lines, "added": self.added}


def _index(arguments: IndexArguments, context: Context) -> IndexResult:
    end = runtime.monotonic() + SECONDS
    hash_key = context.ports.hash_key()
    objects = lines = added = unreadable = 0
    last: str | None = None
    for key in context.ports.archive.keys(after=arguments.after):
        if objects and runtime.monotonic() > end:
            return IndexResult(objects=objects, lines=lines, added=added, unreadable=unreadable, after=last)
        found = []
        for location, line in lines_of(key, context.ports.archive.content(key=key)):
            if not line.strip():
                continue  # of a person who was erased
            lines += 1
            try:
                found.append(record_of(rejection(line), location, hash_key))
            except Exception as error:
                unreadable += 1
                context.log.error("line not indexed", key=key, error=type(error).__name__, at=place_of(error))
            if len(found) == _BATCH:
                added += len(context.ports.records.add(found))
                found = []
        added += len(context.ports.records.add(found))
        objects += 1
        last = key
    return IndexResult(objects=objects, lines=lines, added=added, unreadable=unreadable, after=None)


def lines_of(key: str, content: bytes) -> Iterator[tuple[Location, bytes]]:
    """Yields the lines of an object, each after its location."""
    name = key.removeprefix(ARCHIVE_PREFIX).rpartition("/")[2].removesuffix(".jsonl")
    offset = 0
    # Only at line feeds: a payload may have other line ends between its tokens.
    for line in io.BytesIO(content):
        yield Location(name, offset, len(line)), line
        offset += len(line)


def rejection(line: bytes) -> Rejection:
    """Returns the rejection of a line; raises one of `NOT_DECODED` if it is none."""
    found = msgspec.json.decode(line, type=Rejection)
    if not is_record_id(found.id):  # of an older version
        found.id = rejection_id(found.accepted or found.rejected_at, found.id)
    return found


INDEX: Final = Command("rejections index", Access.ADMIN, IndexArguments, IndexResult, _index)
