"""Tests an account's life with `sluicectl accounts`, by an operator who may invoke one alias alone."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sluice import private_keys
from sluice.operate.command import Access
from tests.e2e.conftest import Stack, eventually
from tests.e2e.test_front import BULK, fresh_email, post
from tests.e2e.test_operate import Operator, operating
from tests.support.factories import bulk, encoded, entry, event, profile

ACCOUNT = "E2eAcc"
COPY_SECONDS = 75  # for which a function may use its copy of the document, and some more
# Dispatch may not know a new account for as long, and parks its messages, which a tick of resume brings back.
DELIVERY_SECONDS = 3 * COPY_SECONDS


def sluicectl(operator: Operator, *arguments: str, answer: str = "") -> Any:
    """Runs a command that succeeds, with the operator's own credentials, and returns its document."""
    credentials = operator.session.get_credentials()
    assert credentials is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_ENDPOINT_URL": operator.stack.aws,
        "AWS_REGION": operator.stack.region,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
    }
    command = [str(Path(sys.executable).with_name("sluicectl")), "accounts", *arguments, "--json"]
    done = subprocess.run(
        command, env=environment, input=answer, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def private_key(stack: Stack) -> str:
    """Returns the key that the fake upstream takes."""
    name = f"{stack.outputs['AccountSecretsPrefix']}klaviyo-1"
    secret = stack.client("secretsmanager").get_secret_value(SecretId=name, VersionStage="AWSCURRENT")
    keys = private_keys.decode(secret["SecretString"]).values()
    return next(each.key for each in keys if each.account == stack.site_id)


def status(stack: Stack, email: str, key: str) -> int:
    body = encoded(bulk(entry(event(), of=profile(email=email))))
    return post(stack, BULK, body, Authorization=f"Klaviyo-API-Key {key}").status_code


def takes_of_a_producer(stack: Stack) -> bool:
    email = fresh_email()
    stack.put(json.dumps(bulk(entry(event(), of=profile(email=email)))))
    return bool(eventually(lambda: stack.taken_of(email), 10))


def test_a_new_account_sends_until_its_key_is_revoked(stack: Stack, private_key: str) -> None:
    email = fresh_email()
    with operating(stack, Access.ADMIN) as operator:
        sluicectl(operator, "add", ACCOUNT, "--base-url", stack.upstream, answer=f"{private_key}\n")
        try:
            made = sluicectl(operator, "keys", "add", ACCOUNT)
            key = made["ingest_key"]

            assert eventually(lambda: status(stack, email, key) == 202, COPY_SECONDS)
            assert eventually(lambda: stack.taken_of(email), DELIVERY_SECONDS)

            sluicectl(operator, "keys", "revoke", ACCOUNT, made["key"]["id"])
            assert eventually(lambda: status(stack, email, key) == 401, COPY_SECONDS)

            listed = sluicectl(operator, "list")
            assert {"id": ACCOUNT, "kind": "klaviyo", "base_url": stack.upstream, "keys": []} in listed[
                "accounts"
            ]
            assert private_key not in json.dumps(listed)
        finally:
            sluicectl(operator, "remove", ACCOUNT, "--yes")
    # The other one is the only account again, which takes what any producer sends.
    assert eventually(lambda: takes_of_a_producer(stack), COPY_SECONDS)


def test_operators_at_once_lose_none_of_each_others_changes(stack: Stack) -> None:
    with operating(stack, Access.ADMIN) as operator, ThreadPoolExecutor(4) as several:
        before = sluicectl(operator, "list")["accounts"][0]
        made = list(several.map(lambda _: sluicectl(operator, "keys", "add", before["id"]), range(4)))
        after = sluicectl(operator, "list")["accounts"][0]
        for each in made:
            sluicectl(operator, "keys", "revoke", before["id"], each["key"]["id"])
        at_last = sluicectl(operator, "list")["accounts"][0]

    ids = {each["id"] for each in after["keys"]}
    assert {each["key"]["id"] for each in made} <= ids
    assert len(ids) == len(before["keys"]) + len(made)
    assert at_last == before
