"""What a million events cost on AWS, by route: calls counted, times measured here, prices as listed.

Prices are the public on-demand list prices of us-east-1 (N. Virginia) as of November 2026, from the AWS
pricing pages of each service, without free tiers or volume discounts.
"""

import math
from typing import Any, Final

from benchmarks import corpus, gateway
from sluice.contract import MAX_EVENTS_PER_REQUEST, STEADY_LIMIT, Surface
from sluice.delivering import pace
from sluice.message import PLAIN_BYTES, encode

EVENTS: Final = 1_000_000

# US dollars.
API_REQUEST: Final = 3.50 / 1e6  # API Gateway, REST API, to 333 million a month
LAMBDA_REQUEST: Final = 0.20 / 1e6
LAMBDA_GB_SECOND: Final = 0.0000133334  # arm64, the template's default
SQS_REQUEST: Final = 0.40 / 1e6  # a standard queue; each 64 KB of a call counts as one
DYNAMODB_WRITE: Final = 0.625 / 1e6  # on demand, 1 KB
DYNAMODB_READ: Final = 0.125 / 1e6  # on demand, 4 KB, consistent
EGRESS_GB: Final = 0.09

# The template's defaults, and what Lambda and SQS are documented to do.
INGEST_GB: Final = 1_024 / 1_024
DISPATCH_GB: Final = 1_769 / 1_024
PROCESSOR_MB: Final = 1_769  # memory that comes with one whole processor
INVOCATION_BYTES: Final = 6_000_000
RECORD_BYTES: Final = 600  # of a record beside its body
BATCH: Final = 10  # messages of one receive or delete

# Measured nowhere here: a call from a function to a service of its region.
SERVICE_CALL_MS: Final = 8.0


def run(warm: dict[str, Any], reading: float, dispatching: float) -> dict[str, Any]:
    """Dollars by part for each route.

    `warm` are ingest's times in milliseconds, the others processor time in seconds an event: to check and
    stamp it, and to deliver what was stored of it.
    """
    orders = corpus.orders()
    single = encode(gateway.stored(corpus.single(orders[0]), Surface.EVENT))
    bulk = encode(gateway.stored(corpus.ungrouped(orders)))
    sent = len(gateway.dispatch([bulk])[0]) / corpus.EVENTS
    return {
        "single events": _route(
            1, len(single.text), warm["single event, without calls to AWS"]["p50"], dispatching, sent
        ),
        "bulk requests of 1,000": _route(
            corpus.EVENTS,
            len(bulk.text),
            warm["bulk request of 1,000, without calls to AWS"]["p50"],
            dispatching,
            sent,
        ),
        "single events on the queue": _route(1, len(single.text), None, reading + dispatching, sent),
        "assumed": {"service_call_ms": SERVICE_CALL_MS, "prices": "us-east-1, November 2026"},
    }


def _route(
    events: int, message_bytes: int, handler_ms: float | None, dispatch_seconds: float, sent: float
) -> dict[str, Any]:
    """Requests of so many events each; without `handler_ms` a producer sends them to the queue itself."""
    requests = EVENTS / events
    units = math.ceil(message_bytes / PLAIN_BYTES)  # of SQS billing, in one call with one message
    jobs = EVENTS / MAX_EVENTS_PER_REQUEST
    api = ingest = 0.0
    if handler_ms is not None:
        slowdown = max(1.0, PROCESSOR_MB / (INGEST_GB * 1_024))
        calls = 1 if events == 1 else 2  # SendMessage, and a bulk request's receipt
        seconds = requests * (handler_ms * slowdown + calls * SERVICE_CALL_MS) / 1_000
        api = requests * API_REQUEST
        ingest = requests * LAMBDA_REQUEST + seconds * INGEST_GB * LAMBDA_GB_SECOND
    per_invocation = min(10_000.0, INVOCATION_BYTES / (message_bytes + RECORD_BYTES))
    invocations = requests / per_invocation
    # At the limit's pace workers mostly wait for turns: one of them all the time.
    waiting = jobs / STEADY_LIMIT * pace.STEADY_MS / 1_000
    batch_units = max(1, math.ceil(message_bytes * BATCH / PLAIN_BYTES))
    receives = requests / BATCH * batch_units
    # A turn: a read and a write to reserve it, a read to look once more. A bulk request's receipt: one write
    # to open it, and one of its places, about 5 bytes each.
    writes = jobs + (requests * (1 + math.ceil(events * 5 / 1_024)) if events > 1 else 0)
    parts = {
        "API Gateway": api,
        "Lambda, ingest": ingest,
        "SQS": (requests * units + receives + requests / BATCH) * SQS_REQUEST,
        "Lambda, dispatch": invocations * LAMBDA_REQUEST
        + (waiting + EVENTS * dispatch_seconds) * DISPATCH_GB * LAMBDA_GB_SECOND,
        "DynamoDB": writes * DYNAMODB_WRITE + 2 * jobs * DYNAMODB_READ,
        "S3": 0.0,  # a claim's put and get only above 1 MiB compressed: none of these
        "Data out to Klaviyo": sent * EVENTS / 1e9 * EGRESS_GB,
    }
    return {"dollars": parts, "total": sum(parts.values())}
