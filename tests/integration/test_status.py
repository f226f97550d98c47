"""Tests the status: what operate finds in AWS, and how `sluicectl status` shows it in 80 columns."""

import itertools
import json
import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from sluice import runtime
from sluice.aws import sts
from sluice.contract import Surface
from sluice.delivery import circuit_breaker, parking, pause
from sluice.webhooks import sources
from sluicectl.cli import sluicectl
from tests.integration.test_rejections import Operator, wrong_currency
from tests.support.aws_clients import aws_client
from tests.support.aws_stack import Cloud, stored
from tests.support.factories import SITE_ID
from tests.support.operate import Operate
from tests.support.sealing import SEALING

OTHER = "XyZ789"
UNKNOWN = "QqQ111"


@pytest.fixture(autouse=True)
def ada(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sts, "caller_arn", lambda *_, **__: "arn:aws:iam::123456789012:user/ada")


def run(cloud: Cloud, *options: str) -> Result:
    Operate(cloud).serve()
    return CliRunner().invoke(sluicectl, ["status", *options], catch_exceptions=False, env={"COLUMNS": "80"})


def status(cloud: Cloud) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(cloud, "--json").stdout)
    return found


def account(found: dict[str, Any], id: str) -> dict[str, Any]:
    [one] = [each for each in found["accounts"] if each["id"] == id]
    return dict(one)


def park(*names: str, site_id: str = SITE_ID, prefix: str = parking.PARKED_PREFIX) -> None:
    messages = [
        msgspec.json.encode(stored((name, name), receipt=name, account=site_id, surface=Surface.EVENT))
        for name in names
    ]
    parking.park("claims", site_id, messages, prefix=prefix, sealing=SEALING)


def measure(service: str, moment: Any = None, **metrics: float) -> None:
    aws_client("cloudwatch").put_metric_data(
        Namespace="Sluice",
        MetricData=[
            {
                "MetricName": name,
                "Dimensions": [{"Name": "service", "Value": service}],
                "Value": value,
                "Timestamp": moment or runtime.now() - timedelta(minutes=2),
            }
            for name, value in metrics.items()
        ],
    )


def test_a_quiet_deployment(cloud: Cloud) -> None:
    found = status(cloud)

    assert account(found, SITE_ID) == {
        **{"id": SITE_ID, "kind": "klaviyo", "circuit": "closed", "since": None, "why": None, "who": None},
        **{"pace": {"used": 0, "allowed": 150, "paused_until": None}, "waiting": 0},
        **{"parked": 0, "parked_more": False, "oldest": None},
    }
    assert [queue["name"] for queue in found["queues"]] == [
        *("events", "events_dead_letters", "background", "background_dead_letters"),
        *("rejected", "rejected_dead_letters"),
    ]
    assert (found["alarms"], found["jobs"], found["open_groups"]) == ([], [], 0)
    assert found["last_hour"] is None
    assert found["not_known"] == ["The last hour: CloudWatch has no metric of the last hour."]
    assert found["version"]


def test_each_state_of_an_account_is_told_with_since_when_and_why(cloud: Cloud) -> None:
    ids = [SITE_ID, OTHER, "AaA111"]
    cloud.name_accounts(*({"site_id": each, "private_key": "pk"} for each in ids))
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    pause.begin("state", OTHER, who="ada", why="a migration")
    park("a", "b", "c")
    park("d", site_id=OTHER)
    park("e", "f", site_id=UNKNOWN, prefix=parking.UNKNOWN_PREFIX)

    found = status(cloud)

    told = {each["id"]: (each["circuit"], each["why"], each["parked"]) for each in found["accounts"]}
    assert told == {
        SITE_ID: ("open", "the upstream answered 401", 3),
        OTHER: ("paused", "a migration", 1),
        UNKNOWN: ("unknown", None, 2),
        "AaA111": ("closed", None, 0),
    }
    assert found["accounts"][-1]["id"] == "AaA111"
    assert found["unknown_accounts"] == 1
    assert account(found, OTHER)["who"] == "ada"
    assert account(found, SITE_ID)["since"] is not None
    assert account(found, SITE_ID)["oldest"] is not None
    assert account(found, SITE_ID)["waiting"] is None


