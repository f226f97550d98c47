"""Keeps the accounts of a process, so that a mistake in the accounts document stops nothing that works.

The document is looked at again when the copy is a minute old. Of an account that is not valid now, the last
copy that was stays in use: this process's own, or what the document's version before says.
"""

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from sluice import accounts, runtime
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp, StoredAccounts
from sluice.errors import Misconfigured, Retryable

CACHE_SECONDS: Final = 60.0
STALE_SECONDS: Final = 3_600.0  # a copy is used so long while the document cannot be read
# An ingest key that a broken document has no more may have been revoked, or may be lost by mistake.
MISSING_KEY_SECONDS: Final = 900.0


class DocumentVersion(msgspec.Struct, frozen=True):
    """Holds a version of the document, its ETag, and when it was written (epoch seconds)."""

    content: bytes
    written: float
    etag: str = ""


class Document(Protocol):
    """Reads the accounts document. Its methods may raise `Retryable`."""

    def read(self, *, etag: str) -> DocumentVersion | None:
        """Returns the document, or None if it still is the one with this ETag."""
        ...

    def read_previous(self) -> DocumentVersion:
        """Returns the version before."""
        ...


class AccountsCache:
    """Keeps the accounts of one document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._version: DocumentVersion | None = None
        self._stored = StoredAccounts.empty()  # what is valid in that version
        self._copy: Accounts | None = None
        self._error: Misconfigured | None = None
        self._looked = self._read = -STALE_SECONDS

    def accounts(self, report: Callable[[str], None]) -> Accounts:
        """Returns the newest copy of each account that is valid.

        At each look `report` gets every mistake of the stored document, or why it cannot be read. Raises
        `Misconfigured` or `Retryable` while there is no copy of any account.
        """
        if runtime.monotonic() - self._looked >= CACHE_SECONDS:
            self._look(report)
        if self._copy is None:
            raise self._error or Retryable("the accounts document cannot be read")
        return self._copy

    def _look(self, report: Callable[[str], None]) -> None:
        now = runtime.monotonic()
        try:
            version = self._document.read(etag=self._version.etag if self._version else "")
        except Retryable as error:
            report(str(error))
            if self._copy is None or now - self._read >= STALE_SECONDS:
                raise
            self._looked = now
            return
        self._looked = self._read = now
        if version is not None:
            self._version, self._stored = version, accounts.read(version.content)
        for flaw in self._stored.flaws:
            report(flaw)
        copy = self._completed() if self._stored.flaws else self._stored.accounts
        if copy.unusable and not (copy.accounts or copy.pipeless):
            self._error = Misconfigured(self._stored.flaws[0])
            return
        self._copy = copy

    def _completed(self) -> Accounts:
        """Returns the accounts of a document with mistakes, completed by the last copies of the others."""
        version = self._version
        if version is None:
            return self._stored.accounts
        last = self._copy or self._previous()
        keeps_missing_keys = runtime.time() - version.written < MISSING_KEY_SECONDS
        return with_kept(self._stored, last, version.content, keeps_missing_keys=keeps_missing_keys)

    def _previous(self) -> Accounts:
        try:
            return accounts.read(self._document.read_previous().content).accounts
        except Retryable:
            return Accounts(())


def with_kept(
    stored: StoredAccounts, last: Accounts, content: bytes, *, keeps_missing_keys: bool
) -> Accounts:
    """Returns the stored accounts, with the last copy of each that is not valid now.

    The copy keeps the ingest keys that still stand in the document, and for a while the others.
    """
    new = stored.accounts
    known = {each.id for each in new.every()}
    taken = {key.sha256 for each in new.every() for key in each.keys}
    flawed = frozenset(stored.flawed)
    any_may_be_meant = not stored.is_readable or None in flawed

    def kept[Kind: (KlaviyoAccount, PipelessApp)](copies: tuple[Kind, ...]) -> tuple[Kind, ...]:
        found: list[Kind] = []
        for copy in copies:
            if copy.id in known or not (any_may_be_meant or copy.id in flawed):
                continue
            keys = tuple(
                key
                for key in copy.keys
                if key.sha256 not in taken and (keeps_missing_keys or key.sha256.encode() in content)
            )
            found.append(msgspec.structs.replace(copy, keys=keys))
        return tuple(found)

    klaviyo, pipeless = kept(last.accounts), kept(last.pipeless)
    missing = len(stored.flawed) if stored.is_readable else 1
    return Accounts(
        new.accounts + klaviyo,
        new.pipeless + pipeless,
        stored.flaws,
        max(0, missing - len(klaviyo) - len(pipeless)),
    )
