"""Names every problem of a body that does not fit its type, where the decoder stops at the first.

Walks the declared types beside the parsed value. Only refused bodies come here, but strangers can send
these too: the walk is bounded, and items of a list that fit are passed over at the speed of the decoder.
"""

import contextlib
import datetime
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

from sluice.jsonapi import Problem, pointer

type _Path = tuple[str | int, ...]

_NAMES: Final[dict[type[inspect.Type], str]] = {
    inspect.StrType: "a string",
    inspect.IntType: "a number",
    inspect.FloatType: "a number",
    inspect.BoolType: "true or false",
    inspect.NoneType: "null",
    inspect.DictType: "an object",
    inspect.StructType: "an object",
    inspect.ListType: "an array",
    inspect.DateTimeType: "an ISO 8601 date-time in the form of RFC 3339, such as 2026-01-31T12:00:00Z",
}

_PYTHON_TYPES: Final[dict[type[inspect.Type], type | tuple[type, ...]]] = {
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.FloatType: (int, float),
    inspect.BoolType: bool,
    inspect.NoneType: type(None),
    inspect.AnyType: object,
}
MAX_NODES: Final = 30_000  # a bound on the work for one refusal
_NOT_LOOKED_AT: Final = "There is more wrong than this, and nothing from here on was looked at."
_EMPTY_ARRAY: Final = " PHP writes [] for an empty array: cast it to an object."
_MAX_NAME: Final = 100  # names are the caller's own words: nothing of unbounded length belongs in an answer
_WRAPPED: Final = {"data"}  # the fields of a type that does nothing but wrap another, as JSON:API does
_TRUTHS: Final = (inspect.BoolType, inspect.AnyType)


def explain(kind: Any, document: object, resource: str = "document") -> Iterator[Problem]:
    """Yields every way in which a parsed JSON document is not a `kind`; messages call it `resource`.

    It looks at no more than `MAX_NODES` values, and says so if there are more.
    """
    return _Walk().explain(inspect.type_info(kind), document, (), resource)


