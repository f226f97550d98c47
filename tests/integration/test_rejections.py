"""Tests how an operator finds refused events, from RejectedQueue to the answer of operate."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from sluice import rejection, runtime, settings
from sluice.operate import door, reasons, rejections
from sluice.operate.commands import COMMANDS
from sluice.records.record import Record
from sluice.rejection import Reason, Rejection, rejection_id
from sluice.settings import OperateSettings
from sluice.wiring.operate import operate_ports
from tests.support import sealing
from tests.support.aws_stack import Cloud, Function
from tests.support.factories import NOON, SITE_ID
from tests.support.recorded_log import RecordedLog

YESTERDAY = (runtime.now() - timedelta(days=1)).replace(microsecond=0)
CURRENCY = "/data/attributes/events-bulk-create/data/{}/attributes/events/data/0/attributes/value_currency"


class Operator:
    """Archives rejections with the real reject function, and asks the commands about them."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.log = RecordedLog()
        self.reject: Function = cloud.load("reject")
        cloud.load("operate")
        self.settings = settings.load(OperateSettings)

    def archive(self, *refused: Rejection) -> None:
        cloud = self.cloud
        cloud.load("reject")
        for each in refused:
            body = rejection.encode(each)
            if body.claim_key:
                cloud.s3.put_object(Bucket="claims", Key=body.claim_key, Body=body.claim_bytes)
            cloud.send(body.text, queue=cloud.rejected, seal=sealing.seal(body.text))
        records = cloud.receive(cloud.rejected)
        answer = self.reject(records)
        assert answer == {"batchItemFailures": []}
        cloud.settle(records, answer, cloud.rejected)
        cloud.load("operate")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        request = {"version": 1, "command": command, "arguments": arguments}
        answer = door.answer(
            request,
            COMMANDS[command].access,
            self.settings,
            operate_ports(self.settings, "operate"),
            self.log,
        )
        found: dict[str, Any] = answer.get("result", answer)
        return found


def wrong_currency(number: int, *, hours: float = 0, **fields: Any) -> Rejection:
    accepted = YESTERDAY + timedelta(hours=hours)
    payload = {
        "profile": {"type": "profile", "attributes": {"email": f"person{number}@mail.example"}},
        "events": [
            {
                "metric": {
                    "data": {"type": "metric", "attributes": {"name": fields.pop("metric", "Placed Order")}}
                },
                "value_currency": f"EURO{number}",
                "properties": {"name": "s3cret"},
            }
        ],
        "backfill": False,
    }
    given: dict[str, Any] = {
        "reason": Reason.REFUSED,
        "detail": f"'EURO{number}' is no currency.",
        "payload": msgspec.Raw(msgspec.json.encode(payload)),
        "rejected_at": accepted + timedelta(minutes=5),
        "account": SITE_ID,
        "code": "invalid",
        "status": 400,
        "surface": "bulk",
        "receipt": f"r{number % 2}",
        "accepted": accepted,
        "pointer": CURRENCY.format(number),
        "id": rejection_id(accepted, str(number)),
    }
    return Rejection(**given | fields)


@pytest.fixture
def operator(cloud: Cloud) -> Operator:
    return Operator(cloud)


def test_many_wrong_currencies_are_one_line(operator: Operator) -> None:
    operator.archive(*(wrong_currency(number) for number in range(60)))

    [group] = operator.ask("rejections groups")["groups"]

    assert group | {"id": "", "samples": [], "first_seen": "", "last_seen": ""} == {
        "id": "",
        "account": SITE_ID,
        "reason": "refused_by_upstream",
        "code": "invalid",
        "pointer": "/events/*/value_currency",
        "detail": "'…' is no currency.",
        "open": 60,
        "total": 60,
        "open_records": 60,
        "records": 60,
        "metrics": ["Placed Order"],
        "sources": [],
        "samples": [],
        "first_seen": "",
        "last_seen": "",
    }
    assert len(group["samples"]) == 3


def test_groups_with_the_most_open_events_come_first(operator: Operator) -> None:
    operator.archive(
        wrong_currency(1, detail="Is too long."),
        *(wrong_currency(number, account="XyZ789") for number in (2, 3)),
    )

    groups = operator.ask("rejections groups")["groups"]

    assert [(group["account"], group["open"]) for group in groups] == [("XyZ789", 2), (SITE_ID, 1)]
    assert operator.ask("rejections groups", account="XyZ789")["groups"] == groups[:1]


def test_a_group_without_anything_open_is_shown_if_asked_for(operator: Operator) -> None:
    operator.archive(wrong_currency(1))
    table = operate_ports(operator.settings, "operate").records
    found = table.find(wrong_currency(1).id)
    assert isinstance(found, Record)
    table.count_open([found], sign=-1)

    assert operator.ask("rejections groups")["groups"] == []
    [group] = operator.ask("rejections groups", settled=True)["groups"]
    assert (group["open"], group["total"]) == (0, 1)


