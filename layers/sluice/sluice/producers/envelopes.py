"""Reads a producer's message: one body, or a notification of S3 objects with a body in each line.

SNS, EventBridge and S3 put envelopes of their own around what they send to a queue; those shapes are AWS's.
`{"account", "surface", "body"}` is ours, for producers that cannot set message attributes. A message of
another shape is a body as it is; it is not decided here whether the body is good.
"""

import urllib.parse
from collections.abc import Callable, Set
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec

from sluice.contract import EARLIEST_TIME
from sluice.validation.json_text import NOT_DECODED, encode_text

MAX_ENVELOPES: Final = 3  # envelopes within envelopes, such as S3's notification by SNS
MAX_CLOCK_DIFFERENCE: Final = timedelta(days=1)
_CREATED: Final = "ObjectCreated:"
_S3_SOURCE: Final = "aws.s3"
_OBJECT_CREATED: Final = "Object Created"

type _Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Body(msgspec.Struct, frozen=True):
    """Holds a body, when it was sent, and what its envelopes or message attributes say of it."""

    text: str
    sent: datetime
    account: str | None = None
    surface: str | None = None


class Object(msgspec.Struct, frozen=True):
    """Describes one writing of an S3 object; `sequencer` tells it from other writings of the same key."""

    bucket: str
    key: str
    written: datetime
    version: str | None = None
    etag: str | None = None
    sequencer: str | None = None


type Objects = tuple[Object, ...]


def unwrap(body: Body) -> Body | Objects:
    """Returns a body without its envelopes, or the objects of a notification: none if it has no new ones.

    A body counts as sent at the time that its envelope states. Services deliver at least once, and stamps
    that depend on the time must be the same each time.
    """
    for _ in range(MAX_ENVELOPES):
        if inner := _inner(body.text):
            body = msgspec.structs.replace(body, text=inner)
        members = _members(body.text)
        if members is None:
            break
        found = _open(body, members)
        if not isinstance(found, Body):
            return found
        if found is body:
            break
        body = found
    return body


def _open(body: Body, members: dict[str, msgspec.Raw]) -> Body | Objects:
    try:
        for names, read in _ENVELOPES:
            if names <= members.keys():
                return read(body)
        if "body" in members and members.keys() <= {"account", "surface", "body"}:
            return _own_envelope(body)
    except NOT_DECODED:
        pass  # it only looks like an envelope
    return body


class _Attribute(msgspec.Struct):
    kind: str = msgspec.field(name="Type")
    value: str = msgspec.field(name="Value")


class _Notification(msgspec.Struct, tag_field="Type", tag="Notification"):
    message: str = msgspec.field(name="Message")
    timestamp: _Time = msgspec.field(name="Timestamp")
    attributes: dict[str, _Attribute] = msgspec.field(name="MessageAttributes", default_factory=dict)

    def named(self, name: str) -> str | None:
        found = self.attributes.get(name)
        return found.value if found is not None and found.kind == "String" else None


def _sns_envelope(body: Body) -> Body:
    outer = msgspec.json.decode(_bytes(body.text), type=_Notification)
    return Body(
        outer.message,
        _envelope_time(outer.timestamp, body.sent),
        outer.named("account") or body.account,
        outer.named("surface") or body.surface,
    )


class _Sourced(msgspec.Struct):
    source: str


class _EventBridgeEvent(msgspec.Struct):
    time: _Time
    detail: msgspec.Raw


def _eventbridge_envelope(body: Body) -> Body | Objects:
    if msgspec.json.decode(_bytes(body.text), type=_Sourced).source == _S3_SOURCE:
        return _s3_event(body)
    outer = msgspec.json.decode(_bytes(body.text), type=_EventBridgeEvent)
    return Body(_text(outer.detail), _envelope_time(outer.time, body.sent), body.account, body.surface)


class _Bucket(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]


class _S3EventKey(msgspec.Struct, rename="kebab"):
    key: Annotated[str, msgspec.Meta(min_length=1)]
    version_id: str | None = None
    etag: str | None = None
    sequencer: str | None = None


class _S3EventDetail(msgspec.Struct):
    bucket: _Bucket
    object: _S3EventKey


class _S3Event(msgspec.Struct):
    time: _Time
    detail: _S3EventDetail
    kind: str = msgspec.field(name="detail-type")


def _s3_event(body: Body) -> Objects:
    """Reads EventBridge's event of an object of S3. Its key is not URL-encoded, unlike in a notification."""
    event = msgspec.json.decode(_bytes(body.text), type=_S3Event)
    if event.kind != _OBJECT_CREATED:
        return ()
    written = event.detail.object
    at = _envelope_time(event.time, body.sent)
    bucket = event.detail.bucket.name
    return (Object(bucket, written.key, at, written.version_id, written.etag, written.sequencer),)


class _CloudEvent(msgspec.Struct):
    data: msgspec.Raw
    time: _Time | None = None


