"""Tests the four routes over HTTP: the official SDK against the whole stack, and every kind of bad input."""

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from klaviyo_api import KlaviyoAPI
from openapi_client.exceptions import ApiException

from tests.e2e.conftest import Stack, eventually
from tests.support.factories import NEWEST, bulk, client_bulk, encoded, entry, event, metric, profile, single

BULK = "/api/event-bulk-create-jobs"


def fresh_email() -> str:
    return f"{uuid.uuid4().hex}@example.com"


def post(stack: Stack, path: str, body: bytes, **headers: str | None) -> httpx2.Response:
    standard: dict[str, str | None] = {
        "Authorization": None if path.startswith("/client") else f"Klaviyo-API-Key {stack.key}",
        "Content-Type": "application/vnd.api+json",
        "revision": NEWEST,
    }
    given = standard | {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in given.items() if value is not None}
    return httpx2.post(stack.api + path, content=body, headers=sent, timeout=30)


def sdk(stack: Stack, key: str | None = None) -> Any:
    return KlaviyoAPI(key or stack.key, max_retries=1, test_host=stack.api).Events


def test_a_bulk_request_of_the_sdk_arrives_field_by_field(stack: Stack) -> None:
    email = fresh_email()
    attributes = {
        "properties": {
            "product": "Desk lamp",
            "tags": ["a", "ü"],
            "nothing": None,
            "$extra": {"html": "<b>"},
        },
        "metric": metric("Viewed Product", service="shop"),
        "time": datetime(2026, 3, 2, 9, 15, 27, tzinfo=UTC),
        "value": 9.99,
        "value_currency": "USD",
        "unique_id": "view-1",
    }
    of = profile(
        email=email,
        external_id="customer-1",
        first_name="Ann",
        location={"city": "Porto", "latitude": 41.15},
        properties={"plan": "gold"},
    )

    sdk(stack).bulk_create_events(bulk(entry(event(**attributes), of=of)))

    [taken] = eventually(lambda: stack.taken_of(email))
    assert taken["event"] == {**attributes, "time": "2026-03-02T09:15:27Z"}
    assert taken["profile"] == of["data"]


def test_a_single_event_of_the_sdk_arrives_stamped(stack: Stack) -> None:
    email = fresh_email()
    before = datetime.now(UTC).replace(microsecond=0)

    sdk(stack).create_event(single(profile(email=email)))

    [taken] = eventually(lambda: stack.taken_of(email))
    stamped = datetime.fromisoformat(taken["event"].pop("time"))
    assert before <= stamped <= datetime.now(UTC)
    assert len(taken["event"].pop("unique_id")) == 32
    assert taken["event"] == event()["attributes"]


@pytest.mark.parametrize(
    ("key", "document", "status", "code"),
    [
        ("key", bulk(entry(of=profile(email="nobody"))), 400, "invalid"),
        ("unknown", bulk(), 401, "authentication_failed"),
        ("read_only_key", bulk(), 403, "permission_denied"),
    ],
)
def test_the_sdk_raises_what_it_raises_with_klaviyo(
    stack: Stack, key: str, document: dict[str, Any], status: int, code: str
) -> None:
    with pytest.raises(ApiException) as raised:
        sdk(stack, getattr(stack, key, "pk_unknown")).bulk_create_events(document)

    assert raised.value.status == status
    assert raised.value.body is not None
    assert [error["code"] for error in json.loads(raised.value.body)["errors"]] == [code]


def test_an_anonymous_callers_events_arrive_with_one_identifier(stack: Stack) -> None:
    email = fresh_email()
    of = profile(email=email, external_id="victim", meta={"patch_identifiers": {"append": {"id": "x"}}})
    query = f"?company_id={stack.site_id}"

    single_answer = post(stack, f"/client/events/{query}", encoded(single(of)))
    bulk_answer = post(
        stack, f"/client/event-bulk-create{query}", encoded(client_bulk(event(value=1), of=of))
    )

    assert (single_answer.status_code, bulk_answer.status_code) == (202, 202)
    eventually(lambda: len(stack.taken_of(email)) == 2)
    assert [each["profile"] for each in stack.taken_of(email)] == [profile(email=email)["data"]] * 2