def test_records_are_listed_page_by_page(operator: Operator) -> None:
    made = [wrong_currency(number, hours=number) for number in range(5)]
    operator.archive(*made)

    first = operator.ask("rejections list", limit=3)
    rest = operator.ask("rejections list", limit=3, next=first["next"])

    listed = [each["id"] for each in first["rejections"] + rest["rejections"]]
    assert listed == [each.id for each in reversed(made)]
    assert rest["next"] is None
    [one] = operator.ask("rejections list", limit=1)["rejections"]
    assert one.keys() >= {"id", "group", "account", "state", "reason", "detail", "rejected_at"}
    assert (one["state"], one["place"], one["metric"]) == ("open", "/events/0/value_currency", "Placed Order")


def test_the_events_of_a_person_are_found_and_nobody_is_named(operator: Operator) -> None:
    operator.archive(wrong_currency(1), wrong_currency(2))

    found = operator.ask("rejections list", profile="Person2@mail.example")

    assert [each["id"] for each in found["rejections"]] == [wrong_currency(2).id]
    assert "mail.example" not in str(found)
    assert "mail.example" not in str(operator.log.lines)


def test_a_rejection_is_shown_with_its_place_and_what_to_do(operator: Operator) -> None:
    made = wrong_currency(3)
    operator.archive(made)

    shown = operator.ask("rejections show", id=made.id)["rejection"]

    assert shown["payload"]["events"][0]["value_currency"] == "EURO3"
    assert shown["payload"]["profile"]["attributes"]["email"] == "***"
    assert (shown["pointer"], shown["place"]) == (CURRENCY.format(3), "/events/0/value_currency")
    assert made.id in shown["advice"]
    assert shown["meaning"]
    assert [step["state"] for step in shown["history"]] == ["open"]
    assert not shown["gone"]
    assert operator.log.lines == []


def test_a_payload_is_revealed_if_asked_for_and_that_is_audited(operator: Operator) -> None:
    made = wrong_currency(3)
    operator.archive(made)

    shown = operator.ask("rejections show", id=made.id, reveal=True)["rejection"]

    assert shown["payload"]["profile"]["attributes"]["email"] == "person3@mail.example"
    assert shown["words"] == "'EURO3' is no currency."
    assert [line for line, _ in operator.log.lines] == ["command started", "command ended"]
    assert "mail.example" not in str(operator.log.lines)


def test_a_payload_that_is_gone_says_so(operator: Operator) -> None:
    made = wrong_currency(3)
    operator.archive(made)
    for key in operator.cloud.keys("archive"):
        operator.cloud.s3.delete_object(Bucket="archive", Key=key)

    shown = operator.ask("rejections show", id=made.id)["rejection"]

    assert (shown["gone"], shown["payload"], shown["detail"]) == (True, None, "'…' is no currency.")


def test_a_payload_that_is_nested_deeply_hides_no_other(operator: Operator) -> None:
    deep = b'{"profile":{},"events":[{"properties":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}]}"
    made = wrong_currency(1, payload=msgspec.Raw(deep))
    operator.archive(made, wrong_currency(2))

    for reveal in (True, False):
        shown = operator.ask("rejections show", id=made.id, reveal=reveal)["rejection"]
        assert (shown["id"], shown["gone"]) == (made.id, False)
        assert len(operator.ask("rejections export", reveal=reveal)["rejections"]) == 2


@pytest.mark.parametrize("id", [rejection_id(NOON, "another"), "f" * 32])
def test_a_record_that_is_not_there_is_one_sentence(operator: Operator, id: str) -> None:
    error = operator.ask("rejections show", id=id)["error"]

    assert error["code"] == "not_found"
    assert id in error["message"]


def test_what_is_exported_has_its_payloads(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejections, "MAX_EXPORTED_BYTES", 3_000)
    made = [wrong_currency(number, hours=number) for number in range(8)]
    operator.archive(*made)

    exported: list[Any] = []
    following: dict[str, Any] = {}
    pages = 0
    while True:
        page = operator.ask("rejections export", reveal=True, **following)
        exported += page["rejections"]
        pages += 1
        if page["next"] is None:
            break
        following = {"next": page["next"]}

    assert [each["id"] for each in exported] == [each.id for each in reversed(made)]
    assert {each["payload"]["events"][0]["value_currency"] for each in exported} == {
        f"EURO{number}" for number in range(8)
    }
    assert pages > 1


def test_a_filter_that_is_none_says_which(operator: Operator) -> None:
    error = operator.ask("rejections list", state="gone")["error"]

    assert error["code"] == "invalid_arguments"
    assert "state" in error["message"]


def test_every_reason_has_its_meaning_and_its_advice() -> None:
    assert reasons.MEANINGS.keys() == reasons.ADVICE.keys() == set(Reason)
