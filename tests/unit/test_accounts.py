"""Tests the accounts document: the account of a key, and documents that cannot be right."""

import json
from hashlib import sha256
from typing import Any

import pytest

from sluice import accounts, runtime
from sluice.errors import Misconfigured, Retryable
from tests.support.factories import KEY, SITE_ID
from tests.support.parsing import parsed_accounts

DIGEST = sha256(KEY.encode()).hexdigest()


def account(**fields: Any) -> dict[str, Any]:
    return {"site_id": SITE_ID, "private_key": "pk_upstream", "keys": [{"sha256": DIGEST}], **fields}


def parsed(*each: dict[str, Any]) -> accounts.Accounts:
    return parsed_accounts(json.dumps({"accounts": list(each)}))


OTHER = account(site_id="XyZ789", keys=[{"sha256": "0" * 64, "scopes": ["events:write"]}])


def test_a_key_is_found_with_its_account_and_scopes() -> None:
    found = parsed(OTHER, account(keys=[{"sha256": DIGEST, "scopes": ["events:write"]}])).by_key(KEY)

    assert found is not None
    assert found[0].site_id == SITE_ID
    assert found[1].scopes == {"events:write"}


def test_the_key_of_no_account_is_found_nowhere() -> None:
    document = parsed(account(), OTHER)

    assert document.by_key("pk_unknown") is None
    assert document.by_key(DIGEST) is None


