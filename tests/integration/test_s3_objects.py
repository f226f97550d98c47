"""Tests objects whose lines are bodies: what dispatch makes of S3's notification, wherever it is cut off."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sqs.models import sqs_backends

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice import accounts
from sluice.aws import sqs
from sluice.delivery import http
from sluice.producers import line_reader, s3_objects
from tests.support.aws_stack import PRIVATE_KEY, REGION, Cloud, Context, Crash, Function, close_event_loop
from tests.support.factories import SITE_ID, bulk, encoded, entry, event, profile, single

OTHER, OTHER_KEY = "XyZ789", "pk_other"
NEWS = {
    "eventVersion": "2.1",
    "eventSource": "aws:s3",
    "awsRegion": "us-east-1",
    "eventTime": "2026-11-20T11:59:58.901Z",
    "eventName": "ObjectCreated:Put",
}


class Drops:
    """Holds a bucket, and the functions and the upstream behind its notifications."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud = cloud
        self.klaviyo = Klaviyo({SITE_ID: PRIVATE_KEY, OTHER: OTHER_KEY}, Settings.unlimited())
        self.function: Function = cloud.load("dispatch")
        client = httpx2.AsyncClient(transport=transport(self.klaviyo))
        monkeypatch.setattr(http, "client", lambda: client)

    def drop(self, *lines: Any, key: str = "day one.jsonl", packed: bool = False, **metadata: str) -> str:
        """Writes an object of lines; returns what S3 says of it."""
        content = b"\n".join(line if isinstance(line, bytes) else encoded(line) for line in lines)
        content = gzip.compress(content) if packed else content
        return self.write(content, key, **metadata)

    def write(self, content: bytes, key: str = "day one.jsonl", **metadata: str) -> str:
        put = self.cloud.s3.put_object(Bucket="drops", Key=key, Body=content, Metadata=metadata)
        named = {"key": key.replace(" ", "+"), "eTag": put["ETag"].strip('"'), "sequencer": put["ETag"][:9]}
        if "VersionId" in put:
            named["versionId"] = put["VersionId"]
        return json.dumps({"Records": [{**NEWS, "s3": {"bucket": {"name": "drops"}, "object": named}}]})

    def invoke(self, seconds: float = 120) -> list[str]:
        """Works what is visible; the bodies of the messages that stay."""
        records = self.cloud.receive()
        answer = self.function(records, Context(seconds))
        self.cloud.settle(records, answer)
        kept = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        return [each["body"] for each in records["Records"] if each["messageId"] in kept]

    def finish(self) -> None:
        """Reads an object to its end, which a busy machine may not do in one invocation."""
        for _ in range(30):
            if not self.invoke():
                return
            self.show_again()
        raise AssertionError("the object is never read")

    def show_again(self) -> None:
        """Ends the wait of what was postponed."""
        for each in sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues["events"]._messages:
            each.visible_at = 0

    def delivered(self, site_id: str = SITE_ID) -> Counter[str]:
        return Counter(taken.event["unique_id"] for taken in self.klaviyo.events(site_id))

    def rejections(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.cloud.left(self.cloud.rejected)]

    def bad_lines(self) -> list[tuple[str, str]]:
        return [(each["line"].rsplit(":", 1)[1], each["reason"]) for each in self.rejections()]


@pytest.fixture
def drops(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drops]:
    made = Drops(cloud, monkeypatch)
    yield made
    close_event_loop()


def line(name: str) -> Any:
    """Makes a body of one event, which has no time of its own."""
    return single(of=profile(email=f"{name}@mail.example"), unique_id=name)


