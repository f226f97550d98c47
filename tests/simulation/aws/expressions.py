"""Parses and evaluates DynamoDB's condition and update expressions, as far as the gateway uses them.

Values are DynamoDB's own, such as `{"N": "1"}`. A path is one top-level attribute. Nested paths and
everything else that is not known raise `NotImplementedError`. An expression that DynamoDB refuses raises
`InvalidExpression`.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

type Value = dict[str, Any]
type Item = dict[str, Value]
type Node = tuple[Any, ...]

_TOKEN = re.compile(r"\s*(?:([\w#:]\w*)|(<>|<=|>=|[=<>(),+\-.\[\]]))")
_KEYWORDS = frozenset({"AND", "OR", "NOT", "BETWEEN", "IN", "SET", "ADD", "REMOVE", "DELETE"})
_COMPARATORS = frozenset({"=", "<>", "<", "<=", ">", ">="})
_SETS = frozenset({"SS", "NS", "BS"})
_FUNCTIONS = {
    "attribute_exists": 1,
    "attribute_not_exists": 1,
    "begins_with": 2,
    "contains": 2,
    "size": 1,
}


class InvalidExpression(Exception):
    """Says that DynamoDB would answer ValidationException."""


@dataclass(frozen=True)
class Names:
    """Holds the values of an expression's placeholders."""

    names: Mapping[str, str]
    values: Mapping[str, Value]

    def check(self, *expressions: str | None) -> None:
        """Raises where a placeholder is defined and not used, or the other way round."""
        used = {token for text in expressions if text for token in _placeholders(text)}
        defined = self.names.keys() | self.values.keys()
        if used != defined:
            raise InvalidExpression(f"placeholders used {sorted(used)}, defined {sorted(defined)}")


def holds(expression: str, item: Item, names: Names) -> bool:
    """Tells whether a condition holds for an item; an item that does not exist is empty."""
    return bool(_test(_condition(expression), item, names))


def updated(expression: str, item: Item, names: Names) -> tuple[Item, set[str]]:
    """Applies an update expression; returns the new item and the names of the attributes it touched."""
    changed = dict(item)
    touched: set[str] = set()
    for action, path, operand in _update(expression):
        name = _name(path, names)
        if name in touched:
            raise InvalidExpression(f"two actions overlap on {name}")
        touched.add(name)
        _ACTIONS[action](changed, name, operand, item, names)
    return changed, touched


def _tokens(text: str) -> Iterator[str]:
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidExpression(f"syntax error at {text[position:]!r}")
        position = match.end()
        yield match[1] or match[2]


@functools.cache
def _placeholders(text: str) -> frozenset[str]:
    return frozenset(token for token in _tokens(text) if token[0] in "#:")


