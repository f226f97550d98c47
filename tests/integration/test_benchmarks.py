"""Tests that the parts of the benchmarks work on the gateway as it is; it measures nothing."""

import os

import pytest

from benchmarks import bad_event_cost, fake_aws, first_webhook, scale, singles
from sluice.aws import clients, secrets
from tests.support.aws_stack import forget


def forget_clients() -> None:
    """Forgets clients, because they are bound to the address in the environment when they were made."""
    for made in (
        clients.sqs,
        clients.s3,
        clients.dynamodb,
        clients.low_latency_dynamodb,
        clients.low_latency_s3,
        secrets.client,
    ):
        made.cache_clear()
    forget()


def test_ingest_is_measured_with_every_request_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_aws.serving() as url:
        for name in [name for name in os.environ if name.startswith("SLUICE_")]:
            monkeypatch.delenv(name)
        for name, value in fake_aws.environment(url).items():
            monkeypatch.setenv(name, value)
        forget_clients()
        try:
            rows = singles.warm(8)
        finally:
            forget_clients()  # they know an address that nobody listens at any more

    assert rows
    assert all(0 < row["p50"] <= row["p99"] for row in rows.values())


def test_the_first_webhook_of_a_process_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    given = singles.requests()
    with fake_aws.serving() as url:
        for name, value in fake_aws.environment(url).items():
            monkeypatch.setenv(name, value)
        rows = first_webhook.run(given[singles.WEBHOOK], given[singles.SINGLE], 1)

    assert rows.keys() == {first_webhook.NEW, first_webhook.SERVING}
    assert all(0 < row[first_webhook.STORED] < row[first_webhook.VALIDATED] for row in rows.values())


def test_a_backlog_is_drained_whole() -> None:
    drained = scale.drain(3_000)

    assert drained["delivered"] == 3_000
    assert drained["throttles"] == 0


def test_naming_what_is_bad_costs_one_request() -> None:
    assert bad_event_cost.ours(10, "all")["requests"] == 2
    assert bad_event_cost.bisected(0)["requests"] == 1
