"""Measures everything and writes docs/benchmarks.{md,json,svg}: `python -m benchmarks`."""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import (
    background,
    bad_event_cost,
    cost,
    hotpath,
    rate_left,
    report,
    saturation,
    scale,
    singles,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Measures, prints, writes; the process fails if something could not be measured at all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute; writes nothing to docs")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of tables")
    options = parser.parse_args()

    recorded = json.dumps(measure(quick=options.quick), indent=1)
    results = json.loads(recorded)
    if not options.quick:
        (DOCS / "benchmarks.json").write_text(recorded + "\n")
        (DOCS / "benchmarks.md").write_text(report.markdown(results))
        (DOCS / "benchmarks.svg").write_text(report.svg(results))
    print(recorded if options.json else report.markdown(results))


def measure(*, quick: bool) -> dict[str, Any]:
    """Runs every part, the parts that need a quiet machine first."""
    results: dict[str, Any] = {"machine": machine()}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "hotpath": lambda: hotpath.run(10 if quick else 40),
        "singles": lambda: singles.run(*((500, 1) if quick else (3_000, 5))),
        "saturation": lambda: saturation.run(*((1, 3.0) if quick else (10, 15.0))),
        "waste": bad_event_cost.run,
        "rate_left": rate_left.run,
        "background": lambda: background.run(*(((0.85,), 10**5) if quick else ())),
        "scale": lambda: scale.run(
            *((10**5, (50_000, 10**5)) if quick else (10**6, (10**5, 3 * 10**5, 10**6)))
        ),
    }
    for name, part in parts.items():
        begin = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        results[name] = part()
        print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    results["cost"] = cost.run(_times(results))
    return results


def _times(results: dict[str, Any]) -> cost.Times:
    hot = results["hotpath"]["singles"]
    ingest = {
        name.removesuffix(singles.WITHOUT_AWS): each["p50"]
        for name, each in results["singles"]["warm"].items()
        if name.endswith(singles.WITHOUT_AWS)
    }
    return cost.Times(ingest, hot["reading_seconds"], hot["seconds"] / hot["events"])


def machine() -> dict[str, str]:
    """Describes the machine and the versions in words."""
    names = ("msgspec", "orjson", "zstandard", "boto3", "aws-lambda-powertools", "klaviyo-api", "dtex")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%d}",
        "words": f"{_processor()}, {os.cpu_count()} processors, {platform.system()}",
        "versions": f"Python {platform.python_version()}, Node {_node()}, {versions}",
    }


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    if about.exists():
        for line in about.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _node() -> str:
    try:
        done = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return done.stdout.strip().removeprefix("v")


if __name__ == "__main__":
    main()
