"""Tests who is trusted with what, sentence by sentence of docs/architecture.md."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import msgspec
import pytest

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice import message, receipts, runtime, seals
from sluice.aws import sealing as adapter
from sluice.delivery import circuit_breaker, http, parking
from sluice.message import Message
from sluice.rejection import Reason, Rejection
from tests.support import sealing
from tests.support.aws_stack import PRIVATE_KEY, Cloud, Context, close_event_loop, forget_secrets, stored
from tests.support.factories import NOON, SITE_ID
from tests.support.sealing import SEALING

OTHER, OTHER_KEY = "XyZ789", "pk_other"
NEXT = json.dumps({"current": "the second key that makes seals in tests", "previous": sealing.KEYS.current})
AFTER_NEXT = '{"current": "the third key that makes seals in tests"}'


class Stack:
    """Runs dispatch, resume and reject for two accounts."""

    def __init__(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloud = cloud
        self.klaviyo = Klaviyo({SITE_ID: PRIVATE_KEY, OTHER: OTHER_KEY}, Settings.unlimited())
        self._client = httpx2.AsyncClient(transport=transport(self.klaviyo))
        monkeypatch.setattr(http, "client", lambda: self._client)
        cloud.name_accounts(
            {"site_id": SITE_ID, "private_key": PRIVATE_KEY}, {"site_id": OTHER, "private_key": OTHER_KEY}
        )
        self.said = ""

    def dispatch(self) -> int:
        """Delivers what is visible; returns how many messages stay."""
        function = self.cloud.load("dispatch")
        event = self.cloud.receive()
        answer = function(event)
        self.cloud.settle(event, answer)
        self.said += function.said
        return len(answer["batchItemFailures"])

    def resume(self) -> dict[str, float]:
        """Runs a tick; returns its metrics."""
        function = self.cloud.load("resume")
        function({}, Context(55.0))
        self.said += function.said
        return function.metrics()

    def archive(self, body: str, seal: str = "") -> dict[str, Any]:
        """Archives a message of a dead-letter queue, and returns the line of the last dead letter."""
        self.cloud.send(body, queue=self.cloud.rejected, seal=seal)
        self.cloud.load("reject")(self.cloud.receive(self.cloud.rejected), Context(60.0))
        content = b"".join(self.cloud.content("archive", key) for key in self.cloud.keys("archive"))
        lines: list[dict[str, Any]] = [json.loads(line) for line in content.splitlines()]
        return next(line for line in lines if line["reason"] == "dead_letter")

    def rejections(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.cloud.left(self.cloud.rejected)]

    def delivered(self, account: str = SITE_ID) -> Counter[str]:
        return Counter(taken.event["unique_id"] for taken in self.klaviyo.events(account))

    def write_keys(self, document: str) -> None:
        self.cloud.secrets.put_secret_value(SecretId="sealing", SecretString=document)
        forget_secrets()


@pytest.fixture
def stack(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    yield Stack(cloud, monkeypatch)
    close_event_loop()


def request(name: str, account: str = SITE_ID, *, padding: str = "") -> Message[Any]:
    return stored((name, name), (name, f"{name}2"), receipt=f"r-{name}", account=account, padding=padding)


FORGED = "a seal that nobody made"
SEALS = {
    "none": "",
    "of another message": sealing.seal("another message"),
    "of another key": seals.make(seals.parse(AFTER_NEXT), seals.MESSAGE, message.encode(request("a")).text),
    "of no form": FORGED,
}


@pytest.mark.parametrize("seal", SEALS.values(), ids=SEALS.keys())
def test_only_sluice_stores_requests(stack: Stack, monkeypatch: pytest.MonkeyPatch, seal: str) -> None:
    body = message.encode(request("a")).text
    stack.cloud.send(body, seal=seal)
    later = runtime.now() + 2 * adapter.NEW_KEY_AGE
    monkeypatch.setattr(runtime, "now", lambda: later)

    assert stack.dispatch() == 0

    assert stack.klaviyo.requests() == []
    [told] = stack.rejections()
    assert (told["reason"], told["payload"]) == ("not_sealed", body)
    assert told.get("account", "unknown") == "unknown"
    assert "Only Sluice stores requests" in told["detail"]


def test_a_forged_message_decides_nothing_about_another_accounts_receipt(stack: Stack) -> None:
    theirs = request("b", OTHER)
    forged = msgspec.structs.replace(request("a"), receipt=theirs.receipt)
    stack.cloud.send(message.encode(forged).text, seal="")
    assert stack.dispatch() == 0

    stack.cloud.send(message.encode(theirs).text, resumed="1")
    assert stack.dispatch() == 0

    assert stack.delivered(OTHER) == Counter(["b", "b2"])
    assert stack.delivered(SITE_ID) == Counter()


def test_a_forged_probe_closes_no_circuit(stack: Stack) -> None:
    circuit_breaker.open_circuit("state", SITE_ID, 401)
    body = json.dumps(
        {
            "data": {
                "type": "event",
                "attributes": {
                    "profile": {"data": {"type": "profile", "attributes": {"email": "a@mail.example"}}},
                    "metric": {"data": {"type": "metric", "attributes": {"name": "Viewed Product"}}},
                    "properties": {},
                },
            }
        }
    )
    stack.cloud.send(body, probe="1", resumed="1", account=SITE_ID)
    stack.cloud.send(message.encode(request("a")).text, probe="1", seal="")

    assert stack.dispatch() == 0

    assert circuit_breaker.is_open("state", SITE_ID)
    assert stack.klaviyo.requests() == []


def _large() -> message.Body:
    """Returns a request that is a claim check."""
    return message.Body(*_claim(msgspec.json.encode(request("large"))))


def _claim(plain: bytes) -> tuple[str, str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message, "PLAIN_BYTES", 0)
        patch.setattr(message, "MESSAGE_BYTES", 0)
        body = message.wrap(plain, "claims/c")
    assert body.claim_key is not None
    return body.text, body.claim_key, body.claim_bytes


def test_a_claim_check_is_believed_by_the_digest_of_its_object(stack: Stack) -> None:
    body = _large()
    other = message.Body(*_claim(msgspec.json.encode(request("forged"))))
    stack.cloud.s3.put_object(Bucket="claims", Key="claims/c", Body=other.claim_bytes)
    stack.cloud.send(body.text)

    assert stack.dispatch() == 0

    assert stack.klaviyo.requests() == []
    [told] = stack.rejections()
    assert told["reason"] == "malformed_message"

    stack.cloud.s3.put_object(Bucket="claims", Key="claims/c", Body=body.claim_bytes)
    stack.cloud.send(body.text)
    assert stack.dispatch() == 0
    assert stack.delivered() == Counter(["large", "large2"])


def test_a_forged_claim_reads_no_object(stack: Stack) -> None:
    body = _large()
    stack.cloud.s3.put_object(Bucket="claims", Key="claims/c", Body=body.claim_bytes)
    stack.cloud.send(body.text, seal="")

    assert stack.dispatch() == 0

    assert stack.cloud.calls.of("GetObject") == []
    assert [each["reason"] for each in stack.rejections()] == ["not_sealed"]
    line = stack.archive(body.text)
    assert (line["reason"], line["payload"]) == ("dead_letter", body.text)
    assert stack.cloud.calls.of("GetObject") == []


def test_a_parked_object_is_believed_by_its_seal(stack: Stack) -> None:
    park(stack, "mine")
    [key] = stack.cloud.keys("claims", "parked/")
    sealed = stack.cloud.s3.get_object(Bucket="claims", Key=key)
    content, metadata = sealed["Body"].read(), sealed["Metadata"]
    moved, changed = f"parked/{OTHER}/0.jsonl.zst", f"parked/{SITE_ID}/0.jsonl.zst"
    stack.cloud.s3.put_object(Bucket="claims", Key=moved, Body=content, Metadata=metadata)
    stack.cloud.s3.put_object(Bucket="claims", Key=changed, Body=content)

    metrics = stack.resume()

    assert metrics["NotSealed"] == 2
    assert [json.loads(body)["receipt"] for body in stack.cloud.left()] == ["r-mine"]
    assert set(stack.cloud.keys("claims", "parked/")) == {moved, changed}
    assert "parked objects not sealed" in stack.said


def park(stack: Stack, name: str) -> None:
    made = msgspec.json.encode(request(name))
    parking.park("claims", SITE_ID, [made], sealing=SEALING)


def test_a_rejection_is_believed_by_its_seal(stack: Stack) -> None:
    payload = msgspec.Raw(msgspec.json.encode(message.encode(request("b", OTHER)).text))
    forged = Rejection(Reason.DEAD_LETTER, "forged", payload, NOON, account=OTHER, id="0" * 32)
    body = msgspec.json.encode(forged).decode()

    line = stack.archive(body)

    assert (line["reason"], line["payload"]) == ("dead_letter", body)
    assert line.get("account", "unknown") == "unknown"
    assert stack.cloud.item(f"receipt#{receipts.scoped(OTHER, 'r-b')}") is None


class TestChangeOfKeys:
    """Tests that a change of keys loses nothing."""

    def test_what_was_sealed_before_is_delivered_resumed_and_archived(self, stack: Stack) -> None:
        park(stack, "parked")
        body = message.encode(request("queued")).text
        stack.cloud.send(body)
        stack.write_keys(NEXT)

        stack.resume()
        assert stack.dispatch() == 0

        assert stack.delivered() == Counter(["queued", "queued2", "parked", "parked2"])
        assert stack.archive(body, sealing.seal(body))["account"] == SITE_ID

    def test_a_dead_letter_that_is_sent_back_is_still_believed(self, stack: Stack) -> None:
        body = message.encode(request("back")).text
        stack.write_keys(NEXT)
        stack.cloud.send(body, queue=stack.cloud.rejected)
        [record] = stack.cloud.receive(stack.cloud.rejected)["Records"]
        named = {name: value["stringValue"] for name, value in record["messageAttributes"].items()}
        stack.cloud.send(record["body"], **named)

        assert stack.dispatch() == 0

        assert stack.delivered() == Counter(["back", "back2"])

    def test_a_message_with_a_key_that_is_not_known_yet_waits(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = message.encode(request("new")).text
        made = seals.make(seals.parse(NEXT), seals.MESSAGE, body)
        stack.cloud.send(body, seal=made)
        assert stack.dispatch() == 1

        stack.write_keys(NEXT)
        stack.cloud.send(body, seal=made)
        assert stack.dispatch() == 0
        assert stack.delivered() == Counter(["new", "new2"])

    def test_a_broken_secret_is_replaced_by_its_version_before(self, stack: Stack) -> None:
        stack.cloud.send(message.encode(request("a")).text)
        stack.write_keys("not JSON")

        assert stack.dispatch() == 0

        assert stack.delivered() == Counter(["a", "a2"])

    def test_a_secret_out_of_reach_costs_no_message(self, stack: Stack) -> None:
        stack.cloud.send(message.encode(request("a")).text)
        stack.cloud.calls.fail("GetSecretValue", when=lambda call: call["SecretId"] == "sealing")

        assert stack.dispatch() == 1

        assert stack.rejections() == []

    def test_a_parked_object_of_an_older_key_waits_for_it(self, stack: Stack) -> None:
        park(stack, "old")
        stack.write_keys(AFTER_NEXT)
        assert stack.resume()["NotSealed"] == 1
        assert stack.cloud.left() == []

        stack.write_keys(NEXT)
        assert stack.resume()["NotSealed"] == 0
        assert len(stack.cloud.left()) == 1
