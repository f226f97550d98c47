"""Delivers webhooks to a source, and holds in memory what that reaches."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sluice import message
from sluice.message import Body
from sluice.rejection import Rejection
from sluice.webhooks import accept
from sluice.webhooks.accept import Delivered
from sluice.webhooks.object_records import Identity, ObjectRecord
from sluice.webhooks.sources import Source
from tests.support.signing import SECRETS, SIGNERS

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class MemoryRecords:
    """Keeps records as the state table does: the first person of a metric stays."""

    people: dict[str, dict[str, Identity]] = field(default_factory=dict)
    last: dict[str, Identity] = field(default_factory=dict)
    stored: dict[str, set[bytes]] = field(default_factory=dict)

    def open(self, *, object_id: str, people: Mapping[str, Identity]) -> ObjectRecord:
        kept = self.people.setdefault(object_id, {})
        for metric, found in people.items():
            kept.setdefault(metric, found)
            self.last[object_id] = found
        stored = frozenset(self.stored.get(object_id, ()))
        return ObjectRecord(dict(kept), self.last.get(object_id), stored)

    def mark_stored(self, *, object_id: str, event_ids: Collection[bytes]) -> None:
        self.stored.setdefault(object_id, set()).update(event_ids)


class NoRecords:
    """Plays records while the state table is out of reach."""

    def open(self, *, object_id: str, people: Mapping[str, Identity]) -> ObjectRecord:
        return ObjectRecord()

    def mark_stored(self, *, object_id: str, event_ids: Collection[bytes]) -> None:
        return


@dataclass
class Receiver:
    """Accepts deliveries for a source, and keeps what becomes of them."""

    source: Source
    records: MemoryRecords | NoRecords = field(default_factory=MemoryRecords)
    events: list[dict[str, Any]] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)

    def deliver(self, payload: object, headers: Mapping[str, str] | None = None) -> Delivered:
        """Signs and accepts a payload, given as bytes or as what JSON makes bytes of."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        secret = SECRETS[self.source.scheme]
        signed = SIGNERS[self.source.scheme](secret, body, NOW)
        return accept.accept(self.source, {**(headers or {}), **signed}, body, ports=self, now=NOW)

    def secret(self, *, name: str) -> str:
        return SECRETS[self.source.scheme]

    def reject(self, *, rejections: Sequence[Rejection]) -> None:
        self.rejections.extend(rejections)

    def store(self, *, body: Body, account_id: str) -> None:
        stored = message.decode(body.text, lambda _: body.claim_bytes)
        assert isinstance(stored, message.Message)
        for entry in stored.entries:
            for event in entry.events:
                profile = {"profile": {"data": json.loads(bytes(entry.profile))}}
                self.events.append(json.loads(bytes(event.attributes)) | profile)


def metric(event: dict[str, Any]) -> str:
    """Gives the name of the metric of an event."""
    name: str = event["metric"]["data"]["attributes"]["name"]
    return name


def person(event: dict[str, Any]) -> str:
    """Gives the strongest identifier of the profile of an event."""
    profile = event["profile"]["data"]
    given = {"id": profile.get("id"), **profile["attributes"]}
    names = ("id", "email", "phone_number", "external_id", "anonymous_id")
    return next(str(given[name]) for name in names if given.get(name))


def as_klaviyo_counts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives the events that count: a repeat of profile, metric and unique_id does not."""
    kept = {(person(each), metric(each), each["unique_id"]): each for each in reversed(events)}
    return list(kept.values())
