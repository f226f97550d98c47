"""Tests the fake upstream over a real socket: the faults that only a socket can have, and the command
line.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from klaviyo_api import KlaviyoAPI

from devstack.fake_upstream import Klaviyo, Pipeless, Settings, serving, transport

ROOT = Path(__file__).parents[2]
ROUTE = "/api/event-bulk-create-jobs/"
SITE, KEY = "AbC123", "pk_test"
HEADERS = {
    "Authorization": f"Klaviyo-API-Key {KEY}",
    "revision": "2026-07-15",
    "Content-Type": "application/vnd.api+json",
}


@pytest.fixture
def klaviyo() -> Klaviyo:
    return Klaviyo({SITE: KEY}, Settings.unlimited())


@pytest.fixture
def client(klaviyo: Klaviyo) -> Iterator[httpx2.Client]:
    with (
        serving(klaviyo) as url,
        httpx2.Client(base_url=url, headers=HEADERS, timeout=5, trust_env=False) as client,
    ):
        yield client


def job(unique_id: str, padding: int = 0) -> dict[str, Any]:
    profile = {"type": "profile", "attributes": {"email": "ann@example.com"}}
    event = {
        "properties": {"text": ["x" * 100_000] * padding},
        "metric": {"data": {"type": "metric", "attributes": {"name": "Viewed Product"}}},
        "unique_id": unique_id,
    }
    entry = {
        "profile": {"data": profile},
        "events": {"data": [{"type": "event", "attributes": event}]},
    }
    return {
        "data": {
            "type": "event-bulk-create-job",
            "attributes": {
                "events-bulk-create": {"data": [{"type": "event-bulk-create", "attributes": entry}]}
            },
        }
    }


def taken(client: httpx2.Client) -> list[str]:
    return [json.loads(line)["event"]["unique_id"] for line in client.get("/_standin/events").iter_lines()]


def set_faults(client: httpx2.Client, *faults: dict[str, Any]) -> None:
    assert client.put("/_standin/settings", json={"faults": faults}).status_code == 200


def connection(client: httpx2.Client) -> int:
    """Returns the local port of the client's connection: it shows whether the connection was kept alive."""
    stream = client.get("/_standin/health").extensions["network_stream"]
    port: int = stream.get_extra_info("client_addr")
    return port


def address(client: httpx2.Client) -> tuple[str, int]:
    """Returns where the client's server listens."""
    port = client.base_url.port
    assert port is not None
    return client.base_url.host, port


def test_jobs_are_taken_over_one_kept_connection(client: httpx2.Client) -> None:
    before = connection(client)

    answers = [client.post(ROUTE, json=job(str(n), padding=n)) for n in (0, 1, 49)]

    assert [(answer.status_code, answer.content) for answer in answers] == [(202, b"")] * 3
    assert taken(client) == ["0", "1", "49"]
    assert connection(client) == before


def test_a_caller_that_asks_first_is_told_to_go_on(klaviyo: Klaviyo, client: httpx2.Client) -> None:
    body = json.dumps(job("1")).encode()
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    head = [
        f"POST {ROUTE} HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(body)}",
        "Expect: 100-continue",
        *lines,
    ]

    with socket.create_connection(address(client), timeout=5) as caller:
        caller.sendall("\r\n".join([*head, "", ""]).encode())
        assert caller.recv(1000).startswith(b"HTTP/1.1 100 ")
        caller.sendall(body)
        assert caller.recv(1000).startswith(b"HTTP/1.1 202 ")


def test_a_request_arrives_with_its_headers_not_with_the_end_of_its_body(
    klaviyo: Klaviyo, client: httpx2.Client
) -> None:
    body = json.dumps(job("1")).encode()
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    head = [f"POST {ROUTE} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines]

    with socket.create_connection(address(client), timeout=5) as caller:
        caller.sendall("\r\n".join([*head, "", ""]).encode())
        time.sleep(1)
        sent = time.time()
        caller.sendall(body)
        caller.recv(1000)

    [line] = klaviyo.requests()
    assert line.time < sent - 0.1


def test_a_caller_that_leaves_half_way_has_sent_nothing(klaviyo: Klaviyo, client: httpx2.Client) -> None:
    with socket.create_connection(address(client), timeout=5) as caller:
        caller.sendall(f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf".encode())
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(1000) == b""

    assert klaviyo.requests() == []


def test_an_asynchronous_client_reaches_the_core_without_a_socket(klaviyo: Klaviyo) -> None:
    async def send() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=transport(klaviyo)) as client:
            return await client.post(f"https://a.klaviyo.com{ROUTE}", json=job("1"), headers=HEADERS)

    assert asyncio.run(send()).status_code == 202


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_reset_cuts_the_connection(client: httpx2.Client, is_taken: bool) -> None:
    set_faults(client, {"kind": "reset", "taken": is_taken, "count": 1})

    with pytest.raises(httpx2.ReadError):
        client.post(ROUTE, json=job("1"))

    assert taken(client) == ["1"] * is_taken
    assert client.post(ROUTE, json=job("2")).status_code == 202


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_hang_outlasts_the_callers_patience(client: httpx2.Client, is_taken: bool) -> None:
    set_faults(client, {"kind": "hang", "taken": is_taken, "count": 1})

    with pytest.raises(httpx2.ReadTimeout):
        client.post(ROUTE, json=job("1"), timeout=httpx2.Timeout(5, read=1))

    assert taken(client) == ["1"] * is_taken
    assert client.post(ROUTE, json=job("2")).status_code == 202


def test_latency_holds_an_answer_but_not_the_requests_behind_it(client: httpx2.Client) -> None:
    set_faults(client, {"kind": "latency", "seconds": 1})

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda n: client.post(ROUTE, json=job(str(n))).status_code, range(8)))
    lasted = time.monotonic() - began

    assert statuses == [202] * 8
    assert 1 <= lasted < 5


