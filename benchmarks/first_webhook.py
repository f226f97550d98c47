"""Measures the first webhook of a process, with a sources document as it is stored and without its form.

`python -m benchmarks.first_webhook` is that process: it reads the requests to serve from standard input, the
webhook last, and prints milliseconds of processor time, which a busy machine spoils least. With `--validate`
the normalised form does not count, so the document is validated with pydantic.
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
STORED: Final = "stored"
VALIDATED: Final = "validated"
_VALIDATE: Final = "--validate"


def run(webhook: dict[str, Any], other: dict[str, Any], starts: int) -> dict[str, dict[str, float]]:
    """Returns medians of several processes. The environment says where AWS is."""
    served = {NEW: [webhook], SERVING: [other, webhook]}
    return {
        name: {STORED: _median(requests, starts), VALIDATED: _median(requests, starts, _VALIDATE)}
        for name, requests in served.items()
    }


def _median(requests: Sequence[dict[str, Any]], starts: int, *options: str) -> float:
    return statistics.median(_in_a_process(requests, *options) for _ in range(starts))


def _in_a_process(requests: Sequence[dict[str, Any]], *options: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_webhook", *options],
        input=json.dumps(requests),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ,
    )
    return float(done.stdout)


def measure(requests: Sequence[dict[str, Any]], *, validates: bool) -> float:
    """Serves the requests in this process, and measures the last of them."""
    handler = ingest_handler.load()
    *others, webhook = requests
    for request in others:
        handler(request)
    begin = time.process_time()
    if validates:
        vars(importlib.import_module("sluice.webhooks.normalised"))["find"] = lambda _: None
    handler(webhook)
    milliseconds = (time.process_time() - begin) * 1_000
    if validates != ("pydantic" in sys.modules):
        raise AssertionError("pydantic is loaded where the document is validated, and nowhere else")
    return milliseconds


if __name__ == "__main__":
    print(measure(json.load(sys.stdin), validates=_VALIDATE in sys.argv))
