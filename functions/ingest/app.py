"""Answers API Gateway's requests; `sluice` makes the decisions."""

import base64
import contextlib
import functools
import re
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.metrics import MetricUnit, single_metric
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import accounts, ingest, jsonapi, receipts, rejection, runtime, settings
from sluice.accounts import PipelessApp
from sluice.admission import cors, rate_limit
from sluice.admission.metric_quota import MetricQuota
from sluice.aws import s3, sqs
from sluice.contract import Surface
from sluice.errors import Misconfigured, Refused, Retryable
from sluice.jsonapi import Problem
from sluice.message import Body
from sluice.pipeless import ingest as pipeless
from sluice.pipeless.schemas import BatchDocument
from sluice.rejection import Rejection
from sluice.settings import IngestSettings

if TYPE_CHECKING:
    from sluice.webhooks.accept import Delivered
    from sluice.webhooks.object_records import Identity, ObjectRecord
    from sluice.webhooks.sources import SourcesCache

_PIPELESS: Final = "/v1/"  # its routes are below this
_RETRY_AFTER_SECONDS: Final = 5
_NOT_FORWARDED: Final = (
    "Only event calls are taken here, and no other is forwarded: send this one to Klaviyo."
)
_FIELDS_LOGGED: Final = 10  # of those left out of one delivery
_TOPIC: Final = re.compile(r"[\w.:/-]{1,64}", re.ASCII)
_MAX_TOPICS: Final = 50  # counted by each process, of all sources
_topics_counted: Final[set[tuple[str, str]]] = set()
# API Gateway hands bodies over as text, with U+FFFD in place of bytes that are not UTF-8. Taken for what it
# is, damaged text would be accepted; made such a byte again, it is refused.
_UNDECODABLE: Final = "\ufffd".encode()

logger = Logger()
metrics = Metrics()
app = APIGatewayRestResolver()
catalogue = MetricQuota()


def _accept(surface: Surface) -> Response[str]:
    configuration = settings.load(IngestSettings)
    accepted = ingest.accept(
        surface,
        _headers(),
        app.current_event.query_string_parameters or {},
        _body_bytes(),
        accounts=accounts.load(configuration.accounts_secret),
        ports=_ports(configuration),
        now=runtime.now(),
    )
    metrics.add_metric("AcceptedEvents", MetricUnit.Count, accepted.events)
    if accepted.rejected:
        metrics.add_metric("RejectedEvents", MetricUnit.Count, accepted.rejected)
    logger.info(
        "accepted",
        receipt=accepted.receipt,
        account=accepted.account,
        events=accepted.events,
        rejected=accepted.rejected,
    )
    headers = {}
    if accepted.ignored:
        headers["X-Klaviyo-Partial-Failure"] = ", ".join(sorted(accepted.ignored))
    if accepted.applied:
        headers["Preference-Applied"] = ", ".join(sorted(accepted.applied))
    return _answer(202, ingest.accepted_document(accepted), headers)


def _ports(configuration: IngestSettings) -> ingest.Ports:
    table = configuration.state_table

    def count(caller: str, surface: Surface, now: datetime) -> None:
        if configuration.inbound_limits == "documented":
            with _if_it_can_be("RateLimitCheckFailures", "request not counted"):
                left = rate_limit.consume(table, caller, surface, now)
                app.append_context(rate_limit=left.headers())  # type: ignore[no-untyped-call]

    def reserve_metrics(site_id: str, names: Iterable[str], partly: bool) -> Set[str]:
        with _if_it_can_be("MetricQuotaCheckFailures", "metrics not counted"):
            return catalogue.reserve(table, site_id, names, partly=partly)
        return frozenset()

    def store(body: Body, account: str) -> None:
        queue_url, bucket = configuration.events_queue_url, configuration.claim_bucket
        sqs.send_message(body, account, queue_url=queue_url, claim_bucket=bucket)

    def reject(rejections: list[Rejection]) -> None:
        queue_url, bucket = configuration.rejected_queue_url, configuration.claim_bucket
        if sqs.send_messages(queue_url, list(map(rejection.encode, rejections)), claim_bucket=bucket):
            raise Retryable("the rejected queue cannot be reached")

    def open_receipt(receipt: str, account: str, created: datetime, total: int, rejected: list[int]) -> None:
        with _if_it_can_be("ReceiptWriteFailures", "receipt not written", receipt=receipt):
            receipts.create(table, receipt, account=account, created=created, total=total, rejected=rejected)

    return ingest.Ports(count, reserve_metrics, store, reject, open_receipt)


