"""Keeps the accounts of a process, so that a mistake in the accounts document stops nothing that works.

The copy is read again when it is a minute old. Of an account that is not valid now, the last copy that was
stays in use: this process's own, or what the version of the secret before says.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from sluice import accounts, runtime
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp, StoredAccounts
from sluice.errors import Misconfigured, Retryable

CACHE_SECONDS: Final = 60.0
STALE_SECONDS: Final = 3_600.0  # a copy is used so long while the secret cannot be read
# An ingest key that a broken document has no more may have been revoked, or may be lost by mistake.
MISSING_KEY_SECONDS: Final = 900.0


class SecretVersion(msgspec.Struct, frozen=True):
    """Holds the text of a secret's version, its id, and when it was written (epoch seconds)."""

    text: str
    written: float
    id: str = ""


class AccountsCache:
    """Keeps the accounts of one secret.

    `fetch` returns the secret's current version, or the one before if `previous`. It may raise `Retryable`.
    """

    def __init__(self, fetch: Callable[[bool], SecretVersion]) -> None:
        self._fetch = fetch
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
            raise self._error or Retryable("the accounts secret cannot be read")
        return self._copy

    def _look(self, report: Callable[[str], None]) -> None:
        now = runtime.monotonic()
        try:
            version = self._fetch(False)
        except Retryable as error:
            report(str(error))
            if self._copy is None or now - self._read >= STALE_SECONDS:
                raise
            self._looked = now
            return
        self._looked = self._read = now
        stored = accounts.read(version.text)
        copy = self._completed(stored, version) if stored.flaws else stored.accounts
        for flaw in stored.flaws:
            report(flaw)
        if copy.unusable and not (copy.accounts or copy.pipeless):
            self._error = Misconfigured(stored.flaws[0])
            return
        self._copy = copy

    def _completed(self, stored: StoredAccounts, version: SecretVersion) -> Accounts:
        """Returns the accounts of a document with mistakes, completed by the last copies of the others."""
        last = self._copy or self._previous()
        keeps_missing_keys = runtime.time() - version.written < MISSING_KEY_SECONDS
        return with_kept(stored, last, version.text, keeps_missing_keys=keeps_missing_keys)

    def _previous(self) -> Accounts:
        try:
            return accounts.read(self._fetch(True).text).accounts
        except Retryable:
            return Accounts(())


def with_kept(stored: StoredAccounts, last: Accounts, text: str, *, keeps_missing_keys: bool) -> Accounts:
    """Returns the stored accounts, with the last copy of each that is not valid now.

    The copy keeps the ingest keys that still stand in the document's text, and for a while the others.
    """
    new = stored.accounts
    known = {each.id for each in new.every()}
    taken = {key.sha256 for each in new.every() for key in each.keys}
    any_may_be_meant = not stored.is_readable or None in stored.flawed

    def kept[Kind: (KlaviyoAccount, PipelessApp)](copies: tuple[Kind, ...]) -> tuple[Kind, ...]:
        found: list[Kind] = []
        for copy in copies:
            if copy.id in known or not (any_may_be_meant or copy.id in stored.flawed):
                continue
            keys = tuple(
                key
                for key in copy.keys
                if key.sha256 not in taken and (keeps_missing_keys or key.sha256 in text)
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
