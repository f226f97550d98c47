"""Tests the ingest function as API Gateway calls it, with SQS, S3 and Secrets Manager emulated in process."""

import gzip
import json
import os
import string
import subprocess
import sys
from typing import Any

import pytest

from sluice import accounts_cache, message, runtime, settings
from sluice.aws import s3
from sluice.contract import MAX_BODY_BYTES_IN
from sluice.klaviyo import parser
from tests.support.aws_clients import aws_client
from tests.support.aws_stack import write_accounts
from tests.support.factories import (
    KEY,
    NEWEST,
    SITE_ID,
    bulk,
    client_bulk,
    encoded,
    entry,
    event,
    flat,
    profile,
    single,
)
from tests.support.ingest_app import (
    BULK,
    CLIENT_BULK,
    CLIENT_EVENT,
    EVENT,
    OTHER_KEY,
    READ_ONLY_KEY,
    Answer,
    Front,
    document_of_keys,
    proxy_event,
)
from tests.support.parsing import decoded

# Words that must never be logged: each is somewhere in the requests below.
SECRETS = ["ann@example.com", "s3cret", KEY, READ_ONLY_KEY, "pk_unknown", "pk_upstream"]


def no_claim(key: str) -> bytes:
    raise AssertionError(f"{key} is not where this message is")


def test_a_cold_start_loads_only_what_the_first_answer_needs() -> None:
    """Checks that a refusal needs no SDK, which costs more than all of the function."""
    modules = "import runpy, sys; runpy.run_path('functions/ingest/app.py'); print(*sys.modules)"
    environment = {"PYTHONPATH": "layers/sluice", "POWERTOOLS_SERVICE_NAME": "sluice-ingest"}

    run = subprocess.run(
        [sys.executable, "-c", modules], env=environment, capture_output=True, text=True, check=True
    )

    assert {"boto3", "httpx2", "hypothesis", "pydantic"}.isdisjoint(run.stdout.split())


@pytest.mark.rule
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("path", "document", "query"),
    [
        (BULK, bulk(), None),
        (EVENT, single(), None),
        (EVENT, flat(), None),
        (CLIENT_BULK, client_bulk(), {"company_id": SITE_ID}),
        (CLIENT_EVENT, single(), {"company_id": SITE_ID}),
    ],
)
def test_each_route_stores_one_message_and_answers_with_its_receipt(
    front: Front, path: str, document: Any, query: dict[str, str] | None, slash: str
) -> None:
    answer = front.send(path + slash, document, query=query)

    [queued] = front.queued()
    stored = decoded(queued, no_claim)
    assert answer.status == 202
    assert answer.headers["Content-Type"] == "application/vnd.api+json"
    assert answer.document["data"]["id"] == stored.receipt
    assert answer.document["data"]["attributes"]["total_count"] == 1
    assert stored.account == SITE_ID
    assert front.claims() == []


@pytest.mark.parametrize("name", ["ingest", "ingest-event"])
def test_the_sample_events_are_real_requests(front: Front, name: str) -> None:
    request = proxy_event(name)
    authorization = request["headers"]["Authorization"]
    write_accounts(document_of_keys((authorization.split()[-1], "events:write")))

    assert front.invoke(request).status == 202
    assert len(front.queued()) == 1


@pytest.mark.rule
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_header_names_may_have_any_case(front: Front, spell: Any) -> None:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json", "revision": NEWEST}
    request = proxy_event() | {"multiValueHeaders": {spell(name): [value] for name, value in headers.items()}}

    assert front.invoke(request).status == 202


def test_a_header_that_is_sent_twice_is_one_list(front: Front) -> None:
    standard = {
        "Authorization": [f"Bearer {KEY}"],
        "Content-Type": ["application/json"],
        "revision": [NEWEST],
    }

    def answer(**headers: list[str]) -> Answer:
        given = standard | headers
        last = {name: values[-1] for name, values in given.items()}
        body = json.dumps(bulk())
        return front.invoke(proxy_event() | {"headers": last, "multiValueHeaders": given, "body": body})

    preferred = answer(Prefer=["return=minimal", "handling=lenient"])

    assert preferred.headers["Preference-Applied"] == "handling=lenient, return=minimal"
    assert answer(Authorization=["Bearer pk_unknown", f"Bearer {KEY}"]).codes == ["not_authenticated"]
    assert answer(revision=[NEWEST, NEWEST]).codes == ["invalid"]