@contextlib.contextmanager
def _if_it_can_be(otherwise: str, warning: str, **fields: Any) -> Iterator[None]:
    """Wraps a step that a request can do without: if the state table cannot be reached, that is counted."""
    try:
        yield
    except Retryable as error:
        metrics.add_metric(otherwise, MetricUnit.Count, 1)
        logger.warning(warning, cause=str(error), **fields)


@app.post("/api/event-bulk-create-jobs")
def _create_bulk() -> Response[str]:
    return _accept(Surface.BULK)


@app.post("/api/events")
def _create_event() -> Response[str]:
    return _accept(Surface.EVENT)


@app.post("/client/event-bulk-create")
def _create_client_bulk() -> Response[str]:
    return _accept(Surface.CLIENT_BULK)


@app.post("/client/events")
def _create_client_event() -> Response[str]:
    return _accept(Surface.CLIENT_EVENT)


@app.post("/v1/apps/<app_id>/events/batch")
def _create_batch(app_id: str) -> Response[str]:
    configuration = settings.load(IngestSettings)
    headers = _headers()
    destination = pipeless.admit(app_id, headers, accounts.load(configuration.accounts_secret))
    batch = pipeless.read(destination, headers, _body_bytes())
    if batch.synchronous:
        return _create_now(destination, batch)
    accepted = pipeless.accept(destination, batch, _ports(configuration).store, runtime.now())
    metrics.add_metric("AcceptedEvents", MetricUnit.Count, accepted.events)
    logger.info("accepted", receipt=accepted.receipt, account=accepted.account, events=accepted.events)
    return _answer(202, msgspec.json.encode({"receipt": accepted.receipt}))


def _create_now(destination: PipelessApp, batch: BatchDocument) -> Response[str]:
    from sluice.pipeless import synchronous  # noqa: PLC0415 - it brings HTTP, which no other route needs

    reply = synchronous.create(destination, batch)
    metrics.add_metric("SynchronousRequests", MetricUnit.Count, 1)
    logger.info("forwarded", account=destination.id, events=len(batch.events), status=reply.status)
    return _answer(reply.status, reply.body, reply.headers)


@app.post("/webhooks/<source>")
def _accept_delivery(source: str) -> Response[str]:
    from sluice.webhooks import accept as webhooks  # noqa: PLC0415 - most deployments have no webhooks

    configuration = settings.load(IngestSettings)
    found = _sources_cache().sources().find(source)
    if found is None:
        raise Refused(404, [Problem("not_found", "There is no source of this name.")])
    logger.append_keys(source=found.name)  # added to every log line of this request, refusals included
    common = _ports(configuration)
    delivered = webhooks.accept(
        found,
        _headers(),
        _raw_body(),
        ports=webhooks.Ports(
            secret=lambda name: _webhook_secret(configuration.webhook_secrets + name),
            store=common.store,
            reject=common.reject,
            records=_Records(configuration.state_table, found.name),
        ),
        now=runtime.now(),
    )
    _count_delivery(found.name, delivered)
    logger.info(
        "delivered",
        receipt=delivered.receipt,
        account=delivered.account,
        topic=delivered.topic,
        events=delivered.events,
        rejected=delivered.rejected,
        repeated=delivered.repeated,
        unidentified=delivered.unidentified,
    )
    is_stored = delivered.events or delivered.repeated
    return _answer(202 if is_stored else 200, webhooks.answer(delivered))


