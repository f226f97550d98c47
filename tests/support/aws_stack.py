"""Runs the functions as Lambda does, with the AWS services they use emulated in process.

A `Cloud` has the stack's queues, table, buckets and secret. Its `calls` are all requests to AWS in their
order, and the place to make one fail.
"""

import contextlib
import functools
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sqs.models import sqs_backends

from sluice import private_keys, settings
from sluice.aws import clients, secrets
from sluice.contract import UPSTREAM_REVISION, Surface
from sluice.klaviyo import parser
from sluice.message import Message
from sluice.records import table as records_table
from sluice.wiring import accounts
from sluice.wiring import dispatch as wiring
from tests.support import sealing, stored_accounts
from tests.support.aws_clients import aws_client
from tests.support.factories import NOON, SITE_ID, bulk, entry, event, profile
from tests.support.functions import load_app
from tests.support.stored_accounts import ACCOUNT_SECRETS

PRIVATE_KEY = "pk_upstream_never_said"
REGION = "us-east-1"


class Context:
    """Plays Lambda's context: an invocation with so many seconds left."""

    function_name = "function"
    memory_limit_in_mb = "1769"  # text, as Lambda gives it
    invoked_function_arn = f"arn:aws:lambda:{REGION}:123456789012:function:function"
    aws_request_id = "request-1"

    def __init__(self, seconds: float = 120.0) -> None:
        self._end = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int((self._end - time.monotonic()) * 1_000)


class Crash(BaseException):
    """Ends the process: nothing after this runs."""


