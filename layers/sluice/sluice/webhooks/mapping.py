"""Turns a webhook's payload into events: pure, the same for ingest and for trying a source out.

A source has mappings by name. Each gives none, one or many events, as bodies of Create Event. An expression
that fails leaves out the one field it is for, and that is told. Only an event whose identity, metric or time
cannot be computed is lost. Every event still has to pass what all events have to pass.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from sluice.contract import (
    IDENTIFIERS,
    MAX_BODY_BYTES_IN,
    MAX_EVENTS_PER_REQUEST,
    MAX_UNIQUE_ID,
)
from sluice.jsonapi import Problem, pointer
from sluice.webhooks.expressions import Evaluation, Expression, LimitExceeded, MappingError, measure

type Template = Expression | dict[str, "Template"] | list["Template"] | int | float | bool | None
type Path = tuple[str | int, ...]

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")  # what any upstream takes as part of an id


class EventMapping(msgspec.Struct, frozen=True):
    """Holds one mapping, ready to be used; without `topics` it is for deliveries of every topic."""

    name: str
    metric: str | Expression
    topics: frozenset[str] | None
    when: Expression | None
    each: Expression | None
    object_id: Expression | None
    waits_for_identity: bool
    attributes: dict[str, Template]
    profile: dict[str, Template]


class Delivery(msgspec.Struct, frozen=True):
    """Describes a delivery beside its payload; `headers` are by lower-case name."""

    id: str
    headers: Mapping[str, str]
    topic: str | None = None


class MappedEvent(msgspec.Struct, frozen=True):
    """Holds one event that a mapping made:

    `body` is one of Create Event, `left_out` tells of failed fields.
    """

    mapping: str
    body: dict[str, Any]
    object_id: str | None = None
    waits_for_identity: bool = False
    left_out: Sequence[Problem] = ()


class Mapped(msgspec.Struct, frozen=True):
    """Holds what a payload became: events, parts that could not become one, and what was replaced in the
    payload.

    The pointer of a problem, and of a field that an event leaves out, leads into the source, as in
    `/events/placed-order/value`.
    """

    events: list[MappedEvent]
    problems: list[Problem]
    replaced: Sequence[Problem] = ()


def identify(
    delivery_id: Expression | None,
    topic: Expression | None,
    payload: object,
    body: bytes,
    headers: Mapping[str, str],
) -> Delivery:
    """Tells a delivery's id and topic. The id is the hash of its body where its sender gives none."""
    evaluation = Evaluation(payload, headers)
    given = _text_of(delivery_id, payload, evaluation)
    return Delivery(given or hashlib.sha256(body).hexdigest(), headers, _text_of(topic, payload, evaluation))


def topics(mappings: Iterable[EventMapping]) -> list[str] | None:
    """Lists the topics that mappings are for; None where one of them is for every topic."""
    listed = [mapping.topics for mapping in mappings]
    return None if None in listed else sorted(set().union(*filter(None, listed)))


def events(mappings: Sequence[EventMapping], payload: object, delivery: Delivery) -> Mapped:
    """Makes the events of a payload. Of a payload that is too much, nothing is taken but the problem."""
    mapped = Mapped([], [])
    evaluation = Evaluation(payload, delivery.headers, delivery.id)
    room = MAX_BODY_BYTES_IN
    for mapping in mappings:
        if mapping.topics is not None and delivery.topic not in mapping.topics:
            continue
        draft = _Draft(mapping, payload, evaluation)
        try:
            for node in draft.nodes():
                index = len(mapped.events) + len(mapped.problems)
                if index >= MAX_EVENTS_PER_REQUEST:
                    raise LimitExceeded(
                        f"A payload must not become more than {MAX_EVENTS_PER_REQUEST} events."
                    )
                try:
                    event = draft.event(node, f"{delivery.id}:{index}")
                    room -= measure(event.body, room)
                except _Faulty as fault:
                    mapped.problems.append(fault.problem)
                else:
                    mapped.events.append(event)
        except _Faulty as fault:
            mapped.problems.append(fault.problem)
        except LimitExceeded as error:
            return Mapped([], [_problem((mapping.name,), error)])
    return mapped


