"""Runs seeds, one after the other, with the images that one OS process has."""

import gc
from typing import Any

from tests.simulation.environment import Environment
from tests.simulation.world import BACKGROUND_WORKERS, WORKERS, Result, World, plan

PLACES = {"ingest": 3, "dispatch": WORKERS + BACKGROUND_WORKERS, "reject": 4, "resume": 1}
RUNS_A_COLLECTION = 16  # as collecting takes as long as a part of a run
_runs = 0
_environments: dict[str, list[Environment]] = {}


def environments() -> dict[str, list[Environment]]:
    """Returns the environments of this OS process, whose images are made once."""
    if not _environments:
        for function, count in PLACES.items():
            _environments[function] = [Environment(function, number) for number in range(count)]
        gc.collect()
        gc.freeze()
    return _environments


def simulate(seed: int, **limits: Any) -> Result:
    """Runs one seed. Nothing is collected meanwhile: what collecting ends would end at another moment."""
    gc.disable()
    try:
        return World(plan(seed), environments(), **limits).run()
    finally:
        global _runs  # noqa: PLW0603
        _runs += 1
        gc.enable()
        if _runs % RUNS_A_COLLECTION == 0:
            gc.collect()


class Report:
    """Holds the results of some seeds, small enough to be sent between processes."""

    def __init__(self, result: Result) -> None:
        self.seed = result.seed
        self.broken = str(result.broken) if result.broken else ""
        self.hours = result.hours
        self.events = result.events
        self.met = dict(result.faults.met)
        self.calls = result.counts
        self.exceptions = result.exceptions


def report(seed: int) -> Report:
    """Runs one seed and tells what it came to."""
    return Report(simulate(seed))
