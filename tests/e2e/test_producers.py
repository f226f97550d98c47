"""Tests the template docs/producers.yaml, deployed beside the stack: each way in brings events."""

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Stack, eventually
from tests.support.factories import bulk, encoded, entry, event, profile, single

NAME = "sluice-producers"
BUCKET = "sluice-events"


@pytest.fixture(scope="module")
def producers(stack: Stack) -> dict[str, str]:
    """Deploys the template and returns its outputs."""
    cloudformation = stack.client("cloudformation")
    given = {
        "EventsQueueUrl": stack.outputs["EventsQueueUrl"],
        "EventsQueueArn": stack.outputs["EventsQueueArn"],
        "SiteId": stack.site_id,
        "BucketName": BUCKET,
    }
    cloudformation.create_stack(
        StackName=NAME,
        TemplateBody=Path("docs/producers.yaml").read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    [made] = cloudformation.describe_stacks(StackName=NAME)["Stacks"]
    return {each["OutputKey"]: each["OutputValue"] for each in made["Outputs"]}


def fresh() -> str:
    return f"{uuid.uuid4().hex}@example.com"


def one(email: str, **given: Any) -> dict[str, Any]:
    return single(of=profile(email=email), **given)


def arrived(stack: Stack, email: str, count: int = 1) -> list[dict[str, Any]]:
    eventually(lambda: len(stack.taken_of(email)) == count)
    return [each["event"] for each in stack.taken_of(email)]


@pytest.mark.parametrize("raw", ["true", "false"])
def test_what_is_published_to_a_topic_arrives(stack: Stack, producers: dict[str, str], raw: str) -> None:
    sns = stack.client("sns")
    topic = producers["TopicArn"]
    [subscription] = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    sns.set_subscription_attributes(
        SubscriptionArn=subscription["SubscriptionArn"],
        AttributeName="RawMessageDelivery",
        AttributeValue=raw,
    )

    def publish(body: Any, **attributes: str) -> None:
        named = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        sns.publish(TopicArn=topic, Message=encoded(body).decode(), MessageAttributes=named)

    plain, client, nobodys = fresh(), fresh(), fresh()
    both = profile(email=client, external_id="somebody else")

    publish(bulk(entry(event(value=9), of=profile(email=plain))))
    publish(single(of=both), account=stack.site_id, surface="client-event")
    publish(one(nobodys), account="not a site id")

    assert [each["value"] for each in arrived(stack, plain)] == [9]
    assert arrived(stack, client)
    # Only a browser's event loses what could attach it to somebody else.
    assert [each["profile"]["attributes"] for each in stack.taken_of(client)] == [{"email": client}]
    [rejection] = eventually(lambda: [each for each in stack.archived() if nobodys in str(each["payload"])])
    assert rejection["detail"] == "'account' must be a site id: six letters or digits."


def test_events_of_a_bus_arrive_as_they_are_and_transformed(stack: Stack, producers: dict[str, str]) -> None:
    plain, named, transformed = fresh(), fresh(), fresh()
    order = {"customer": {"email": transformed}, "order": "1001", "total": 19.9}
    details = [
        ("Klaviyo Event", one(plain)),
        ("Klaviyo Event", {"account": stack.site_id, "surface": "event", "body": one(named)}),
        ("Order Placed", order),
        ("Nothing We Know", one(fresh())),
    ]

    put = stack.client("events").put_events(
        Entries=[
            {
                "EventBusName": producers["BusName"],
                "Source": "shop",
                "DetailType": kind,
                "Detail": json.dumps(detail),
            }
            for kind, detail in details
        ]
    )

    assert put["FailedEntryCount"] == 0
    assert arrived(stack, plain)
    assert arrived(stack, named)
    [made] = arrived(stack, transformed)
    assert (made["properties"], made["value"]) == ({"order": "1001"}, 19.9)
    assert made["unique_id"] == put["Entries"][2]["EventId"]


def test_lines_of_an_object_arrive_and_bad_ones_are_archived(stack: Stack, producers: dict[str, str]) -> None:
    emails = [fresh() for _ in range(3)]
    marker = uuid.uuid4().hex
    lines = [*(encoded(one(email)) for email in emails), f"not JSON {marker}".encode()]
    content = gzip.compress(b"\n".join(lines))

    stack.client("s3").put_object(
        Bucket=BUCKET, Key=f"events/{marker} ü.jsonl.gz", Body=content, Metadata={"account": stack.site_id}
    )

    assert all(arrived(stack, email) for email in emails)
    [rejection] = eventually(lambda: [each for each in stack.archived() if marker in str(each["payload"])])
    assert rejection["line"] == f"s3://{BUCKET}/events/{marker} ü.jsonl.gz:4"
    assert rejection["reason"] == "malformed_message"


def test_an_object_that_is_gone_is_told_from_one_that_may_not_be_read(
    stack: Stack, producers: dict[str, str]
) -> None:
    key = f"events/{uuid.uuid4().hex}"
    news = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "eventTime": "2026-11-20T09:30:00Z",
        "s3": {"bucket": {"name": BUCKET}, "object": {"key": key}},
    }

    stack.put(json.dumps({"Records": [news]}))

    [rejection] = eventually(lambda: [each for each in stack.archived() if key in each.get("line", "")])
    assert rejection["reason"] == "invalid"
    assert eventually(lambda: stack.waiting("EventsQueueUrl") == 0)