def test_probes_leave_the_count_of_what_is_parked_right(cloud: Cloud) -> None:
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    park("a", "b", "c")
    cloud.load("resume")({}, None)

    assert account(status(cloud), SITE_ID)["parked"] == 2


def test_an_app_of_pipeless_has_its_own_pace(cloud: Cloud) -> None:
    app = {"app_id": 123, "api_key": "k", "calls_per_minute": 60}
    cloud.write_accounts(json.dumps({"accounts": [], "pipeless": [app]}))

    found = account(status(cloud), "pipeless-123")

    assert (found["kind"], found["pace"]["used"], found["pace"]["allowed"]) == ("pipeless", None, 60)


def test_the_pace_of_the_last_minute(cloud: Cloud) -> None:
    now = int(time.time() * 1_000)
    slots = [now - 100_000, now - 30_000, now - 20_000, now - 10_000]
    cloud.dynamodb.put_item(
        TableName="state",
        Item={
            "pk": {"S": f"pace#{SITE_ID}"},
            "slots": {"B": b"".join(slot.to_bytes(6) for slot in slots)},
            "paused_until": {"N": str(now + 60_000)},
            "version": {"N": "1"},
        },
    )

    found = account(status(cloud), SITE_ID)["pace"]

    assert (found["used"], found["allowed"]) == (3, 150)
    assert found["paused_until"] is not None


def test_queues_and_what_waits_of_the_only_account(cloud: Cloud) -> None:
    cloud.send("{}", "{}", "{}")
    cloud.sqs.receive_message(QueueUrl=cloud.events)
    cloud.send("{}", queue=cloud.rejected)

    found = status(cloud)

    events, _, _, _, rejected, _ = found["queues"]
    assert (events["visible"], events["in_flight"], rejected["visible"]) == (2, 1, 1)
    assert account(found, SITE_ID)["waiting"] == 3


def test_the_last_hour(cloud: Cloud) -> None:
    measure("sluice-ingest", AcceptedEvents=1_000)
    measure("sluice-ingest", runtime.now() - timedelta(hours=2), AcceptedEvents=5_000)
    measure("sluice-dispatch", DeliveredEvents=900, Jobs=2, JobEvents=901, UpstreamRateLimited=3)
    measure("sluice-reject", RejectedEvents=5, AnonymousRejectedEvents=2)
    measure("sluice-resume", OpenCircuits=0)

    measure(
        "sluice-dispatch", runtime.now() - timedelta(minutes=30), DeliveredEvents=50, Jobs=1, JobEvents=50
    )

    found = status(cloud)

    minutes = found["last_hour"].pop("minutes")
    assert found["last_hour"] == {
        **{"accepted": 1_000, "delivered": 950, "rejected": 7, "jobs": 3, "fill": 317.0},
        **{"rate_limited": 3, "refused_deliveries": {}},
    }
    assert [(each["delivered"], each["jobs"], each["fill"]) for each in minutes] == [
        *((50, 1, 50.0), (900, 2, 450.5))
    ]
    assert minutes[0]["at"] < minutes[1]["at"]
    assert found["last_tick"] is not None
    assert found["not_known"] == []


def test_refused_deliveries_are_told_by_source(cloud: Cloud) -> None:
    document = {
        "sources": {
            "strict": {"account": SITE_ID, "secret": "s", "preset": "shopify", "on_invalid": "refuse"},
            "loose": {"account": SITE_ID, "secret": "s", "preset": "shopify"},
        }
    }
    content = sources.to_store(json.dumps(document).encode())
    cloud.s3.put_object(Bucket="configuration", Key=sources.KEY, Body=content)
    for source, count in (("strict", 4), ("loose", 1)):
        aws_client("cloudwatch").put_metric_data(
            Namespace="Sluice",
            MetricData=[
                {
                    "MetricName": "RefusedDeliveries",
                    "Dimensions": [
                        {"Name": "service", "Value": "sluice-ingest"},
                        {"Name": "source", "Value": source},
                    ],
                    "Value": count,
                    "Timestamp": runtime.now() - timedelta(minutes=2),
                }
            ],
        )

    assert status(cloud)["last_hour"]["refused_deliveries"] == {"strict": 4}
    assert "4 deliveries of the source strict refused" in run(cloud).stdout


