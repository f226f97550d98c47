"""Tests that a mistake in the accounts document stops nothing that works."""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from sluice import accounts_cache, runtime
from sluice.accounts import Accounts
from sluice.accounts_cache import AccountsCache, DocumentVersion
from sluice.errors import Misconfigured, Retryable
from tests.support.factories import KEY, SITE_ID

DIGEST = sha256(KEY.encode()).hexdigest()
OTHER = "XyZ789"
APP: dict[str, Any] = {"app_id": 5, "api_key": {"secret": "pipeless-1", "id": "0" * 32}}


def reference(name: str) -> dict[str, str]:
    return {"secret": "klaviyo-1", "id": sha256(name.encode()).hexdigest()[:32]}


def account(site_id: str = SITE_ID, *keys: str, **fields: Any) -> dict[str, Any]:
    return {
        "site_id": site_id,
        "private_key": reference(site_id),
        "keys": [{"sha256": key} for key in keys],
        **fields,
    }


def document(*each: object, **fields: Any) -> str:
    return json.dumps({"accounts": list(each), **fields})


class Stored:
    """Plays the stored document with its version before, and the clock."""

    def __init__(self, text: str, previous: str | None = None) -> None:
        self.now = 1_000_000.0
        self.current = DocumentVersion(text.encode(), self.now, "0")
        self.previous = DocumentVersion(previous.encode(), 0.0) if previous is not None else None
        self.told: list[str] = []
        self.fetched = 0
        self.is_down = False
        self.cache = AccountsCache(self)

    def write(self, text: str) -> None:
        new = DocumentVersion(text.encode(), self.now, f"{self.current.etag}+")
        self.previous, self.current = self.current, new

    def after(self, seconds: float) -> Accounts:
        """Returns the accounts that the process knows so much later."""
        self.now += seconds
        return self.cache.accounts(self.told.append)

    def in_a_minute(self) -> Accounts:
        return self.after(accounts_cache.CACHE_SECONDS)

    def read(self, *, etag: str) -> DocumentVersion | None:
        return None if self._fetched(self.current).etag == etag else self.current

    def read_previous(self) -> DocumentVersion:
        return self._fetched(self.previous)

    def _fetched(self, found: DocumentVersion | None) -> DocumentVersion:
        self.fetched += 1
        if self.is_down or found is None:
            raise Retryable("the accounts document cannot be read")
        return found


@pytest.fixture
def storing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stored]:
    def make(*texts: str) -> Stored:
        made = Stored(*texts)
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
def test_a_mistake_stops_no_account(
    storing: Callable[..., Stored], broken: str, is_new_process: bool
) -> None:
    good = document(account(SITE_ID, DIGEST), account(OTHER), pipeless=[APP])
    stored = storing(broken, good) if is_new_process else storing(good)
    if not is_new_process:
        stored.in_a_minute()
        stored.write(broken)

    found = stored.in_a_minute()

    assert ids(found) == {SITE_ID, OTHER, "pipeless-5"}
    assert found.unusable == 0
    assert len(stored.told) == len(found.flaws) == 1


def test_a_good_account_beside_a_bad_one_is_the_new_one(storing: Callable[..., Stored]) -> None:
    stored = storing(document(account(), account(OTHER)))
    stored.in_a_minute()
    stored.write(document(account(name="x"), account(OTHER, private_key=reference("new"))))

    by_id = {each.id: each.private_key.id for each in stored.in_a_minute().accounts}

    assert by_id == {SITE_ID: reference(SITE_ID)["id"], OTHER: reference("new")["id"]}


def test_a_removed_account_does_not_come_back_for_anothers_mistake(storing: Callable[..., Stored]) -> None:
    stored = storing(document(account(), account(OTHER)))
    stored.in_a_minute()
    stored.write(document(account(name="x")))

    assert ids(stored.in_a_minute()) == {SITE_ID}


