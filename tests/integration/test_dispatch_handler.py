"""Tests the dispatch function as Lambda calls it, with AWS emulated in process and a fake upstream."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from botocore.exceptions import ReadTimeoutError

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice import message, receipts, runtime, settings
from sluice.aws import clients
from sluice.contract import Surface
from sluice.delivery import circuit_breaker, http, lone_refusals, parking, poison
from sluice.delivery.outcome import Outcome, Refusal
from sluice.dispatch import Deadlines
from sluice.dispatch import _store_rejections as store_rejections
from sluice.rejection import Reason, Rejection
from sluice.settings import DispatchSettings
from sluice.wiring import dispatch as wiring
from tests.support.aws_stack import (
    PRIVATE_KEY,
    Cloud,
    Context,
    Crash,
    Function,
    again,
    close_event_loop,
    forget_secrets,
    stored,
)
from tests.support.factories import NOON, SITE_ID, bulk, encoded, entry, event, profile, single
from tests.support.sealing import SEALING

# Words that must never be logged: each is somewhere in the messages below.
SECRETS = ["mail.example", PRIVATE_KEY, "Viewed Product", "s3cret"]


class Dispatch:
    """Runs the function with its queue and its upstream."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud = cloud
        self.klaviyo = Klaviyo({SITE_ID: PRIVATE_KEY}, Settings.unlimited())
        self.clients: list[httpx2.AsyncClient] = []
        self.function: Function = cloud.load("dispatch")
        monkeypatch.setattr(http, "client", self._client)

    def _client(self) -> httpx2.AsyncClient:
        if not self.clients:
            self.clients.append(httpx2.AsyncClient(transport=transport(self.klaviyo)))
        return self.clients[-1]

    def put(self, *messages: Any, **attributes: str) -> None:
        """Puts stored requests, or texts, on the queue."""
        bodies = [each if isinstance(each, str) else message.encode(each).text for each in messages]
        self.cloud.send(*bodies, **attributes)

    def invoke(
        self,
        records: dict[str, Any] | None = None,
        context: Context | None = None,
        *,
        queue: str | None = None,
    ) -> list[str]:
        """Delivers what is visible on a queue; the bodies of the messages that failed."""
        records = self.cloud.receive(queue) if records is None else records
        answer = self.function(records, context)
        self.cloud.settle(records, answer, queue)
        bodies = {record["messageId"]: record["body"] for record in records["Records"]}
        return [bodies[failure["itemIdentifier"]] for failure in answer["batchItemFailures"]]

    def delivered(self) -> Counter[str]:
        return Counter(taken.event["unique_id"] for taken in self.klaviyo.events())

    def rejections(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.cloud.left(self.cloud.rejected)]

    def postponed(self) -> list[int]:
        """Returns the seconds for which messages were postponed."""
        calls = self.cloud.calls.of("ChangeMessageVisibilityBatch")
        return [each["VisibilityTimeout"] for call in calls for each in call["Entries"]]

    def end_process_on(self, name: str) -> None:
        """Ends the process that decodes a message with this in it, as running out of memory does."""
        decode = message.decode

        def decode_or_die(body: str, fetch_claim: Callable[[str], bytes]) -> Any:
            if name in body:
                raise Crash
            return decode(body, fetch_claim)

        self._patch.setattr(message, "decode", decode_or_die)

    _patch: pytest.MonkeyPatch


@pytest.fixture
def dispatch(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatch]:
    made = Dispatch(cloud, monkeypatch)
    made._patch = monkeypatch
    yield made
    close_event_loop()


def one(name: str) -> Any:
    """Makes a stored single event."""
    return stored((name, name), receipt=f"r-{name}", surface=Surface.EVENT)


