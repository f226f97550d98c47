"""What API Gateway answers by itself, before any of our code runs."""

from typing import Any

import msgspec

from sluice import jsonapi
from sluice.jsonapi import Problem

type Template = dict[str, Any]


def test_a_throttled_caller_is_answered_like_any_refused_one(expanded: Template) -> None:
    answers = expanded["Resources"]["Api"]["Properties"]["Body"]["x-amazon-apigateway-gateway-responses"]
    answer = answers["THROTTLED"]
    detail = "Request was throttled. Expected available in 1 second."
    ours = msgspec.json.decode(jsonapi.envelope(429, [Problem("throttled", detail, "/data/")]))

    theirs = msgspec.json.decode(answer["responseTemplates"]["application/json"])

    ours["errors"][0]["id"] = "$context.requestId"
    assert theirs == ours
    assert answer["statusCode"] == "429"
    assert answer["responseParameters"] == {
        "gatewayresponse.header.Content-Type": f"'{jsonapi.MEDIA_TYPE}'",
        "gatewayresponse.header.Retry-After": "'1'",
    }
