"""Tests the webhook route as API Gateway calls it: nothing is stored that is not verified."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from sluice.aws import clients
from sluice.contract import Surface
from sluice.message import StoredMessage
from sluice.webhooks import mapping, sources
from tests.support.aws_clients import aws_client
from tests.support.factories import SITE_ID
from tests.support.ingest_app import Answer, Front
from tests.support.parsing import decoded
from tests.support.signing import SECRETS, SIGNERS, body_of, scheme_of
from tests.support.webhook_samples import Sample, document, own, sample

HOOK = "/webhooks/shop"
ORDER = sample("shopify", "orders_create")
TOPIC = {"x-shopify-topic": "orders/create", "x-shopify-webhook-id": "delivery-1"}


def write(written: dict[str, Any]) -> None:
    aws_client("s3").put_object(Bucket="configuration", Key=sources.KEY, Body=json.dumps(written).encode())


def keep_secret(text: str, name: str = "shop") -> None:
    aws_client("secretsmanager").create_secret(Name=f"sluice/webhooks/{name}", SecretString=text)


@pytest.fixture
def shop(front: Front) -> Front:
    """Runs ingest with a source "shop" of Shopify's."""
    write(document())
    keep_secret(SECRETS["shopify"])
    return front


def deliver(
    front: Front, body: bytes, headers: dict[str, str], *, path: str = HOOK, encode: bool = False
) -> Answer:
    named = {"Authorization": None, "revision": None, "Content-Type": "application/json"} | headers
    return front.send(path, body, encode=encode, **named)  # type: ignore[arg-type]


def order(front: Front, of: Sample = ORDER, /, **changes: str) -> Answer:
    return deliver(
        front, of.body, TOPIC | SIGNERS["shopify"](SECRETS["shopify"], of.body, datetime.now(UTC)) | changes
    )


def said(front: Front, message: str) -> list[dict[str, Any]]:
    """Returns the log lines with this message."""
    lines = map(json.loads, front.said.splitlines())
    return [line for line in lines if line.get("message") == message]


def stored(front: Front) -> StoredMessage:
    [body] = front.queued()
    return decoded(body, lambda _: b"")


@pytest.mark.parametrize("encode", [False, True])
def test_an_order_is_stored_as_one_message(front: Front, shop: Front, encode: bool) -> None:
    headers = TOPIC | SIGNERS["shopify"](SECRETS["shopify"], ORDER.body, datetime.now(UTC))

    answer = deliver(front, ORDER.body, headers, encode=encode)

    found = stored(front)
    assert (answer.status, answer.document["meta"]["events"]) == (202, 6)
    assert answer.document["meta"]["receipt"] == found.receipt
    assert (found.account, found.surface, found.source) == (SITE_ID, Surface.WEBHOOK, "shop")
    ids = [json.loads(bytes(each.events[0].attributes))["unique_id"] for each in found.entries]
    assert ids[0] == "order:820982911946154500"
    assert len(set(ids)) == 6
    assert {each.events[0].entry_index for each in found.entries} == {None}
    assert front.rejected() == []


def everybody(front: Front) -> None:
    """Declares a source for each sender, by its name."""
    texts = {"metric": "Seen", "profile": {"external_id": "name"}}
    everyone = {
        sender: {
            "account": SITE_ID,
            "signature": {"scheme": scheme_of(sender)},
            "secret": sender,
            "events": {"seen": texts},
        }
        for sender in SIGNERS
    }
    write({"sources": everyone})
    for sender in SIGNERS:
        keep_secret(SECRETS[scheme_of(sender)], sender)


@pytest.mark.parametrize("encode", [False, True])
def test_every_scheme_takes_the_bytes_that_were_signed(front: Front, encode: bool) -> None:
    everybody(front)
    now = datetime.now(UTC)
    body = body_of(now).replace(b"Zo", "\ufffd\u2028 ".encode())  # as text and in base64 the same bytes

    for sender, sign in SIGNERS.items():
        headers = sign(SECRETS[scheme_of(sender)], body, now)
        answer = deliver(front, body, headers, path=f"/webhooks/{sender}", encode=encode)

        assert (answer.status, answer.document["meta"]["events"]) == (202, 1), sender
        assert "\ufffd" in json.loads(bytes(stored(front).entries[0].profile))["attributes"]["external_id"]


