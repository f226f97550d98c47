"""Provides fixtures for tests of more than one function."""

from collections.abc import Iterator

import pytest

from tests.support import aws_stack
from tests.support.ingest_app import Front, running


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[aws_stack.Cloud]:
    """Makes an AWS account in process."""
    with aws_stack.cloud(monkeypatch) as account:
        yield account


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Runs the ingest function and its surroundings."""
    with running(monkeypatch) as started:
        yield started
