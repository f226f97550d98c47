"""Tests what a change of the accounts document does to it, and how it is told."""

import json
from typing import Any

import pytest

from sluice import accounts
from sluice.errors import Misconfigured
from sluice.operate import accounts_document
from sluice.operate.accounts_document import AccountsDocument

ONE, TWO = "1" * 64, "2" * 64
KLAVIYO = {
    "site_id": "AbC123",
    "private_key": "pk_secret",
    "keys": [{"sha256": ONE, "scopes": ["events:write"]}],
}
PIPELESS = {"app_id": 7, "api_key": "pl_secret"}
DOCUMENT = {"accounts": [KLAVIYO], "pipeless": [PIPELESS]}


def document(written: object) -> AccountsDocument:
    return AccountsDocument(json.dumps(written).encode())


def told(before: object, after: object) -> list[str]:
    changes = accounts_document.changes(document(before).entries(), document(after).entries())
    return [f"{each.how} {each.account} {each.what or ''}".rstrip() for each in changes]


@pytest.mark.parametrize("written", ["", "[]", "{", '{"accounts": {}}', '{"accounts": [], "pipeless": 1}'])
def test_what_has_no_accounts_is_no_document(written: str) -> None:
    with pytest.raises(Misconfigured):
        AccountsDocument(written.encode())


def test_what_is_not_changed_stays_as_it_is_valid_or_not() -> None:
    other = {"site_id": "XyZ789", "unknown": [1, {"b": None}]}
    changed = document({"note": "ours", "accounts": [5, other, KLAVIYO]})

    changed.add("pipeless-7", dict(PIPELESS))
    changed.remove("AbC123")

    assert json.loads(changed.content) == {"note": "ours", "accounts": [5, other], "pipeless": [PIPELESS]}


def test_every_entry_of_a_removed_account_goes() -> None:
    changed = document({"accounts": [KLAVIYO, KLAVIYO | {"private_key": "pk_other"}]})

    changed.remove("AbC123")

    assert changed.entries() == {}


@pytest.mark.parametrize(
    ("account_id", "fields", "entry"),
    [
        ("AbC123", {"base_url": None}, {"site_id": "AbC123", "private_key": "k"}),
        ("AbC123", {"limit_metrics": True}, {"site_id": "AbC123", "private_key": "k", "limit_metrics": True}),
        ("pipeless-7", {"calls_per_minute": 60}, {"app_id": 7, "api_key": "k", "calls_per_minute": 60}),
    ],
)
def test_a_new_entry_has_the_fields_of_its_kind(
    account_id: str, fields: dict[str, Any], entry: dict[str, Any]
) -> None:
    assert accounts_document.new_entry(account_id, "k", **fields) == entry


def test_a_private_key_that_is_left_out_is_the_stored_one() -> None:
    new = document({"accounts": [{"site_id": "AbC123"}, {"site_id": "NeW456"}], "pipeless": [{"app_id": 7}]})

    new.keep_private_keys(document(DOCUMENT).entries())

    assert json.loads(new.content)["accounts"] == [
        {"site_id": "AbC123", "private_key": "pk_secret"},
        {"site_id": "NeW456"},
    ]
    assert json.loads(new.content)["pipeless"] == [PIPELESS]


def test_a_private_key_that_is_given_is_taken() -> None:
    new = document({"accounts": [{"site_id": "AbC123", "private_key": "pk_new"}]})

    new.keep_private_keys(document(DOCUMENT).entries())

    assert new.entries()["AbC123"]["private_key"] == "pk_new"


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        (DOCUMENT, []),
        ({"pipeless": [PIPELESS], "accounts": [KLAVIYO]}, []),
        ({"accounts": [KLAVIYO]}, ["removed pipeless-7"]),
        (
            {"accounts": [], "pipeless": [PIPELESS]},
            ["removed AbC123", "removed AbC123 ingest key 111111111111 (events:write)"],
        ),
        (
            DOCUMENT | {"accounts": [KLAVIYO, {"site_id": "NeW456", "private_key": "k"}]},
            ["added NeW456"],
        ),
        (DOCUMENT | {"accounts": [KLAVIYO | {"private_key": "pk_new"}]}, ["changed AbC123 private_key"]),
        (DOCUMENT | {"accounts": [KLAVIYO | {"typo_key": "pk_new"}]}, ["changed AbC123 typo_key"]),
        (
            DOCUMENT | {"pipeless": [PIPELESS | {"calls_per_minute": 300}]},
            ["changed pipeless-7 calls_per_minute: default to 300"],
        ),
        (
            DOCUMENT | {"accounts": [KLAVIYO | {"keys": [{"sha256": TWO}, {"sha256": ONE}]}]},
            [
                "changed AbC123 ingest key 111111111111 (no scopes)",
                "added AbC123 ingest key 222222222222 (no scopes)",
            ],
        ),
        (
            DOCUMENT | {"accounts": [KLAVIYO | {"keys": "none"}]},
            ["removed AbC123 ingest key 111111111111 (events:write)"],
        ),
    ],
)
def test_a_change_is_told_without_a_key(after: object, lines: list[str]) -> None:
    assert told(DOCUMENT, after) == lines
    assert "pk_" not in str(lines)


def test_documents_that_say_the_same_are_the_same_in_any_form() -> None:
    assert document(DOCUMENT).is_as(json.dumps(DOCUMENT, indent=2, sort_keys=True).encode())
    assert not document(DOCUMENT).is_as(json.dumps(DOCUMENT | {"note": ""}).encode())
    assert not document(DOCUMENT).is_as(b"{")


def test_what_is_shown_has_no_private_key_and_can_be_put_again() -> None:
    account = KLAVIYO | {"private_key": {"secret": "klaviyo-1", "id": "0" * 32}}
    app = PIPELESS | {"api_key": {"secret": "pipeless-1", "id": "1" * 32}}
    written = {
        "accounts": [account | {"shared_unique_ids": True}, account | {"privat_key": "pk_misplaced"}],
        "pipeless": [app | {"object_types": ["recipe", "book"]}],
    }

    shown = accounts_document.without_private_keys(accounts.read(json.dumps(written)).accounts)
    again = document(shown)
    again.keep_private_keys(document(written).entries())

    assert "secret" not in json.dumps(shown)
    assert "misplaced" not in json.dumps(shown)
    assert again.valid.flaws != ()  # until the private keys are there again
    assert AccountsDocument(again.content).valid.flaws == ()
    assert shown["pipeless"] == [{"app_id": 7, "object_types": ["book", "recipe"]}]
