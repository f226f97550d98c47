"""What events a webhook's payload becomes: pure, the same for ingest and for trying a source out.

A source has mappings by name. Each gives none, one or many events, as bodies of Create Event; what it leaves
out is null. Whatever a mapping yields still has to pass what every event has to pass.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from sluice.contract import (
    MAX_BODY_BYTES_IN,
    MAX_EVENTS_PER_REQUEST,
    MAX_UNIQUE_ID,
)
from sluice.jsonapi import Problem, pointer
from sluice.webhooks.expressions import Evaluation, Exhausted, Expression, Unmappable, measure

type Template = Expression | dict[str, "Template"] | list["Template"] | int | float | bool | None
type Path = tuple[str | int, ...]

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")  # what any upstream takes as part of an id


class EventMapping(msgspec.Struct, frozen=True):
    """One mapping, ready to be used."""

    name: str
    metric: str | Expression
    when: Expression | None
    each: Expression | None
    attributes: dict[str, Template]
    profile: dict[str, Template]


class Delivery(msgspec.Struct, frozen=True):
    """What is known of a delivery beside its payload. `headers` are by lower-case name."""

    id: str
    headers: Mapping[str, str]


class Mapped(msgspec.Struct, frozen=True):
    """What became of a payload: Create Event bodies, and what of it could not be mapped.

    A problem's pointer leads into the source, as in `/events/placed-order/value`.
    """

    events: list[dict[str, Any]]
    problems: list[Problem]


def identify(
    expression: Expression | None, payload: object, body: bytes, headers: Mapping[str, str]
) -> Delivery:
    """A delivery by the id its sender gave it, or by the hash of its body where there is none."""
    given = None
    if expression is not None:
        try:
            given = Evaluation(payload, headers).of(expression, payload)
        except Unmappable:
            given = None
    is_id = isinstance(given, str | int) and not isinstance(given, bool) and given != ""
    return Delivery(str(given) if is_id else hashlib.sha256(body).hexdigest(), headers)


def events(mappings: Sequence[EventMapping], payload: object, delivery: Delivery) -> Mapped:
    """What a payload becomes. Bounded: of one that is too much, nothing is taken but the problem."""
    mapped = Mapped([], [])
    evaluation = Evaluation(payload, delivery.headers, delivery.id)
    room = MAX_BODY_BYTES_IN
    for mapping in mappings:
        try:
            for node in _nodes(mapping, payload, evaluation):
                index = len(mapped.events) + len(mapped.problems)
                if index >= MAX_EVENTS_PER_REQUEST:
                    raise Exhausted(f"A payload must not become more than {MAX_EVENTS_PER_REQUEST} events.")
                try:
                    event = _event(mapping, node, evaluation, f"{delivery.id}:{index}")
                    room -= _measured(mapping, event, room)
                except _Faulty as fault:
                    mapped.problems.append(fault.problem)
                else:
                    mapped.events.append(event)
        except _Faulty as fault:
            mapped.problems.append(fault.problem)
        except Exhausted as error:
            return Mapped([], [_problem((mapping.name,), error)])
    return mapped


class _Faulty(Exception):
    """One part of a mapping that does not work with this payload."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def _nodes(mapping: EventMapping, payload: object, evaluation: Evaluation) -> Iterator[object]:
    """What becomes an event each."""
    if mapping.when is not None and not _is_true(_of(mapping, ("when",), mapping.when, payload, evaluation)):
        return
    if mapping.each is None:
        yield payload
        return
    items = _of(mapping, ("each",), mapping.each, payload, evaluation)
    if items is not None and not isinstance(items, list):
        raise _Faulty(_problem((mapping.name, "each"), Unmappable("'each' must give an array.")))
    yield from items or []


def _event(mapping: EventMapping, node: object, evaluation: Evaluation, default_id: str) -> dict[str, Any]:
    def filled(template: Template, path: Path) -> Any:
        match template:
            case Expression():
                return _of(mapping, path, template, node, evaluation)
            case dict():
                values = {key: filled(value, (*path, key)) for key, value in template.items()}
                return {key: value for key, value in values.items() if value is not None}
            case list():
                return [filled(value, (*path, index)) for index, value in enumerate(template)]
            case _:
                return template

    metric = mapping.metric
    if isinstance(metric, Expression):
        metric = filled(metric, ("metric", "expression"))
    attributes = {"properties": {}, **filled(mapping.attributes, ())}
    profile = _without_empty(filled(mapping.profile, ("profile",)))
    if attributes.get("unique_id", "") == "":
        attributes["unique_id"] = default_id
    attributes["unique_id"] = _allowed_id(attributes["unique_id"])
    data: dict[str, Any] = {"type": "profile"}
    if "id" in profile:
        data["id"] = profile.pop("id")
    attributes["profile"] = {"data": {**data, "attributes": profile}}
    attributes["metric"] = {"data": {"type": "metric", "attributes": {"name": metric}}}
    return {"data": {"type": "event", "attributes": attributes}}


def _without_empty(profile: dict[str, Any]) -> dict[str, Any]:
    """A profile that says nothing where its source knows nothing: an empty name would replace a known one."""
    if isinstance(location := profile.get("location"), dict):
        profile = {**profile, "location": _without_empty(location)}
    return {name: value for name, value in profile.items() if name == "properties" or value not in ("", {})}


def _of(
    mapping: EventMapping, path: Path, expression: Expression, node: object, evaluation: Evaluation
) -> Any:
    try:
        return evaluation.of(expression, node)
    except Exhausted:
        raise
    except Unmappable as error:
        raise _Faulty(_problem((mapping.name, *path), error)) from None


def _measured(mapping: EventMapping, event: dict[str, Any], room: int) -> int:
    try:
        return measure(event, room)
    except Exhausted:
        raise
    except Unmappable as error:
        raise _Faulty(_problem((mapping.name,), error)) from None


def _problem(path: Path, error: Unmappable) -> Problem:
    return Problem("invalid", str(error), pointer("events", *path))


def _is_true(value: object) -> bool:
    return value is not None and value is not False and value not in ("", [], {})


def _allowed_id(given: object) -> object:
    """An id as it is where any upstream takes it, else its hash; what is no id is left to be refused."""
    if isinstance(given, bool) or not isinstance(given, str | int):
        return given
    text = str(given)
    if len(text) <= MAX_UNIQUE_ID and _VISIBLE.fullmatch(text):
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
