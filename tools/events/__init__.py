"""Makes an event for every trigger of every function, as AWS would invoke the function with it.

`make events` writes those in `tests/events`, with an account, a key and names that do not exist. `make up`
writes the same into `.local/events` with those of the running stack. With them `sam local invoke` does real
work.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path("tests/events")
# Each trigger, by its name in the template, and the file of its event. `operate` is invoked by `sluicectl`.
TRIGGERS: Final = {
    "ApiMethod": ("ingest.json", "ingest-event.json", "ingest-webhook.json"),
    "ApiDescriptionMethod": ("docs.json",),
    "ApiPageMethod": ("docs-page.json",),
    "EventsMapping": ("dispatch.json", "dispatch-object.json"),
    "BackgroundMapping": ("dispatch-background.json",),
    "RejectedMapping": ("reject.json",),
    "EventsDeadLetterMapping": ("reject-dead-letter.json",),
    "BackgroundDeadLetterMapping": ("reject-background-dead-letter.json",),
    "RejectedDeadLetterMapping": ("reject-again.json",),
    "ResumeSchedule": ("resume.json",),
    "JobSchedule": ("operate-jobs.json",),
    "OperateFunction": ("operate.json",),
}
_BODIES: Final = Path(__file__).parent
_TRACE: Final = "Root=1-69a55c3f-0123456789abcdef01234567"
_SENT: Final = 1772444752000


@dataclass(frozen=True)
class Names:
    """Holds what differs from stack to stack: a caller's key, an account, and the queues' ARNs by output."""

    key: str = "pk_example0000000000000000000000000000"
    account: str = "AbC123"
    webhook_token: str = "example"
    queues: tuple[tuple[str, str], ...] = ()

    def queue(self, name: str) -> str:
        return dict(self.queues).get(name, f"arn:aws:sqs:us-east-1:123456789012:sluice-{name}")


def events(names: Names) -> dict[str, Any]:
    """Returns all events, by the names of their files."""
    bulk, single, order = body("bulk"), body("event"), body("webhook")
    rejection = json.dumps(json.loads(body("rejection")) | {"account": names.account}, separators=(",", ":"))
    call = {
        "Authorization": f"Klaviyo-API-Key {names.key}",
        "Content-Type": "application/vnd.api+json",
        "revision": "2026-07-15",
    }
    hook = {"Authorization": f"Bearer {names.webhook_token}", "Content-Type": "application/json"}
    return {
        "ingest.json": request("POST", "/api/event-bulk-create-jobs", call, bulk),
        "ingest-event.json": request("POST", "/api/events", call, single),
        "ingest-webhook.json": request("POST", "/webhooks/bigcommerce", hook, order),
        "docs.json": request("GET", "/openapi.json", {}, None, resource="/openapi.json"),
        "docs-page.json": request("GET", "/docs", {}, None, resource="/docs"),
        "dispatch.json": batch(names.queue("EventsQueue"), bulk),
        "dispatch-object.json": batch(names.queue("EventsQueue"), body("object-created")),
        "dispatch-background.json": batch(names.queue("BackgroundQueue"), bulk),
        "reject.json": batch(names.queue("RejectedQueue"), rejection),
        "reject-dead-letter.json": batch(names.queue("EventsDeadLetterQueue"), bulk, receives=501),
        "reject-background-dead-letter.json": batch(
            names.queue("BackgroundDeadLetterQueue"), bulk, receives=501
        ),
        "reject-again.json": batch(names.queue("RejectedDeadLetterQueue"), rejection, receives=501),
        "resume.json": scheduled("sluice-ResumeSchedule"),
        "operate-jobs.json": {"version": 1, "command": "jobs tick", "who": {"name": "schedule"}},
        "operate.json": {"version": 1, "command": "sources show", "arguments": {}, "who": {"name": "ada"}},
    }


def write(folder: Path, names: Names) -> None:
    """Writes all events into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, event in events(names).items():
        (folder / name).write_text(json.dumps(event, indent=2) + "\n")


def body(name: str) -> str:
    """Returns a body of the folder beside this file, as compact as a caller sends it."""
    return json.dumps(json.loads((_BODIES / f"{name}.json").read_text()), separators=(",", ":"))


def request(
    method: str, path: str, headers: dict[str, str], content: str | None, *, resource: str = "/{proxy+}"
) -> dict[str, Any]:
    """Returns the event of a REST API's request."""
    accept = "application/vnd.api+json" if path.startswith("/api/") else "application/json"
    sent = {
        "Accept": accept,
        **{name: value for name, value in headers.items() if name != "revision"},
        "Host": "abcdef1234.execute-api.us-east-1.amazonaws.com",
        **({"revision": headers["revision"]} if "revision" in headers else {}),
        "User-Agent": "python-httpx/0.28.1",
        "X-Amzn-Trace-Id": _TRACE,
        "X-Forwarded-For": "192.0.2.10",
        "X-Forwarded-Port": "443",
        "X-Forwarded-Proto": "https",
    }
    nobody = dict.fromkeys(
        ("cognitoIdentityPoolId", "accountId", "cognitoIdentityId", "caller", "sourceIp", "principalOrgId")
    )
    unsigned = dict.fromkeys(
        ("accessKey", "cognitoAuthenticationType", "cognitoAuthenticationProvider", "userArn")
    )
    return {
        "resource": resource,
        "path": path,
        "httpMethod": method,
        "headers": sent,
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": path.removeprefix("/")} if resource == "/{proxy+}" else None,
        "stageVariables": None,
        "requestContext": {
            "resourceId": "a1b2c3",
            "resourcePath": resource,
            "httpMethod": method,
            "extendedRequestId": "Xabcdef0iAMFabc=",
            "requestTime": "02/Mar/2026:09:45:51 +0000",
            "path": f"/v1{path}",
            "accountId": "123456789012",
            "protocol": "HTTP/1.1",
            "stage": "v1",
            "domainPrefix": "abcdef1234",
            "requestTimeEpoch": 1772444751000,
            "requestId": "6f1c7b5e-2c0f-4a8e-9a57-0d9b3d0c1e11",
            "identity": {
                **nobody,
                "sourceIp": "192.0.2.10",
                **unsigned,
                "userAgent": "python-httpx/0.28.1",
                "user": None,
            },
            "domainName": "abcdef1234.execute-api.us-east-1.amazonaws.com",
            "deploymentId": "d1e2f3",
            "apiId": "abcdef1234",
        },
        "body": content,
        "isBase64Encoded": False,
    }


def batch(queue: str, content: str, *, receives: int = 1) -> dict[str, Any]:
    """Returns the event of an event source mapping with one message."""
    digest = hashlib.md5(content.encode()).hexdigest()
    return {
        "Records": [
            {
                "messageId": f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}",
                "receiptHandle": "AQEBexample0==",
                "body": content,
                "attributes": {
                    "ApproximateReceiveCount": str(receives),
                    "AWSTraceHeader": _TRACE,
                    "SentTimestamp": str(_SENT),
                    "SenderId": "AROAEXAMPLEEXAMPLE000:sluice-IngestFunction",
                    "ApproximateFirstReceiveTimestamp": str(_SENT + 5_000),
                },
                "messageAttributes": {},
                "md5OfBody": digest,
                "eventSource": "aws:sqs",
                "eventSourceARN": queue,
                "awsRegion": "us-east-1",
            }
        ]
    }


def scheduled(rule: str) -> dict[str, Any]:
    """Returns the event of a schedule's rule."""
    return {
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": "2026-03-02T10:03:00Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:events:us-east-1:123456789012:rule/{rule}"],
        "detail": {},
    }