def test_without_any_copy_only_the_bad_account_is_missing(storing: Callable[..., Stored]) -> None:
    stored = storing(document(account(name="x"), account(OTHER)))

    found = stored.in_a_minute()

    assert (ids(found), found.unusable) == ({OTHER}, 1)


@pytest.mark.parametrize("text", ["", document(account(name="x"))])
def test_where_no_account_can_be_used_it_says_why_and_asks_once_a_minute(
    storing: Callable[..., Stored], text: str
) -> None:
    stored = storing(text)
    for _ in range(3):
        with pytest.raises(Misconfigured, match="the accounts document is not valid"):
            stored.after(1)
    assert stored.fetched == 2  # the version before is asked for, too

    stored.write(document(account()))
    assert ids(stored.in_a_minute()) == {SITE_ID}


class TestRevokedKeys:
    """Tests that a mistake does not keep a revoked key alive."""

    def test_a_key_that_the_document_still_has_is_kept(self, storing: Callable[..., Stored]) -> None:
        stored = storing(document(account(SITE_ID, DIGEST)))
        stored.in_a_minute()
        stored.write(document(account(SITE_ID, DIGEST, name="x")))

        stored.in_a_minute()

        assert stored.after(10 * accounts_cache.MISSING_KEY_SECONDS).by_key(KEY) is not None

    @pytest.mark.parametrize("broken", [document(account(name="x")), "", "{"])
    def test_a_key_that_is_missing_is_kept_for_a_while(
        self, storing: Callable[..., Stored], broken: str
    ) -> None:
        stored = storing(document(account(SITE_ID, DIGEST)))
        stored.in_a_minute()
        stored.write(broken)

        assert stored.in_a_minute().by_key(KEY) is not None

        later = stored.after(accounts_cache.MISSING_KEY_SECONDS)
        assert later.by_key(KEY) is None
        assert ids(later) == {SITE_ID}

    def test_a_new_process_counts_from_the_writing_of_the_document(
        self, storing: Callable[..., Stored]
    ) -> None:
        stored = storing(document(account(name="x")), document(account(SITE_ID, DIGEST)))

        assert stored.after(accounts_cache.MISSING_KEY_SECONDS).by_key(KEY) is None

    def test_a_key_that_moved_belongs_to_its_new_account(self, storing: Callable[..., Stored]) -> None:
        stored = storing(document(account(SITE_ID, DIGEST), account(OTHER)))
        stored.in_a_minute()
        stored.write(document(account(name="x"), account(OTHER, DIGEST)))

        found = stored.in_a_minute().by_key(KEY)

        assert found is not None
        assert found[0].id == OTHER


def test_a_document_out_of_reach_stops_nobody_for_an_hour(storing: Callable[..., Stored]) -> None:
    stored = storing(document(account()))
    stored.in_a_minute()
    stored.is_down = True

    assert ids(stored.in_a_minute()) == {SITE_ID}
    assert stored.told == ["the accounts document cannot be read"]
    asked = stored.fetched
    stored.after(1)
    assert stored.fetched == asked

    with pytest.raises(Retryable):
        stored.after(accounts_cache.STALE_SECONDS)
    stored.is_down = False
    assert ids(stored.after(1)) == {SITE_ID}


def test_a_document_that_was_never_read_is_asked_for_each_time(storing: Callable[..., Stored]) -> None:
    stored = storing(document(account()))
    stored.is_down = True
    for _ in range(2):
        with pytest.raises(Retryable):
            stored.after(1)

    stored.is_down = False
    assert ids(stored.after(1)) == {SITE_ID}


def test_a_document_that_has_not_changed_is_not_read_again(storing: Callable[..., Stored]) -> None:
    stored = storing(document(account(), account(OTHER, name="x")))
    first = stored.in_a_minute()

    assert stored.in_a_minute() == first
    assert len(stored.told) == 2  # its mistake is told all the same
