"""Tests `sluicectl smoke` on a stack that enforces permissions, by an operator who may invoke one alias."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from sluice.accounts import KEY
from sluice.operate.command import Access
from tests.e2e.conftest import Stack
from tests.e2e.test_front import fresh_email
from tests.e2e.test_operate import Operator, operating


def smoke(operator: Operator, account: str, *arguments: str) -> tuple[int, Any, str]:
    """Returns the exit code, the document and what is said to people."""
    credentials = operator.session.get_credentials()
    assert credentials is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_ENDPOINT_URL": operator.stack.aws,
        "AWS_REGION": operator.stack.region,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
    }
    command = [str(Path(sys.executable).with_name("sluicectl")), "smoke", account, *arguments, "--json"]
    command += ["--api", operator.stack.api]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr


def test_an_event_is_followed_until_it_is_delivered_and_its_key_is_gone(stack: Stack) -> None:
    s3, bucket = stack.client("s3"), stack.outputs["ConfigBucketName"]
    before = json.loads(s3.get_object(Bucket=bucket, Key=KEY)["Body"].read())

    with operating(stack, Access.ADMIN) as operator:
        code, asked, said = smoke(operator, stack.site_id, "--profile", fresh_email())
        assert code == 1
        assert "It creates a profile" in asked["error"]
        code, found, said = smoke(operator, stack.site_id, "--profile", fresh_email(), "--yes")

    assert code == 0, said
    assert found["outcome"] == "delivered"
    steps = [each["name"] for each in found["steps"]]
    assert [each for each in steps if each != "queued"] == ["key", "accepted", "delivered"]
    assert json.loads(s3.get_object(Bucket=bucket, Key=KEY)["Body"].read()) == before


def test_an_event_that_the_upstream_refuses_is_told_with_its_words(stack: Stack) -> None:
    email = fresh_email()
    settings = f"{stack.upstream}/_standin/settings"
    poison = [{"contains": email, "attributed": True}]
    httpx2.put(settings, json={"poison": poison}).raise_for_status()
    try:
        with operating(stack, Access.ADMIN) as operator:
            code, found, said = smoke(operator, stack.site_id, "--profile", email, "--yes")
    finally:
        httpx2.put(settings, json={"poison": []}).raise_for_status()

    assert code == 1
    assert found["outcome"] == "rejected", said
    assert found["steps"][-1]["name"] == "refused"
    assert found["rejection"]["detail"] in found["error"]
    assert "sluicectl rejections show" in found["error"]


def test_an_account_that_there_is_not_is_told_in_one_sentence(stack: Stack) -> None:
    with operating(stack, Access.ADMIN) as operator:
        code, found, said = smoke(operator, "NoSuch", "--profile", fresh_email(), "--yes")

    assert code == 1
    assert "has no account NoSuch" in found["error"], said
