"""Holds that unit tests open no sockets."""

from pytest_socket import disable_socket


def pytest_runtest_setup() -> None:
    """Refuses sockets, but for the pair within an event loop; pytest-socket allows them after the test."""
    disable_socket(allow_unix_socket=True)