def test_what_is_signed_by_somebody_else_is_401_and_stores_nothing(front: Front) -> None:
    everybody(front)
    now = datetime.now(UTC)
    body = body_of(now)

    for sender, sign in SIGNERS.items():
        for headers in (sign("whsec_" + "A" * 32, body, now), {}):
            answer = deliver(front, body, headers, path=f"/webhooks/{sender}")

            assert (answer.status, answer.codes) == (401, ["authentication_failed"]), sender
    assert front.is_empty()
    assert "whsec_" not in front.said


def test_what_was_signed_long_ago_is_401(front: Front) -> None:
    write(document(preset="stripe"))
    keep_secret(SECRETS["stripe"])
    then = datetime.now(UTC) - timedelta(minutes=6)

    answer = deliver(front, b"{}", SIGNERS["stripe"](SECRETS["stripe"], b"{}", then))

    assert answer.status == 401
    assert front.is_empty()
    assert [line["source"] for line in said(front, "refused")] == ["shop"]
    front.send("/api/events", b"")
    assert "source" not in said(front, "refused")[-1]


def test_an_unknown_source_is_404(front: Front, shop: Front) -> None:
    for path in ("/webhooks/unknown", "/webhooks/SHOP", "/webhooks/", "/webhooks"):
        answer = deliver(front, b"{}", {}, path=path)

        assert (answer.status, answer.codes) == (404, ["not_found"])


def test_without_a_document_every_source_is_unknown(front: Front) -> None:
    assert order(front).status == 404


def test_only_post_is_allowed(front: Front, shop: Front) -> None:
    answer = front.send(HOOK, b"", method="GET")

    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_a_body_above_the_limit_is_413_before_it_is_verified(front: Front, shop: Front) -> None:
    answer = deliver(front, b" " * 5_242_881, {})

    assert (answer.status, answer.codes) == (413, ["payload_too_large"])
    assert front.is_empty()


def test_without_its_secret_nothing_is_accepted(front: Front) -> None:
    write(document())

    answer = order(front)

    assert (answer.status, answer.codes, answer.headers["Retry-After"]) == (503, ["unavailable"], "5")
    assert front.is_empty()
    [line] = said(front, "unavailable")
    assert (line["source"], line["cause"]) == ("shop", "the secret sluice/webhooks/shop cannot be read")


@pytest.mark.parametrize("secret", ["[]", " ", '[""]'])
def test_a_secret_that_is_empty_lets_nobody_in(front: Front, secret: str) -> None:
    write(document())
    keep_secret(secret)

    for signature in ("", SIGNERS["shopify"]("", ORDER.body, datetime.now(UTC))["x-shopify-hmac-sha256"]):
        assert deliver(front, ORDER.body, TOPIC | {"x-shopify-hmac-sha256": signature}).status == 500
    assert front.is_empty()
    assert "of the source shop" in front.said


def test_two_secrets_are_live_while_one_replaces_the_other(front: Front) -> None:
    write(document())
    keep_secret(json.dumps(["next", SECRETS["shopify"]]))

    assert order(front).status == 202
    headers = TOPIC | SIGNERS["shopify"]("next", ORDER.body, datetime.now(UTC))
    assert deliver(front, ORDER.body, headers).status == 202


def test_a_document_that_is_not_valid_accepts_nothing(front: Front) -> None:
    write({"sources": {"shop": {}}})
    keep_secret(SECRETS["shopify"])

    assert order(front).status == 500
    assert "misconfigured" in front.said
    assert front.is_empty()


