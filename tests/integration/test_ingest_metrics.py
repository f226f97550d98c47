"""Tests the limit of an account's metrics: who gets the last names, and who is told."""

import json
from typing import Any

import pytest

from sluice.admission import metric_quota
from sluice.admission.metric_quota import MetricQuota
from sluice.aws import clients
from sluice.contract import MAX_ANONYMOUS_METRICS, MAX_METRICS
from tests.support.aws_clients import aws_client
from tests.support.aws_stack import write_accounts
from tests.support.factories import (
    KEY,
    SITE_ID,
    bulk,
    client_bulk,
    entry,
    event,
    flat,
    metric,
    profile,
    single,
)
from tests.support.ingest_app import (
    CLIENT_BULK,
    CLIENT_EVENT,
    EVENT,
    OTHER_KEY,
    TABLE,
    Front,
    document_of_keys,
)
from tests.support.parsing import decoded

ENTRIES = "/data/attributes/events-bulk-create/data"
NAME = "attributes/metric/data/attributes/name"


@pytest.fixture
def limited(front: Front) -> Front:
    """Runs the function with an account that has a limited number of metrics, and one that does not."""
    document = json.loads(document_of_keys((KEY, "events:write")))
    document["accounts"][0]["limit_metrics"] = True
    write_accounts(json.dumps(document))
    return front


def of(*names: str) -> dict[str, Any]:
    """Makes a bulk request with an event of each metric, two to an entry."""
    events = [event(metric=metric(name)) for name in names]
    return bulk(*(entry(*events[at : at + 2]) for at in range(0, len(events), 2)))


def numbered(start: int, end: int) -> list[str]:
    return [f"metric {number}" for number in range(start, end)]


def entered() -> set[str]:
    """Returns the names in the account's item."""
    answer = aws_client("dynamodb").get_item(TableName=TABLE, Key={"pk": {"S": f"metrics#{SITE_ID}"}})
    return set(answer.get("Item", {}).get("names", {"SS": []})["SS"])


@pytest.mark.rule
def test_an_account_has_room_for_so_many_metrics_and_no_more(limited: Front) -> None:
    most = numbered(0, 200)
    assert limited.send(document=of(*most[:-1])).status == 202
    assert limited.send(document=of(most[-1])).status == 202

    answer = limited.send(document=of(most[0], "one more"))

    assert (answer.status, answer.codes) == (400, ["invalid"])
    [error] = answer.document["errors"]
    assert error["source"] == {"pointer": f"{ENTRIES}/0/attributes/events/data/1/{NAME}"}
    assert "its limit: use the name" in error["detail"]
    assert entered() == set(most)
    assert limited.send(document=of(most[0], most[-1])).status == 202
    assert len(limited.queued()) == 3


@pytest.mark.parametrize(
    ("path", "document", "where"),
    [
        (EVENT, single(), f"/data/{NAME}"),
        (EVENT, flat(), "/data/attributes/metric/name"),
        (CLIENT_EVENT, single(), f"/data/{NAME}"),
        (CLIENT_BULK, client_bulk(), f"/data/attributes/events/data/0/{NAME}"),
    ],
)
def test_every_route_is_held_to_it(limited: Front, path: str, document: Any, where: str) -> None:
    MetricQuota().reserve(TABLE, SITE_ID, numbered(0, MAX_METRICS), partly=False)

    answer = limited.send(path, document, query={"company_id": SITE_ID})

    assert (answer.status, answer.document["errors"][0]["source"]["pointer"]) == (400, where)
    assert limited.queued() == []


def test_what_is_refused_takes_up_no_room(limited: Front) -> None:
    assert limited.send(document=of(*numbered(0, MAX_METRICS + 1))).status == 400
    assert limited.send(document=bulk(entry(event(value="1", metric=metric("bad"))))).status == 400

    assert entered() == set()


def test_every_event_that_is_too_many_is_named(limited: Front) -> None:
    names = [*numbered(0, MAX_METRICS), "a", "b", "a"]

    answer = limited.send(document=of(*names))

    assert [error["source"]["pointer"] for error in answer.document["errors"]] == [
        f"{ENTRIES}/{number // 2}/attributes/events/data/{number % 2}/{NAME}"
        for number in range(MAX_METRICS, MAX_METRICS + 3)
    ]


def test_a_lenient_request_is_taken_but_for_those_too_many(limited: Front) -> None:
    MetricQuota().reserve(TABLE, SITE_ID, numbered(2, MAX_METRICS), partly=False)
    invalid = entry(event(value="1"))
    of_ann = profile(email="ann@example.com")
    document = bulk(
        invalid, entry(*[event(metric=metric(name)) for name in ("one", "two", "three", "one")], of=of_ann)
    )

    answer = limited.send(document=document, Prefer="handling=lenient")

    told = answer.document["data"]["attributes"]
    assert (answer.status, told["total_count"], told["failed_count"]) == (202, 5, 2)
    assert entered() == {*numbered(2, MAX_METRICS), "one", "two"}
    [stored] = decoded(limited.queued()[0], lambda _: b"").entries
    assert [(each.entry_index, each.event_index) for each in stored.events] == [(1, 0), (1, 1), (1, 3)]
    _, rejection = limited.rejected()
    assert rejection.pointer == f"{ENTRIES}/1/attributes/events/data/2/{NAME}"
    payload = json.loads(bytes(rejection.payload))
    assert payload["profile"] == of_ann["data"]
    assert [each["metric"] for each in payload["events"]] == [metric("three")]


