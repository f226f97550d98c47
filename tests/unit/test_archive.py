"""Tests how a message is archived, and where: every form it may have, damaged ones too."""

import base64
import itertools
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import zstandard

from sluice import archive, message, rejection
from sluice.archive import CLAIM_RECEIVES, QueuedMessage
from sluice.contract import PIPELESS_SURFACE, Surface
from sluice.errors import Retryable
from sluice.message import (
    Body,
    Message,
    PipelessEvent,
    PipelessMessage,
    PipelessObject,
    PipelessRelationship,
)
from sluice.records.record import archive_key
from sluice.rejection import Reason, Rejection
from tests.support.factories import NOON, SITE_ID

NOW = NOON + timedelta(days=3)
ENTRY = {"key": "k", "profile": {"type": "profile"}, "events": [{"id": "e", "attributes": {"value": 1}}]}


def no_claim(key: str) -> bytes:
    raise AssertionError(f"{key} is not where this letter is")


def unreachable(key: str) -> bytes:
    raise Retryable("a claim cannot be read")


def letter(body: str, receives: int = 1) -> QueuedMessage:
    return QueuedMessage("message-1", body, NOON + timedelta(hours=1), receives)


def archive_objects(rejections: Iterable[Rejection]) -> dict[str, bytes]:
    return archive.lay_out(rejections).objects


def rejected(**fields: Any) -> Rejection:
    given: dict[str, Any] = {
        "reason": Reason.REFUSED,
        "detail": "Invalid email address.",
        "payload": msgspec.Raw(b'{"profile":{},"events":[{"value":1}]}'),
        "rejected_at": NOON,
        "account": SITE_ID,
        "pointer": "/data/attributes/x",
    }
    return Rejection(**given | fields)


def padded(size: int) -> dict[str, Any]:
    return ENTRY | {"profile": {"text": base64.b64encode(random.Random(1).randbytes(size)).decode()}}


def accepted(entry: Any = ENTRY) -> Message[Any]:
    raw = msgspec.convert(
        {
            "sluice": 1,
            "receipt": "r1",
            "account": SITE_ID,
            "surface": "bulk",
            "accepted": NOON,
            "entries": [entry],
        },
        Message[Any],
    )
    assert isinstance(raw, Message)
    return raw


# A letter's three forms, by the size of what is in it.
SIZES = {"plain": 10, "zstd": 100_000, "claim": 1_500_000}


def in_form(body: Body, form: str) -> tuple[str, Callable[[str], bytes]]:
    """Returns a body that must have this form, and a function that reads its claim check."""
    if form == "claim":
        assert body.claim_key is not None
        claims = {body.claim_key: body.claim_bytes}
        return body.text, claims.__getitem__
    assert body.claim_key is None
    assert ("zstd" in body.text) == (form == "zstd")
    return body.text, no_claim


@pytest.mark.parametrize(("form", "size"), SIZES.items())
def test_a_rejection_is_archived_as_it_is(form: str, size: int) -> None:
    payload = msgspec.Raw(msgspec.json.encode(padded(size)))
    refused = rejected(payload=payload)
    body, fetch = in_form(rejection.encode(refused), form)

    found = archive.read(letter(body), fetch, NOW)

    assert msgspec.json.encode(found) == msgspec.json.encode(refused)


@pytest.mark.parametrize(("form", "size"), SIZES.items())
def test_a_dead_letter_is_archived_with_what_it_says_of_itself(form: str, size: int) -> None:
    stored = accepted(padded(size))
    body, fetch = in_form(message.encode(stored), form)

    found = archive.read(letter(body, receives=500), fetch, NOW)

    assert found.reason is Reason.DEAD_LETTER
    assert "500" in found.detail
    assert (found.account, found.surface, found.receipt) == (SITE_ID, "bulk", "r1")
    assert found.accepted == NOON
    assert found.rejected_at == NOW
    assert found.id == rejection.rejection_id(letter("").sent, "message-1")
    assert msgspec.json.decode(found.payload) == msgspec.to_builtins(stored)


