"""Evaluates the mapping language: JMESPath, with the functions that webhooks need, within bounds.

Expressions are an operator's, but their input is a stranger's. So one evaluation of a payload has a limited
processor time, and no value may grow beyond the payload's own limit. Every failure is a `MappingError` that
says so without quoting the payload.
"""

import base64
import decimal
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from jmespath import exceptions
from jmespath.functions import Functions, signature
from jmespath.parser import Parser
from jmespath.visitor import Options, TreeInterpreter

from sluice import runtime
from sluice.contract import MAX_BODY_BYTES_IN

MAX_LENGTH: Final = 4_000  # characters of an expression
MAX_DEPTH: Final = 60  # levels of nested parts of an expression
MAX_CPU_SECONDS: Final = 2.0  # for all expressions over one payload
MAX_ITEMS: Final = 100_000  # of a list
MAX_BYTES: Final = MAX_BODY_BYTES_IN  # of the result of one payload, as JSON
MAX_MADE_BYTES: Final = 128 * 2**20  # allocated by all function calls over one payload
_VALUE_BYTES: Final = 200  # of memory at most for one value made from text, its name included
_CHARACTER_BYTES: Final = 4  # of memory, at most
_MAX_NESTING: Final = 100  # levels of a result; a deeper one is refused
_MAX_TIME_CHARACTERS: Final = 100
_MILLISECONDS: Final = 10**11  # seconds would be the year 5138

# Currencies of which no cents are counted, or a thousand to one; as payment providers count them, which
# know the króna and the Ugandan shilling with the two digits they no longer have.
_NO_CENTS: Final = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
)
_THOUSANDTHS: Final = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})

_AROUND: Final = re.compile(r"^\w+ jmespath expression: |(, for expression)?:$|\.$", re.IGNORECASE)


class MappingError(Exception):
    """Says that an expression is wrong, or cannot be evaluated over this payload; the text says why."""


class LimitExceeded(MappingError):
    """Says that the payload's evaluation has reached its bounds: it gives no more results."""


class Expression(msgspec.Struct, frozen=True):
    """Holds a parsed expression."""

    text: str
    tree: dict[str, Any]


def parse(text: str) -> Expression:
    """Parses an expression, and checks it as far as it can be without a payload."""
    if len(text) > MAX_LENGTH:
        raise MappingError(f"An expression must not exceed {MAX_LENGTH} characters.")
    try:
        tree = Parser().parse(text).parsed
    except exceptions.JMESPathError as error:
        raise MappingError(f"This is not a JMESPath expression: {_said(error)}.") from None
    except (RecursionError, ValueError):
        raise MappingError("This is not a JMESPath expression.") from None
    for node in _parts(tree):
        if node["type"] == "function_expression":
            _check_call(node["value"], len(node["children"]))
    return Expression(text, tree)


def measure(value: object, room: int, depth: int = 0) -> int:
    """Returns the bytes that a result takes as JSON, at least; raises `LimitExceeded` beyond `room`."""
    if depth > _MAX_NESTING:
        raise MappingError("The result is nested too deeply.")
    match value:
        case str():
            size = _encoded_size(value) + 2
        case bool() | None:
            size = 5
        case int() if value.bit_length() <= 64:
            size = 8
        case float() if math.isfinite(value):
            size = 8
        case dict() | list():
            size = 2 + _measure_parts(value, room, depth)
        case _:
            raise MappingError("The result is not a JSON value.")
    if size > room:
        raise LimitExceeded(f"The result of a payload must not exceed {MAX_BYTES} bytes.")
    return size


def _encoded_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise MappingError(
            "The result contains half of a surrogate pair, which is not a character."
        ) from None


def _measure_parts(container: dict[Any, Any] | list[Any], room: int, depth: int) -> int:
    size = 0
    parts: Iterable[Any] = container
    if isinstance(container, dict):
        size = measure("".join(container), room) + 3 * len(container)
        parts = container.values()
    for part in parts:
        size += 1 + measure(part, room - size, depth + 1)
    return size


class Evaluation:
    """Evaluates everything over one payload: expressions share its time."""

    def __init__(self, payload: object, headers: Mapping[str, str], delivery_id: str | None = None) -> None:
        self._interpreter = _Interpreter(_Functions(payload, headers, delivery_id))

    def of(self, expression: Expression, node: object) -> Any:
        """Evaluates an expression over a part of the payload."""
        try:
            return self._interpreter.visit(expression.tree, node)
        except exceptions.JMESPathTypeError as error:
            # Its own text quotes the value.
            expected = " or ".join(error.expected_types)
            detail = f"{error.function_name}() takes {expected}, and was given {error.actual_type}."
            raise MappingError(detail) from None
        except exceptions.JMESPathError as error:
            raise MappingError(f"The expression failed: {type(error).__name__}.") from None
        except RecursionError:
            raise MappingError("The payload is nested too deeply.") from None
        except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise MappingError(f"The expression failed: {type(error).__name__}.") from None


