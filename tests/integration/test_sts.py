"""Tests how operate learns whose presigned call it was given, with a server that plays STS."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from sluice.aws import clients, sts

ARN = "arn:aws:sts::123456789012:assumed-role/operators/ada"
SAID = f"<GetCallerIdentityResponse><Arn>{ARN}</Arn><UserId>AROA:ada</UserId></GetCallerIdentityResponse>"
SIGNED = "X-Amz-SignedHeaders=host%3Bx-sluice-function&X-Amz-Signature=0"
QUERY = f"Action=GetCallerIdentity&Version=2011-06-15&{SIGNED}"


@dataclass
class Server:
    """Answers with `status` and `text`, and keeps what it was asked."""

    url: str = ""
    status: int = 200
    text: str = SAID
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append((self.path, self.headers.get(sts.FUNCTION_HEADER)))
            self.send_response(server.status)
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(server.text.encode())

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setattr(clients, "sts_endpoint", lambda: server.url)
        yield server


def test_sts_says_who_it_is_if_the_function_is_the_one_that_was_signed(server: Server) -> None:
    assert sts.caller_arn(f"{server.url}/?{QUERY}", function="sluice-operate") == ARN
    assert server.asked == [(f"/?{QUERY}", "sluice-operate")]


@pytest.mark.parametrize(
    "url",
    [
        "https://sts.example/?" + QUERY,
        "http://127.0.0.1/?" + QUERY,
        "http://{host}@sts.example/?" + QUERY,
        "http://user@{host}/?" + QUERY,
        "https://{host}/?" + QUERY,
        "http://{host}/elsewhere?" + QUERY,
        "http://{host}/?" + QUERY.replace("GetCallerIdentity", "AssumeRole"),
        "http://{host}/?Action=AssumeRole&" + QUERY,
        "http://{host}/?" + QUERY.replace("%3Bx-sluice-function", ""),
        "http://{host}/?" + QUERY.replace("x-sluice-function", "x-k8s-aws-id"),
        "http://{host}/",
        "http://[{host}/?" + QUERY,
        "",
    ],
)
def test_nothing_else_is_asked(server: Server, url: str) -> None:
    host = server.url.removeprefix("http://")

    assert sts.caller_arn(url.replace("{host}", host), function="sluice-operate") is None
    assert server.asked == []


def test_a_redirection_is_not_followed(server: Server) -> None:
    with serving() as other:
        server.status, server.headers = 307, {"Location": f"{other.url}/?{QUERY}"}

        assert sts.caller_arn(f"{server.url}/?{QUERY}", function="sluice-operate") is None
        assert other.asked == []


@pytest.mark.parametrize(
    ("status", "text"), [(403, SAID), (200, "<Arn></Arn>"), (200, ""), (200, "<Arn>ada</Arn>")]
)
def test_what_sts_does_not_confirm_is_not_proven(server: Server, status: int, text: str) -> None:
    server.status, server.text = status, text

    assert sts.caller_arn(f"{server.url}/?{QUERY}", function="sluice-operate") is None


def test_nobody_is_proven_while_sts_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "sts_endpoint", lambda: "http://127.0.0.1:9")

    assert sts.caller_arn(f"http://127.0.0.1:9/?{QUERY}", function="sluice-operate") is None


@pytest.mark.parametrize(
    ("region", "endpoint"),
    [
        ("eu-central-1", "https://sts.eu-central-1.amazonaws.com"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_the_endpoint_is_that_of_the_partition_and_region(
    monkeypatch: pytest.MonkeyPatch, region: str, endpoint: str
) -> None:
    for name, value in {"REGION": region, "ACCESS_KEY_ID": "testing", "SECRET_ACCESS_KEY": "testing"}.items():
        monkeypatch.setenv(f"AWS_{name}".replace("REGION", "DEFAULT_REGION"), value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    clients.sts_endpoint.cache_clear()

    assert clients.sts_endpoint() == endpoint
    clients.sts_endpoint.cache_clear()
