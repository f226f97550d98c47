"""Tests the three forms of a queue message: each is read as it was written, and damage is recognised."""

import base64
import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sluice import message
from sluice.contract import MAX_BODY_BYTES_IN, Surface
from sluice.errors import Undeliverable
from sluice.klaviyo import parser
from sluice.message import MAX_UNPACKED_BYTES, MESSAGE_BYTES, PLAIN_BYTES, Body, Entry, Event, Message
from tests.support.factories import NOON, bulk, client_bulk, encoded, entry, event, metric, profile, single
from tests.support.parsing import read

ARCHITECTURE = Path("docs/architecture.md")


def message_of(properties: Any, **fields: Any) -> Message[Any]:
    entries = [Entry("key", {"type": "profile"}, [Event("id", {"properties": properties})])]
    return Message("receipt", "AbC123", Surface.BULK, NOON, entries, **fields)


def round_trip(body: Body) -> Any:
    stored = message.decode(body.text, {body.claim_key: body.claim_bytes}.__getitem__)
    assert isinstance(stored, Message)
    return msgspec.json.decode(stored.entries[0].events[0].attributes)["properties"]


def padded(size: int) -> Message[Any]:
    """Makes a message of exactly so many bytes."""
    empty = len(msgspec.json.encode(message_of("")))
    return message_of("x" * (size - empty))


def never(_: str) -> bytes:
    raise AssertionError("there is no claim to fetch")


def test_a_small_message_is_plain_json() -> None:
    body = message.encode(message_of({"p": "é"}, flat=True))

    assert body.claim_key is None
    assert msgspec.json.decode(body.text) == {
        "sluice": 1,
        "receipt": "receipt",
        "account": "AbC123",
        "surface": "bulk",
        "accepted": "2026-07-20T12:00:00Z",
        "entries": [
            {
                "key": "key",
                "profile": {"type": "profile"},
                "events": [{"id": "id", "attributes": {"properties": {"p": "é"}}}],
            }
        ],
        "flat": True,
    }


def test_the_documented_example_is_what_is_written() -> None:
    [example] = re.findall(r'```json\n(\{"sluice": 1, "receipt".*?)```', ARCHITECTURE.read_text(), re.DOTALL)
    accepted = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
    document = single(
        of=profile(email="ada@example.com"),
        metric=metric("Placed Order"),
        properties={"order": "1001"},
        value=19.9,
    )

    entries = parser.read(Surface.EVENT, encoded(document), "2026-07-15", accepted).entries

    written = message.encode(Message("6c1f…", "AbC123", Surface.EVENT, accepted, entries))
    assert json.loads(example) == json.loads(written.text)


@pytest.mark.parametrize(
    ("replayed", "index", "record"),
    [
        (None, 0, None),
        (["a"], 0, "a"),
        (["a"], 1_000_000, "a"),
        (["a", "b"], 1, "b"),
        (["a", "b"], 2, None),
    ],
)
def test_an_entry_says_which_record_it_replays(
    replayed: list[str] | None, index: int, record: str | None
) -> None:
    assert message.record_of(replayed, index) == record


def test_a_message_is_compressed_above_one_billing_unit() -> None:
    plain, packed = message.encode(padded(PLAIN_BYTES)), message.encode(padded(PLAIN_BYTES + 1))

    assert plain.text.startswith('{"sluice":1,"receipt"')
    assert packed.text.startswith('{"sluice":1,"zstd":"')
    assert len(packed.text) < PLAIN_BYTES
    assert round_trip(packed) == round_trip(plain) + "x"


def test_a_message_goes_to_s3_above_what_sqs_takes() -> None:
    noise = base64.b64encode(os.urandom(MESSAGE_BYTES)).decode()

    body = message.encode(message_of(noise))

    assert body.claim_key == "claims/2026/07/20/receipt.json.zst"
    assert msgspec.json.decode(body.text) == {
        "sluice": 1,
        "claim": body.claim_key,
        "size": message.unpacked_size(body.text),
        "digest": hashlib.blake2b(body.claim_bytes, digest_size=32).hexdigest(),
    }
    assert round_trip(body) == noise
    with pytest.raises(Undeliverable, match="is not the one that was stored"):
        message.unwrap(body.text, lambda _: zstandard.compress(b"another request"))


