"""Tests that what is stored of a person is removed everywhere, and nothing of anybody else."""

import contextlib
import gzip
import json
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from sluice import runtime
from sluice.aws import sts
from sluice.delivery import parking
from sluice.operate import erase
from sluice.rejection import Reason, Rejection, rejection_id
from sluicectl.cli import sluicectl
from tests.integration.test_rejections import Operator, wrong_currency
from tests.support.aws_stack import Cloud, Crash, stored
from tests.support.operate import Operate
from tests.support.sealing import SEALING

ANN, BOB = "person1@mail.example", "person2@mail.example"
PART = "imports/abc/part-00001-x.jsonl.gz"


@pytest.fixture
def operator(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setattr(sts, "caller_arn", lambda *_, **__: "arn:aws:iam::123456789012:user/ada")
    return Operator(cloud)


def run(cloud: Cloud, *arguments: str, answer: str = "") -> Result:
    Operate(cloud).serve()
    done = CliRunner().invoke(sluicectl, ["erase", *arguments], answer, catch_exceptions=False)
    cloud.calls.clear()
    return done


def dead_letter(*people: str) -> Rejection:
    """Makes a dead letter with an entry for each of some people."""
    made: Any = stored(*((name, name) for name in people), receipt="r-dead")
    return wrong_currency(
        50,
        reason=Reason.DEAD_LETTER,
        payload=msgspec.Raw(
            msgspec.json.encode(msgspec.json.encode(made).decode())
        ),  # the body that was received
        pointer=None,
        id=rejection_id(runtime.now(), "dead"),
    )


def lines(cloud: Cloud) -> list[bytes]:
    return [
        line
        for key in cloud.keys("archive", "rejections/")
        for line in cloud.content("archive", key).split(b"\n")
        if line.strip()
    ]


def everything(cloud: Cloud) -> bytes:
    """Returns all that is stored, unpacked, but for what is in flight."""
    parked = [
        b"\n".join(parking.parked_messages("claims", key, SEALING))
        for prefix in ("parked/", "unknown/")
        for key in cloud.keys("claims", prefix)
    ]
    imported = [gzip.decompress(cloud.content("claims", PART))] if cloud.keys("claims", PART) else []
    table = cloud.dynamodb.scan(TableName="records")["Items"]
    return b"\n".join([*lines(cloud), *parked, *imported, json.dumps(table).encode()])


def test_all_of_a_person_goes_and_all_of_others_stays(operator: Operator) -> None:
    cloud = operator.cloud
    operator.archive(wrong_currency(1), wrong_currency(2), wrong_currency(3))
    operator.archive(dead_letter("person1", "person2"))
    parking.park(
        "claims", "AbC123", [msgspec.json.encode(stored(("person1", "p"), ("bob", "b")))], sealing=SEALING
    )
    imported = [json.dumps({"email": each}) for each in (ANN, BOB)]
    content = gzip.compress("\n".join(imported).encode())
    cloud.s3.put_object(Bucket="claims", Key=PART, Body=content, Metadata={"kept": "yes"})
    before = {each["id"]: each for each in operator.ask("rejections list")["rejections"]}

    looked = run(cloud, "--profile", "Person1@Mail.example", "--dry-run", "--json")

    planned = json.loads(looked.stdout)
    assert looked.exit_code == 0
    assert {name: planned[name] for name in erase.COUNTS} == {
        "archived": 2,
        "records": 0,
        "parked": 1,
        "imported": 1,
        "replayed": 0,
        "mends": 0,
    }
    assert everything(cloud).count(ANN.encode()) == 4

    done = run(cloud, "--profile", "Person1@Mail.example", "--yes", "--json")

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) | {"job": "", "in_flight_until": ""} == planned | {
        "job": "",
        "in_flight_until": "",
        "state": "done",
    }
    left = everything(cloud)
    assert ANN.encode() not in left
    assert left.count(BOB.encode()) == 3  # refused, in the dead letter, imported
    assert b"bob" in left
    assert cloud.s3.head_object(Bucket="claims", Key=PART)["Metadata"] == {"kept": "yes"}
    unpacked = gzip.decompress(cloud.content("claims", PART))
    assert len(unpacked) == len("\n".join(imported))
    assert unpacked.split(b"\n")[1] == imported[1].encode()
    after = {each["id"]: each for each in operator.ask("rejections list")["rejections"]}
    assert before.keys() - after.keys() == {wrong_currency(1).id}
    for each in after:
        shown = operator.ask("rejections show", id=each)
        assert shown["rejection"]["payload"] is not None
    counted = operator.ask("rejections groups")["groups"]
    assert sum(each["open"] for each in counted) == sum(each["events"] for each in after.values())
    assert operator.ask("rejections index")["added"] == 0

    again = run(cloud, "--profile", ANN, "--dry-run", "--json")

    assert not any(json.loads(again.stdout)[name] for name in erase.COUNTS)