class _Parser:
    """Parses the tokens of one expression by recursive descent."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def condition(self) -> Node:
        node = self._either()
        self._end()
        return node

    def update(self) -> list[tuple[str, str, Node | None]]:
        actions: list[tuple[str, str, Node | None]] = []
        clauses: set[str] = set()
        while self._peek():
            clause = self._next().upper()
            if clause not in _ACTIONS or clause in clauses:
                raise InvalidExpression(f"unexpected {clause}")
            clauses.add(clause)
            while True:
                actions.append((clause, self._path(), self._new_value(clause)))
                if not self._accept(","):
                    break
        if not actions:
            raise InvalidExpression("the expression is empty")
        return actions

    def _new_value(self, clause: str) -> Node | None:
        if clause == "REMOVE":
            return None
        if clause != "SET":
            return self._operand()
        self._expect("=")
        left = self._operand()
        if (sign := self._peek()) in {"+", "-"}:
            self._next()
            return "arithmetic", sign, left, self._operand()
        return left

    def _either(self) -> Node:
        node = self._both()
        while self._accept("OR"):
            node = "or", node, self._both()
        return node

    def _both(self) -> Node:
        node = self._negated()
        while self._accept("AND"):
            node = "and", node, self._negated()
        return node

    def _negated(self) -> Node:
        if self._accept("NOT"):
            return "not", self._negated()
        if self._accept("("):
            node = self._either()
            self._expect(")")
            return node
        left = self._operand()
        if left[0] == "call" and left[1] != "size":
            return left
        return self._comparison(left)

    def _comparison(self, left: Node) -> Node:
        operator = self._next()
        if operator in _COMPARATORS:
            return "compare", operator, left, self._operand()
        if operator.upper() == "BETWEEN":
            low = self._operand()
            self._expect("AND")
            return "and", ("compare", ">=", left, low), ("compare", "<=", left, self._operand())
        if operator.upper() == "IN":
            self._expect("(")
            node: Node = ("compare", "=", left, self._operand())
            while self._accept(","):
                node = "or", node, ("compare", "=", left, self._operand())
            self._expect(")")
            return node
        raise InvalidExpression(f"unexpected {operator}")

    def _operand(self) -> Node:
        token = self._peek()
        if token.startswith(":"):
            return "value", self._next()
        name = self._path()
        if not self._accept("("):
            return "path", name
        if name == "if_not_exists":
            path = self._path()
            self._expect(",")
            node: Node = ("default", path, self._operand())
        elif name in _FUNCTIONS:
            operands = [self._operand()]
            while self._accept(","):
                operands.append(self._operand())
            if len(operands) != _FUNCTIONS[name]:
                raise InvalidExpression(f"{name} takes {_FUNCTIONS[name]} operands")
            node = "call", name, *operands
        else:
            raise NotImplementedError(f"function {name}")
        self._expect(")")
        return node

    def _path(self) -> str:
        token = self._next()
        if not re.fullmatch(r"#?[A-Za-z_]\w*", token) or token.upper() in _KEYWORDS:
            raise InvalidExpression(f"unexpected {token}")
        if self._peek() in {".", "["}:
            raise NotImplementedError("nested paths")
        return token

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise InvalidExpression("the expression ends too early")
        self._at += 1
        return token

    def _accept(self, token: str) -> bool:
        if self._peek().upper() != token:
            return False
        self._at += 1
        return True

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise InvalidExpression(f"{token} expected, {self._peek() or 'the end'} found")

    def _end(self) -> None:
        if self._peek():
            raise InvalidExpression(f"unexpected {self._peek()}")


@functools.cache
def _condition(text: str) -> Node:
    return _Parser(text).condition()


@functools.cache
def _update(text: str) -> list[tuple[str, str, Node | None]]:
    return _Parser(text).update()


def _name(path: str, names: Names) -> str:
    if not path.startswith("#"):
        return path
    try:
        return names.names[path]
    except KeyError:
        raise InvalidExpression(f"{path} is not defined") from None


def _test(node: Node, item: Item, names: Names) -> bool:
    match node:
        case "or", left, right:
            return _test(left, item, names) or _test(right, item, names)
        case "and", left, right:
            return _test(left, item, names) and _test(right, item, names)
        case "not", inner:
            return not _test(inner, item, names)
        case "compare", operator, left, right:
            return _compare(operator, _evaluate(left, item, names), _evaluate(right, item, names))
        case "call", "attribute_exists", operand:
            return _evaluate(operand, item, names) is not None
        case "call", "attribute_not_exists", operand:
            return _evaluate(operand, item, names) is None
        case "call", "begins_with", operand, prefix:
            whole, start = _evaluate(operand, item, names), _evaluate(prefix, item, names)
            return _kind(whole) == _kind(start) and _plain(whole).startswith(_plain(start))
        case "call", "contains", operand, part:
            return _contains(_evaluate(operand, item, names), _evaluate(part, item, names))
    raise NotImplementedError(str(node))


def _evaluate(node: Node, item: Item, names: Names) -> Value | None:
    match node:
        case "value", placeholder:
            try:
                return names.values[placeholder]
            except KeyError:
                raise InvalidExpression(f"{placeholder} is not defined") from None
        case "path", path:
            return item.get(_name(path, names))
        case "call", "size", operand:
            found = _evaluate(operand, item, names)
            return None if found is None else {"N": str(_size(found))}
        case "default", path, operand:
            existing = item.get(_name(path, names))
            return _evaluate(operand, item, names) if existing is None else existing
        case "arithmetic", sign, left, right:
            one, other = (_number(_evaluate(operand, item, names)) for operand in (left, right))
            return {"N": _text(one + other if sign == "+" else one - other)}
    raise NotImplementedError(str(node))


def _compare(operator: str, left: Value | None, right: Value | None) -> bool:
    if left is None or right is None:
        return operator == "<>" and left is not right
    if operator in {"=", "<>"}:
        return (_kind(left) == _kind(right) and _plain(left) == _plain(right)) == (operator == "=")
    if _kind(left) != _kind(right) or _kind(left) not in {"S", "N", "B"}:
        return False
    one, other = _plain(left), _plain(right)
    return bool({"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[operator])


def _contains(whole: Value | None, part: Value | None) -> bool:
    if whole is None or part is None:
        return False
    if _kind(whole) in _SETS:
        return _kind(whole)[0] == _kind(part) and _plain(part) in _plain(whole)
    return _kind(whole) == _kind(part) and _plain(part) in _plain(whole)


def _kind(value: Value | None) -> str:
    if value is None:
        return ""
    [kind] = value
    return kind


def _plain(value: Value | None) -> Any:
    """Returns a value that compares as DynamoDB compares: numbers by size, strings by their bytes."""
    kind = _kind(value)
    content: Any = value[kind] if value else None
    match kind:
        case "N":
            return Decimal(content)
        case "S":
            return content.encode()
        case "SS" | "BS":
            return frozenset(each.encode() if isinstance(each, str) else each for each in content)
        case "NS":
            return frozenset(map(Decimal, content))
        case "L":
            return [_plain(each) for each in content]
        case "M":
            return {name: _plain(each) for name, each in content.items()}
    return content


def _size(value: Value) -> int:
    kind = _kind(value)
    if kind == "S":
        return len(value["S"].encode())
    if kind in {"B", "L", "M"} | _SETS:
        return len(value[kind])
    raise InvalidExpression(f"size() does not take {kind}")


def _number(value: Value | None) -> Decimal:
    if _kind(value) != "N":
        raise InvalidExpression("an operand is no number")
    return Decimal(value["N"])  # type: ignore[index]


def _text(number: Decimal) -> str:
    return format(number.normalize(), "f")


def _set(changed: Item, name: str, operand: Node, item: Item, names: Names) -> None:
    value = _evaluate(operand, item, names)
    if value is None:
        raise InvalidExpression(f"the value for {name} does not exist")
    changed[name] = value


def _remove(changed: Item, name: str, operand: Node, item: Item, names: Names) -> None:
    changed.pop(name, None)


def _add(changed: Item, name: str, operand: Node, item: Item, names: Names) -> None:
    value = _evaluate(operand, item, names)
    kind, existing = _kind(value), item.get(name)
    if value is None or kind not in {"N"} | _SETS or (existing is not None and _kind(existing) != kind):
        raise InvalidExpression(f"ADD takes a number or a set that is like {name}")
    if existing is None:
        changed[name] = value
    elif kind == "N":
        changed[name] = {"N": _text(_number(existing) + _number(value))}
    else:
        changed[name] = {kind: list(dict.fromkeys([*existing[kind], *value[kind]]))}


def _delete(changed: Item, name: str, operand: Node, item: Item, names: Names) -> None:
    value, existing = _evaluate(operand, item, names), item.get(name)
    kind = _kind(value)
    if value is None or kind not in _SETS or (existing is not None and _kind(existing) != kind):
        raise InvalidExpression(f"DELETE takes a set that is like {name}")
    if existing is None:
        return
    left = [each for each in existing[kind] if each not in value[kind]]
    if left:
        changed[name] = {kind: left}
    else:
        del changed[name]


_ACTIONS: dict[str, Callable[..., None]] = {"SET": _set, "REMOVE": _remove, "ADD": _add, "DELETE": _delete}
