"""Tests that a mistake in the accounts document stops nothing that works."""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from sluice import accounts_cache, runtime
from sluice.accounts import Accounts
from sluice.accounts_cache import AccountsCache, SecretVersion
from sluice.errors import Misconfigured, Retryable
from tests.support.factories import KEY, SITE_ID

DIGEST = sha256(KEY.encode()).hexdigest()
OTHER = "XyZ789"
APP: dict[str, Any] = {"app_id": 5, "api_key": "pl_upstream"}


def account(site_id: str = SITE_ID, *keys: str, **fields: Any) -> dict[str, Any]:
    return {
        "site_id": site_id,
        "private_key": f"pk_{site_id}",
        "keys": [{"sha256": key} for key in keys],
        **fields,
    }


def document(*each: object, **fields: Any) -> str:
    return json.dumps({"accounts": list(each), **fields})


class Secret:
    """Plays a secret with its version before, and the clock."""

    def __init__(self, text: str, previous: str | None = None) -> None:
        self.now = 1_000_000.0
        self.current = SecretVersion(text, self.now)
        self.previous = SecretVersion(previous, 0.0) if previous is not None else None
        self.told: list[str] = []
        self.fetched = 0
        self.is_down = False
        self.cache = AccountsCache(self._fetch)

    def write(self, text: str) -> None:
        self.previous, self.current = self.current, SecretVersion(text, self.now)

    def after(self, seconds: float) -> Accounts:
        """Returns the accounts that the process knows so much later."""
        self.now += seconds
        return self.cache.accounts(self.told.append)

    def read(self) -> Accounts:
        return self.after(accounts_cache.CACHE_SECONDS)

    def _fetch(self, previous: bool) -> SecretVersion:
        self.fetched += 1
        found = self.previous if previous else self.current
        if self.is_down or found is None:
            raise Retryable("the accounts document cannot be read")
        return found


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Secret]:
    def make(*texts: str) -> Secret:
        made = Secret(*texts)
        monkeypatch.setattr(runtime, "time", lambda: made.now)
        monkeypatch.setattr(runtime, "monotonic", lambda: made.now)
        return made

    return make


def ids(found: Accounts) -> set[str]:
    return {each.id for each in found.every()}


BROKEN = [
    document(account(name="Main shop"), account(OTHER), pipeless=[APP]),
    document(account(private_key=5), account(OTHER), pipeless=[APP]),
    document({"site_id": SITE_ID}, account(OTHER), pipeless=[APP]),
    document({"siteid": SITE_ID}, account(OTHER), pipeless=[APP]),
    document(account(), account(OTHER), pipeless=[APP | {"name": "x"}]),
    document(account(), account(OTHER), pipeless=[{}]),
    document(account(), account(OTHER), pipeless=[APP])[:-2],
    document(account(), account(OTHER), pipeless={}),
    document(account(), account(OTHER), pipeless=[APP], comment="x"),
    json.dumps([account()]),
    "",
]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("is_new_process", [False, True], ids=["running", "new"])
def test_a_mistake_stops_no_account(secret: Callable[..., Secret], broken: str, is_new_process: bool) -> None:
    good = document(account(SITE_ID, DIGEST), account(OTHER), pipeless=[APP])
    stored = secret(broken, good) if is_new_process else secret(good)
    if not is_new_process:
        stored.read()
        stored.write(broken)

    found = stored.read()

    assert ids(found) == {SITE_ID, OTHER, "pipeless-5"}
    assert found.unusable == 0
    assert len(stored.told) == len(found.flaws) == 1
    assert "pk_" not in stored.told[0]


def test_a_good_account_beside_a_bad_one_is_the_new_one(secret: Callable[..., Secret]) -> None:
    stored = secret(document(account(), account(OTHER)))
    stored.read()
    stored.write(document(account(name="x"), account(OTHER, private_key="pk_new")))

    by_id = {each.id: each.private_key for each in stored.read().accounts}

    assert by_id == {SITE_ID: f"pk_{SITE_ID}", OTHER: "pk_new"}


