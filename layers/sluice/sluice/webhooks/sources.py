"""Reads the sources document: who may post webhooks, how that is verified, and which events they become.

It is one JSON document in S3 for a deployment. Operators write it as YAML or JSON, and it is checked before
it is stored, with a form of it that need not be checked again. Pydantic is imported only where it must be
checked. A function uses every source that is valid, and keeps the last good copy of one that is not.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluice.errors import Misconfigured, Retryable
from sluice.jsonapi import Problem
from sluice.validation.json_text import NOT_DECODED
from sluice.webhooks import normalised
from sluice.webhooks.expressions import Expression, parse
from sluice.webhooks.mapping import EventMapping, Template
from sluice.webhooks.normalised import MAX_DOCUMENT_BYTES
from sluice.webhooks.signatures import DELIVERY_IDS, SCHEMES, TOPICS, Hmac, Scheme, Token

if TYPE_CHECKING:
    from sluice.webhooks.source_config import Flaws

KEY: Final = "sources.json"  # of the document in the configuration bucket
CACHE_SECONDS: Final = 60
_NO_ATTRIBUTES: Final = frozenset(
    ("metric", "topics", "profile", "when", "each", "object_id", "waits_for_identity")
)


class Source(msgspec.Struct, frozen=True):
    """Holds a source, ready to be used.

    `account` is the site id that its events belong to, `secret` the name below the stack's own prefix.
    `refuses` says that a payload with anything invalid is answered 400 and not kept.
    """

    name: str
    account: str
    scheme: str
    schemes: tuple[Scheme, ...]
    secret: str
    mappings: tuple[EventMapping, ...]
    delivery_id: Expression | None
    topic: Expression | None
    refuses: bool


class Sources(msgspec.Struct, frozen=True):
    """Holds every valid source of a deployment, by name.

    `flaws` has the mistake of each of the others; None stands for the document itself.
    """

    sources: dict[str, Source]
    flaws: dict[str | None, str] = {}

    def find(self, name: str) -> Source | None:
        """Returns a source by its name. Raises `Misconfigured` if it is declared and not valid."""
        if name not in self.sources and name in self.flaws:
            raise Misconfigured(self.flaws[name])
        return self.sources.get(name)


def problems(document: object) -> list[Problem]:
    """Returns everything that is wrong with a parsed document, each with a JSON pointer into it."""
    return [problem for found in _read(document)[1].values() for problem in found]


def decode(data: bytes) -> Sources:
    """Returns the sources of a stored document. Raises `Misconfigured` if anything in it is not valid."""
    sources = decode_valid(data)
    if sources.flaws:
        raise Misconfigured(next(iter(sources.flaws.values())))
    return sources


def decode_valid(data: bytes) -> Sources:
    """Returns the sources of a stored document that are valid, and what is wrong with the others.

    Raises `Misconfigured` if it is no document with sources at all.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise Misconfigured(f"the sources document exceeds {MAX_DOCUMENT_BYTES} bytes")
    try:
        document = msgspec.json.decode(data)
    except NOT_DECODED:
        raise Misconfigured("the sources document is not JSON") from None
    merged = normalised.find(document)
    found: Flaws = {}
    if merged is None:
        document = normalised.without(document)
        merged, found = _read(document)
    flaws = {name: _told(problems[0]) for name, problems in found.items()}
    if not isinstance(document, dict) or not isinstance(document.get("sources"), dict):
        raise Misconfigured(flaws[None])
    return Sources({name: _source(name, each) for name, each in merged.items()}, flaws)


def to_store(written: bytes) -> bytes:
    """Returns a valid document as it is stored, with its normalised form."""
    return normalised.add(written, _read(msgspec.json.decode(written))[0])


def _read(document: object) -> "tuple[dict[str, dict[str, Any]], Flaws]":
    from sluice.webhooks import source_config  # noqa: PLC0415 - it brings pydantic

    return source_config.read(document)


def read_mappings(document: object) -> tuple[tuple[EventMapping, ...], list[Problem]]:
    """Reads mappings that stand alone, `events` and perhaps the `profile` of all: those, or every mistake."""
    from sluice.webhooks import source_config  # noqa: PLC0415 - it brings pydantic

    events, problems = source_config.read_mappings(document)
    return tuple(_mapping(name, event) for name, event in events.items()), problems


