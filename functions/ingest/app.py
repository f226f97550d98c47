"""The front: API Gateway's request in, the documented answer out. What is decided, `sluice` decides."""

import base64
import functools
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import accounts, aws, ingest, jsonapi, settings
from sluice.contract import Surface
from sluice.errors import Misconfigured, Refused, Retryable
from sluice.jsonapi import Problem

_RETRY_AFTER_SECONDS: Final = 5
# API Gateway hands bodies over as text, with U+FFFD in place of bytes that are not UTF-8. Taken for what it
# is, damaged text would be accepted; made such a byte again, it is refused.
_UNDECODABLE: Final = "\ufffd".encode()

logger = Logger()
metrics = Metrics()
app = APIGatewayRestResolver()


def _accept(surface: Surface) -> Response[str]:
    configuration = settings.load(settings.IngestSettings)
    event = app.current_event
    accepted = ingest.accept(
        surface,
        {name.lower(): value for name, value in (event.headers or {}).items()},
        event.query_string_parameters or {},
        _body_bytes(),
        accounts=accounts.load(configuration.accounts_secret),
        store=functools.partial(
            aws.store, queue_url=configuration.events_queue_url, claim_bucket=configuration.claim_bucket
        ),
        now=datetime.now(UTC),
    )
    metrics.add_metric("AcceptedEvents", MetricUnit.Count, accepted.events)
    logger.info("accepted", receipt=accepted.receipt, account=accepted.account, events=accepted.events)
    headers = {}
    if accepted.ignored:
        headers["X-Klaviyo-Partial-Failure"] = ", ".join(sorted(accepted.ignored))
    if accepted.minimal:
        headers["Preference-Applied"] = "return=minimal"
    return _answer(202, ingest.receipt_document(accepted), headers)


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


_ROUTES: Final = frozenset(
    {"/api/event-bulk-create-jobs", "/api/events", "/client/event-bulk-create", "/client/events"}
)


@app.not_found
def _not_found(_: Exception) -> Response[str]:
    if app.current_event.path.removesuffix("/") in _ROUTES:
        problem = Problem("method_not_allowed", "Only POST is allowed here.")
        return _answer(405, jsonapi.envelope(405, [problem]), {"Allow": "POST"})
    return _answer(404, jsonapi.envelope(404, [Problem("not_found", "There is nothing at this path.")]))


@app.exception_handler(Refused)  # type: ignore[untyped-decorator]
def _refused(refused: Refused) -> Response[str]:
    codes = sorted({problem.code for problem in refused.problems})
    logger.info("refused", status=refused.status, codes=codes, problems=len(refused.problems))
    return _answer(refused.status, jsonapi.envelope(refused.status, refused.problems), refused.headers)


@app.exception_handler(Retryable)  # type: ignore[untyped-decorator]
def _unavailable(error: Retryable) -> Response[str]:
    logger.error("unavailable", cause=str(error), error=type(error.__cause__).__name__)
    problem = Problem("unavailable", "Nothing was accepted. Send the same request again later.")
    return _answer(503, jsonapi.envelope(503, [problem]), {"Retry-After": str(_RETRY_AFTER_SECONDS)})


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
    problem = Problem("error", "Nothing was accepted. The fault is on this side.")
    return _answer(500, jsonapi.envelope(500, [problem]))


def _answer(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response[str]:
    if status >= 400:
        name = "RefusedRequests" if status < 500 else "FailedRequests"
        metrics.add_metric(name, MetricUnit.Count, 1)
    return Response(status, jsonapi.MEDIA_TYPE, body.decode(), dict(headers or {}))


def _body_bytes() -> bytes:
    event = app.current_event
    body = event.get("body") or ""
    if event.is_base64_encoded:
        return base64.b64decode(body)
    return body.encode("utf-8", "surrogatepass").replace(_UNDECODABLE, b"\xff")


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Lambda's entry: a proxy request of a REST API."""
    return app.resolve(event, context)