def fitting(value: object, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Returns those fields of an object that have the right structure, by their names in a `kind`."""
    result: dict[str, Any] = {}
    for field in _fields(kind):
        if isinstance(value, dict) and field.encode_name in value:
            with contextlib.suppress(msgspec.ValidationError):
                result[field.name] = msgspec.convert(value[field.encode_name], field.type)
    return result


# A body may hold thousands of events, and looking at a type takes longer than at an event.
_fields: Final = functools.cache(msgspec.structs.fields)


class _Walk:
    """Compares a value with a type, and counts the values that it looks at."""

    def __init__(self) -> None:
        self._nodes_left = MAX_NODES

    def explain(self, kind: inspect.Type, value: object, path: _Path, resource: str) -> Iterator[Problem]:
        """Yields every way in which a value is not of a type."""
        self._nodes_left -= 1
        if self._nodes_left < 0:
            return
        if not self._nodes_left:
            yield Problem("invalid", _NOT_LOOKED_AT, pointer(*path) or "/")
        else:
            yield from self._explain(kind, value, path, resource)

    def _explain(self, kind: inspect.Type, value: object, path: _Path, resource: str) -> Iterator[Problem]:
        match kind:
            case inspect.StructType() if isinstance(value, dict):
                yield from self._struct(kind, value, path, resource)
            case inspect.ListType() if isinstance(value, list):
                yield from self._list(kind.item_type, value, path, resource)
            case inspect.DictType(value_type=inspect.AnyType()) if isinstance(value, dict):
                pass
            case inspect.UnionType():
                yield from self._union(kind, value, path, resource)
            case inspect.LiteralType() if not _is_one_of(kind, value):
                yield _problem(path, f"{_field(path)} must be {_either(map(repr, kind.values))}.")
            case inspect.StrType() if isinstance(value, str):
                yield from _string(kind, value, path)
            case _ if not _fits(kind, value):
                yield _problem(path, f"{_field(path)} must be {_NAMES[type(kind)]}.{_hint([kind], value)}")

    def _list(self, kind: inspect.Type, items: list[object], path: _Path, resource: str) -> Iterator[Problem]:
        is_good = _checker(kind.cls) if isinstance(kind, inspect.StructType) else None
        for index, item in enumerate(items):
            if self._nodes_left <= 0:
                return
            if is_good and is_good(item):
                self._nodes_left -= 1
            else:
                yield from self.explain(kind, item, (*path, index), resource)

    def _struct(
        self, kind: inspect.StructType, value: dict[str, object], path: _Path, resource: str
    ) -> Iterator[Problem]:
        fields = {field.encode_name: field for field in kind.fields}
        declared = fields.get("type")
        if declared and isinstance(declared.type, inspect.LiteralType):
            resource = str(declared.type.values[0])
        if fields.keys() == _WRAPPED and not fields.keys() & value.keys():
            # Its members are one or two levels too high. Calling each one unknown would hide the mistake.
            yield _problem((*path, "data"), _missing_field("data", resource))
            return
        for name, item in value.items():
            if name in fields:
                yield from self.explain(fields[name].type, item, (*path, name), resource)
            else:
                yield _problem((*path, name), _unknown_field(name, resource))
        for name, field in fields.items():
            if field.required and name not in value:
                yield _problem((*path, name), _missing_field(name, resource))

    def _union(self, kind: inspect.UnionType, value: object, path: _Path, resource: str) -> Iterator[Problem]:
        choices = [choice for choice in kind.types if not isinstance(choice, inspect.NoneType)]
        if value is None and len(choices) < len(kind.types):
            return
        candidates = [choice for choice in choices if _same_json_type(choice, value)]
        if candidates:
            yield from self.explain(candidates[0], value, path, resource)
        else:
            names = dict.fromkeys(_NAMES[type(choice)] for choice in choices)
            yield _problem(path, f"{_field(path)} must be {_either(names)}.{_hint(choices, value)}")


@functools.cache
def _checker(kind: Any) -> Callable[[object], bool]:
    """Returns a function that tells quickly whether a value is a `kind`."""

    def is_good(value: object) -> bool:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return False
        return True

    return is_good


def _hint(choices: Iterable[inspect.Type], value: object) -> str:
    is_empty_object = value == [] and any(isinstance(choice, inspect.DictType) for choice in choices)
    return _EMPTY_ARRAY if is_empty_object else ""


def _missing_field(name: str, resource: str) -> str:
    return f"'{name}' is a required field for the resource '{resource}'."


def _unknown_field(name: str, resource: str) -> str:
    return f"'{name[:_MAX_NAME]}' is not a valid field for the resource '{resource}'."


def _string(kind: inspect.StrType, value: str, path: _Path) -> Iterator[Problem]:
    if kind.min_length and len(value) < kind.min_length:
        yield _problem(path, f"{_field(path)} must not be empty.")
    if kind.max_length is not None and len(value) > kind.max_length:
        yield _problem(path, f"{_field(path)} must have at most {kind.max_length} characters.")


def _same_json_type(kind: inspect.Type, value: object) -> bool:
    match kind:
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, dict)
        case inspect.ListType():
            return isinstance(value, list)
        case inspect.StrType() | inspect.DateTimeType():
            return isinstance(value, str)
        case _:
            return _fits(kind, value)


def _fits(kind: inspect.Type, value: object) -> bool:
    if isinstance(kind, inspect.DateTimeType):
        return _is_datetime(value)
    if isinstance(kind, inspect.LiteralType):
        return _is_one_of(kind, value)
    expected = _PYTHON_TYPES.get(type(kind), ())
    # JSON's true and false are Python's integers.
    return isinstance(value, expected) and (isinstance(kind, _TRUTHS) or not isinstance(value, bool))


def _is_one_of(kind: inspect.LiteralType, value: object) -> bool:
    return isinstance(value, str) and value in kind.values


def _is_datetime(value: object) -> bool:
    try:
        msgspec.convert(value, datetime.datetime)
    except msgspec.ValidationError:
        return False
    return True


def _either(names: Iterable[str]) -> str:
    return " or ".join(names)


def _field(path: _Path) -> str:
    match path:
        case ():
            return "The body"
        case (*_, str(name), int(index)):
            return f"Item {index} of '{name[:_MAX_NAME]}'"
        case _:
            return f"'{str(path[-1])[:_MAX_NAME]}'"


def _problem(path: _Path, detail: str) -> Problem:
    return Problem("invalid", detail, pointer(*path) or "/")
