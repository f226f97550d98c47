"""Measures one request in ingest: warm, with and without SendMessage, and from a cold start."""

import contextlib
import functools
import hashlib
import hmac
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks import corpus, fake_aws, first_webhook, gateway, ingest_handler, measure
from sluice.aws import clients
from sluice.contract import MAX_EVENTS_PER_CALL

ROOT: Final = Path(__file__).parent.parent
EMULATOR: Final = "lib/python3.13/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64"
ROUNDS: Final = 15
SINGLE: Final = "single event"
BULK: Final = "bulk request of 1,000"
CLIENT: Final = "client event"
CLIENT_BULK: Final = "client bulk request of 4"
WEBHOOK: Final = "webhook of one event"
PIPELESS: Final = "batch of 10 for Pipeless"
WITHOUT_AWS: Final = ", without calls to AWS"
_START_SECONDS: Final = 30.0


def run(count: int, starts: int) -> dict[str, Any]:
    """Returns the milliseconds a request."""
    with fake_aws.serving() as url:
        os.environ.update(fake_aws.environment(url))
        times = warm(count)
        given = requests()
        first = first_webhook.run(given[WEBHOOK], given[SINGLE], starts)
        cold = _cold(url, starts)
    return {"warm": times, "first_webhook": first, "cold": cold}


def requests() -> dict[str, dict[str, Any]]:
    """Returns API Gateway's event for a request of each route, by its name in the report."""
    orders = corpus.orders()
    own = [order for order in orders if order["profile"] is orders[0]["profile"]]
    delivery, batch = corpus.delivery(orders[0]), corpus.batch(orders[:MAX_EVENTS_PER_CALL])
    key = {"Authorization": f"Klaviyo-API-Key {fake_aws.KEY}"}
    site = {"company_id": gateway.SITE_ID}
    signed = {"X-Signature": hmac.new(fake_aws.WEBHOOK_SECRET.encode(), delivery, hashlib.sha256).hexdigest()}
    app = {"Authorization": f"Bearer {fake_aws.APP_KEY}", "Content-Type": "application/json"}
    batches = f"/v1/apps/{gateway.APP_ID}/events/batch"
    return {
        SINGLE: _request("/api/events", corpus.single(orders[0]), key),
        BULK: _request("/api/event-bulk-create-jobs", corpus.ungrouped(orders), key),
        CLIENT: _request("/client/events", corpus.client(orders[0]), {}, site),
        CLIENT_BULK: _request("/client/event-bulk-create", corpus.client_bulk(own), {}, site),
        WEBHOOK: _request("/webhooks/shop", delivery, signed),
        PIPELESS: _request(batches, batch, app),
    }


def _request(
    path: str, body: bytes, own: dict[str, str], query: dict[str, str] | None = None
) -> dict[str, Any]:
    """Returns a proxy request with headers of its `own` beside those that every request has."""
    request: dict[str, Any] = json.loads((ROOT / "tests/events/ingest-event.json").read_text())
    headers = {name: value for name, value in request["headers"].items() if name != "Authorization"} | own
    return request | {
        "path": path,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": query,
        "multiValueQueryStringParameters": {name: [value] for name, value in (query or {}).items()},
        "body": body.decode(),
    }


