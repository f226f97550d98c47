"""Tests a replay through the functions: archived by reject, sent by operate, delivered by dispatch."""

import contextlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice import rejection, runtime
from sluice.delivery import http
from sluice.operate import jobs, replay, replay_commands
from sluice.rejection import Reason, Rejection
from tests.integration.test_rejections import wrong_currency
from tests.support import sealing
from tests.support.aws_stack import PRIVATE_KEY, Cloud, Crash, close_event_loop, cloud, forget, forget_secrets
from tests.support.factories import SITE_ID
from tests.support.operate import Operate

EUR = {"fault": {"value": "EUR"}}


class Desk:
    """Holds the functions that a replay takes, and what an operator asks of them."""

    def __init__(self, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.aws = aws
        self.patch = monkeypatch
        self.klaviyo = Klaviyo({SITE_ID: PRIVATE_KEY}, Settings.unlimited())
        self.client = httpx2.AsyncClient(transport=transport(self.klaviyo))
        monkeypatch.setattr(http, "client", lambda: self.client)

    def archive(self, *refused: Rejection) -> None:
        for each in refused:
            text = rejection.encode(each).text
            self.aws.send(text, queue=self.aws.rejected, seal=sealing.seal(text))
        self.work_off("reject", self.aws.rejected)

    def work_off(self, name: str, queue: str | None = None) -> None:
        """Lets a function handle all that is on its queue."""
        function = self.aws.load(name)
        while (records := self.aws.receive(queue))["Records"]:
            self.aws.settle(records, function(records), queue)

    def deliver(self) -> None:
        self.work_off("dispatch", self.aws.background)
        self.work_off("reject", self.aws.rejected)

    def ask(self, command: str, alias: str = "admin", **arguments: Any) -> Any:
        answer = Operate(self.aws)(command, alias, **arguments)
        return answer.get("result", answer.get("error"))

    def plan(self, **arguments: Any) -> Any:
        return self.ask("rejections replay plan", **arguments)

    def states(self) -> Counter[str]:
        listed = self.ask("rejections list", "read", limit=100)["rejections"]
        return Counter(each["state"] for each in listed)

    def taken(self) -> Counter[str]:
        return Counter(each.event["unique_id"] for each in self.klaviyo.events())


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with cloud(monkeypatch) as aws:
        yield Desk(aws, monkeypatch)
    close_event_loop()


def test_a_wrong_currency_is_mended_in_a_whole_group_and_delivered_once(desk: Desk) -> None:
    refused = [wrong_currency(number) for number in range(30)]
    desk.archive(*refused)
    [group] = desk.ask("rejections groups", "read")["groups"]

    plan = desk.plan(group=group["id"], mend=EUR)

    assert (plan["job"]["state"], plan["job"]["matched"], plan["job"]["ready"]) == ("planned", 30, 30)
    before, after = (plan["sample"][name]["events"][0]["value_currency"] for name in ("before", "after"))
    assert (before[:4], after) == ("EURO", "EUR")
    assert "mail.example" not in json.dumps(plan)
    assert desk.states() == {"open": 30}

    sent = desk.ask("rejections replay run", job=plan["job"]["id"])["job"]
    assert (sent["state"], sent["sent"], sent["waiting"]) == ("settling", 30, 30)
    assert desk.states() == {"replaying": 30}
    assert desk.ask("rejections groups", "read")["groups"] == []

    desk.deliver()
    done = desk.ask("jobs work", job=plan["job"]["id"])["job"]

    assert (done["state"], done["delivered"], done["waiting"]) == ("done", 30, 0)
    assert desk.states() == {"delivered": 30}
    assert desk.taken() == Counter(each.id for each in refused)
    assert {each.event["value_currency"] for each in desk.klaviyo.events()} == {"EUR"}
    [again] = [desk.plan(group=group["id"], mend=EUR)["job"]]
    assert again["matched"] == 0
    assert desk.ask("jobs list", "read")["jobs"][1]["id"] == plan["job"]["id"]


class TestACheck:
    def test_judges_a_mend_as_a_replay_would_and_changes_nothing(self, desk: Desk) -> None:
        desk.archive(refused := wrong_currency(1))

        def check(**mend: Any) -> Any:
            return desk.ask("rejections replay check", id=refused.id, mend=mend)

        place = "/events/0/value_currency"
        assert check(set=[{"pointer": place, "value": "EUR"}]) == {
            **{"passes": True, "events": 1, "why": None, "place": None}
        }
        still = check()
        assert (still["passes"], still["place"]) == (False, place)
        assert "ISO 4217" in still["why"]
        elsewhere = check(set=[{"pointer": "/events/7/value", "value": 1}])
        assert (elsewhere["passes"], elsewhere["why"]) == (
            False,
            "The payload has no such place: '/events/7/value'.",
        )
        assert desk.states() == {"open": 1}
        assert desk.ask("jobs list", "read")["jobs"] == []

    def test_of_a_payload_that_is_gone_says_so(self, desk: Desk) -> None:
        desk.archive(refused := wrong_currency(1))
        for key in desk.aws.keys("archive"):
            desk.aws.s3.delete_object(Bucket="archive", Key=key)

        assert "not in the archive" in desk.ask("rejections replay check", id=refused.id)["why"]
        assert "no record" in desk.ask("rejections replay check", id="f" * 32)["message"]


def test_what_is_refused_again_is_linked_to_its_successor(desk: Desk) -> None:
    desk.klaviyo.configure(poison=[{"contains": "person1@"}])
    desk.archive(*(wrong_currency(number) for number in range(3)))
    job = desk.plan(account=SITE_ID, mend=EUR)["job"]["id"]
    desk.ask("rejections replay run", job=job)
    desk.deliver()

    done = desk.ask("jobs work", job=job)["job"]

    assert (done["state"], done["delivered"], done["rejected_again"]) == ("done", 2, 1)
    assert desk.states() == {"delivered": 2, "rejected_again": 1, "open": 1}
    listed = {each["id"]: each for each in desk.ask("rejections list", "read")["rejections"]}
    [successor] = [each for each in listed.values() if each["state"] == "open"]
    predecessor = listed[successor["predecessor"]]
    assert (predecessor["state"], predecessor["successor"]) == ("rejected_again", successor["id"])
    [group] = desk.ask("rejections groups", "read")["groups"]
    assert (group["open"], group["total"]) == (1, 1)


def test_of_two_operators_the_second_is_told(desk: Desk) -> None:
    refused = [wrong_currency(number) for number in range(3)]
    desk.archive(*refused)
    ids = [each.id for each in refused]
    first, second = (desk.plan(ids=ids, mend=EUR)["job"] for _ in range(2))
    desk.ask("rejections replay run", job=first["id"])

    told = desk.ask("rejections replay run", job=second["id"])["job"]

    assert (told["state"], told["sent"], told["taken"]) == ("done", 0, 3)
    assert told["reasons"] == [
        {"why": f"It is being replayed by the job {first['id']} of claimed:unknown.", "count": 3}
    ]
    desk.deliver()
    assert desk.taken() == Counter(ids)


def test_killed_between_any_two_calls_each_event_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LEASE_SECONDS", 0.0)
    refused = [wrong_currency(number) for number in range(2)]
    for number in range(100):
        with cloud(monkeypatch) as aws:
            desk = Desk(aws, monkeypatch)
            desk.archive(*refused)
            job = desk.plan(ids=[each.id for each in refused], mend=EUR)["job"]["id"]
            operate = Operate(aws)
            aws.calls.crash(number, done=True)
            survived = False
            with contextlib.suppress(Crash), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a process that dies has counted nothing
                operate("rejections replay run", job=job)
                survived = True
            aws.calls.clear()
            forget()
            desk.ask("rejections replay run", job=job)
            desk.deliver()
            state = desk.ask("jobs work", job=job)["job"]

            assert (state["state"], state["sent"], state["delivered"]) == ("done", 2, 2)
            assert desk.taken() == Counter(each.id for each in refused)
            assert desk.states() == {"delivered": 2}
            [group] = desk.ask("rejections groups", "read", settled=True)["groups"]
            assert (group["open"], group["open_records"]) == (0, 0)
        close_event_loop()
        forget_secrets()
        if survived:
            assert number > 10  # it has died in each of its calls
            return
    raise AssertionError("it makes more calls than this test takes")


def test_a_plan_goes_on_where_it_stopped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "SLICE_RECORDS", 2)
    desk.archive(*(wrong_currency(number) for number in range(5)))
    times = iter(range(1_000))
    monkeypatch.setattr(runtime, "monotonic", lambda: next(times) * 3.0)
    plan = desk.plan(account=SITE_ID)
    assert plan["job"]["state"] == "planning"
    calls = 1
    while plan["job"]["state"] == "planning":
        plan = desk.plan(job=plan["job"]["id"])
        calls += 1
    assert calls > 1
    assert (plan["job"]["matched"], plan["job"]["still_refused"]) == (5, 5)
    [reason] = plan["job"]["reasons"]
    assert "ISO 4217" in reason["why"]


