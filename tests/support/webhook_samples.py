"""Delivers the sample payloads of webhooks as their senders would."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.webhooks import mapping, presets, sources
from sluice.webhooks.mapping import Mapped
from sluice.webhooks.signatures import DELIVERY_IDS, TOPICS
from sluice.webhooks.sources import Source
from tests.support.factories import SITE_ID

SAMPLES = Path("tests/webhooks")


@dataclass(frozen=True)
class Sample:
    """Holds one sample payload: its sender, its topic, and its bytes."""

    preset: str
    name: str
    body: bytes

    @property
    def payload(self) -> Any:
        return json.loads(self.body)

    @property
    def scheme(self) -> str:
        scheme: str = presets.load(self.preset)["signature"]["scheme"]
        return scheme

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers beside the signature, by lower-case name."""
        topic = self.name.partition("-")[0].replace("_", "/")
        of = presets.load(self.preset)
        named = {
            _header(of.get("topic", TOPICS.get(self.scheme, ""))): topic,
            _header(of.get("delivery_id", DELIVERY_IDS.get(self.scheme, ""))): f"delivery-of-{self.name}",
        }
        return {header: value for header, value in named.items() if header}

    @property
    def expected(self) -> Path:
        return SAMPLES / self.preset / "expected" / f"{self.name}.json"


def _header(expression: str) -> str:
    """Returns the header that an expression reads, or nothing if it reads the payload."""
    found = re.fullmatch(r"header\('([a-z-]+)'\)", expression)
    return found[1] if found else ""


def samples() -> list[Sample]:
    """Returns all samples."""
    paths = sorted(SAMPLES.glob("*/*.json"))
    return [Sample(path.parent.name, path.stem, path.read_bytes()) for path in paths]


def sample(preset: str, name: str) -> Sample:
    return Sample(preset, name, (SAMPLES / preset / f"{name}.json").read_bytes())


def document(**changes: Any) -> dict[str, Any]:
    """Makes a sources document of one source, "shop", for Shopify unless changed; None removes a field."""
    source = {"account": SITE_ID, "secret": "shop", "preset": "shopify", **changes}
    return {"sources": {"shop": {name: value for name, value in source.items() if value is not None}}}


def own(**event: Any) -> dict[str, Any]:
    """Makes a sources document of one source that has one mapping, "seen", of its own."""
    texts = {"metric": "Seen", "profile": {"email": "email"}, **event}
    signature = {"scheme": "bearer"}
    return document(preset=None, signature=signature, events={"seen": texts})


def source(written: dict[str, Any]) -> Source:
    """Returns the source of a document that has one."""
    [found] = sources.decode(json.dumps(written).encode()).sources.values()
    return found


def mapped(of: Source, payload: object, headers: dict[str, str] | None = None) -> Mapped:
    """Maps a payload to its events."""
    body = json.dumps(payload).encode()
    delivery = mapping.identify(of.delivery_id, of.topic, payload, body, headers or {})
    return mapping.events(of.mappings, payload, delivery)
