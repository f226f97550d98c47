"""Tests who is trusted with what, sentence by sentence of docs/architecture.md."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from devstack.fake_upstream import Klaviyo, Settings, transport
from sluice import message, receipts, runtime, seals
from sluice.aws import sealing as adapter
from sluice.delivery import circuit_breaker, http, parking
from sluice.errors import Refused
from sluice.message import Message
from sluice.rejection import Reason, Rejection
from sluice.webhooks import accept as webhooks
from sluice.webhooks import payload, sources
from tests.support import sealing
from tests.support.aws_stack import PRIVATE_KEY, Cloud, Context, close_event_loop, forget_secrets, stored
from tests.support.factories import NOON, SITE_ID, client_bulk, single
from tests.support.ingest_app import CLIENT_BULK, CLIENT_EVENT, Front
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

    def dispatch(self, sender: str = "AIDASOMEBODY") -> int:
        """Delivers what is visible, all from one sender; returns how many messages stay."""
        function = self.cloud.load("dispatch")
        event = self.cloud.receive()
        for record in event["Records"]:
            record["attributes"]["SenderId"] = sender
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

    def name_producers(self, mine: list[str] | None, theirs: list[str] | None) -> None:
        """Writes the accounts document with the producers of the two accounts."""
        self.cloud.name_accounts(_account(SITE_ID, PRIVATE_KEY, mine), _account(OTHER, OTHER_KEY, theirs))

    def drop(self, key: str, content: str, bucket: str = "drops") -> None:
        """Writes an object, and puts the notification of it on the queue."""
        if bucket == "drops":
            self.cloud.s3.put_object(Bucket=bucket, Key=key, Body=content.encode())
        where = {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": "1"}}
        news = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}
        record = {**news, "eventTime": "2026-07-20T12:00:00Z", "s3": where}
        self.cloud.send(json.dumps({"Records": [record]}))

    def objects_read(self) -> list[str]:
        """Returns the keys of the objects that were read, apart from the accounts document."""
        return [each["Key"] for each in self.cloud.calls.of("GetObject") if each["Bucket"] != "configuration"]

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


@pytest.mark.trust("A message, a claim check or a parked object counts as Sluice's only by its seal.")
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


@pytest.mark.trust("A producer decides nothing about receipts, probes and circuits.")
def test_a_forged_message_decides_nothing_about_another_accounts_receipt(stack: Stack) -> None:
    theirs = request("b", OTHER)
    forged = msgspec.structs.replace(request("a"), receipt=theirs.receipt)
    stack.cloud.send(message.encode(forged).text, seal="")
    assert stack.dispatch() == 0

    stack.cloud.send(message.encode(theirs).text, resumed="1")
    assert stack.dispatch() == 0

    assert stack.delivered(OTHER) == Counter(["b", "b2"])
    assert stack.delivered(SITE_ID) == Counter()


@pytest.mark.trust("A producer decides nothing about receipts, probes and circuits.")
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


@pytest.mark.trust("A message, a claim check or a parked object counts as Sluice's only by its seal.")
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


@pytest.mark.trust("A message, a claim check or a parked object counts as Sluice's only by its seal.")
def test_a_forged_claim_reads_no_object(stack: Stack) -> None:
    body = _large()
    stack.cloud.s3.put_object(Bucket="claims", Key="claims/c", Body=body.claim_bytes)
    stack.cloud.send(body.text, seal="")

    assert stack.dispatch() == 0

    assert stack.objects_read() == []
    assert [each["reason"] for each in stack.rejections()] == ["not_sealed"]
    line = stack.archive(body.text)
    assert (line["reason"], line["payload"]) == ("dead_letter", body.text)
    assert stack.objects_read() == []


@pytest.mark.trust("A message, a claim check or a parked object counts as Sluice's only by its seal.")
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


@pytest.mark.trust("A message, a claim check or a parked object counts as Sluice's only by its seal.")
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


class TestProducers:
    """Tests for whom a producer may send."""

    @pytest.mark.trust("A producer sends for the accounts that name it, or for the only account.")
    @pytest.mark.parametrize(
        ("mine", "theirs", "account", "taken"),
        [
            (["queue"], ["queue"], OTHER, True),
            (["queue"], [], OTHER, False),
            (["queue"], None, OTHER, False),
            (None, None, SITE_ID, False),
            (["s3://drops/"], None, SITE_ID, False),
            (["sender:AROANOBODY"], None, SITE_ID, False),
            (["sender:AROANOBODY", "sender:AROATESTS"], None, SITE_ID, True),
            (["queue"], ["queue"], "NoSuch", False),
        ],
    )
    def test_a_producer_sends_for_the_accounts_that_name_it(
        self,
        stack: Stack,
        mine: list[str] | None,
        theirs: list[str] | None,
        account: str,
        taken: bool,
    ) -> None:
        stack.name_producers(mine, theirs)
        stack.cloud.send(body_of("a"), account=account)

        assert stack.dispatch(sender="AROATESTS:session") == 0

        found = stack.delivered(SITE_ID) + stack.delivered(OTHER)
        assert found == (Counter(["a"]) if taken else Counter())
        assert len(stack.rejections()) == (not taken)

    @pytest.mark.trust("A producer sends for the accounts that name it, or for the only account.")
    @pytest.mark.parametrize(("producers", "taken"), [(None, True), ([], False), (["queue"], True)])
    def test_the_only_account_takes_all_unless_it_says_otherwise(
        self, stack: Stack, producers: list[str] | None, taken: bool
    ) -> None:
        stack.cloud.name_accounts(_account(SITE_ID, PRIVATE_KEY, producers))
        stack.cloud.send(body_of("a"))

        assert stack.dispatch() == 0

        assert stack.delivered() == (Counter(["a"]) if taken else Counter())

    @pytest.mark.trust("A producer files no rejection under an account that does not name it.")
    def test_a_rejection_is_filed_under_no_account_that_does_not_name_the_producer(
        self, stack: Stack
    ) -> None:
        stack.name_producers(["queue"], [])
        stack.cloud.send("not JSON", account=OTHER)
        stack.cloud.send("not JSON either", account=SITE_ID)
        stack.cloud.send(body_of("a"), account=OTHER)

        assert stack.dispatch(sender="AROATESTS:session") == 0

        filed = Counter(each.get("account", "unknown") for each in stack.rejections())
        assert filed == {"unknown": 2, SITE_ID: 1}
        [told] = [each["detail"] for each in stack.rejections() if "may not send" in each["detail"]]
        assert told.startswith(f"sender:AROATESTS may not send for {OTHER}")

    @pytest.mark.trust(
        "An object is read only below a prefix that an account names, in a bucket of `ImportBuckets`."
    )
    def test_an_object_that_no_account_names_is_not_read(self, stack: Stack) -> None:
        stack.name_producers(["s3://drops/mine/"], ["queue"])
        stack.drop("theirs/a.jsonl", body_of("a"))
        stack.drop("mine/b.jsonl", body_of("b", account=SITE_ID))

        stack.dispatch()
        stack.dispatch()

        assert stack.objects_read() == ["mine/b.jsonl"]
        assert stack.delivered() == Counter(["b"])
        [told] = stack.rejections()
        assert "It was not read" in told["detail"]

    @pytest.mark.trust(
        "An object is read only below a prefix that an account names, in a bucket of `ImportBuckets`."
    )
    def test_an_object_of_another_bucket_waits_for_its_operator(self, stack: Stack) -> None:
        stack.name_producers(["s3://elsewhere/"], [])
        stack.drop("a.jsonl", body_of("a"), bucket="elsewhere")

        assert stack.dispatch() == 1

        assert stack.objects_read() == []

    @pytest.mark.trust("A line of an object goes only to an account that names its prefix.")
    def test_a_line_goes_only_to_an_account_that_names_its_prefix(self, stack: Stack) -> None:
        stack.name_producers(["s3://drops/"], ["s3://drops/both/"])
        for key in ("mine/a.jsonl", "both/b.jsonl"):
            stack.drop(key, body_of(key, account=OTHER) + "\n" + body_of(f"{key} 2", account=SITE_ID))

        stack.dispatch()
        stack.dispatch()

        assert stack.delivered(OTHER) == Counter(["both/b.jsonl"])
        assert stack.delivered(SITE_ID) == Counter(["mine/a.jsonl 2", "both/b.jsonl 2"])
        [told] = stack.rejections()
        assert (told.get("account", "unknown"), told["line"]) == ("unknown", "s3://drops/mine/a.jsonl:1")


@pytest.mark.trust("A browser's events go to the account whose site id it names.")
@pytest.mark.parametrize("path", [CLIENT_EVENT, CLIENT_BULK])
def test_a_browsers_events_go_to_the_account_whose_site_id_it_names(front: Front, path: str) -> None:
    document = single() if path == CLIENT_EVENT else client_bulk()

    for site_id in (SITE_ID, OTHER):
        assert front.send(path, document, query={"company_id": site_id}).status == 202
        assert [json.loads(body)["account"] for body in front.queued()] == [site_id]
    assert front.send(path, document, query={"company_id": "Nobody"}).status == 400


@pytest.mark.trust("A delivery is read only once its signature is verified.")
def test_a_delivery_is_read_only_once_its_signature_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(payload, "read", read)
    [source] = sources.decode(
        json.dumps(
            {
                "sources": {
                    "own": {
                        "account": SITE_ID,
                        "secret": "own",
                        "signature": {"scheme": "github"},
                        "events": {"e": {"metric": "M", "profile": {"email": "user.email"}}},
                    }
                }
            }
        ).encode()
    ).sources.values()

    ports: Any = _Secret()
    with pytest.raises(Refused) as refused:
        webhooks.accept(source, {"x-hub-signature-256": "sha256=00"}, b"{}", ports=ports, now=NOON)

    assert refused.value.status == 401


class _Secret:
    """Plays the ports of a delivery that reaches nothing but its secret."""

    def secret(self, *, name: str) -> str:
        return "the secret"


@pytest.mark.trust(
    "Dispatch reads private keys as it needs them. Ingest, which strangers reach, reads those of Pipeless's "
    "apps alone, for synchronous batches."
)
def test_ingest_may_read_private_keys_of_apps_alone() -> None:
    roles = {
        name: json.dumps(each["Properties"]["Policies"])
        for name, each in yaml_parse(Path("template.yaml").read_text())["Resources"].items()
        if each["Type"] == "AWS::IAM::Role"
    }

    assert [name for name, policies in roles.items() if "/accounts/pipeless-*" in policies] == [
        "IngestFunctionRole"
    ]
    readers = [name for name, policies in roles.items() if "/accounts/*" in policies]
    assert readers == ["DispatchFunctionRole", "OperateFunctionRole"]


@pytest.mark.trust(
    "Only operate may write the accounts document and private keys, and no function the keys of seals or "
    "webhooks' secrets."
)
def test_only_operate_may_write_the_accounts_document_and_no_function_another_secret() -> None:
    resources = yaml_parse(Path("template.yaml").read_text())["Resources"]
    writing = {
        (name, json.dumps(statement["Resource"]))
        for name, each in resources.items()
        if each["Type"] == "AWS::IAM::Role"
        for policy in each["Properties"]["Policies"]
        for statement in _statements(policy["PolicyDocument"]["Statement"])
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
        if action.startswith("secretsmanager:") and action.partition(":")[2] not in _READING
    }

    assert {role for role, _ in writing} == {"OperateFunctionRole"}
    assert all("/accounts/*" in resource and "Sealing" not in resource for _, resource in writing)


_READING = {"GetSecretValue", "DescribeSecret"}


def _statements(listed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in listed:
        yield each["Fn::If"][1] if "Fn::If" in each else each


def _account(site_id: str, private_key: str, producers: list[str] | None) -> dict[str, Any]:
    account: dict[str, Any] = {"site_id": site_id, "private_key": private_key}
    return account if producers is None else account | {"producers": producers}


def body_of(name: str, account: str | None = None) -> str:
    """Returns the body of an event, in the envelope that names its account if one is given."""
    body = single(unique_id=name)
    return json.dumps({"account": account, "body": body} if account else body)