class _Faulty(Exception):
    """Says that one part of a mapping does not work with this payload."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class _Draft:
    """Makes the events of one mapping, one after the other, and tells what it leaves out of each."""

    def __init__(self, mapping: EventMapping, payload: object, evaluation: Evaluation) -> None:
        self._mapping = mapping
        self._payload = payload
        self._evaluation = evaluation
        self._left_out: list[Problem] = []
        self._object_id = _text_of(mapping.object_id, payload, evaluation)

    def nodes(self) -> Iterator[object]:
        """Returns the parts of the payload that become an event each."""
        when, each = self._mapping.when, self._mapping.each
        if when is not None and not _is_true(self._value(when, ("when",), self._payload)):
            return
        if each is None:
            yield self._payload
            return
        items = self._value(each, ("each",), self._payload)
        if items is not None and not isinstance(items, list):
            raise self._fault(("each",), MappingError("'each' must give an array."))
        yield from items or []

    def event(self, node: object, default_id: str) -> MappedEvent:
        """Makes the event of one node. An event without a usable `unique_id` gets the default one."""
        mapping = self._mapping
        self._left_out = []
        metric = mapping.metric
        if isinstance(metric, Expression):
            metric = self._json_value(metric, ("metric", "expression"), node)
        profile = _without_empty(self._filled(mapping.profile, ("profile",), node))
        if not profile.keys() & set(IDENTIFIERS):
            places = {pointer("events", mapping.name, "profile", each) for each in IDENTIFIERS}
            for problem in self._left_out:
                if problem.pointer in places:
                    raise _Faulty(problem)
        attributes = {"properties": {}, **self._filled(mapping.attributes, (), node)}
        unique_id = self._unique_id(attributes.get("unique_id"))
        attributes["unique_id"] = unique_id or default_id
        data: dict[str, Any] = {"type": "profile"}
        if "id" in profile:
            data["id"] = profile.pop("id")
        attributes["profile"] = {"data": {**data, "attributes": profile}}
        attributes["metric"] = {"data": {"type": "metric", "attributes": {"name": metric}}}
        body = {"data": {"type": "event", "attributes": attributes}}
        # Without an id of its own, an event cannot be told from another one of its object.
        object_id = self._object_id if unique_id else None
        return MappedEvent(mapping.name, body, object_id, mapping.waits_for_identity, self._left_out)

    def _filled(self, template: Mapping[str, Template], path: Path, node: object) -> dict[str, Any]:
        values = {key: self._filling(value, (*path, key), node) for key, value in template.items()}
        return {key: value for key, value in values.items() if value is not None}

    def _filling(self, template: Template, path: Path, node: object) -> Any:
        match template:
            case Expression():
                try:
                    return self._json_value(template, path, node)
                except _Faulty as fault:
                    if path == ("time",):
                        raise
                    self._left_out.append(fault.problem)
                    return None
            case dict():
                return self._filled(template, path, node)
            case list():
                return [self._filling(value, (*path, index), node) for index, value in enumerate(template)]
            case _:
                return template

    def _value(self, expression: Expression, path: Path, node: object) -> Any:
        try:
            return self._evaluation.of(expression, node)
        except LimitExceeded:
            raise
        except MappingError as error:
            raise self._fault(path, error) from None

    def _json_value(self, expression: Expression, path: Path, node: object) -> Any:
        """Evaluates an expression to a value that JSON can carry."""
        value = self._value(expression, path, node)
        try:
            measure(value, MAX_BODY_BYTES_IN)
        except LimitExceeded:
            raise
        except MappingError as error:
            raise self._fault(path, error) from None
        return value

    def _unique_id(self, given: object) -> str | None:
        """Returns an id that any upstream takes: the given one, or its hash; None if none is given."""
        if given is None or given == "":
            return None
        text = _id_text(given)
        if text is None:
            error = MappingError("'unique_id' must give a string or an integer.")
            self._left_out.append(self._fault(("unique_id",), error).problem)
        elif len(text) > MAX_UNIQUE_ID or not _VISIBLE.fullmatch(text):
            return hashlib.sha256(text.encode()).hexdigest()
        return text

    def _fault(self, path: Path, error: MappingError) -> _Faulty:
        return _Faulty(_problem((self._mapping.name, *path), error))


def _without_empty(profile: dict[str, Any]) -> dict[str, Any]:
    """Returns a profile without empty values, because an empty name would replace a known one."""
    if isinstance(location := profile.get("location"), dict):
        profile = {**profile, "location": _without_empty(location)}
    return {name: value for name, value in profile.items() if name == "properties" or value not in ("", {})}


def _text_of(expression: Expression | None, payload: object, evaluation: Evaluation) -> str | None:
    """Evaluates an expression for an id; None where it fails or gives no id."""
    if expression is None:
        return None
    try:
        return _id_text(evaluation.of(expression, payload))
    except MappingError:
        return None


def _id_text(given: object) -> str | None:
    """Returns an id as text; None if it is no id, or an empty one."""
    return str(given) or None if isinstance(given, str | int) and not isinstance(given, bool) else None


def _problem(path: Path, error: MappingError) -> Problem:
    return Problem("invalid", str(error), pointer("events", *path))


def _is_true(value: object) -> bool:
    return value is not None and value is not False and value not in ("", [], {})
