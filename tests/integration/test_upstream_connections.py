"""Tests the process's own client over real sockets: connections are kept, HTTP/2 is spoken where offered."""

import asyncio
import contextlib
import datetime
import ipaddress
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypercorn.asyncio import serve
from hypercorn.config import Config

from devstack.fake_upstream import Klaviyo, Settings, server, serving
from sluice.accounts import KlaviyoAccount
from sluice.delivery import http
from sluice.delivery.rate_limiter import NoSlotBeforeDeadline
from sluice.delivery.responses import Response
from sluice.klaviyo import api
from tests.support.factories import SITE_ID, bulk, encoded, entry, event
from tests.support.stored_accounts import REFERENCE

KEY = "pk_test"


async def turn() -> float:
    """Gives a slot at once, always."""
    return math.inf


def job(unique_id: str) -> bytes:
    return encoded(bulk(entry(event(unique_id=unique_id))))


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Returns one object for each TCP connection that the fake upstream accepts."""
    accepted: list[object] = []
    run = server._Conversation.run

    async def counting(conversation: Any) -> None:
        accepted.append(conversation)
        await run(conversation)

    monkeypatch.setattr(server._Conversation, "run", counting)
    return accepted


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Runs an event loop that outlasts a call, as the function's does, with a client of its own."""
    http.client.cache_clear()
    with asyncio.Runner() as kept:
        yield kept
        kept.run(http.client().aclose())
    http.client.cache_clear()


def test_a_connection_outlasts_an_invocation(connections: list[object], runner: asyncio.Runner) -> None:
    klaviyo = Klaviyo({SITE_ID: KEY}, Settings.unlimited())
    with serving(klaviyo) as url:
        account = KlaviyoAccount(SITE_ID, REFERENCE, url)

        for number in range(5):
            answer = runner.run(api.create_job(http.client(), account, KEY, job(f"e{number}"), turn))
            assert answer.status == 202

    assert len(connections) == 1
    assert {taken.event["unique_id"] for taken in klaviyo.events()} == {f"e{number}" for number in range(5)}


def test_jobs_at_the_same_time_have_a_connection_each(
    connections: list[object], runner: asyncio.Runner
) -> None:
    klaviyo = Klaviyo({SITE_ID: KEY}, Settings.unlimited())
    klaviyo.configure(faults=[{"kind": "latency", "seconds": 0.2}])
    with serving(klaviyo) as url:
        account = KlaviyoAccount(SITE_ID, REFERENCE, url)

        async def at_once(round_: int) -> list[Response]:
            client = http.client()
            return await asyncio.gather(
                *(api.create_job(client, account, KEY, job(f"{round_}-{n}"), turn) for n in range(4))
            )

        for round_ in range(2):
            assert [answer.status for answer in runner.run(at_once(round_))] == [202] * 4

    assert len(connections) == 4


@pytest.mark.parametrize("fault", [{"kind": "reset"}, {"kind": "reset", "taken": True}])
def test_a_reset_is_an_answer_without_a_status_and_the_next_job_goes_through(
    fault: dict[str, Any], runner: asyncio.Runner
) -> None:
    klaviyo = Klaviyo({SITE_ID: KEY}, Settings.unlimited())
    klaviyo.configure(faults=[{**fault, "count": 1}])
    with serving(klaviyo) as url:
        account = KlaviyoAccount(SITE_ID, REFERENCE, url)

        answers = [
            runner.run(api.create_job(http.client(), account, KEY, job(f"e{n}"), turn)) for n in range(2)
        ]

    assert [answer.status for answer in answers] == [None, 202]
    assert answers[0].failure in {"ReadError", "RemoteProtocolError", "WriteError"}


def test_a_server_that_is_not_there_is_an_answer_without_a_status(runner: asyncio.Runner) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        account = KlaviyoAccount(SITE_ID, REFERENCE, f"http://127.0.0.1:{unused.getsockname()[1]}")

        answer = runner.run(api.create_job(http.client(), account, KEY, b"{}", turn))

    assert answer == Response(None, failure="ConnectError")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Makes a self-signed certificate for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "certificate.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "certificate.pem", folder / "key.pem"