def _cloud_event(body: Body) -> Body:
    outer = msgspec.json.decode(_bytes(body.text), type=_CloudEvent)
    sent = _envelope_time(outer.time, body.sent) if outer.time else body.sent
    return Body(_text(outer.data), sent, body.account, body.surface)


class _OwnEnvelope(msgspec.Struct):
    body: msgspec.Raw
    account: str | None = None
    surface: str | None = None


def _own_envelope(body: Body) -> Body:
    outer = msgspec.json.decode(_bytes(body.text), type=_OwnEnvelope)
    text = _text(outer.body)
    return Body(text, body.sent, outer.account or body.account, outer.surface or body.surface)


class _Key(msgspec.Struct, rename="camel"):
    key: Annotated[str, msgspec.Meta(min_length=1)]
    version_id: str | None = None
    e_tag: str | None = None
    sequencer: str | None = None


class _S3Location(msgspec.Struct):
    bucket: _Bucket
    object: _Key


class _S3Record(msgspec.Struct, rename="camel", tag_field="eventSource", tag="aws:s3"):
    event_name: str
    event_time: _Time
    s3: _S3Location


class _S3Records(msgspec.Struct, rename="pascal"):
    records: list[_S3Record]


def _s3_notification(body: Body) -> Objects:
    news = msgspec.json.decode(_bytes(body.text), type=_S3Records)
    return tuple(
        Object(
            record.s3.bucket.name,
            urllib.parse.unquote_plus(record.s3.object.key),
            _envelope_time(record.event_time, body.sent),
            record.s3.object.version_id,
            record.s3.object.e_tag,
            record.s3.object.sequencer,
        )
        for record in news.records
        if record.event_name.startswith(_CREATED)
    )


def notification(written: Object) -> str:
    """Returns the notification by which S3 would tell of an object."""
    location = _S3Location(
        _Bucket(written.bucket),
        _Key(urllib.parse.quote(written.key), written.version, written.etag, written.sequencer),
    )
    record = _S3Record(f"{_CREATED}Put", written.written, location)
    return msgspec.json.encode(_S3Records([record])).decode()


class _S3TestEvent(msgspec.Struct, rename="pascal"):
    event: Literal["s3:TestEvent"]


def _s3_test_event(body: Body) -> Objects:
    """Reads S3's test message, which it sends once for each configuration of a bucket."""
    msgspec.json.decode(_bytes(body.text), type=_S3TestEvent)
    return ()


def _members(text: str) -> dict[str, msgspec.Raw] | None:
    """Returns an object's members by name, unread; None if it is no object."""
    try:
        return msgspec.json.decode(_bytes(text), type=dict[str, msgspec.Raw])
    except NOT_DECODED:
        return None


def _envelope_time(told: datetime, sent: datetime) -> datetime:
    """Returns when something was sent, by its envelope, unless that cannot be.

    It is the same each time the envelope is delivered, even if the service's clock is ahead of the queue's.
    """
    return told if EARLIEST_TIME <= told <= sent + MAX_CLOCK_DIFFERENCE else sent


def _bytes(text: str) -> bytes:
    return encode_text(text)


def _text(raw: msgspec.Raw) -> str:
    """Returns a member's JSON, or the JSON that it holds as a string."""
    text = bytes(raw).decode("utf-8", "surrogatepass")
    return _inner(text) or text


def _inner(text: str) -> str | None:
    """Returns the JSON object that is written in a JSON string; None if there is none."""
    if not text.lstrip().startswith('"'):
        return None
    try:
        inner: str = msgspec.json.decode(_bytes(text), type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return inner if inner.lstrip().startswith("{") else None


def name_unsupported(text: str) -> str | None:
    """Returns the name of an envelope that is known and not read; None if this is none."""
    members = (_members(text) or {}).keys()
    return next((name for names, name in _UNSUPPORTED.items() if names <= members), None)


type _Reader = Callable[[Body], Body | Objects]

_ENVELOPES: Final[list[tuple[Set[str], _Reader]]] = [
    ({"Type", "TopicArn", "Message"}, _sns_envelope),
    ({"detail-type", "source", "detail"}, _eventbridge_envelope),
    ({"specversion", "type", "source", "data"}, _cloud_event),
    ({"Records"}, _s3_notification),
    ({"Service", "Event", "Bucket"}, _s3_test_event),
]
_UNSUPPORTED: Final = {
    frozenset({"Type", "TopicArn"}): "a message of SNS that is no notification",
    frozenset({"specversion", "type", "source"}): "a CloudEvent without a body in its 'data'",
    frozenset({"detail-type", "source"}): "an event of EventBridge without a body in its 'detail'",
    frozenset({"Service", "Event", "Bucket"}): "a message of S3 that is no notification",
    frozenset({"Records"}): "a list of records of a service other than S3, or one that is damaged",
    frozenset({"messageType", "logEvents"}): "a batch of CloudWatch's logs",
    frozenset({"body"}): "a message with 'body' that has more than 'account' and 'surface' beside it",
}