class Calls:
    """Records every request to AWS except the test's own, and can replace or wrap one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, own: tuple[Any, ...]) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []
        self._real = BaseClient._make_api_call  # type: ignore[attr-defined]
        self._hooks: dict[str, Callable[[dict[str, Any], Callable[[], Any]], Any]] = {}
        calls = self

        def call(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
            real = functools.partial(calls._real, client, operation, parameters)
            if any(client is each for each in own):
                return real()
            calls.made.append((operation, parameters))
            hook = calls._hooks.get(operation) or calls._hooks.get("*")
            return hook(parameters, real) if hook else real()

        monkeypatch.setattr(BaseClient, "_make_api_call", call)

    def of(self, operation: str) -> list[dict[str, Any]]:
        """Returns the parameters of an operation's calls."""
        return [parameters for name, parameters in self.made if name == operation]

    def clear(self) -> None:
        """Forgets the calls made and lets all work again."""
        self.made.clear()
        self._hooks.clear()

    def instead(self, operation: str, hook: Callable[[dict[str, Any], Callable[[], Any]], Any]) -> None:
        """Calls `hook` with the parameters and the real call; "*" is every operation."""
        self._hooks[operation] = hook

    def fail(self, operation: str, *, when: Callable[[dict[str, Any]], bool] = lambda _: True) -> None:
        """Refuses an operation, as AWS does when it is overloaded."""

        def hook(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
            if when(parameters):
                raise ClientError({"Error": {"Code": "ServiceUnavailable"}}, operation)
            return real()

        self.instead(operation, hook)

    def cut(self, operation: str) -> None:
        """Lets nothing of an operation reach AWS."""

        def hook(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
            raise EndpointConnectionError(endpoint_url="https://nowhere.example")

        self.instead(operation, hook)

    def crash(self, number: int, *, done: bool) -> None:
        """Ends the process at the call of this number (from 0), with the call done or not."""
        left = number

        def hook(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
            nonlocal left
            left -= 1
            if left >= 0:
                return real()
            if done and left == -1:
                real()
            raise Crash

        self.instead("*", hook)


class Cloud:
    """Holds the AWS resources that the functions use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.sqs = aws_client("sqs")
        self.s3 = aws_client("s3")
        self.dynamodb = aws_client("dynamodb")
        self.secrets = aws_client("secretsmanager")
        attributes = {"VisibilityTimeout": "1380"}
        self.events = self.sqs.create_queue(QueueName="events", Attributes=attributes)["QueueUrl"]
        self.rejected = self.sqs.create_queue(QueueName="rejected", Attributes=attributes)["QueueUrl"]
        self.background = self.sqs.create_queue(QueueName="background", Attributes=attributes)["QueueUrl"]
        self.dead_letters = self.sqs.create_queue(QueueName="events-dead")["QueueUrl"]
        self.background_dead_letters = self.sqs.create_queue(QueueName="background-dead")["QueueUrl"]
        self.rejected_dead_letters = self.sqs.create_queue(QueueName="rejected-dead")["QueueUrl"]
        for bucket in ("claims", "archive", "drops", "configuration"):
            self.s3.create_bucket(Bucket=bucket)
        self.s3.put_bucket_versioning(Bucket="configuration", VersioningConfiguration={"Status": "Enabled"})
        for table, keys in {"state": ["pk"], "records": ["pk", "sk"]}.items():
            self.dynamodb.create_table(
                TableName=table,
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
                KeySchema=[
                    {"AttributeName": key, "KeyType": kind}
                    for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
                ],
            )
        self.secrets.create_secret(Name="sealing", SecretString=sealing.SECRET)
        self.secrets.create_secret(Name="records", SecretString="the key of hashes")
        self.name_accounts({"site_id": SITE_ID, "private_key": PRIVATE_KEY})
        self.calls = Calls(monkeypatch, (self.sqs, self.s3, self.dynamodb, self.secrets))

    def name_accounts(self, *each: dict[str, Any]) -> None:
        """Writes the accounts document."""
        self.write_accounts(json.dumps({"accounts": list(each)}))

    def write_accounts(self, document: str) -> None:
        """Writes an accounts document, whose private keys become secrets."""
        write_accounts(document, s3=self.s3, secrets=self.secrets)
        forget_secrets()

    def load(self, function: str) -> "Function":
        """Loads a function, as in a new process."""
        environment = {
            "dispatch": (
                *("EVENTS_QUEUE_URL", "BACKGROUND_QUEUE_URL", "REJECTED_QUEUE_URL"),
                *("STATE_TABLE", "CLAIM_BUCKET", "CONFIG_BUCKET", "ACCOUNT_SECRETS"),
                *("SEALING_SECRET", "IMPORT_BUCKETS"),
            ),
            "resume": (
                *("EVENTS_QUEUE_URL", "BACKGROUND_QUEUE_URL", "STATE_TABLE", "CLAIM_BUCKET"),
                *("CONFIG_BUCKET", "SEALING_SECRET"),
            ),
            "ingest": (
                *("EVENTS_QUEUE_URL", "REJECTED_QUEUE_URL", "STATE_TABLE", "CLAIM_BUCKET", "ACCOUNT_SECRETS"),
                *("SEALING_SECRET", "CONFIG_BUCKET", "WEBHOOK_SECRETS", "ALLOWED_ORIGINS", "INBOUND_LIMITS"),
            ),
            "reject": (
                *("ARCHIVE_BUCKET", "ARCHIVE_DAYS", "CLAIM_BUCKET", "STATE_TABLE"),
                *("RECORDS_TABLE", "RECORDS_SECRET", "SEALING_SECRET"),
            ),
            "operate": (
                *("EVENTS_QUEUE_URL", "REJECTED_QUEUE_URL", "STATE_TABLE", "RECORDS_TABLE"),
                *("CLAIM_BUCKET", "ARCHIVE_BUCKET", "CONFIG_BUCKET", "ACCOUNT_SECRETS", "WEBHOOK_SECRETS"),
                *("RECORDS_SECRET", "ARCHIVE_DAYS", "SEALING_SECRET"),
                *("EVENTS_DEAD_LETTER_QUEUE_URL", "REJECTED_DEAD_LETTER_QUEUE_URL"),
                *("BACKGROUND_QUEUE_URL", "BACKGROUND_DEAD_LETTER_QUEUE_URL"),
            ),
        }[function]
        values = {
            "EVENTS_QUEUE_URL": self.events,
            "EVENTS_DEAD_LETTER_QUEUE_URL": self.dead_letters,
            "BACKGROUND_QUEUE_URL": self.background,
            "BACKGROUND_DEAD_LETTER_QUEUE_URL": self.background_dead_letters,
            "REJECTED_QUEUE_URL": self.rejected,
            "REJECTED_DEAD_LETTER_QUEUE_URL": self.rejected_dead_letters,
            "STATE_TABLE": "state",
            "RECORDS_TABLE": "records",
            "RECORDS_SECRET": "records",
            "ARCHIVE_DAYS": "365",
            "CONFIG_BUCKET": "configuration",
            "ACCOUNT_SECRETS": ACCOUNT_SECRETS,
            "SEALING_SECRET": "sealing",
            "WEBHOOK_SECRETS": "sluice/webhooks/",
            "ALLOWED_ORIGINS": "*",
            "INBOUND_LIMITS": "off",
            "CLAIM_BUCKET": "claims",
            "ARCHIVE_BUCKET": "archive",
            "IMPORT_BUCKETS": "exports,drops",
        }
        for name in [name for name in os.environ if name.startswith("SLUICE_")]:
            self._monkeypatch.delenv(name)
        for name in environment:
            self._monkeypatch.setenv(f"SLUICE_{name}", values[name])
        self._monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", f"sluice-{function}")
        forget()
        return Function(function)

    def send(self, *bodies: str, queue: str | None = None, **attributes: str) -> None:
        """Puts messages on the events queue, or another: those in stored form as Sluice does, sealed."""
        for body in bodies:
            named = sealing.attributes(body, attributes)
            self.sqs.send_message(QueueUrl=queue or self.events, MessageBody=body, MessageAttributes=named)

    def receive(self, queue: str | None = None) -> dict[str, Any]:
        """Receives all visible messages of a queue, as the event of an invocation."""
        records: list[dict[str, Any]] = []
        while received := self.sqs.receive_message(
            QueueUrl=queue or self.events,
            MaxNumberOfMessages=10,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages"):
            records += [_record(each, queue or self.events) for each in received]
        return {"Records": records}

    def left(self, queue: str | None = None) -> list[str]:
        """Returns the bodies of all messages on a queue, visible or not."""
        name = (queue or self.events).rsplit("/", 1)[1]
        stored = sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues[name]
        return [each.body for each in stored._messages]

    def settle(self, event: dict[str, Any], answer: dict[str, Any], queue: str | None = None) -> None:
        """Applies an answer as Lambda does: deletes the messages that did not fail."""
        failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        for record in event["Records"]:
            if record["messageId"] not in failed:
                self.sqs.delete_message(QueueUrl=queue or self.events, ReceiptHandle=record["receiptHandle"])

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Returns the keys of a bucket's objects."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def content(self, bucket: str, key: str) -> bytes:
        content: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def item(self, pk: str) -> dict[str, Any] | None:
        """Returns an item of the state table."""
        answer: dict[str, Any] = self.dynamodb.get_item(TableName="state", Key={"pk": {"S": pk}})
        return answer.get("Item")


class Function:
    """Holds a function's handler and its output."""

    def __init__(self, name: str) -> None:
        self.app: Any = load_app(name)
        self._said = io.StringIO()
        for handler in self.app.logger.handlers:
            handler.setStream(self._said)

    def __call__(self, event: dict[str, Any], context: Context | None = None) -> Any:
        with contextlib.redirect_stdout(self._said), contextlib.redirect_stderr(self._said):
            return self.app.handler(event, context or Context())

    @property
    def said(self) -> str:
        """Returns everything that was written to the log."""
        return self._said.getvalue()

    def lines(self, message: str) -> list[dict[str, Any]]:
        """Returns the log lines with this message."""
        lines = map(json.loads, self.said.splitlines())
        return [line for line in lines if line.get("message") == message]

    def metrics(self) -> dict[str, float]:
        """Returns the sums of the metrics emitted."""
        sums: dict[str, float] = {}
        for line in map(json.loads, self.said.splitlines()):
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
                for metric in directive["Metrics"]:
                    name = metric["Name"]
                    sums[name] = sums.get(name, 0) + sum(line[name])
        return sums


def _record(received: dict[str, Any], queue: str) -> dict[str, Any]:
    named = received.get("MessageAttributes", {})
    return {
        "messageId": received["MessageId"],
        "receiptHandle": received["ReceiptHandle"],
        "body": received["Body"],
        "attributes": received["Attributes"],
        "messageAttributes": {
            name: {"stringValue": value["StringValue"], "dataType": value["DataType"]}
            for name, value in named.items()
        },
        "eventSourceARN": f"arn:aws:sqs:{REGION}:123456789012:{queue.rpartition('/')[2]}",
    }


def again(event: dict[str, Any], receives: int) -> dict[str, Any]:
    """Returns the same messages, received so often."""
    records = msgspec.json.decode(msgspec.json.encode(event["Records"]))
    for record in records:
        record["attributes"]["ApproximateReceiveCount"] = str(receives)
    return {"Records": records}


def write_accounts(document: str, *, s3: Any = None, secrets: Any = None) -> None:
    """Writes an accounts document to the configuration bucket, and its private keys into secrets.

    Keys that are there stay, as they do while a document that refers to them may be in use.
    """
    content, texts = stored_accounts.split(document)
    client = secrets or aws_client("secretsmanager")
    for name, text in texts.items():
        full_name = ACCOUNT_SECRETS + name
        try:
            before = private_keys.decode(_current(client, full_name))
        except client.exceptions.ResourceNotFoundException:
            client.create_secret(Name=full_name, SecretString=text)
        else:
            both = private_keys.encode(before | private_keys.decode(text))
            _replace(client, full_name, both)
    (s3 or aws_client("s3")).put_object(Bucket="configuration", Key="accounts.json", Body=content.encode())


def _replace(client: Any, secret: str, text: str) -> None:
    # As operate does it: moto loses track of the current version otherwise.
    new = client.put_secret_value(SecretId=secret, SecretString=text, VersionStages=["OTHERS_NEXT"])
    current = client.get_secret_value(SecretId=secret, VersionStage="AWSCURRENT")
    client.update_secret_version_stage(
        SecretId=secret,
        VersionStage="AWSCURRENT",
        RemoveFromVersionId=current["VersionId"],
        MoveToVersionId=new["VersionId"],
    )


def _current(client: Any, secret: str) -> str:
    text: str = client.get_secret_value(SecretId=secret, VersionStage="AWSCURRENT")["SecretString"]
    return text


def account_secrets() -> dict[str, str]:
    """Returns the texts of the secrets of private keys by their names."""
    client = aws_client("secretsmanager")
    names = [
        each["Name"]
        for page in client.get_paginator("list_secrets").paginate()
        for each in page["SecretList"]
        if each["Name"].startswith(ACCOUNT_SECRETS)
    ]
    return {name.removeprefix(ACCOUNT_SECRETS): _current(client, name) for name in names}


def read_accounts() -> dict[str, Any]:
    """Returns the stored accounts document with private keys in place of the references to them."""
    stored = aws_client("s3").get_object(Bucket="configuration", Key="accounts.json")["Body"].read()
    return stored_accounts.join(stored.decode(), account_secrets())


def forget() -> None:
    """Forgets what a process keeps from its first request on, except its clients, which are slow to make."""
    settings.load.cache_clear()
    forget_secrets()
    clients._failing_until.clear()
    records_table._seen.clear()


def forget_secrets() -> None:
    """Lets secrets be read again."""
    secrets.forget()
    accounts.forget()


@contextlib.contextmanager
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Makes a new, empty AWS account for the length of a `with` block."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "SLUICE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Sluice")
    with mock_aws():
        forget()
        yield Cloud(monkeypatch)
        forget()


def stored(
    *events: tuple[str, str],
    receipt: str = "r1",
    account: str = SITE_ID,
    surface: Surface = Surface.BULK,
    padding: str = "",
) -> Message[Any]:
    """Makes an accepted request of events, each a customer's name and a unique_id."""
    by_customer: dict[str, list[Any]] = {}
    for customer, unique_id in events:
        made = event(unique_id=unique_id, properties={"padding": padding} if padding else {})
        by_customer.setdefault(customer, []).append(made)
    entries = [entry(*made, of=profile(email=f"{name}@mail.example")) for name, made in by_customer.items()]
    read = parser.read(Surface.BULK, msgspec.json.encode(bulk(*entries)), UPSTREAM_REVISION, NOON)
    return Message(receipt, account, surface, NOON, read.entries)


def close_event_loop() -> None:
    """Closes the event loop that dispatch runs in, as the end of its process does."""
    wiring._event_loop().close()
    wiring._event_loop.cache_clear()
