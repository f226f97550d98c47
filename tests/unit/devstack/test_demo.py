"""Tests the demo's pure parts: reading the data, making events of it, and proving their outcomes."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
import pytest
from rich.console import Console

from devstack.demo import plan, proof, purchases, screen, sending
from devstack.demo.purchases import Order, Purchase
from devstack.demo.result import Result
from devstack.fake_upstream import Klaviyo, Settings

SITE, KEY = "AbC123", "pk_test"


@pytest.fixture(scope="module")
def rows() -> list[Purchase]:
    return purchases.read()


@pytest.fixture(scope="module")
def orders(rows: list[Purchase]) -> list[Order]:
    return [purchases.order(row) for row in rows]


def taken(*bodies: object) -> list[dict[str, Any]]:
    """Returns what the fake upstream lists after taking bulk requests."""
    klaviyo = Klaviyo({SITE: KEY}, Settings.unlimited())
    headers = {
        "Authorization": f"Klaviyo-API-Key {KEY}",
        "revision": "2026-07-15",
        "Content-Type": "application/vnd.api+json",
    }
    for body in bodies:
        answer = klaviyo.handle("POST", "/api/event-bulk-create-jobs", headers, json.dumps(body).encode())
        assert answer.status == 202, answer.body
    listed: list[dict[str, Any]] = msgspec.to_builtins(list(klaviyo.events()))
    return listed


def by_id(orders: Iterable[Order]) -> dict[str, Order]:
    return {order.unique_id: order for order in orders}


def rejection(
    *orders: Order, reason: str = "refused_by_upstream", detail: str = "Invalid email address."
) -> dict[str, Any]:
    events = [purchases.create_event(order)["data"]["attributes"] for order in orders]
    return {"reason": reason, "detail": detail, "payload": {"profile": {}, "events": events}}


def test_the_data_is_what_its_source_says(rows: list[Purchase]) -> None:
    alike = Counter(row[1:] for row in rows)

    assert len(rows) == 6_919
    assert len({row.sample_id for row in rows}) == len({row.full_id for row in rows}) == 2_357
    assert sum(count > 1 for count in alike.values()) == 19
    assert len(rows) - len(alike) == 21  # two of the nineteen are there three times
    assert (rows[0].day, rows[0].cds, rows[0].dollars) == (datetime(1997, 1, 1, tzinfo=UTC), 2, 29.33)
    assert {row.day.year for row in rows} == {1997, 1998}


def test_equal_rows_are_orders_of_their_own(orders: list[Order]) -> None:
    assert len(by_id(orders)) == 6_919


def test_every_purchase_goes_exactly_one_way(rows: list[Purchase], orders: list[Order]) -> None:
    planned = plan.plan(rows)

    assert [order.unique_id for order in (*planned.bulk, *planned.single)] == list(by_id(orders))
    assert len(planned.bulk) == 5_000
    assert all(order.backfill for order in planned.bulk)
    assert set(by_id(planned.repeats)) <= set(by_id(planned.single))
    assert all(plan.REFUSED_EMAIL in order.profile["email"] for order in planned.refused)
    assert not set(by_id(planned.refused)) & set(by_id(orders))


@pytest.mark.parametrize("count", [8, 300])
def test_a_small_plan_has_all_of_it(rows: list[Purchase], count: int) -> None:
    planned = plan.plan(rows[:count])

    assert len(planned.bulk) + len(planned.single) == count
    assert planned.bulk
    assert [len(planned.refused), len(planned.repeats), len(planned.invalid)] == [3, min(3, count // 4), 2]
    assert len(planned.one_by_one) == len(planned.single) + 3 + len(planned.repeats)


def test_what_arrives_as_sent_is_no_difference(orders: list[Order]) -> None:
    bulk, single = purchases.backfilled(orders[:600]), orders[600:700]
    arrivals = taken(purchases.bulk_job(bulk), purchases.bulk_job(single))

    found = proof.prove(by_id([*bulk, *single]), arrivals, [])

    assert (found.accepted, found.delivered, found.lost, found.duplicated) == (700, 700, 0, 0)
    assert found.holds


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("value", lambda arrival: arrival["event"].update(value=0)),
        ("value_currency", lambda arrival: arrival["event"].update(value_currency=None)),
        ("time", lambda arrival: arrival["event"].update(time="1997-01-01T00:00:01+00:00")),
        ("properties", lambda arrival: arrival["event"]["properties"].pop("CDs")),
        ("metric", lambda arrival: arrival["event"]["metric"]["data"]["attributes"].update(name="Other")),
        ("backfill", lambda arrival: arrival.update(backfill={"entry": None, "event": None})),
        ("profile", lambda arrival: arrival["profile"]["attributes"].pop("external_id")),
        ("location", lambda arrival: arrival["event"].update(location="added")),
    ],
)
def test_what_arrives_altered_is_lost_and_named(
    orders: list[Order], field: str, change: Callable[[dict[str, Any]], object]
) -> None:
    sent = purchases.backfilled(orders[:2])
    arrivals = taken(purchases.bulk_job(sent))
    change(arrivals[0])

    found = proof.prove(by_id(sent), arrivals, [])

    assert dict(found.altered) == {sent[0].unique_id: (field,)}
    assert (found.delivered, found.lost, found.holds) == (1, 1, False)


def test_the_same_instant_and_a_null_are_no_difference(orders: list[Order]) -> None:
    [arrival] = taken(purchases.bulk_job(orders[:1]))
    arrival["event"] |= {"time": "1997-01-01T01:00:00.000+01:00", "anything": None}

    assert proof.differences(orders[0], arrival) == ()


def test_outcomes_add_up_to_what_was_accepted(orders: list[Order]) -> None:
    delivered, rejected, lost = orders[0:3], orders[3:5], orders[5:6]
    arrivals = taken(purchases.bulk_job(delivered))
    archived = [rejection(*rejected), rejection(rejected[0])]

    found = proof.prove(by_id([*delivered, *rejected, *lost]), arrivals, archived)

    assert (found.accepted, found.delivered, found.rejected, found.lost) == (6, 3, 2, 1)
    assert found.reasons == {"refused_by_upstream: Invalid email address.": 2}
    assert (found.duplicated, found.stray, found.holds) == (0, 0, False)


def test_a_second_arrival_is_a_duplicate(orders: list[Order]) -> None:
    arrivals = taken(purchases.bulk_job(orders[:2]))

    found = proof.prove(by_id(orders[:2]), [*arrivals, arrivals[0]], [])

    assert (found.delivered, found.duplicated, found.holds) == (2, 1, False)


def test_what_nobody_sent_is_stray(orders: list[Order]) -> None:
    found = proof.prove(by_id(orders[:1]), taken(purchases.bulk_job(orders[:2])), [rejection(orders[2])])

    assert (found.accepted, found.delivered, found.stray, found.holds) == (1, 1, 2, False)


def test_delivered_and_archived_is_one_outcome_too_many(orders: list[Order]) -> None:
    found = proof.prove(by_id(orders[:1]), taken(purchases.bulk_job(orders[:1])), [rejection(orders[0])])

    assert (found.delivered, found.rejected, found.stray, found.holds) == (1, 0, 1, False)


def test_a_dead_letter_tells_its_events_too(orders: list[Order]) -> None:
    stored = {"sluice": 1, "entries": [{"events": [{"id": "x", "attributes": {"unique_id": "cdnow-1"}}]}]}
    archived = [{"reason": "dead_letter", "detail": "Received often.", "payload": stored}]

    assert proof.reasons_of(archived) == {"cdnow-1": "dead_letter: Received often."}
    assert proof.reasons_of([{"reason": "malformed_message", "detail": "?", "payload": "not JSON"}]) == {}


def result(orders: list[Order], **changes: Any) -> Result:
    found = proof.prove(by_id(orders[:4]), taken(purchases.bulk_job(orders[:3])), [rejection(*orders[3:4])])
    fields = {"refused": {"400 no": 1}, "jobs": [2, 1], "answers": {"202": 2}, "queued": 0}
    return Result(**{"proof": found, "requests": 2, "repeats": 1, "seconds": 1.25, **fields, **changes})


def test_the_last_line_is_the_result(orders: list[Order]) -> None:
    line = result(orders, jobs=[1_000, 980]).last_line

    assert line == "demo: accepted=4 delivered=3 rejected=1 lost=0 duplicated=0 jobs=2 fill=99% replayed=0"


def test_no_job_is_no_fill(orders: list[Order]) -> None:
    assert result(orders, jobs=[]).last_line.endswith("jobs=0 fill=0% replayed=0")


def test_something_still_queued_is_no_success(orders: list[Order]) -> None:
    assert result(orders).succeeded
    assert not result(orders, queued=1).succeeded


def test_a_mended_event_that_does_not_arrive_is_no_success(orders: list[Order]) -> None:
    assert result(orders, replayed=1).succeeded
    assert result(orders, replayed=1).last_line.endswith("replayed=1")
    failed = result(orders, replayed=0)
    assert not failed.succeeded
    assert "0 arrived" in failed.verdict


def test_the_document_is_json(orders: list[Order]) -> None:
    document = json.loads(json.dumps(result(orders).document()))

    assert document["proof"]["delivered"] == 3
    assert (document["events_per_job"], document["fill_percent"]) == (1.5, 0.1)


def test_the_table_names_trouble_only_if_there_is_any(orders: list[Order]) -> None:
    names = [name for name, _, _ in result(orders).table()]
    troubled = [name for name, _, _ in result(orders, queued=2).table()]

    assert {"accepted", "delivered", "rejected", "lost", "duplicated", "jobs issued"} <= set(names)
    assert set(troubled) - set(names) == {"still queued"}


def test_without_a_terminal_progress_is_plain_lines(orders: list[Order]) -> None:
    output = io.StringIO()
    console = Console(file=output, width=80)

    with screen.Bars({"sent": 1_000, "arrived": 10}, console) as bars:
        bars.add("sent", 1_000)
        bars.set("arrived", 4)
    screen.table(result(orders).table(), console)

    assert output.getvalue().startswith("sent 1,000/1,000, arrived 4/10\n")
    assert re.search(r"^delivered +3  with every value", output.getvalue(), re.MULTILINE)
    assert "\x1b" not in output.getvalue()


def test_on_a_terminal_progress_is_bars() -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True)

    with screen.Bars({"sent": 2}, console) as bars:
        bars.add("sent", 2)

    assert "━" in output.getvalue()


def test_a_sentence_and_the_verdict_are_shown_in_words(orders: list[Order]) -> None:
    output = io.StringIO()
    console = Console(file=output, width=80)

    with screen.Bars({"sent": 2}, console) as bars:
        bars.say("waiting: 1 of 2")
    screen.verdict(result(orders).verdict, succeeded=True, console=console)
    screen.verdict(result(orders, queued=3).verdict, succeeded=False, console=console)

    assert "waiting: 1 of 2\n" in output.getvalue()
    assert "PASSED: each of 4 accepted events has exactly one outcome" in output.getvalue()
    assert "FAILED: nothing moves any more, and 3 messages are still queued" in output.getvalue()


def test_the_verdict_of_a_loss_says_what_is_lost(orders: list[Order]) -> None:
    lost = proof.prove(by_id(orders[:4]), [], [])

    assert result(orders, proof=lost).verdict.startswith("of 4 accepted events 4 are lost")


def test_an_unfinished_bar_is_not_red() -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True, color_system="standard")

    with screen.Bars({"sent": 2}, console) as bars:
        bars.add("sent", 1)

    assert "\x1b[36m━" in output.getvalue()
    assert "\x1b[31m" not in output.getvalue()


def test_every_request_of_a_plan_is_one_message(rows: list[Purchase]) -> None:
    planned = plan.plan(rows)

    assert planned.messages == 5 + len(planned.one_by_one)


class Flaky:
    """Plays an API that answers as it is told, one answer or failure after the other."""

    def __init__(self, *answers: httpx2.Response | Exception) -> None:
        self.answers = list(answers)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def send(flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> tuple[httpx2.Response, list[float]]:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with httpx2.Client(transport=httpx2.MockTransport(flaky)) as client:
        return sending.create_event(client, "http://api/api/events", {}), waits


def test_an_event_is_sent_again_as_an_sdk_does(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(
        httpx2.Response(429, headers={"Retry-After": "7"}),
        httpx2.ReadTimeout("timed out"),
        httpx2.Response(503),
        httpx2.Response(202),
    )

    answer, waits = send(flaky, monkeypatch)

    assert answer.status_code == 202
    assert waits[0] == 7
    assert all(0 <= wait <= longest for wait, longest in zip(waits[1:], (2, 4), strict=True))


def test_what_will_not_pass_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, waits = send(Flaky(httpx2.Response(400)), monkeypatch)

    assert (answer.status_code, waits) == (400, [])


def test_what_timed_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(*[httpx2.ReadTimeout("timed out")] * 4)

    with pytest.raises(
        sending.SendingError, match=r"an event to http://api/api/events got no answer, 4 times"
    ):
        send(flaky, monkeypatch)
