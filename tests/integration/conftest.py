"""What tests of more than one function share."""

from collections.abc import Iterator

import pytest

from tests import lambdas


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[lambdas.Cloud]:
    """An AWS account in process."""
    with lambdas.cloud(monkeypatch) as account:
        yield account
