"""Tests one request to the upstream: what goes out, what comes back, and that nothing ever raises."""

import asyncio
import gzip
import inspect
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator

import httpx2
import msgspec
import pytest

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice import accounts
from sluice.accounts import KlaviyoAccount, PipelessApp
from sluice.delivery import http
from sluice.delivery.responses import Response
from sluice.errors import Misconfigured
from tests.support.factories import SITE_ID, bulk, encoded, entry, event
from tests.support.pretended_world import run

KEY = "pk_never_to_be_said"
ACCOUNT = KlaviyoAccount(SITE_ID, KEY)


async def turn() -> float:
    """Gives a slot at once, always."""
    return math.inf


type Respond = Callable[[httpx2.Request], httpx2.Response]


def create_job(respond: Respond, account: KlaviyoAccount = ACCOUNT, body: bytes = b"{}") -> Response:
    """Posts a job with the process's own client, only its network replaced."""

    async def post() -> Response:
        http.client.cache_clear()
        client = http.client()
        client._transport = httpx2.MockTransport(respond)
        client._mounts.clear()
        async with client:
            return await http.create_job(client, account, body, turn)

    return asyncio.run(post())


@pytest.fixture(autouse=True)
def _new_client() -> Iterator[None]:
    yield
    http.client.cache_clear()


@pytest.mark.rule
def test_a_request_is_what_the_contract_says() -> None:
    requests: list[httpx2.Request] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(202, headers={"RateLimit-Remaining": "149"}, content=b"taken")

    answer = create_job(respond, body=b'{"data":{}}')

    [request] = requests
    assert request.method == "POST"
    assert request.url == "https://a.klaviyo.com/api/event-bulk-create-jobs"
    assert request.content == b'{"data":{}}'
    headers = {name: value for name, value in request.headers.items() if name not in TRANSPORT}
    assert headers == {
        "authorization": f"Klaviyo-API-Key {KEY}",
        "revision": "2026-07-15",
        "accept": "application/vnd.api+json",
        "content-type": "application/vnd.api+json",
    }
    assert (answer.status, answer.body, answer.failure) == (202, b"taken", "")
    assert answer.headers.get("ratelimit-remaining") == "149"


