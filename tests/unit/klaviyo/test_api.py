"""Tests the requests to Klaviyo's API."""

import httpx2
import pytest

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice.accounts import KlaviyoAccount
from sluice.delivery.responses import Response
from sluice.klaviyo import api
from tests.support.factories import SITE_ID, bulk, encoded, entry, event
from tests.support.stored_accounts import REFERENCE
from tests.support.upstream_client import TRANSPORT_HEADERS, Respond, slot, with_client

KEY = "pk_never_to_be_said"
ACCOUNT = KlaviyoAccount(SITE_ID, REFERENCE)


def create_job(respond: Respond, account: KlaviyoAccount = ACCOUNT, body: bytes = b"{}") -> Response:
    """Posts a job."""
    return with_client(respond, lambda client: api.create_job(client, account, KEY, body, slot))


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
    headers = {name: value for name, value in request.headers.items() if name not in TRANSPORT_HEADERS}
    assert headers == {
        "authorization": f"Klaviyo-API-Key {KEY}",
        "revision": "2026-07-15",
        "accept": "application/vnd.api+json",
        "content-type": "application/vnd.api+json",
    }
    assert (answer.status, answer.body, answer.failure) == (202, b"taken", "")
    assert answer.headers.get("ratelimit-remaining") == "149"


@pytest.mark.parametrize(
    "base", ["http://127.0.0.1:9000", "http://127.0.0.1:9000/", "https://proxy.example/k/"]
)
def test_an_accounts_own_address_is_used(base: str) -> None:
    urls: list[str] = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        urls.append(str(request.url))
        return httpx2.Response(202)

    create_job(respond, KlaviyoAccount(SITE_ID, REFERENCE, base))

    assert urls == [base.rstrip("/") + "/api/event-bulk-create-jobs"]


def test_the_stand_in_takes_a_job() -> None:
    klaviyo = Klaviyo({SITE_ID: KEY}, Settings.unlimited())
    body = encoded(bulk(entry(event(unique_id="one"))))

    answer = create_job(transport(klaviyo).handle_request, body=body)

    assert answer.status == 202
    assert [taken.event["unique_id"] for taken in klaviyo.events()] == ["one"]
