"""Tests the requests to Pipeless's API."""

import httpx2
import pytest

from sluice.accounts import PipelessApp
from sluice.delivery.responses import Response
from sluice.pipeless import api
from tests.support.stored_accounts import APP_REFERENCE
from tests.support.upstream_client import TRANSPORT_HEADERS, with_client

KEY = "key_never_to_be_said"


@pytest.mark.parametrize(
    ("app", "url"),
    [
        (PipelessApp(123, APP_REFERENCE), "https://api.pipeless.io/v1/apps/123/events/batch"),
        (
            PipelessApp(7, APP_REFERENCE, base_url="http://127.0.0.1:9/p/"),
            "http://127.0.0.1:9/p/v1/apps/7/events/batch",
        ),
    ],
)
def test_a_batch_is_posted_as_pipeless_documents(app: PipelessApp, url: str) -> None:
    requests: list[httpx2.Request] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(202, content=b"{}")

    answer = with_client(respond, lambda client: api.create_events(client, app, KEY, b'{"events":[]}'))

    [request] = requests
    assert (request.method, str(request.url), request.content) == ("POST", url, b'{"events":[]}')
    headers = {name: value for name, value in request.headers.items() if name not in TRANSPORT_HEADERS}
    assert headers == {
        "authorization": f"Bearer {KEY}",
        "accept": "application/json",
        "content-type": "application/json",
    }
    assert (answer.status, answer.body) == (202, b"{}")


def test_a_batch_that_gets_no_answer_is_an_answer_too() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("cut", request=request)

    answer = with_client(
        fail, lambda client: api.create_events(client, PipelessApp(123, APP_REFERENCE), KEY, b"{}")
    )

    assert answer == Response(None, failure="ReadError")