def test_what_nobody_waits_for_goes_on_by_the_tick(desk: Desk) -> None:
    desk.archive(wrong_currency(1))
    job = desk.plan(account=SITE_ID, mend=EUR)["job"]["id"]
    assert desk.ask("jobs tick") == {"worked": 0, "left": 0}  # nobody has confirmed it
    desk.ask("rejections replay run", job=job)
    desk.deliver()
    assert desk.ask("jobs tick") == {"worked": 1, "left": 0}
    assert desk.states() == {"delivered": 1}
    assert desk.ask("jobs tick") == {"worked": 0, "left": 0}


def test_a_plan_that_nobody_confirms_is_forgotten_after_a_day(desk: Desk) -> None:
    desk.archive(wrong_currency(1))
    job = desk.plan(account=SITE_ID, mend=EUR)["job"]["id"]
    tomorrow = runtime.now() + timedelta(days=1, minutes=1)
    desk.patch.setattr(runtime, "now", lambda: tomorrow)
    desk.ask("jobs tick")
    assert desk.ask("jobs show", "read", job=job)["job"]["state"] == "cancelled"
    assert desk.ask("rejections replay run", job=job)["code"] == "conflict"


def test_a_job_is_cancelled_once(desk: Desk) -> None:
    desk.archive(wrong_currency(1))
    job = desk.plan(account=SITE_ID, mend=EUR)["job"]["id"]
    assert desk.ask("jobs cancel", job=job)["job"]["state"] == "cancelled"
    assert desk.ask("jobs cancel", job=job)["job"]["state"] == "cancelled"
    assert desk.states() == {"open": 1}


