"""Describes the result of a run, as a table, as JSON and as the last line."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from devstack.demo.proof import Proof

JOB_EVENTS = 1_000

type Row = tuple[str, str, str]


@dataclass(frozen=True)
class Result:
    """Holds the proof, and the figures of the run.

    requests: the callers' requests that were accepted. repeats: accepted events that had been accepted
    before. refused: answers to invalid requests. jobs: the number of events of each job that the upstream
    took. answers: the upstream's answers, by status. queued: messages left when nothing changed any more.
    replayed: rejected events that were mended, sent again, and arrived; None before that was tried.
    """

    proof: Proof
    requests: int
    repeats: int
    refused: Mapping[str, int]
    jobs: Sequence[int]
    answers: Mapping[str, int]
    seconds: float
    queued: int
    replayed: int | None = None

    @property
    def succeeded(self) -> bool:
        """Tells whether nothing is lost, doubled or still under way, and a mended event arrived."""
        return self.proof.holds and not self.queued and self.replayed in {None, 1}

    @property
    def verdict(self) -> str:
        """Returns what the figures mean, in a sentence."""
        if self.succeeded:
            return (
                f"each of {self.proof.accepted:,} accepted events has exactly one outcome: delivered once"
                " with its values intact, or archived with a reason"
            )
        if self.proof.holds and not self.queued:
            return f"one rejected event was mended and sent again, and {self.replayed} arrived"
        if self.queued:
            return f"nothing moves any more, and {self.queued:,} messages are still queued"
        found = self.proof
        return (
            f"of {found.accepted:,} accepted events {found.lost:,} are lost and {found.duplicated:,} arrived"
            f" more than once; {found.stray:,} events have an outcome that they should not have"
        )

    @property
    def fill(self) -> float:
        """Returns how full the jobs are, in percent of their limit."""
        return 100 * self.events_per_job / JOB_EVENTS

    @property
    def events_per_job(self) -> float:
        return sum(self.jobs) / len(self.jobs) if self.jobs else 0.0

    @property
    def last_line(self) -> str:
        found = self.proof
        return (
            f"demo: accepted={found.accepted} delivered={found.delivered} rejected={found.rejected}"
            f" lost={found.lost} duplicated={found.duplicated} jobs={len(self.jobs)} fill={self.fill:.0f}%"
            f" replayed={self.replayed or 0}"
        )

    def document(self) -> dict[str, Any]:
        """Returns all of it, for JSON."""
        return {
            **asdict(self),
            "events_per_job": round(self.events_per_job, 1),
            "fill_percent": round(self.fill, 1),
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> list[Row]:
        """Returns rows of a name, a figure and its meaning; a fault is named only if it happened."""
        found = self.proof
        rows = [
            (
                "accepted",
                found.accepted,
                f"{found.delivered:,} delivered + {found.rejected:,} rejected + {found.lost:,} lost",
            ),
            ("delivered", found.delivered, "with every value as it was sent"),
            ("rejected", found.rejected, _counted(found.reasons)),
            ("lost", found.lost, ""),
            ("duplicated", found.duplicated, ""),
            ("altered", len(found.altered), "lost, because what arrived differs: " + _fields(found.altered)),
            ("stray", found.stray, "arrived or archived, and should not have"),
            ("still queued", self.queued, "and nothing moves any more"),
            ("repeats", self.repeats, "accepted a second time, delivered once"),
            ("refused at once", sum(self.refused.values()), _counted(self.refused)),
            ("replayed", self.replayed or 0, "mended by an operator, and arrived"),
            ("jobs issued", len(self.jobs), "of " + ", ".join(map(str, self.jobs)) + " events"),
        ]
        return [
            *((name, f"{figure:,}", note) for name, figure, note in rows if figure or name not in _ALARMING),
            ("events per job", f"{self.events_per_job:,.1f}", f"{self.fill:.1f}% of {JOB_EVENTS:,}"),
            (
                "requests sent on",
                f"{sum(self.answers.values()):,}",
                f"for {self.requests:,} taken in: {_counted(self.answers, ', ')}",
            ),
            ("seconds", f"{self.seconds:.1f}", "from the first request to the last outcome"),
        ]


_ALARMING = {"altered", "stray", "still queued"}


def _counted(reasons: Mapping[str, int], between: str = "\n") -> str:
    return between.join(f"{count} x {reason}" for reason, count in reasons.items())


def _fields(altered: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(sorted({field for fields in altered.values() for field in fields}))
