"""Reads an API's request for Lambda and writes its response, whichever front of AWS sends it.

REST APIs and load balancers send events of version 1, HTTP APIs and function URLs of version 2. Routes are
declared once: what is found, and what another method would be allowed, follow from the same table.
"""

import base64
import binascii
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from sluice.errors import Refused
from sluice.jsonapi import Problem
from sluice.validation.json_text import encode_text

# A front hands bodies over as text, with U+FFFD in place of bytes that are not UTF-8. Taken for what it is,
# damaged text would be accepted. Made such a byte again, it is refused.
_UNDECODABLE: Final = "\ufffd".encode()


class HttpRequest(msgspec.Struct, frozen=True):
    """Holds a request. Names of `headers` are in lower case.

    A header that is sent more than once is one list (RFC 9110). `raw_body` is the body as it was sent, as far
    as the front tells.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    raw_body: bytes
    is_base64: bool = False

    @property
    def body(self) -> bytes:
        """Returns the body with every byte that a front could not decode made undecodable again."""
        return self.raw_body if self.is_base64 else self.raw_body.replace(_UNDECODABLE, b"\xff")


class HttpResponse(msgspec.Struct, frozen=True):
    """Holds a response."""

    status: int
    body: bytes
    media_type: str
    headers: Mapping[str, str] = {}


class Route(msgspec.Struct, frozen=True):
    """Leads requests of a method to an endpoint. `{name}` in the path stands for one segment."""

    method: str
    path: str
    endpoint: Callable[..., HttpResponse]


def read_request(event: Mapping[str, Any]) -> HttpRequest:
    """Reads the event of a REST API, an HTTP API, a function URL or a load balancer."""
    if event.get("version") == "2.0":
        context = event["requestContext"]
        stage = context.get("stage", "$default")
        path = event["rawPath"] if stage == "$default" else event["rawPath"].removeprefix(f"/{stage}")
        method = context["http"]["method"]
        # HTTP APIs join values of one name by commas themselves.
        headers = {name.lower(): value for name, value in event["headers"].items()}
        query = dict(urllib.parse.parse_qsl(event.get("rawQueryString", ""), keep_blank_values=True))
    else:
        path, method = event["path"], event["httpMethod"]
        # An event written by hand often has no more than `headers`, where the last of several is.
        several = event.get("multiValueHeaders") or {
            name: [value] for name, value in (event.get("headers") or {}).items()
        }
        headers = {name.lower(): ", ".join(values) for name, values in several.items()}
        query = event.get("queryStringParameters") or {
            name: values[-1] for name, values in (event.get("multiValueQueryStringParameters") or {}).items()
        }
        if "elb" in event.get("requestContext", {}):
            decoded = urllib.parse.unquote_plus  # a load balancer leaves this to its target
            query = {decoded(name): decoded(value) for name, value in query.items()}
    is_base64 = bool(event.get("isBase64Encoded"))
    return HttpRequest(method, path, headers, query, _raw_body(event.get("body") or "", is_base64), is_base64)


def write_response(event: Mapping[str, Any], response: HttpResponse) -> dict[str, Any]:
    """Writes a response in the form that the sender of `event` understands."""
    headers = {"Content-Type": response.media_type, **response.headers}
    answer: dict[str, Any] = {
        "statusCode": response.status,
        "body": response.body.decode(),
        "isBase64Encoded": False,
    }
    is_load_balancer = "elb" in event.get("requestContext", {})
    if event.get("version") == "2.0" or (is_load_balancer and "multiValueHeaders" not in event):
        return {**answer, "headers": headers}
    return {**answer, "multiValueHeaders": {name: [value] for name, value in headers.items()}}


def find(routes: Sequence[Route], request: HttpRequest, not_found: str) -> tuple[Route, dict[str, str]]:
    """Returns the route of a request with the values of its path; raises `Refused` (404, 405) without one."""
    path = request.path.rstrip("/")
    allowed = []
    for route in routes:
        if (match := _pattern(route.path).fullmatch(path)) is None:
            continue
        if route.method == request.method:
            return route, match.groupdict()
        allowed.append(route.method)
    if allowed:
        methods = ", ".join(allowed)
        problem = Problem("method_not_allowed", f"Allowed here: {methods}.")
        raise Refused(405, [problem], {"Allow": methods})
    raise Refused(404, [Problem("not_found", not_found)])


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))


def _raw_body(body: str, is_base64: bool) -> bytes:
    if is_base64:
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise Refused(400, [Problem("parse_error", "The body is not valid base64.", "/")]) from None
    try:
        # Python's own servers hand on bytes that are not UTF-8 as these surrogates.
        return body.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return encode_text(body)