class TestDiscarding:
    def test_takes_records_out_of_what_is_open_and_can_be_taken_back_for_a_day(self, desk: Desk) -> None:
        refused = [wrong_currency(number) for number in range(3)]
        desk.archive(*refused)
        why = "a test of the shop"

        counted = desk.ask("rejections discard", account=SITE_ID, why=why, dry_run=True)
        assert (counted["matched"], counted["changed"]) == (3, 0)
        discarded = desk.ask("rejections discard", ids=[each.id for each in refused[:2]], why=why)
        assert (discarded["matched"], discarded["changed"], discarded["next"]) == (2, 2, None)

        assert desk.states() == {"open": 1, "discarded": 2}
        [group] = desk.ask("rejections groups", "read")["groups"]
        assert (group["open"], group["open_records"]) == (1, 1)
        shown = desk.ask("rejections show", "read", id=refused[0].id)["rejection"]
        assert (shown["why"], shown["who"]) == (why, "claimed:unknown")
        assert desk.plan(ids=[refused[0].id])["job"]["matched"] == 0

        assert desk.ask("rejections restore", ids=[refused[0].id])["changed"] == 1
        assert desk.states() == {"open": 2, "discarded": 1}
        [group] = desk.ask("rejections groups", "read")["groups"]
        assert (group["open"], group["open_records"]) == (2, 2)

    def test_has_no_way_back_after_a_day(self, desk: Desk) -> None:
        desk.archive(wrong_currency(1))
        desk.ask("rejections discard", account=SITE_ID, why="not needed")
        tomorrow = runtime.now() + timedelta(days=1, minutes=1)
        desk.patch.setattr(runtime, "now", lambda: tomorrow)
        assert desk.ask("rejections restore", account=SITE_ID)["changed"] == 0
        assert desk.states() == {"discarded": 1}

    def test_goes_on_after_a_page(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay_commands, "CHANGED_AT_ONCE", 2)
        desk.archive(*(wrong_currency(number) for number in range(5)))
        found: Any = {"next": None, "not_after": None}
        sums: Counter[str] = Counter()
        while True:
            going_on = {"next": found["next"], "not_after": found["not_after"]}
            found = desk.ask("rejections discard", account=SITE_ID, why="no", **going_on)
            sums.update({"matched": found["matched"], "changed": found["changed"]})
            if found["next"] is None:
                break
        assert sums == {"matched": 5, "changed": 5}


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("rejections replay plan", {}, "which records are meant"),
        ("rejections replay plan", {"account": SITE_ID, "state": "delivered"}, "state cannot be chosen"),
        ("rejections replay plan", {"ids": ["f" * 32], "account": SITE_ID}, "no filter beside them"),
        ("rejections replay plan", {"account": SITE_ID, "mend": {"remove": ["x"]}}, "JSON pointer"),
        ("rejections replay run", {"job": "0" * 20}, "no job"),
        ("jobs show", {"job": "0" * 20}, "no job"),
        ("jobs show", {"job": "x"}, "job"),
        ("rejections discard", {"account": SITE_ID}, "why"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(desk: Desk, command: str, arguments: Any, said: str) -> None:
    error = desk.ask(command, **arguments)
    assert said in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "command",
    ["rejections replay check", "rejections replay plan", "rejections replay run", "jobs work", "jobs tick"],
)
def test_read_may_do_none_of_it(desk: Desk, command: str) -> None:
    assert desk.ask(command, "read")["code"] == "forbidden"