def test_each_line_becomes_a_request_and_each_bad_one_a_rejection(drops: Drops) -> None:
    two = bulk(entry(event(unique_id="b0"), event(unique_id="b1"), of=profile(email="b@mail.example")))
    flaw = single(of=profile(email="no address"))
    drops.cloud.send(
        drops.drop(line("a"), b"", two, b"not JSON", flaw, b'"\xff"', b"  \r", encoded(line("z")) + b"\r")
    )

    assert drops.invoke() == []
    assert drops.invoke() == []

    assert drops.delivered() == Counter(["a", "b0", "b1", "z"])
    assert drops.cloud.left() == []
    assert drops.bad_lines() == [("5", "invalid"), ("4", "malformed_message")]
    invalid, unreadable = drops.rejections()
    assert "2 lines are no bodies, the first at line 4" in unreadable["detail"]
    assert unreadable["payload"] == 'not JSON\n"\ufffd"'
    assert invalid["line"] == "s3://drops/day one.jsonl:5"
    assert json.loads(invalid["payload"]) == flaw
    assert invalid["pointer"] == "/data/attributes/profile/data/attributes/email"
    assert (invalid["account"], invalid["accepted"]) == (SITE_ID, "2026-11-20T11:59:58.901000Z")
    metrics = drops.function.metrics()
    assert (metrics["S3ObjectsRead"], metrics["S3LinesQueued"], metrics["RejectedEvents"]) == (1, 3, 3)
    assert "mail.example" not in drops.function.said


def test_what_the_upstream_refuses_names_its_line(drops: Drops) -> None:
    drops.klaviyo.configure(poison=[{"contains": "refused"}])
    drops.cloud.send(drops.drop(line("a"), line("refused")))

    drops.invoke()
    drops.invoke()

    [rejection] = drops.rejections()
    assert rejection["line"] == "s3://drops/day one.jsonl:2"
    assert rejection["reason"] == "refused_by_upstream"


def test_the_time_of_an_event_without_one_is_when_the_object_was_written(drops: Drops) -> None:
    drops.cloud.send(drops.drop(line("a")))

    drops.invoke()
    drops.invoke()

    [taken] = drops.klaviyo.events()
    assert taken.event["time"] == "2026-11-20T11:59:58Z"


def test_an_objects_metadata_name_account_and_surface(drops: Drops) -> None:
    both_take = {"producers": ["s3://drops/"]}
    drops.cloud.name_accounts(
        {"site_id": SITE_ID, "private_key": PRIVATE_KEY, **both_take},
        {"site_id": OTHER, "private_key": OTHER_KEY, **both_take},
    )
    mine = b'{"account": "%s", "body": %s}' % (SITE_ID.encode(), encoded(line("mine")))
    both = profile(email="them@mail.example", external_id="somebody else")
    theirs = single(of=both, unique_id="theirs")
    drops.cloud.send(drops.drop(theirs, mine, account=OTHER, surface="client-event"))
    drops.cloud.send(drops.drop(line("nobody's"), mine, key="b", surface="client-event"))

    drops.invoke()
    drops.invoke()

    [taken] = drops.klaviyo.events(OTHER)
    # Only a browser's event loses what could attach it to somebody else.
    assert (taken.event["unique_id"], taken.profile["attributes"]) == (
        "anonymous/theirs",
        {"email": "them@mail.example"},
    )
    assert drops.delivered(SITE_ID) == Counter(["anonymous/mine"])
    [rejection] = drops.rejections()
    assert rejection["line"] == "s3://drops/b:1"
    assert "a site id: the accounts document has" in rejection["detail"]


@pytest.mark.parametrize("packed", [False, True])
def test_reading_goes_on_where_time_was_up(
    drops: Drops, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_objects, "GROUP_LINES", 2)
    news = drops.drop(*(line(f"e{n}") for n in range(6)), b"bad", packed=packed)
    drops.cloud.send(news)

    # An invocation with so little left puts one group, and no more.
    assert [news in drops.invoke(seconds=10) for _ in range(4)] == [True, True, True, False]
    drops.show_again()
    drops.invoke()
    drops.invoke()

    assert drops.delivered() == Counter(f"e{n}" for n in range(6))
    assert drops.bad_lines() == [("7", "malformed_message")]
    if not packed:
        read = [call for call in drops.cloud.calls.of("GetObject") if call["Key"] != accounts.KEY]
        ranges = [call.get("Range") for call in read]
        assert ranges[0] is None
        assert all(ranges[1:4])