# Headers that any HTTP client adds; none is about the account.
TRANSPORT = {"host", "user-agent", "accept-encoding", "connection", "content-length"}


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:9000", "http://127.0.0.1:9000/", "https://proxy.example/k/"]
)
def test_an_accounts_own_address_is_used(base: str) -> None:
    urls: list[str] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        urls.append(str(request.url))
        return httpx2.Response(202)

    create_job(respond, KlaviyoAccount(SITE_ID, KEY, base))

    assert urls == [base.rstrip("/") + "/api/event-bulk-create-jobs"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    urls: list[str] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        urls.append(str(request.url))
        return httpx2.Response(status, headers={"Location": "https://elsewhere.example/"})

    assert create_job(respond).status == status
    assert len(urls) == 1


def test_no_cookie_is_kept() -> None:
    cookies: list[str | None] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        cookies.append(request.headers.get("cookie"))
        return httpx2.Response(202, headers={"Set-Cookie": "__cf_bm=account-one; Path=/; Secure"})

    async def two() -> None:
        client = http.client()
        client._transport = httpx2.MockTransport(respond)
        client._mounts.clear()
        async with client:
            for _ in range(2):
                await http.create_job(client, ACCOUNT, b"{}", turn)

    asyncio.run(two())

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

    answer = create_job(respond)

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

    answer = create_job(lambda _: httpx2.Response(status, headers={"Retry-After": "3"}, stream=stream))

    assert (answer.status, answer.headers["retry-after"]) == (status, "3")
    assert len(answer.body) <= stream.read <= http.MAX_RESPONSE_BYTES + 65_536


@pytest.mark.parametrize("status", [202, 400])
def test_no_answer_is_unpacked_as_it_could_become_anything(status: int) -> None:
    requests: list[httpx2.Request] = []
    packed = gzip.compress(b" " * 10_000)

    def respond(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(status, headers={"Content-Encoding": "gzip"}, stream=httpx2.ByteStream(packed))

    answer = create_job(respond)

    assert requests[0].headers["accept-encoding"] == "identity"
    assert (answer.status, answer.body) == (status, b"")


def test_an_address_that_cannot_be_is_an_answer_without_a_status() -> None:
    assert (
        create_job(lambda _: httpx2.Response(202), KlaviyoAccount(SITE_ID, KEY, "http://[::1")).status is None
    )


def test_all_parts_of_a_request_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TOTAL_SECONDS", 0.05)

    async def post() -> Response:
        async def drip(request: httpx2.Request) -> httpx2.Response:
            await asyncio.sleep(5)
            return httpx2.Response(202)

        async with httpx2.AsyncClient(transport=httpx2.MockTransport(drip)) as client:
            return await http.create_job(client, ACCOUNT, b"{}", turn)

    assert asyncio.run(post()) == Response(None, failure="TimeoutError")


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

    async def post() -> Response:
        async with httpx2.AsyncClient(transport=Held(seconds)) as client:
            return await http.create_job(client, ACCOUNT, b"{}", long_turn)

    assert run(post()) == answer
    assert list(ends) == []


def test_the_stand_in_takes_a_job() -> None:
    klaviyo = Klaviyo({SITE_ID: KEY}, Settings.unlimited())
    body = encoded(bulk(entry(event(unique_id="one"))))

    answer = create_job(transport(klaviyo).handle_request, body=body)

    assert answer.status == 202
    assert [taken.event["unique_id"] for taken in klaviyo.events()] == ["one"]


def test_the_private_key_is_in_no_representation_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    answers = [
        create_job(lambda _: httpx2.Response(202)),
        create_job(lambda _: httpx2.Response(401, headers={"X": "y"}, content=b"{}")),
        create_job(_refuse),
    ]
    named = accounts.parse(f'{{"accounts": [{{"site_id": "{SITE_ID}", "private_key": "{KEY}"}}]}}')

    assert named.accounts[0].private_key == KEY
    for each in [*answers, ACCOUNT, named, http.client()]:
        assert KEY not in repr(each)
        assert KEY not in str(each)
    assert KEY not in caplog.text


def _refuse(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError(f"for {request.headers['Authorization']}", request=request)


@pytest.mark.parametrize("key", ["pk_a\n", " pk_a", "pk_ä", "pk a", "\tpk", "pk_\x7f"])
def test_a_key_that_no_header_can_carry_is_a_mistake_in_the_secret(key: str) -> None:
    document = msgspec.json.encode({"accounts": [{"site_id": SITE_ID, "private_key": key}]})

    with pytest.raises(Misconfigured) as caught:
        accounts.parse(document)

    assert "private_key" in str(caught.value)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://", "https://[::1", "https://a:99999", "http://a.klaviyo.com", "ftp://a"]
)
def test_an_address_that_no_request_can_go_to_is_a_mistake_in_the_secret(url: str) -> None:
    document = msgspec.json.encode({"accounts": [{"site_id": SITE_ID, "private_key": KEY, "base_url": url}]})

    with pytest.raises(Misconfigured):
        accounts.parse(document)


@pytest.mark.parametrize("document", [b"\xff", "\ud800", b"[" * 100_000])
def test_a_secret_that_is_no_text_is_a_mistake_too(document: bytes | str) -> None:
    with pytest.raises(Misconfigured):
        accounts.parse(document)


def create_events(respond: Respond, app: PipelessApp, body: bytes = b"{}") -> Response:
    """Posts a batch for an app with the process's own client, only its network replaced."""

    async def post() -> Response:
        http.client.cache_clear()
        client = http.client()
        client._transport = httpx2.MockTransport(respond)
        client._mounts.clear()
        async with client:
            return await http.create_events(client, app, body)

    return asyncio.run(post())


@pytest.mark.parametrize(
    ("app", "url"),
    [
        (PipelessApp(123, KEY), "https://api.pipeless.io/v1/apps/123/events/batch"),
        (
            PipelessApp(7, KEY, base_url="http://127.0.0.1:9/p/"),
            "http://127.0.0.1:9/p/v1/apps/7/events/batch",
        ),
    ],
)
def test_a_batch_is_posted_as_pipeless_documents(app: PipelessApp, url: str) -> None:
    requests: list[httpx2.Request] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(202, content=b"{}")

    answer = create_events(respond, app, body=b'{"events":[]}')

    [request] = requests
    assert (request.method, str(request.url), request.content) == ("POST", url, b'{"events":[]}')
    headers = {name: value for name, value in request.headers.items() if name not in TRANSPORT}
    assert headers == {
        "authorization": f"Bearer {KEY}",
        "accept": "application/json",
        "content-type": "application/json",
    }
    assert (answer.status, answer.body) == (202, b"{}")


def test_a_batch_that_gets_no_answer_is_an_answer_too() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("cut", request=request)

    assert create_events(fail, PipelessApp(123, KEY)) == Response(None, failure="ReadError")
