"""Turns the rows of a file into events, by the product's own rules."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from sluice.contract import Surface
from sluice.jsonapi import Problem
from sluice.operate.imports import BadEvent
from sluice.rejection import Reason
from sluice.webhooks import mapping
from sluice.webhooks.event_validation import validate_event
from sluice.webhooks.mapping import Delivery, EventMapping
from sluicectl.imports.rows import Row, Rows


@dataclass(frozen=True)
class Outcome:
    """Holds what one row became: bodies of Create Event as JSON, and what is wrong.

    `left_out` tells of fields that the events do without. A row may become nothing.
    """

    line: int
    events: list[bytes] = field(default_factory=list)
    bad: list[BadEvent] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Mapper:
    """Makes the events of rows.

    An event without a `unique_id` gets one of the import's `digest`, its line and its number in it, so that
    the same import has the same ones. `now` is the time of events that have none.
    """

    mappings: Sequence[EventMapping]
    digest: str
    now: datetime
    backfill: bool

    def outcomes(self, rows: Rows) -> Iterator[Outcome]:
        """Yields what each row became."""
        for row in rows:
            yield Outcome(row.line, bad=[row]) if isinstance(row, BadEvent) else self.outcome(row)

    def outcome(self, row: Row) -> Outcome:
        """Makes the events of one row."""
        delivery = Delivery(f"{self.digest}:{row.line}", {})
        mapped = mapping.events(self.mappings, row.values, delivery)
        outcome = Outcome(row.line)
        for problem in mapped.problems:
            outcome.bad.append(_unmapped(row, problem))
        for event in mapped.events:
            if self.backfill:
                event.body["data"]["attributes"]["backfill"] = True
            validated = validate_event(event, self.now)
            body = msgspec.json.encode(validated.event.body)
            if validated.entry is None:
                outcome.bad.append(_invalid(row.line, body, validated.problems))
            else:
                outcome.events.append(body)
                outcome.left_out.extend([*event.left_out, *validated.left_out])
        return outcome


def _unmapped(row: Row, problem: Problem) -> BadEvent:
    """Describes a row of which a mapping made no event."""
    return BadEvent(
        line=row.line, text=row.text.rstrip("\r\n"), reason=Reason.INVALID, detail=_sentence(problem)
    )


def _invalid(line: int, body: bytes, problems: Sequence[Problem]) -> BadEvent:
    """Describes an event that breaks a rule: it is kept as the body that it is, to be mended."""
    return BadEvent(
        line=line,
        text=body.decode(),
        reason=Reason.INVALID,
        detail=" ".join(problem.detail for problem in problems),
        pointer=problems[0].pointer,
        surface=Surface.EVENT,
    )


def _sentence(problem: Problem) -> str:
    return f"{problem.pointer}: {problem.detail}"
