"""Calculates the cost of a million events on AWS, by the way they come in, from counts, times and list
prices.

Prices are the public on-demand list prices of us-east-1 (N. Virginia) as of November 2026, from the AWS
pricing pages of each service, without free tiers or volume discounts.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from benchmarks import corpus, gateway, singles
from sluice import positions
from sluice.aws import sqs
from sluice.contract import CALLS_PER_MINUTE, MAX_EVENTS_PER_CALL, STEADY_LIMIT, Surface
from sluice.contract import MAX_EVENTS_PER_REQUEST as MAX_EVENTS_PER_JOB
from sluice.delivery import rate_limiter
from sluice.message import Body, Message, PipelessMessage, encode
from sluice.pipeless import packing as pipeless
from sluice.producers.s3_objects import GROUP_LINES, LINES_TOGETHER

EVENTS: Final = 1_000_000

# US dollars.
API_REQUEST: Final = 3.50 / 1e6  # API Gateway, REST API, to 333 million a month
LAMBDA_REQUEST: Final = 0.20 / 1e6
LAMBDA_GB_SECOND: Final = 0.0000133334  # arm64, the template's default
SQS_REQUEST: Final = 0.40 / 1e6  # a standard queue; each 64 KB of a call counts as one
SQS_GROUP: Final = 0.10 / 1e6  # more where messages have a group, as those of ingest and of objects have
SNS_REQUEST: Final = 0.50 / 1e6  # each 64 KB
BUS_EVENT: Final = 1.00 / 1e6  # EventBridge, each 64 KB
S3_PUT: Final = 5.00 / 1e6
S3_GET: Final = 0.40 / 1e6
DYNAMODB_WRITE: Final = 0.625 / 1e6  # on demand, 1 KB
DYNAMODB_READ: Final = 0.125 / 1e6  # on demand, 4 KB, consistent
EGRESS_GB: Final = 0.09

# The template's defaults, and what Lambda and SQS are documented to do.
INGEST_GB: Final = 1_024 / 1_024
DISPATCH_GB: Final = 1_769 / 1_024
PROCESSOR_MB: Final = 1_769  # memory that comes with one whole processor
INVOCATION_MESSAGES: Final = 10_000
INVOCATION_BYTES: Final = 6_000_000
RECORD_BYTES: Final = 600  # of a record beside its body
BILLED_BYTES: Final = 64 * 1_024

# Measured nowhere here: a call from a function to a service of its region.
SERVICE_CALL_MS: Final = 8.0
LINES: Final = 100_000  # of an object


class Times(msgspec.Struct, frozen=True):
    """Holds ingest's milliseconds a request, by its kind, and dispatch's processor seconds an event.

    Dispatch has one time for reading bodies that nobody has checked before, and one for delivering.
    """

    ingest: Mapping[str, float]
    reading: float
    delivering: float


class Way(msgspec.Struct, frozen=True):
    """Describes a way in: `queued` is one of its messages, of so many events; `sends` are put by one call.

    `handler` is the kind of ingest's request, `object_lines` the lines of an S3 object; without either the
    message is a producer's own. `more` are dollars an event for the service that brings it.
    """

    queued: Body
    events: int = 1
    handler: str | None = None
    has_receipt: bool = False  # that can be asked about
    note_bytes: int = 0  # of the item that says what is done of a message
    sends: int = 1
    object_lines: int = 0
    is_pipeless: bool = False
    more: float = 0.0


def run(times: Times) -> dict[str, Any]:
    """Counts and dollars of a million events, by the way they come in."""
    orders = corpus.orders()
    bulk = gateway.stored(corpus.ungrouped(orders))
    sent = len(gateway.dispatch([encode(bulk)])[0]) / corpus.EVENTS
    batch = gateway.batch(corpus.batch(orders[:MAX_EVENTS_PER_CALL]))
    [call] = pipeless.pack([(0, batch)], {})
    sent_pipeless = len(pipeless.body(call)) / MAX_EVENTS_PER_CALL
    return {
        "ways": {
            name: _priced(way, times, sent_pipeless if way.is_pipeless else sent)
            for name, way in _ways(orders, bulk, batch).items()
        },
        "assumed": {"service_call_ms": SERVICE_CALL_MS, "prices": "us-east-1, November 2026"},
    }


def _ways(orders: list[corpus.Order], bulk: Message[Any], batch: PipelessMessage) -> dict[str, Way]:
    own = [order for order in orders if order["profile"] is orders[0]["profile"]]
    few = gateway.stored(corpus.client_bulk(own), Surface.CLIENT_BULK)
    body = corpus.single(orders[0])
    single = encode(gateway.stored(body, Surface.EVENT))
    delivered = msgspec.structs.replace(
        gateway.stored(body, Surface.EVENT), surface=Surface.WEBHOOK, source="shop"
    )
    produced = Body(body.decode())
    on_bus = Body(json.dumps(_bus_event(json.loads(body)), separators=(",", ":")))
    lines = gateway.stored(corpus.ungrouped(orders[:LINES_TOGETHER]))
    for number, entry in enumerate(lines.entries):
        entry.events[0].entry_index = LINES - number
    return {
        "`POST /api/events`": Way(single, handler=singles.SINGLE),
        f"`POST /api/event-bulk-create-jobs`, {corpus.EVENTS:,} events": Way(
            encode(bulk),
            corpus.EVENTS,
            handler=singles.BULK,
            has_receipt=True,
            note_bytes=_note_bytes(bulk),
        ),
        "`POST /client/events`": Way(
            encode(gateway.stored(corpus.client(orders[0]), Surface.CLIENT_EVENT)), handler=singles.CLIENT
        ),
        f"`POST /client/event-bulk-create`, {len(own)} events": Way(
            encode(few),
            len(own),
            handler=singles.CLIENT_BULK,
            has_receipt=True,
            note_bytes=_note_bytes(few),
        ),
        "`POST /webhooks/{source}`, of one event": Way(encode(delivered), handler=singles.WEBHOOK),
        f"`POST /v1/apps/{{app_id}}/events/batch`, {MAX_EVENTS_PER_CALL} events": Way(
            encode(batch), MAX_EVENTS_PER_CALL, handler=singles.PIPELESS, is_pipeless=True
        ),
        "SendMessage": Way(produced),
        f"SendMessageBatch, {sqs.BATCH_ENTRIES} messages": Way(produced, sends=sqs.BATCH_ENTRIES),
        "SNS": Way(produced, more=_units(len(body)) * SNS_REQUEST),
        "EventBridge": Way(on_bus, more=_units(len(on_bus.text)) * BUS_EVENT),
        f"S3 object of {LINES:,} lines": Way(
            encode(lines),
            LINES_TOGETHER,
            note_bytes=_note_bytes(lines),
            sends=GROUP_LINES // LINES_TOGETHER,
            object_lines=LINES,
        ),
    }


def _bus_event(detail: object) -> dict[str, object]:
    return {
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": "Placed Order",
        "source": "shop.orders",
        "account": "123456789012",
        "time": "2026-07-22T12:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": {"account": gateway.SITE_ID, "body": detail},
    }


def _counts(way: Way, times: Times) -> dict[str, float]:
    """Counts requests, messages, writes and the like of a million events."""
    messages = EVENTS / way.events
    size = len(way.queued.text)
    invocations = messages / min(INVOCATION_MESSAGES, INVOCATION_BYTES / (size + RECORD_BYTES))
    if way.is_pipeless:
        upstream, a_minute = EVENTS / MAX_EVENTS_PER_CALL, CALLS_PER_MINUTE / 60_000
    else:
        upstream, a_minute = EVENTS / MAX_EVENTS_PER_JOB, STEADY_LIMIT / rate_limiter.STEADY_WINDOW_MS
    groups = EVENTS / GROUP_LINES if way.object_lines else 0.0  # of lines, each noted once it is put
    objects = EVENTS / way.object_lines if way.object_lines else 0.0
    sends = messages / way.sends
    in_batches = messages / sqs.BATCH_ENTRIES
    read_here = 0.0 if way.handler else EVENTS * times.reading
    put_here = (sends + groups) * SERVICE_CALL_MS / 1_000 if way.object_lines else 0.0
    calls = 2 if way.has_receipt else 1
    return {
        "api_requests": messages if way.handler else 0.0,
        "ingest_seconds": messages * _ingest_ms(way, times, calls) / 1_000 if way.handler else 0.0,
        "messages": messages + objects,
        "message_bytes": size,
        # Each is sent, received with nine others at most, and deleted so.
        "sqs_requests": sends * _units(size * way.sends)
        + in_batches * (_units(size * sqs.BATCH_ENTRIES) + 1)
        + 3 * objects,
        "invocations": invocations,
        # At the limit's pace workers mostly wait for turns: one of them all the time.
        "dispatch_seconds": upstream / a_minute / 1_000 + EVENTS * times.delivering + read_here + put_here,
        # A turn is a write. A receipt is opened, and its item is written whole when something is noted in it.
        "writes": upstream + messages * (way.has_receipt + math.ceil(way.note_bytes / 1_024)) + groups,
        # A turn is read twice at most; an invocation looks once whether the account's circuit is open.
        "reads": 2 * upstream + invocations + objects,
        "objects": objects,
        "upstream_requests": upstream,
    }


def _ingest_ms(way: Way, times: Times, calls: int) -> float:
    slowdown = max(1.0, PROCESSOR_MB / (INGEST_GB * 1_024))
    return times.ingest[way.handler or ""] * slowdown + calls * SERVICE_CALL_MS


def _priced(way: Way, times: Times, sent: float) -> dict[str, Any]:
    counts = _counts(way, times)
    has_group = way.handler is not None or way.object_lines > 0
    dollars = {
        "API Gateway": counts["api_requests"] * API_REQUEST,
        "ingest": counts["api_requests"] * LAMBDA_REQUEST
        + counts["ingest_seconds"] * INGEST_GB * LAMBDA_GB_SECOND,
        "SNS, EventBridge, S3": EVENTS * way.more + counts["objects"] * (S3_PUT + S3_GET),
        "SQS": counts["sqs_requests"] * (SQS_REQUEST + has_group * SQS_GROUP),
        "dispatch": counts["invocations"] * LAMBDA_REQUEST
        + counts["dispatch_seconds"] * DISPATCH_GB * LAMBDA_GB_SECOND,
        "DynamoDB": counts["writes"] * DYNAMODB_WRITE + counts["reads"] * DYNAMODB_READ,
        "data out": sent * EVENTS / 1e9 * EGRESS_GB,
    }
    return {"counts": counts, "dollars": dollars, "total": sum(dollars.values())}


def _note_bytes(stored: Message[Any]) -> int:
    """Returns the size of a receipt's item with all of a message's events, as DynamoDB counts sets of
    numbers.
    """
    places = [str(place).strip("0") for place in positions.positions(stored)]
    return 150 + sum(1 + 1 + math.ceil(len(digits) / 2) for digits in places)


def _units(size: int) -> int:
    """Returns the units that SQS, SNS and EventBridge bill for a call of so many bytes."""
    return max(1, math.ceil(size / BILLED_BYTES))
