"""Fakes the calls of ingest to SQS, Secrets Manager, DynamoDB and S3, on a loopback socket in a process of
its own.
"""

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Final

import msgspec

from sluice import accounts
from sluice.settings import IngestSettings
from sluice.webhooks import sources

KEY: Final = "pk_benchmark_key"
APP_KEY: Final = "app_benchmark_key"
WEBHOOK_SECRET: Final = "webhook_benchmark_secret"
SEALING: Final = {"current": "the key of the seals of benchmarks"}
QUEUE_PATH: Final = "/123456789012/events"
MAX_SECONDS: Final = 900
_VERSION: Final = "00000000-0000-4000-8000-000000000000"  # of every secret

ACCOUNTS: Final = {
    "accounts": [
        {
            "site_id": "AbC123",
            "private_key": {"secret": "klaviyo-1", "id": "0" * 32},
            "keys": [{"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["events:write"]}],
        }
    ],
    "pipeless": [
        {
            "app_id": 1,
            "api_key": {"secret": "pipeless-1", "id": "0" * 32},
            "keys": [{"sha256": hashlib.sha256(APP_KEY.encode()).hexdigest(), "scopes": ["events:write"]}],
        }
    ],
}
SOURCES: Final = {
    "sources": {
        "shop": {
            "account": "AbC123",
            "signature": {"scheme": "hmac", "header": "X-Signature"},
            "secret": "shop",
            "events": {
                "placed": {
                    "metric": "Placed Order",
                    "profile": {
                        "email": "lower(customer.email)",
                        "external_id": "customer.external_id",
                        "first_name": "customer.first_name",
                        "last_name": "customer.last_name",
                    },
                    "value": "value",
                    "value_currency": "value_currency",
                    "time": "time",
                    "unique_id": "unique_id",
                    "properties": {
                        "Order": "properties.order_number",
                        "Item": "properties.item",
                        "Quantity": "properties.quantity",
                        "Categories": "properties.categories",
                    },
                }
            },
        }
    }
}


@functools.cache
def stored_sources() -> bytes:
    """Returns the sources document as it is stored."""
    return sources.to_store(json.dumps(SOURCES).encode())


def stored_object(key: str) -> bytes:
    """Returns an object of the configuration bucket, of which there are two."""
    return json.dumps(ACCOUNTS).encode() if key == accounts.KEY else stored_sources()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Serves for the length of a `with` block, whose value is the URL."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()


def environment(url: str) -> dict[str, str]:
    """Returns the variables with which ingest and boto3 find this process instead of AWS."""
    given = {"events_queue_url": url + QUEUE_PATH, "allowed_origins": "*", "inbound_limits": "off"}
    names = [field.name for field in msgspec.structs.fields(IngestSettings) if field.required]
    return {
        **{f"SLUICE_{name.upper()}": given.get(name, name) for name in names},
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "POWERTOOLS_SERVICE_NAME": "sluice-ingest",
        "POWERTOOLS_METRICS_NAMESPACE": "Sluice",
    }


def _serve(ready: Connection) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(MAX_SECONDS)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    ready.send(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer in one packet

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.headers["X-Amz-Target"].partition(".")[2]
        if operation == "GetSecretValue":
            name = body["SecretId"]
            text = json.dumps(SEALING) if name == "sealing_secret" else WEBHOOK_SECRET
            answer = {"Name": name, "SecretString": text, "VersionId": _VERSION, "CreatedDate": 0}
        elif operation == "PutItem":
            answer = {}
        else:
            digest = hashlib.md5(body["MessageBody"].encode(), usedforsecurity=False).hexdigest()
            answer = {"MessageId": str(uuid.uuid4()), "MD5OfMessageBody": digest}
        self._answer(json.dumps(answer).encode(), "application/x-amz-json-1.0")

    def do_GET(self) -> None:
        """Answers S3's GetObject."""
        key = self.path.partition("?")[0].rpartition("/")[2]
        self._answer(stored_object(key), "application/json")

    def _answer(self, content: bytes, media_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sun, 01 Nov 2026 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
