"""Keeps a normalised form of the sources document in the stored one, so that ingest need not validate it.

The form has each source merged over its preset, as the declaration found it valid. Its seal is of what it was
made from: the sources as written, the presets and the version of this package. If one of them changes, the
form counts no more, and the document is validated where it is read.
"""

import hashlib
from typing import Any, Final

import msgspec

from sluice import __version__
from sluice.validation.json_text import NOT_DECODED
from sluice.webhooks import presets

MAX_DOCUMENT_BYTES: Final = 1_048_576
_FIELD: Final = "normalised"  # of the stored document; nobody may write it


class _Form(msgspec.Struct, frozen=True):
    seal: str
    sources: dict[str, dict[str, Any]]


def add(written: bytes, merged: dict[str, dict[str, Any]]) -> bytes:
    """Returns a valid document with its form, if there is room for it. `merged` are all of its sources."""
    document = msgspec.json.decode(written)
    form = _Form(_seal(document["sources"]), merged)
    stored = msgspec.json.encode({**document, _FIELD: form})
    return stored if len(stored) <= MAX_DOCUMENT_BYTES else msgspec.json.encode(document)


def remove(stored: bytes) -> bytes:
    """Returns a stored document as it was written."""
    try:
        document = msgspec.json.decode(stored)
    except NOT_DECODED:
        return stored
    return msgspec.json.encode(without(document)) if without(document) is not document else stored


def without(document: Any) -> Any:
    """Returns a parsed document as it was written."""
    if not isinstance(document, dict) or _FIELD not in document:
        return document
    return {name: value for name, value in document.items() if name != _FIELD}


def find(document: Any) -> dict[str, dict[str, Any]] | None:
    """Returns the merged sources of a parsed document by name, if it has a form that still counts."""
    if not isinstance(document, dict) or _FIELD not in document:
        return None
    try:
        form = msgspec.convert(document[_FIELD], _Form)
        is_sealed = form.seal == _seal(document.get("sources"))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return form.sources if is_sealed else None


def _seal(written: Any) -> str:
    made_from = msgspec.json.encode([__version__, presets.digest(), written])
    return hashlib.blake2b(made_from, digest_size=16).hexdigest()