@pytest.mark.parametrize("size", [PLAIN_BYTES, PLAIN_BYTES + 1, 900_000, 3_000_000])
def test_no_text_is_longer_than_sqs_takes(size: int) -> None:
    noise = base64.b85encode(os.urandom(size)).decode()

    for content in ("\uffff" * (size // 4), noise[:size]):
        assert len(message.encode(message_of(content)).text.encode()) <= MESSAGE_BYTES


@pytest.mark.parametrize("character", ["\ufffe", "\uffff", "\x00", "\x1f", "\x7f", "\U0001ffff"])
def test_every_character_can_be_sent_through_sqs(character: str) -> None:
    body = message.encode(message_of({character: character}))

    assert {"\ufffe", "\uffff"}.isdisjoint(body.text)
    assert min(body.text) >= " "
    assert round_trip(body) == {character: character}


@given(st.recursive(st.none() | st.booleans() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_what_is_encoded_is_decoded(properties: Any) -> None:
    assert round_trip(message.encode(message_of(properties))) == properties


def test_a_body_that_grows_most_is_still_read_back() -> None:
    # 1e15 is written 1000000000000000.0: nothing grows more. Arrays, strings and events have limits.
    arrays = {f"p{number}": [1e15] * 4_000 for number in range(50)}
    document = encoded(bulk(entry(*[event(properties=arrays)] * 5)))
    body = document.replace(b"1000000000000000.0", b"1e15").replace(b", ", b",")
    accepted = read(Surface.BULK, body)

    packed = message.encode(Message("receipt", "AbC123", Surface.BULK, NOON, accepted.entries))

    assert len(body) < MAX_BODY_BYTES_IN
    stored = message.decode(packed.text, lambda _: packed.claim_bytes)
    assert isinstance(stored, Message)
    assert sum(len(bytes(each.attributes)) for each in stored.entries[0].events) > 3.5 * len(body)


@pytest.mark.parametrize(
    "text",
    [
        '{"sluice":1}',
        '{"sluice":2,"zstd":"x"}',
        '{"sluice":1,"zstd":"not base64"}',
        '{"sluice":1,"zstd":"eA=="}',
        '{"sluice":1,"zstd":""}',
        '{"sluice":1,"zstd":"eA==","more":1}',
        '{"sluice":1,"zstd":5}',
        '{"sluice":1,"receipt":"\udc80"}',
        '{"sluice":1,"receipt":"r"',
        '{"sluice":1,"receipt":"r","account":"a","surface":"nowhere","accepted":"2026-07-20T12:00:00Z","entries":[]}',
        '{"sluice":1,"receipt":' + "[" * 100_000,
        '{"sluice":1,"receipt":"r","account":"a","surface":"bulk","accepted":"2026-07-20T12:00:00","entries":[]}',
        '{"sluice":1,"receipt":"","account":"a","surface":"bulk","accepted":"2026-07-20T12:00:00Z","entries":[]}',
        '{"sluice":2,"receipt":"r","app_id":1,"accepted":"2026-07-20T12:00:00","events":[]}',
        "",
    ],
)
def test_a_damaged_message_is_undeliverable(text: str) -> None:
    with pytest.raises(Undeliverable) as raised:
        message.decode(text, never)

    assert raised.value.reason == "malformed_message"


@pytest.mark.parametrize(
    "claim", [b"", b"not zstd", zstandard.compress(b"{}")[:-2], zstandard.compress(b"{}")]
)
def test_a_damaged_claim_is_undeliverable(claim: bytes) -> None:
    with pytest.raises(Undeliverable):
        message.decode('{"sluice":1,"claim":"key"}', lambda _: claim)


def test_a_claim_that_would_unpack_to_gigabytes_is_undeliverable() -> None:
    bomb = zstandard.compress(b" " * (MAX_UNPACKED_BYTES + 1))

    with pytest.raises(Undeliverable, match=str(MAX_UNPACKED_BYTES)):
        message.decode('{"sluice":1,"claim":"key"}', lambda _: bomb)


def test_what_a_claim_reader_raises_comes_through() -> None:
    with pytest.raises(AssertionError):
        message.decode('{"sluice":1,"claim":"key"}', never)


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ('{"sluice":1,"receipt":"r"}', True),
        ('{"data":{}}', False),
        ("", False),
        ('{"Type":"Notification"}', False),
    ],
)
def test_our_own_messages_are_told_from_a_producers(text: str, ours: bool) -> None:
    assert message.is_stored(text) is ours


@pytest.mark.rule
@pytest.mark.parametrize("values", [["9e15"] * 4_000, ["0"] * 4_000, ['"ab"'] * 4_000])
def test_a_message_is_never_unpacked_to_more_than_it_is_counted_as(values: list[str]) -> None:
    arrays = encoded({f"p{number}": "VALUES" for number in range(40)}).replace(
        b'"VALUES"', f"[{','.join(values)}]".encode()
    )
    body = encoded(client_bulk(*[event(properties={"p": "ALL"})] * 5)).replace(b'{"p": "ALL"}', arrays)
    entries = read(Surface.CLIENT_BULK, body[:MAX_BODY_BYTES_IN]).entries

    packed = message.encode(Message("receipt", "AbC123", Surface.CLIENT_BULK, NOON, entries))

    plain = message.unwrap(packed.text, lambda _: packed.claim_bytes)
    assert message.unpacked_size(packed.text) == len(plain)


NOISE = base64.b64encode(os.urandom(3_000_000))
LIES = {
    "a claim that says less": '{"sluice":1,"claim":"k","size":10}',
    "a claim that says nothing": '{"sluice":1,"claim":"k"}',
    "a claim that says too much": '{"sluice":1,"claim":"k","size":999999999999}',
    "blanks": '{"sluice": 1, "claim": "k"}',
    "blanks before": ' {"sluice":1,"claim":"k"}',
    "another order": '{"claim":"k","sluice":1}',
    "size twice": '{"sluice":1,"claim":"k","size":10,"size":2}',
}


@pytest.mark.rule
@pytest.mark.parametrize("lie", LIES)
def test_whatever_a_message_says_of_itself_it_unpacks_to_no_more_than_it_is_counted_as(lie: str) -> None:
    for text, claim in [
        (LIES[lie], zstandard.compress(b" " * 5_000_000)),
        (LIES[lie], zstandard.compress(NOISE)),
        (_inline(LIES[lie], zstandard.compress(b" " * 5_000_000)), b""),
        (
            _inline(LIES[lie], zstandard.ZstdCompressor(write_content_size=False).compress(b" " * 5_000_000)),
            b"",
        ),
    ]:
        try:
            plain = message.unwrap(text, lambda _, claim=claim: claim)  # type: ignore[misc]
        except Undeliverable:
            continue
        assert len(plain) <= message.unpacked_size(text)


def _inline(text: str, packed: bytes) -> str:
    """Puts content into a message in place of the key of its claim."""
    return text.replace('"claim":', '"zstd":').replace('"k"', f'"{base64.b64encode(packed).decode()}"')
