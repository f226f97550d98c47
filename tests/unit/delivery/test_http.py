"""Tests one request to the upstream: what goes out, what comes back, and that nothing ever raises."""

import asyncio
import gzip
import inspect
import logging
import math
from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest

from sluice.delivery import http
from sluice.delivery.responses import Response
from sluice.errors import Misconfigured
from sluice.private_keys import PrivateKey
from tests.support.factories import SITE_ID
from tests.support.parsing import parsed_accounts
from tests.support.pretended_time import run
from tests.support.upstream_client import Respond, slot, with_client

KEY = "pk_never_to_be_said"
URL = "https://a.klaviyo.com/api/event-bulk-create-jobs"
HEADERS = {"Authorization": f"Klaviyo-API-Key {KEY}"}


def post(respond: Respond, url: str = URL) -> Response:
    """Posts a body in a slot."""
    return with_client(respond, lambda client: http.post_in_slot(client, url, HEADERS, b"{}", slot))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    urls: list[str] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        urls.append(str(request.url))
        return httpx2.Response(status, headers={"Location": "https://elsewhere.example/"})

    assert post(respond).status == status
    assert len(urls) == 1


def test_no_cookie_is_kept() -> None:
    cookies: list[str | None] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        cookies.append(request.headers.get("cookie"))
        return httpx2.Response(202, headers={"Set-Cookie": "__cf_bm=account-one; Path=/; Secure"})

    async def two(client: http.Client) -> None:
        for _ in range(2):
            await http.post_in_slot(client, URL, HEADERS, b"{}", slot)

    with_client(respond, two)

    assert cookies == [None, None]


ERRORS = sorted(
    (
        each
        for each in vars(httpx2).values()
        if inspect.isclass(each) and issubclass(each, httpx2.RequestError | httpx2.InvalidURL | TimeoutError)
    ),
    key=lambda each: each.__name__,
)


@pytest.mark.parametrize("error", [*ERRORS, TimeoutError], ids=lambda error: error.__name__)
def test_every_failure_of_the_client_is_an_answer_without_a_status(error: type[Exception]) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        raise error(f"with {KEY}")

    answer = post(respond)

    assert answer == Response(None, failure=error.__name__)


def test_the_errors_above_are_all_there_are() -> None:
    names = {each.__name__ for each in ERRORS}

    assert {"ConnectError", "ReadError", "ReadTimeout", "PoolTimeout", "RemoteProtocolError"} <= names
    assert {"DecodingError", "TooManyRedirects", "ProxyError", "InvalidURL", "WriteTimeout"} <= names


class Endless(httpx2.AsyncByteStream):
    """Sends a body without end, for as long as somebody reads it."""

    def __init__(self) -> None:
        self.read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.read < 100 * http.MAX_RESPONSE_BYTES:
            self.read += 65_536
            yield b" " * 65_536


@pytest.mark.parametrize("status", [202, 400, 503])
def test_of_an_answer_without_end_only_a_part_is_read(status: int) -> None:
    stream = Endless()

    answer = post(lambda _: httpx2.Response(status, headers={"Retry-After": "3"}, stream=stream))

    assert (answer.status, answer.headers["retry-after"]) == (status, "3")
    assert len(answer.body) <= stream.read <= http.MAX_RESPONSE_BYTES + 65_536


@pytest.mark.parametrize("status", [202, 400])
def test_no_answer_is_unpacked_as_it_could_become_anything(status: int) -> None:
    requests: list[httpx2.Request] = []
    packed = gzip.compress(b" " * 10_000)

    def respond(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(status, headers={"Content-Encoding": "gzip"}, stream=httpx2.ByteStream(packed))

    answer = post(respond)

    assert requests[0].headers["accept-encoding"] == "identity"
    assert (answer.status, answer.body) == (status, b"")


def test_an_address_that_cannot_be_is_an_answer_without_a_status() -> None:
    assert post(lambda _: httpx2.Response(202), "http://[::1").status is None


def test_all_parts_of_a_request_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TOTAL_SECONDS", 0.05)

    async def send() -> Response:
        async def drip(request: httpx2.Request) -> httpx2.Response:
            await asyncio.sleep(5)
            return httpx2.Response(202)

        async with httpx2.AsyncClient(transport=httpx2.MockTransport(drip)) as client:
            return await http.post_in_slot(client, URL, HEADERS, b"{}", slot)

    assert asyncio.run(send()) == Response(None, failure="TimeoutError")


class Held(httpx2.AsyncBaseTransport):
    """Plays a connection over HTTP/1.1: says when a request is about to leave, and answers after some
    time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.extensions["trace"]("http11.send_request_headers.started", {})
        await asyncio.sleep(self.seconds)
        return httpx2.Response(202)


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        (http.TOTAL_SECONDS - 1, Response(202)),
        (http.TOTAL_SECONDS + 1, Response(None, failure="TimeoutError")),
    ],
)
def test_waiting_for_another_turn_is_no_part_of_that(seconds: float, answer: Response) -> None:
    ends = iter([0.0, 0.0, math.inf])

    async def long_turn() -> float:
        await asyncio.sleep(100)
        return next(ends)

    async def send() -> Response:
        async with httpx2.AsyncClient(transport=Held(seconds)) as client:
            return await http.post_in_slot(client, URL, HEADERS, b"{}", long_turn)

    assert run(send()) == answer
    assert list(ends) == []


def test_the_private_key_is_in_no_representation_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [
        post(lambda _: httpx2.Response(202)),
        post(lambda _: httpx2.Response(401, headers={"X": "y"}, content=b"{}")),
        post(_refuse),
    ]
    kept = PrivateKey(SITE_ID, KEY, URL, 0)

    for each in [*answers, kept, http.client()]:
        assert KEY not in repr(each)
        assert KEY not in str(each)
    assert KEY not in caplog.text


def _refuse(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError(f"for {request.headers['Authorization']}", request=request)


@pytest.mark.parametrize("key", ["pk_a\n", " pk_a", "pk_ä", "pk a", "\tpk", "pk_\x7f"])
def test_a_key_that_no_header_can_carry_is_a_mistake_in_the_secret(key: str) -> None:
    document = msgspec.json.encode({"accounts": [{"site_id": SITE_ID, "private_key": key}]})

    with pytest.raises(Misconfigured) as caught:
        parsed_accounts(document)

    assert "private_key" in str(caught.value)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://", "https://[::1", "https://a:99999", "http://a.klaviyo.com", "ftp://a"]
)
def test_an_address_that_no_request_can_go_to_is_a_mistake_in_the_secret(url: str) -> None:
    document = msgspec.json.encode({"accounts": [{"site_id": SITE_ID, "private_key": KEY, "base_url": url}]})

    with pytest.raises(Misconfigured):
        parsed_accounts(document)


@pytest.mark.parametrize("document", [b"\xff", "\ud800", b"[" * 100_000])
def test_a_secret_that_is_no_text_is_a_mistake_too(document: bytes | str) -> None:
    with pytest.raises(Misconfigured):
        parsed_accounts(document)
