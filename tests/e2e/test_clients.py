"""Tests clients as people use them, pointed at the gateway: what arrives, what they raise, when they try
again.
"""

import json
import re
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from sluice.contract import MAX_BODY_BYTES_IN
from tests.e2e.clients import CLIENTS, INSTALLED, Call, Client, Outcome, Way, make_all, missing
from tests.e2e.conftest import Stack, eventually
from tests.e2e.proxy import Answer, Forward, Proxy, proxying
from tests.support.factories import bulk, entry, event, metric, single

type Outcomes = dict[str, dict[str, Outcome]]


@dataclass(frozen=True)
class PutOff:
    """Holds the outcomes of calls, and the answers on the way, by the code of the first answer."""

    outcomes: Outcomes
    proxies: dict[str, Proxy]


NEVER: Final = "1980-01-01T00:00:00+00:00"
PROPERTIES: Final[dict[str, Any]] = {
    "product": "Desk lamp",
    "nested": {"list": [1, 2.5, {"deep": [None, 0, "", False, "\u00fc\U0001f389"]}]},
    "nothing": None,
    "zero": 0,
    "empty": "",
    "no": False,
    "none": {},
    "$extra": {"html": "<b>"},
}
LOCATION: Final[dict[str, Any]] = {
    "address1": "Rua 1",
    "address2": "2.",
    "city": "Porto",
    "country": "Portugal",
    "region": "Norte",
    "zip": "4000",
    "timezone": "Europe/Lisbon",
    "latitude": 41.15,
    "longitude": "-8.61",
}
META: Final = {
    "patch_properties": {"append": {"seen_items": ["lamp"]}, "unappend": {"seen_items": ["chair"]}}
}


def case(client: Client, *way: Way) -> Any:
    """Makes a test's parameters of a client, perhaps with a way to use it."""
    skip = pytest.mark.skipif(bool(missing(client)), reason=missing(client))
    return pytest.param(client, *way, marks=skip, id=" ".join((client.name, *way)))


with_each_client = pytest.mark.parametrize("client", [case(each) for each in CLIENTS])
with_each_bulk_client = pytest.mark.parametrize(
    "client", [case(each) for each in CLIENTS if "bulk" in each.ways]
)
with_each_way = pytest.mark.parametrize(
    ("client", "way"), [case(each, way) for each in CLIENTS for way in each.ways]
)


def email_of(client: Client, purpose: str) -> str:
    return f"{purpose}-{client.name_in_path}@example.com"


# The documents that clients are given, and the results that have to follow.


def attributes_of(email: str) -> dict[str, Any]:
    """Returns a profile's attributes except the location: all that every client knows."""
    return {
        "email": email,
        "phone_number": "+15005550006",
        "external_id": email.partition("@")[0],
        "first_name": "Ann",
        "last_name": "",
        "organization": "Lamps",
        "title": "Dr",
        "image": "https://example.com/ann.png",
    }


def event_of(email: str) -> dict[str, Any]:
    """Returns an event's attributes except metric and currency."""
    return {
        "properties": PROPERTIES,
        "time": "2026-03-02T10:15:27.250000+01:00",
        "value": 9.99,
        "unique_id": f"view-{email}",
    }


def profile_of(email: str, **data: Any) -> dict[str, Any]:
    attributes = {
        **attributes_of(email),
        "anonymous_id": "anonymous",
        "_kx": "kx",
        "location": LOCATION | {"ip": "192.0.2.1"},
        "properties": {"plan": "gold", "visits": 0, "none": None, "tags": ["a", {"b": None}]},
    }
    return {"data": {"type": "profile", "attributes": attributes, **data}}


def complete(client: Client, way: Way, email: str) -> dict[str, Any]:
    """Makes a document with everything that a client can say."""
    if client.flat:
        return complete_flat(email)
    whole = {**event_of(email), "value_currency": "USD", "metric": metric("Viewed Product", service="shop")}
    if way == "bulk":
        smallest = event(properties={}, unique_id=f"least-{email}")
        of = profile_of(email, meta=META)
        other = {"data": {"type": "profile", "attributes": {"email": f"other-{email}"}}}
        return bulk(entry(event(**whole), smallest, of=of), entry(event(**whole), of=other, backfill=True))
    of = profile_of(email)
    # The profile's meta has been in both places; an SDK knows one of them.
    holder = of["data"] if client.revision == "2026-10-15" else of["data"]["attributes"]
    holder["meta"] = META
    return single(of, **whole)


def complete_flat(email: str) -> dict[str, Any]:
    special = {**attributes_of(email), **LOCATION}
    special["id"] = special.pop("external_id")
    of = {f"${name}": value for name, value in special.items()} | {"$consent": ["sms"], "plan": "gold"}
    attributes = {
        **event_of(email),
        "time": "2026-03-02T09:15:27.250000",
        "metric": {"name": "Viewed Product", "service": "shop"},
    }
    return {"data": {"type": "event", "attributes": {"profile": of, **attributes}}}


