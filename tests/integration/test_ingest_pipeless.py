"""Tests Pipeless's route of the ingest function as API Gateway calls it, with a fake Pipeless."""

import asyncio
import gzip
import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx2
import msgspec
import pytest

from devstack.fake_upstream import Pipeless, transport
from sluice.delivery import http
from sluice.pipeless import synchronous
from tests.support.aws_clients import aws_client
from tests.support.aws_stack import forget_secrets, write_accounts
from tests.support.factories import APP_ID, APP_KEY, KEY, SITE_ID, batch, encoded, happening
from tests.support.ingest_app import Answer, Front

ROUTE = f"/v1/apps/{APP_ID}/events/batch"
API_KEY = "pl_never_said"
SECRETS = ["u-s3cret", APP_KEY, API_KEY, KEY]


def key(text: str) -> dict[str, Any]:
    return {"sha256": sha256(text.encode()).hexdigest(), "scopes": ["events:write"]}


DOCUMENT = {
    "accounts": [{"site_id": SITE_ID, "private_key": "pk", "keys": [key(KEY)]}],
    "pipeless": [
        {"app_id": APP_ID, "api_key": API_KEY, "keys": [key(APP_KEY)]},
        {"app_id": 7, "api_key": "pl_other", "keys": [key("other")]},
    ],
}


@pytest.fixture
def pipeless() -> Pipeless:
    return Pipeless({APP_ID: API_KEY})