def test_a_removed_account_does_not_come_back_for_anothers_mistake(secret: Callable[..., Secret]) -> None:
    stored = secret(document(account(), account(OTHER)))
    stored.read()
    stored.write(document(account(name="x")))

    assert ids(stored.read()) == {SITE_ID}


def test_without_any_copy_only_the_bad_account_is_missing(secret: Callable[..., Secret]) -> None:
    stored = secret(document(account(name="x"), account(OTHER)))

    found = stored.read()

    assert (ids(found), found.unusable) == ({OTHER}, 1)


@pytest.mark.parametrize("text", ["", document(account(name="x"))])
def test_where_no_account_can_be_used_it_says_why_and_asks_once_a_minute(
    secret: Callable[..., Secret], text: str
) -> None:
    stored = secret(text)
    for _ in range(3):
        with pytest.raises(Misconfigured, match="the accounts document is not valid"):
            stored.after(1)
    assert stored.fetched == 2  # the version before is asked for, too

    stored.write(document(account()))
    assert ids(stored.read()) == {SITE_ID}


class TestRevokedKeys:
    """Tests that a mistake does not keep a revoked key alive."""

    def test_a_key_that_the_document_still_has_is_kept(self, secret: Callable[..., Secret]) -> None:
        stored = secret(document(account(SITE_ID, DIGEST)))
        stored.read()
        stored.write(document(account(SITE_ID, DIGEST, name="x")))

        stored.read()

        assert stored.after(10 * accounts_cache.MISSING_KEY_SECONDS).by_key(KEY) is not None

    @pytest.mark.parametrize("broken", [document(account(name="x")), "", "{"])
    def test_a_key_that_is_missing_is_kept_for_a_while(
        self, secret: Callable[..., Secret], broken: str
    ) -> None:
        stored = secret(document(account(SITE_ID, DIGEST)))
        stored.read()
        stored.write(broken)

        assert stored.read().by_key(KEY) is not None

        later = stored.after(accounts_cache.MISSING_KEY_SECONDS)
        assert later.by_key(KEY) is None
        assert ids(later) == {SITE_ID}

    def test_a_new_process_counts_from_the_writing_of_the_document(
        self, secret: Callable[..., Secret]
    ) -> None:
        stored = secret(document(account(name="x")), document(account(SITE_ID, DIGEST)))

        assert stored.after(accounts_cache.MISSING_KEY_SECONDS).by_key(KEY) is None

    def test_a_key_that_moved_belongs_to_its_new_account(self, secret: Callable[..., Secret]) -> None:
        stored = secret(document(account(SITE_ID, DIGEST), account(OTHER)))
        stored.read()
        stored.write(document(account(name="x"), account(OTHER, DIGEST)))

        found = stored.read().by_key(KEY)

        assert found is not None
        assert found[0].id == OTHER


def test_a_secret_out_of_reach_stops_nobody_for_an_hour(secret: Callable[..., Secret]) -> None:
    stored = secret(document(account()))
    stored.read()
    stored.is_down = True

    assert ids(stored.read()) == {SITE_ID}
    assert stored.told == ["the accounts document cannot be read"]
    asked = stored.fetched
    stored.after(1)
    assert stored.fetched == asked

    with pytest.raises(Retryable):
        stored.after(accounts_cache.STALE_SECONDS)
    stored.is_down = False
    assert ids(stored.after(1)) == {SITE_ID}


def test_a_secret_that_was_never_read_is_asked_for_each_time(secret: Callable[..., Secret]) -> None:
    stored = secret(document(account()))
    stored.is_down = True
    for _ in range(2):
        with pytest.raises(Retryable):
            stored.after(1)

    stored.is_down = False
    assert ids(stored.after(1)) == {SITE_ID}
