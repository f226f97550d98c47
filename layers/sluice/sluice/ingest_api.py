"""Answers the requests of ingest's API, every failure in the words of the API that was called."""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from sluice import http_api, ingest, jsonapi, runtime
from sluice.accounts import Accounts, PipelessApp
from sluice.admission import cors
from sluice.contract import Surface
from sluice.errors import Misconfigured, Refused, Retryable, place_of
from sluice.http_api import HttpRequest, HttpResponse, Route
from sluice.jsonapi import Problem
from sluice.pipeless import ingest as pipeless
from sluice.pipeless.schemas import BatchDocument
from sluice.receipts import Receipt
from sluice.telemetry import Log, Metrics

if TYPE_CHECKING:
    from sluice.webhooks.accept import Delivered
    from sluice.webhooks.accept import Ports as WebhookPorts
    from sluice.webhooks.sources import Sources

RETRY_AFTER_SECONDS: Final = 5
MAX_FIELDS_LOGGED: Final = 10  # of those left out of one delivery
MAX_TOPICS: Final = 50  # counted by one process, of all sources
_TOPIC: Final = re.compile(r"[\w.:/-]{1,64}", re.ASCII)
_PIPELESS: Final = "/v1/"  # its routes are below this
_KLAVIYO: Final = ("/api/", "/client/")
_NOT_FORWARDED: Final = (
    "Only event calls are taken here, and no other is forwarded: send this one to Klaviyo."
)


class Ports(Protocol):
    """Reaches AWS for the API. Properties may raise `Misconfigured`, methods also `Retryable`."""

    @property
    def allowed_origins(self) -> str:
        """Returns the origins of the web pages that may call the client routes, by commas, or `*`."""
        ...

    def accounts(self) -> Accounts:
        """Returns the accounts."""
        ...

    def private_key(self, *, app: PipelessApp) -> str:
        """Returns the key that an app's upstream is called with."""
        ...

    def requests(self, *, tell_rate_limit: Callable[[Mapping[str, str]], None]) -> ingest.Ports:
        """Returns the ports of accepting one request, which tell what is left of its caller's rate limit."""
        ...

    def find_receipt(self, *, receipt: str) -> Receipt | None:
        """Returns a receipt, if there is one."""
        ...

    def sources(self) -> "Sources":
        """Returns the webhook sources."""
        ...

    def webhooks(self, *, source: str) -> "WebhookPorts":
        """Returns the ports of accepting one delivery of a source."""
        ...