def test_a_payload_that_is_gone_says_so(desk: Desk) -> None:
    desk.archive(wrong_currency(1))
    for key in desk.aws.keys("archive"):
        desk.aws.s3.delete_object(Bucket="archive", Key=key)
    plan = desk.plan(account=SITE_ID, mend=EUR)["job"]
    assert (plan["gone"], plan["ready"]) == (1, 0)
    assert plan["reasons"] == [{"why": "Its payload is not in the archive any more.", "count": 1}]


def test_a_delivery_of_a_webhook_is_mapped_again_by_its_source(desk: Desk) -> None:
    document = {"sources": {"shop": {"account": SITE_ID, "preset": "shopify", "secret": "shop"}}}
    desk.aws.s3.put_object(Bucket="configuration", Key="sources.json", Body=json.dumps(document).encode())
    order = Path("tests/webhooks/shopify/orders_create.json").read_text()
    accepted = runtime.now() - timedelta(hours=3)
    whole = Rejection(
        Reason.MALFORMED,
        "The body cannot be read.",
        msgspec.Raw(json.dumps(order).encode()),
        accepted,
        account=SITE_ID,
        surface="webhook",
        source="shop",
        accepted=accepted,
        headers={"x-shopify-topic": "orders/create"},
    )
    desk.archive(whole)
    job = desk.plan(ids=[whole.id])["job"]
    assert job["ready"] == 1
    desk.ask("rejections replay run", job=job["id"])
    desk.deliver()
    assert "Placed Order" in {
        each.event["metric"]["data"]["attributes"]["name"] for each in desk.klaviyo.events()
    }
    assert desk.states() == {"replaying": 1}
    assert desk.ask("jobs work", job=job["id"])["job"]["delivered"] == 1


def test_an_account_that_limits_its_metrics_gets_no_more_by_a_replay(desk: Desk) -> None:
    desk.aws.name_accounts({"site_id": SITE_ID, "private_key": PRIVATE_KEY, "limit_metrics": True})
    desk.aws.dynamodb.put_item(
        TableName="state",
        Item={"pk": {"S": f"metrics#{SITE_ID}"}, "names": {"SS": [f"m{n}" for n in range(200)]}},
    )
    desk.archive(wrong_currency(1))
    plan = desk.plan(account=SITE_ID, mend=EUR)["job"]
    assert (plan["ready"], plan["still_refused"]) == (0, 1)


def test_a_plan_takes_no_room_for_metrics_and_a_replay_takes_what_it_needs(desk: Desk) -> None:
    desk.aws.name_accounts({"site_id": SITE_ID, "private_key": PRIVATE_KEY, "limit_metrics": True})
    desk.archive(wrong_currency(1))

    def names() -> list[str]:
        found = desk.aws.dynamodb.get_item(TableName="state", Key={"pk": {"S": f"metrics#{SITE_ID}"}})
        return list(found.get("Item", {}).get("names", {}).get("SS", []))

    job = desk.plan(account=SITE_ID, mend=EUR)["job"]
    assert (job["ready"], names()) == (1, [])

    desk.ask("rejections replay run", job=job["id"])
    assert names() == ["Placed Order"]


def test_a_replay_that_comes_back_as_a_dead_letter_opens_its_records_again(desk: Desk) -> None:
    refused = [wrong_currency(number) for number in range(3)]
    desk.archive(*refused)
    job = desk.plan(account=SITE_ID, mend=EUR)["job"]["id"]
    desk.ask("rejections replay run", job=job)
    [record] = desk.aws.receive(desk.aws.background)["Records"]

    for _ in range(2):  # archiving is at least once
        seal = record["messageAttributes"]["seal"]["stringValue"]
        desk.aws.send(record["body"], queue=desk.aws.rejected, seal=seal)
        desk.work_off("reject", desk.aws.rejected)

    assert desk.states() == {"open": 3}
    [group] = desk.ask("rejections groups", "read")["groups"]
    assert (group["open"], group["total"]) == (3, 3)
    shown = desk.ask("rejections show", "read", id=refused[0].id)["rejection"]
    assert shown["why"] == "came back as a dead letter"
    again = desk.plan(account=SITE_ID, mend=EUR)["job"]["id"]
    desk.ask("rejections replay run", job=again)
    desk.deliver()
    assert desk.taken() == Counter(each.id for each in refused)


def test_times_are_told_in_utc(desk: Desk) -> None:
    desk.archive(wrong_currency(1))
    plan = desk.plan(account=SITE_ID, mend=EUR)["job"]
    assert datetime.fromisoformat(plan["created_at"]).tzinfo is not None