class SourcesCache:
    """Keeps the document of a process, and looks at it again when it is a minute old.

    `fetch` takes the ETag of the copy at hand. It returns None if there is no other, else the ETag and bytes
    of the new one, which are empty if there is no document. It may raise `Retryable`. At each look `report`
    gets every mistake of the stored document, or why it cannot be read.
    """

    def __init__(
        self,
        fetch: Callable[[str | None], tuple[str, bytes] | None],
        report: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._fetch, self._report, self._clock = fetch, report, clock
        self._etag: str | None = None
        self._sources: Sources | None = None
        self._flaw = ""
        self._looked = 0.0

    def sources(self) -> Sources:
        """Returns the newest copy of each source that is valid.

        Raises what `fetch` or `decode_valid` does while there is no copy of the document at all.
        """
        if self._sources is None or self._clock() - self._looked >= CACHE_SECONDS:
            try:
                self._look()
            except (Misconfigured, Retryable) as error:
                self._report(str(error))
                if self._sources is None:
                    raise
            self._looked = self._clock()
        return self._sources or Sources({})

    def _look(self) -> None:
        found = self._fetch(self._etag)
        if found is not None:
            etag, data = found
            new = decode_valid(data) if data else Sources({})
            self._sources = _with_kept(new, self._sources)
            self._etag = etag
        if self._sources is not None:
            for flaw in self._sources.flaws.values():
                self._report(flaw)


def _with_kept(new: Sources, old: Sources | None) -> Sources:
    """Returns the new sources, with the old copy of each that is not valid now."""
    kept = {name: old.sources[name] for name in new.flaws if name in old.sources} if old else {}
    return Sources(new.sources | kept, new.flaws)


def _source(name: str, merged: dict[str, Any]) -> Source:
    """Returns a source as it is used, from its valid declaration merged over its preset."""
    signature = merged["signature"]
    scheme = signature["scheme"]
    return Source(
        name,
        merged["account"],
        scheme,
        _schemes(signature),
        merged["secret"],
        tuple(_mapping(each, event) for each, event in merged["events"].items()),
        _expression(merged.get("delivery_id")) or _default(DELIVERY_IDS, scheme),
        _expression(merged.get("topic")) or _default(TOPICS, scheme),
        merged.get("on_invalid") == "refuse",
    )


def _schemes(signature: Mapping[str, str]) -> tuple[Scheme, ...]:
    """Returns the ways to verify a request; the first whose header it has counts."""
    fields = {
        name: value.lower() if name.endswith("header") else value
        for name, value in signature.items()
        if name != "scheme"
    }
    match signature["scheme"]:
        case "hmac":
            return (msgspec.convert(fields, Hmac),)
        case "bearer":
            prefix = {"prefix": ""} if "header" in fields else {}  # unless it is declared, too
            return (msgspec.convert(prefix | fields, Token),)
        case scheme:
            return SCHEMES[scheme]


def _mapping(name: str, event: Mapping[str, Any]) -> EventMapping:
    metric, topics = event["metric"], event.get("topics")
    attributes = {field: _template(value) for field, value in event.items() if field not in _NO_ATTRIBUTES}
    return EventMapping(
        name,
        metric if isinstance(metric, str) else parse(metric["expression"]),
        None if topics is None else frozenset(topics),
        _expression(event.get("when")),
        _expression(event.get("each")),
        _expression(event.get("object_id")),
        event.get("waits_for_identity", False),
        attributes,
        {field: _template(value) for field, value in event["profile"].items()},
    )


def _template(value: Any) -> Template:
    """Returns a declared value with each of its strings parsed as an expression."""
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, dict):
        return {name: _template(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_template(each) for each in value]
    literal: int | float | bool | None = value
    return literal


def _expression(text: str | None) -> Expression | None:
    return None if text is None else parse(text)


def _default(expressions: Mapping[str, str], scheme: str) -> Expression | None:
    return parse(expressions[scheme]) if scheme in expressions else None


def _told(problem: Problem) -> str:
    return f"the sources document is not valid: {problem.pointer}: {problem.detail}"