def test_what_comes_back_later_is_not_archived_unless_it_was_accepted_later(operator: Operator) -> None:
    cloud = operator.cloud
    assert run(cloud, "--profile", ANN, "--yes").exit_code == 0

    later = runtime.now().replace(year=2099)
    operator.archive(
        wrong_currency(1),
        wrong_currency(2),
        dead_letter("person1", "person2"),
        wrong_currency(1, accepted=later, rejected_at=later, id=rejection_id(later, "later")),
    )

    archived = lines(cloud)
    assert len(archived) == 3
    assert sum(ANN.encode() in line for line in archived) == 1
    assert sum(BOB.encode() in line for line in archived) == 2
    assert len(operator.ask("rejections list")["rejections"]) == 3


def test_a_record_whose_payload_is_gone_goes_too(operator: Operator) -> None:
    cloud = operator.cloud
    operator.archive(wrong_currency(1), wrong_currency(2))
    for key in cloud.keys("archive", "rejections/"):
        cloud.s3.delete_object(Bucket="archive", Key=key)

    done = json.loads(run(cloud, "--profile", ANN, "--yes", "--json").stdout)

    assert (done["archived"], done["records"]) == (0, 1)
    assert [each["id"] for each in operator.ask("rejections list")["rejections"]] == [wrong_currency(2).id]


def test_a_mend_of_a_job_that_names_the_person_goes_too(operator: Operator) -> None:
    cloud = operator.cloud
    operator.archive(wrong_currency(2))
    change = {"pointer": "/profile/attributes/email", "value": ANN}
    job = operator.ask("rejections replay plan", account="AbC123", mend={"set": [change]})["job"]["id"]

    told = run(cloud, "--profile", ANN, "--yes")

    assert told.exit_code == 1
    assert f"A mend of the job {job} names the person" in told.output
    assert ANN.encode() in everything(cloud)

    operator.ask("jobs cancel", job=job)
    assert json.loads(run(cloud, "--profile", ANN, "--yes", "--json").stdout)["mends"] == 1
    assert ANN.encode() not in everything(cloud)


def test_it_asks_and_says_what_it_cannot_reach(operator: Operator) -> None:
    cloud = operator.cloud
    operator.archive(wrong_currency(1))

    declined = run(cloud, "--profile", ANN, answer="n\n")

    assert declined.exit_code != 0
    assert "Nothing is removed" in declined.output
    assert ANN.encode() in everything(cloud)
    unasked = run(cloud, "--profile", ANN, "--json")
    assert unasked.exit_code != 0
    assert "--yes" in json.loads(unasked.stdout)["error"]

    agreed = run(cloud, "--profile", ANN, answer="y\n")

    assert agreed.exit_code == 0
    assert "Not reached" in agreed.output
    assert "1  refused events and dead letters" in agreed.output
    assert ANN not in agreed.output
    assert ANN.encode() not in everything(cloud)


def test_stopped_after_any_call_it_is_finished_by_the_tick(operator: Operator) -> None:
    cloud = operator.cloud
    for number in range(0, 60, 3):
        operator.archive(
            wrong_currency(1, id=rejection_id(runtime.now(), f"one {number}")), wrong_currency(2)
        )
        job = operator.ask("erase plan", profile=ANN)["job"]
        cloud.calls.crash(number, done=bool(number % 2))
        with contextlib.suppress(Crash):
            operator.ask("erase run", job=job["id"])
        cloud.calls.clear()
        _lose_leases(cloud)

        if operator.ask("jobs tick")["worked"] == 0:
            operator.ask("erase run", job=job["id"])  # it had not begun, or had ended

        assert operator.ask("jobs show", job=job["id"])["job"]["state"] == "done"
        assert ANN.encode() not in everything(cloud)
        assert BOB.encode() in everything(cloud)


def _lose_leases(cloud: Cloud) -> None:
    """Lets the lease of every job be over."""
    for item in cloud.dynamodb.scan(TableName="records")["Items"]:
        if item["pk"]["S"] == "jobs":
            held = json.loads(item["job"]["S"])
            held.pop("lease", None)
            cloud.dynamodb.put_item(TableName="records", Item=item | {"job": {"S": json.dumps(held)}})