class _Records:
    """Reads and writes the records of a source's objects; events go on without them if the table is down."""

    def __init__(self, table: str, source: str) -> None:
        self._table, self._source = table, source

    def open(self, object_id: str, people: "Mapping[str, Identity]") -> "ObjectRecord":
        from sluice.webhooks import object_records  # noqa: PLC0415

        with _if_it_can_be("ObjectRecordFailures", "object record not opened"):
            return object_records.open_record(self._table, self._source, object_id, people, runtime.now())
        return object_records.ObjectRecord()

    def mark_stored(self, object_id: str, event_ids: Collection[bytes]) -> None:
        from sluice.webhooks import object_records  # noqa: PLC0415

        with _if_it_can_be("ObjectRecordFailures", "object record not written"):
            object_records.mark_stored(self._table, self._source, object_id, event_ids, runtime.now())


def _count_delivery(source: str, delivered: "Delivered") -> None:
    """Counts the results of a delivery; one of which no mapping made anything is counted by its topic."""
    counts = {
        "WebhookDeliveries": 1,
        "AcceptedEvents": delivered.events,
        "RejectedDeliveries": min(delivered.rejected, 1),
        "RepeatedEvents": delivered.repeated,
        "UnidentifiedEvents": delivered.unidentified,
        "LeftOutFields": len(delivered.left_out),
        "EmptyDeliveries": int(delivered.is_empty),
    }
    for name, count in counts.items():
        if count or name == "AcceptedEvents":
            metrics.add_metric(name, MetricUnit.Count, count)
    if delivered.left_out:
        fields = [f"{each.pointer}: {each.detail}" for each in delivered.left_out[:_FIELDS_LOGGED]]
        logger.warning("fields left out", receipt=delivered.receipt, topic=delivered.topic, fields=fields)
    if delivered.is_empty:
        with single_metric("EmptyDeliveriesByTopic", MetricUnit.Count, 1) as metric:
            metric.add_dimension("source", source)
            metric.add_dimension("topic", _counted_topic(source, delivered.topic))


def _counted_topic(source: str, topic: str | None) -> str:
    """Returns a topic as a dimension; its header is not signed, so only so many are counted."""
    if topic is None:
        return "none"
    if (source, topic) not in _topics_counted:
        if len(_topics_counted) >= _MAX_TOPICS or not _TOPIC.fullmatch(topic):
            return "other"
        _topics_counted.add((source, topic))
    return topic


def _webhook_secret(name: str) -> Any:
    return accounts.read_secret(name, f"the secret {name} cannot be read")


@functools.cache
def _sources_cache() -> "SourcesCache":
    """Returns the process's copy of the sources document."""
    from sluice.webhooks import sources  # noqa: PLC0415

    bucket = settings.load(IngestSettings).config_bucket

    def report(cause: str) -> None:
        metrics.add_metric("SourcesLoadFailures", MetricUnit.Count, 1)
        logger.critical("sources not loaded", cause=cause)

    return sources.SourcesCache(
        lambda etag: s3.get_object_if_changed(bucket, sources.KEY, etag),
        report=report,
        clock=runtime.monotonic,
    )


@app.get("/api/event-bulk-create-jobs/<receipt>")
def _tell_progress(receipt: str) -> Response[str]:
    configuration = settings.load(IngestSettings)
    document = ingest.request_status(
        receipt,
        _headers(),
        accounts=accounts.load(configuration.accounts_secret),
        find=lambda wanted: receipts.find(configuration.state_table, wanted, runtime.now()),
    )
    metrics.add_metric("ReceiptsRead", MetricUnit.Count, 1)
    return _answer(200, document)


@app.route("/client/event-bulk-create", method="OPTIONS")
@app.route("/client/events", method="OPTIONS")
def _tell_browser() -> Response[str]:
    metrics.add_metric("Preflights", MetricUnit.Count, 1)
    return _answer(204, b"", cors.preflight(*_web_page()))


_ALLOWED: Final = {
    "/api/event-bulk-create-jobs": "POST",
    "/api/event-bulk-create-jobs/*": "GET",
    "/api/events": "POST",
    "/client/event-bulk-create": "POST, OPTIONS",
    "/client/events": "POST, OPTIONS",
    "/v1/apps/*/events/batch": "POST",
    "/webhooks/*": "POST",
}


