"""Checks that a document without its normalised form makes the first webhook of a process little slower."""

import pytest

from benchmarks import fake_aws, first_webhook, singles

ALLOWED = 1.5  # times what it takes with the form


def test_the_first_webhook_of_a_process_takes_little_longer_for_validating(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = singles.requests()

    def ratio() -> float:
        times = first_webhook.run(given[singles.WEBHOOK], given[singles.SINGLE], 3)[first_webhook.NEW]
        return times[first_webhook.VALIDATED] / times[first_webhook.STORED]

    with fake_aws.serving() as url:
        for name, value in fake_aws.environment(url).items():
            monkeypatch.setenv(name, value)
        # A busy machine may spoil one run, but not three.
        assert any(ratio() <= ALLOWED for _ in range(3))