class IngestApi:
    """Answers requests, as one process."""

    def __init__(self, ports: Ports, log: Log, metrics: Metrics) -> None:
        self._ports = ports
        self._log = log
        self._metrics = metrics
        self._topics: set[tuple[str, str]] = set()
        self._routes = (
            Route("POST", "/api/event-bulk-create-jobs", self._accepting(Surface.BULK)),
            Route("GET", "/api/event-bulk-create-jobs/{receipt}", self._tell_status),
            Route("POST", "/api/events", self._accepting(Surface.EVENT)),
            Route("POST", "/client/event-bulk-create", self._accepting(Surface.CLIENT_BULK)),
            Route("OPTIONS", "/client/event-bulk-create", self._tell_browser),
            Route("POST", "/client/events", self._accepting(Surface.CLIENT_EVENT)),
            Route("OPTIONS", "/client/events", self._tell_browser),
            Route("POST", "/v1/apps/{app_id}/events/batch", self._accept_batch),
            Route("POST", "/webhooks/{source}", self._accept_delivery),
        )

    def handle(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Answers one event of an API; no exception leaves it."""
        request = HttpRequest("", "/", {}, {}, b"")
        try:
            request = http_api.read_request(event)
            response = self._endpoint(request)
        except Exception as error:
            response = self._failure(request, error)
        if response.status >= 400:
            self._metrics.count("RefusedRequests" if response.status < 500 else "FailedRequests")
        page = cors.headers(request.path, request.headers.get("origin"), self._allowed_origins())
        return http_api.write_response(
            event, msgspec.structs.replace(response, headers={**page, **response.headers})
        )

    def _endpoint(self, request: HttpRequest) -> HttpResponse:
        path = request.path
        not_found = _NOT_FORWARDED if path.startswith(_KLAVIYO) else "There is nothing at this path."
        route, values = http_api.find(self._routes, request, not_found)
        return route.endpoint(request, **values)

    def _accepting(self, surface: Surface) -> Callable[[HttpRequest], HttpResponse]:
        def accept(request: HttpRequest) -> HttpResponse:
            return self._accept(surface, request)

        return accept

    def _accept(self, surface: Surface, request: HttpRequest) -> HttpResponse:
        headers: dict[str, str] = {}
        try:
            accepted = ingest.accept(
                surface,
                request.headers,
                request.query,
                request.body,
                accounts=self._ports.accounts(),
                ports=self._ports.requests(tell_rate_limit=headers.update),
                now=runtime.now(),
            )
        except Refused as refused:
            raise Refused(refused.status, refused.problems, {**headers, **refused.headers}) from refused
        self._metrics.count("AcceptedEvents", accepted.events)
        if accepted.rejected:
            self._metrics.count("RejectedEvents", accepted.rejected)
        self._log.info(
            "accepted",
            receipt=accepted.receipt,
            account=accepted.account,
            events=accepted.events,
            rejected=accepted.rejected,
        )
        if accepted.ignored:
            headers["X-Klaviyo-Partial-Failure"] = ", ".join(sorted(accepted.ignored))
        if accepted.applied:
            headers["Preference-Applied"] = ", ".join(sorted(accepted.applied))
        return HttpResponse(202, ingest.accepted_document(accepted), jsonapi.MEDIA_TYPE, headers)

    def _accept_batch(self, request: HttpRequest, app_id: str) -> HttpResponse:
        app = pipeless.admit(app_id, request.headers, self._ports.accounts())
        batch = pipeless.read(app, request.headers, request.body)
        if batch.synchronous:
            return self._create_now(app, batch)
        store = self._ports.requests(tell_rate_limit=lambda _: None).store
        accepted = pipeless.accept(app, batch, store, runtime.now())
        self._metrics.count("AcceptedEvents", accepted.events)
        self._log.info("accepted", receipt=accepted.receipt, account=accepted.account, events=accepted.events)
        return _pipeless(202, msgspec.json.encode({"receipt": accepted.receipt}))

    def _create_now(self, app: PipelessApp, batch: BatchDocument) -> HttpResponse:
        from sluice.pipeless import synchronous  # noqa: PLC0415 - it brings HTTP, which no other route needs

        reply = synchronous.create(app, self._ports.private_key(app=app), batch)
        self._metrics.count("SynchronousRequests")
        self._log.info("forwarded", account=app.id, events=len(batch.events), status=reply.status)
        return _pipeless(reply.status, reply.body, reply.headers)

    def _accept_delivery(self, request: HttpRequest, source: str) -> HttpResponse:
        from sluice.webhooks import accept as webhooks  # noqa: PLC0415 - most deployments have no webhooks

        found = self._ports.sources().find(source)
        if found is None:
            raise Refused(404, [Problem("not_found", "There is no source of this name.")])
        self._log.append_keys(source=found.name)  # to every line about this request, a refusal too
        ports = self._ports.webhooks(source=found.name)
        try:
            delivered = webhooks.accept(
                found, request.headers, request.raw_body, ports=ports, now=runtime.now()
            )
        except Refused as refused:
            if refused.status == HTTPStatus.BAD_REQUEST:
                # Verified, invalid, and kept nowhere: nothing else tells the operator.
                self._metrics.count("RefusedDeliveries", 1, source=found.name)
            raise
        self._count_delivery(found.name, delivered)
        self._log.info(
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
        return HttpResponse(202 if is_stored else 200, webhooks.answer(delivered), jsonapi.MEDIA_TYPE)

    def _count_delivery(self, source: str, delivered: "Delivered") -> None:
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
                self._metrics.count(name, count)
        if delivered.left_out:
            fields = [f"{each.pointer}: {each.detail}" for each in delivered.left_out[:MAX_FIELDS_LOGGED]]
            self._log.warning(
                "fields left out", receipt=delivered.receipt, topic=delivered.topic, fields=fields
            )
        if delivered.is_empty:
            topic = self._counted_topic(source, delivered.topic)
            self._metrics.count("EmptyDeliveriesByTopic", 1, source=source, topic=topic)

    def _counted_topic(self, source: str, topic: str | None) -> str:
        """Returns a topic as a dimension. Its header is not signed, so the number of topics is bounded."""
        if topic is None:
            return "none"
        if (source, topic) not in self._topics:
            if len(self._topics) >= MAX_TOPICS or not _TOPIC.fullmatch(topic):
                return "other"
            self._topics.add((source, topic))
        return topic

    def _tell_status(self, request: HttpRequest, receipt: str) -> HttpResponse:
        document = ingest.request_status(
            receipt,
            request.headers,
            accounts=self._ports.accounts(),
            find=lambda wanted: self._ports.find_receipt(receipt=wanted),
        )
        self._metrics.count("ReceiptsRead")
        return HttpResponse(200, document, jsonapi.MEDIA_TYPE)

    def _tell_browser(self, request: HttpRequest) -> HttpResponse:
        self._metrics.count("Preflights")
        headers = cors.preflight(request.path, request.headers.get("origin"), self._allowed_origins())
        return HttpResponse(204, b"", jsonapi.MEDIA_TYPE, headers)

    def _failure(self, request: HttpRequest, error: Exception) -> HttpResponse:
        """Answers in the place of an endpoint that raised."""
        match error:
            case Refused():
                codes = sorted({problem.code for problem in error.problems})
                self._log.info("refused", status=error.status, codes=codes, problems=len(error.problems))
                return _refusal(request, error.status, error.problems, error.headers)
            case Retryable():
                self._log.error("unavailable", cause=str(error), error=type(error.__cause__).__name__)
                problem = Problem("unavailable", "Nothing was accepted. Send the same request again later.")
                return _refusal(request, 503, [problem], {"Retry-After": str(RETRY_AFTER_SECONDS)})
            case Misconfigured():
                self._log.critical("misconfigured", cause=str(error))
            case _:
                # Its type and place only: an unexpected exception's text may quote a payload.
                self._log.error("failed", error=type(error).__name__, at=place_of(error))
        problem = Problem("error", "Nothing was accepted, because the gateway failed. Tell its operator.")
        return _refusal(request, 500, [problem])

    def _allowed_origins(self) -> str:
        with contextlib.suppress(Misconfigured):  # the answer is about that then
            return self._ports.allowed_origins
        return ""


def _refusal(
    request: HttpRequest, status: int, problems: Sequence[Problem], headers: Mapping[str, str] | None = None
) -> HttpResponse:
    if request.path.startswith(_PIPELESS):
        return _pipeless(status, pipeless.errors(problems), headers)
    return HttpResponse(status, jsonapi.envelope(status, problems), jsonapi.MEDIA_TYPE, headers or {})


def _pipeless(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> HttpResponse:
    return HttpResponse(status, body, "application/json", headers or {})