@app.not_found
def _not_found(_: Exception) -> Response[str]:
    path, method = app.current_event.path.rstrip("/"), app.current_event.http_method
    for route, methods in _ALLOWED.items():
        if re.fullmatch(route.replace("*", "[^/]+"), path) and method not in methods.split(", "):
            problem = Problem("method_not_allowed", f"Allowed here: {methods}.")
            return _refuse(405, [problem], {"Allow": methods})
    detail = _NOT_FORWARDED if path.startswith(("/api/", "/client/")) else "There is nothing at this path."
    return _refuse(404, [Problem("not_found", detail)])


@app.exception_handler(Refused)  # type: ignore[untyped-decorator]
def _refused(refused: Refused) -> Response[str]:
    codes = sorted({problem.code for problem in refused.problems})
    logger.info("refused", status=refused.status, codes=codes, problems=len(refused.problems))
    return _refuse(refused.status, refused.problems, refused.headers)


@app.exception_handler(Retryable)  # type: ignore[untyped-decorator]
def _unavailable(error: Retryable) -> Response[str]:
    logger.error("unavailable", cause=str(error), error=type(error.__cause__).__name__)
    problem = Problem("unavailable", "Nothing was accepted. Send the same request again later.")
    return _refuse(503, [problem], {"Retry-After": str(_RETRY_AFTER_SECONDS)})


@app.exception_handler(Misconfigured)  # type: ignore[untyped-decorator]
def _misconfigured(error: Misconfigured) -> Response[str]:
    logger.critical("misconfigured", cause=str(error))
    return _fail()


@app.exception_handler(Exception)  # type: ignore[untyped-decorator]
def _broken(error: Exception) -> Response[str]:
    # Its type and place only: an unexpected exception's text may quote a payload.
    place = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("failed", error=type(error).__name__, at=f"{place.name}:{place.lineno}")
    return _fail()


def _fail() -> Response[str]:
    problem = Problem("error", "Nothing was accepted, because the gateway failed. Tell its operator.")
    return _refuse(500, [problem])


def _refuse(
    status: int, problems: Sequence[Problem], headers: Mapping[str, str] | None = None
) -> Response[str]:
    """Answers with problems, in the words of the API that was called."""
    if app.current_event.path.startswith(_PIPELESS):
        return _answer(status, pipeless.errors(problems), headers)
    return _answer(status, jsonapi.envelope(status, problems), headers)


def _answer(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response[str]:
    if status >= 400:
        name = "RefusedRequests" if status < 500 else "FailedRequests"
        metrics.add_metric(name, MetricUnit.Count, 1)
    is_pipeless = app.current_event.path.startswith(_PIPELESS)
    media_type = "application/json" if is_pipeless else jsonapi.MEDIA_TYPE
    about_caller: Mapping[str, str] = {**cors.headers(*_web_page()), **app.context.get("rate_limit", {})}
    return Response(status, media_type, body.decode(), {**about_caller, **(headers or {})})


def _web_page() -> tuple[str, str | None, str]:
    """Returns the path of the request, the page's origin if it comes from one, and the allowed origins."""
    event = app.current_event
    allowed = ""
    with contextlib.suppress(Misconfigured):  # the answer then reports it
        allowed = settings.load(IngestSettings).allowed_origins
    return event.path, _headers().get("origin"), allowed


def _headers() -> dict[str, str]:
    """Returns headers by lower-case name; one that is sent more than once is one list (RFC 9110)."""
    event = app.current_event
    # An event written by hand often has no more than `headers`, where the last of several is.
    given = event.get("multiValueHeaders") or {name: [value] for name, value in event.headers.items()}
    return {name.lower(): ", ".join(values) for name, values in given.items()}


def _raw_body() -> bytes:
    event = app.current_event
    body = event.get("body") or ""
    if event.is_base64_encoded:
        return base64.b64decode(body)
    try:
        # Python's own servers hand on bytes that are not UTF-8 as these surrogates.
        return body.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return body.encode("utf-8", "surrogatepass")


def _body_bytes() -> bytes:
    body = _raw_body()
    return body if app.current_event.is_base64_encoded else body.replace(_UNDECODABLE, b"\xff")


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Handles a REST API's proxy request for Lambda."""
    return app.resolve(event, context)
