"""Holds an event of a delivery to what every event is held to, and leaves out fields it can do without.

The sender of a webhook cannot mend a field, so one bad field must not cost its event. Only what says whose
the event is, of which metric and when, has to be good. An identifier can be left out while there is another.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from sluice import contract
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.jsonapi import Problem, pointer, pointer_parts
from sluice.klaviyo import parser
from sluice.message import Entry
from sluice.webhooks.mapping import MappedEvent

_ROUNDS: Final = 4  # each may reveal further problems, so the number is bounded


class ValidatedEvent(msgspec.Struct, frozen=True):
    """Holds a checked event: its entry, if it is good; its problems; and the fields left out for these."""

    event: MappedEvent
    entry: Entry[Any] | None = None
    problems: Sequence[Problem] = ()
    left_out: Sequence[Problem] = ()


def validate_event(event: MappedEvent, now: datetime) -> ValidatedEvent:
    """Checks an event. A field that breaks a rule is left out where the event can do without it."""
    left_out: list[Problem] = []
    current, first = event, None
    for _ in range(_ROUNDS):
        try:
            [entry] = _entries(current, now)
            return ValidatedEvent(current, entry, first or (), left_out)
        except Refused as refused:
            problems = refused.problems
        first = first or problems
        body = _pruned(current.body, problems)
        if body is None:
            break
        left_out += (_in_mapping(event, problem) for problem in problems)
        current = msgspec.structs.replace(current, body=body)
    return ValidatedEvent(event, problems=first or ())


def _entries(event: MappedEvent, now: datetime) -> list[Entry[Any]]:
    document = msgspec.json.encode(event.body)
    return parser.read(Surface.EVENT, document, contract.UPSTREAM_REVISION, now).entries


def _pruned(body: dict[str, Any], problems: Sequence[Problem]) -> dict[str, Any] | None:
    """Returns an event without the fields that problems point at; None if it needs one of these."""
    copy = msgspec.json.decode(msgspec.json.encode(body))
    for problem in problems:
        match pointer_parts(problem.pointer or ""):
            case ["data", "attributes", "value" | "value_currency" | "backfill", *_] as path:
                pass
            case ["data", "attributes", "properties", _, *_] as path:
                pass
            case ["data", "attributes", "profile", "data", "id", *_] as path:
                pass
            case ["data", "attributes", "profile", "data", "attributes", _, *_] as path:
                pass
            case ["data"]:  # counts the problems that are not listed
                continue
            case _:
                return None
        _remove(copy, path)
    return copy  # type: ignore[no-any-return]


def _remove(node: Any, path: list[str]) -> None:
    """Removes what a path leads to; of a list, the whole list."""
    for at, name in enumerate(path):
        if not isinstance(node, dict) or name not in node:
            return
        if at == len(path) - 1 or not isinstance(node[name], dict):
            del node[name]
            return
        node = node[name]


def _in_mapping(event: MappedEvent, problem: Problem) -> Problem:
    """Turns a problem of an event into one of the mapping that made it."""
    within = (
        (problem.pointer or "")
        .removeprefix("/data/attributes")
        .replace("/profile/data/attributes", "/profile")
    )
    return Problem(problem.code, problem.detail, pointer("events", event.mapping) + within)
