"""Tests whom the console answers, by the requests that a browser or a stranger's page would send."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from sluicectl.console import guard, server
from sluicectl.errors import Failure
from sluicectl.operate_client import Denied
from tests.support.console import PORT, TOKEN, FakeDoor, console

HOST = f"127.0.0.1:{PORT}"
ORIGIN = f"http://{HOST}"
COOKIE = f"sluice-console-{PORT}={TOKEN}"


@pytest.fixture
def door() -> FakeDoor:
    return FakeDoor()


@pytest.fixture
def client(door: FakeDoor) -> Iterator[TestClient]:
    with console(door) as client:
        yield client


def call(client: TestClient, name: str = "about", **headers: str | None) -> Any:
    """Calls as the page does, but for the headers that are named; None leaves one out."""
    given = {"origin": ORIGIN, "cookie": COOKIE, **headers}
    return client.post(f"/api/{name}", json={}, headers={k: v for k, v in given.items() if v is not None})


def test_the_page_is_answered(client: TestClient) -> None:
    answer = call(client)

    assert answer.status_code == 200
    assert answer.json()["deployment"] == "the stack"


def test_the_token_of_the_address_becomes_a_cookie_that_no_script_reads_and_no_other_site_sends(
    client: TestClient,
) -> None:
    answer = client.get("/", params={"token": TOKEN})

    assert answer.status_code == 200
    assert answer.headers["set-cookie"] == f"{COOKIE}; Path=/; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/rejections", "/nothing"])
@pytest.mark.parametrize(
    ("token", "cookie"),
    [(None, None), ("wrong", None), ("", None), (None, f"sluice-console-{PORT}=wrong"), ("é", "other=1")],
)
def test_without_the_token_nothing_is_served(
    client: TestClient, path: str, token: str | None, cookie: str | None
) -> None:
    answer = client.get(
        path,
        params={"token": token} if token is not None else {},
        headers={"cookie": cookie} if cookie else {},
    )

    assert answer.status_code == 403
    assert answer.json() == {"error": guard.LACKS_TOKEN}
    assert "set-cookie" not in answer.headers


def test_a_person_without_the_token_is_told_so_on_a_page(client: TestClient) -> None:
    answer = client.get("/rejections", headers={"accept": "text/html"})

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert guard.LACKS_TOKEN in answer.text
    assert '<a href="">' in answer.text


@pytest.mark.parametrize(
    "host", ["localhost:7483", "127.0.0.1", f"evil.example:{PORT}", "127.0.0.1:80", f"[::1]:{PORT}", ""]
)
def test_another_host_is_refused(client: TestClient, door: FakeDoor, host: str) -> None:
    answer = call(client, host=host)

    assert answer.status_code == 403
    assert answer.json() == {"error": f"The console answers at http://{HOST} only."}
    assert door.called == []


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", f"http://localhost:{PORT}", f"https://{HOST}", "http://127.0.0.1"],
)
def test_a_call_of_another_page_is_refused(client: TestClient, door: FakeDoor, origin: str | None) -> None:
    answer = call(client, "status", origin=origin)

    assert answer.status_code == 403
    assert answer.json() == {"error": "The console answers its own page only."}
    assert door.called == []


def test_a_stranger_may_not_even_read_the_page_from_another_origin(client: TestClient) -> None:
    answer = client.get("/", headers={"origin": "http://evil.example", "cookie": COOKIE})

    assert answer.status_code == 403


@pytest.mark.parametrize("path", ["/", "/page/style.css", "/page/nothing.js", "/nothing", "/api/about"])
def test_every_answer_has_the_headers_that_protect_the_page(client: TestClient, path: str) -> None:
    for headers in ({"cookie": COOKIE}, {}):
        answer = client.get(path, headers=headers)

        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "style-src 'self';" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["/page/..%2fserver.py", "/page/server.py", "/page/%2e%2e/server.py", "/page/"]
)
def test_only_files_of_the_page_are_served(client: TestClient, path: str) -> None:
    answer = client.get(path, headers={"cookie": COOKIE})

    assert answer.status_code == 404
    assert answer.json() == {"error": "The console has no such page."}


class TestErrors:
    @pytest.mark.parametrize(
        ("failure", "status"),
        [
            (Failure("This is wrong."), 422),
            (Denied("You lack a permission."), 403),
            (ValueError("ada@example.com"), 500),
        ],
    )
    def test_are_one_sentence(
        self, client: TestClient, door: FakeDoor, failure: Exception, status: int
    ) -> None:
        door.failure = failure

        answer = call(client, "status")

        assert answer.status_code == status
        said = answer.json()["error"]
        assert said == (str(failure) if status != 500 else "The console failed unexpectedly (ValueError).")

    def test_of_what_is_called(self, client: TestClient) -> None:
        assert call(client, "nothing").json() == {"error": "The console has no call 'nothing'."}
        headers = {"origin": ORIGIN, "cookie": COOKIE}
        for body in ("{", "[" * 100_000):
            answer = client.post("/api/about", content=body, headers=headers)
            assert (answer.status_code, answer.json()) == (
                400,
                {"error": "The arguments of a call are JSON."},
            )
        answer = client.post("/api/about", content="[]", headers=headers)
        assert answer.json() == {"error": "The arguments of a call are an object."}

    def test_of_a_call_that_is_too_large(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "MAX_CALL_BYTES", 10)

        answer = client.post("/api/about", content=b"x" * 11, headers={"origin": ORIGIN, "cookie": COOKIE})

        assert (answer.status_code, answer.json()) == (413, {"error": "A call exceeds 10 bytes."})

    def test_of_another_protocol(self, client: TestClient) -> None:
        with pytest.raises(RuntimeError, match="HTTP only"), client.websocket_connect("/"):
            pass