def arrived(client: Client, email: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the profile and the event that have to be upstream after `complete`."""
    whole = {
        **event_of(email),
        "time": "2026-03-02T09:15:27.250000Z",
        "metric": metric("Viewed Product", service="shop"),
    }
    if not client.flat:
        return profile_of(email, meta=META)["data"], {**whole, "value_currency": "USD"}
    of = attributes_of(email) | {
        "location": LOCATION,
        "properties": {"$consent": ["sms"], "plan": "gold"},
    }
    # It is SDK 1.1.0 that makes fractions of whole numbers, where they are not nested.
    return {"type": "profile", "attributes": of}, {**whole, "properties": PROPERTIES | {"zero": 0.0}}


def least(client: Client, way: Way, email: str, **attributes: Any) -> dict[str, Any]:
    """Makes a document with one small event."""
    if client.flat:
        given = {"profile": {"$email": email}, "metric": {"name": "Viewed Product"}, "properties": {}}
        return {"data": {"type": "event", "attributes": {**given, **attributes}}}
    of = {"data": {"type": "profile", "attributes": {"email": email}}}
    return bulk(entry(event(**attributes), of=of)) if way == "bulk" else single(of, **attributes)


def text(value: object) -> str:
    """Writes JSON to compare by: Python itself holds 0, 0.0 and False for equal."""
    return json.dumps(value, sort_keys=True)


# Every client's calls, made once for all tests.


@pytest.fixture(scope="module")
def outcomes(stack: Stack) -> Outcomes:
    """Returns the outcome of each client's calls, by its name and the call's."""

    def calls(client: Client) -> dict[str, Call]:
        def refused(
            key: str = stack.key, *, api: str = stack.api, email: str = "ann@example.com", **attributes: Any
        ) -> Call:
            way = client.ways[0]
            return Call(api, key, way, least(client, way, email, **attributes))

        accepted = {
            way: Call(stack.api, stack.key, way, complete(client, way, email_of(client, way)))
            for way in client.ways
        }
        return accepted | {
            "bad document": refused(email="nobody", time=NEVER),
            "unknown key": refused(f"pk_{uuid.uuid4().hex}"),
            "key without the scope": refused(stack.read_only_key),
            "no such path": refused(api=f"{stack.api}/v2"),
            "too large": refused(properties={"text": "x" * MAX_BODY_BYTES_IN}),
        }

    return make_all(calls)


@with_each_way
def test_what_a_client_sends_arrives_field_by_field(
    stack: Stack, outcomes: Outcomes, client: Client, way: Way
) -> None:
    email = email_of(client, way)
    profile, whole = arrived(client, email)

    assert "returned" in outcomes[client.name][way]
    eventually(lambda: len(stack.taken_of(email)) == (2 if way == "bulk" else 1), seconds=60)
    first, *others = sorted(stack.taken_of(email), key=lambda each: len(each["event"]), reverse=True)
    assert text(first["event"]) == text(whole)
    assert text(first["profile"]) == text(profile)
    assert first["backfill"] == {"entry": None, "event": None}
    assert [each["event"]["properties"] for each in others] == ([{}] if way == "bulk" else [])


@with_each_bulk_client
def test_each_profile_of_a_bulk_request_keeps_its_own_events(
    stack: Stack, outcomes: Outcomes, client: Client
) -> None:
    email = email_of(client, "bulk")
    _, whole = arrived(client, email)

    [other] = eventually(lambda: stack.taken_of(f"other-{email}"), seconds=60)

    assert text(other["event"]) == text(whole)
    assert other["profile"]["attributes"] == {"email": f"other-{email}"}
    assert other["backfill"] == {"entry": True if client.backfill else None, "event": None}


@with_each_client
def test_a_refused_document_is_raised_with_a_pointer_to_each_problem(
    outcomes: Outcomes, client: Client
) -> None:
    entries = "/data/attributes/events-bulk-create/data/0/attributes"
    pointers = (
        ["/data/attributes/profile/$email", "/data/attributes/time"]
        if client.flat
        else [f"{entries}/profile/data/attributes/email", f"{entries}/events/data/0/attributes/time"]
    )

    outcome = outcomes[client.name]["bad document"]

    assert (outcome["raised"], outcome["status"]) == (client.raises[400], 400)
    assert {error["code"] for error in outcome["errors"]} == {"invalid"}
    assert sorted(error["source"]["pointer"] for error in outcome["errors"]) == sorted(pointers)
    if outcome.get("pointers"):  # SDKs that parse the answer into their own type
        assert sorted(outcome["pointers"]) == sorted(pointers)


@with_each_client
@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        ("unknown key", 401, "authentication_failed"),
        ("key without the scope", 403, "permission_denied"),
        ("no such path", 404, "not_found"),
        ("too large", 413, "payload_too_large"),
    ],
)
def test_a_refusal_is_raised(outcomes: Outcomes, client: Client, call: str, status: int, code: str) -> None:
    outcome = outcomes[client.name][call]

    assert (outcome["raised"], outcome["status"]) == (client.raises[status], status)
    assert [error["code"] for error in outcome["errors"]] == [code]


@with_each_client
def test_a_success_is_returned_as_the_client_returns_it(outcomes: Outcomes, client: Client) -> None:
    returned = outcomes[client.name][client.ways[0]]["returned"]

    if client.command[0] == "node":
        assert returned["data"]["type"] == "event-bulk-create-job"
        assert returned["data"]["attributes"]["total_count"] == 3
    else:
        assert returned is None


# Answers that ask for patience. The event upstream shows that the second attempt was taken, once.


def throttled() -> Answer:
    """Answers as API Gateway does above the stage's rate: the emulator has an answer of its own there."""
    template = yaml_parse(Path("template.yaml").read_text())
    response = template["Resources"]["ApiThrottled"]["Properties"]
    static = {
        name.removeprefix("gatewayresponse.header."): value.strip("'")
        for name, value in response["ResponseParameters"].items()
        if isinstance(value, str)
    }
    body = response["ResponseTemplates"]["application/json"].replace("$context.requestId", str(uuid.uuid4()))
    return Answer(int(response["StatusCode"]), httpx2.Headers(static), body.encode())


@pytest.fixture(scope="module")
def put_off(stack: Stack) -> PutOff:
    """Returns the outcomes of each client's requests that were first answered 503 or 429.

    The 503 is the gateway's own: it may not send to its queue until every client has had that answer.
    """
    iam = stack.client("iam")
    ingest = stack.client("lambda").get_function_configuration(
        FunctionName=stack.outputs["IngestFunctionName"]
    )
    denial = {"RoleName": ingest["Role"].rpartition("/")[2], "PolicyName": "without-the-queue"}
    denied = {"Effect": "Deny", "Action": "sqs:SendMessage", "Resource": "*"}
    all_told = threading.Barrier(len(INSTALLED), lambda: iam.delete_role_policy(**denial), timeout=60)

    def unavailable(forward: Forward) -> Answer:
        answer = forward()
        all_told.wait()
        return answer

    with (
        proxying(stack.api, unavailable) as first_503,
        proxying(stack.api, lambda _: throttled()) as first_429,
    ):
        proxies = {"unavailable": first_503, "throttled": first_429}

        def calls(client: Client) -> dict[str, Call]:
            way = client.ways[0]
            return {
                status: Call(
                    proxy.url_of(client.name_in_path),
                    stack.key,
                    way,
                    least(client, way, email_of(client, status)),
                )
                for status, proxy in proxies.items()
            }

        policy = {"Version": "2012-10-17", "Statement": [denied]}
        iam.put_role_policy(**denial, PolicyDocument=json.dumps(policy))
        try:
            made = make_all(calls)
        finally:
            if denial["PolicyName"] in iam.list_role_policies(RoleName=denial["RoleName"])["PolicyNames"]:
                iam.delete_role_policy(**denial)
    return PutOff(made, proxies)


@with_each_client
@pytest.mark.parametrize(("status", "code", "seconds"), [(503, "unavailable", 5), (429, "throttled", 1)])
def test_a_client_that_is_put_off_tries_again(
    stack: Stack, put_off: PutOff, client: Client, status: int, code: str, seconds: int
) -> None:
    first, *later = put_off.proxies[code].exchanges[client.name_in_path]
    outcome = put_off.outcomes[client.name][code]

    assert (first.answer.status, first.answer.headers["Retry-After"]) == (status, str(seconds))
    assert [error["code"] for error in json.loads(first.answer.body)["errors"]] == [code]
    if not client.retries:
        assert (outcome["raised"], outcome["status"], later) == (client.raises[status], status, [])
        assert [error["code"] for error in outcome["errors"]] == [code]
        return
    assert [each.answer.status for each in later] == [202]
    assert later[0].body == first.body
    assert "returned" in outcome
    [taken] = eventually(lambda: stack.taken_of(email_of(client, code)), seconds=60)
    assert taken["event"]["metric"] == metric("Viewed Product")


@with_each_client
def test_a_client_writes_what_is_documented_of_it(put_off: PutOff, client: Client) -> None:
    sent = put_off.proxies["throttled"].exchanges[client.name_in_path][0]

    assert sent.path == client.path
    assert sent.headers["content-type"] == client.media_type
    assert sent.headers["revision"] == client.revision
    assert len(re.findall(rb'"backfill": ?false', sent.body)) == client.unasked
