"""Tests the docs function: the description and its page as API Gateway asks for them, and the page's
content.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sluice import jsonapi
from sluice.jsonapi import Problem
from tests.support.functions import load_app

FOLDER = Path("functions/docs")
LAMBDA_BYTES = 6 * 1024 * 1024  # of an answer, as JSON


@pytest.fixture(scope="module")
def app() -> ModuleType:
    return load_app("docs")


def ask(app: ModuleType, resource: str, method: str = "GET", **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer: dict[str, Any] = app.handler(
        {
            "resource": resource,
            "httpMethod": method,
            "headers": named or None,
            "requestContext": {"requestId": "request-1"},
        },
        None,
    )
    return answer


def test_the_description_is_the_file(app: ModuleType) -> None:
    answer = ask(app, "/openapi.json")

    assert answer["statusCode"] == 200
    assert answer["headers"]["Content-Type"] == "application/json"
    assert json.loads(answer["body"])["openapi"].startswith("3.1.")
    assert answer["body"] == (FOLDER / "openapi.json").read_text("utf-8")
    assert app.handler(json.loads(Path("tests/events/docs.json").read_text()), None) == answer


@pytest.mark.parametrize("resource", ["/openapi.json", "/docs"])
@pytest.mark.parametrize("given", ["{}", "W/{}", '"other", {}'])
@pytest.mark.parametrize("name", ["If_None_Match", "if_none_match"])
def test_who_has_it_already_is_told_so(app: ModuleType, resource: str, given: str, name: str) -> None:
    headers = ask(app, resource)["headers"]

    again = ask(app, resource, **{name: given.format(headers["ETag"])})

    assert again == {"statusCode": 304, "headers": headers}


@pytest.mark.parametrize("given", ["", '"other"', "W/"])
def test_who_has_something_else_gets_it(app: ModuleType, given: str) -> None:
    assert ask(app, "/docs", If_None_Match=given)["statusCode"] == 200
    assert ask(app, "/docs")["headers"]["ETag"] != ask(app, "/openapi.json")["headers"]["ETag"]


@pytest.mark.parametrize("resource", ["/openapi.json", "/docs"])
def test_who_asks_for_the_headers_alone_gets_them(app: ModuleType, resource: str) -> None:
    assert ask(app, resource, "HEAD") == {**ask(app, resource), "body": ""}


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
def test_nothing_else_can_be_done_with_it(app: ModuleType, method: str) -> None:
    answer = ask(app, "/docs", method)

    like = jsonapi.error(405, Problem("method_not_allowed", "Allowed here: GET, HEAD."))
    assert (answer["statusCode"], answer["headers"]["Allow"]) == (405, "GET, HEAD")
    assert answer["headers"]["Content-Type"] == jsonapi.MEDIA_TYPE
    assert json.loads(answer["body"]) == {"errors": [{**like, "id": "request-1"}]}


def test_the_page_may_run_what_is_in_it_and_nothing_else(app: ModuleType) -> None:
    answer = ask(app, "/docs")
    policy = dict(
        each.strip().split(" ", 1) for each in answer["headers"]["Content-Security-Policy"].split(";")
    )

    for kind in ("script", "style"):
        parts = re.findall(rf"<{kind}>(.*?)</{kind}>", answer["body"], re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        assert len(parts) == 2
        assert policy[f"{kind}-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert not re.search(r"unsafe|https?:|\*", answer["headers"]["Content-Security-Policy"])


def test_the_viewer_is_whole_in_the_page(app: ModuleType) -> None:
    """Checks that nothing in it may end its part of the page early, or hide the end from a browser."""
    script = (FOLDER / "viewer/swagger-ui-bundle.js").read_text("utf-8")
    style = (FOLDER / "viewer/swagger-ui.css").read_text("utf-8")
    page = ask(app, "/docs")["body"]

    assert "</script" not in script.lower()
    assert "</style" not in style.lower()
    assert script.replace("<!--", r"\x3c!--") in page
    assert style in page
    assert "<!--" not in page


def test_the_page_fits_into_an_answer(app: ModuleType) -> None:
    assert len(json.dumps(ask(app, "/docs"))) < LAMBDA_BYTES / 2


def test_the_viewers_licence_is_beside_it() -> None:
    assert "Apache License" in (FOLDER / "viewer/LICENSE").read_text("utf-8")
    assert {"NOTICE", "swagger-ui-bundle.js.LICENSE.txt"} <= {
        path.name for path in (FOLDER / "viewer").iterdir()
    }
