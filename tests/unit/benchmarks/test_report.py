"""Tests that the report follows from the recorded figures, and that the README agrees with them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hotpath, report, scale

DOCS = Path("docs")
RECORDED: dict[str, Any] = json.loads((DOCS / "benchmarks.json").read_text())
README = " ".join(Path("README.md").read_text().split())


def said(pattern: str) -> list[float]:
    """Returns the numbers in the one place of the README that reads like this."""
    [found] = re.findall(pattern.replace("#", r"([\d,.]*\d)"), README)
    return [float(each.replace(",", "")) for each in ([found] if isinstance(found, str) else found)]


@pytest.mark.parametrize(("suffix", "write"), [("md", report.markdown), ("svg", report.svg)])
def test_report_is_made_from_what_was_recorded(suffix: str, write: Any) -> None:
    assert (DOCS / f"benchmarks.{suffix}").read_text() == write(RECORDED)


def test_readme_says_how_fast_a_backlog_is_drained() -> None:
    backlog = RECORDED["scale"]["backlogs"][-1]

    minutes, requests = said(
        r"A backlog of a million events reaches Klaviyo in # minutes, with # requests and no 429"
    )

    assert (backlog["events"], backlog["throttles"]) == (1_000_000, 0)
    assert (minutes, requests) == (round(backlog["simulated_seconds"] / 60, 1), backlog["requests"])


def test_readme_says_what_bad_events_cost() -> None:
    waste = RECORDED["waste"]

    [unnamed] = said(r"with one more request, or with # more if Klaviyo does not say which")

    assert waste["ours, all named"]["1"]["requests"] == 1 + 1
    assert waste["ours, none named"]["1"]["requests"] == 1 + unnamed


def test_readme_says_what_a_million_events_cost() -> None:
    ways = RECORDED["cost"]["ways"]
    single, bulk = ways["`POST /api/events`"], ways["`POST /api/event-bulk-create-jobs`, 1,000 events"]

    assert said(r"\$# for a million events sent one by one, \$# in bulk requests") == [
        round(single["total"], 2),
        round(bulk["total"], 2),
    ]


def test_readme_says_no_more_than_was_measured_of_the_hot_path() -> None:
    hot = RECORDED["hotpath"]
    rate = hot["ungrouped"]["events_per_second"]
    [segment] = [each for name, each in hot["peers"].items() if name.startswith("Segment's")]

    [claimed] = said(r"One core takes # events a second .* about twice as many as Segment's")

    assert claimed <= rate < 1.3 * claimed
    assert 1.75 < rate / segment["events_per_second"] < 3


def test_what_is_done_for_an_event_does_not_grow_with_their_number() -> None:
    messages = list(scale.bulk_messages(10))

    few, many = scale.pack_instructions(messages[:1]), scale.pack_instructions(messages)

    assert 0 < many <= 1.01 * few


def test_why_node_ended_is_what_it_says_and_not_its_code() -> None:
    written = """node:internal/modules/cjs/loader:1210
  const err = new Error(message);
              ^

Error: Cannot find module 'cross-fetch'
Require stack:
- /benchmarks/node/peers.mjs
    at Module._resolveFilename (node:internal/modules/cjs/loader:1207:15) {
  code: 'MODULE_NOT_FOUND',
"""

    assert hotpath.node_error(written) == "Error: Cannot find module 'cross-fetch'"
    assert hotpath.node_error("Killed") == "it ended without an answer"