@contextlib.contextmanager
def serving_over_tls(
    certificate: tuple[Path, Path], requests: list[tuple[str, Any]], version: str = "2"
) -> Iterator[str]:
    """Serves one version of HTTP, and records each request's version and client address."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        requests.append((scope["http_version"], scope["client"]))
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    listening = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    config = Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.certfile, config.keyfile = map(str, certificate)
    config.alpn_protocols = ["h2", "http/1.1"] if version == "2" else ["http/1.1"]
    config.accesslog = config.errorlog = None
    stop, loop = asyncio.Event(), asyncio.new_event_loop()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as server_runner:
            server_runner.run(serve(app, config, shutdown_trigger=stop.wait))

    thread = threading.Thread(target=run, name="tls")
    thread.start()
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_http_2_is_spoken_where_it_is_offered_on_one_connection(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    requests: list[tuple[str, Any]] = []

    async def jobs(account: KlaviyoAccount) -> list[Response]:
        async with _client() as client:
            await api.create_job(client, account, KEY, b"{}", turn)
            return await asyncio.gather(
                *(api.create_job(client, account, KEY, b"{}", turn) for _ in range(3))
            )

    with serving_over_tls(certificate, requests) as url:
        answers = asyncio.run(jobs(KlaviyoAccount(SITE_ID, REFERENCE, url)))

    assert [answer.status for answer in answers] == [202] * 3
    assert [version for version, _ in requests] == ["2"] * 4
    assert len({client for _, client in requests}) == 1


@contextlib.asynccontextmanager
async def opening_slowly(url: str, seconds: float, opened: list[object]) -> AsyncIterator[str]:
    """Delays each new connection to a server, and records it."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        opened.append(writer)
        there, back = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as listening:
        yield f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("version", ["2", "1.1"])
def test_what_waited_for_its_connection_leaves_in_a_later_turn_on_that_connection(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    seconds = 0.05  # that a turn is long until a connection is open
    requests: list[tuple[str, Any]] = []
    opened: list[object] = []
    sent_before: list[int] = []

    async def turn() -> float:
        sent_before.append(len(requests))
        return math.inf if opened else time.time() + seconds

    async def jobs(url: str) -> list[Response]:
        async with opening_slowly(url, 2 * seconds, opened) as slow_url, _client() as client:
            account = KlaviyoAccount(SITE_ID, REFERENCE, slow_url)
            return [await api.create_job(client, account, KEY, b"{}", turn) for _ in range(3)]

    with serving_over_tls(certificate, requests, version) as url:
        answers = asyncio.run(jobs(url))

    assert [answer.status for answer in answers] == [202] * 3
    assert [spoken for spoken, _ in requests] == [version] * 3
    assert sent_before == [0, 0, 1, 2]
    assert len(opened) == 1


@pytest.mark.parametrize("version", ["2", "1.1"])
def test_what_is_late_on_an_open_connection_leaves_in_a_later_turn_on_that_connection(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    requests: list[tuple[str, Any]] = []
    ends = iter([math.inf, 0.0, 0.0, math.inf])
    sent_before: list[int] = []

    async def turn() -> float:
        sent_before.append(len(requests))
        return next(ends)

    async def jobs(account: KlaviyoAccount) -> list[Response]:
        async with _client() as client:
            return [await api.create_job(client, account, KEY, b"{}", turn) for _ in range(2)]

    with serving_over_tls(certificate, requests, version) as url:
        answers = asyncio.run(jobs(KlaviyoAccount(SITE_ID, REFERENCE, url)))

    assert [answer.status for answer in answers] == [202] * 2
    assert sent_before == [0, 1, 1, 1]
    assert len({client for _, client in requests}) == 1


@pytest.mark.parametrize("version", ["2", "1.1"])
def test_what_gets_no_further_turn_is_not_sent(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    requests: list[tuple[str, Any]] = []
    ends = iter([0.0])

    async def late_turn() -> float:
        for end in ends:
            return end
        raise NoSlotBeforeDeadline("no slot before the deadline", 7.0)

    async def jobs(account: KlaviyoAccount) -> Response:
        async with _client() as client:
            with pytest.raises(NoSlotBeforeDeadline):
                await api.create_job(client, account, KEY, b"{}", late_turn)
            assert requests == []
            return await api.create_job(client, account, KEY, b"{}", turn)

    with serving_over_tls(certificate, requests, version) as url:
        answer = asyncio.run(jobs(KlaviyoAccount(SITE_ID, REFERENCE, url)))

    assert answer.status == 202
    assert len(requests) == 1


def test_a_certificate_nobody_vouches_for_is_an_answer_without_a_status(
    certificate: tuple[Path, Path],
) -> None:
    async def post(account: KlaviyoAccount) -> Response:
        async with _client() as client:
            return await api.create_job(client, account, KEY, b"{}", turn)

    requests: list[tuple[str, Any]] = []
    with serving_over_tls(certificate, requests) as url:
        answer = asyncio.run(post(KlaviyoAccount(SITE_ID, REFERENCE, url)))

    assert answer == Response(None, failure="ConnectError")
    assert requests == []


@contextlib.asynccontextmanager
async def _client() -> AsyncIterator[Any]:
    http.client.cache_clear()
    async with http.client() as client:
        yield client
    http.client.cache_clear()
