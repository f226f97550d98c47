"""Tests that a thousand accounts fit with room to spare: put, listed, changed, and delivered to."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx2
import pytest

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice import message, private_keys
from sluice.aws.secrets import MAX_SECRET_BYTES
from sluice.delivery import http
from sluice.operate.accounts import MAX_DOCUMENT_BYTES
from sluice.operate.key_storage import MAX_ACCOUNTS, NEW_ACCOUNT_BYTES
from tests.support.aws_stack import account_secrets, close_event_loop, cloud, stored
from tests.support.operate import Operate
from tests.support.stored_accounts import ACCOUNT_SECRETS

ACCOUNTS = 1_000
SECRET_DOLLARS = 0.40  # a month


def site_id(number: int) -> str:
    return f"Acc{number:03}" if number < 1_000 else "AccEnd"


def upstream_key(number: int) -> str:
    return f"pk_{sha256(f'{number}'.encode()).hexdigest()[:34]}"


def document(accounts: int = ACCOUNTS) -> str:
    listed = [
        {
            "site_id": site_id(number),
            "private_key": upstream_key(number),
            "keys": [
                {"sha256": sha256(f"{number} {each}".encode()).hexdigest(), "scopes": ["events:write"]}
                for each in range(2)
            ],
            "limit_metrics": True,
            "producers": [f"s3://exports-of-all-shops/{site_id(number)}/"],
        }
        for number in range(accounts)
    ]
    return json.dumps({"accounts": listed})


@pytest.fixture
def operate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operate]:
    with cloud(monkeypatch) as aws:
        aws.s3.delete_object(Bucket="configuration", Key="accounts.json")
        aws.secrets.delete_secret(SecretId=f"{ACCOUNT_SECRETS}klaviyo-1", ForceDeleteWithoutRecovery=True)
        yield Operate(aws)


def done(operate: Operate, command: str, **arguments: Any) -> dict[str, object]:
    answer = operate(f"accounts {command}", **arguments)
    assert "error" not in answer, answer
    result: dict[str, object] = answer["result"]
    return result


def test_a_thousand_accounts_fit_with_room_to_spare(operate: Operate) -> None:
    assert done(operate, "put", text=document(), etag="")["stored"]

    secrets = account_secrets()
    written = operate.aws.content("configuration", "accounts.json")
    assert len(written) < MAX_DOCUMENT_BYTES / 3
    assert len(secrets) * SECRET_DOLLARS <= 5
    for text in secrets.values():
        assert len(private_keys.decode(text)) <= MAX_ACCOUNTS
        assert len(text) < NEW_ACCOUNT_BYTES
    assert "pk_" not in written.decode()
    listed = done(operate, "list")["accounts"]
    assert isinstance(listed, list)
    assert [each["id"] for each in listed] == [site_id(number) for number in range(ACCOUNTS)]


def test_the_first_and_the_last_are_delivered_to_and_only_their_secrets_are_read(
    operate: Operate, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(operate, "put", text=document(), etag="")
    ends = (0, ACCOUNTS - 1)
    klaviyo = Klaviyo({site_id(number): upstream_key(number) for number in ends}, Settings.unlimited())
    client = httpx2.AsyncClient(transport=transport(klaviyo))
    monkeypatch.setattr(http, "client", lambda: client)
    aws, dispatch = operate.aws, operate.aws.load("dispatch")
    for number in ends:
        aws.send(message.encode(stored(("ann", f"u{number}"), account=site_id(number))).text)
    aws.calls.clear()

    assert dispatch(aws.receive())["batchItemFailures"] == []

    for number in ends:
        taken = klaviyo.events(site_id(number))
        assert [each.event["unique_id"] for each in taken] == [f"u{number}"]
    read = {each["SecretId"] for each in aws.calls.of("GetSecretValue")} - {"sealing"}
    assert read == {f"{ACCOUNT_SECRETS}klaviyo-1", f"{ACCOUNT_SECRETS}klaviyo-10"}
    close_event_loop()


def test_every_key_can_be_replaced_at_once(operate: Operate) -> None:
    done(operate, "put", text=document(MAX_ACCOUNTS), etag="")
    before = account_secrets().keys()
    etag = done(operate, "show")["etag"]

    changed = document(MAX_ACCOUNTS).replace('"pk_', '"pk_new_')

    assert done(operate, "put", text=changed, etag=etag)["stored"]
    assert account_secrets().keys() == before
    assert all(len(text.encode()) < MAX_SECRET_BYTES for text in account_secrets().values())
