"""Tests the answers that API Gateway gives by itself, before any of our code runs: they look like every
error.
"""

import hashlib
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
    return {
        resource["Properties"]["ResponseType"]: resource["Properties"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::ApiGateway::GatewayResponse"
    }


def headers(response: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("gatewayresponse.header."): value
        for name, value in response["ResponseParameters"].items()
    }


def error(response: dict[str, Any]) -> dict[str, Any]:
    [template] = response["ResponseTemplates"].values()
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
    assert int(response["StatusCode"]) == status
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


def snapshot(template: Template) -> dict[str, Any]:
    """Returns everything that a deployment of the API takes with it."""
    kinds = {f"AWS::ApiGateway::{kind}" for kind in ("RestApi", "Resource", "Method", "GatewayResponse")}
    return {name: each for name, each in template["Resources"].items() if each["Type"] in kinds}


def deployment(template: Template) -> tuple[str, dict[str, Any]]:
    [(name, found)] = [
        (name, each)
        for name, each in template["Resources"].items()
        if each["Type"] == "AWS::ApiGateway::Deployment"
    ]
    return name, found


def test_what_changes_is_deployed(expanded: Template) -> None:
    """Checks the deployment's name, because CloudFormation deploys only under a new one: give it this one."""
    content = json.dumps(snapshot(expanded), sort_keys=True).encode()

    assert deployment(expanded)[0] == f"ApiDeployment{hashlib.sha256(content).hexdigest()[:8]}"


def test_nothing_is_deployed_before_it_is_there(expanded: Template) -> None:
    name, found = deployment(expanded)

    paths = {path for path in snapshot(expanded) if path.endswith("Path")}  # each method depends on its own
    assert {*found["DependsOn"], *paths, "Api"} == snapshot(expanded).keys()
    assert expanded["Resources"]["ApiStage"]["Properties"]["DeploymentId"] == {"Ref": name}


def test_the_api_has_no_body(expanded: Template) -> None:
    """Checks that nothing is imported, because an import drops gateway responses that are resources of
    their own.
    """
    assert {"Body", "BodyS3Location"}.isdisjoint(expanded["Resources"]["Api"]["Properties"])


def test_answers_are_compressed_where_it_pays(expanded: Template) -> None:
    assert expanded["Resources"]["Api"]["Properties"]["MinimumCompressionSize"] == 1024
