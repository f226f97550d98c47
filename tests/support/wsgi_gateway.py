"""Plays API Gateway as far as the functions can tell: the template's routes by WSGI, without limits."""

import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from tests.support.ingest_app import proxy_event

type Invoke = Callable[[dict[str, Any]], dict[str, Any]]
type Application = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]

_GREEDY = "{proxy+}"
_NO_ROUTE: dict[str, Any] = {"statusCode": 404}


def routes() -> list[tuple[str, str, str]]:
    """Returns each route of the template: method, path and function, exact paths first."""
    resources = yaml_parse(Path("template.yaml").read_text())["Resources"]
    methods = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::ApiGateway::Method"]
    found = [
        (
            method["HttpMethod"],
            f"/{resources[method['ResourceId']['Ref']]['Properties']['PathPart']}",
            re.findall(r"functions/\$\{(\w+)\.Arn\}", method["Integration"]["Uri"]["Fn::Sub"])[0],
        )
        for method in methods
    ]
    return sorted(found, key=lambda route: _GREEDY in route[1])


def application(functions: Mapping[str, Invoke]) -> Application:
    """Makes a WSGI application of these functions, by their names in the template."""
    known = routes()

    def serve(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        answer = _NO_ROUTE
        for allowed, resource, function in known:
            if allowed in {method, "ANY"} and _leads(resource, path):
                answer = functions[function](_event(environ, resource))
                break
        headers = [*answer.get("headers", {}).items()]
        headers += [
            (name, each) for name, values in answer.get("multiValueHeaders", {}).items() for each in values
        ]
        status = HTTPStatus(answer["statusCode"])
        start_response(f"{status.value} {status.phrase}", headers)
        return [answer.get("body", "").encode()]

    return serve


def _leads(resource: str, path: str) -> bool:
    pattern = re.escape(resource).replace(re.escape(_GREEDY), ".*") + "/?"
    return re.fullmatch(pattern, path, re.DOTALL) is not None


def _event(environ: dict[str, Any], resource: str) -> dict[str, Any]:
    named = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    headers = {name.removeprefix("HTTP_").replace("_", "-").lower(): value for name, value in named.items()}
    headers |= {"content-type": environ["CONTENT_TYPE"]} if environ.get("CONTENT_TYPE") else {}
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return proxy_event() | {
        "resource": resource,
        "path": environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
        "httpMethod": environ["REQUEST_METHOD"],
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "body": body.decode("utf-8", "replace") or None,  # API Gateway hands bodies over as text
        "isBase64Encoded": False,
    }