def test_a_dead_letter_for_pipeless_is_archived_with_what_it_says_of_itself() -> None:
    event = PipelessEvent(
        PipelessObject("ada", "user"), PipelessRelationship("liked"), PipelessObject("1001", "article")
    )
    stored = PipelessMessage("r1", 123, NOON, [event])

    found = archive.read(letter(message.encode(stored).text, receives=500), no_claim, NOW)

    assert found.reason is Reason.DEAD_LETTER
    assert (found.account, found.surface, found.receipt) == ("pipeless-123", PIPELESS_SURFACE, "r1")
    assert (found.accepted, found.source) == (NOON, None)
    assert msgspec.json.decode(found.payload)["events"] == [msgspec.to_builtins(event)]


@pytest.mark.parametrize(("form", "size"), SIZES.items())
def test_what_dispatch_gave_up_on_is_archived_unpacked(form: str, size: int) -> None:
    stored = accepted(padded(size))
    body, fetch = in_form(message.encode(stored), form)
    given_up = rejected(reason=Reason.DEAD_LETTER, payload=msgspec.Raw(msgspec.json.encode(body)))

    found = archive.read(letter(rejection.encode(given_up).text), fetch, NOW)

    assert found.reason is Reason.DEAD_LETTER
    assert found.id == given_up.id
    assert found.receipt == "r1"
    assert msgspec.json.decode(found.payload) == msgspec.to_builtins(stored)


FRAME = base64.b64encode(zstandard.compress(b'{"sluice":1}'))
DAMAGED = [
    "",
    "not JSON",
    '{"data": {"type": "event"}}',
    '{"sluice":1}',
    '{"sluice":1,"receipt":5}',
    '{"sluice":1,"zstd":"%%%"}',
    '{"sluice":1,"zstd":"AAAA"}',
    '{"sluice":1,"zstd":"' + FRAME[:-8].decode() + '"}',
    '{"sluice":1,"zstd":null}',
    '{"sluice":1,"claim":5}',
    '{"reason":"refused_by_upstream"}',
    '{"reason":"unheard of","detail":"","payload":{},"rejected_at":"2026-07-20T12:00:00Z"}',
    '{"a":"\ud800"}',
    "[" * 5_000,
]


@pytest.mark.parametrize("body", DAMAGED, ids=range(len(DAMAGED)))
def test_what_cannot_be_read_is_archived_as_it_is(body: str) -> None:
    safe = body.encode("utf-8", "replace").decode()

    found = archive.read(letter(safe, receives=7), no_claim, NOW)

    assert found.reason is Reason.DEAD_LETTER
    assert "7" in found.detail
    assert msgspec.json.decode(found.payload) == safe
    assert found.account == rejection.UNKNOWN_ACCOUNT
    assert found.accepted == letter("").sent
    [lines] = archive_objects([found]).values()
    assert msgspec.json.decode(lines)["payload"] == safe


CLAIM = '{"sluice":1,"claim":"claims/c1"}'
GIVEN_UP = rejection.encode(
    rejected(reason=Reason.DEAD_LETTER, payload=msgspec.Raw(msgspec.json.encode(CLAIM)))
).text


@pytest.mark.parametrize("body", [CLAIM, GIVEN_UP], ids=["letter", "in a rejection"])
def test_a_claim_that_cannot_be_read_is_waited_for_but_not_for_ever(body: str) -> None:
    for receives in (1, CLAIM_RECEIVES - 1):
        with pytest.raises(Retryable):
            archive.read(letter(body, receives), unreachable, NOW)

    found = archive.read(letter(body, CLAIM_RECEIVES), unreachable, NOW)

    assert found.reason is Reason.DEAD_LETTER
    assert msgspec.json.decode(found.payload) == CLAIM