def test_an_event_written_by_hand_may_have_headers_with_one_value_only(front: Front) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "revision": NEWEST}

    assert front.invoke(proxy_event() | {"headers": headers, "multiValueHeaders": None}).status == 202


def test_a_body_may_come_in_base64_and_compressed(front: Front) -> None:
    assert front.send(document=bulk(), encode=True).status == 202
    assert (
        front.send(document=gzip.compress(encoded(bulk())), encode=True, Content_Encoding="gzip").status
        == 202
    )
    assert len(front.queued()) == 2


@pytest.mark.parametrize(
    "missing", [{"body": None}, {"headers": None, "multiValueHeaders": None}, {"queryStringParameters": None}]
)
def test_what_api_gateway_leaves_out_is_no_fault(front: Front, missing: dict[str, Any]) -> None:
    assert front.invoke(proxy_event() | missing).status in {400, 401}
    assert front.is_empty()


def test_a_large_body_that_does_not_compress_is_claimed(front: Front) -> None:
    alphabet = (string.ascii_letters + string.digits).encode()
    noise = os.urandom(4_000_000).translate(bytes(alphabet[each % 62] for each in range(256))).decode()
    events = [event(properties={"noise": noise[at : at + 100_000]}) for at in range(0, len(noise), 100_000)]

    answer = front.send(document=bulk(entry(*events)))

    [key] = front.claims()
    [queued] = front.queued()
    assert answer.status == 202
    said = json.loads(queued)
    assert (said["claim"], said["size"]) == (key, message.unpacked_size(queued))
    stored = decoded(queued, s3.claim_reader("claims"))
    assert len(stored.entries[0].events) == len(events)
    assert noise[:100_000].encode() in bytes(stored.entries[0].events[0].attributes)


LAMBDA_REQUEST_BYTES = 6_291_456
ESCAPED = 1_000_000  # what docs/sending.md allows a body of the largest size


