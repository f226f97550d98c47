"""Counts the accepted events and their outcomes, by the marks of the events."""

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.chaos.plan import MARK, Plan, Sending

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEAD_LETTER = "dead_letter"
REPEAT = "duplicate_unique_id"
CONTROL_SECONDS = 60


class Accepted:
    """Records which of a plan's sendings were accepted; for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.marks: set[str] = set()
        self.unanswered: list[Sending] = []
        self.poison: set[str] = set()
        self.poisonous_receipts: set[str] = set()

    def add(self, sending: Sending, receipt: str) -> None:
        with self._lock:
            self.marks.update(sending.marks)
            if sending.poison:
                self.poison.update(sending.marks)
                self.poisonous_receipts.add(receipt)

    def settle(self, arrived: Set[str]) -> None:
        """Counts a request without an answer as accepted, whole, if any of it has arrived."""
        for sending in self.unanswered:
            if not arrived.isdisjoint(sending.marks):
                self.marks.update(sending.marks)

    def is_poison(self, path: str) -> bool:
        """Tells whether a path names an object of the poison."""
        return any(receipt in path for receipt in self.poisonous_receipts)


@dataclass
class Archive:
    """Reads the archived lines, each object once."""

    s3: "S3Client"
    bucket: str
    rejected: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    dead_letters: set[str] = field(default_factory=set)
    _read: set[str] = field(default_factory=set)

    @property
    def marks(self) -> set[str]:
        return self.rejected | self.dead

    def look(self) -> None:
        """Reads the lines that have come since."""
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for key in {found["Key"] for found in page.get("Contents", [])} - self._read:
                content = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
                self.take(content.splitlines())
                self._read.add(key)

    def take(self, lines: Iterable[bytes]) -> None:
        """Counts these lines."""
        for line in lines:
            marks = marks_in(line)
            rejection = json.loads(line)
            if rejection["reason"] == REPEAT:
                continue  # of an event that has its outcome, or is lost
            if rejection["reason"] == DEAD_LETTER:
                self.dead |= marks
                self.dead_letters.add(rejection["id"])
            else:
                self.rejected |= marks


@dataclass(frozen=True)
class Count:
    """Holds the figures at the end."""

    accepted: int
    delivered: int
    rejected: int
    lost: frozenset[str]
    unexpected: frozenset[str]
    duplicated: frozenset[str]
    throttled_by_us: int
    dead_letters: int
    poison: int
    misjudged: frozenset[str]

    @property
    def faults(self) -> list[str]:
        """Lists every rule that does not hold."""
        balanced = self.accepted == self.delivered + self.rejected
        checks = {
            "accepted = delivered + rejected": balanced,
            f"lost {_some(self.lost)}": not self.lost,
            f"never accepted {_some(self.unexpected)}": not self.unexpected,
            f"delivered twice {_some(self.duplicated)}": not self.duplicated,
            "429s caused by us": self.throttled_by_us == 0,
            "dead letters other than the poison": self.dead_letters == self.poison,
            f"delivered or rejected wrongly {_some(self.misjudged)}": not self.misjudged,
        }
        return [name for name, holds in checks.items() if not holds]

    def __str__(self) -> str:
        return (
            f"accepted={self.accepted} delivered={self.delivered} rejected={self.rejected} "
            f"lost={len(self.lost)} duplicated={len(self.duplicated)} "
            f"throttled_by_us={self.throttled_by_us} dead_letters={self.dead_letters} (poison={self.poison})"
        )


def count(plan: Plan, accepted: Accepted, archive: Archive, taken: Counter[str], throttled: int) -> Count:
    """Makes the figures of the events that the fake upstream took (how often each mark) and the archive."""
    delivered = set(taken)
    rejected = archive.marks
    accepted.settle(delivered | rejected)
    should_be_rejected = (plan.bad | accepted.poison) & accepted.marks
    return Count(
        accepted=len(accepted.marks),
        delivered=len(delivered),
        rejected=len(rejected),
        lost=frozenset(accepted.marks - delivered - rejected),
        unexpected=frozenset((delivered | rejected) - accepted.marks),
        duplicated=frozenset(mark for mark, times in taken.items() if times > 1),
        throttled_by_us=throttled,
        dead_letters=len(archive.dead_letters),
        poison=len(accepted.poisonous_receipts),
        misjudged=frozenset(
            (rejected - should_be_rejected)
            | (delivered & should_be_rejected)
            | (archive.dead - accepted.poison)
        ),
    )


def marks_in(content: bytes) -> set[str]:
    return {mark.decode() for mark in MARK.findall(content)}


@dataclass(frozen=True)
class StandIn:
    """Reads the control side of the fake upstream."""

    url: str

    def configure(self, **settings: Any) -> None:
        request = urllib.request.Request(
            f"{self.url}/_standin/settings", data=json.dumps(settings).encode(), method="PUT"
        )
        with urllib.request.urlopen(request, timeout=CONTROL_SECONDS):
            pass

    def faults(self) -> int:
        """Returns how many requests were struck by any fault."""
        with urllib.request.urlopen(f"{self.url}/_standin/requests", timeout=CONTROL_SECONDS) as answer:
            return sum(bool(line["faults"]) for line in json.load(answer))

    def summary(self) -> dict[str, Any]:
        """Returns the counts of its one account."""
        with urllib.request.urlopen(f"{self.url}/_standin/summary", timeout=CONTROL_SECONDS) as answer:
            [account] = json.load(answer)["accounts"].values()
        return dict(account)

    def taken(self) -> Counter[str]:
        """Counts how often each mark was recorded."""
        with urllib.request.urlopen(f"{self.url}/_standin/events", timeout=CONTROL_SECONDS) as answer:
            return Counter(mark.decode() for mark in MARK.findall(answer.read()))


def _some(marks: Iterable[str]) -> str:
    ordered = sorted(marks)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")
