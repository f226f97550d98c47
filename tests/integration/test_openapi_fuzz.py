"""Tests the API's description as others read it: a validator, and a fuzzer that makes requests from it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, CheckFunction

from devstack.fake_upstream import Pipeless, transport
from sluice import receipts
from sluice.delivery import http
from sluice.pipeless import synchronous
from sluice.webhooks import sources
from tests.support import wsgi_gateway
from tests.support.aws_clients import aws_client
from tests.support.aws_stack import read_accounts, write_accounts
from tests.support.factories import APP_ID, APP_KEY, KEY, NEWEST, SITE_ID
from tests.support.functions import load_app
from tests.support.ingest_app import TABLE, Front
from tools.openapi import document

SECONDS = 2.0  # after which no more requests of one kind are sent
GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
HOOK_TOKEN = "token-1"
RECEIPT = "0123456789abcdef" * 2
WEBHOOKS = "/webhooks/{source}"  # whose bodies may be anything
KINDS = [(path, method, GOOD) for path, methods in document.PATHS.items() for method in methods]
KINDS += [(path, "post", BAD) for path, method, _ in KINDS if method == "post" and path != WEBHOOKS]
# Not for a schema to say: that a time is too long ago, that a route takes no key; and what the gateway does.
LEFT_OUT = {"positive_data_acceptance", "ignored_auth", "unsupported_method"}


def test_it_is_valid() -> None:
    validate(document.description())


@pytest.fixture
def front(front: Front, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Runs the function with an app at Pipeless, a source of webhooks and a receipt, too."""
    source = {
        "account": SITE_ID,
        "signature": {"scheme": "bearer"},
        "secret": "hook",
        "events": {"seen": {"metric": "Seen", "profile": {"external_id": "'ann'"}}},
    }
    written = json.dumps({"sources": {"hook": source}}).encode()
    aws_client("s3").put_object(Bucket="configuration", Key=sources.KEY, Body=written)
    receipts.create(
        TABLE, receipts.scoped(SITE_ID, RECEIPT), account=SITE_ID, created=datetime.now(UTC), total=1
    )
    secrets = aws_client("secretsmanager")
    secrets.create_secret(Name="sluice/webhooks/hook", SecretString=HOOK_TOKEN)
    document = read_accounts()
    keys = [{"sha256": sha256(APP_KEY.encode()).hexdigest(), "scopes": ["events:write"]}]
    document["pipeless"] = [{"app_id": APP_ID, "api_key": "upstream", "keys": keys}]
    write_accounts(json.dumps(document))
    client = httpx2.AsyncClient(transport=transport(Pipeless({APP_ID: "upstream"})))
    monkeypatch.setattr(http, "client", lambda: client)
    yield front
    synchronous.runner().close()
    synchronous.runner.cache_clear()


@pytest.mark.parametrize(("path", "method", "mode"), KINDS)
def test_answers_are_as_described(front: Front, path: str, method: str, mode: GenerationMode) -> None:
    docs = load_app("docs")
    functions = {"DocsFunction": lambda event: docs.handler(event, None), "IngestFunction": front.handle}
    if mode is BAD:
        functions["DocsFunction"] = lambda _: {"statusCode": 200, "headers": {}, "body": with_bodies_only()}
    api = schemathesis.openapi.from_wsgi("/openapi.json", wsgi_gateway.application(functions))
    checks = known_checks()
    answered: set[int] = set()
    end = time.monotonic() + SECONDS

    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(api[path][method].as_strategy(generation_mode=mode))
    def attack(case: Case[Any]) -> None:
        if answered and (mode is BAD or min(answered) < 300) and time.monotonic() > end:
            return
        look_past_the_headers(case)
        answer = case.call(base_url="http://gateway")
        answered.add(answer.status_code)
        if "return=minimal" in case.headers.get("Prefer", "") and answer.status_code == 202:
            assert answer.content == b""
        else:
            case.validate_response(answer, checks=checks)

    attack()

    assert max(answered) < 500
    assert mode is BAD or min(answered) < 300, "no request got past the refusals"


def known_checks() -> list[CheckFunction]:
    """Returns the fuzzer's checks of one answer, without those left out."""
    checks: list[CheckFunction] = []
    for check in CHECKS.get_all():
        assert not isinstance(check, type), "this check is not of one answer"
        if check.__name__ not in LEFT_OUT:
            checks.append(check)
    return checks


def with_bodies_only() -> str:
    """Returns the description without headers and queries, so that only the body can be bad."""
    description = document.description()
    for operations in description["paths"].values():
        for operation in operations.values():
            given = operation.pop("parameters", [])
            operation["parameters"] = [each for each in given if each.get("in") == "path"]
    return json.dumps(description)


def name_types(batch: Any) -> None:
    """Puts a documented name in place of each type: an app may have others, so the schema takes any."""
    for event in batch["events"]:
        for part, fields in event.items():
            fields["type"] = "liked" if part == "relationship" else "user"


def look_past_the_headers(case: Case[Any]) -> None:
    """Puts right what is looked at before a body is."""
    if case.path.startswith("/api/"):
        case.headers["Authorization"] = f"Klaviyo-API-Key {KEY}"
    if case.path.startswith("/v1/"):
        case.headers["Authorization"] = f"Bearer {APP_KEY}"
        case.path_parameters["app_id"] = APP_ID
        if case.meta and case.meta.generation.mode is GOOD:
            name_types(case.body)
    elif case.path == WEBHOOKS:
        case.headers["Authorization"] = f"Bearer {HOOK_TOKEN}"
        case.path_parameters["source"] = "hook"
    elif case.method == "POST":
        case.headers["revision"] = NEWEST
        case.headers.pop("X-Klaviyo-Revision-Fall-Forward-Opt-Out", None)
    if "id" in case.path_parameters:
        case.path_parameters["id"] = RECEIPT
    if case.path.startswith("/client/"):
        case.query["company_id"] = SITE_ID
    if case.meta and case.meta.generation.mode is BAD:
        case.headers.pop("Prefer", None)  # lenient handling takes what is good in a bad body