def densest() -> bytes:
    """Makes a bulk body of the largest size; a fifth of its characters take two bytes in a JSON string."""
    dense = {f"{number:03}": "" for number in range(240)}
    events = [event(properties={**dense, "n": number, "fill": ""}) for number in range(1_000)]

    def written() -> bytes:
        return json.dumps(bulk(entry(*events)), separators=(",", ":")).encode()

    missing = ESCAPED - written().count(b'"')
    each, rest = divmod(MAX_BODY_BYTES_IN - len(written()) - missing, len(events))
    for number, made in enumerate(events):
        made["attributes"]["properties"]["fill"] = "x" * (each + (number < rest))
    events[0]["attributes"]["properties"]["fill"] += '"' * (missing // 2)
    return written()


@pytest.mark.rule
def test_the_densest_body_of_the_largest_size_fits_a_lambda_request(front: Front) -> None:
    body = densest()
    assert len(body) == MAX_BODY_BYTES_IN
    assert sum(body.count(each) for each in (b'"', b"\\")) == ESCAPED
    request = json.dumps(proxy_event() | {"body": body.decode()}).encode()

    answer = front.send(document=body)

    assert len(request) <= LAMBDA_REQUEST_BYTES - 10_240  # as much as headers may take
    assert (answer.status, answer.document["data"]["attributes"]["total_count"]) == (202, 1_000)
    assert len(front.queued()) == 1


@pytest.mark.parametrize("character", ["\ufffe", "\uffff", "\x00", "\U0001f389", "\x7f"])
def test_every_character_gets_to_the_queue(front: Front, character: str) -> None:
    assert front.send(document=bulk(entry(event(properties={"p": character})))).status == 202

    [queued] = front.queued()
    [stored] = decoded(queued, no_claim).entries
    assert json.loads(bytes(stored.events[0].attributes))["properties"] == {"p": character}


@pytest.mark.rule
def test_what_was_left_out_is_announced(front: Front) -> None:
    document = bulk(entry(of=profile(email="ann@example.com", phone_number="5")))

    assert front.send(document=document).headers["X-Klaviyo-Partial-Failure"] == "phone_number"
    assert "X-Klaviyo-Partial-Failure" not in front.send().headers


@pytest.mark.rule
def test_who_prefers_a_minimal_answer_gets_an_empty_one(front: Front) -> None:
    answer = front.send(Prefer="return=minimal")

    assert (answer.status, answer.text) == (202, "")
    assert answer.headers["Preference-Applied"] == "return=minimal"


def test_text_that_the_gateway_could_not_decode_is_refused_unless_it_is_meant(front: Front) -> None:
    latin = '{"data": "\u00e9"}'.encode("latin-1").decode(errors="replace").encode()
    meant = json.dumps(bulk(entry(event(properties={"p": "\ufffd"})))).encode()

    assert front.send(document=latin).codes == ["parse_error"]
    assert front.send(document=encoded(json.loads(meant))).codes == ["parse_error"]
    assert front.send(document=encoded(json.loads(meant)), encode=True).status == 202
    assert front.send(document=meant).status == 202


BAD = bulk(entry(event(time="s3cret"), of=profile(email="ann@example.com", first_name=["s3cret"])))
REFUSED: list[tuple[int, str, dict[str, Any]]] = [
    (400, "parse_error", {"document": b""}),
    (400, "parse_error", {"document": b"{'s3cret'"}),
    (400, "parse_error", {"document": b'{"s3cret": "\xff"}'}),
    (400, "parse_error", {"document": b'{"s3cret": "\xff"}', "encode": True}),
    (400, "parse_error", {"document": b'{"s3cret": 1, "s3cret": 2}'}),
    (400, "parse_error", {"document": b"s3cret", "Content_Encoding": "gzip"}),
    (400, "invalid", {"document": BAD}),
    (400, "invalid", {"document": bulk(*[entry()] * 1_001)}),
    (400, "invalid", {"revision": None}),
    (400, "invalid", {"path": CLIENT_EVENT, "document": single(), "query": {"company_id": "s3cret"}}),
    (400, "invalid", {"path": CLIENT_EVENT, "document": single(), "query": {"company_id": KEY}}),
    (400, "invalid", {"path": CLIENT_EVENT, "document": single(), "Authorization": f"Bearer {KEY}"}),
    (401, "not_authenticated", {"Authorization": None}),
    (401, "not_authenticated", {"Authorization": KEY}),
    (401, "authentication_failed", {"Authorization": "Klaviyo-API-Key pk_unknown"}),
    (403, "permission_denied", {"Authorization": f"Klaviyo-API-Key {READ_ONLY_KEY}"}),
    (404, "not_found", {"path": "/s3cret"}),
    (404, "not_found", {"path": "/api/events/s3cret"}),
    (404, "not_found", {"path": "/api//events", "method": "GET"}),
    (404, "not_found", {"path": f"{BULK}//s3cret"}),
    (404, "not_found", {"path": f'{BULK}/"s3cret"', "method": "GET"}),
    (405, "method_not_allowed", {"method": "GET"}),
    (405, "method_not_allowed", {"method": "PUT", "path": f"{CLIENT_EVENT}/"}),
    (405, "method_not_allowed", {"path": f"{BULK}/s3cret"}),
    (405, "method_not_allowed", {"method": "OPTIONS"}),
    (410, "gone", {"revision": "2022-10-17", "X_Klaviyo_Revision_Fall_Forward_Opt_Out": "1"}),
    (413, "payload_too_large", {"document": b" " * 5_242_881}),
    (415, "unsupported_media_type", {"Content_Type": "text/plain"}),
    (415, "unsupported_media_type", {"Content_Encoding": "br"}),
]


@pytest.mark.rule
@pytest.mark.parametrize(
    ("status", "code", "request_"), REFUSED, ids=[f"{status}-{code}" for status, code, _ in REFUSED]
)
def test_a_refusal_is_the_documented_one_stores_nothing_and_gives_nothing_away(
    front: Front, caplog: pytest.LogCaptureFixture, status: int, code: str, request_: dict[str, Any]
) -> None:
    answer = front.send(**request_)

    assert answer.status == status
    assert set(answer.codes) == {code}
    assert answer.headers["Content-Type"] == "application/vnd.api+json"
    assert answer.headers.get("Allow") == (allowed(request_) if status == 405 else None)
    assert front.is_empty()
    assert "RefusedRequests" in front.said
    said = front.said + caplog.text
    assert [secret for secret in SECRETS if secret in said] == []


@pytest.mark.parametrize(
    "path", ["/api/profiles", "/client/subscriptions/", "/api/event-bulk-create-jobs/1/2"]
)
def test_another_call_of_klaviyos_is_told_where_to_go(front: Front, path: str) -> None:
    answer = front.send(path=path)

    assert answer.status == 404
    assert "send this one to Klaviyo" in answer.document["errors"][0]["detail"]


def allowed(request: dict[str, Any]) -> str:
    path = request.get("path", BULK)
    return "POST, OPTIONS" if path.startswith("/client/") else "GET" if path != BULK else "POST"


def test_what_is_accepted_gives_nothing_away_either(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    answer = front.send(document=bulk(entry(event(properties={"p": "s3cret"}))))

    said = front.said + caplog.text
    assert answer.status == 202
    assert answer.document["data"]["id"] in said
    assert "AcceptedEvents" in said
    assert [secret for secret in SECRETS if secret in said] == []


def unavailable(front: Front) -> bool:
    answer = front.send()
    said = front.said
    return (
        (answer.status, answer.codes, answer.headers["Retry-After"]) == (503, ["unavailable"], "5")
        and "FailedRequests" in said
        and not any(secret in said for secret in SECRETS)
    )


@pytest.mark.rule
def test_without_its_queue_nothing_is_accepted(front: Front) -> None:
    aws_client("sqs").delete_queue(QueueUrl=front.queue_url)

    assert unavailable(front)


@pytest.mark.rule
def test_without_its_accounts_nothing_is_accepted(front: Front) -> None:
    aws_client("s3").delete_object(Bucket="configuration", Key="accounts.json")

    assert unavailable(front)
    assert front.is_empty()


@pytest.mark.parametrize("secret", ["not JSON", '{"accounts": [{"site_id": "pk_upstream"}]}'])
def test_accounts_of_which_there_is_no_good_version_are_this_sides_fault(front: Front, secret: str) -> None:
    for _ in range(2):
        write_accounts(secret)

    answer = front.send()

    assert (answer.status, answer.codes) == (500, ["error"])
    assert "misconfigured" in front.said
    assert "pk_upstream" not in front.said
    assert front.is_empty()


@pytest.mark.parametrize("is_new_process", [False, True], ids=["running", "new"])
@pytest.mark.parametrize(
    "broken", ["not JSON", "", '{"accounts": 5}', document_of_keys((KEY, "events:write"))[:-40]]
)
def test_a_broken_accounts_document_stops_no_request(
    front: Front, monkeypatch: pytest.MonkeyPatch, broken: str, is_new_process: bool
) -> None:
    if not is_new_process:
        assert front.send().status == 202
    write_accounts(broken or " ")
    later = runtime.monotonic() + accounts_cache.CACHE_SECONDS
    monkeypatch.setattr(runtime, "monotonic", lambda: later)

    assert front.send().status == 202
    assert front.send(Authorization="Klaviyo-API-Key pk_unknown").status == 401

    assert front.said.count("accounts not loaded") == 1
    assert front.said.count('"AccountsLoadFailures":[1.0]') == 1
    assert "pk_upstream" not in front.said


def test_an_account_without_a_usable_copy_is_told_to_try_later_and_costs_no_other(front: Front) -> None:
    document = json.loads(document_of_keys((KEY, "events:write")))
    document["accounts"][1]["name"] = "Main shop"
    for _ in range(2):
        write_accounts(json.dumps(document))

    assert front.send().status == 202
    assert front.send(Authorization=f"Klaviyo-API-Key {OTHER_KEY}").status == 503
    assert front.send(CLIENT_EVENT, single(), query={"company_id": "XyZ789"}).status == 503


@pytest.mark.parametrize(("path", "document"), [(BULK, bulk()), (CLIENT_EVENT, single())])
def test_settings_that_are_missing_are_this_sides_fault(
    front: Front, monkeypatch: pytest.MonkeyPatch, path: str, document: Any
) -> None:
    monkeypatch.delenv("SLUICE_ALLOWED_ORIGINS")
    settings.load.cache_clear()

    answer = front.send(path, document)

    assert (answer.status, answer.codes) == (500, ["error"])
    assert "SLUICE_ALLOWED_ORIGINS is not set" in front.said


@pytest.mark.rule
def test_an_unexpected_fault_says_where_but_not_what(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("s3cret")

    monkeypatch.setattr(parser, "read", broken)

    answer = front.send()

    said = front.said
    assert (answer.status, answer.codes) == (500, ["error"])
    assert "ValueError" in said
    assert "broken:" in said
    assert "s3cret" not in said + answer.text
    assert front.is_empty()


def test_a_new_key_works_once_the_cached_accounts_expire(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert front.send().status == 202
    write_accounts(document_of_keys(("pk_new", "events:write")))

    before = front.send(Authorization="Klaviyo-API-Key pk_new").status
    later = runtime.monotonic() + accounts_cache.CACHE_SECONDS
    monkeypatch.setattr(runtime, "monotonic", lambda: later)

    assert before == 401
    assert front.send(Authorization="Klaviyo-API-Key pk_new").status == 202
    assert front.send().status == 401