@pytest.fixture
def app(front: Front, pipeless: Pipeless, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Runs the function with two apps, its requests going to the fake Pipeless."""
    write_accounts(json.dumps(DOCUMENT))
    forget_secrets()
    client = httpx2.AsyncClient(transport=transport(pipeless))
    monkeypatch.setattr(http, "client", lambda: client)
    yield front
    synchronous.runner().close()
    synchronous.runner.cache_clear()


def send(app: Front, document: Any = None, path: str = ROUTE, **headers: Any) -> Answer:
    given = {"Authorization": f"Bearer {APP_KEY}", "Content-Type": "application/json", "revision": None}
    answer = app.send(path, batch() if document is None else document, **(given | headers))
    assert answer.headers["Content-Type"] == "application/json"
    return answer


def errors(answer: Answer) -> list[str]:
    assert answer.document.keys() == {"errors"}
    found: list[str] = msgspec.convert(answer.document["errors"], list[str])
    return found


@pytest.mark.rule
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("fields", [{}, {"synchronous": False}])
def test_a_batch_is_stored_and_answered_with_its_receipt(
    app: Front, pipeless: Pipeless, slash: str, fields: Any
) -> None:
    answer = send(app, batch(happening(), happening("u2"), **fields), ROUTE + slash)

    [queued] = app.queued()
    assert answer.status == 202
    assert answer.document == {"receipt": json.loads(queued)["receipt"]}
    assert len(json.loads(queued)["events"]) == 2
    assert pipeless.requests() == []


@pytest.mark.rule
def test_a_synchronous_batch_is_written_at_once_and_not_stored(app: Front, pipeless: Pipeless) -> None:
    answers = [send(app, batch(happening(f"u{n}"), synchronous=True)) for n in range(2)]

    assert [(answer.status, answer.document) for answer in answers] == [(201, {})] * 2
    assert app.is_empty()
    assert [(call.synchronous, call.events) for call in pipeless.calls()] == [
        (True, [happening(f"u{n}")]) for n in range(2)
    ]


@pytest.mark.rule
def test_a_synchronous_batch_is_refused_in_pipeless_own_words(app: Front, pipeless: Pipeless) -> None:
    pipeless.configure(poison=["bad"])

    answer = send(app, batch(happening("bad"), synchronous=True))

    assert (answer.status, errors(answer)) == (400, ["An id is not valid."])


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"kind": "json", "status": 401}, 502),
        ({"kind": "html", "status": 503}, 502),
        ({"kind": "reset"}, 504),
        ({"kind": "hang"}, 504),
        ({"kind": "throttle", "retry_after": 9}, 429),
    ],
    ids=str,
)
def test_what_fails_upstream_is_said(app: Front, pipeless: Pipeless, fault: Any, status: int) -> None:
    pipeless.configure(faults=[fault])

    answer = send(app, batch(synchronous=True))

    assert answer.status == status
    assert errors(answer)
    assert answer.headers.get("Retry-After") == ("9" if status == 429 else None)
    assert app.is_empty()


def test_an_upstream_that_takes_too_long_is_given_up_in_time(
    app: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(60)
        raise AssertionError

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(never))
    monkeypatch.setattr(http, "client", lambda: client)
    monkeypatch.setattr(synchronous, "SECONDS", 0.1)

    answer = send(app, batch(synchronous=True))

    assert (answer.status, errors(answer)) == (504, ["Pipeless did not answer. It may have taken the batch."])


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "no key": ({"Authorization": None}, 401),
    "an unknown key": ({"Authorization": "Bearer nobody"}, 401),
    "a key of Klaviyo's side": ({"Authorization": f"Bearer {KEY}"}, 401),
    "another app's key": ({"Authorization": "Bearer other"}, 403),
    "an unknown app": ({"path": ROUTE.replace("123", "124")}, 404),
    "an app that is no number": ({"path": ROUTE.replace("123", "x y")}, 404),
    "a path below": ({"path": ROUTE + "/1"}, 404),
    "another path": ({"path": "/v1/apps/123/objects"}, 404),
    "another method": ({"method": "GET"}, 405),
    "another media type": ({"Content_Type": "text/plain"}, 415),
    "another encoding": ({"Content_Encoding": "br"}, 415),
    "too much": ({"document": b'{"x": "' + b"x" * 5_242_880 + b'"}'}, 413),
    "no JSON": ({"document": b"{"}, 400),
    "bad events": ({"document": batch(happening(""), happening(of="hated"))}, 400),
}


@pytest.mark.rule
@pytest.mark.parametrize(("given", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_a_refusal_is_strings(app: Front, given: dict[str, Any], status: int) -> None:
    answer = send(app, **given)

    assert answer.status == status
    assert errors(answer)
    assert answer.headers.get("Allow") == ("POST" if status == 405 else None)
    assert app.is_empty()


@pytest.mark.rule
def test_all_problems_are_told_at_once_with_their_places(app: Front) -> None:
    answer = send(app, batch(happening(""), happening(of="hated", created_on="today")))

    assert [each.split(":")[0] for each in errors(answer)] == [
        "/events/0/start_object/id",
        "/events/1/relationship/type",
        "/events/1/relationship/created_on",
    ]


def test_a_compressed_batch_is_taken(app: Front) -> None:
    answer = send(app, gzip.compress(encoded(batch())), encode=True, Content_Encoding="gzip")

    assert answer.status == 202


@pytest.mark.rule
def test_the_raw_key_is_taken(app: Front) -> None:
    assert send(app, Authorization=APP_KEY).status == 202


def test_nothing_is_accepted_that_cannot_be_stored(app: Front) -> None:
    aws_client("sqs").delete_queue(QueueUrl=app.queue_url)

    answer = send(app)

    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert errors(answer) == ["Nothing was accepted. Send the same request again later."]


def test_a_broken_accounts_document_is_our_fault(app: Front) -> None:
    for _ in range(2):  # or the version before is used
        write_accounts('{"pipeless": 1}')
    forget_secrets()

    answer = send(app)

    assert (answer.status, errors(answer)) == (
        500,
        ["Nothing was accepted, because the gateway failed. Tell its operator."],
    )


def test_no_log_line_says_who_or_what(app: Front, pipeless: Pipeless) -> None:
    pipeless.configure(faults=[{"kind": "json", "status": 400, "count": 1}])
    for document in (batch(happening("u-s3cret")), batch(happening("u-s3cret"), synchronous=True)):
        send(app, document)
        send(app, document)
    send(app, batch(happening("u-s3cret" * 9)))
    said = app.said

    assert "accepted" in said
    assert "forwarded" in said
    assert [secret for secret in SECRETS if secret in said] == []