def _check_call(name: str, given: int) -> None:
    known = _Functions.FUNCTION_TABLE.get(name)
    if known is None:
        raise MappingError(f"There is no function {name[:100]}().")
    takes = known["signature"]
    variadic = bool(takes) and takes[-1].get("variadic", False)
    if given < len(takes) or (given > len(takes) and not variadic):
        least = "at least " if variadic else ""
        raise MappingError(f"{name}() takes {least}{len(takes)} argument(s), and was given {given}.")


def _parts(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields every part of a parsed expression; raises `MappingError` if they are nested too deep."""
    level = [tree]
    for _ in range(MAX_DEPTH):
        yield from level
        level = [child for node in level for child in node["children"] if isinstance(child, dict)]
        if not level:
            return
    raise MappingError(f"An expression must not be nested more than {MAX_DEPTH} deep.")


def _said(error: Exception) -> str:
    """Returns JMESPath's message about an expression, without the expression."""
    first = str(error).partition("\n")[0]
    return _AROUND.sub("", first)[:300]


def _check_comparable(left: object, right: object) -> None:
    """Checks the size of two values: a result may hold one part many times, and is compared as if written
    out.
    """
    if isinstance(left, list | dict) and isinstance(right, list | dict):
        measure(left, MAX_BYTES)


def _check_texts(values: Iterable[object]) -> None:
    """Checks the size of strings that are compared with each other or with one."""
    if sum(len(value) for value in values if isinstance(value, str)) > MAX_BYTES:
        raise _too_much_text()


def _too_much_text() -> LimitExceeded:
    return LimitExceeded(f"Strings that are compared must not exceed {MAX_BYTES} characters together.")


def _equal(left: object, right: object) -> bool:
    _check_comparable(left, right)
    return bool(TreeInterpreter.COMPARATOR_FUNC["eq"](left, right))


class _Interpreter(TreeInterpreter):  # type: ignore[misc]
    """Runs JMESPath's interpreter within bounds.

    Each step looks at the clock, and no list outgrows its limit. Functions have a limited memory, because
    only they can make much of one value in no time.
    """

    COMPARATOR_FUNC: Final = TreeInterpreter.COMPARATOR_FUNC | {
        "eq": _equal,
        "ne": lambda left, right: not _equal(left, right),
    }

    def __init__(self, functions: "_Functions") -> None:
        super().__init__(Options(custom_functions=functions))
        self._functions = functions
        # Processor time of this thread, because a busy machine must not turn good payloads away.
        self._deadline = runtime.processor_time() + MAX_CPU_SECONDS

    def visit(self, node: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if runtime.processor_time() > self._deadline:
            raise LimitExceeded(f"A payload must be mapped in {MAX_CPU_SECONDS:g} s of processor time.")
        result = super().visit(node, *args, **kwargs)
        if isinstance(result, list) and len(result) > MAX_ITEMS:
            raise _too_long()
        return result

    def visit_function_expression(self, node: dict[str, Any], value: object) -> Any:
        result = super().visit_function_expression(node, value)
        if node["value"] != "payload":  # which makes nothing
            self._functions.charge(sys.getsizeof(result))
        return result

    def visit_flatten(self, node: dict[str, Any], value: object) -> Any:
        base = self.visit(node["children"][0], value)
        if isinstance(base, list):
            length = sum(len(part) if isinstance(part, list) else 1 for part in base)
            if length > MAX_ITEMS:
                raise _too_long()
        return super().visit_flatten({"children": [{"type": "literal", "value": base}]}, value)


def _too_long() -> LimitExceeded:
    return LimitExceeded(f"A list must not have more than {MAX_ITEMS} elements.")


def _takes[F: Callable[..., object]](*arguments: dict[str, Any]) -> Callable[[F], F]:
    """Types JMESPath's own `signature`, which has no types."""
    return signature(*arguments)  # type: ignore[no-any-return]


_ANY: Final[dict[str, Any]] = {"types": []}
_ANYTHING: Final[dict[str, Any]] = {"types": [], "variadic": True}
_TEXT: Final[dict[str, Any]] = {"types": ["string", "null"]}
_NUMBER: Final[dict[str, Any]] = {"types": ["number", "string", "null"]}
_NAME: Final[dict[str, Any]] = {"types": ["string"]}
_COMPARABLE: Final[dict[str, Any]] = {"types": ["array-string", "array-number"]}


class _Functions(Functions):  # type: ignore[misc]
    """Defines the functions that an expression may call; given null, each gives null, because absent
    values are null.
    """

    def __init__(self, payload: object, headers: Mapping[str, str], delivery_id: str | None) -> None:
        self._payload = payload
        self._headers = headers
        self._delivery_id = delivery_id
        self._decoded: tuple[str, object] | None = None
        self._room = MAX_MADE_BYTES

    def charge(self, size: int) -> None:
        """Takes so many bytes from what all calls may make."""
        self._room -= size
        if self._room < 0:
            raise LimitExceeded(f"Functions must not make more than {MAX_MADE_BYTES} bytes of a payload.")

    @_takes()
    def _func_payload(self) -> object:
        return self._payload

    @_takes()
    def _func_delivery_id(self) -> str | None:
        return self._delivery_id

    @_takes(_NAME)
    def _func_header(self, name: str) -> str | None:
        return self._headers.get(name.lower())

    @_takes(_TEXT)
    def _func_lower(self, text: str | None) -> str | None:
        return None if text is None else text.lower()

    @_takes(_TEXT)
    def _func_upper(self, text: str | None) -> str | None:
        return None if text is None else text.upper()

    @_takes(_TEXT)
    def _func_trim(self, text: str | None) -> str | None:
        return None if text is None else text.strip()

    @_takes(_ANY, _ANY)
    def _func_default(self, value: object, fallback: object) -> object:
        return fallback if value is None or value == "" else value

    @_takes(_ANYTHING)
    def _func_concat(self, *parts: object) -> str:
        return _bounded_text("", [_text(part) for part in parts])

    @_takes(_TEXT, _NAME)
    def _func_split(self, text: str | None, separator: str) -> list[str] | None:
        if text is None:
            return None
        parts = text.count(separator) + 1
        if parts > MAX_ITEMS:
            raise _too_long()
        self.charge(parts * _VALUE_BYTES + sys.getsizeof(text))
        return [part.strip() for part in text.split(separator) if part.strip()]

    @_takes(_NUMBER, _NUMBER)
    def _func_add(self, left: Any, right: Any) -> int | float | None:
        return _calculated(left, right, Decimal.__add__)

    @_takes(_NUMBER, _NUMBER)
    def _func_subtract(self, left: Any, right: Any) -> int | float | None:
        return _calculated(left, right, Decimal.__sub__)

    @_takes(_NUMBER, _NUMBER)
    def _func_multiply(self, left: Any, right: Any) -> int | float | None:
        return _calculated(left, right, Decimal.__mul__)

    @_takes(_NUMBER, _NUMBER)
    def _func_divide(self, left: Any, right: Any) -> int | float | None:
        return _calculated(left, right, Decimal.__truediv__)

    @_takes(_ANY)
    def _func_total(self, values: Any) -> int | float | None:
        if values is None:
            return None
        if not isinstance(values, list):
            raise MappingError("total() takes an array of numbers, as numbers or strings.")
        total = Decimal(0)
        for value in values:
            total += _decimal(value) or 0
        return _number(total)

    @_takes(_TEXT, _TEXT)
    def _func_seconds_between(self, start: str | None, end: str | None) -> int | float | None:
        if start is None or end is None:
            return None
        return (_moment(end) - _moment(start)).total_seconds()

    @_takes(_NUMBER, _TEXT)
    def _func_from_cents(self, amount: Any, currency: str | None) -> int | float | None:
        code = (currency or "").upper()
        divisor = 1 if code in _NO_CENTS else 1_000 if code in _THOUSANDTHS else 100
        return _calculated(amount, divisor, Decimal.__truediv__)

    @_takes({"types": ["string", "number", "null"], "variadic": True})
    def _func_e164(self, phone: Any, *country: object) -> str | None:
        if isinstance(phone, float):  # the point of which would be read as punctuation
            phone = int(phone) if phone.is_integer() else None
        if phone is None:
            return None
        from sluice.webhooks.phone_numbers import e164  # noqa: PLC0415 - it costs more than a delivery does

        # An unknown country is ignored: the number may be readable without it.
        return e164(str(phone), *(str(each) for each in country if isinstance(each, str | int)))

    @_takes(_NUMBER)
    def _func_unix_time(self, moment: Any) -> str | None:
        number = _decimal(moment)
        if number is None:
            return None
        seconds = number / 1_000 if abs(number) >= _MILLISECONDS else number
        try:
            return datetime.fromtimestamp(float(seconds), UTC).isoformat()
        except (OverflowError, OSError, ValueError):
            raise MappingError("unix_time() was given a number that is not a time.") from None

    @_takes(_TEXT, _NAME)
    def _func_parse_time(self, text: str | None, form: str) -> str | None:
        if not text:
            return None
        if len(text) > _MAX_TIME_CHARACTERS:
            raise MappingError("parse_time() was given a string that is too long for a time.")
        try:
            moment = datetime.strptime(text, form)  # noqa: DTZ007 - UTC is said below
        except (ValueError, re.error):
            raise MappingError("parse_time() was given a string that is not of this form.") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()

    # As Powertools defines them, but for the bound on what comes out of a compressed string.
    @_takes(_NAME)
    def _func_powertools_json(self, text: str) -> object:
        # Often each field of each event asks for the same string: it is decoded once, and held once.
        if self._decoded is None or self._decoded[0] != text:
            values = 1 + text.count("{") + text.count("[") + text.count(",")
            self.charge(values * _VALUE_BYTES + _CHARACTER_BYTES * len(text))
            self._decoded = text, json.loads(text)
        return self._decoded[1]

    @_takes(_NAME)
    def _func_powertools_base64(self, text: str) -> str:
        return base64.b64decode(text).decode()

    @_takes(_NAME)
    def _func_powertools_base64_gzip(self, text: str) -> str:
        try:
            plain = zlib.decompressobj(31).decompress(base64.b64decode(text), MAX_BYTES + 1)
        except zlib.error:
            raise MappingError("powertools_base64_gzip() was given data that is not gzip.") from None
        if len(plain) > MAX_BYTES:
            raise LimitExceeded(f"A compressed string must not exceed {MAX_BYTES} bytes.")
        return plain.decode()

    # JMESPath's own. Some compare large values, the others build one, and no clock interrupts them.
    @_takes({"types": ["array", "string"]}, _ANY)
    def _func_contains(self, subject: Any, search: Any) -> bool:
        _check_comparable(subject, search)
        if isinstance(search, str):
            _check_texts(subject)
        return search in subject

    @_takes(_COMPARABLE)
    def _func_sort(self, values: list[Any]) -> Any:
        _check_texts(values)
        return super()._func_sort(values)

    @_takes(_COMPARABLE)
    def _func_max(self, values: list[Any]) -> Any:
        _check_texts(values)
        return super()._func_max(values)

    @_takes(_COMPARABLE)
    def _func_min(self, values: list[Any]) -> Any:
        _check_texts(values)
        return super()._func_min(values)

    def _create_key_func(self, *by: Any) -> Callable[[object], Any]:
        key_of = super()._create_key_func(*by)
        room = MAX_BYTES

        def bounded(value: object) -> Any:
            nonlocal room
            key = key_of(value)
            room -= len(key) if isinstance(key, str) else 0
            if room < 0:
                raise _too_much_text()
            return key

        return bounded

    @_takes({"types": ["object"], "variadic": True})
    def _func_merge(self, *parts: dict[str, Any]) -> Any:
        if sum(map(len, parts)) > MAX_ITEMS:
            raise LimitExceeded(f"An object made of others must not have more than {MAX_ITEMS} members.")
        return super()._func_merge(*parts)

    @_takes(_NAME, {"types": ["array-string"]})
    def _func_join(self, separator: str, parts: list[str]) -> str:
        return _bounded_text(separator, parts)

    @_takes(_ANY)
    def _func_to_string(self, value: object) -> str:
        if isinstance(value, str):
            return value
        measure(value, MAX_BYTES)
        return msgspec.json.encode(value).decode()


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool() | int() | float():
            return json.dumps(value)
        case _:
            raise MappingError("concat() takes strings, numbers, true, false and null.")


def _bounded_text(separator: str, parts: list[str]) -> str:
    if sum(map(len, parts)) + len(separator) * len(parts) > MAX_BYTES:
        raise LimitExceeded(f"A string must not exceed {MAX_BYTES} characters.")
    return separator.join(parts)


def _calculated(left: Any, right: Any, operation: Any) -> int | float | None:
    first, second = _decimal(left), _decimal(right)
    if first is None or second is None:
        return None
    try:
        result: Decimal = operation(first, second)
    except decimal.DecimalException:  # a division by zero is one
        kind = "a division by zero" if operation is Decimal.__truediv__ and not second else "out of range"
        raise MappingError(f"The calculation cannot be done: {kind}.") from None
    return _number(result)


def _number(result: Decimal) -> int | float:
    if result == result.to_integral_value() and abs(result) < 2**63:
        return int(result)
    number = float(result)
    if not math.isfinite(number):
        raise MappingError("The calculation cannot be done: out of range.")
    return number


def _moment(text: str) -> datetime:
    """Reads an ISO 8601 time; one without an offset is in UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MappingError("seconds_between() was given a string that is not a time.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _decimal(value: Any) -> Decimal | None:
    """Returns a number as it is written: in binary 0.1 * 3 is not 0.3."""
    if value is None:
        return None
    try:
        number = Decimal(str(value).strip())
    except decimal.InvalidOperation:
        raise MappingError("A calculation was given a string that is not a number.") from None
    if not number.is_finite():
        raise MappingError("A calculation was given a string that is not a number.")
    return number


FUNCTIONS: Final = frozenset(_Functions.FUNCTION_TABLE)  # every one that an expression may call
