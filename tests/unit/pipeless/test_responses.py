"""Tests the meaning of Pipeless's answers, and what a waiting caller is told of them."""

import json
from typing import Any

import pytest

from sluice.delivery.responses import Accepted, AccountRejected, JobRejected, RateLimited, Response, Transient
from sluice.pipeless import synchronous
from sluice.pipeless.responses import classify, errors

JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}
PAGE = b"<!DOCTYPE html><title>Just a moment...</title>"
SAID = b'{"errors":["id is too long","type is not known"]}'


def answer(status: int | None, body: bytes = b"{}", headers: dict[str, str] = JSON) -> Response:
    return Response(status, headers, body)


ANSWERS: dict[str, tuple[Response, type, int]] = {
    # what came: what it means, what a caller who waits is told
    "accepted": (answer(202), Accepted, 202),
    "created": (answer(201), Accepted, 201),
    "empty": (answer(202, b"", {}), Accepted, 202),
    "a page that says 200": (answer(200, PAGE, HTML), Transient, 502),
    "bad": (answer(400, SAID), JobRejected, 400),
    "bad without words": (answer(400, b""), JobRejected, 400),
    "bad without strings": (answer(400, b'{"errors":[{"detail":"x"}]}'), JobRejected, 400),
    "too large": (answer(413), JobRejected, 413),
    "unprocessable": (answer(422, SAID), JobRejected, 422),
    "a page that says 400": (answer(400, PAGE, HTML), Transient, 502),
    "wrong key": (answer(401, b'{"errors":["no"]}'), AccountRejected, 502),
    "wrong key as a page": (answer(401, PAGE, HTML), AccountRejected, 502),
    "quota": (answer(402, b'{"errors":["no"]}'), AccountRejected, 502),
    "forbidden": (answer(403, b'{"errors":["no"]}'), AccountRejected, 502),
    "a challenge": (answer(403, PAGE, HTML), Transient, 502),
    "forbidden by whom": (answer(403, b""), Transient, 502),
    "forbidden without errors": (answer(403, b'{"message":"no"}'), AccountRejected, 502),
    "no such app": (answer(404, b'{"errors":["no"]}'), AccountRejected, 502),
    "moved": (answer(301), Transient, 502),
    "slow": (answer(408), Transient, 502),
    "throttled": (answer(429), RateLimited, 429),
    "broken": (answer(500, SAID), Transient, 502),
    "a bad gateway": (answer(502, PAGE, HTML), Transient, 502),
    "away": (answer(503), Transient, 502),
    "silent": (Response(None, failure="ReadTimeout"), Transient, 504),
}


@pytest.mark.parametrize(("given", "meaning", "_"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_an_answer_means(given: Response, meaning: type, _: int) -> None:
    assert isinstance(classify(given), meaning)


@pytest.mark.parametrize(("given", "_", "status"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_a_caller_who_waits_is_told(given: Response, _: type, status: int) -> None:
    reply = synchronous.reply(given)

    document: Any = json.loads(reply.body)
    assert reply.status == status
    assert status < 300 or all(isinstance(each, str) for each in document["errors"])


def test_a_caller_hears_pipeless_own_words_about_a_batch() -> None:
    assert json.loads(synchronous.reply(answer(400, SAID)).body) == json.loads(SAID)
    assert synchronous.reply(answer(201, b'{"created":2}')).body == b'{"created":2}'
    assert synchronous.reply(answer(201, b"taken")).body == b"{}"


def test_a_caller_hears_nothing_of_the_key() -> None:
    told = synchronous.reply(answer(401, b'{"errors":["pl_secret is wrong"]}'))

    assert b"secret" not in told.body


@pytest.mark.parametrize(
    ("status", "said"), [(500, "may have taken"), (None, "may have taken"), (401, "Nothing was taken")]
)
def test_a_caller_is_told_whether_it_may_have_been_taken(status: int | None, said: str) -> None:
    [text] = json.loads(synchronous.reply(answer(status)).body)["errors"]

    assert said in text


@pytest.mark.parametrize(
    ("headers", "after"), [({}, None), ({"retry-after": "7"}, "7"), ({"retry-after": "0.2"}, "1")]
)
def test_a_throttle_is_passed_on_with_its_time(headers: dict[str, str], after: str | None) -> None:
    assert synchronous.reply(answer(429, headers=headers)).headers.get("Retry-After") == after


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b"{", b"[" * 9_999, b'{"errors":"x"}', b'{"errors":[1]}']
)
def test_words_that_are_none_are_left_out(body: bytes) -> None:
    assert errors(answer(400, body)) == []


def test_a_rejection_says_no_more_than_it_has_to() -> None:
    verdict = classify(answer(400, json.dumps({"errors": ["x" * 300] * 3}).encode()))

    assert isinstance(verdict, JobRejected)
    assert len(verdict.fault.detail) == 500