def test_status_faults_arrive_as_they_are(client: httpx2.Client) -> None:
    set_faults(
        client,
        {"kind": "html", "status": 403, "count": 1},
        {"kind": "throttle", "retry_after": 3, "count": 1},
        {"kind": "partial_failure"},
    )

    html, throttled, partial = (client.post(ROUTE, json=job("1")) for _ in range(3))

    assert (html.status_code, html.headers["content-type"]) == (403, "text/html; charset=UTF-8")
    assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "3")
    assert (partial.status_code, partial.headers["x-klaviyo-partial-failure"]) == (202, "phone_number")


def test_control_works_over_the_wire(client: httpx2.Client) -> None:
    client.post(ROUTE, json=job("1"))

    assert client.get("/_standin/summary").json()["accounts"][SITE]["events"] == 1
    assert len(client.get("/_standin/requests", params={"site_id": SITE}).json()) == 1
    assert client.put("/_standin/settings", json={"burst_limit": 1}).json()["burst_limit"] == 1
    assert client.put("/_standin/settings", json={"unknown": 1}).status_code == 400
    assert client.post("/_standin/reset").status_code == 204
    assert taken(client) == []


def test_nonsense_ends_its_connection_only(client: httpx2.Client) -> None:
    with socket.create_connection(address(client), timeout=5) as caller:
        caller.sendall(b"nonsense\r\n\r\n")
        assert caller.recv(1000) == b""

    assert client.get("/_standin/health").status_code == 200


def test_serving_says_when_the_port_is_taken(klaviyo: Klaviyo, client: httpx2.Client) -> None:
    with pytest.raises(OSError, match="in use"), serving(klaviyo, address(client)[1]):
        pass


def test_serving_says_whatever_keeps_it_from_serving(klaviyo: Klaviyo) -> None:
    with pytest.raises(OverflowError), serving(klaviyo, 2**16):
        pass


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "devstack.fake_upstream", "--max-seconds", "30", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_serves_until_sigterm(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    with run("--account", f"{SITE}:{KEY}", "--no-limits", "--ready-file", str(ready)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        written = json.loads(ready.read_text())
        answer = httpx2.post(written["url"] + ROUTE, json=job("1"), headers=HEADERS, trust_env=False)
        settings = httpx2.get(written["url"] + "/_standin/settings", trust_env=False).json()
        os.kill(written["pid"], signal.SIGTERM)
        out, err = process.communicate(timeout=10)

    assert line == f"Fake upstream listening on {written['url']}\n"
    assert written["url"].startswith("http://127.0.0.1:")
    assert (answer.status_code, settings["burst_limit"]) == (202, None)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_command_ends_by_itself_when_told() -> None:
    with run("--account", f"{SITE}:{KEY}", "--max-seconds", "0.1") as process:
        process.communicate(timeout=10)

    assert process.returncode == 0


def test_a_taken_port_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with run("--account", f"{SITE}:{KEY}", "--port", str(port)) as process:
            out, err = process.communicate(timeout=10)

    assert (process.returncode, out) == (1, "")
    assert err == f"Port {port} on 127.0.0.1 is already in use; choose another with --port.\n"


def test_a_malformed_account_is_a_usage_error() -> None:
    with run("--account", SITE) as process:
        _, err = process.communicate(timeout=10)

    assert process.returncode == 2
    assert "SITE_ID:PRIVATE_KEY" in err


def test_the_official_sdk_takes_it_for_the_real_one(client: httpx2.Client) -> None:
    sdk = KlaviyoAPI(KEY, test_host=str(client.base_url).rstrip("/"), max_retries=1)

    sdk.Events.bulk_create_events(job("1"))

    assert taken(client) == ["1"]


def test_pipeless_is_served_beside_klaviyo(klaviyo: Klaviyo) -> None:
    body = {
        "events": [
            {
                "start_object": {"id": "u1", "type": "user"},
                "relationship": {"type": "liked"},
                "end_object": {"id": "a1", "type": "article"},
            }
        ]
    }
    headers = {"Authorization": "Bearer pl_test"}

    with (
        serving(klaviyo, pipeless=Pipeless({123: "pl_test"})) as url,
        httpx2.Client(base_url=url, timeout=5, trust_env=False) as client,
    ):
        answer = client.post("/v1/apps/123/events/batch", json=body, headers=headers)
        objects = [json.loads(line) for line in client.get("/_standin/pipeless/objects").iter_lines()]

    assert answer.status_code == 202
    assert [each["id"] for each in objects] == ["u1", "a1"]
    assert klaviyo.requests() == []


def test_a_malformed_app_is_a_usage_error() -> None:
    with run("--app", "name:key") as process:
        _, err = process.communicate(timeout=10)

    assert process.returncode == 2
    assert "APP_ID:API_KEY" in err