def test_every_event_of_a_large_request_arrives_once(stack: Stack) -> None:
    emails = [fresh_email() for _ in range(3)]
    noise = [uuid.uuid4().hex * 60 for _ in range(900)]
    entries = [
        entry(
            *[event(properties={"n": n, "noise": noise[n]}) for n in range(number, 900, 3)],
            of=profile(email=email),
        )
        for number, email in enumerate(emails)
    ]

    assert post(stack, BULK, encoded(bulk(*entries))).status_code == 202

    eventually(lambda: sum(len(stack.taken_of(email)) for email in emails) >= 900)
    numbers = [each["event"]["properties"]["n"] for email in emails for each in stack.taken_of(email)]
    assert sorted(numbers) == list(range(900))


def test_a_receipt_tells_when_its_events_have_arrived(stack: Stack) -> None:
    email = fresh_email()
    document = bulk(entry(event(), event(value=1), of=profile(email=email)))
    receipt = post(stack, BULK, encoded(document)).json()["data"]["id"]
    headers = {"Authorization": f"Klaviyo-API-Key {stack.key}"}

    def ask() -> dict[str, Any]:
        answer = httpx2.get(f"{stack.api}{BULK}/{receipt}", headers=headers)
        told: dict[str, Any] = answer.json()["data"]["attributes"]
        return told

    assert ask()["total_count"] == 2
    eventually(lambda: ask()["status"] == "complete")
    assert (ask()["completed_count"], ask()["failed_count"]) == (2, 0)
    assert len(stack.taken_of(email)) == 2
    assert httpx2.get(f"{stack.api}{BULK}/{receipt}").status_code == 401
    assert httpx2.get(f"{stack.api}{BULK}/{uuid.uuid4().hex}", headers=headers).status_code == 404


def test_the_good_events_of_a_lenient_request_arrive_and_the_bad_ones_are_archived(stack: Stack) -> None:
    email = fresh_email()
    of = profile(email=email)
    document = bulk(entry(event(value="9"), event(value=9), of=of))
    answer = post(stack, BULK, encoded(document), Prefer="handling=lenient")
    receipt = answer.json()["data"]["id"]

    def archived() -> list[dict[str, Any]]:
        return [each for each in stack.archived() if each.get("receipt") == receipt]

    assert answer.status_code == 202
    eventually(lambda: archived() and stack.taken_of(email))
    assert [each["event"]["value"] for each in stack.taken_of(email)] == [9]
    [rejection] = archived()
    [error] = answer.json()["meta"]["errors"]
    assert rejection["pointer"] == error["source"]["pointer"]
    assert rejection["payload"]["events"] == [event(value="9")["attributes"]]


