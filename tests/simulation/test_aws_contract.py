"""Tests that the models of AWS do what moto does: the same table of calls is made to both."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from tests.simulation.aws import expressions
from tests.simulation.aws.dynamodb import DynamoDB
from tests.simulation.aws.expressions import InvalidExpression, Names
from tests.simulation.aws.s3 import S3
from tests.simulation.aws.secrets_manager import SecretsManager
from tests.simulation.aws.sqs import SQS, Queue

type Services = dict[str, Any]
type Step = tuple[str, str, dict[str, Any]]

PK = {"pk": {"S": "a"}}
ITEM = {"pk": {"S": "a"}, "n": {"N": "5"}, "s": {"S": "text"}, "set": {"NS": ["1", "2"]}, "b": {"B": b"xy"}}
NAMES = {"pk": {"S": "a"}, "names": {"SS": ["x", "y"]}}


def _put(item: dict[str, Any], **more: Any) -> Step:
    return "dynamodb", "put_item", {"TableName": "state", "Item": item, **more}


def _update(expression: str, *, names: Any = None, values: Any = None, **more: Any) -> Step:
    given: dict[str, Any] = {"TableName": "state", "Key": PK, "UpdateExpression": expression, **more}
    if names:
        given["ExpressionAttributeNames"] = names
    if values:
        given["ExpressionAttributeValues"] = values
    return "dynamodb", "update_item", given


def _get(key: str = "a") -> Step:
    return "dynamodb", "get_item", {"TableName": "state", "Key": {"pk": {"S": key}}, "ConsistentRead": True}


ONE = {":one": {"N": "1"}}
INBOUND: dict[str, Any] = {
    "names": {"#minute": "minute", "#second": "second_5"},
    "values": {
        ":one": {"N": "1"},
        ":burst": {"N": "2"},
        ":steady": {"N": "3"},
        ":expiry": {"N": "99"},
    },
    "ConditionExpression": (
        "(attribute_not_exists(#minute) OR #minute < :steady)"
        " AND (attribute_not_exists(#second) OR #second < :burst)"
    ),
    "ReturnValues": "UPDATED_NEW",
    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
}
COUNT = _update("SET expires_at = :expiry ADD #minute :one, #second :one", **INBOUND)


def _version(number: str) -> Step:
    return _put(
        {"pk": {"S": "a"}, "version": {"N": "9"}},
        ConditionExpression="attribute_not_exists(pk) OR version = :version",
        ExpressionAttributeValues={":version": {"N": number}},
    )


def _add_names(most: str) -> Step:
    return _update(
        "ADD #names :added",
        names={"#names": "names"},
        values={":added": {"SS": ["y", "z"]}, ":most": {"N": most}},
        ConditionExpression="attribute_not_exists(#names) OR size(#names) <= :most",
        ReturnValuesOnConditionCheckFailure="ALL_OLD",
    )


def _object(operation: str, key: str = "a/b", **more: Any) -> Step:
    return "s3", operation, {"Bucket": "claims", "Key": key, **more}


SCENARIOS: dict[str, list[Step]] = {
    "an item that is not there": [_get(), ("dynamodb", "delete_item", {"TableName": "state", "Key": PK})],
    "an item is written and read whole": [_put(ITEM), _get()],
    "a put replaces all of an item": [_put(ITEM), _put(PK), _get()],
    "a delete returns what was there": [
        _put(ITEM),
        ("dynamodb", "delete_item", {"TableName": "state", "Key": PK, "ReturnValues": "ALL_OLD"}),
        _get(),
    ],
    "a put that must be the first": [
        _put(ITEM, ConditionExpression="attribute_not_exists(pk)"),
        _put(PK, ConditionExpression="attribute_not_exists(pk)"),
        _get(),
    ],
    "a put on a version": [_version("0"), _version("8"), _version("9"), _get()],
    "several of a kind are counted, to a limit": [COUNT, COUNT, COUNT, _get()],
    "a number is added where there is none": [
        _update("ADD trials :one", values=ONE, ReturnValues="UPDATED_NEW"),
        _update("ADD trials :one", values=ONE, ReturnValues="UPDATED_NEW"),
        _update("SET expires_at = :one ADD trials :one", values=ONE, ReturnValues="ALL_NEW"),
    ],
    "sets grow by what is new": [
        _update("ADD delivered :d, rejected :r", values={":d": {"NS": ["3", "1"]}, ":r": {"NS": ["2"]}}),
        _update("ADD delivered :d", values={":d": {"NS": ["1", "4"]}}),
        _get(),
    ],
    "sets shrink, and end": [
        _put(ITEM),
        _update("DELETE #s :one", names={"#s": "set"}, values={":one": {"NS": ["1"]}}),
        _update("DELETE #s :two", names={"#s": "set"}, values={":two": {"NS": ["2", "7"]}}),
        _get(),
    ],
    "names are added while there is room": [_put(NAMES), _add_names("1"), _add_names("2"), _get()],
    "a default is set once": [
        _update("SET n = if_not_exists(n, :one), m = :one", values=ONE),
        _update("SET n = if_not_exists(n, :two)", values={":two": {"N": "2"}}),
        _update("SET n = n + :one, s = m - :one", values=ONE, ReturnValues="UPDATED_NEW"),
    ],
    "an attribute is removed if it is what it was": [
        _update("SET #site = :mark", names={"#site": "AbC123"}, values={":mark": {"S": "1-x"}}),
        _update(
            "REMOVE #site",
            names={"#site": "AbC123"},
            values={":mark": {"S": "2-x"}},
            ConditionExpression="#site = :mark",
        ),
        _update(
            "REMOVE #site",
            names={"#site": "AbC123"},
            values={":mark": {"S": "1-x"}},
            ConditionExpression="#site = :mark",
        ),
        _get(),
    ],
    "conditions of all kinds": [
        _put(ITEM),
        *(
            _put({**ITEM, "n": {"N": "5"}}, ConditionExpression=condition, ExpressionAttributeValues=values)
            for condition, values in (
                ("n > :v", {":v": {"N": "10"}}),
                ("n < :v", {":v": {"N": "10"}}),
                ("n >= :v AND NOT n <> :v", {":v": {"N": "5.0"}}),
                ("NOT (n = :v OR s = :v)", {":v": {"S": "text"}}),
                ("begins_with(s, :v)", {":v": {"S": "te"}}),
                ("contains(s, :v) AND attribute_exists(b)", {":v": {"S": "ex"}}),
                ("n BETWEEN :v AND :w", {":v": {"N": "1"}, ":w": {"N": "5"}}),
                ("n IN (:v, :w)", {":v": {"N": "1"}, ":w": {"N": "2"}}),
                ("size(b) = :v", {":v": {"N": "2"}}),
                ("absent = :v", {":v": {"N": "2"}}),
            )
        ),
    ],
    "what DynamoDB refuses": [
        _update("SET n = :gone", values=ONE),
        _update("SET n = :one", names={"#unused": "x"}, values=ONE),
        _update("SET n = missing + :one", values=ONE),
        _update("SET pk = :one", values=ONE),
        _update("SET n = :one, n = :one", values=ONE),
        _update("ADD n :text", values={":text": {"S": "x"}}),
        _update("SET n :one", values=ONE),
        ("dynamodb", "get_item", {"TableName": "nowhere", "Key": PK}),
    ],
    "several items are read at once": [
        _put(ITEM),
        _put({"pk": {"S": "b"}}),
        (
            "dynamodb",
            "batch_get_item",
            {
                "RequestItems": {
                    "state": {
                        "Keys": [{"pk": {"S": each}} for each in ("a", "b", "c")],
                        "ConsistentRead": True,
                    }
                }
            },
        ),
    ],
    "an object is written, read, replaced and deleted": [
        _object("put_object", Body=b"one", Metadata={"account": "AbC123"}),
        _object("get_object"),
        _object("put_object", Body=b"two"),
        _object("get_object"),
        _object("delete_object"),
        _object("delete_object"),
        _object("get_object"),
    ],
    "an object is read if it is another or the same": [
        _object("put_object", Body=b"one"),
        _object("get_object", IfNoneMatch='"f97c5d29941bfb1b2fdab0874906ab82"'),
        _object("get_object", IfNoneMatch='"00000000000000000000000000000000"'),
        _object("get_object", IfMatch='"f97c5d29941bfb1b2fdab0874906ab82"'),
        _object("get_object", IfMatch='"00000000000000000000000000000000"'),
    ],
    "an object is read from a byte on": [
        _object("put_object", Body=b"0123456789"),
        _object("get_object", Range="bytes=4-"),
        _object("get_object", Range="bytes=10-"),
    ],
    "keys are listed in order": [
        *(_object("put_object", key, Body=b"x" * n) for n, key in enumerate(("p/b", "p/a", "q/a", "p/c"))),
        ("s3", "list_objects_v2", {"Bucket": "claims", "Prefix": "p/"}),
        ("s3", "list_objects_v2", {"Bucket": "claims", "Prefix": "p/", "MaxKeys": 2}),
        ("s3", "list_objects_v2", {"Bucket": "claims", "Prefix": "none/"}),
        ("s3", "list_objects_v2", {"Bucket": "nowhere", "Prefix": ""}),
    ],
    "folders are listed once each": [
        *(
            _object("put_object", key, Body=b"x")
            for key in ("p/a/1", "p/a/2", "p/b", "p/c/1", "p/d", "q/a/1")
        ),
        ("s3", "list_objects_v2", {"Bucket": "claims", "Prefix": "p/", "Delimiter": "/"}),
        ("s3", "list_objects_v2", {"Bucket": "claims", "Prefix": "p/", "Delimiter": "/", "MaxKeys": 4}),
        ("s3", "list_objects_v2", {"Bucket": "claims", "Prefix": "none/", "Delimiter": "/"}),
    ],
    "a secret": [
        ("secrets", "get_secret_value", {"SecretId": "accounts"}),
        ("secrets", "get_secret_value", {"SecretId": "accounts", "VersionStage": "AWSCURRENT"}),
        ("secrets", "get_secret_value", {"SecretId": "accounts", "VersionStage": "AWSPREVIOUS"}),
        ("secrets", "get_secret_value", {"SecretId": "none"}),
    ],
}

_LEFT_OUT = {
    "ResponseMetadata",
    "ETag",
    "LastModified",
    "AcceptRanges",
    "ContentType",
    "ContentRange",
    "StorageClass",
    "ChecksumAlgorithm",
    "ChecksumType",
    "ChecksumCRC32",
    "ServerSideEncryption",
    "ARN",
    "VersionId",
    "VersionStages",
    "CreatedDate",
    "Name",
    "EncodingType",
    "MaxKeys",
    "NextContinuationToken",
    "ConsumedCapacity",
}


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        clients: Any = {name: boto3.client(name) for name in ("dynamodb", "s3", "sqs")}
        clients["secrets"] = boto3.client("secretsmanager")
        clients["dynamodb"].create_table(
            TableName="state",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        )
        clients["s3"].create_bucket(Bucket="claims")
        clients["secrets"].create_secret(Name="accounts", SecretString="{}")
        yield clients


def modelled() -> Services:
    return {
        "dynamodb": DynamoDB(["state"]),
        "s3": S3(["claims"], lambda: 0.0),
        "secrets": SecretsManager({"accounts": "{}"}),
    }


def outcome(services: Services, step: Step) -> Any:
    service, operation, given = step
    try:
        answer = getattr(services[service], operation)(**given)
    except ClientError as error:
        found = error.response["Error"]["Code"], error.response.get("Item")
        return found if found[0] != "ValidationException" else found[0]
    if given.get("ReturnValues") == "UPDATED_NEW":
        # moto tells the key of a new item and leaves out what stays as it was; DynamoDB does neither.
        for name in ("pk", "expires_at"):
            answer["Attributes"].pop(name, None)
    return _plain(answer)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        plain = {name: _plain(each) for name, each in value.items() if name not in _LEFT_OUT}
        return {
            name: sorted(each) if name in {"NS", "SS"} else {} if each == {} else each
            for name, each in plain.items()
        }
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.read() if hasattr(value, "read") else value


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_model_answers_as_moto_does(scenario: str, emulated: Services) -> None:
    models = modelled()
    for step in SCENARIOS[scenario]:
        assert outcome(models, step) == outcome(emulated, step), step


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _queue_scenario(sqs: Any, url: str, wait: Callable[[float], None]) -> list[Any]:
    """Sends, receives, hides, deletes; returns what was seen."""
    seen: list[Any] = []
    attributes = {"probe": {"DataType": "String", "StringValue": "1"}}
    sqs.send_message(QueueUrl=url, MessageBody="m0", MessageAttributes=attributes)
    entries = [{"Id": str(n), "MessageBody": f"m{n}"} for n in (1, 2)]
    seen.append([each["Id"] for each in sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]])

    def receive() -> list[Any]:
        found: list[Any] = sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
        ).get("Messages", [])
        for each in found:
            named = {name: value["StringValue"] for name, value in each.get("MessageAttributes", {}).items()}
            seen.append((each["Body"], each["Attributes"]["ApproximateReceiveCount"], named))
        return found

    def hide(handles: list[str], seconds: int) -> None:
        changes = [
            {"Id": str(n), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for n, handle in enumerate(handles)
        ]
        answer = sqs.change_message_visibility_batch(QueueUrl=url, Entries=changes)
        seen.append(_ids(answer))

    def delete(handles: list[str]) -> None:
        entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(handles)]
        seen.append(_ids(sqs.delete_message_batch(QueueUrl=url, Entries=entries)))

    first = receive()
    assert not receive()
    hide([first[0]["ReceiptHandle"]], 0)
    wait(1.0)
    again = receive()
    delete([again[0]["ReceiptHandle"], first[1]["ReceiptHandle"]])
    wait(31.0)
    last = receive()
    hide([last[0]["ReceiptHandle"]], 100)
    wait(50.0)
    assert not receive()
    wait(51.0)
    receive()
    return seen


def _ids(answer: Any) -> tuple[list[str], list[str]]:
    return (
        [each["Id"] for each in answer.get("Successful", [])],
        [each["Id"] for each in answer.get("Failed", [])],
    )


def test_a_queue_behaves_as_motos_does(emulated: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    moto_sqs: Any = importlib.import_module("moto.sqs.models")

    clock = Clock()
    model = SQS([Queue("q", clock)])
    real_now = moto_sqs.unix_time_millis()
    monkeypatch.setattr(moto_sqs, "unix_time_millis", lambda *_: real_now + clock.now * 1_000)

    def wait(seconds: float) -> None:
        clock.now += seconds

    theirs = emulated["sqs"].create_queue(QueueName="q")["QueueUrl"]
    expected = _queue_scenario(emulated["sqs"], theirs, wait)
    clock.now = 0.0
    assert _queue_scenario(model, "https://sqs.test/q", wait) == expected


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([], "EmptyBatchRequest"),
        ([{"Id": str(n), "MessageBody": "x"} for n in range(11)], "TooManyEntriesInBatchRequest"),
        ([{"Id": "1", "MessageBody": "x"}] * 2, "BatchEntryIdsNotDistinct"),
        ([{"Id": str(n), "MessageBody": "x" * 600_000} for n in range(2)], "BatchRequestTooLong"),
    ],
)
def test_a_batch_that_sqs_refuses(entries: list[dict[str, str]], code: str, emulated: Services) -> None:
    url = emulated["sqs"].create_queue(QueueName="q")["QueueUrl"]
    for sqs, at in ((emulated["sqs"], url), (SQS([Queue("q", Clock())]), "https://sqs.test/q")):
        with pytest.raises(ClientError) as caught:
            sqs.send_message_batch(QueueUrl=at, Entries=entries)
        assert caught.value.response["Error"]["Code"].endswith(code)


@pytest.mark.parametrize("body", ["", "\x00", "\uffff"])
def test_a_message_that_sqs_refuses_and_moto_takes(body: str) -> None:
    with pytest.raises(ClientError) as caught:
        SQS([Queue("q", Clock())]).send_message(QueueUrl="https://sqs.test/q", MessageBody=body)
    assert caught.value.response["Error"]["Code"] == "InvalidMessageContents"


def test_a_message_received_too_often_is_a_dead_letter_with_its_first_time() -> None:
    clock = Clock()
    dead = Queue("dead", clock)
    queue = Queue("q", clock, visibility=10, dead_letters=dead, max_receives=2)
    queue.send("m", None, {})
    for _ in range(2):
        assert [each.body for each in queue.receive(10)] == ["m"]
        clock.now += 11
    assert queue.receive(10) == []
    assert not queue.messages
    [letter] = dead.receive(10)
    assert (letter.sent, letter.receives) == (0.0, 3)


def test_a_message_expires_at_its_retention() -> None:
    clock = Clock()
    heard: list[str] = []
    queue = Queue("q", clock, retention=100, heard=lambda event, *_: heard.append(event))
    queue.send("m", None, {})
    clock.now = 99
    assert queue.next_visible() == 99
    clock.now = 101
    assert queue.receive(10) == []
    assert heard == ["sent", "expired"]


def test_a_group_with_much_in_flight_is_served_after_the_others() -> None:
    queue = Queue("q", Clock())
    for n in range(20):
        queue.send(f"busy{n}", "busy", {})
    queue.send("quiet", "quiet", {})
    queue.receive(10)
    assert [each.body for each in queue.receive(2)] == ["quiet", "busy10"]


@pytest.mark.parametrize(
    "text", ["", "n", "n =", "n = :one extra", "(n = :one", "size(n)", "AND n = :one", "n ! :one"]
)
def test_an_expression_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidExpression):
        expressions.holds(text, {"n": {"N": "1"}}, Names({}, {":one": {"N": "1"}}))


@pytest.mark.parametrize("text", ["a.b = :one", "a[0] = :one", "attribute_type(a, :one)"])
def test_what_the_models_do_not_know_is_not_guessed(text: str) -> None:
    with pytest.raises(NotImplementedError):
        expressions.holds(text, {}, Names({}, {":one": {"N": "1"}}))
    with pytest.raises(NotImplementedError):
        DynamoDB(["state"]).get_item(TableName="state", Key=PK, ProjectionExpression="x")
