"""Mends an archived payload before it is sent again: sets, removes or patches values in it.

A payload that is text, such as a body that could not be read, is mended as the JSON that the text holds, and
stays text. Nothing here decides whether a mended payload is good: the product's own rules do.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final

import jsonpatch
import jsonpointer
import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sluice.contract import MAX_BODY_BYTES_IN
from sluice.errors import SluiceError
from sluice.validation.json_text import NOT_DECODED, encode_text

MAX_STEPS: Final = 100  # of each kind, so that mending many records stays quick
_NOT_JSON: Final = "The payload is text that is no JSON, so only --set ''=JSON can mend it."
_TOO_LARGE: Final = f"The mended payload would exceed {MAX_BODY_BYTES_IN} bytes."
_NEEDED: Final = {"add": "value", "replace": "value", "test": "value", "move": "from", "copy": "from"}
_REFUSED: Final = (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException)

type Pointer = Annotated[str, Field(max_length=1_000)]


class DoesNotApply(SluiceError):
    """Says in one sentence why a payload cannot be mended in this way."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(_Model):
    """Holds the value to be set at a pointer: of a member that may be new, or of an item of an array."""

    pointer: Pointer
    value: Any

    @field_validator("pointer")
    @classmethod
    def _is_pointer(cls, pointer: str) -> str:
        return checked_pointer(pointer)


class Fault(_Model):
    """Holds the value to be set at each record's own place, where its fault is."""

    value: Any


class Mend(_Model):
    """Holds what is done to each payload: the patch (RFC 6902) first, then removing, setting, the fault."""

    patch: Annotated[list[dict[str, Any]], Field(max_length=MAX_STEPS)] = []
    remove: Annotated[list[Pointer], Field(max_length=MAX_STEPS)] = []
    set: Annotated[list[Change], Field(max_length=MAX_STEPS)] = []
    fault: Fault | None = None

    @field_validator("patch")
    @classmethod
    def _is_patch(cls, patch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            jsonpatch.JsonPatch(patch)
        except _REFUSED as error:
            raise ValueError(f"this is no JSON patch: {error}") from error
        for operation in patch:
            if (needed := _NEEDED.get(operation["op"])) and needed not in operation:
                raise ValueError(f"this is no JSON patch: the operation {operation['op']} needs '{needed}'")
        return patch

    @field_validator("remove")
    @classmethod
    def _are_pointers(cls, remove: list[str]) -> list[str]:
        return [checked_pointer(each) for each in remove]

    def changes_something(self) -> bool:
        """Tells whether it asks for any change at all."""
        return bool(self.patch or self.remove or self.set or self.fault)


def checked_pointer(pointer: str) -> str:
    """Returns a JSON pointer (RFC 6901), or raises `ValueError` if the text is none."""
    try:
        jsonpointer.JsonPointer(pointer)
    except jsonpointer.JsonPointerException as error:
        raise ValueError(f"'{pointer}' is no JSON pointer: it must be empty or begin with '/'") from error
    return pointer


def apply(mend: Mend, payload: bytes, place: str | None) -> bytes:
    """Returns a payload, which is JSON, as it is after the mend; raises `DoesNotApply`.

    `place` points at the fault in the payload. Only a fault's value needs it.
    """
    if not mend.changes_something():
        return payload
    try:
        document = msgspec.json.decode(payload)
        is_text = isinstance(document, str)
        if is_text and not _replaces_all(mend):
            document = _decoded_text(document)
        for operation in _operations(mend, place):
            document = _applied(operation, document)
        mended = msgspec.json.encode(document)
        if is_text:
            mended = msgspec.json.encode(mended.decode())
    except (*NOT_DECODED, TypeError) as error:
        # It was JSON before, so only a value that JSON has not, or one that nests too deeply, can raise.
        raise DoesNotApply("The mended payload cannot be written as JSON.") from error
    if len(mended) > max(MAX_BODY_BYTES_IN, len(payload)):
        raise DoesNotApply(_TOO_LARGE)
    return mended


def _decoded_text(text: str) -> Any:
    try:
        return msgspec.json.decode(encode_text(text))
    except NOT_DECODED as error:
        raise DoesNotApply(_NOT_JSON) from error


def _replaces_all(mend: Mend) -> bool:
    first = next(_operations(mend, ""))
    return first["path"] == "" and first["op"] in {"add", "replace", "set"}


def _operations(mend: Mend, place: str | None) -> Iterator[dict[str, Any]]:
    """Yields operations of RFC 6902, and `set`, which is `add` or `replace`, whichever fits the place."""
    # Each is a copy: what is set in one payload may be changed by the next operation.
    fresh = mend.model_copy(deep=True)
    yield from fresh.patch
    for pointer in fresh.remove:
        yield {"op": "remove", "path": pointer}
    for change in fresh.set:
        yield {"op": "set", "path": change.pointer, "value": change.value}
    if fresh.fault is not None:
        if place is None:
            raise DoesNotApply("Nobody named the place of its fault.")
        yield {"op": "set", "path": place, "value": fresh.fault.value}


def _applied(operation: dict[str, Any], document: Any) -> Any:
    try:
        if operation["op"] == "set":
            operation["op"] = _setting(operation["path"], document)
        elif operation["op"] == "copy":
            _check_copy(operation["from"], document)
        return jsonpatch.JsonPatch([operation]).apply(document, in_place=True)
    except jsonpatch.JsonPatchTestFailed as error:
        raise DoesNotApply(f"A test of the patch fails at '{operation['path']}'.") from error
    except _REFUSED as error:
        where = operation.get("from", operation["path"])
        raise DoesNotApply(f"The payload has no such place: '{where}'.") from error


def _setting(pointer: str, document: Any) -> str:
    """Returns the operation that sets a value: an item of an array is replaced, not moved along."""
    parent, part = jsonpointer.JsonPointer(pointer).to_last(document)
    return "replace" if isinstance(parent, list) and part not in {"-", None} else "add"


def _check_copy(source: str, document: Any) -> None:
    """Refuses a copy that makes a payload too large; a hundred copies could double it each time."""
    copied = len(msgspec.json.encode(jsonpointer.JsonPointer(source).resolve(document)))
    if copied + len(msgspec.json.encode(document)) > 2 * MAX_BODY_BYTES_IN:
        raise DoesNotApply(_TOO_LARGE)
