"""Documents that people write, YAML or JSON, with the line and column of everything in them.

JSON is read as the YAML it is. YAML is read as if it were JSON: `no` and `12:30` are strings, an object does
not hold a key twice, and there are no tags and no aliases.
"""

import math
import re
from typing import Any, Final, NamedTuple

import click
import yaml

from sluice.jsonapi import pointer
from sluicectl.errors import Failure

MAX_DEPTH: Final = 50


class Place(NamedTuple):
    """Says where something stands, counted from 1."""

    line: int
    column: int


class Unreadable(Exception):
    """Says that a text is no document, and where it stops being one."""

    def __init__(self, detail: str, place: Place) -> None:
        super().__init__(detail)
        self.detail = detail
        self.place = place


class Document:
    """Holds a document, with the place of everything in it by JSON pointer; a member's place is its key's."""

    def __init__(self, value: Any, places: dict[str, Place]) -> None:
        self.value = value
        self._places = places

    def place(self, where: str | None) -> Place:
        """Returns the place of a pointer, or of the nearest thing around it: a missing value has no place."""
        path = where or ""
        while path and path not in self._places:
            path = path.rpartition("/")[0]
        return self._places.get(path, Place(1, 1))


def read_file(file: str) -> bytes:
    """Reads a file once, because it may be a pipe; `-` is standard input."""
    try:
        with click.open_file(file, "rb") as stream:
            data: bytes = stream.read()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}") from None
    return data


def load(data: bytes) -> Document:
    """Reads the document of a file's bytes; raises `Unreadable`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise Unreadable("This is not UTF-8.", Place(line, column)) from None
    return parse(text)


def parse(text: str) -> Document:
    """Reads a text's document; raises `Unreadable`."""
    try:
        # YAML does not allow the tabs that JSON may be indented with.
        root = yaml.compose(re.sub(r"^\s+", _untabbed, text, flags=re.MULTILINE), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        detail = " ".join(part for part in (error.problem, error.context) if part)
        mark = error.problem_mark or error.context_mark
        raise Unreadable(f"{detail[:1].upper()}{detail[1:]}.", _place(mark)) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, error.position - before.rfind("\n"))
        raise Unreadable(f"The character U+{error.character:04X} may not stand here.", place) from None
    except RecursionError:
        raise Unreadable("This is nested too deeply.", Place(1, 1)) from None
    if root is None:
        raise Unreadable("There is nothing in it.", Place(1, 1))
    places: dict[str, Place] = {"": _place(root.start_mark)}
    return Document(_value(root, (), places), places)


def _untabbed(indentation: re.Match[str]) -> str:
    return indentation[0].replace("\t", " ")


class _Loader(yaml.SafeLoader):
    """Knows of JSON's scalars, written as JSON does, and of no others."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own way

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases mean nothing here", mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("null", r"~|null|", "~n"),
    ("bool", r"true|false", "tf"),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", "-0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [*_first, ""] if _tag == "null" else list(_first),
    )

_SCALARS: Final[dict[str, Any]] = {
    "tag:yaml.org,2002:null": lambda _: None,
    "tag:yaml.org,2002:bool": lambda text: text == "true",
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}


def _value(node: yaml.Node, path: tuple[str | int, ...], places: dict[str, Place]) -> Any:
    if len(path) > MAX_DEPTH:
        raise Unreadable("This is nested too deeply.", _place(node.start_mark))
    match node:
        case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
            return _mapping(node, path, places)
        case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
            items = []
            for index, item in enumerate(node.value):
                places[pointer(*path, index)] = _place(item.start_mark)
                items.append(_value(item, (*path, index), places))
            return items
        case _ if node.tag in _SCALARS:
            return _scalar(node)
        case _:
            raise Unreadable(f"Tags such as {node.tag} mean nothing here.", _place(node.start_mark))


def _scalar(node: yaml.Node) -> Any:
    try:
        value = _SCALARS[node.tag](node.value)
    except ValueError:  # Python reads no integers of more than some thousand digits
        value = math.inf
    if value in {math.inf, -math.inf}:
        raise Unreadable("This number is too large.", _place(node.start_mark))
    return value


def _mapping(node: yaml.MappingNode, path: tuple[str | int, ...], places: dict[str, Place]) -> Any:
    result: dict[str, Any] = {}
    for key, item in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise Unreadable("A key must be a text.", _place(key.start_mark))
        if key.value in result:
            raise Unreadable(f"'{key.value}' stands here a second time.", _place(key.start_mark))
        places[pointer(*path, key.value)] = _place(key.start_mark)
        result[key.value] = _value(item, (*path, key.value), places)
    return result


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
