"""What tests of more than one function share."""

from collections.abc import Iterator

import pytest

from tests import lambdas
from tests.front import Front, running


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[lambdas.Cloud]:
    """An AWS account in process."""
    with lambdas.cloud(monkeypatch) as account:
        yield account


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """The ingest function and what is around it."""
    with running(monkeypatch) as started:
        yield started