def test_a_document_that_becomes_bad_replaces_nothing(
    front: Front, shop: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CACHE_SECONDS", 0)
    assert order(front).status == 202

    write({"sources": 1})

    assert order(front).status == 202
    assert "SourcesLoadFailures" in front.said
    write({"sources": {}})
    assert order(front).status == 404


def test_a_bad_source_takes_no_other_down_and_keeps_its_last_good_copy(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CACHE_SECONDS", 0)
    keep_secret(SECRETS["shopify"])
    good = document()["sources"]["shop"]
    write({"sources": {"shop": good}})
    assert order(front).status == 202

    write({"sources": {"shop": {**good, "colour": "red"}, "other": good, "new": {**good, "acount": "x"}}})

    headers = TOPIC | SIGNERS["shopify"](SECRETS["shopify"], ORDER.body, datetime.now(UTC))
    answers = {
        name: deliver(front, ORDER.body, headers, path=f"/webhooks/{name}").status
        for name in ("shop", "other", "new", "unknown")
    }
    assert answers == {"shop": 202, "other": 202, "new": 500, "unknown": 404}
    assert "SourcesLoadFailures" in front.said
    causes = {line["cause"] for line in said(front, "sources not loaded")}
    assert {cause.split(": ")[1] for cause in causes} == {"/sources/shop/colour", "/sources/new/acount"}


def test_a_process_outlives_its_wait_for_a_newer_document(front: Front) -> None:
    """Checks that the process does not end, and its document with it."""
    resources = yaml_parse(Path("template.yaml").read_text())["Resources"]
    timeout = resources["IngestFunction"]["Properties"]["Timeout"]
    config: Any = clients.low_latency_s3().meta.config  # its options are attributes that no stub names

    longest = config.retries["total_max_attempts"] * (config.connect_timeout + config.read_timeout)

    assert longest <= timeout / 2


def test_what_becomes_no_event_is_a_success_that_stores_nothing(front: Front, shop: Front) -> None:
    answer = order(front, **{"x-shopify-topic": "products/create"})

    assert (answer.status, answer.document["meta"]["events"]) == (200, 0)
    assert "EmptyDeliveries" in front.said
    assert front.is_empty()


BAD: list[tuple[dict[str, Any], bytes, str, str | None, str]] = [
    ({}, b"not JSON", "malformed_message", None, "cannot be read"),
    ({}, b'{"email": "\xff"}', "malformed_message", None, "not UTF-8"),
    (
        {"time": "unix_time(divide(`1`, `0`))"},
        b"{}",
        "invalid",
        None,
        "events/seen/time: The calculation cannot be done",
    ),
    ({"each": "items"}, json.dumps({"items": [0] * 1_001}).encode(), "invalid", None, "1000 events"),
    ({}, b"{}", "invalid", "/data/0/attributes/profile/data/attributes", "at least one identifier"),
    (
        {"time": "email"},
        b'{"email": "a@b.example"}',
        "invalid",
        "/data/0/attributes/time",
        "'time' must be",
    ),
]


@pytest.mark.parametrize(("event", "body", "reason", "where", "said"), BAD)
def test_what_becomes_nothing_valid_is_a_rejection_and_a_success(
    front: Front, event: dict[str, Any], body: bytes, reason: str, where: str | None, said: str
) -> None:
    write(own(**event))
    keep_secret("token")

    headers = {"Authorization": "Bearer token", "X-Topic": "seen", "X-Forwarded-For": "192.0.2.7"}
    answer = deliver(front, body, headers, encode=True)

    assert (answer.status, answer.document["meta"]["rejected"]) == (200, 1)
    [rejection] = front.rejected()
    assert (rejection.reason, rejection.pointer, rejection.source) == (reason, where, "shop")
    assert (rejection.account, rejection.surface) == (SITE_ID, "webhook")
    assert rejection.receipt == answer.document["meta"]["receipt"]
    assert said in rejection.detail
    payload = json.loads(bytes(rejection.payload))
    assert payload["events"] if where else payload == body.decode(errors="replace")
    # A delivery that is kept whole can be mapped again, but what it was signed with is not kept.
    kept = rejection.headers or {}
    assert kept.get("x-topic") == (None if where else "seen")
    assert kept.keys().isdisjoint({"authorization", "x-forwarded-for"})
    assert front.queued() == []
    assert "a@b.example" not in front.said


def test_a_source_may_have_its_sender_told(front: Front) -> None:
    keep_secret("token")
    by_name = {}
    for number, (event, *_) in enumerate(BAD):
        by_name[f"s{number}"] = own(**event)["sources"]["shop"] | {"on_invalid": "refuse"}
    write({"sources": by_name})

    for number, (_, body, _, where, _) in enumerate(BAD):
        headers = {"Authorization": "Bearer token"}
        answer = deliver(front, body, headers, path=f"/webhooks/s{number}", encode=True)

        assert answer.status == 400
        assert where is None or where in answer.text
    assert front.is_empty()
    deliver(front, BAD[0][1], {"Authorization": "Bearer wrong"}, path="/webhooks/s0", encode=True)
    lines = map(json.loads, front.said.splitlines())
    counted = [line for line in lines if "RefusedDeliveries" in line]
    assert [line["source"] for line in counted] == [*by_name]  # not the one that nobody signed
    [dimensions] = counted[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"]
    assert set(dimensions) == {"service", "source"}


def test_the_good_events_of_a_delivery_are_taken_without_the_bad(front: Front) -> None:
    write(own(each="items", profile={"email": "@"}, value="`1`"))
    keep_secret("token")
    body = json.dumps({"items": ["a@b.example", "nobody", "c@d.example"]}).encode()

    answer = deliver(front, body, {"Authorization": "Bearer token"})

    found = stored(front)
    assert (answer.status, answer.document["meta"]["events"], answer.document["meta"]["rejected"]) == (
        202,
        2,
        1,
    )
    assert [each.events[0].entry_index for each in found.entries] == [None, 2]
    [rejection] = front.rejected()
    assert rejection.pointer == "/data/1/attributes/profile/data/attributes/email"
    payload = json.loads(bytes(rejection.payload))
    assert payload["profile"]["attributes"] == {"email": "nobody"}
    assert payload["events"][0]["value"] == 1


def test_a_form_is_a_payload_too(front: Front) -> None:
    write(own(profile={"email": "powertools_json(payload).email"}))
    keep_secret("token")
    headers = {"Authorization": "Bearer token", "Content-Type": "application/x-www-form-urlencoded"}

    assert deliver(front, b"payload=%7B%22email%22%3A%22a%40b.example%22%7D", headers).status == 202
    assert deliver(front, b"&".join([b"a=1"] * 1_001), headers).document["meta"]["rejected"] == 1


def test_a_mapping_never_sees_the_credentials(front: Front) -> None:
    write(own(profile={"external_id": "default(header('authorization'), 'nobody')"}))
    keep_secret("token")

    deliver(front, b"{}", {"Authorization": "Bearer token"})

    assert json.loads(bytes(stored(front).entries[0].profile))["attributes"]["external_id"] == "nobody"


@pytest.mark.parametrize(
    ("body", "status"), [(b"webhook_id=12", 200), (b"webhook_id=12&a=1", 401), (b"", 401)]
)
def test_the_ping_of_woocommerce_is_answered_and_nothing_else_unsigned(
    front: Front, body: bytes, status: int
) -> None:
    write(document(preset="woocommerce"))
    keep_secret(SECRETS["woocommerce"])

    assert deliver(front, body, {}).status == status
    assert deliver(front, body, {"x-wc-webhook-signature": "AAAA"}).status == 401
    assert front.is_empty()


def test_a_delivery_that_comes_again_is_the_same_events(front: Front) -> None:
    write(own())
    keep_secret("token")
    for _ in range(2):
        deliver(front, b'{"email": "a@b.example"}', {"Authorization": "Bearer token"})

    first, second = (decoded(body, lambda _: b"") for body in front.queued())

    assert first.receipt != second.receipt
    assert first.entries[0].events[0].id == second.entries[0].events[0].id


def test_nothing_is_accepted_that_cannot_be_stored(front: Front, shop: Front) -> None:
    aws_client("sqs").delete_queue(QueueUrl=front.queue_url)

    assert order(front).status == 503


def test_nothing_is_accepted_whose_rejection_cannot_be_stored(front: Front) -> None:
    write(own(each="items", profile={"email": "@"}))
    keep_secret("token")
    aws_client("sqs").delete_queue(QueueUrl=front.rejected_url)

    body = json.dumps({"items": ["a@b.example", "nobody"]}).encode()
    assert deliver(front, body, {"Authorization": "Bearer token"}).status == 503
    assert front.queued() == []


def test_no_fault_of_ours_tells_of_the_payload(
    front: Front, shop: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("jon@example.com")

    monkeypatch.setattr(mapping, "events", broken)

    assert order(front).status == 500
    assert "jon@example.com" not in front.said
