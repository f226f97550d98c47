"""Tests the counts of calls behind the cost of a million events."""

from typing import Any

import pytest

from benchmarks import cost, singles

MILLION = 1_000_000
KINDS = (
    singles.SINGLE,
    singles.BULK,
    singles.CLIENT,
    singles.CLIENT_BULK,
    singles.WEBHOOK,
    singles.PIPELESS,
)


@pytest.fixture(scope="module")
def ways() -> dict[str, Any]:
    found: dict[str, Any] = cost.run(cost.Times(dict.fromkeys(KINDS, 1.0), 2e-5, 8e-6))["ways"]
    return found


def counts(ways: dict[str, Any], start: str) -> dict[str, float]:
    [found] = [way["counts"] for name, way in ways.items() if name.removeprefix("`POST ").startswith(start)]
    return dict(found)


def test_a_single_event_is_a_request_and_a_message(ways: dict[str, Any]) -> None:
    found = counts(ways, "/api/events")

    assert (found["api_requests"], found["messages"]) == (MILLION, MILLION)
    assert found["sqs_requests"] == 1_200_000
    assert (found["upstream_requests"], found["writes"]) == (1_000, 1_000)


def test_a_bulk_request_is_a_message_with_a_receipt(ways: dict[str, Any]) -> None:
    found = counts(ways, "/api/event-bulk-create-jobs")

    assert (found["api_requests"], found["messages"]) == (1_000, 1_000)
    # A turn, the receipt, and its item with a thousand places, which is between 3 and 4 KB.
    assert found["writes"] == 1_000 * (1 + 1 + 4)


def test_what_producers_bring_asks_nothing_of_ingest(ways: dict[str, Any]) -> None:
    producers = {name: way for name, way in ways.items() if "POST" not in name}

    assert {name.partition(" ")[0].rstrip(",") for name in producers} == {
        "SendMessage",
        "SendMessageBatch",
        "SNS",
        "EventBridge",
        "S3",
    }
    for way in producers.values():
        assert way["dollars"]["API Gateway"] == way["dollars"]["ingest"] == 0
        assert way["total"] == sum(way["dollars"].values())


def test_lines_of_an_object_travel_a_hundred_together(ways: dict[str, Any]) -> None:
    found = counts(ways, "S3")

    assert (found["objects"], found["messages"]) == (10, MILLION / 100 + 10)


def test_pipeless_is_called_once_for_ten_events(ways: dict[str, Any]) -> None:
    found = counts(ways, "/v1/apps")

    assert found["upstream_requests"] == MILLION / 10
    assert found["dispatch_seconds"] == pytest.approx(MILLION / 10 / 120 * 60, rel=0.01)
