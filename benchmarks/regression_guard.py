"""Compares the speed of the hot path, beside the baseline's at the same moment, with the recorded one.

It also compares the time an event takes among many with its time among few. Absolute times say more about the
machine than about a change. So only ratios are compared, with a margin that a busy machine does not use up.
`python -m benchmarks.regression_guard` records them anew.
"""

import json
from pathlib import Path
from typing import Final

from benchmarks import corpus, gateway, measure, scale
from benchmarks.baseline import floor

MARGIN: Final = 1.4
_RECORDED: Final = Path(__file__).parent / "regression_guard.json"
_ROUNDS: Final = 20
_MANY: Final = 20_000
_ALL: Final = "microseconds_with_collector"


def ratios() -> dict[str, float]:
    """Returns our times over the time of parsing and writing the same bytes once, in a short run.

    The ratio of packing is of an event among many to the same event among a thousand.
    """
    body = corpus.ungrouped(corpus.orders())
    queued = [gateway.ingest(body)]
    seconds = measure.best(
        {
            "floor": lambda: floor(body),
            "ingest": lambda: gateway.ingest(body),
            "dispatch": lambda: gateway.dispatch(queued),
        },
        _ROUNDS,
    )
    packing = scale.pack_times((corpus.EVENTS, _MANY))
    return {
        **{name: seconds[name] / seconds["floor"] for name in ("ingest", "dispatch")},
        "packing": packing[_MANY][_ALL] / packing[corpus.EVENTS][_ALL],
    }


def recorded() -> dict[str, float]:
    """Returns the recorded ratios."""
    found: dict[str, float] = json.loads(_RECORDED.read_text())
    return found


def slower(now: dict[str, float]) -> list[str]:
    """Lists in words every part that is slower than recorded."""
    return [
        f"{name} takes {now[name]:.2f} times as long; recorded is {limit:.2f}, allowed {limit * MARGIN:.2f}"
        for name, limit in recorded().items()
        if now[name] > limit * MARGIN
    ]


if __name__ == "__main__":
    ratios_now = {name: round(ratio, 2) for name, ratio in ratios().items()}
    _RECORDED.write_text(json.dumps(ratios_now, indent=2) + "\n")
