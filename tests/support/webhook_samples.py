"""Delivers the sample payloads of webhooks as their senders would."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.webhooks import mapping, sources
from sluice.webhooks.mapping import Mapped
from sluice.webhooks.sources import Source
from tests.support.factories import SITE_ID

SAMPLES = Path("tests/webhooks")
# The headers that say what a payload is; which topic, the name of its file says.
_TOPICS = {"shopify": "x-shopify-topic", "woocommerce": "x-wc-webhook-topic"}
_DELIVERY_IDS = {"shopify": "x-shopify-webhook-id", "woocommerce": "x-wc-webhook-delivery-id"}


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
    def headers(self) -> dict[str, str]:
        """Returns the headers beside the signature, by lower-case name."""
        if self.preset == "stripe":
            return {}
        topic = self.name.partition("-")[0].replace("_", "/")
        return {_TOPICS[self.preset]: topic, _DELIVERY_IDS[self.preset]: f"delivery-of-{self.name}"}

    @property
    def expected(self) -> Path:
        return SAMPLES / self.preset / "expected" / f"{self.name}.json"


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
