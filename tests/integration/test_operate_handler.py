"""Tests the function operate, with AWS emulated in process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sluice.operate import door
from sluice.webhooks import normalised, presets, sources
from tests.support.aws_stack import cloud
from tests.support.operate import Operate

DOCUMENT = {
    "sources": {
        "shop": {"account": "AbC123", "secret": "shop", "preset": "shopify"},
        "pay": {"account": "AbC123", "secret": "pay", "preset": "stripe"},
    }
}


class Shop(Operate):
    """Invokes the function, and looks at the sources that it stores."""

    def stored(self) -> Any:
        """Returns the stored document as it was written."""
        return normalised.without(json.loads(self.aws.content("configuration", sources.KEY)))


@pytest.fixture
def operate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with cloud(monkeypatch) as aws:
        for name in ("shop", "pay"):
            aws.secrets.create_secret(Name=f"sluice/webhooks/{name}", SecretString="whsec")
        aws.name_accounts({"site_id": "AbC123", "private_key": "pk_1"})
        yield Shop(aws)


def text(document: Any) -> str:
    return json.dumps(document)


def test_a_document_is_stored_and_shown(operate: Shop) -> None:
    assert operate("sources show", "read")["result"] == {"text": None, "etag": None}

    put = operate("sources put", text=text(DOCUMENT))["result"]
    shown = operate("sources show", "read")["result"]

    assert put == {"stored": True, "changed": True, "removed": [], "warnings": []}
    assert json.loads(shown["text"]) == DOCUMENT == operate.stored()
    assert normalised.find(json.loads(operate.aws.content("configuration", sources.KEY)))
    again = operate("sources put", text=shown["text"], etag=shown["etag"])["result"]
    assert (again["stored"], again["changed"]) == (False, False)
    assert operate.function.metrics()["OperatorRequests"] == 4


def test_a_document_whose_form_does_not_count_is_stored_anew(
    operate: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    operate("sources put", text=text(DOCUMENT))
    monkeypatch.setattr(presets, "digest", lambda: "that of a later release")
    before = operate("sources show", "read")["result"]

    put = operate("sources put", text=before["text"], etag=before["etag"])["result"]

    assert (put["stored"], put["changed"]) == (True, True)
    assert normalised.find(json.loads(operate.aws.content("configuration", sources.KEY)))


def test_read_stores_nothing(operate: Shop) -> None:
    assert operate("sources put", "read", text=text(DOCUMENT))["error"]["code"] == "forbidden"
    assert operate("sources show", "read")["result"]["text"] is None


def test_a_dry_run_tells_everything_and_stores_nothing(operate: Shop) -> None:
    operate("sources put", text=text(DOCUMENT))
    etag = operate("sources show")["result"]["etag"]
    other = {"sources": {"new": {"account": "XyZ789", "secret": "none", "preset": "shopify"}}}

    told = operate("sources put", text=text(other), etag=etag, dry_run=True)["result"]

    assert (told["stored"], told["changed"], told["removed"]) == (False, True, ["pay", "shop"])
    assert told["warnings"] == [
        "new: the account XyZ789 is not in the accounts document. Its events are parked until it is.",
        "new: the secret sluice/webhooks/none has no value in Secrets Manager. "
        "Deliveries are answered 503 until it has.",
    ]
    assert operate.stored() == DOCUMENT


def test_a_source_is_removed_only_where_that_is_meant(operate: Shop) -> None:
    operate("sources put", text=text(DOCUMENT))
    etag = operate("sources show")["result"]["etag"]
    less = {"sources": {"shop": DOCUMENT["sources"]["shop"]}}

    refused = operate("sources put", text=text(less), etag=etag)["error"]
    assert refused == {"code": "would_remove", "message": "This would remove pay. Nothing is stored."}
    assert operate.stored() == DOCUMENT

    assert operate("sources put", text=text(less), etag=etag, remove=True)["result"]["removed"] == ["pay"]
    assert operate.stored() == less


@pytest.mark.parametrize("etag", [None, '"0123"'])
def test_a_document_that_was_not_seen_is_not_replaced(operate: Shop, etag: str | None) -> None:
    operate("sources put", text=text(DOCUMENT))

    assert (
        operate("sources put", text='{"sources": {}}', etag=etag, remove=True)["error"]["code"] == "conflict"
    )
    assert operate.stored() == DOCUMENT


@pytest.mark.parametrize("code", ["PreconditionFailed", "ConditionalRequestConflict"])
def test_a_document_that_is_stored_meanwhile_is_not_replaced(operate: Shop, code: str) -> None:
    from botocore.exceptions import ClientError

    def refuse(parameters: dict[str, Any], _: Callable[[], Any]) -> Any:
        assert parameters["IfNoneMatch"] == "*"
        raise ClientError({"Error": {"Code": code}}, "PutObject")

    operate.aws.calls.instead("PutObject", refuse)

    assert operate("sources put", text=text(DOCUMENT))["error"]["code"] == "conflict"


@pytest.mark.parametrize("bad", ["no JSON", "[]", '{"sources": {"shop": {}}}', '{"sources": 1}'])
def test_a_document_that_functions_would_refuse_is_not_stored(operate: Shop, bad: str) -> None:
    error = operate("sources put", text=bad)["error"]

    assert error["code"] == "invalid_arguments"
    assert error["message"].startswith("The document is refused: the sources document ")
    assert operate("sources show")["result"]["text"] is None


@pytest.mark.parametrize("stored", [b"no JSON", b"[]", b"\xff"])
def test_what_is_stored_and_makes_no_sense_can_be_replaced(operate: Shop, stored: bytes) -> None:
    operate.aws.s3.put_object(Bucket="configuration", Key=sources.KEY, Body=stored)
    shown = operate("sources show")["result"]

    assert operate("sources put", text=text(DOCUMENT), etag=shown["etag"])["result"]["stored"]
    assert operate.stored() == DOCUMENT


@pytest.mark.parametrize(
    ("operation", "what"),
    [
        ("GetObject", "accounts could not be looked up: the accounts document cannot be read."),
        (
            "DescribeSecret",
            "secrets could not be looked up: the secret sluice/webhooks/pay cannot be looked up.",
        ),
    ],
)
def test_what_may_not_be_looked_up_is_told_and_stops_nothing(
    operate: Shop, operation: str, what: str
) -> None:
    operate.aws.calls.fail(operation, when=lambda call: call.get("Key") != "sources.json")

    assert operate("sources put", text=text(DOCUMENT))["result"]["warnings"] == [f"The sources' {what}"]
    assert operate.stored() == DOCUMENT


def test_an_accounts_document_that_is_not_valid_is_told(operate: Shop) -> None:
    operate.aws.write_accounts('{"accounts": 1}')

    [told] = operate("sources put", text=text(DOCUMENT))["result"]["warnings"]

    assert told.startswith("The sources' accounts could not be looked up: the accounts document is not valid")


def test_a_secret_without_a_value_or_on_its_way_out_is_missing(operate: Shop) -> None:
    operate.aws.secrets.delete_secret(SecretId="sluice/webhooks/pay")
    operate.aws.secrets.delete_secret(SecretId="sluice/webhooks/shop", ForceDeleteWithoutRecovery=True)
    operate.aws.secrets.create_secret(Name="sluice/webhooks/shop")

    told = operate("sources put", text=text(DOCUMENT))["result"]["warnings"]

    assert [each.partition(":")[0] for each in told] == ["pay", "shop"]
    assert all("has no value in Secrets Manager" in each for each in told)


@pytest.mark.parametrize("operation", ["GetObject", "PutObject"])
def test_a_store_that_does_not_answer_is_to_be_tried_again(operate: Shop, operation: str) -> None:
    operate.aws.calls.fail(operation)

    error = operate("sources put", text=text(DOCUMENT))["error"]

    assert error["code"] == "unavailable"
    assert error["message"].endswith("Try again.")


def test_large_answers_and_requests_travel_by_presigned_urls(operate: Shop) -> None:
    document = '"' + "a" * door.INVOCATION_BYTES + '"'
    operate.aws.s3.put_object(Bucket="configuration", Key=sources.KEY, Body=document.encode())

    answer = operate("sources show", "read")
    offered = operate("upload", size=10)["result"]

    assert "result" not in answer
    [key] = operate.aws.keys("archive", "operate/answers/")
    assert json.loads(operate.aws.content("archive", key))["text"] == document
    url = httpx2.URL(answer["result_at"]["url"])
    assert url.path.endswith(key)
    assert url.params["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert url.params["X-Amz-Expires"] == "300"
    upload = httpx2.URL(offered["url"])
    assert upload.path.endswith(offered["key"])
    assert upload.params["X-Amz-SignedHeaders"] == "content-length;host"


def test_uploaded_arguments_are_read(operate: Shop) -> None:
    key = operate("upload", size=10)["result"]["key"]
    request = {"version": 1, "command": "sources put", "arguments_key": key}
    assert operate.invoke("sluice-operate:admin", request)["error"]["code"] == "invalid_request"

    operate.aws.s3.put_object(Bucket="archive", Key=key, Body=text({"text": text(DOCUMENT)}).encode())

    assert operate.invoke("sluice-operate:admin", request)["result"]["stored"]


def test_the_sample_event_is_answered(operate: Shop) -> None:
    sample = json.loads(Path("tests/events/operate.json").read_text())

    assert operate.invoke("sluice-operate:read", sample)["result"] == {"text": None, "etag": None}
    assert operate.invoke("sluice-operate", sample)["error"]["code"] == "forbidden"