def warm(count: int) -> dict[str, Any]:
    """Returns the milliseconds of the handler in this process, for as many requests."""
    handler = ingest_handler.load()
    given = requests()
    works = {
        name: (functools.partial(handler, request), count // 10 if name == BULK else count)
        for name, request in given.items()
    }
    rows = _rounds({SINGLE: works[SINGLE], BULK: works[BULK], "SendMessage alone": (_send_message, count)})
    with (
        _replaced(clients.sqs(), "send_message", lambda **_: {"MessageId": "1"}),
        _replaced(clients.low_latency_dynamodb(), "put_item", lambda **_: {}),
        _replaced(clients.low_latency_s3(), "get_object", _get_object),
    ):
        return rows | _rounds({f"{name}{WITHOUT_AWS}": work for name, work in works.items()})


@contextlib.contextmanager
def _replaced(client: Any, name: str, call: Callable[..., Any]) -> Iterator[None]:
    real = getattr(client, name)
    setattr(client, name, call)
    try:
        yield
    finally:
        setattr(client, name, real)


def _get_object(**given: Any) -> dict[str, Any]:
    return {
        "ETag": "1",
        "Body": io.BytesIO(fake_aws.stored_object(given["Key"])),
        "LastModified": datetime(2026, 11, 1, tzinfo=UTC),
    }


def _send_message() -> object:
    url = os.environ["SLUICE_EVENTS_QUEUE_URL"]
    return clients.sqs().send_message(QueueUrl=url, MessageBody="x" * 900, MessageGroupId=gateway.SITE_ID)


def _rounds(works: dict[str, tuple[measure.Work, int]]) -> dict[str, dict[str, float]]:
    """Returns each work's percentiles in milliseconds, of so many calls: the medians of several rounds.

    Each round has all works, so a busy moment of the machine spoils a round and not a figure.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, (work, count) in works.items():
            found[name].append(_times(work, max(10, count // ROUNDS)))
    return {
        name: {
            f"p{percent}": statistics.median(measure.percentile(times, percent) for times in rounds)
            for percent in (50, 99)
        }
        for name, rounds in found.items()
    }


def _times(work: measure.Work, count: int) -> list[float]:
    for _ in range(3):
        work()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        times.append((time.perf_counter() - begin) * 1_000)
    return times


def _cold(url: str, starts: int) -> dict[str, Any]:
    """Returns the milliseconds from the start of Lambda's runtime to its first answer, medians of several
    starts.
    """
    emulator = ROOT / ".venv-sam" / EMULATOR
    if not emulator.exists():
        return {"failed": "the Runtime Interface Emulator of the SAM CLI is not there: run make setup"}
    body = corpus.single(corpus.orders()[0])
    return {
        "ingest": _first_answers(emulator, "functions/ingest", requests()[SINGLE], url, starts),
        "only SendMessage": _first_answers(
            emulator, "benchmarks/minimal", {"body": body.decode()}, url, starts
        ),
    }


def _first_answers(emulator: Path, folder: str, event: dict[str, Any], url: str, starts: int) -> float:
    return statistics.median(_first_answer(emulator, folder, event, url) for _ in range(starts))


def _first_answer(emulator: Path, folder: str, event: dict[str, Any], url: str) -> float:
    port, runtime = _free_port(), _free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT / folder), str(ROOT / "layers/sluice")]),
        "AWS_LAMBDA_FUNCTION_NAME": "ingest",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "30",
        **fake_aws.environment(url),
    }
    addresses = [
        "--runtime-interface-emulator-address",
        f"127.0.0.1:{port}",
        "--runtime-api-address",
        f"127.0.0.1:{runtime}",
    ]
    command = [str(emulator), *addresses, sys.executable, "-m", "awslambdaric", "app.handler"]
    process = subprocess.Popen(
        command,
        cwd=ROOT / folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(port)
        begin = time.perf_counter()
        answer = _invoke(port, event)
        elapsed = (time.perf_counter() - begin) * 1_000
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if answer.get("statusCode") != 202:
        raise RuntimeError(f"{folder} answered {str(answer)[:300]}")
    return elapsed


def _invoke(port: int, event: dict[str, Any]) -> dict[str, Any]:
    # The emulator starts the runtime on the first invocation, so its whole start is in this.
    url = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
    request = urllib.request.Request(url, json.dumps(event).encode())
    with urllib.request.urlopen(request, timeout=_START_SECONDS) as answer:
        document: dict[str, Any] = json.load(answer)
    return document


def _wait_for(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.002)
    raise TimeoutError("the Runtime Interface Emulator does not listen")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
