"""Measures the first webhook of a process, and the part of it that comes of pydantic.

`python -m benchmarks.first_webhook` is that process: it reads the requests to serve from standard input, the
webhook last, and prints milliseconds of processor time, which a busy machine spoils least.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import ingest_handler

NEW: Final = "in a process that has just started"
SERVING: Final = "in a process that has served another request"
MODULES: Final = "mapping", "presets", "signatures"  # what the declaration of sources stands on


def run(webhook: dict[str, Any], other: dict[str, Any], starts: int) -> dict[str, dict[str, float]]:
    """Returns medians of several processes. The environment says where AWS is."""
    served = {NEW: [webhook], SERVING: [other, webhook]}
    return {name: _medians(requests, starts) for name, requests in served.items()}


def _medians(requests: Sequence[dict[str, Any]], starts: int) -> dict[str, float]:
    found = [_in_a_process(requests) for _ in range(starts)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _in_a_process(requests: Sequence[dict[str, Any]]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_webhook"],
        input=json.dumps(requests),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ,
    )
    times: dict[str, float] = json.loads(done.stdout)
    return times


def measure(requests: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Serves the requests in this process, and measures the last of them."""
    handler = ingest_handler.load()
    *others, webhook = requests
    for request in others:
        handler(request)
    begin = time.process_time()
    for module in MODULES:
        importlib.import_module(f"sluice.webhooks.{module}")
    before = time.process_time()
    # All that pydantic costs but reading one document, which takes a millisecond.
    declared = importlib.import_module("sluice.webhooks.source_config")
    declared.SourcesConfig.model_rebuild(force=True)
    after = time.process_time()
    handler(webhook)
    return {"all": (time.process_time() - begin) * 1_000, "pydantic": (after - before) * 1_000}


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
