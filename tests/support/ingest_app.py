"""Runs the ingest function as API Gateway calls it, with the AWS services it uses emulated by moto."""

import base64
import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sqs.models import sqs_backends

from sluice import message
from sluice.aws import s3
from sluice.rejection import Rejection
from tests.support import aws_stack
from tests.support.aws_clients import aws_client
from tests.support.aws_stack import REGION, Cloud, Function
from tests.support.factories import KEY, NEWEST, SITE_ID, bulk, encoded

EVENTS = Path("tests/events")
BULK, EVENT = "/api/event-bulk-create-jobs", "/api/events"
CLIENT_BULK, CLIENT_EVENT = "/client/event-bulk-create", "/client/events"
READ_ONLY_KEY = "pk_readonly00000000"
READER_KEY = "pk_reader0000000000"  # may ask about events, not send them
TABLE = "state"
OTHER_KEY = "pk_other00000000000"  # of another account


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)

    @property
    def codes(self) -> list[str]:
        """Returns the codes of an error envelope, and checks that each entry has the shape of the
        contract.
        """
        errors = self.document["errors"]
        for error in errors:
            assert error.keys() == {"id", "status", "code", "title", "detail", "source", "links", "meta"}
            assert error["status"] == self.status
        return [error["code"] for error in errors]


class Front:
    """Holds the function and its surroundings."""

    def __init__(self, function: Function, cloud: Cloud) -> None:
        self.function = function
        self.queue_url = cloud.events
        self.rejected_url = cloud.rejected

    @property
    def said(self) -> str:
        """Returns everything that was written to the log."""
        return self.function.said

    def invoke(self, proxy_request: dict[str, Any]) -> Answer:
        answer = self.handle(proxy_request)
        headers = {name: ", ".join(values) for name, values in answer["multiValueHeaders"].items()}
        assert answer["isBase64Encoded"] is False
        return Answer(answer["statusCode"], headers, answer["body"])

    def handle(self, proxy_request: dict[str, Any]) -> dict[str, Any]:
        """Returns the function's answer to API Gateway."""
        answer: dict[str, Any] = self.function(proxy_request)
        return answer

    def send(
        self,
        path: str = BULK,
        document: Any = None,
        *,
        method: str = "POST",
        query: dict[str, str] | None = None,
        encode: bool = False,
        **headers: str | None,
    ) -> Answer:
        body = document if isinstance(document, bytes) else encoded(bulk() if document is None else document)
        standard: dict[str, str | None] = {
            "Authorization": None if path.startswith("/client") else f"Klaviyo-API-Key {KEY}",
            "Content-Type": "application/vnd.api+json",
            "revision": NEWEST,
        }
        given = standard | {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in given.items() if value is not None}
        return self.invoke(
            proxy_event()
            | {
                "path": path,
                "httpMethod": method,
                "headers": sent,
                "multiValueHeaders": {name: [value] for name, value in sent.items()},
                "queryStringParameters": query,
                "body": base64.b64encode(body).decode()
                if encode
                else body.decode("utf-8", "surrogateescape"),
                "isBase64Encoded": encode,
            }
        )

    def queued(self) -> list[str]:
        """Returns the bodies of all messages on EventsQueue."""
        return bodies(self.queue_url)

    def rejected(self) -> list[Rejection]:
        """Returns everything on RejectedQueue."""
        unpack = functools.partial(message.unwrap, fetch_claim=s3.claim_reader("claims"))
        found = [msgspec.json.decode(unpack(body), type=Rejection) for body in bodies(self.rejected_url)]
        return sorted(found, key=lambda rejection: rejection.pointer or "")

    def claims(self) -> list[str]:
        """Returns the keys of all claim checks."""
        listed = aws_client("s3").list_objects_v2(Bucket="claims")
        return [each["Key"] for each in listed.get("Contents", [])]

    def items(self) -> list[dict[str, Any]]:
        """Returns everything in the state table."""
        items: list[dict[str, Any]] = aws_client("dynamodb").scan(TableName=TABLE)["Items"]
        return items

    def is_empty(self) -> bool:
        return not (self.queued() or self.claims() or self.items() or self.rejected())


def bodies(queue_url: str) -> list[str]:
    """Returns the bodies of all messages on a queue, each once. Receiving them is slow in moto."""
    stored = sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues[queue_url.rpartition("/")[2]]._messages
    found = [each.body for each in stored]
    stored.clear()
    return found


def proxy_event(name: str = "ingest") -> dict[str, Any]:
    request: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return request


def document_of_keys(*keys: tuple[str, str]) -> str:
    ingest_keys = [{"sha256": sha256(key.encode()).hexdigest(), "scopes": [scope]} for key, scope in keys]
    other = [{"sha256": sha256(OTHER_KEY.encode()).hexdigest(), "scopes": ["events:write"]}]
    return json.dumps(
        {
            "accounts": [
                {"site_id": SITE_ID, "private_key": "pk_upstream", "keys": ingest_keys},
                {"site_id": "XyZ789", "private_key": "pk_upstream", "keys": other},
            ]
        }
    )


@contextlib.contextmanager
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Runs the function with an empty queue, table and bucket, and an account with two keys."""
    with aws_stack.cloud(monkeypatch) as cloud:
        cloud.write_accounts(
            document_of_keys(
                (KEY, "events:write"), (READ_ONLY_KEY, "profiles:read"), (READER_KEY, "events:read")
            )
        )
        yield Front(cloud.load("ingest"), cloud)
