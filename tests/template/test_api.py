"""What API Gateway answers by itself, before any of our code runs: in the one shape of every error."""

import json
from typing import Any

import pytest

from sluice import jsonapi
from sluice.contract import MAX_BODY_BYTES_IN
from sluice.jsonapi import Problem

type Template = dict[str, Any]

# The gateway's own names for what it can answer on a route of ours (and, by the defaults, for all else).
ANSWERS = {
    "DEFAULT_4XX": (400, "invalid"),
    "ACCESS_DENIED": (403, "permission_denied"),
    "WAF_FILTERED": (403, "permission_denied"),
    "MISSING_AUTHENTICATION_TOKEN": (404, "not_found"),
    "REQUEST_TOO_LARGE": (413, "payload_too_large"),
    "UNSUPPORTED_MEDIA_TYPE": (415, "unsupported_media_type"),
    "THROTTLED": (429, "throttled"),
    "QUOTA_EXCEEDED": (429, "throttled"),
    "DEFAULT_5XX": (503, "unavailable"),
    "INTEGRATION_FAILURE": (503, "unavailable"),
    "INTEGRATION_TIMEOUT": (504, "unavailable"),
}


def responses(template: Template) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"]["Api"]["Properties"]["Body"][
        "x-amazon-apigateway-gateway-responses"
    ]
    return found


def headers(response: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("gatewayresponse.header."): value
        for name, value in response["responseParameters"].items()
    }


def error(response: dict[str, Any]) -> dict[str, Any]:
    [template] = response["responseTemplates"].values()
    [found] = json.loads(template.replace("$context.requestId", "request-1"))["errors"]
    assert "$" not in json.dumps(found)
    result: dict[str, Any] = found
    return result


def test_each_is_answered(expanded: Template) -> None:
    assert responses(expanded).keys() == ANSWERS.keys()


@pytest.mark.rule
@pytest.mark.parametrize("kind", ANSWERS)
def test_it_has_the_envelope_of_every_other_error(expanded: Template, kind: str) -> None:
    response = responses(expanded)[kind]
    status, code = ANSWERS[kind]

    found = error(response)

    like = jsonapi.error(status, Problem(code, found["detail"], found["source"].get("pointer")))
    assert found == {**like, "id": "request-1"}
    assert int(response["statusCode"]) == status
    assert headers(response)["Content-Type"] == f"'{jsonapi.MEDIA_TYPE}'"


@pytest.mark.rule
@pytest.mark.parametrize("kind", ANSWERS)
def test_what_may_be_tried_again_says_when_and_pages_may_read_it(expanded: Template, kind: str) -> None:
    told = headers(responses(expanded)[kind])
    retry = ANSWERS[kind][0] in {429, 503, 504}

    assert ("Retry-After" in told) == ("Access-Control-Expose-Headers" in told) == retry
    if retry:
        assert int(told["Retry-After"].strip("'")) > 0
    origin = told["Access-Control-Allow-Origin"]["Fn::Sub"]
    first = {"Fn::Select": [0, {"Fn::Split": [",", {"Ref": "AllowedOrigins"}]}]}
    assert origin == ["'${Origin}'", {"Origin": first}]


def test_a_throttled_caller_is_told_the_same_twice(expanded: Template) -> None:
    for kind in ("THROTTLED", "QUOTA_EXCEEDED"):
        response = responses(expanded)[kind]
        seconds = headers(response)["Retry-After"].strip("'")
        assert f" {seconds} second" in error(response)["detail"]


def test_the_size_is_the_one_ingest_allows(expanded: Template) -> None:
    assert str(MAX_BODY_BYTES_IN) in error(responses(expanded)["REQUEST_TOO_LARGE"])["detail"]


def test_they_are_part_of_the_api(source: Template, expanded: Template) -> None:
    """As resources of their own they are gone once SAM deploys the API anew."""
    kinds = {resource["Type"] for resource in {**source["Resources"], **expanded["Resources"]}.values()}

    assert "AWS::ApiGateway::GatewayResponse" not in kinds


def test_answers_are_compressed_where_it_pays(expanded: Template) -> None:
    assert expanded["Resources"]["Api"]["Properties"]["MinimumCompressionSize"] == 1024
