"""The sources document: who may post webhooks, how that is verified, and what events they become.

One JSON document in S3 for a deployment. Operators write it as YAML or JSON, and it is checked before it is
stored; a function that finds another one keeps what it has.
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from sluice.accounts import is_site_id
from sluice.errors import Misconfigured, Retryable
from sluice.jsonapi import Problem, pointer
from sluice.validation.schema_errors import explain, fitting
from sluice.webhooks.expressions import Expression
from sluice.webhooks.mapping import EventMapping, MappingTexts, ProfileTexts, compile_mapping, compile_text
from sluice.webhooks.signatures import DELIVERY_IDS, SCHEMES, Hmac, Scheme, Token

KEY: Final = "sources.json"  # of the document in the configuration bucket
CACHE_SECONDS: Final = 60
MAX_DOCUMENT_BYTES: Final = 1_048_576
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SECRET_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_BRACES: Final = re.compile(r"\{[^{}]*\}")
_PRESETS: Final = Path(__file__).with_name("presets")


class SignatureText(msgspec.Struct, forbid_unknown_fields=True):
    """How a source's requests are verified; all but `scheme` belong to `hmac`, `header` and `prefix` also to
    `bearer`. They mean what `signatures.Hmac` says.
    """

    scheme: Literal[
        "shopify",
        "stripe",
        "standard-webhooks",
        "woocommerce",
        "github",
        "klaviyo",
        "bearer",
        "basic",
        "hmac",
    ]
    header: str | UnsetType = UNSET
    algorithm: Literal["sha256", "sha1", "sha512"] | UnsetType = UNSET
    encoding: Literal["hex", "base64"] | UnsetType = UNSET
    prefix: str | UnsetType = UNSET
    separator: str | UnsetType = UNSET
    signed: str | UnsetType = UNSET
    timestamp_header: str | UnsetType = UNSET
    timestamp_prefix: str | UnsetType = UNSET
    id_header: str | UnsetType = UNSET


class SourceText(msgspec.Struct, forbid_unknown_fields=True):
    """One source as it is written, its preset merged in."""

    account: str
    signature: SignatureText
    secret: str
    events: dict[str, MappingTexts]
    preset: str | UnsetType = UNSET
    profile: ProfileTexts | UnsetType = UNSET
    delivery_id: str | UnsetType = UNSET
    on_invalid: Literal["accept", "refuse"] = "accept"


class DocumentText(msgspec.Struct, forbid_unknown_fields=True):
    """The document, of which each source is looked at by itself."""

    sources: dict[str, dict[str, Any]]


class Source(msgspec.Struct, frozen=True):
    """A source, ready to be used. `account` is the site id its events belong to, `secret` the name below the
    stack's own prefix. `refuses` says that a payload with anything invalid is answered 400 and not kept.
    """

    name: str
    account: str
    scheme: str
    schemes: tuple[Scheme, ...]
    secret: str
    mappings: tuple[EventMapping, ...]
    delivery_id: Expression | None
    refuses: bool


class Sources(msgspec.Struct, frozen=True):
    """Every source of a deployment, by name."""

    sources: dict[str, Source]


def problems(document: object) -> list[Problem]:
    """Everything that is wrong with a parsed sources document, each with a JSON pointer into it.

    A pointer may lead to what is missing, or to what a preset has and the document has not.
    """
    return _read(document)[1]


def decode(data: bytes) -> Sources:
    """The sources of a stored document; `Misconfigured` if it is not valid."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise Misconfigured(f"the sources document exceeds {MAX_DOCUMENT_BYTES} bytes")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Misconfigured("the sources document is not JSON") from None
    sources, found = _read(document)
    if found:
        first = found[0]
        raise Misconfigured(f"the sources document is not valid: {first.pointer}: {first.detail}")
    return sources


def presets() -> list[str]:
    """The names of the presets that ship with this package."""
    return sorted(each.stem for each in _PRESETS.glob("*.toml"))


