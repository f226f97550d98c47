"""Reads and shows times: a moment, or how long ago it was."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

_AGO: Final = re.compile(r"(\d{1,6})\s*(s|min|h|d)")
_UNITS: Final = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}


def length(seconds: float) -> str:
    """Returns a length of time in its largest unit."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds) // size} {unit}"
    return f"{int(seconds)} s"


def length_of(since: datetime, now: datetime) -> str:
    """Returns the time from one moment to another."""
    return length(max(0.0, (now - since).total_seconds()))


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Returns how long ago a moment was."""
    return f"{length_of(moment, now or datetime.now(UTC))} ago"


class Moment(click.ParamType[datetime]):
    """Reads ISO 8601, as UTC where nothing else is said, or a time ago such as `90min`, `12h` or `7d`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        if ago := _AGO.fullmatch(value.strip()):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"'{value}' is no time. Write 2026-11-20, 2026-11-20T08:15Z, 90min, 12h or 7d.", param, ctx
            )
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


MOMENT: Final = Moment()
