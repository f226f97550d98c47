"""Defines the messages on EventsQueue: one accepted request each, plain, compressed or as a claim check.

Events are stamped and in the upstream's shape, so dispatch joins their bytes without parsing them. Up to one
SQS billing unit the body is plain JSON, readable in any queue browser. Above it, it is `{"sluice": 1, "zstd":
"<base64>"}`. Above SQS's limit it is `{"sluice": 1, "claim": "<S3 key>"}`, with the digest of the
object, which holds the compressed bytes.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
import zstandard
from msgspec import UNSET, UnsetType

from sluice.contract import MAX_BODY_BYTES_IN, MAX_INTEGER, MAX_OBJECT_ID, PIPELESS_SURFACE, Surface
from sluice.errors import Undeliverable
from sluice.validation.json_text import NOT_DECODED, encode_text

PLAIN_BYTES: Final = 64 * 1024
MESSAGE_BYTES: Final = 1_048_576 - 4_096  # SQS's limit, less room for message attributes
# The most that one accepted request can be. Written anew, a number grows by up to four (1e15 becomes
# 1000000000000000.0), and an event's unique_id and metric stand in its message twice.
MAX_GROWTH: Final = 6
MAX_UNPACKED_BYTES: Final = MAX_GROWTH * MAX_BODY_BYTES_IN
_ZSTD: Final = '{"sluice":1,"zstd":"'


# A producer may write anything, and a value that cannot be a key or be sorted would stop other messages.
type Receipt = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
type Moment = Annotated[datetime, msgspec.Meta(tz=True)]
type Position = Annotated[int, msgspec.Meta(ge=0, le=MAX_INTEGER)]
type Replayed = Annotated[list[Annotated[str, msgspec.Meta(max_length=200)]], msgspec.Meta(min_length=1)]


class Event[Part](msgspec.Struct, gc=False, omit_defaults=True):
    """Holds one stamped event; `id` is its metric and unique_id in one.

    `entry_index` and `event_index` are its position in the caller's document, unless that is its position
    here.
    """

    id: str
    attributes: Part
    entry_index: Position | None = None
    event_index: Position | None = None


class Entry[Part](msgspec.Struct, gc=False, omit_defaults=True):
    """Holds events of one profile; `key` is equal for equal identifiers, and only for those."""

    key: str
    profile: Part
    events: list[Event[Part]]
    backfill: bool = False

    def positioned(self, index: int) -> Iterator[tuple[int, int, Event[Part]]]:
        """Yields its events, each after its entry's and its own index in the caller's document.

        `index` is the entry's place in its message.
        """
        for number, event in enumerate(self.events):
            entry, at = event.entry_index, event.event_index
            yield index if entry is None else entry, number if at is None else at, event


class Message[Part](msgspec.Struct, omit_defaults=True, tag_field="sluice", tag=1):
    """Holds one accepted request; `Part` is `msgspec.Raw` when it is read, a document when it is written.

    `source` is the name of the webhook source it came by. `line` is s3://bucket/key:number if the caller's
    document was a line of an S3 object. For the surface of single events it is s3://bucket/key, because each
    event was a line of its own, and that line is its `entry`. `replayed` names the records of a replayed
    message, as `record_of` reads it.
    """

    receipt: Receipt
    account: str
    surface: Surface
    accepted: Moment
    entries: list[Entry[Part]]
    flat: bool = False  # the caller's document had the deprecated flat shape
    line: str | None = None
    source: str | None = None
    replayed: Replayed | None = None


type StoredMessage = Message[msgspec.Raw]


class _PipelessPart(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    pass


class PipelessObject(_PipelessPart):
    """Describes an object to be written:

    Pipeless creates it, or uses the existing one with the dates given.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_OBJECT_ID)]
    type: str
    created_on: str | UnsetType = UNSET
    modified_on: str | UnsetType = UNSET


class PipelessRelationship(_PipelessPart):
    """Describes how the start object relates to the end object; a `single` one exists once between the
    two.
    """

    type: str
    created_on: str | UnsetType = UNSET
    single: bool = True


class PipelessEvent(_PipelessPart):
    """Describes one event for Pipeless, in the form in which it travels on the queue and goes upstream."""

    start_object: PipelessObject
    relationship: PipelessRelationship
    end_object: PipelessObject


class PipelessMessage(msgspec.Struct, omit_defaults=True, tag_field="sluice", tag=2):
    """Holds one accepted request for Pipeless, its events stamped; `replayed` has a record for each event."""

    receipt: Receipt
    app_id: Annotated[int, msgspec.Meta(ge=1, le=MAX_INTEGER)]
    accepted: Moment
    events: list[PipelessEvent]
    line: str | None = None
    replayed: Replayed | None = None

    @property
    def account(self) -> str:
        """Returns the `id` of its app."""
        return f"pipeless-{self.app_id}"

    @property
    def surface(self) -> str:
        """Returns the surface it came in by."""
        return PIPELESS_SURFACE

    @property
    def source(self) -> None:
        """Returns no webhook source: none delivers to Pipeless."""


class _Packed(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, tag_field="sluice", tag=1):
    zstd: bytes | None = None  # base64 in JSON
    claim: str | None = None
    size: Annotated[int, msgspec.Meta(ge=0)] | None = None  # of the claim's content, unpacked
    digest: str | None = None  # of the claim's content, packed


