"""Holds that a handler only turns an event into a call and a result into an answer."""

from pathlib import Path

import pytest

MAX_LINES = 150
HANDLERS = sorted(Path("functions").glob("*/app.py"))


@pytest.mark.parametrize("handler", HANDLERS, ids=str)
def test_a_handler_is_short(handler: Path) -> None:
    assert len(handler.read_text().splitlines()) <= MAX_LINES


def test_there_are_handlers() -> None:
    assert len(HANDLERS) >= 5
