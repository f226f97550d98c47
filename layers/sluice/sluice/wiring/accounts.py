"""Builds a process's copy of the accounts, and of the private keys that it needs."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import msgspec

from sluice import accounts
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp
from sluice.accounts_cache import AccountsCache, DocumentVersion
from sluice.aws import s3, secrets
from sluice.errors import Retryable
from sluice.private_keys import PrivateKeysCache


def load(bucket: str, report: Callable[[str], None]) -> Accounts:
    """Returns the accounts of a configuration bucket. `report` gets what is wrong with the document."""
    return _cache(bucket).accounts(report)


def private_key(secrets_prefix: str, account: KlaviyoAccount | PipelessApp) -> str:
    """Returns the key to call an account's upstream with; raises `Retryable` if it cannot be had.

    `secrets_prefix` begins the names of the secrets of private keys.
    """
    return _private_keys(secrets_prefix).find(account)


def read_document(bucket: str) -> DocumentVersion:
    """Reads the document as it is now; without one there are no accounts. Raises `Retryable`."""
    with _reading():
        etag, content = s3.get_object(bucket, accounts.KEY) or ("", accounts.EMPTY)
    return DocumentVersion(content, 0.0, etag)


def forget() -> None:
    """Empties the copies."""
    _cache.cache_clear()
    _private_keys.cache_clear()


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Says of what cannot be read that it is the accounts document."""
    try:
        yield
    except Retryable as error:
        raise Retryable("the accounts document cannot be read") from error.__cause__


class _Document(msgspec.Struct, frozen=True):
    bucket: str

    def read(self, *, etag: str) -> DocumentVersion | None:
        with _reading():
            found = s3.get_version_if_changed(self.bucket, accounts.KEY, etag)
        if found is None:
            return None
        if not found.etag:
            # Nobody has written it yet, or somebody deleted it. The latter must not turn every caller away.
            raise Retryable("there is no accounts document: sluicectl accounts add writes one")
        return DocumentVersion(found.content, found.written, found.etag)

    def read_previous(self) -> DocumentVersion:
        with _reading():
            found = s3.get_previous_version(self.bucket, accounts.KEY)
        if found is None:
            raise Retryable("the accounts document has no version before")
        return DocumentVersion(found.content, found.written, found.etag)


@functools.cache
def _cache(bucket: str) -> AccountsCache:
    return AccountsCache(_Document(bucket))


@functools.cache
def _private_keys(prefix: str) -> PrivateKeysCache:
    return PrivateKeysCache(
        lambda name: secrets.read_version(prefix + name, f"the secret {prefix}{name} cannot be read").text
    )