class Body(msgspec.Struct, frozen=True):
    """Holds a message as SQS takes it, and the content that has to be in S3 first if it is a claim check."""

    text: str
    claim_key: str | None = None
    claim_bytes: bytes = b""


_decoder: Final[msgspec.json.Decoder[StoredMessage | PipelessMessage]] = msgspec.json.Decoder(
    Message[msgspec.Raw] | PipelessMessage
)
_packed_decoder: Final = msgspec.json.Decoder(_Packed)


def record_of(replayed: Replayed | None, index: int) -> str | None:
    """Returns the id of the record that a replayed entry (or event of Pipeless) replays; None if it does not.

    `index` is its position in the caller's document. A message of one record, such as a dead letter that goes
    back as it was, may have any positions.
    """
    if not replayed:
        return None
    if len(replayed) == 1:
        return replayed[0]
    return replayed[index] if index < len(replayed) else None


def encode(message: Message[Any] | PipelessMessage) -> Body:
    """Encodes an accepted request as a queue message."""
    return wrap(
        msgspec.json.encode(message), f"claims/{message.accepted:%Y/%m/%d}/{message.receipt}.json.zst"
    )


def wrap(plain: bytes, claim_key: str) -> Body:
    """Writes JSON in the smallest of the three forms that fits; `claim_key` is the key of a claim check."""
    if len(plain) <= PLAIN_BYTES:
        # SQS refuses two characters that JSON has. Here they can only stand in strings.
        return Body(plain.decode().replace("\ufffe", r"\ufffe").replace("\uffff", r"\uffff"))
    packed = zstandard.ZstdCompressor(level=1).compress(plain)
    text = msgspec.json.encode(_Packed(zstd=packed)).decode()
    if len(text) <= MESSAGE_BYTES:
        return Body(text)
    claim = _Packed(claim=claim_key, size=len(plain), digest=_digest(packed))
    return Body(msgspec.json.encode(claim).decode(), claim_key, packed)


def is_stored(body: str) -> bool:
    """Tells whether a queue message was written by `encode`, and not put there by a producer."""
    return body.startswith('{"sluice":')


def is_claim(body: str) -> bool:
    """Tells whether a queue message only says where in S3 the request is."""
    return body.startswith('{"sluice":1,"claim":')


def unpacked_size(body: str) -> int:
    """Returns the most bytes that a body can unpack to, without unpacking it.

    `unwrap` holds a body to what it says here of itself. A producer's body grows as much as any request can.
    """
    try:
        if body.startswith(_ZSTD):
            size = _content_size(base64.b64decode(body[len(_ZSTD) : len(_ZSTD) + 32]))
        elif is_claim(body):
            size = _packed_decoder.decode(body).size
        else:
            return len(body) if is_stored(body) else MAX_GROWTH * len(body)
    except (binascii.Error, zstandard.ZstdError, ValueError, msgspec.MsgspecError):
        return len(body)  # it is damaged, and unpacks to nothing
    return MAX_UNPACKED_BYTES if size is None else min(size, MAX_UNPACKED_BYTES)


def _content_size(packed: bytes) -> int | None:
    """Returns the size that a frame states of its content; None if it states none."""
    size = zstandard.get_frame_parameters(packed).content_size
    return None if size in {0, zstandard.CONTENTSIZE_UNKNOWN} else size


def decode(body: str, fetch_claim: Callable[[str], bytes]) -> StoredMessage | PipelessMessage:
    """Decodes the message of a body that `encode` wrote; raises `Undeliverable` if it is damaged.

    `fetch_claim` gives an S3 object's bytes by key, or raises.
    """
    plain = unwrap(body, fetch_claim)
    try:
        return _decoder.decode(plain)
    except NOT_DECODED as error:
        raise Undeliverable("malformed_message", f"The message cannot be read: {error}") from error


def decode_plain(plain: bytes) -> StoredMessage | PipelessMessage:
    """Decodes a message from its JSON, as it is parked."""
    return _decoder.decode(plain)


def as_stored(message: Message[Any] | PipelessMessage) -> StoredMessage | PipelessMessage:
    """Returns a message as it would be read back from the queue."""
    return _decoder.decode(msgspec.json.encode(message))


def unwrap(body: str, fetch_claim: Callable[[str], bytes]) -> bytes:
    """Returns the JSON that `wrap` was given; raises `Undeliverable` if it is damaged."""
    raw = encode_text(body)
    if not body.startswith(_ZSTD) and not is_claim(body):
        return raw
    try:
        packed = _packed_decoder.decode(raw)
        if packed.claim is not None:
            return _decompressed(_checked(fetch_claim(packed.claim), packed.digest), packed.size)
        return _decompressed(packed.zstd or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, zstandard.ZstdError) as error:
        raise Undeliverable("malformed_message", "The message's compressed form is damaged.") from error


def _checked(content: bytes, digest: str | None) -> bytes:
    # The messages of Sluice that have a seal name a digest. Those of versions before had neither.
    if digest is not None and _digest(content) != digest:
        raise Undeliverable("malformed_message", "The claim check's object is not the one that was stored.")
    return content


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _decompressed(data: bytes, stated: int | None = None) -> bytes:
    # A frame that does not say its size is none of ours; it is held to the same bound.
    most = MAX_UNPACKED_BYTES if stated is None else min(stated, MAX_UNPACKED_BYTES)
    if zstandard.frame_content_size(data) > most:
        raise Undeliverable("malformed_message", f"The message exceeds {most} bytes.")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=most)