def test_the_only_account_is_the_one_meant_when_none_is_named() -> None:
    only = parsed(account()).single_account()

    assert only is not None
    assert only.site_id == SITE_ID
    assert only.base_url == "https://a.klaviyo.com"
    assert parsed(account(), OTHER).single_account() is None


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://machine.localhost:9000",
    ],
)
def test_an_upstream_is_reached_over_https_or_on_this_machine(url: str) -> None:
    assert parsed(account(base_url=url)).accounts[0].base_url == url


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{}",
        "not JSON",
        json.dumps({"accounts": [account(site_id="short")]}),
        json.dumps({"accounts": [account(site_id="AbC123\n")]}),
        json.dumps({"accounts": [account(private_key="")]}),
        json.dumps({"accounts": [account(extra=1)]}),
        json.dumps({"accounts": [account(keys=[{"sha256": "abc"}])]}),
        json.dumps({"accounts": [account(keys=[{"sha256": DIGEST.upper()}])]}),
        json.dumps({"accounts": [account(keys=[{"key": KEY}])]}),
        json.dumps({"accounts": [account(base_url="http://example.com")]}),
        json.dumps({"accounts": [account(base_url="ftp://127.0.0.1")]}),
        json.dumps({"accounts": [account(), account()]}),
        json.dumps({"accounts": [account(), account(site_id="XyZ789")]}),
    ],
)
def test_a_document_that_cannot_be_right_is_an_operators_to_mend(document: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        parsed_accounts(document)

    assert "account" in str(raised.value)
    assert KEY not in str(raised.value)
    assert DIGEST not in str(raised.value)


APP: dict[str, Any] = {"app_id": 123, "api_key": "pl_upstream"}


def with_apps(*apps: dict[str, Any]) -> accounts.Accounts:
    return parsed_accounts(json.dumps({"accounts": [account()], "pipeless": list(apps)}))


@pytest.mark.rule
def test_an_app_has_120_calls_a_minute_unless_it_says_otherwise() -> None:
    [usual] = with_apps(APP).pipeless
    [slow] = with_apps(APP | {"calls_per_minute": 60}).pipeless

    assert (usual.calls_per_minute, slow.calls_per_minute) == (120, 60)
    with pytest.raises(Misconfigured):
        with_apps(APP | {"calls_per_minute": 59})


def test_an_app_has_a_name_that_no_account_has() -> None:
    [app] = with_apps(APP).pipeless

    assert (app.id, app.base_url) == ("pipeless-123", "https://api.pipeless.io")
    assert app.object_types == frozenset()
    assert accounts.is_account_id(app.id)
    assert accounts.is_account_id(SITE_ID)
    assert "pl_upstream" not in repr(app)


@pytest.mark.parametrize("text", ["pipeless-", "pipeless-0", "pipeless-x", "../..", "AbC12", "AbC123\n", ""])
def test_nothing_else_is_an_accounts_id(text: str) -> None:
    assert not accounts.is_account_id(text)


def test_an_app_is_found_by_id_by_key_or_alone() -> None:
    other = APP | {"app_id": 7, "keys": [{"sha256": "1" * 64}]}
    one, two = with_apps(APP), with_apps(APP, other)

    assert (one.app(None), one.app("pipeless-123")) == (one.pipeless[0],) * 2
    assert (two.app(None), two.app("pipeless-8"), two.app("123")) == (None,) * 3
    assert two.by_app_id(7) == two.app("pipeless-7") == two.pipeless[1]
    assert two.by_app_key(KEY) is None
    assert two.by_key(KEY) is not None


@pytest.mark.parametrize(
    ("apps", "fault"),
    [
        ([APP, APP], "app_id twice"),
        ([APP | {"keys": [{"sha256": DIGEST}]}], "key twice"),
        ([APP | {"base_url": "http://api.pipeless.io"}], "account pipeless-123 must be https"),
        ([APP | {"app_id": 0}], "app_id"),
        ([APP | {"app_id": "123"}], "app_id"),
        ([APP | {"api_key": "a b"}], "api_key"),
        ([APP | {"calls_per_minute": 59}], "calls_per_minute"),
        ([APP | {"site_id": SITE_ID}], "site_id"),
    ],
)
def test_an_app_that_cannot_be_right_is_a_misconfiguration(apps: list[Any], fault: str) -> None:
    with pytest.raises(Misconfigured, match=fault):
        with_apps(*apps)


VALID = account()
FLAWED: list[Any] = [
    account(site_id="XyZ789", name="Main shop", keys=[]),
    account(site_id="XyZ789", keys=[{"sha256": "short"}]),
    account(site_id="XyZ789", private_key="a b", keys=[]),
    account(site_id="XyZ789", base_url="http://example.com", keys=[]),
    account(site_id="XyZ789"),  # with the key of the valid one
    account(keys=[]),  # with the id of the valid one
    {"site_id": "XyZ789"},
    {"private_key": "key"},
    {"site_id": 7, "private_key": "key"},
    "XyZ789",
    None,
    [],
]


@pytest.mark.parametrize("flawed", FLAWED)
def test_one_bad_account_costs_no_other(flawed: object) -> None:
    stored = accounts.read_written(json.dumps({"accounts": [VALID, flawed], "pipeless": [APP]}))

    assert [each.site_id for each in stored.accounts.accounts] == [SITE_ID]
    assert [each.id for each in stored.accounts.pipeless] == ["pipeless-123"]
    assert len(stored.flaws) == len(stored.flawed) == 1
    assert "accounts[1]" in stored.flaws[0]


@pytest.mark.parametrize("flawed", [APP | {"name": "x"}, APP, {"app_id": "1"}, 5])
def test_one_bad_app_costs_no_other(flawed: object) -> None:
    stored = accounts.read_written(json.dumps({"accounts": [VALID], "pipeless": [APP, flawed]}))

    assert (len(stored.accounts.accounts), len(stored.accounts.pipeless)) == (1, 1)
    assert "pipeless[1]" in stored.flaws[0]


def test_an_unknown_field_beside_the_accounts_is_told_and_costs_none() -> None:
    stored = accounts.read_written(json.dumps({"accounts": [VALID], "comment": "main shop"}))

    assert [each.site_id for each in stored.accounts.accounts] == [SITE_ID]
    assert stored.flaws == ("the accounts document is not valid: 'comment' is not a field of it",)


def test_an_account_is_not_the_only_one_because_another_cannot_be_used() -> None:
    document = parsed(account())
    missing_one = accounts.Accounts(document.accounts, with_apps(APP).pipeless, unusable=1)

    assert missing_one.single_account() is None
    assert missing_one.app(None) is None
    assert missing_one.app("pipeless-123") is not None
    with pytest.raises(Retryable):
        missing_one.check_complete()
    document.check_complete()


STORED = account(private_key={"secret": "klaviyo-1", "id": "0" * 32})


def test_a_stored_document_refers_to_private_keys() -> None:
    found = accounts.read(json.dumps({"accounts": [STORED, OTHER]}))

    assert [each.private_key.secret for each in found.accounts.accounts] == ["klaviyo-1"]
    assert found.flawed == ("XyZ789",)  # a private key itself has no business there


@pytest.mark.parametrize("place", ["../webhooks/shop", "sealing", "klaviyo-0", "klaviyo-1\n", ""])
def test_a_reference_leads_to_private_keys_alone(place: str) -> None:
    led = account(private_key={"secret": place, "id": "0" * 32})

    assert accounts.read(json.dumps({"accounts": [led]})).flawed == (SITE_ID,)


def test_an_operator_cannot_refer_to_a_key() -> None:
    assert accounts.read_written(json.dumps({"accounts": [STORED]})).flawed == (SITE_ID,)


def test_only_an_account_that_has_a_key_may_be_written_without() -> None:
    document = json.dumps({"accounts": [{"site_id": SITE_ID}, {"site_id": "XyZ789"}]})

    assert accounts.read_written(document, stored_keys={SITE_ID}).flawed == ("XyZ789",)


def test_a_key_that_expires_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    document = parsed(account(keys=[{"sha256": DIGEST, "expires": 1_000}]))

    monkeypatch.setattr(runtime, "time", lambda: 999.9)
    assert document.by_key(KEY) is not None
    monkeypatch.setattr(runtime, "time", lambda: 1_000.0)
    assert document.by_key(KEY) is None