def test_a_lenient_request_of_nothing_else_is_refused(limited: Front) -> None:
    MetricQuota().reserve(TABLE, SITE_ID, numbered(0, MAX_METRICS), partly=False)

    assert limited.send(document=of("one", "two"), Prefer="handling=lenient").status == 400
    assert (limited.queued(), limited.rejected()) == ([], [])


def test_an_account_that_does_not_ask_for_it_is_not_counted(limited: Front) -> None:
    answer = limited.send(
        document=of(*numbered(0, MAX_METRICS + 1)), Authorization=f"Klaviyo-API-Key {OTHER_KEY}"
    )

    assert answer.status == 202
    assert [item for item in limited.items() if item["pk"]["S"].startswith("metrics#")] == []


def test_without_the_table_all_are_taken(limited: Front) -> None:
    aws_client("dynamodb").delete_table(TableName=TABLE)

    assert limited.send(EVENT, single()).status == 202
    assert "MetricQuotaCheckFailures" in limited.said


def test_what_has_been_seen_is_not_asked_again(front: Front) -> None:
    made: list[str] = []
    clients.low_latency_dynamodb().meta.events.register(
        "before-call.dynamodb", lambda model, **_: made.append(model.name)
    )
    first, other = MetricQuota(), MetricQuota()

    first.reserve(TABLE, SITE_ID, ["a", "b"], partly=False)
    assert made == ["GetItem", "UpdateItem"]
    first.reserve(TABLE, SITE_ID, ["b", "a"], partly=False)
    assert made == ["GetItem", "UpdateItem"]
    other.reserve(TABLE, SITE_ID, ["a"], partly=False)
    assert made == ["GetItem", "UpdateItem", "GetItem"]


@pytest.mark.parametrize(
    ("others", "partly", "excess", "in_the_end"),
    [
        (["x"], False, {"b"}, {"x"}),
        (["x"], True, {"b"}, {"x", "a"}),
        (["a"], False, set(), {"a", "b"}),
        (["a", "x"], False, {"b"}, {"a", "x"}),
        (["x", "y"], True, {"a", "b"}, {"x", "y"}),
    ],
)
def test_who_is_overtaken_looks_again(
    front: Front,
    monkeypatch: pytest.MonkeyPatch,
    others: list[str],
    partly: bool,
    excess: set[str],
    in_the_end: set[str],
) -> None:
    MetricQuota().reserve(TABLE, SITE_ID, numbered(2, MAX_METRICS), partly=False)
    read = metric_quota._read

    def overtaken(table: str, site_id: str) -> frozenset[str]:
        found = read(table, site_id)
        monkeypatch.setattr(metric_quota, "_read", read)
        MetricQuota().reserve(TABLE, SITE_ID, others, partly=False)
        return found

    monkeypatch.setattr(metric_quota, "_read", overtaken)

    assert MetricQuota().reserve(TABLE, SITE_ID, ["a", "b"], partly=partly) == excess
    assert entered() == {*numbered(2, MAX_METRICS), *in_the_end}


@pytest.mark.trust("A browser takes no room for metrics from the account.")
@pytest.mark.rule
def test_anonymous_callers_take_no_room_from_the_account(limited: Front) -> None:
    MetricQuota().reserve(TABLE, SITE_ID, ["known"], partly=False)

    def send(name: str) -> int:
        return limited.send(CLIENT_EVENT, single(metric=metric(name)), query={"company_id": SITE_ID}).status

    strangers = [f"stranger {number}" for number in range(MAX_ANONYMOUS_METRICS)]
    assert {send(name) for name in [*strangers, "known", *strangers]} == {202}
    assert send("one too many") == 400
    assert limited.send(document=of(*numbered(1, MAX_METRICS))).status == 202
    assert send("known") == 202
    assert entered() == {"known", *numbered(1, MAX_METRICS)}


def test_anonymous_callers_find_no_room_in_a_full_account(front: Front) -> None:
    quota = MetricQuota()
    quota.reserve(TABLE, SITE_ID, numbered(0, MAX_METRICS), partly=False)

    assert quota.reserve(TABLE, SITE_ID, ["new"], partly=False, is_anonymous=True) == {"new"}
    assert quota.reserve(TABLE, SITE_ID, numbered(0, 5), partly=False, is_anonymous=True) == frozenset()