@cache
def preset(name: str) -> dict[str, Any]:
    """A preset as it would stand in a source."""
    return tomllib.loads((_PRESETS / f"{name}.toml").read_text())


def with_preset(source: dict[str, Any]) -> dict[str, Any]:
    """A source merged over its preset, as RFC 7396 says: objects merge, null removes, all else replaces.

    Then what the source says of every profile is merged under what each event says of its own.
    """
    named = source.get("preset")
    base = preset(named) if isinstance(named, str) and named in presets() else {}
    merged: dict[str, Any] = _merged(base, source)
    shared, events = merged.get("profile"), merged.get("events")
    if isinstance(shared, dict) and isinstance(events, dict):
        merged["events"] = {
            name: {**event, "profile": _merged(shared, event.get("profile", {}))}
            if isinstance(event, dict)
            else event
            for name, event in events.items()
        }
    return merged


class Shelf:
    """The document a process has, looked at again when it is a minute old.

    `fetch` takes the ETag of the one at hand, and gives None if there is no other, else the ETag and bytes of
    the new one; empty bytes where there is no document. It may raise `Retryable`.
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
        self._looked = 0.0

    def sources(self) -> Sources:
        """The newest sources that are valid. Raises what `fetch` or `decode` does while there are none."""
        if self._sources is None or self._clock() - self._looked >= CACHE_SECONDS:
            try:
                self._look()
            except (Misconfigured, Retryable) as error:
                if self._sources is None:
                    raise
                self._report(str(error))
            self._looked = self._clock()
        return self._sources or Sources({})

    def _look(self) -> None:
        found = self._fetch(self._etag)
        if found is not None:
            etag, data = found
            self._sources = decode(data) if data else Sources({})
            self._etag = etag


def _read(document: object) -> tuple[Sources, list[Problem]]:
    found = list(explain(DocumentText, document))
    if found:
        return Sources({}), found
    sources = {}
    for name, given in msgspec.convert(document, DocumentText).sources.items():
        faults: list[Problem] = []
        sources[name] = _source(name, given, faults)
        found += (_placed(fault, name, given) for fault in faults)
    return Sources({name: source for name, source in sources.items() if source}), found


def _source(name: str, given: dict[str, Any], found: list[Problem]) -> Source | None:
    if not _NAME.fullmatch(name):
        found.append(_problem("A source's name has a to z, 0 to 9 and hyphens only, at most 63.", ""))
    merged = with_preset(given)
    found += explain(SourceText, merged, "source")
    named = given.get("preset")
    if isinstance(named, str) and named not in presets():
        # What it would have is not missing.
        found[:] = [each for each in found if each.pointer not in {"/signature", "/events"}]
        found.append(_problem(f"There is no such preset: take one of {', '.join(presets())}.", "preset"))
    texts = _texts(merged)
    if not is_site_id(texts.account):
        found.append(_problem("'account' must be a site id: six letters or digits.", "account"))
    if not _SECRET_NAME.fullmatch(texts.secret):
        found.append(_problem("'secret' is a name of letters, digits, hyphens and underscores.", "secret"))
    if merged.get("events") == {}:
        found.append(_problem("A source needs at least one event.", "events"))
    schemes = _schemes(texts.signature, found)
    scheme = texts.signature.scheme
    delivery_id = texts.delivery_id or DELIVERY_IDS.get(scheme)
    source = Source(
        name,
        texts.account,
        scheme,
        schemes,
        texts.secret,
        tuple(_mappings(texts.events, found)),
        compile_text(delivery_id, ("delivery_id",), found),
        texts.on_invalid == "refuse",
    )
    return None if found else source


def _texts(merged: dict[str, Any]) -> SourceText:
    """A source, with something good for each part that has not the structure it should: what is wrong with
    that is told already, and it must not hide what is wrong with the others.
    """
    events = merged.get("events")
    mappings = {
        name: _mapping_texts(event)
        for name, event in (events.items() if isinstance(events, dict) else ())
        if isinstance(event, dict)
    }
    good = {"account": "AbC123", "signature": SignatureText("github"), "secret": "any"}
    return SourceText(**{**good, **fitting(merged, SourceText), "events": mappings})


def _mapping_texts(event: dict[str, Any]) -> MappingTexts:
    texts = fitting(event, MappingTexts)
    if "profile" not in texts:
        texts["profile"] = ProfileTexts(**{"id": "any", **fitting(event.get("profile"), ProfileTexts)})
    return MappingTexts(**{"metric": "any", **texts})


def _mappings(events: dict[str, MappingTexts], found: list[Problem]) -> Iterator[EventMapping]:
    for name, texts in events.items():
        faults: list[Problem] = []
        yield compile_mapping(name, texts, faults)
        found += (
            Problem(fault.code, fault.detail, pointer("events", name) + (fault.pointer or ""))
            for fault in faults
        )


def _schemes(text: SignatureText, found: list[Problem]) -> tuple[Scheme, ...]:
    given = {
        name: value
        for name in text.__struct_fields__
        if name != "scheme" and (value := getattr(text, name)) is not UNSET
    }
    faults: list[Problem] = []
    allowed = {"hmac": set(Hmac.__struct_fields__), "bearer": {"header", "prefix"}}.get(text.scheme, set())
    faults += (
        _problem(f"'{name}' is not for the scheme '{text.scheme}'.", "signature", name)
        for name in sorted(given.keys() - allowed)
    )
    for name in ("header", "timestamp_header", "id_header"):
        if name in given:
            if not _HEADER_NAME.fullmatch(given[name]):
                faults.append(_problem(f"'{name}' must be the name of a header.", "signature", name))
            given[name] = given[name].lower()
    if text.scheme == "hmac":
        _check_hmac(given, faults)
    if faults:
        found += faults
        return ()
    if text.scheme == "hmac":
        return (Hmac(**given),)
    if text.scheme == "bearer":
        # A header of one's own holds the token alone.
        return (Token(**({"prefix": ""} if "header" in given else {}) | given),)
    return SCHEMES[text.scheme]


def _check_hmac(given: dict[str, Any], found: list[Problem]) -> None:
    if "header" not in given:
        found.append(
            _problem("'hmac' needs the name of the header with the signature.", "signature", "header")
        )
    signed = given.get("signed", "{body}")
    unknown = set(_BRACES.findall(signed)) - {"{body}", "{timestamp}", "{id}"}
    if unknown or signed.count("{body}") != 1:
        detail = "'signed' holds {body} once, and may hold {timestamp} and {id}."
        found.append(_problem(detail, "signature", "signed"))
    times = [name for name in ("timestamp_header", "timestamp_prefix") if given.get(name)]
    if len(times) != ("{timestamp}" in signed):
        detail = "A time is signed and found: {timestamp} goes with 'timestamp_header' or 'timestamp_prefix'."
        found.append(_problem(detail, "signature", "signed"))
    if "timestamp_prefix" in times and not given.get("separator"):
        detail = "'timestamp_prefix' goes with the 'separator' between the time and the signature."
        found.append(_problem(detail, "signature", "timestamp_prefix"))
    if ("{id}" in signed) != ("id_header" in given):
        found.append(_problem("{id} goes with 'id_header'.", "signature", "signed"))


def _merged(base: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result


def _problem(detail: str, *path: str) -> Problem:
    return Problem("invalid", detail, pointer(*filter(None, path)))


def _placed(problem: Problem, name: str, given: dict[str, Any]) -> Problem:
    """A problem within a source, as one of the document; in the shared profile if it stands there."""
    where = problem.pointer or ""
    parts = where.split("/")
    if parts[1:2] == ["events"] and parts[3:4] == ["profile"]:
        shared = f"/{'/'.join(parts[3:])}"
        if not _leads_to(given, parts[1:]) and _leads_to(given, parts[3:]):
            where = shared
    return Problem(problem.code, problem.detail, pointer("sources", name) + (where if where != "/" else ""))


def _leads_to(node: Any, parts: list[str]) -> bool:
    for part in parts:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True
