"""Tests every envelope that AWS puts around a message, as documented, and bodies that only look like one."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice.accounts import Accounts, KlaviyoAccount, Producer
from sluice.producers.accept import NotABody, accept
from sluice.producers.envelopes import Body, Object, notification, unwrap
from tests.support.factories import bulk, encoded, single
from tests.support.stored_accounts import REFERENCE

SENT = datetime(2026, 11, 21, 12, tzinfo=UTC)
EARLIER = datetime(2026, 11, 21, 11, 59, 58, 901_000, tzinfo=UTC)
SINGLE = encoded(single()).decode()
# Its own spelling has to survive: numbers, spaces and keys that stand twice are intake's to judge.
ODD = '{ "data" : {"type": "event", "n": 1.50, "n": 12345678901234567890, "u": "\\u00e9"} }'


def topic(message: str = SINGLE, **more: Any) -> dict[str, Any]:
    return {
        "Type": "Notification",
        "MessageId": "63a3f6b6-d533-4a47-aef9-fcf5cf758c76",
        "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
        "Subject": "Testing publish to subscribed queues",
        "Message": message,
        "Timestamp": "2026-11-21T11:59:58.901Z",
        "SignatureVersion": "1",
        "Signature": "EXAMPLEnTrFPa3",
        "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3.pem",
        "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe",
        **more,
    }


def bus(detail: Any, **more: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": "Klaviyo Event",
        "source": "shop.orders",
        "account": "111122223333",
        "time": "2026-11-21T11:59:58Z",
        "region": "us-west-1",
        "resources": [],
        "detail": detail,
        **more,
    }


def record(name: str = "ObjectCreated:Put", **of_object: Any) -> dict[str, Any]:
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-west-2",
        "eventTime": "2026-11-21T11:59:58.901Z",
        "eventName": name,
        "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "testConfigRule",
            "bucket": {
                "name": "amzn-s3-demo-bucket",
                "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": "arn:aws:s3:::amzn-s3-demo-bucket",
            },
            "object": {
                "key": "events/red+flower%2B%C3%BC.jsonl",
                "size": 1024,
                "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                "sequencer": "0055AED6DCD90281E5",
                **of_object,
            },
        },
    }


TEST_EVENT = {
    "Service": "Amazon S3",
    "Event": "s3:TestEvent",
    "Time": "2014-10-13T15:57:02.089Z",
    "Bucket": "amzn-s3-demo-bucket",
    "RequestId": "5582815E1AEA5ADF",
    "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
}
ATTRIBUTES = {
    "account": {"Type": "String", "Value": "AbC123"},
    "surface": {"Type": "String", "Value": "event"},
    "anything": {"Type": "Binary", "Value": "AAEC"},
}
FLOWER = Object(
    "amzn-s3-demo-bucket",
    "events/red flower+ü.jsonl",
    EARLIER,
    "096fKKXTRTtl3on89fVO.nfljtsv6qko",
    "d41d8cd98f00b204e9800998ecf8427e",
    "0055AED6DCD90281E5",
)
ON_THE_SECOND = EARLIER.replace(microsecond=0)


def ours(body: str, **named: str) -> str:
    return json.dumps(named)[:-1] + (", " if named else "") + f'"body": {body}}}'


def bucket_event(kind: str = "Object Created", **more: Any) -> dict[str, Any]:
    detail = {
        "version": "0",
        "bucket": {"name": "drops"},
        "object": {"key": "day one+å%20.jsonl", "size": 5, "etag": "x", "version-id": "v1", "sequencer": "1"},
        "reason": "PutObject",
    }
    return bus(more.pop("detail", detail), **{"detail-type": kind, "source": "aws.s3", **more})


CLOUD_EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/shop",
    "type": "order.placed",
    "time": "2026-11-21T11:59:58Z",
    "data": json.loads(SINGLE),
}
PLAIN = json.dumps(json.loads(SINGLE))

CASES: dict[str, tuple[str, Body | tuple[Object, ...]]] = {
    "a body as it is": (ODD, Body(ODD, SENT)),
    "a bulk body": (encoded(bulk()).decode(), Body(encoded(bulk()).decode(), SENT)),
    "topic": (json.dumps(topic()), Body(SINGLE, EARLIER)),
    "topic, odd": (json.dumps(topic(ODD)), Body(ODD, EARLIER)),
    "topic with attributes": (
        json.dumps(topic(MessageAttributes=ATTRIBUTES)),
        Body(SINGLE, EARLIER, "AbC123", "event"),
    ),
    "topic with what is no JSON": (json.dumps(topic("hello")), Body("hello", EARLIER)),
    "bus": (json.dumps(bus(None)).replace("null", ODD), Body(ODD, ON_THE_SECOND)),
    "bus with the account": (
        json.dumps(bus(None)).replace("null", ours(ODD, account="AbC123", surface="event")),
        Body(ODD, ON_THE_SECOND, "AbC123", "event"),
    ),
    "transformed to a body": (SINGLE, Body(SINGLE, SENT)),
    "transformed to ours": (
        ours(ODD, account="AbC123", surface="bulk"),
        Body(ODD, SENT, "AbC123", "bulk"),
    ),
    "ours without a name": (ours(ODD), Body(ODD, SENT)),
    "bus by a topic": (json.dumps(topic(json.dumps(bus(json.loads(SINGLE))))), None),  # type: ignore[dict-item]
    "bucket": (json.dumps({"Records": [record()]}), (FLOWER,)),
    "bucket by a topic": (json.dumps(topic(json.dumps({"Records": [record()]}))), (FLOWER,)),
    "bucket, several": (json.dumps({"Records": [record(), record("ObjectCreated:Copy")]}), (FLOWER,) * 2),
    "bucket without versions": (
        json.dumps({"Records": [record(versionId=None, eTag=None, sequencer=None)]}),
        (Object(FLOWER.bucket, FLOWER.key, EARLIER),),
    ),
    "bucket of what was removed": (json.dumps({"Records": [record("ObjectRemoved:Delete")]}), ()),
    "bucket that is configured": (json.dumps(TEST_EVENT), ()),
    "bus of a bucket": (
        json.dumps(bucket_event()),
        (Object("drops", "day one+å%20.jsonl", ON_THE_SECOND, "v1", "x", "1"),),
    ),
    "bus of a bucket by a topic": (
        json.dumps(topic(json.dumps(bucket_event()))),
        (Object("drops", "day one+å%20.jsonl", ON_THE_SECOND, "v1", "x", "1"),),
    ),
    "bus of what was removed": (json.dumps(bucket_event("Object Deleted")), ()),
    "bus of what was tagged": (json.dumps(bucket_event("Object Tags Added")), ()),
    "cloud event": (json.dumps(CLOUD_EVENT), Body(PLAIN, ON_THE_SECOND)),
    "JSON in JSON": (json.dumps(SINGLE), Body(SINGLE, SENT)),
    "bus with JSON in JSON": (json.dumps(bus(SINGLE)), Body(SINGLE, ON_THE_SECOND)),
    "ours with JSON in JSON": (ours(json.dumps(SINGLE), account="AbC123"), Body(SINGLE, SENT, "AbC123")),
}
CASES["bus by a topic"] = (
    CASES["bus by a topic"][0],
    Body(json.dumps(json.loads(SINGLE)), ON_THE_SECOND),
)


@pytest.mark.parametrize("name", CASES)
def test_an_envelope_is_taken_off(name: str) -> None:
    text, expected = CASES[name]

    assert unwrap(Body(text, SENT)) == expected


def test_what_the_message_itself_names_holds_where_the_envelope_names_nothing() -> None:
    named = Body(json.dumps(topic()), SENT, "AbC123", "event")

    assert unwrap(named) == Body(SINGLE, EARLIER, "AbC123", "event")
    assert unwrap(Body(ours(ODD, account="Other1"), SENT, "AbC123", "event")) == Body(
        ODD, SENT, "Other1", "event"
    )


@pytest.mark.rule
@pytest.mark.parametrize("ahead", [timedelta(milliseconds=1), timedelta(seconds=2), timedelta(hours=1)])
@pytest.mark.parametrize("name", ["topic", "bus", "bucket", "bus of a bucket", "cloud event"])
def test_an_envelope_that_is_delivered_twice_has_the_same_time(name: str, ahead: timedelta) -> None:
    told = (SENT + ahead).isoformat()
    envelope = {
        "topic": topic(Timestamp=told),
        "bus": bus(json.loads(SINGLE), time=told),
        "bucket": {"Records": [record() | {"eventTime": told}]},
        "bus of a bucket": bucket_event(time=told),
        "cloud event": {**CLOUD_EVENT, "time": told},
    }[name]

    first, second = (
        unwrap(Body(json.dumps(envelope), SENT + delay)) for delay in (timedelta(), timedelta(minutes=3))
    )

    assert first == second
    [at] = [first.sent] if isinstance(first, Body) else [each.written for each in first]
    assert at == SENT + ahead


@pytest.mark.parametrize("timestamp", ["2027-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
def test_no_envelope_is_from_a_time_that_cannot_be(timestamp: str) -> None:
    text = json.dumps(topic(Timestamp=timestamp))

    assert unwrap(Body(text, SENT)) == Body(SINGLE, SENT)


NONE: list[str] = [
    "",
    "not JSON",
    "[]",
    "1",
    '"Records"',
    "{}",
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"data": "\ud800"}',
    json.dumps(topic(Type="SubscriptionConfirmation", Token="t", SubscribeURL="https://sns.example")),
    json.dumps(topic(Timestamp="yesterday")),
    json.dumps(topic(Timestamp="2026-11-21T11:59:58")),
    json.dumps(topic(Message={"data": 1})),
    json.dumps(topic(MessageAttributes=[1])),
    json.dumps(bus({}, time=None)),
    json.dumps({"Records": []})[:-2],
    json.dumps({"Records": [record() | {"eventSource": "aws:sqs"}]}),
    json.dumps({"Records": [record(key="")]}),
    json.dumps({"Records": [record() | {"s3": {}}]}),
    json.dumps({"Records": {"a": 1}}),
    json.dumps(TEST_EVENT | {"Event": "s3:Other"}),
    json.dumps(bucket_event(detail={"bucket": "drops"})),
    json.dumps({name: value for name, value in CLOUD_EVENT.items() if name != "data"}),
    '{"body": {}, "account": 5}',
    '{"body": {}, "account": "AbC123", "more": 1}',
]


@pytest.mark.parametrize("text", NONE, ids=lambda text: ascii(text)[:40])
def test_what_is_none_stays_as_it_is(text: str) -> None:
    assert unwrap(Body(text, SENT, "AbC123")) == Body(text, SENT, "AbC123")


def test_envelopes_in_envelopes_end_somewhere() -> None:
    text = SINGLE
    for _ in range(10):
        text = ours(text)

    found = unwrap(Body(text, SENT))

    assert isinstance(found, Body)
    assert found.text.count('"body"') == 7


@pytest.mark.rule
@pytest.mark.parametrize(
    ("message", "name"),
    [
        (topic(Type="SubscriptionConfirmation", Token="t", SubscribeURL="https://sns.example"), "SNS"),
        ({"Records": [{"eventSource": "aws:kinesis", "kinesis": {}}]}, "records of a service other than S3"),
        ({"specversion": "1.0", "type": "t", "source": "/s", "data_base64": "e30="}, "CloudEvent"),
        ({"messageType": "DATA_MESSAGE", "logEvents": []}, "CloudWatch"),
        (TEST_EVENT | {"Event": "s3:Other"}, "S3"),
        ({"body": {}, "account": "AbC123", "more": 1}, "'body'"),
    ],
)
def test_a_known_envelope_that_is_not_read_is_named(message: dict[str, Any], name: str) -> None:
    accounts = Accounts((KlaviyoAccount("AbC123", REFERENCE),))

    with pytest.raises(NotABody) as raised:
        accept(Body(json.dumps(message), SENT), "receipt", accounts, Producer())

    assert name in raised.value.detail


@pytest.mark.rule
@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "is empty"),
        ("not JSON", "cannot be read: JSON is malformed"),
        ("\ufeff{}", "byte order mark"),
        ("data=%7B%7D&account=AbC123", "is a form"),
        ('{"data": {"type": "event", "note": "\\ud83c"}}', "half of a surrogate pair (U+D83C)"),
        ('{"data": 1e400}', "too large to be represented"),
        ('{"data": "\ud83c"}', "not UTF-8"),
    ],
)
def test_what_the_decoder_found_is_told(text: str, detail: str) -> None:
    accounts = Accounts((KlaviyoAccount("AbC123", REFERENCE),))

    with pytest.raises(NotABody) as raised:
        accept(Body(text, SENT), "receipt", accounts, Producer())

    assert detail in raised.value.detail


def test_a_notification_of_ours_is_read_as_one_of_s3() -> None:
    written = Object("claims", "imports/a b+c/ü.gz", EARLIER, sequencer="import")

    assert unwrap(Body(notification(written), SENT)) == (written,)
