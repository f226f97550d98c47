"""Builds a process's copy of the accounts document."""

import functools
from collections.abc import Callable

from sluice.accounts import Accounts
from sluice.accounts_cache import AccountsCache
from sluice.aws import secrets


def load(secret: str, report: Callable[[str], None]) -> Accounts:
    """Returns the accounts of a secret, by its name or ARN. `report` gets what is wrong with it."""
    return _cache(secret).accounts(report)


def forget() -> None:
    """Empties the copies."""
    _cache.cache_clear()


@functools.cache
def _cache(secret: str) -> AccountsCache:
    return AccountsCache(
        lambda previous: secrets.read_version(secret, "the accounts secret cannot be read", previous=previous)
    )
