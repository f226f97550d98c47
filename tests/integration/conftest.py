"""What tests of more than one function share."""

from collections.abc import Iterator

import pytest

from tests.support import aws_stack
from tests.support.ingest_app import Front, running


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[aws_stack.Cloud]:
    """An AWS account in process."""
    with aws_stack.cloud(monkeypatch) as account:
        yield account


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """The ingest function and what is around it."""
    with running(monkeypatch) as started:
        yield started
