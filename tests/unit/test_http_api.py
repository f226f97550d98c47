"""Tests that a request reads the same from every front of AWS, and that its response suits each."""

import base64
from typing import Any

import pytest

from sluice import http_api
from sluice.errors import Refused
from sluice.http_api import HttpRequest, HttpResponse, Route

BODY = '{"data": "Gruß 🎁"}'
HEADERS = {"Content-Type": "application/json", "Prefer": "a, b"}


def rest(**changes: Any) -> dict[str, Any]:
    """Makes an event of a REST API (payload version 1)."""
    return {
        "path": "/client/events",
        "httpMethod": "POST",
        "headers": {"Content-Type": "application/json", "Prefer": "b"},
        "multiValueHeaders": {"Content-Type": ["application/json"], "Prefer": ["a", "b"]},
        "queryStringParameters": {"company_id": "AbC 12"},
        "multiValueQueryStringParameters": {"company_id": ["AbC 12"]},
        "requestContext": {"stage": "live", "resourcePath": "/client/{proxy+}"},
        "body": BODY,
        "isBase64Encoded": False,
    } | changes


def http_v2(stage: str = "$default", **changes: Any) -> dict[str, Any]:
    """Makes an event of an HTTP API or a function URL (payload version 2.0)."""
    prefix = "" if stage == "$default" else f"/{stage}"
    return {
        "version": "2.0",
        "rawPath": f"{prefix}/client/events",
        "rawQueryString": "company_id=AbC%2012",
        "headers": {"content-type": "application/json", "prefer": "a, b"},
        "requestContext": {"stage": stage, "http": {"method": "POST", "path": f"{prefix}/client/events"}},
        "body": BODY,
        "isBase64Encoded": False,
    } | changes


def load_balancer(*, several: bool, **changes: Any) -> dict[str, Any]:
    """Makes an event of an Application Load Balancer, whose target group has several values or not."""
    values: dict[str, Any] = {
        "headers": {"content-type": "application/json", "prefer": "a, b"},
        "queryStringParameters": {"company_id": "AbC%2012"},
    }
    if several:
        values = {
            "multiValueHeaders": {"content-type": ["application/json"], "prefer": ["a", "b"]},
            "multiValueQueryStringParameters": {"company_id": ["AbC%2012"]},
        }
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn:aws:elasticloadbalancing:::targetgroup/a"}},
        "httpMethod": "POST",
        "path": "/client/events",
        "body": BODY,
        "isBase64Encoded": False,
        **values,
    } | changes


FRONTS = {
    "REST API": rest(),
    "HTTP API": http_v2(),
    "HTTP API with a stage": http_v2("live"),
    "function URL": http_v2(headers={"content-type": "application/json", "prefer": "a, b"}),
    "load balancer": load_balancer(several=False),
    "load balancer with several values": load_balancer(several=True),
}


@pytest.mark.parametrize("event", FRONTS.values(), ids=FRONTS)
def test_a_request_reads_the_same_from_every_front(event: dict[str, Any]) -> None:
    assert http_api.read_request(event) == HttpRequest(
        "POST",
        "/client/events",
        {"content-type": "application/json", "prefer": "a, b"},
        {"company_id": "AbC 12"},
        BODY.encode(),
    )


@pytest.mark.parametrize("event", FRONTS.values(), ids=FRONTS)
def test_a_body_in_base64_is_the_bytes_that_were_sent(event: dict[str, Any]) -> None:
    sent = b'{"name": "\xff\xef\xbf\xbd"}'
    encoded = {"body": base64.b64encode(sent).decode(), "isBase64Encoded": True}

    request = http_api.read_request(event | encoded)

    assert request.raw_body == request.body == sent


@pytest.mark.parametrize("event", FRONTS.values(), ids=FRONTS)
def test_a_byte_that_a_front_could_not_decode_does_not_decode(event: dict[str, Any]) -> None:
    assert http_api.read_request(event | {"body": '"\ufffd"'}).body == b'"\xff"'
    assert http_api.read_request(event | {"body": '"\udcff"'}).body == b'"\xff"'


@pytest.mark.parametrize("event", FRONTS.values(), ids=FRONTS)
def test_a_body_that_only_claims_to_be_base64_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(Refused) as raised:
        http_api.read_request(event | {"body": "not base64!", "isBase64Encoded": True})

    assert raised.value.status == 400


@pytest.mark.parametrize("event", FRONTS.values(), ids=FRONTS)
def test_a_request_may_have_no_body(event: dict[str, Any]) -> None:
    assert http_api.read_request(event | {"body": None}).body == b""


@pytest.mark.parametrize(
    ("event", "headers"),
    [
        (rest(), {"multiValueHeaders": {"Content-Type": ["text/plain"], "Allow": ["GET"]}}),
        (http_v2(), {"headers": {"Content-Type": "text/plain", "Allow": "GET"}}),
        (load_balancer(several=False), {"headers": {"Content-Type": "text/plain", "Allow": "GET"}}),
        (
            load_balancer(several=True),
            {"multiValueHeaders": {"Content-Type": ["text/plain"], "Allow": ["GET"]}},
        ),
    ],
    ids=["REST API", "HTTP API", "load balancer", "load balancer with several values"],
)
def test_a_response_has_the_form_its_front_understands(event: dict[str, Any], headers: Any) -> None:
    response = HttpResponse(405, "Nein, groß".encode(), "text/plain", {"Allow": "GET"})

    assert http_api.write_response(event, response) == {
        "statusCode": 405,
        "body": "Nein, groß",
        "isBase64Encoded": False,
        **headers,
    }


def endpoint(request: HttpRequest, **values: str) -> HttpResponse:
    """Answers nothing."""
    return HttpResponse(204, b"", "text/plain")


ROUTES = [
    Route("POST", "/jobs", endpoint),
    Route("GET", "/jobs/{id}", endpoint),
    Route("OPTIONS", "/jobs", endpoint),
]


def request(method: str, path: str) -> HttpRequest:
    """Makes a request without anything else."""
    return HttpRequest(method, path, {}, {}, b"")


@pytest.mark.parametrize(
    ("method", "path", "route", "values"),
    [
        ("POST", "/jobs", ROUTES[0], {}),
        ("POST", "/jobs/", ROUTES[0], {}),
        ("GET", "/jobs/a.b", ROUTES[1], {"id": "a.b"}),
        ("OPTIONS", "/jobs", ROUTES[2], {}),
    ],
)
def test_a_route_is_found_with_or_without_a_slash(
    method: str, path: str, route: Route, values: dict[str, str]
) -> None:
    assert http_api.find(ROUTES, request(method, path), "no") == (route, values)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/jobs", "POST, OPTIONS"), ("POST", "/jobs/1", "GET"), ("delete", "/jobs/", "POST, OPTIONS")],
)
def test_another_method_is_told_what_is_allowed(method: str, path: str, allow: str) -> None:
    with pytest.raises(Refused) as raised:
        http_api.find(ROUTES, request(method, path), "no")

    assert (raised.value.status, raised.value.headers) == (405, {"Allow": allow})


@pytest.mark.parametrize("path", ["", "/", "/job", "/jobs/1/2", "/JOBS", "/jobs\n"])
def test_another_path_is_not_found(path: str) -> None:
    with pytest.raises(Refused) as raised:
        http_api.find(ROUTES, request("POST", path), "Nothing is here.")

    assert raised.value.status == 404
    assert [problem.detail for problem in raised.value.problems] == ["Nothing is here."]