BAD_EVENT = {**event()["attributes"], "extra": 1}
BAD: list[tuple[str, int, str, dict[str, Any]]] = [
    ("not JSON", 400, "parse_error", {"body": b"not JSON"}),
    ("wrong encoding", 400, "parse_error", {"body": '{"data": "\u00e9"}'.encode("latin-1")}),
    ("empty", 400, "parse_error", {"body": b""}),
    ("repeated key", 400, "parse_error", {"body": b'{"data": 1, "data": 2}'}),
    ("wrong type", 400, "invalid", {"body": encoded(bulk(entry(event(value="9.99"))))}),
    (
        "unknown field",
        400,
        "invalid",
        {"body": encoded(bulk(entry({"type": "event", "attributes": BAD_EVENT})))},
    ),
    ("too many", 400, "invalid", {"body": encoded(bulk(entry(*[event()] * 1_001)))}),
    ("too old", 400, "invalid", {"body": encoded(bulk(entry(event(time="1989-12-31T23:59:59Z"))))}),
    ("no revision", 400, "invalid", {"revision": None}),
    ("future revision", 400, "invalid", {"revision": f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"}),
    ("unknown site", 400, "invalid", {"path": "/client/events?company_id=Nobody"}),
    ("no site", 400, "invalid", {"path": "/client/event-bulk-create"}),
    (
        "key on a client route",
        400,
        "invalid",
        {"path": "/client/events", "Authorization": "Bearer pk_exposed"},
    ),
    ("no key", 401, "not_authenticated", {"Authorization": None}),
    ("wrong scheme", 401, "not_authenticated", {"Authorization": "Basic cGs6"}),
    ("wrong key", 401, "authentication_failed", {"Authorization": "Klaviyo-API-Key pk_unknown"}),
    ("no such path", 404, "not_found", {"path": "/api/profiles"}),
    (
        "retired revision",
        410,
        "gone",
        {"revision": "2022-10-17", "X_Klaviyo_Revision_Fall_Forward_Opt_Out": "1"},
    ),
    ("too large", 413, "payload_too_large", {"body": b" " * 5_242_881}),
    ("wrong media type", 415, "unsupported_media_type", {"Content_Type": "text/csv"}),
    ("wrong content encoding", 415, "unsupported_media_type", {"Content_Encoding": "br"}),
]


def test_no_bad_request_gets_anywhere(stack: Stack) -> None:
    taken, archived, claims = len(stack.taken()), len(stack.archived()), stack.claims()

    for name, status, code, request in BAD:
        answer = post(stack, **{"path": BULK, "body": encoded(bulk()), **request})
        errors = answer.json()["errors"]
        assert (answer.status_code, {error["code"] for error in errors}) == (status, {code}), name
        assert answer.headers["Content-Type"] == "application/vnd.api+json", name
        assert stack.waiting("EventsQueueUrl") == 0, name
    time.sleep(2)  # longer than a window: what was stored would have gone on by now

    assert len(stack.taken()) == taken
    assert len(stack.archived()) == archived
    assert stack.claims() == claims


def test_another_method_is_told_which_one_is_allowed(stack: Stack) -> None:
    answer = httpx2.get(f"{stack.api}{BULK}")

    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert answer.json()["errors"][0]["code"] == "method_not_allowed"


def test_the_gateways_own_answer_is_like_every_other(stack: Stack) -> None:
    answer = httpx2.get(f"{stack.api}/")  # no path at all: nothing that our code is asked about

    [error] = answer.json()["errors"]
    assert (answer.status_code, error["status"], error["code"]) == (404, 404, "not_found")
    assert answer.headers["Content-Type"] == "application/vnd.api+json"


def test_a_browser_may_call_the_client_routes_and_no_others(stack: Stack) -> None:
    asking = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}

    allowed = httpx2.options(f"{stack.api}/client/events?company_id={stack.site_id}", headers=asking)
    refused = httpx2.options(f"{stack.api}{BULK}", headers=asking)

    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert "revision" in allowed.headers["Access-Control-Allow-Headers"]
    assert refused.status_code == 405
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_a_malformed_message_is_set_aside_at_once_and_its_neighbours_arrive(stack: Stack) -> None:
    emails = [fresh_email() for _ in range(3)]
    marker = uuid.uuid4().hex
    malformed = [
        f"not JSON {marker}",
        f'{{"sluice":1,"zstd":"{marker}"}}',
        f'{{"sluice":1,"receipt":"{marker}"}}',
    ]
    invalid = [json.dumps({"data": {"type": marker}}), json.dumps(bulk(entry(event(value=marker))))]

    for email, bad in zip(emails, malformed, strict=True):
        stack.put(bad)
        stack.put(json.dumps(bulk(entry(of=profile(email=email)))))
    for bad in invalid:
        stack.put(bad)

    def set_aside() -> dict[str, str]:
        found = [each for each in stack.archived() if isinstance(each["payload"], str)]
        return {each["payload"]: each["reason"] for each in found if marker in each["payload"]}

    eventually(lambda: len(set_aside()) == 5 and all(map(stack.taken_of, emails)))
    reasons = dict.fromkeys(malformed, "not_sealed") | dict.fromkeys(invalid, "invalid")
    assert set_aside() == reasons | {malformed[0]: "malformed_message"}
    assert [len(stack.taken_of(email)) for email in emails] == [1, 1, 1]
    # A second receive would have to wait out the visibility timeout, which is minutes.
    assert eventually(lambda: stack.waiting("EventsQueueUrl") == 0, seconds=5)
    assert stack.waiting("EventsDeadLetterQueueUrl") == 0


def test_a_producers_own_body_is_stamped_and_delivered(stack: Stack) -> None:
    email = fresh_email()

    stack.put(json.dumps(bulk(entry(event(), event(unique_id="mine"), of=profile(email=email)))))

    eventually(lambda: len(stack.taken_of(email)) == 2)
    ids = [each["event"]["unique_id"] for each in stack.taken_of(email)]
    assert sorted(map(len, ids)) == [len("mine"), 32]


def test_the_api_is_described_beside_its_routes(stack: Stack) -> None:
    description = httpx2.get(f"{stack.api}/openapi.json", timeout=30)
    page = httpx2.get(f"{stack.api}/docs", timeout=30)
    again = httpx2.get(f"{stack.api}/docs", headers={"If-None-Match": page.headers["ETag"]}, timeout=30)

    assert BULK in description.json()["paths"]
    assert page.headers["Content-Type"].startswith("text/html")
    assert "SwaggerUIBundle" in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert (again.status_code, again.content) == (304, b"")