def test_a_claim_that_is_damaged_is_not_waited_for() -> None:
    found = archive.read(letter(CLAIM), lambda key: b"no frame", NOW)

    assert msgspec.json.decode(found.payload) == CLAIM


def test_there_is_an_object_for_each_account_and_day() -> None:
    tomorrow = NOON + timedelta(days=1)
    refused = [
        rejected(id="1"),
        rejected(id="2"),
        rejected(id="3", account="XyZ789"),
        rejected(id="4", rejected_at=tomorrow),
    ]

    objects = archive_objects(refused)

    partitions = {key.rsplit("/", 1)[0]: lines for key, lines in objects.items()}
    ids = {
        partition: [msgspec.json.decode(line)["id"] for line in lines.splitlines()]
        for partition, lines in partitions.items()
    }
    assert ids == {
        f"rejections/account={SITE_ID}/day=2026-07-20": ["1", "2"],
        "rejections/account=XyZ789/day=2026-07-20": ["3"],
        f"rejections/account={SITE_ID}/day=2026-07-21": ["4"],
    }


def test_nothing_to_archive_is_no_object() -> None:
    assert archive_objects([]) == {}


def test_the_same_rejections_are_the_same_object_in_any_order() -> None:
    refused = [rejected(id=str(number)) for number in range(4)]

    keys = {tuple(archive_objects(order)) for order in itertools.permutations(refused)}
    others = {tuple(archive_objects(refused[:3])), tuple(archive_objects([*refused, rejected(id="5")]))}

    assert len(keys) == 1
    assert len(others | keys) == 3


@pytest.mark.parametrize(
    "account", ["../../elsewhere", "a/b", "", "x" * 2_000, "ann@example.com", "unknown", "AbC12\n"]
)
def test_an_account_that_is_no_site_id_is_no_part_of_a_key(account: str) -> None:
    [(key, lines)] = archive_objects([rejected(account=account)]).items()

    assert key.startswith("rejections/account=unknown/day=2026-07-20/")
    assert msgspec.json.decode(lines).get("account", "unknown") == account


def test_each_line_is_where_its_location_says() -> None:
    refused = [rejected(id=str(number), detail="x" * number) for number in (3, 1, 2)]

    written = archive.lay_out(refused)

    for each in refused:
        where = written.locations[each.id]
        content = written.objects[archive_key(SITE_ID, NOON, where.name)]
        line = content[where.offset : where.offset + where.length]
        assert msgspec.json.decode(line)["detail"] == each.detail


def test_an_object_is_never_written_with_another_content() -> None:
    first, again = rejected(id="1"), rejected(id="1", detail="Refused again, in other words.")

    assert archive_objects([first]).keys().isdisjoint(archive_objects([again]))


def test_every_line_is_json_of_its_own() -> None:
    payloads = [b'{"text":"a\\nb"}', b'"plain"', '{"ä":"\u2028"}'.encode(), b"null"]
    refused = [rejected(id=str(n), payload=msgspec.Raw(each)) for n, each in enumerate(payloads)]

    [content] = archive_objects(refused).values()

    lines = content.split(b"\n")
    assert lines.pop() == b""
    assert [msgspec.json.decode(line)["id"] for line in lines] == ["0", "1", "2", "3"]
    assert [msgspec.json.decode(line)["payload"] for line in lines] == list(
        map(msgspec.json.decode, payloads)
    )


def test_a_payload_with_line_ends_is_one_line() -> None:
    by_hand = rejected(payload=msgspec.Raw(b'{\n  "profile": {}\n}'))
    body = msgspec.json.encode(by_hand).decode()

    found = archive.read(letter(body), no_claim, datetime.now(UTC))
    [content] = archive_objects([found]).values()

    assert content.count(b"\n") == 1
    assert msgspec.json.decode(content)["payload"] == {"profile": {}}


def test_surfaces_are_archived_by_name() -> None:
    [content] = archive_objects([rejected(surface=Surface.CLIENT_EVENT)]).values()

    assert msgspec.json.decode(content)["surface"] == "client-event"