def test_only_the_stacks_own_alarms_that_sound(cloud: Cloud) -> None:
    cloudwatch = aws_client("cloudwatch")
    for name in (
        *(
            "sluice-OpenCircuitsAlarm-1ABC",
            "sluice-prod-OpenCircuitsAlarm-1ABC",
            "sluice-DeadLettersAlarm-2D",
        ),
    ):
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            AlarmDescription="Look at the status.",
            Namespace="Sluice",
            MetricName="OpenCircuits",
            EvaluationPeriods=1,
            Period=60,
            Statistic="Maximum",
            Threshold=0,
            ComparisonOperator="GreaterThanThreshold",
        )
    for name in ("sluice-OpenCircuitsAlarm-1ABC", "sluice-prod-OpenCircuitsAlarm-1ABC"):
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")

    [alarm] = status(cloud)["alarms"]

    assert (alarm["name"], alarm["reason"]) == ("OpenCircuitsAlarm", "Look at the status.")


def test_open_groups_are_counted(cloud: Cloud) -> None:
    Operator(cloud).archive(*(wrong_currency(number) for number in range(3)))

    found = status(cloud)

    assert (found["open_groups"], found["open_events"]) == (1, 3)


@pytest.mark.parametrize("operation", ["GetMetricData", "DescribeAlarms", "BatchGetItem", "ListObjectsV2"])
def test_what_cannot_be_found_out_costs_nothing_else(cloud: Cloud, operation: str) -> None:
    measure("sluice-ingest", AcceptedEvents=1)
    Operate(cloud).serve()
    cloud.calls.fail(operation)

    found = json.loads(CliRunner().invoke(sluicectl, ["status", "--json"]).stdout)

    assert len(found["queues"]) == 6
    assert account(found, SITE_ID)["circuit"] == "closed"
    assert found["not_known"]


def test_an_account_that_is_not_valid_is_told_and_hides_no_other(cloud: Cloud) -> None:
    cloud.write_accounts(
        json.dumps({"accounts": [{"site_id": SITE_ID, "private_key": "pk"}, {"site_id": "no"}]})
    )

    found = status(cloud)

    assert [each["id"] for each in found["accounts"]] == [SITE_ID]
    assert any("accounts[1]" in sentence for sentence in found["not_known"])


def test_a_thousand_accounts_are_read_in_batches(cloud: Cloud) -> None:
    ids = [f"A{number:05d}" for number in range(1_000)]
    cloud.name_accounts(*({"site_id": each, "private_key": "pk"} for each in ids))
    circuit_breaker.open_circuit("state", ids[7], 0)

    found = status(cloud)

    assert len(found["accounts"]) == 1_000
    assert found["accounts"][0]["id"] == ids[7]
    assert found["accounts"][0]["why"] == "the upstream did not answer"
    assert len(cloud.calls.of("BatchGetItem")) == 30
    assert len(cloud.calls.made) < 60
    shown = run(cloud).stdout
    assert "979 more without trouble" in shown


def test_it_fits_a_terminal_of_80_columns(cloud: Cloud) -> None:
    cloud.name_accounts({"site_id": SITE_ID, "private_key": "pk"}, {"site_id": OTHER, "private_key": "pk"})
    cloud.send(*itertools.repeat("{}", 3))
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    pause.begin("state", OTHER, who="arn:aws:sts::123456789012:assumed-role/ops/ada", why="a migration")
    park("a", "b")
    measure("sluice-dispatch", DeliveredEvents=900_000, Jobs=2_000, JobEvents=1_900_000)

    lines = run(cloud).stdout.splitlines()

    assert max(map(len, lines)) <= 80
    [row] = [line for line in lines if line.strip().startswith(f"{SITE_ID} ") and "0 of 150" in line]
    assert row.split()[:2] == [SITE_ID, "open"]
    assert any("a migration" in line for line in lines)


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_it_is_shown_again_until_it_is_interrupted(
    cloud: Cloud, option: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = iter([None, None])

    def sleep(_: float) -> None:
        try:
            next(naps)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(time, "sleep", sleep)

    done = run(cloud, "--watch", *option)

    assert done.exit_code == 0
    if option:
        assert [json.loads(line)["version"] for line in done.stdout.splitlines()]
        assert len(done.stdout.splitlines()) == 3
    else:
        assert done.stdout.count("Sluice") >= 3
