"""Hides what could name a person in an archived payload, and leaves what one has to see to understand it."""

from typing import Any, Final

MASK: Final = "***"
TOO_DEEP: Final = "…"
MAX_LEVELS: Final = 100  # pydantic writes down at most some 250
# Values of these members of an event say what happened, and not to whom.
_SHOWN: Final = frozenset({"time", "unique_id", "value", "value_currency", "type", "backfill", "service"})


def masked(payload: Any) -> Any:
    """Returns a payload of the archive with its structure, but without the texts in it.

    Names of metrics, times, values and currencies stay; so do numbers, which have no text.
    """
    return _masked(bounded(payload))


def bounded(value: Any, levels: int = MAX_LEVELS) -> Any:
    """Returns a value with `…` in place of what is nested deeper than anything that can be answered.

    A caller may have nested what was refused as deeply as JSON can be read.
    """
    if not isinstance(value, dict | list):
        return value
    if not levels:
        return TOO_DEEP
    if isinstance(value, dict):
        return {name: bounded(held, levels - 1) for name, held in value.items()}
    return [bounded(held, levels - 1) for held in value]


def _masked(payload: Any) -> Any:
    match payload:
        case {"events": [*events], **rest}:
            return {
                **{name: _hidden(value) for name, value in rest.items()},
                "events": [_event(event) for event in events],
            }
        case _:
            return _hidden(payload)


def mended(before: Any, after: Any) -> Any:
    """Returns a mended payload masked, but for the values that the mend gave it: its author knows them."""
    return _with_changes(bounded(before), bounded(after), masked(after))


def _with_changes(before: Any, after: Any, hidden: Any) -> Any:
    if before == after:
        return hidden
    match before, after:
        case dict(), dict():
            return {
                name: _with_changes(before[name], value, hidden[name]) if name in before else value
                for name, value in after.items()
            }
        case list(), list() if len(before) == len(after):
            return [_with_changes(*three) for three in zip(before, after, hidden, strict=True)]
        case _:
            return after


def _event(event: Any) -> Any:
    if not isinstance(event, dict):
        return _hidden(event)
    return {
        name: _metric(value) if name == "metric" else value if _is_shown(name, value) else _hidden(value)
        for name, value in event.items()
    }


def _is_shown(name: str, value: Any) -> bool:
    return name in _SHOWN and not isinstance(value, dict | list)


def _metric(metric: Any) -> Any:
    match metric:
        case {"data": {"attributes": {"name": str()}}} | {"name": str()}:
            return metric
        case _:
            return _hidden(metric)


def _hidden(value: Any) -> Any:
    match value:
        case dict():
            return {
                name: held if name == "type" and isinstance(held, str) else _hidden(held)
                for name, held in value.items()
            }
        case list():
            return [_hidden(held) for held in value]
        case str():
            return MASK
        case _:
            return value
