"""Tests `sluicectl import` from a file to what is sent upstream, wherever it is interrupted."""

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2
import pytest
from click.testing import CliRunner, Result
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sqs.models import sqs_backends

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice.aws import sts
from sluice.delivery import http
from sluice.operate.imports import MAX_PART_BYTES
from sluicectl.cli import sluicectl
from sluicectl.imports import parts
from tests.support.aws_stack import PRIVATE_KEY, REGION, Cloud, Context, Crash, close_event_loop
from tests.support.factories import SITE_ID
from tests.support.operate import Operate

CDNOW = Path("devstack/data/cdnow_sample.txt").resolve()
MAPPING = """\
metric: Points Given
profile: {email: email}
time: parse_time(day, '%Y-%m-%d')
value: to_number(points)
properties: {City: city}
"""
HEADER = "email,day,points,city\n"


class Deployment:
    """Imports files into a deployment, and delivers what is imported."""

    def __init__(self, aws: Cloud, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.aws = aws
        self.folder = folder
        self.operate = Operate(aws)
        self.operate.serve()
        self.uploads: list[str] = []
        self.before_upload: Callable[[], None] = lambda: None
        self.klaviyo = Klaviyo({SITE_ID: PRIVATE_KEY}, Settings.unlimited())
        client = httpx2.AsyncClient(transport=transport(self.klaviyo))
        monkeypatch.setattr(http, "client", lambda: client)
        monkeypatch.setattr(httpx2, "put", self._put)

    def write(self, content: str | bytes, name: str = "points.csv") -> str:
        """Writes a file, and returns its path."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def __call__(self, file: str, *options: str) -> Result:
        if "--preset" not in options:
            options = ("--map", self.write(MAPPING, "map.yaml"), *options)
        return self.run(file, *options)

    def run(self, file: str, *options: str) -> Result:
        """Imports a file with these options only."""
        self.operate.function = self.aws.load("operate")
        return CliRunner().invoke(sluicectl, ["import", file, *options], catch_exceptions=False)

    def ask(self, file: str, *options: str) -> Any:
        """Imports a file, and returns the document that it prints."""
        result = self(file, *options, "--json")
        assert result.exit_code == 0, result.stdout
        return json.loads(result.stdout)

    def deliver(self) -> dict[str, float]:
        """Lets dispatch work until nothing is left; returns its metrics."""
        dispatch = self.aws.load("dispatch")
        for _ in range(30):
            for each in sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues["background"]._messages:
                each.visible_at = 0
            records = self.aws.receive(self.aws.background)
            if not records["Records"]:
                return dispatch.metrics()
            self.aws.settle(records, dispatch(records, Context()), self.aws.background)
        raise AssertionError("dispatch does not come to an end")

    def events(self) -> list[dict[str, Any]]:
        return [taken.event for taken in self.klaviyo.events(SITE_ID)]

    def people(self) -> list[str]:
        return [taken.profile["attributes"]["email"] for taken in self.klaviyo.events(SITE_ID)]

    def backfills(self) -> list[bool]:
        """Returns of each event whether it was sent as backfill, which it says itself."""
        return [bool(taken.backfill["event"]) for taken in self.klaviyo.events(SITE_ID)]

    def rejections(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.aws.left(self.aws.rejected)]

    def parts(self) -> list[str]:
        return [key for key in self.aws.keys("claims", "imports/") if key.endswith(".gz")]

    def _put(
        self, url: str, content: bytes, timeout: float, headers: Mapping[str, str] = MappingProxyType({})
    ) -> httpx2.Response:
        """Plays S3, which takes a presigned PUT only with the headers that are signed."""
        self.before_upload()
        address = urlsplit(url)
        signed = address.query.partition("X-Amz-SignedHeaders=")[2].partition("&")[0]
        assert set(unquote(signed).split(";")) == {"content-length", "host", *headers}
        bucket = (address.hostname or "").partition(".")[0]
        key = unquote(address.path).removeprefix("/")
        self.uploads.append(key)
        metadata = {name.removeprefix("x-amz-meta-"): value for name, value in headers.items()}
        self.aws.s3.put_object(Bucket=bucket, Key=key, Body=content, Metadata=metadata)
        return httpx2.Response(200, request=httpx2.Request("PUT", url))


@pytest.fixture
def deployment(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setattr(sts, "caller_arn", lambda *_, **__: "arn:aws:iam::123456789012:user/ada")
    yield Deployment(cloud, monkeypatch, tmp_path)
    close_event_loop()


def rows(start: int, count: int) -> str:
    """Returns rows of as many people. Every fourth one is bad."""
    numbers = range(start, start + count)
    emails = ("no address" if number % 4 == 3 else f"p{number}@mail.example" for number in numbers)
    return "".join(
        f"{email},2026-11-{1 + number % 28:02},{number},Köln\n"
        for email, number in zip(emails, numbers, strict=True)
    )


def test_a_file_becomes_events_and_rejections(deployment: Deployment) -> None:
    said = deployment.ask(deployment.write(HEADER + rows(0, 8)))

    assert (said["events"], said["bad_lines"], said["account"]) == (6, 2, SITE_ID)
    [job] = deployment.operate("jobs list")["result"]["jobs"]
    assert (said["job"], job["kind"], job["state"]) == (job["id"], "import", "done")
    deployment.deliver()
    first, *others = deployment.events()
    assert len(others) == 5
    assert first["properties"] == {"City": "Köln"}
    assert (first["value"], first["time"]) == (0, "2026-11-01T00:00:00Z")
    assert deployment.backfills() == [True] * 6
    refused, _ = deployment.rejections()
    assert refused["line"] == "points.csv:5"
    assert refused["reason"] == "invalid"
    assert (refused["account"], refused["surface"]) == (SITE_ID, "event")
    assert refused["pointer"] == "/data/attributes/profile/data/attributes/email"
    body = json.loads(refused["payload"])
    assert body["data"]["attributes"]["profile"]["data"]["attributes"] == {"email": "no address"}
    assert "mail.example" not in deployment.operate.function.said


def test_the_purchases_of_cdnow_are_imported_by_one_command(deployment: Deployment) -> None:
    said = deployment.ask(str(CDNOW), "--preset", "cdnow")

    assert (said["events"], said["bad_lines"]) == (6_919, 0)
    deployment.deliver()
    events = deployment.events()
    assert len(events) == 6_919
    lines = [line.split() for line in CDNOW.read_text().splitlines()]
    assert Counter((each["properties"]["CustomerId"], each["value"]) for each in events) == Counter(
        (line[0], float(line[4])) for line in lines
    )


@pytest.mark.trust("An operator imports for every account, whatever producers it names.")
def test_an_account_that_names_its_producers_is_imported_for(deployment: Deployment) -> None:
    deployment.aws.name_accounts({"site_id": SITE_ID, "private_key": PRIVATE_KEY, "producers": ["s3://own/"]})

    deployment.ask(deployment.write(HEADER + rows(0, 2)))

    deployment.deliver()
    assert len(deployment.events()) == 2


def test_a_second_run_sends_nothing(deployment: Deployment) -> None:
    file = deployment.write(HEADER + rows(0, 8))
    first = deployment.ask(file)

    again = deployment.ask(deployment.write(gzip.compress((HEADER + rows(0, 8)).encode()), "points.csv.gz"))

    assert again == {**first, "sent_before": 6}
    assert "was imported already" in deployment(file).stdout
    assert len(deployment.uploads) == 1
    assert len(deployment.rejections()) == 2
    assert deployment.deliver()["S3LinesQueued"] == 6


@pytest.mark.parametrize("options", [["--trigger-flows"], []])
def test_flows_are_triggered_only_where_that_is_asked_for(deployment: Deployment, options: list[str]) -> None:
    deployment.ask(deployment.write(HEADER + rows(0, 2)), *options)
    deployment.deliver()

    assert deployment.backfills() == [not options] * 2


# A process that ends in the middle of a request has counted nothing.
@pytest.mark.filterwarnings("ignore:No application metrics to publish")
@pytest.mark.parametrize("done", [False, True])
def test_an_import_goes_on_wherever_it_was_interrupted(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    monkeypatch.setattr(parts, "PART_EVENTS", 4)
    finished = 0
    for number in range(100):
        file = deployment.write(HEADER + rows(100 * number, 8), f"points-{number}.csv")
        deployment.aws.calls.crash(number, done=done)
        deployment.operate.serve()
        try:
            deployment(file)
        except Crash:
            pass
        else:
            finished += 1
        deployment.aws.calls.clear()
        deployment.operate.serve()

        said = deployment.ask(file)

        assert (said["events"], said["bad_lines"]) == (6, 2)
        if finished:
            break
    assert number > 15
    assert deployment.deliver()["S3LinesQueued"] == 6 * (number + 1)
    expected = {
        f"p{n}@mail.example" for k in range(number + 1) for n in range(100 * k, 100 * k + 8) if n % 4 != 3
    }
    assert Counter(deployment.people()) == Counter(expected)
    assert len({each["id"] for each in deployment.rejections()}) == 2 * (number + 1)


def test_a_part_that_is_there_is_not_uploaded_again(deployment: Deployment) -> None:
    file = deployment.write(HEADER + rows(0, 4))
    deployment.aws.calls.fail("SendMessageBatch")
    failed = deployment(file)
    assert failed.exit_code == 3
    assert "A part of an import could not be sent. Try again." in failed.stderr
    deployment.aws.calls.clear()
    deployment.operate.serve()

    deployment.ask(file)

    assert len(deployment.uploads) == 1
    assert deployment.deliver()["S3LinesQueued"] == 3


def test_an_upload_that_fails_says_so_without_its_url(deployment: Deployment) -> None:
    def fail() -> None:
        raise httpx2.ConnectError("no way to https://claims/?X-Amz-Signature=1")

    deployment.before_upload = fail
    failed = deployment(deployment.write(HEADER + rows(0, 4)))

    assert failed.exit_code == 3
    assert "Part 1 cannot be uploaded (ConnectError). Run it again: it goes on there." in failed.stderr


def test_ctrl_c_says_how_to_go_on(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_EVENTS", 3)

    def interrupt() -> None:
        if deployment.uploads:
            raise KeyboardInterrupt

    deployment.before_upload = interrupt
    file = deployment.write(HEADER + rows(0, 8))
    stopped = deployment(file)

    assert stopped.exit_code == 1
    assert "Interrupted. Run the same command again: it goes on there." in stopped.stderr
    deployment.before_upload = lambda: None
    assert deployment.ask(file)["events"] == 6
    assert len(deployment.uploads) == len(deployment.parts()) == 3


def test_two_who_import_one_file_do_not_send_it_twice(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = deployment.write(HEADER + rows(0, 4))

    def overtake() -> None:
        deployment.before_upload = lambda: None
        assert deployment.ask(file)["events"] == 3

    deployment.before_upload = overtake
    slower = deployment(file)

    assert "Somebody else runs this import, too." in slower.stderr
    assert deployment.deliver()["S3LinesQueued"] == 3


@pytest.mark.parametrize("content", [rows(0, 3), "email,day\n" * 200, "nothing"])
def test_a_file_of_another_kind_is_one_mistake(deployment: Deployment, content: str) -> None:
    failed = deployment(deployment.write(content))

    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: points.csv ")
    assert failed.stderr.count("\n") == 1
    assert deployment.parts() == []
    assert deployment.rejections() == []


def test_rows_that_become_nothing_and_fields_that_are_left_out_are_counted(deployment: Deployment) -> None:
    mapping = MAPPING + 'value_currency: city\nwhen: points != `"2"`\n'
    file = deployment.write(HEADER + rows(0, 3).replace("Köln", "Cologne"))
    declared = deployment.write(mapping, "own.yaml")

    shown = deployment.run(file, "--map", declared)

    assert shown.exit_code == 0
    assert "Rows that no mapping is for: 1." in shown.stdout
    assert "Fields left out of events: 2, the first at points.csv:2: /events/row/value_curr" in shown.stdout
    assert f"2 events for {SITE_ID}, 0 bad lines." in shown.stdout


def test_a_damaged_file_is_not_imported(deployment: Deployment) -> None:
    damaged = deployment(deployment.write(gzip.compress((HEADER + rows(0, 2)).encode())[:-4]))

    assert damaged.exit_code == 1
    assert "points.csv cannot be imported: it cannot be unpacked: it ends too early." in damaged.stderr


def test_an_account_is_named_where_there_are_several(deployment: Deployment) -> None:
    file = deployment.write(HEADER + rows(0, 2))
    deployment.aws.name_accounts(
        {"site_id": SITE_ID, "private_key": "k"}, {"site_id": "XyZ789", "private_key": "l"}
    )

    failed = deployment(file)
    assert f"Say which account the events are for. There are {SITE_ID}, XyZ789." in failed.stderr
    failed = deployment(file, "--account", "NoOne1")
    assert "The accounts document names no account NoOne1." in failed.stderr
    assert deployment.ask(file, "--account", "XyZ789")["account"] == "XyZ789"
    assert deployment.ask(file, "--account", SITE_ID)["sent_before"] == 0


def test_a_file_in_s3_is_read_with_the_operators_own_permission(deployment: Deployment) -> None:
    deployment.aws.s3.put_object(Bucket="drops", Key="old/points.csv", Body=(HEADER + rows(0, 4)).encode())

    assert deployment.ask("s3://drops/old/points.csv")["events"] == 3
    assert "AWS refused HeadObject" in deployment("s3://drops/none.csv").stderr


def test_a_dry_run_shows_the_first_events_and_every_bad_row(deployment: Deployment) -> None:
    file = deployment.write(HEADER + rows(0, 8) + "x@mail.example,2026-11-01,many,Bonn\n1,2\n")

    shown = deployment(file, "--dry-run")
    document = json.loads(deployment(file, "--dry-run", "--json").stdout)

    assert shown.exit_code == 1
    assert shown.stdout.count('"Points Given"') == 3
    assert "points.csv:5: /data/attributes/profile/data/attributes/email: " in shown.stdout
    assert "points.csv:11: The row has 2 values for 4 columns." in shown.stdout
    assert "7 events, 3 bad lines. Nothing is sent." in shown.stdout
    assert (document["job"], document["events"], document["bad_lines"]) == (None, 7, 3)
    assert [each["line"] for each in document["problems"]] == [5, 9, 11]
    assert len(document["first_events"]) == 3
    assert deployment.parts() == []
    assert deployment.rejections() == []
    assert deployment.aws.calls.of("Invoke") == []


def test_what_is_not_declared_or_not_there_is_said(deployment: Deployment) -> None:
    assert "There is no file none.csv." in deployment("none.csv").stderr
    file = deployment.write(HEADER + rows(0, 2))
    both = deployment(file, "--preset", "cdnow", "--map", str(CDNOW))
    assert both.exit_code == 2
    assert "Give one of --map FILE and --preset NAME" in both.stderr


def test_bad_rows_that_exceed_an_invocation_are_sent(deployment: Deployment) -> None:
    wide = "x" * 100_000
    text = HEADER + rows(0, 3) + "".join(f"{number},{wide}\n" for number in range(70))

    said = deployment.ask(deployment.write(text))

    assert (said["events"], said["bad_lines"]) == (3, 70)
    assert deployment.uploads[1].startswith("operate/requests/")


def test_a_state_that_is_damaged_is_said(deployment: Deployment) -> None:
    file = deployment.write(HEADER + rows(0, 2))
    deployment.ask(file)
    [key] = [each for each in deployment.aws.keys("claims", "imports/") if each.endswith("state.json")]
    deployment.aws.s3.put_object(Bucket="claims", Key=key, Body=b"{}")

    assert "The state of this import is damaged." in deployment(file).stderr


def test_only_uploaded_parts_of_known_imports_are_sent(deployment: Deployment) -> None:
    deployment.operate.function = deployment.aws.load("operate")
    part: dict[str, Any] = {"number": 1, "digest": "0" * 32}
    rest: dict[str, Any] = {"events": 1, "bad": [], "next_line": 2, "is_last": True}
    begun = deployment.operate("import begin", digest="1" * 32, file="f.csv")["result"]

    none = deployment.operate("import send", id=f"{SITE_ID}-{'2' * 32}", **part, **rest)
    missing = deployment.operate("import send", id=begun["id"], **part, **rest)
    looking = deployment.operate("import send", "read", id=begun["id"], **part, **rest)
    large = deployment.operate("import part", id=begun["id"], **part, size=MAX_PART_BYTES + 1)

    assert none["error"]["code"] == "not_found"
    assert missing["error"]["message"] == "Part 1 of the import is not uploaded. Run it again."
    assert looking["error"]["code"] == "forbidden"
    assert large["error"]["code"] == "invalid_arguments"
    assert deployment.aws.left() == []


def test_an_import_is_a_job_that_others_see_and_cancel(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_EVENTS", 4)
    file = deployment.write(HEADER + rows(0, 12) + "nobody,never,none,x\n")
    told: list[Any] = []

    def cancel() -> None:
        if len(deployment.uploads) == 1:
            [job] = deployment.operate("jobs list")["result"]["jobs"]
            told.append(job)
            deployment.operate("jobs cancel", job=job["id"])

    deployment.before_upload = cancel

    cancelled = deployment(file)

    assert cancelled.exit_code != 0
    assert "cancelled. Run the import again" in cancelled.output
    assert [(each["kind"], each["state"], each["events"], each["parts"]) for each in told] == [
        ("import", "running", 3, 1)
    ]
    document = deployment.ask(file)
    assert (document["events"], document["bad_lines"], document["sent_before"]) == (9, 4, 3)
    done, first = deployment.operate("jobs list")["result"]["jobs"]
    assert (first["id"], first["state"]) == (told[0]["id"], "cancelled")
    assert (done["id"], done["state"], done["events"]) == (document["job"], "done", 9)
    assert deployment.operate("jobs tick")["result"] == {"worked": 0, "left": 0}
    deployment.deliver()
    assert len(deployment.events()) == 9
