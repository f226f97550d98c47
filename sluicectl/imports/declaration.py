"""Reads what the rows of a file become: from a file of mappings, or from a preset.

The language is that of webhooks. A document has `events` as a source has, or it is one mapping itself. `file`
says what a file does not tell: its `columns` if its first line does not name them, and its `separator`.
"""

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sluice.jsonapi import Problem, pointer
from sluice.webhooks import sources
from sluice.webhooks.mapping import EventMapping
from sluicectl import documents
from sluicectl.documents import Document, Place, Unreadable
from sluicectl.errors import Failure
from sluicectl.imports.rows import Separator

_FOLDER: Final = Path(__file__).parent / "presets"
_ONLY: Final = "row"  # the name of the mapping of a document that is one


class FileConfig(BaseModel):
    """Declares what a file does not tell of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    columns: Annotated[list[str], Field(min_length=1)] | None = None
    separator: Separator | None = None


@dataclass(frozen=True)
class Declaration:
    """Holds what rows become; `digest` changes with anything in it."""

    file: FileConfig
    mappings: Sequence[EventMapping]
    digest: str


@cache
def presets() -> tuple[str, ...]:
    """Returns the names of the presets."""
    return tuple(sorted(each.stem for each in _FOLDER.glob("*.toml")))


def load_preset(name: str) -> Declaration:
    """Reads a preset."""
    document = tomllib.loads((_FOLDER / f"{name}.toml").read_text())
    declaration, problems = _read(document)
    if declaration is None:
        raise Failure(f"The preset {name} is not valid: {problems[0].pointer}: {problems[0].detail}")
    return declaration


def load_file(name: str) -> Declaration:
    """Reads a file of mappings; raises `Failure` with every mistake and its line."""
    try:
        document = documents.load(Path(name).read_bytes())
    except OSError as error:
        raise Failure(f"{name} cannot be read: {error.strerror}.") from None
    except Unreadable as unreadable:
        raise Failure(_located(name, unreadable.place, unreadable.detail)) from None
    declaration, problems = _read(document.value)
    if declaration is None:
        raise Failure("\n".join(_told(name, document, each) for each in problems))
    return declaration


def _told(name: str, document: Document, problem: Problem) -> str:
    return _located(name, document.place(problem.pointer), problem.detail)


def _located(name: str, place: Place, detail: str) -> str:
    return f"{name}:{place.line}:{place.column}: {detail}"


def _read(document: Any) -> tuple[Declaration | None, list[Problem]]:
    written = document if isinstance(document, dict) else {}
    rest: Any = {name: value for name, value in written.items() if name != "file"}
    is_one = "metric" in rest
    mappings, problems = sources.read_mappings({"events": {_ONLY: rest}} if is_one else rest)
    if is_one:
        prefix = pointer("events", _ONLY)
        problems = [
            Problem(each.code, each.detail, (each.pointer or "").removeprefix(prefix)) for each in problems
        ]
    try:
        file = FileConfig.model_validate(written.get("file", {}))
    except ValidationError as error:
        problems += [
            Problem("invalid", f"{each['msg']}.", pointer("file", *each["loc"])) for each in error.errors()
        ]
    if problems:
        return None, problems
    content = msgspec.json.encode(document, order="sorted")
    return Declaration(file, mappings, hashlib.blake2b(content, digest_size=16).hexdigest()), []