@pytest.mark.filterwarnings("ignore:No application metrics")
@pytest.mark.parametrize("packed", [False, True])
def test_a_crash_at_any_call_loses_no_line(
    drops: Drops, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_objects, "GROUP_LINES", 2)
    cloud = drops.cloud
    names = [f"e{n}" for n in range(5)]
    for number in range(60):
        key = f"object {number}"
        cloud.send(drops.drop(*map(line, names), b"bad", key=key, packed=packed))
        records = cloud.receive()
        for done in (False, True):
            cloud.calls.crash(number, done=done)
            try:
                answer = drops.function(records, Context())
            except (Crash, BaseExceptionGroup):
                answer = None
            cloud.calls.clear()
        assert drops.function(records, Context()) == {"batchItemFailures": []}
        cloud.settle(records, {"batchItemFailures": []})
        drops.invoke()
        assert drops.delivered() == Counter(names), number
        bad = {each["id"] for each in drops.rejections() if each["line"] == f"s3://drops/{key}:6"}
        assert len(bad) == 1, number
        drops.klaviyo.reset()
        if answer is not None:
            return
    raise AssertionError("it makes too many calls to crash at each")


def test_word_of_the_same_writing_is_worked_once_and_of_another_again(drops: Drops) -> None:
    news = drops.drop(line("a"))
    drops.cloud.send(news, news)
    drops.invoke()
    drops.cloud.send(news)
    drops.invoke()
    drops.invoke()
    assert drops.function.metrics()["S3LinesQueued"] == 1

    drops.cloud.send(drops.drop(line("a"), line("b")))
    drops.invoke()
    drops.invoke()

    assert drops.function.metrics()["S3LinesQueued"] == 3
    assert drops.delivered() == Counter(["a", "b"])


def test_an_object_that_is_gone_or_written_anew_is_a_rejection(drops: Drops) -> None:
    overwritten = drops.drop(line("old"))
    drops.drop(line("new"))
    deleted = drops.drop(line("a"), key="deleted")
    drops.cloud.s3.delete_object(Bucket="drops", Key="deleted")
    drops.cloud.send(overwritten, deleted)

    assert drops.invoke() == []

    assert drops.bad_lines() == [("1", "invalid"), ("1", "invalid")]
    assert drops.cloud.left() == []


def test_a_version_is_read_whatever_was_written_since(drops: Drops) -> None:
    drops.cloud.s3.put_bucket_versioning(Bucket="drops", VersioningConfiguration={"Status": "Enabled"})
    drops.cloud.send(drops.drop(line("old")))
    drops.drop(line("new"))

    drops.invoke()
    drops.invoke()

    assert drops.delivered() == Counter(["old"])


def test_a_damaged_object_is_read_as_far_as_it_goes(drops: Drops) -> None:
    noise = [b'"%d"' % n for n in range(100)]
    content = gzip.compress(b"\n".join([encoded(line("a")), *noise]))
    drops.cloud.send(drops.write(content[:-20]))

    drops.invoke()
    drops.invoke()

    assert drops.delivered() == Counter(["a"])
    assert any("cannot be unpacked" in each["detail"] for each in drops.rejections())


def test_an_object_of_bad_lines_alone_is_given_up(drops: Drops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_objects, "MAX_BAD_LINES", 5)
    monkeypatch.setattr(s3_objects, "GROUP_LINES", 2)
    flaw = single(of=profile(email="no address"))
    drops.cloud.send(drops.drop(*(flaw for _ in range(100))))

    assert drops.invoke() == []

    details = {each["line"].rsplit(":", 1)[1]: each["detail"] for each in drops.rejections()}
    assert sorted(details) == ["1", "2", "3", "4", "5", "6"]
    assert "Nothing after that was read." in details["6"]


@pytest.mark.parametrize(("bad", "rejections", "put"), [(9_999, 9_999, 1), (10_000, 10_001, 0)])
def test_an_object_may_have_some_thousand_bad_lines(
    drops: Drops, monkeypatch: pytest.MonkeyPatch, bad: int, rejections: int, put: int
) -> None:
    sent: Counter[str] = Counter()

    def send_all(queue: str, bodies: Sequence[Any], **_: Any) -> set[int]:
        sent[queue] += len(bodies)
        return set()

    monkeypatch.setattr(sqs, "send_messages", send_all)  # the emulated queue would take minutes for so many
    drops.cloud.send(drops.drop(*[single(of=profile(email="no address"))] * bad, line("good")))

    drops.finish()

    assert (sent[drops.cloud.rejected], sent[drops.cloud.events]) == (rejections, put)