def test_a_batch_is_delivered_refused_and_kept_as_each_message_deserves(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    metric = {"data": {"type": "metric", "attributes": {"name": "refused s3cret"}}}
    refused = stored(("ann", "good"), ("ann", "bad"), receipt="r1")
    refused.entries[0].events[1].attributes = event(unique_id="bad", metric=metric)["attributes"]
    dispatch.put(refused, stored(("bob", "b1"), ("cy", "c1"), receipt="r2"), one("dee"))
    dispatch.put('{"sluice":1,"receipt":"mail.example', '{"sluice":1,"zstd":"AAAA"}')
    raw = encoded(bulk(entry(event(unique_id="raw"), of=profile(email="raw@mail.example"))))
    dispatch.put(raw.decode())
    dispatch.put(encoded(single(of=profile(email="raw2@mail.example"), unique_id="raw2")).decode())
    dispatch.put(encoded(single(of=profile(email="no address"))).decode(), surface="event")
    dispatch.put("mail.example, but not JSON", account=SITE_ID)
    dispatch.put('{"data":{"type":"unheard of"}}')
    dispatch.put(encoded(bulk()).decode(), surface="unheard of")
    dispatch.put(encoded(bulk()).decode(), account="NoSuch")

    assert dispatch.invoke() == []

    assert dispatch.delivered() == Counter(["good", "b1", "c1", "dee", "raw", "raw2"])
    assert dispatch.cloud.left() == []
    reasons = Counter(rejection["reason"] for rejection in dispatch.rejections())
    assert reasons == {"refused_by_upstream": 1, "malformed_message": 3, "invalid": 4}
    assert dispatch.cloud.keys("claims") == []
    [found] = [each for each in dispatch.rejections() if each["reason"] == "refused_by_upstream"]
    assert found["pointer"].startswith(
        "/data/attributes/events-bulk-create/data/0/attributes/events/data/1/attributes/metric"
    )
    assert [each["unique_id"] for each in found["payload"]["events"]] == ["bad"]
    assert (found["account"], found["receipt"], found["surface"]) == (SITE_ID, "r1", "bulk")
    assert dispatch.postponed() == []


def test_what_is_refused_of_a_webhook_points_into_its_events(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    delivered = stored(("ann", "a"), ("bob", "b"), surface=Surface.WEBHOOK)
    delivered.source = "shop"
    metric = {"data": {"type": "metric", "attributes": {"name": "refused"}}}
    delivered.entries[1].events[0].attributes = event(unique_id="b", metric=metric)["attributes"]
    dispatch.put(delivered)
    dispatch.put(encoded(single()).decode(), surface="webhook")

    assert dispatch.invoke() == []

    assert dispatch.delivered() == Counter(["a"])
    by_reason = {each["reason"]: each for each in dispatch.rejections()}
    refused = by_reason["refused_by_upstream"]
    assert refused["pointer"].startswith("/data/1/attributes/metric")
    assert (refused["surface"], refused["source"]) == ("webhook", "shop")
    assert "surface" in by_reason["invalid"]["detail"]  # nobody else writes in this form


def test_what_was_delivered_and_refused_of_a_bulk_request_is_in_its_receipt(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    dispatch.put(
        stored(("ann", "a0"), ("ann", "a1"), ("refused", "x0"), ("bob", "b0"), receipt="r1"), one("dee")
    )

    dispatch.invoke()

    item = dispatch.cloud.item(f"receipt#{SITE_ID}#r1")
    assert item is not None
    assert sorted(item["delivered"]["NS"], key=int) == ["0", "1", "2000"]
    assert item["rejected"]["NS"] == ["1000"]
    assert dispatch.cloud.item(f"receipt#{SITE_ID}#r-dee") is None


def test_a_thousand_refusals_of_one_request_are_noted_at_once(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    dispatch.put(stored(*((f"refused{n}", f"x{n}") for n in range(60)), receipt="r1"))

    dispatch.invoke()

    assert len(dispatch.rejections()) == 60
    notes = [call for call in dispatch.cloud.calls.of("UpdateItem") if "receipt" in call["Key"]["pk"]["S"]]
    assert len(notes) == 1
    assert len(dispatch.cloud.calls.of("SendMessageBatch")) == 6


@pytest.mark.parametrize("kind", ["klaviyo", "pipeless"])
def test_a_message_decides_nothing_about_another_accounts_receipt(dispatch: Dispatch, kind: str) -> None:
    """Covers a producer that states the receipt id of another account's waiting request."""
    dispatch.cloud.name_accounts(
        {"site_id": SITE_ID, "private_key": PRIVATE_KEY}, {"site_id": "XyZ789", "private_key": PRIVATE_KEY}
    )
    victim = stored(("bob", "b0"), ("bob", "b1"), receipt="r1", account="XyZ789")
    forged: Any = stored(("ann", "a0"), ("ann", "a1"), receipt="r1")
    if kind == "pipeless":
        forged = json.dumps({"sluice": 2, "receipt": "r1", "app_id": 7, "accepted": f"{NOON}", "events": []})
    dispatch.put(forged)
    dispatch.invoke()
    dispatch.klaviyo = Klaviyo({"XyZ789": PRIVATE_KEY}, Settings.unlimited())
    dispatch.clients.clear()
    dispatch.put(victim)

    assert dispatch.invoke(again(dispatch.cloud.receive(), 2)) == []

    assert dispatch.delivered() == Counter(["b0", "b1"])


def test_a_redelivered_request_sends_only_what_its_receipt_does_not_say_is_done(dispatch: Dispatch) -> None:
    dispatch.put(stored(("ann", "a0"), ("bob", "b0"), ("cy", "c0"), receipt="r1"))
    records = dispatch.cloud.receive()
    receipts.record_outcome("state", f"{SITE_ID}#r1", delivered=[0], rejected=[2_000])

    dispatch.invoke(again(records, receives=2))

    assert dispatch.delivered() == Counter(["b0"])
    assert dispatch.function.metrics()["SkippedEvents"] == 2


def test_one_event_no_job_can_hold_is_rejected_through_a_claim(dispatch: Dispatch) -> None:
    huge = stored(("ann", "huge"), receipt="r1")
    properties = {f"p{n}": f"{n:08}" * 12_000 for n in range(60)}
    huge.entries[0].events[0].attributes = event(unique_id="huge", properties=properties)["attributes"]
    body = message.encode(huge)
    if body.claim_key:
        dispatch.cloud.s3.put_object(Bucket="claims", Key=body.claim_key, Body=body.claim_bytes)
    dispatch.put(body.text)

    assert dispatch.invoke() == []

    [text] = dispatch.cloud.left(dispatch.cloud.rejected)
    found = msgspec.json.decode(message.unwrap(text, lambda key: dispatch.cloud.content("claims", key)))
    assert found["reason"] == "oversized"
    assert dispatch.delivered() == Counter()


def test_what_it_says_are_ids_and_counts(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    dispatch.put(stored(("ann", "a0"), ("refused", "x0"), receipt="r1"), one("dee"), '{"sluice":1,"s3cret')

    dispatch.invoke()
    dispatch.klaviyo.configure(faults=[{"kind": "json", "status": 401}])
    dispatch.put(one("eve"))
    dispatch.invoke()

    said = dispatch.function.said
    assert dispatch.function.lines("dispatched")
    for secret in SECRETS:
        assert secret not in said
    assert {line.get("receipt") for line in dispatch.function.lines("rejected")} == {"r1", None}
    [opened] = dispatch.function.lines("circuit opened")
    assert (opened["account"], opened["status"], opened["level"]) == (SITE_ID, 401, "ERROR")


def test_metrics_account_for_every_event(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    dispatch.put(stored(("ann", "a0"), ("refused", "x0"), receipt="r1"), one("dee"), one("eve"))

    dispatch.invoke()

    metrics = dispatch.function.metrics()
    assert metrics["Messages"] == 3
    assert metrics["DeliveredEvents"] == 3
    assert metrics["RejectedEvents"] == 1
    assert metrics["RetriedMessages"] == 0
    assert metrics["Jobs"] == 1
    assert metrics["UpstreamRequests"] == 2
    assert metrics["JobEvents"] == 3


PASSING_FAULTS = pytest.mark.parametrize(
    "fault",
    [
        {"kind": "json", "status": 503},
        {"kind": "html", "status": 403},
        {"kind": "reset"},
        {"kind": "hang"},
    ],
    ids=lambda fault: fault["kind"],
)


@PASSING_FAULTS
@pytest.mark.parametrize(
    ("count", "receives", "least", "most"), [(12, 1, 2, 4), (12, 3, 8, 16), (1, 40, 890, 900)]
)
def test_a_passing_fault_keeps_messages_for_longer_each_time(
    dispatch: Dispatch, fault: dict[str, Any], count: int, receives: int, least: int, most: int
) -> None:
    dispatch.klaviyo.configure(faults=[fault])
    dispatch.put(*(one(f"e{n}") for n in range(count)))
    records = again(dispatch.cloud.receive(), receives)

    assert len(dispatch.invoke(records)) == count

    assert len(dispatch.postponed()) == count
    assert all(least <= seconds <= most for seconds in dispatch.postponed())
    assert len(dispatch.cloud.left()) == count
    assert dispatch.function.metrics()["RetriedMessages"] == count


@PASSING_FAULTS
def test_a_fault_that_lasts_parks_the_account(dispatch: Dispatch, fault: dict[str, Any]) -> None:
    dispatch.klaviyo.configure(faults=[fault])
    dispatch.put(*(one(f"e{n}") for n in range(12)))

    assert dispatch.invoke(again(dispatch.cloud.receive(), 4)) == []

    assert circuit_breaker.is_open("state", SITE_ID)
    assert dispatch.cloud.left() == []
    assert dispatch.function.metrics()["ParkedMessages"] == 12


def _order(surface: str, value: float) -> tuple[str, dict[str, str]]:
    """Returns a body of an order's event and its message attributes."""
    ann = profile(email="ann@mail.example")
    return encoded(single(of=ann, unique_id="order:5001", value=value)).decode(), {"surface": surface}


@pytest.mark.trust("A browser's `unique_id` is never the one of a server's event.")
@pytest.mark.parametrize("batches", [1, 2])
def test_a_strangers_unique_id_keeps_no_servers_event_out(dispatch: Dispatch, batches: int) -> None:
    for surface, value in (("client-event", 0.0), ("event", 99.5)):
        body, named = _order(surface, value)
        dispatch.put(body, **named)
        if batches == 2:
            assert dispatch.invoke() == []
    assert dispatch.invoke() == []

    taken = {each.event["unique_id"]: each.event["value"] for each in dispatch.klaviyo.events()}
    assert taken == {"anonymous/order:5001": 0, "order:5001": 99.5}
    assert dispatch.rejections() == []


@pytest.mark.parametrize("batches", [1, 2])
def test_shared_unique_ids_count_once_and_what_differs_is_told(dispatch: Dispatch, batches: int) -> None:
    dispatch.cloud.name_accounts({"site_id": SITE_ID, "private_key": PRIVATE_KEY, "shared_unique_ids": True})
    for surface, value in (("client-event", 0.0), ("event", 99.5)):
        body, named = _order(surface, value)
        dispatch.put(body, **named)
        if batches == 2:
            assert dispatch.invoke() == []
    assert dispatch.invoke() == []

    [taken] = dispatch.klaviyo.events()
    assert taken.event["unique_id"] == "order:5001"
    [told] = dispatch.rejections()
    assert told["reason"] == "duplicate_unique_id"
    assert told["payload"]["events"][0]["value"] in {0, 99.5}
    assert dispatch.function.metrics()["DuplicateIds"] == 1


def test_a_refused_account_is_parked_and_costs_no_further_request(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(faults=[{"kind": "json", "status": 403}])
    dispatch.put(one("ann"), one("bob"))
    assert dispatch.invoke() == []
    assert circuit_breaker.is_open("state", SITE_ID)
    asked = len(dispatch.klaviyo.requests())

    dispatch.put(one("cy"))
    assert dispatch.invoke() == []

    assert len(dispatch.klaviyo.requests()) == asked
    assert dispatch.cloud.left() == []
    parked = [
        msgspec.json.decode(each)["receipt"]
        for key in dispatch.cloud.keys("claims", "parked/")
        for each in parking.parked_messages("claims", key, SEALING)
    ]
    assert sorted(parked) == ["r-ann", "r-bob", "r-cy"]
    assert parking.parked_accounts("claims") == [SITE_ID]
    assert dispatch.function.metrics()["ParkedMessages"] == 3
    assert dispatch.function.metrics()["CircuitsOpened"] == 1


EVERYTHING_REFUSED = pytest.mark.parametrize(
    "manner",
    [{"kind": "json", "status": 400}, {"kind": "html", "status": 413}, {"kind": "large", "status": 400}],
    ids=["400 without a pointer", "413 as HTML", "400 of 5 MB"],
)


@EVERYTHING_REFUSED
def test_where_everything_is_refused_the_circuit_opens_and_nothing_is_rejected(
    dispatch: Dispatch, manner: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch.klaviyo.configure(faults=[manner])
    names = [f"e{n}" for n in range(170)]
    dispatch.put(stored(*((name, name) for name in names[:100]), receipt="r-bulk"), *map(one, names[100:]))
    records = dispatch.cloud.receive()

    assert len(dispatch.invoke(records)) == 71
    assert not circuit_breaker.is_open("state", SITE_ID)
    now = runtime.now() + timedelta(seconds=lone_refusals.OPEN_AFTER_SECONDS)
    monkeypatch.setattr(runtime, "now", lambda: now)
    assert dispatch.invoke(again(records, 2)) == []

    assert circuit_breaker.is_open("state", SITE_ID)
    metrics = dispatch.function.metrics()
    assert (metrics["CircuitsOpened"], metrics["ParkedMessages"]) == (1, 71)
    assert metrics["UnexplainedRefusals"] >= lone_refusals.SEVERAL
    assert [line["status"] for line in dispatch.function.lines("circuit opened")] == [manner["status"]]

    dispatch.klaviyo.configure(faults=[])
    dispatch.put(one("probe"), resumed="1", probe="1")
    keys = dispatch.cloud.keys("claims", "parked/")
    parked = [each.decode() for key in keys for each in parking.parked_messages("claims", key, SEALING)]
    dispatch.put(*parked, resumed="1")
    assert dispatch.invoke() == []

    assert dispatch.delivered() == Counter([*names, "probe"])
    assert dispatch.rejections() == []
    assert not circuit_breaker.is_open("state", SITE_ID)
    assert not any(secret in dispatch.function.said for secret in SECRETS)


def test_a_field_that_is_left_out_is_told_with_its_event_and_place(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(refused_fields=["value", "first_name"])
    message_with_both = stored(("ann", "one"), ("ann", "two"), ("bob", "three"), receipt="r-1")
    message_with_both.entries[0].events[1].attributes = event(unique_id="two", value=9.5)["attributes"]
    message_with_both.entries[1].profile = profile(email="bob@mail.example", first_name="s3cret")["data"]
    dispatch.put(message_with_both)

    assert dispatch.invoke() == []

    assert dispatch.delivered() == Counter(["one", "two", "three"])
    root = "/data/attributes/events-bulk-create/data"
    lines = dispatch.function.lines("field left out")
    assert [(line["account"], line["receipt"], line["pointer"]) for line in lines] == [
        (SITE_ID, "r-1", f"{root}/0/attributes/events/data/1/attributes/value"),
        (SITE_ID, "r-1", f"{root}/1/attributes/profile/data/attributes/first_name"),
    ]
    metrics = dispatch.function.metrics()
    assert metrics["LeftOutFields"] == metrics["PartialFailures"] == 2
    assert not any(secret in dispatch.function.said for secret in SECRETS)


def test_a_bad_event_that_nobody_names_is_told_at_once_beside_good_ones(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "bad", "attributed": False}])
    dispatch.put(*(one(f"e{n}") for n in range(10)), one("bad"), *(one(f"f{n}") for n in range(10)))

    assert dispatch.invoke() == []

    assert [each["reason"] for each in dispatch.rejections()] == ["refused_by_upstream"]
    assert len(dispatch.delivered()) == 20
    assert dispatch.cloud.item(f"refusals#{SITE_ID}") is None


def test_a_probe_closes_the_circuit_once_the_account_answers(dispatch: Dispatch) -> None:
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    dispatch.put(one("ann"), resumed="1", probe="1")
    dispatch.put(one("bob"))

    assert dispatch.invoke() == []

    assert dispatch.delivered() == Counter(["ann", "bob"])
    assert not circuit_breaker.is_open("state", SITE_ID)
    assert dispatch.function.lines("circuit closed")


def test_what_cannot_be_parked_stays_on_the_queue(dispatch: Dispatch) -> None:
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    dispatch.put(one("ann"))
    dispatch.cloud.calls.fail("PutObject")

    assert len(dispatch.invoke()) == 1
    assert len(dispatch.cloud.left()) == 1


@pytest.mark.parametrize("secret", ["", "{}", "not JSON", '{"accounts": [{"site_id": "pk_secret_one"}]}'])
def test_an_invalid_secret_costs_no_message(dispatch: Dispatch, secret: str) -> None:
    for _ in range(2):  # or the version before is used
        dispatch.cloud.write_accounts(secret or " ")
    dispatch.put(one("ann"), "mail.example, but not JSON")

    assert len(dispatch.invoke()) == 2

    assert dispatch.rejections() == []
    assert dispatch.klaviyo.requests() == []
    [line] = dispatch.function.lines("accounts not loaded")
    assert line["level"] == "CRITICAL"
    assert line["cause"].startswith("the accounts document is not valid: ")
    assert "pk_secret_one" not in dispatch.function.said


@pytest.mark.trust("A mistake in one account of the document costs no other.")
@pytest.mark.parametrize("field", [{"name": "Main shop"}, {"private_key": 5}, {"keys": [{"sha256": "x"}]}])
def test_a_mistake_in_one_account_costs_that_account_only(dispatch: Dispatch, field: dict[str, Any]) -> None:
    bad = {"site_id": "XyZ789", "private_key": "pk_secret_two"} | field
    for _ in range(2):
        dispatch.cloud.name_accounts({"site_id": SITE_ID, "private_key": PRIVATE_KEY}, bad)
    dispatch.put(one("ann"), stored(("bob", "bob"), account="XyZ789"))

    assert dispatch.invoke() == []

    assert dispatch.delivered() == Counter(["ann"])
    assert parking.unknown_accounts("claims") == ["XyZ789"]
    assert dispatch.function.metrics()["AccountsLoadFailures"] == 1
    [line] = dispatch.function.lines("accounts not loaded")
    assert "accounts[1]" in line["cause"]
    assert "pk_secret_two" not in dispatch.function.said


def test_a_broken_secret_is_replaced_by_its_version_before(dispatch: Dispatch) -> None:
    dispatch.cloud.write_accounts("not JSON")
    dispatch.put(one("ann"))

    assert dispatch.invoke() == []

    assert dispatch.delivered() == Counter(["ann"])


@pytest.mark.parametrize("operation", ["GetObject", "GetSecretValue"])
def test_accounts_that_cannot_be_read_cost_no_message(dispatch: Dispatch, operation: str) -> None:
    dispatch.cloud.calls.fail(operation)
    dispatch.put(one("ann"))

    assert len(dispatch.invoke()) == 1

    dispatch.cloud.calls.clear()
    forget_secrets()
    dispatch.put(one("bob"))
    assert dispatch.invoke() == []


@pytest.mark.parametrize("operation", ["SendMessageBatch", "PutItem", "GetItem"])
def test_without_a_part_of_aws_messages_stay(dispatch: Dispatch, operation: str) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    dispatch.put(stored(("ann", "a0"), ("refused", "x0"), receipt="r1"))
    dispatch.cloud.calls.fail(operation)

    assert len(dispatch.invoke()) == 1

    assert len(dispatch.cloud.left()) == 1
    assert dispatch.rejections() == []

    dispatch.cloud.calls.clear()
    dispatch.put(stored(("ann", "a0"), ("refused", "x0"), receipt="r1"))
    assert dispatch.invoke() == []
    assert dispatch.delivered() == Counter(["a0"])


def test_a_rejection_that_does_not_get_to_its_queue_keeps_its_message_alone(dispatch: Dispatch) -> None:
    dispatch.put(*(f'{{"sluice":1,"broken":{n}' for n in range(15)), one("ann"))

    def lose_one(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        lost = [each for each in parameters["Entries"] if each["Id"] == "12"]
        parameters["Entries"] = [each for each in parameters["Entries"] if each["Id"] != "12"]
        failed = [{"Id": each["Id"], "SenderFault": False, "Code": "InternalError"} for each in lost]
        return real() | {"Failed": failed}

    dispatch.cloud.calls.instead("SendMessageBatch", lose_one)

    [kept] = dispatch.invoke()

    assert kept == '{"sluice":1,"broken":12'
    assert dispatch.cloud.left() == [kept]
    assert len(dispatch.rejections()) == 14
    assert len(dispatch.postponed()) == 1


def test_a_parked_message_is_not_kept_as_well_for_its_rejection(dispatch: Dispatch) -> None:
    refusals = [
        Refusal(number, Rejection(Reason.REFUSED, "No.", msgspec.Raw(b"{}"), NOON), "r1", (number,))
        for number in (0, 1)
    ]
    outcome = Outcome(parked={0}, refusals=refusals)
    dispatch.cloud.calls.fail("SendMessageBatch")

    ports = wiring.dispatch_ports(settings.load(DispatchSettings), dispatch.function.app.logger)
    store_rejections(outcome, ports, Deadlines(0, 0, 0))

    assert outcome.retry.keys() == {1}


def test_receipts_that_cannot_be_written_keep_nothing(dispatch: Dispatch) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    dispatch.put(stored(("ann", "a0"), ("refused", "x0"), receipt="r1"))
    dispatch.cloud.calls.fail("UpdateItem")

    assert dispatch.invoke() == []

    assert dispatch.function.lines("receipt not recorded")
    assert dispatch.function.metrics()["ReceiptWriteFailures"] == 2


def test_notes_never_keep_an_invocation_past_its_end(
    dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch.klaviyo.configure(poison=[{"contains": "refused"}])
    dispatch.put(*(stored((f"a{n}", f"a{n}"), ("refused", f"x{n}"), receipt=f"r{n}") for n in range(40)))
    hanging = threading.Event()

    def hang(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        hanging.wait(60)
        return real()

    dispatch.cloud.calls.instead("UpdateItem", hang)
    # Two seconds after the last answer no more is noted.
    monkeypatch.setattr(dispatch.function.app, "_LAST_SECONDS", 120 - 2)

    assert dispatch.invoke() == []

    hanging.set()
    assert dispatch.delivered() == Counter(f"a{n}" for n in range(40))
    assert len(dispatch.rejections()) == 40
    assert dispatch.function.metrics()["ReceiptWriteFailures"] == 80
    assert len(dispatch.cloud.calls.of("UpdateItem")) <= wiring.CONCURRENT_RECEIPT_WRITES


def test_a_table_that_hangs_is_waited_for_once(dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch.cloud.name_accounts(*({"site_id": f"Acc{n:03}", "private_key": "pk"} for n in range(30)))
    dispatch.put(*(stored((f"a{n}", f"a{n}"), receipt=f"r{n}", account=f"Acc{n:03}") for n in range(30)))
    asked = threading.Barrier(clients.MAX_CONCURRENT_CALLS)

    def fail_together(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        asked.wait(30)
        raise ReadTimeoutError(endpoint_url="https://nowhere.example")

    dispatch.cloud.calls.instead("GetItem", fail_together)
    monkeypatch.setattr(clients, "SLOW_FAILURE_SECONDS", 0.0)

    assert len(dispatch.invoke()) == 30

    assert len(dispatch.cloud.calls.of("GetItem")) == clients.MAX_CONCURRENT_CALLS
    assert dispatch.klaviyo.requests() == []


@pytest.mark.parametrize("seconds", [0.5, 10, 27.5])
def test_with_too_little_time_for_an_answer_nothing_is_sent(dispatch: Dispatch, seconds: float) -> None:
    dispatch.put(one("ann"), one("bob"))
    begin = time.monotonic()

    assert len(dispatch.invoke(context=Context(seconds))) == 2

    assert time.monotonic() - begin < 5
    assert dispatch.klaviyo.requests() == []
    assert len(dispatch.cloud.left()) == 2
    assert all(seconds <= 2 for seconds in dispatch.postponed())


def test_two_invocations_share_the_process_loop_and_client(dispatch: Dispatch) -> None:
    for name in ("ann", "bob"):
        dispatch.put(one(name))
        assert dispatch.invoke() == []

    assert dispatch.delivered() == Counter(["ann", "bob"])
    assert len(dispatch.clients) == 1
    assert wiring._event_loop() is wiring._event_loop()
    made = [name for name, _ in dispatch.cloud.calls.made]
    assert made.count("GetSecretValue") == 2  # of the accounts and of the seals


def test_an_empty_batch_is_no_error(dispatch: Dispatch) -> None:
    assert dispatch.invoke({"Records": []}) == []


def test_the_sample_event_is_a_real_batch(dispatch: Dispatch) -> None:
    sample = json.loads(Path("tests/events/dispatch.json").read_text())

    assert dispatch.function(sample) == {"batchItemFailures": []}
    assert dispatch.delivered().total() == 3


class Sorting(random.Random):
    """Plays chance that puts everything in order."""

    def shuffle(self, x: Any) -> None:
        x.sort()


@pytest.mark.filterwarnings("ignore:No application metrics to publish")  # by a process that ended
class TestIsolation:
    """Tests that a message that ends its process does not take others with it."""

    def died(self, dispatch: Dispatch, *names: str) -> dict[str, Any]:
        """Makes messages that a process was handling when it ended."""
        dispatch.put(*map(one, names))
        records = again(dispatch.cloud.receive(), 2)
        ids = [record["messageId"] for record in records["Records"]]
        with pytest.raises(Crash), poison.journal("claims", ids, time.time() - 2):
            raise Crash
        return records

    def both(self, *batches: dict[str, Any]) -> dict[str, Any]:
        return {"Records": [record for batch in batches for record in batch["Records"]]}

    def test_others_are_delivered_and_deleted_before_a_suspect_is_touched(self, dispatch: Dispatch) -> None:
        suspects = self.died(dispatch, "culprit")
        dispatch.put(one("ann"), one("bob"))
        dispatch.end_process_on("culprit")

        with pytest.raises(Crash):
            dispatch.invoke(self.both(suspects, dispatch.cloud.receive()))

        assert dispatch.delivered() == Counter(["ann", "bob"])
        assert [msgspec.json.decode(body)["receipt"] for body in dispatch.cloud.left()] == ["r-culprit"]

    def test_suspects_before_the_culprit_are_done_for_good(self, dispatch: Dispatch) -> None:
        names = [f"mate{n}" for n in range(15)]
        suspects = self.died(dispatch, *names, "culprit")
        dispatch._patch.setattr(runtime, "chance", Sorting)
        dispatch.end_process_on("culprit")

        with pytest.raises(Crash):
            dispatch.invoke(suspects)

        assert dispatch.delivered() == Counter(names)
        assert [msgspec.json.decode(body)["receipt"] for body in dispatch.cloud.left()] == ["r-culprit"]

    def test_what_ends_its_process_whenever_tried_alone_is_rejected_in_the_end(
        self, dispatch: Dispatch
    ) -> None:
        suspects = self.died(dispatch, "culprit")
        dispatch.end_process_on("culprit")
        for _ in range(poison.MAX_SOLO_CRASHES):
            with pytest.raises(Crash):
                dispatch.invoke(suspects)
            assert dispatch.rejections() == []

        assert dispatch.invoke(suspects) == []

        [found] = dispatch.rejections()
        assert found["reason"] == "dead_letter"
        assert json.loads(found["payload"])["receipt"] == "r-culprit"
        assert dispatch.cloud.left() == []

    def test_of_what_comes_again_nothing_is_lost_sight_of(self, dispatch: Dispatch) -> None:
        names = [f"mate{n}" for n in range(40)]
        dispatch.put(*map(one, [*names, "culprit"]))
        records = again(dispatch.cloud.receive(), 2)
        dispatch.end_process_on("culprit")

        chance = random.Random(1)
        dispatch._patch.setattr(runtime, "chance", lambda: chance)
        groups = poison.crashed_groups
        dispatch._patch.setattr(poison, "crashed_groups", lambda bucket, now: groups(bucket, now + 600))
        for receives in range(2, 12):
            with pytest.raises(Crash):
                dispatch.invoke(again(records, receives))
            left = {msgspec.json.decode(body)["receipt"] for body in dispatch.cloud.left()}
            records["Records"] = [
                each for each in records["Records"] if msgspec.json.decode(each["body"])["receipt"] in left
            ]

        assert left == {"r-culprit"}
        assert dispatch.delivered() == Counter(names)

    def test_what_was_finished_is_noted_no_longer(self, dispatch: Dispatch) -> None:
        dispatch.put(one("ann"), one("bob"))

        dispatch.invoke(again(dispatch.cloud.receive(), 2))

        assert dispatch.cloud.keys("claims", poison.JOURNAL_PREFIX) == []

    def test_what_a_living_process_has_in_hand_is_no_suspect(self, dispatch: Dispatch) -> None:
        dispatch.put(one("ann"), one("bob"))
        records = again(dispatch.cloud.receive(), 2)
        ids = [record["messageId"] for record in records["Records"]]

        with poison.journal("claims", ids, time.time() + 60):
            assert dispatch.invoke(records) == []

        assert len(dispatch.klaviyo.requests()) == 1

    def test_what_comes_for_the_first_time_costs_no_notes(self, dispatch: Dispatch) -> None:
        dispatch.put(one("ann"), one("bob"))

        dispatch.invoke()

        assert not {"PutObject", "ListObjectsV2", "DeleteObject"} & {
            name for name, _ in dispatch.cloud.calls.made
        }
        assert not dispatch.cloud.item("trial#1")

    def test_a_broken_deployment_condemns_nobody(self, dispatch: Dispatch) -> None:
        suspects = again(self.died(dispatch, "ann", "bob"), 400)

        assert dispatch.invoke(suspects) == []

        assert dispatch.delivered() == Counter(["ann", "bob"])
        assert dispatch.rejections() == []
        assert not [each for each in suspects["Records"] if self.trials(dispatch, each)]

    def test_what_survives_its_trial_is_no_longer_on_trial(self, dispatch: Dispatch) -> None:
        suspects = self.died(dispatch, "ann")
        dispatch.klaviyo.configure(faults=[{"kind": "json", "status": 503}])

        for _ in range(poison.MAX_SOLO_CRASHES + 2):
            assert len(dispatch.invoke(suspects)) == 1

        assert dispatch.rejections() == []
        assert not self.trials(dispatch, suspects["Records"][0])

    def trials(self, dispatch: Dispatch, record: dict[str, Any]) -> dict[str, Any] | None:
        return dispatch.cloud.item(f"trial#{record['messageId']}")

    @pytest.mark.parametrize(
        "operation", ["UpdateItem", "DeleteItem", "ListObjectsV2", "GetObject", "PutObject", "DeleteObject"]
    )
    def test_without_a_part_of_aws_suspects_are_delivered_all_the_same(
        self, dispatch: Dispatch, operation: str
    ) -> None:
        suspects = self.died(dispatch, "ann", "bob")
        dispatch.cloud.calls.fail(operation, when=lambda call: call.get("Bucket") != "configuration")

        assert dispatch.invoke(suspects) == []

        assert dispatch.delivered() == Counter(["ann", "bob"])

    def test_what_time_does_not_suffice_for_comes_back_soon(self, dispatch: Dispatch) -> None:
        dispatch.put(one("ann"))
        others = dispatch.cloud.receive()
        suspects = self.died(dispatch, "culprit")

        failed = dispatch.invoke(self.both(others, suspects), Context(5))

        assert len(failed) == 2
        assert len(dispatch.postponed()) == 2
        assert len(dispatch.cloud.left()) == 2

    def test_messages_that_memory_cannot_hold_together_are_handled_apart(self, dispatch: Dispatch) -> None:
        context = Context()
        context.memory_limit_in_mb = "12"  # of which 3 are for unpacked messages
        for n in range(3):
            body = message.encode(stored((f"c{n}", f"c{n}"), receipt=f"r{n}", padding=f"{n}" * 70_000))
            large = msgspec.json.encode(
                msgspec.json.decode(message.unwrap(body.text, lambda _: b"")) | {"more": "x" * 2_000_000}
            )
            dispatch.put(message.wrap(large, "claims/none").text)

        assert dispatch.invoke(context=context) == []

        assert dispatch.delivered() == Counter(["c0", "c1", "c2"])
        assert len(dispatch.klaviyo.requests()) == 3


@pytest.mark.filterwarnings("ignore:No application metrics to publish")  # by a process that ended
class TestAKillAtAnyCall:
    """Ends a process after a call to AWS, with the answer lost; another one then gets everything."""

    CALLS = 18

    def put(self, dispatch: Dispatch) -> dict[str, Any]:
        dispatch.klaviyo.configure(poison=[{"contains": "refused"}], attribution="first")
        bulk_request = stored(("ann", "a1"), ("refused", "x1"), ("ann", "a2"), receipt="r1")
        lines = stored(("ann", "l1"), ("bob", "l2"), receipt="r2", surface=Surface.EVENT)
        dispatch.put(bulk_request, lines, one("eve"), one("refused-2"), '{"sluice":1,"broken"')
        return again(dispatch.cloud.receive(), 2)

    @pytest.mark.parametrize("number", range(CALLS))
    def test_loses_nothing_and_repeats_nothing_but_under_the_same_id(
        self, dispatch: Dispatch, number: int
    ) -> None:
        records = self.put(dispatch)
        dispatch.cloud.calls.clear()
        dispatch.cloud.calls.crash(number, done=True)
        with pytest.RaisesGroup(Crash, allow_unwrapped=True, flatten_subgroups=True):
            dispatch.invoke(records)
        dispatch.cloud.calls.clear()
        forget_secrets()  # as another process has read none

        assert dispatch.invoke(records) == []

        assert dispatch.delivered() == Counter(["a1", "a2", "l1", "l2", "eve"])
        found = {each["id"]: each for each in dispatch.rejections()}.values()
        refused = [each["payload"]["events"] for each in found if each["reason"] == "refused_by_upstream"]
        assert sorted(event["unique_id"] for [event] in refused) == ["refused-2", "x1"]
        assert len(found) == 3

    def test_reaches_every_call(self, dispatch: Dispatch) -> None:
        records = self.put(dispatch)
        dispatch.cloud.calls.clear()

        dispatch.invoke(records)

        assert len(dispatch.cloud.calls.made) == self.CALLS


def test_what_topics_and_buses_bring_is_delivered_and_refused_like_any_body(dispatch: Dispatch) -> None:
    def on_topic(body: bytes, **named: str) -> str:
        attributes = {name: {"Type": "String", "Value": value} for name, value in named.items()}
        outer = {"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": body.decode()}
        return json.dumps(outer | {"Timestamp": "2026-11-20T09:30:00Z", "MessageAttributes": attributes})

    def on_bus(detail: Any) -> str:
        return json.dumps(
            {"detail-type": "t", "source": "s", "time": "2026-11-20T09:30:00Z", "detail": detail}
        )

    repeated = on_topic(encoded(single(of=profile(email="a@mail.example"))))
    dispatch.put(repeated, repeated)
    dispatch.put(on_topic(encoded(single(unique_id="client")), account=SITE_ID, surface="client-event"))
    dispatch.put(on_bus(single(unique_id="bus")))
    dispatch.put(on_bus({"account": SITE_ID, "body": bulk(entry(event(unique_id="ours")))}))
    dispatch.put(on_bus({"account": "not a site id", "body": single(unique_id="nobody's")}))
    stored_by_nobody = message.encode(one("forged")).text
    dispatch.put(on_topic(stored_by_nobody.encode()))
    dispatch.put(on_bus(single(of=profile(email="no address"))))

    assert dispatch.invoke() == []

    [stamped] = dispatch.delivered().keys() - {"anonymous/client", "bus", "ours"}
    assert dispatch.delivered() == Counter([stamped, "anonymous/client", "bus", "ours"])
    payloads = {each["payload"]: each.get("pointer") for each in dispatch.rejections()}
    assert len(payloads) == 3
    assert stored_by_nobody in payloads
    [flawed] = [pointer for payload, pointer in payloads.items() if "no address" in payload]
    assert flawed == "/data/attributes/profile/data/attributes/email"


def test_while_there_is_no_account_yet_a_body_that_names_none_waits(dispatch: Dispatch) -> None:
    dispatch.cloud.name_accounts()
    dispatch.put(encoded(single(unique_id="early")).decode())

    assert len(dispatch.invoke()) == 1
    assert dispatch.rejections() == []


def test_with_several_accounts_a_body_that_names_none_is_refused_and_says_so(dispatch: Dispatch) -> None:
    dispatch.cloud.name_accounts(
        {"site_id": SITE_ID, "private_key": PRIVATE_KEY, "producers": ["queue"]},
        {"site_id": "XyZ789", "private_key": "pk_other"},
    )
    dispatch.put(encoded(single(unique_id="nobody's")).decode())
    dispatch.put(encoded(single(unique_id="mine")).decode(), account=SITE_ID)

    dispatch.invoke()

    assert dispatch.delivered() == Counter(["mine"])
    [rejection] = dispatch.rejections()
    assert rejection["detail"] == "'account' is needed, a site id: the accounts document has 2 accounts."
