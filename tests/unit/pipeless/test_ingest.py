"""Tests Pipeless's route: who may send to which app, what is stored, and how a refusal is worded."""

import json
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from sluice import message
from sluice.errors import Refused, Retryable
from sluice.jsonapi import Problem
from sluice.message import Body, PipelessMessage
from sluice.pipeless import ingest
from tests.support.factories import APP, APP_ID, APP_KEY, KEY, NOON, SITE_ID, batch, encoded, happening
from tests.support.parsing import parsed_accounts

JSON = {"content-type": "application/json"}


def key(text: str, *scopes: str) -> dict[str, Any]:
    return {"sha256": sha256(text.encode()).hexdigest(), "scopes": scopes}


ACCOUNTS = parsed_accounts(
    json.dumps(
        {
            "accounts": [
                {"site_id": SITE_ID, "private_key": "pk", "keys": [key(KEY, "events:write")]},
            ],
            "pipeless": [
                {
                    "app_id": APP_ID,
                    "api_key": "pl",
                    "keys": [key(APP_KEY, "events:write"), key("reader", "events:read")],
                },
                {"app_id": 7, "api_key": "pl", "keys": [key("other", "events:write")]},
            ],
        }
    )
)

SHOWN = [f"Bearer {APP_KEY}", f"bearer   {APP_KEY}", APP_KEY, f" Bearer {APP_KEY} "]


@pytest.mark.rule
@pytest.mark.parametrize("authorization", SHOWN)
def test_a_key_opens_its_app(authorization: str) -> None:
    assert ingest.admit("123", {"authorization": authorization}, ACCOUNTS).id == APP


SHUT = {
    "no header": ("123", None, 401, "not_authenticated"),
    "no key": ("123", "Bearer", 401, "authentication_failed"),
    "another scheme": ("123", f"Basic {APP_KEY}", 401, "not_authenticated"),
    "an unknown key": ("123", "Bearer nobody", 401, "authentication_failed"),
    "a key of Klaviyo's side": ("123", f"Bearer {KEY}", 401, "authentication_failed"),
    "another app's key": ("123", "Bearer other", 403, "permission_denied"),
    "a key without the scope": ("123", "Bearer reader", 403, "permission_denied"),
    "an unknown app": ("124", f"Bearer {APP_KEY}", 404, "not_found"),
    "an app that is no number": ("x", f"Bearer {APP_KEY}", 404, "not_found"),
    "an app with zeros before it": ("0123", f"Bearer {APP_KEY}", 404, "not_found"),
    "an unknown app without a key": ("124", None, 401, "not_authenticated"),
    "a very long number": ("9" * 5_000, f"Bearer {APP_KEY}", 404, "not_found"),
}


@pytest.mark.rule
@pytest.mark.parametrize(("app_id", "authorization", "status", "code"), SHUT.values(), ids=SHUT.keys())
def test_nothing_else_does(app_id: str, authorization: str | None, status: int, code: str) -> None:
    headers = {} if authorization is None else {"authorization": authorization}

    with pytest.raises(Refused) as caught:
        ingest.admit(app_id, headers, ACCOUNTS)

    assert (caught.value.status, [problem.code for problem in caught.value.problems]) == (status, [code])


@pytest.mark.rule
@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, encoded(batch()), 415),
        ({"content-type": "application/vnd.api+json"}, encoded(batch()), 415),
        (JSON | {"content-encoding": "br"}, encoded(batch()), 415),
        (JSON, b" " * 5_242_881, 413),
        (JSON, b"", 400),
    ],
)
def test_what_cannot_be_a_batch_is_refused(headers: dict[str, str], body: bytes, status: int) -> None:
    with pytest.raises(Refused) as caught:
        ingest.read(ACCOUNTS.pipeless[0], headers, body)

    assert caught.value.status == status


def test_a_batch_is_stored_as_one_message() -> None:
    [app, _] = ACCOUNTS.pipeless
    sent: list[tuple[Body, str]] = []
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    request = ingest.read(app, headers, encoded(batch(happening(), happening("u2"))))

    def store(*, body: Body, account_id: str) -> None:
        sent.append((body, account_id))

    accepted = ingest.accept(app, request, store, NOON)

    assert (accepted.account, accepted.events) == (APP, 2)
    [(body, account)] = sent
    assert account == APP
    assert json.loads(body.text) == {
        "sluice": 2,
        "receipt": accepted.receipt,
        "app_id": APP_ID,
        "accepted": "2026-07-20T12:00:00Z",
        "events": [happening(of_user, created_on="2026-07-20T12:00:00") for of_user in ("u1", "u2")],
    }
    stored = message.decode(body.text, lambda _: b"")
    assert isinstance(stored, PipelessMessage)
    assert (stored.account, stored.surface) == (APP, "pipeless")


def test_what_is_not_stored_is_not_accepted() -> None:
    [app, _] = ACCOUNTS.pipeless

    def fail(**_: Any) -> None:
        raise Retryable("no queue")

    with pytest.raises(Retryable):
        ingest.accept(app, ingest.read(app, JSON, encoded(batch())), fail, NOON)


@pytest.mark.rule
def test_errors_are_strings_that_say_where() -> None:
    problems = [
        Problem("invalid", "Wrong.", "/events/0/start_object/id"),
        Problem("parse_error", "Unreadable.", "/"),
        Problem("not_found", "Nothing."),
        Problem("invalid", "5 further problems.", "/data"),
    ]

    assert msgspec.json.decode(ingest.errors(problems)) == {
        "errors": ["/events/0/start_object/id: Wrong.", "Unreadable.", "Nothing.", "5 further problems."]
    }