def test_an_object_that_is_too_large_is_read_to_the_limit(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_objects, "MAX_OBJECT_BYTES", 2 * len(encoded(line("a"))) + 2)
    drops.cloud.send(drops.drop(*map(line, "abc")))

    drops.invoke()
    drops.invoke()

    assert drops.delivered() == Counter("ab")
    assert drops.bad_lines() == [("3", "oversized")]


@pytest.mark.parametrize("packed", [False, True])
def test_of_an_object_that_is_one_line_without_end_no_more_is_read(
    drops: Drops, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(s3_objects, "MAX_OBJECT_BYTES", 10_000)
    monkeypatch.setattr(line_reader, "PIECE_BYTES", 1_000)
    pieces: list[int] = []
    split = line_reader.split

    def counted(given: Iterator[bytes], *where: int) -> Iterator[Any]:
        def noted() -> Iterator[bytes]:
            for piece in given:
                pieces.append(len(piece))
                yield piece

        return split(noted(), *where)

    monkeypatch.setattr(line_reader, "split", counted)
    drops.cloud.send(drops.drop(line("a"), b"x" * 100_000, packed=packed))

    assert drops.invoke() == []

    assert sum(pieces) <= 11_000
    assert drops.bad_lines() == [("2", "oversized")]


def test_a_line_too_large_for_a_message_goes_through_the_claim_bucket(drops: Drops) -> None:
    wide = [profile(email=f"{n}@mail.example") for n in range(3)]
    noise = [gzip.compress(str(n).encode() * 1_000).hex() * 1_200 for n in range(45)]
    events = [event(unique_id=f"w{n}", properties={"p": noise[n]}) for n in range(45)]
    content = encoded(bulk(*(entry(*events[n::3], of=wide[n]) for n in range(3))))
    drops.cloud.send(drops.drop(content))

    drops.invoke()
    drops.invoke()

    assert drops.delivered() == Counter(f"w{n}" for n in range(45))


def test_a_bucket_nobody_named_waits_for_its_operator(drops: Drops) -> None:
    news = drops.drop(line("a")).replace('"drops"', '"claims"')
    drops.cloud.send(news)

    assert drops.invoke() == [news]

    assert drops.rejections() == []
    [said] = drops.function.lines("object not read")
    assert said["cause"] == "bucket claims is not one of ImportBuckets"


@pytest.mark.parametrize("operation", ["GetObject", "UpdateItem", "PutItem", "SendMessageBatch"])
def test_what_fails_is_done_again(drops: Drops, operation: str) -> None:
    news = drops.drop(line("a"), b"bad")
    drops.cloud.send(news)
    drops.cloud.calls.fail(operation)

    assert drops.invoke() == [news]

    drops.cloud.calls.clear()
    drops.cloud.sqs.purge_queue(QueueUrl=drops.cloud.rejected)
    drops.cloud.send(news)
    drops.invoke()
    drops.invoke()
    assert drops.delivered() == Counter(["a"])
    assert drops.bad_lines() == [("2", "malformed_message")]


@pytest.mark.rule
@pytest.mark.parametrize(
    "wrong",
    [b"order,email,total", b'{"order":1,"email":"a@shop.example"}', b"# a comment", b'{"specversion":"1.0"}'],
)
def test_an_object_of_another_kind_is_one_rejection(drops: Drops, wrong: bytes) -> None:
    drops.cloud.send(drops.drop(*[wrong] * 500, line("after")))

    assert drops.invoke() == []

    [rejection] = drops.rejections()
    assert "100 lines are no bodies, the first at line 1: " in rejection["detail"]
    assert rejection["line"] == "s3://drops/day one.jsonl:1"
    assert rejection["payload"].count(wrong.decode()) == 100
    assert drops.cloud.left() == []


@pytest.mark.rule
def test_json_values_with_nothing_between_them_are_read_as_firehose_writes_them(drops: Drops) -> None:
    names = [f"e{n}" for n in range(40)]
    drops.cloud.send(drops.write(b"".join(encoded(line(name)) for name in names) + b'{"cut off": '))

    drops.invoke()
    drops.invoke()

    assert drops.delivered() == Counter(names)
    [rejection] = drops.rejections()
    assert rejection["line"] == "s3://drops/day one.jsonl:41"
    assert rejection["payload"] == '{"cut off": '


def test_five_mebibytes_without_a_line_end_are_read(drops: Drops) -> None:
    names = [f"e{n}" for n in range(60)]
    wide = [
        single(of=profile(email=f"{name}@mail.example"), unique_id=name, properties={"p": "x" * 100_000})
        for name in names
    ]
    drops.cloud.send(drops.write(b"".join(map(encoded, wide))))

    for _ in range(3):
        drops.invoke()

    assert drops.delivered() == Counter(names)
    assert drops.rejections() == []


@pytest.mark.rule
@pytest.mark.parametrize("key", ["day one+å.jsonl", "a%20b", "a//b", "🎉", "a+b", "%"])
def test_eventbridges_word_of_an_object_has_its_key_as_it_is(drops: Drops, key: str) -> None:
    put = drops.cloud.s3.put_object(Bucket="drops", Key=key, Body=encoded(line("a")))
    news = {
        "version": "0",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "time": "2026-11-20T11:59:58Z",
        "detail": {
            "bucket": {"name": "drops"},
            "object": {"key": key, "etag": put["ETag"].strip('"'), "sequencer": "1"},
        },
    }
    drops.cloud.send(json.dumps(news), json.dumps({**news, "detail-type": "Object Deleted"}))

    drops.invoke()
    drops.invoke()

    assert drops.delivered() == Counter(["a"])
    assert drops.rejections() == []


@pytest.mark.rule
def test_an_object_that_is_notified_again_with_another_time_is_read_once(drops: Drops) -> None:
    news = drops.drop(line("a"), b'{"data": 1}')
    later = news.replace("11:59:58.901", "12:00:07.000")
    drops.cloud.send(news)
    drops.invoke()
    drops.cloud.send(later)
    drops.invoke()
    drops.invoke()

    assert drops.function.metrics()["S3LinesQueued"] == 1
    assert len(drops.rejections()) == 1


@pytest.mark.rule
def test_line_ends_cost_few_writes(drops: Drops) -> None:
    drops.cloud.send(drops.write(b"\n" * (40 * 2**20) + encoded(line("a"))))

    drops.finish()
    writes = len(drops.cloud.calls.of("PutItem"))
    drops.invoke()

    assert writes <= 3
    assert drops.delivered() == Counter(["a"])


def test_a_buckets_test_of_its_configuration_is_no_news(drops: Drops) -> None:
    drops.cloud.send(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "drops"}))

    assert drops.invoke() == []

    assert drops.rejections() == []
    assert drops.cloud.left() == []


def test_single_events_travel_together_and_fill_jobs(drops: Drops) -> None:
    drops.klaviyo.configure(poison=[{"contains": "refused"}])
    names = [f"e{n}" for n in range(120)] + ["refused"] + [f"f{n}" for n in range(120)]
    client = b'{"surface": "client-event", "body": %s}' % encoded(line("client"))
    drops.cloud.send(drops.drop(*map(line, names), client))

    drops.invoke()
    messages = drops.cloud.left()
    drops.invoke()

    assert sorted(body.count('"entry_index":') for body in messages) == [1, 41, 100, 100]
    assert drops.delivered() == Counter({*names, "anonymous/client"} - {"refused"})
    assert drops.function.metrics()["S3LinesQueued"] == 242
    [rejection] = drops.rejections()
    assert rejection["line"] == "s3://drops/day one.jsonl:121"
    assert rejection["pointer"].startswith("/data/attributes/")


def test_lines_that_travel_together_are_no_more_than_one_request_can_be(
    drops: Drops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_objects, "MAX_BODY_BYTES_IN", 2 * len(encoded(line("e0"))) + 1)
    drops.cloud.send(drops.drop(*(line(f"e{n}") for n in range(5))))

    drops.invoke()

    assert sorted(body.count('"entry_index":') for body in drops.cloud.left()) == [1, 2, 2]
