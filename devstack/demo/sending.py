"""Plays the callers: the official SDK with bulk requests, and several clients that send single events."""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import batched
from typing import Any

import httpx2
import urllib3
from klaviyo_api import KlaviyoAPI
from openapi_client.exceptions import ApiException

from devstack.demo import purchases
from devstack.demo.plan import BULK_EVENTS
from devstack.demo.purchases import Order
from devstack.stack import Stack

CLIENTS = 3  # more are not faster here: the emulator is one process
REVISION = "2026-07-15"  # the first that takes dates before 2000
ANSWER_SECONDS = 60
# As Klaviyo's SDK: the statuses that it sends again after, and how often.
PASSING = {429, 503, 504, 524}
RETRIES = 3


class SendingError(Exception):
    """Says that the API gave a wrong answer, or none; the text says which, and to what."""


@dataclass
class Sent:
    """Holds the API's answers: orders it accepted, repeats it accepted as well, and refusals.

    requests: the number of accepted requests. refused: the status of each refusal and the problem it names,
    with its count.
    """

    accepted: dict[str, Order] = field(default_factory=dict)
    requests: int = 0
    repeats: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def accept(self, orders: Sequence[Order]) -> None:
        """Counts one request that was accepted."""
        self.requests += 1
        for order in orders:
            self.repeats += order.unique_id in self.accepted
            self.accepted[order.unique_id] = order


def in_bulk(stack: Stack, orders: Sequence[Order], sent: Sent, report: Callable[[int], None]) -> None:
    """Sends orders with the official SDK; `report` gets the number that each request added."""
    klaviyo = KlaviyoAPI(stack.key, test_host=stack.api)
    for body in batched(orders, BULK_EVENTS, strict=False):
        try:
            klaviyo.Events.bulk_create_events(purchases.bulk_job(body), _request_timeout=ANSWER_SECONDS)
        except ApiException as error:
            raise SendingError(f"a bulk request was answered {error.status}: {error.reason}") from error
        except urllib3.exceptions.HTTPError as error:
            raise SendingError(f"a bulk request to {stack.api} got no answer: {error}") from error
        sent.accept(body)
        report(len(body))


def one_by_one(
    stack: Stack,
    orders: Sequence[Order],
    wrong: Sequence[Order],
    sent: Sent,
    report: Callable[[int], None],
) -> None:
    """Sends orders, and then wrong ones that have to be refused, as single events from concurrent clients."""
    headers = {
        "Authorization": f"Klaviyo-API-Key {stack.key}",
        "Content-Type": "application/vnd.api+json",
        "revision": REVISION,
    }
    first, this_client = threading.Lock(), threading.local()
    url = f"{stack.api}/api/events"
    with (
        httpx2.Client(headers=headers, timeout=ANSWER_SECONDS, trust_env=False) as client,
        ThreadPoolExecutor(CLIENTS) as clients,
        contextlib.ExitStack() as failing,
    ):
        failing.callback(clients.shutdown, wait=False, cancel_futures=True)

        def create(order: Order) -> httpx2.Response:
            # Clients come one after another: the emulator takes a second to start a function for each
            # concurrent call, and many times that when it starts several at once.
            with contextlib.nullcontext() if getattr(this_client, "has_come", False) else first:
                this_client.has_come = True
                return create_event(client, url, purchases.create_event(order))

        for order, answer in zip(orders, clients.map(create, orders), strict=True):
            if answer.status_code != httpx2.codes.ACCEPTED:
                raise SendingError(f"a valid event was answered {answer.status_code}: {_problem(answer)}")
            sent.accept([order])
            report(1)
        for answer in clients.map(create, wrong):
            if answer.status_code != httpx2.codes.BAD_REQUEST:
                raise SendingError(f"an event that is not valid was answered {answer.status_code}")
            sent.refused[f"{answer.status_code} {_problem(answer)}"] += 1
            report(1)


def create_event(client: httpx2.Client, url: str, body: dict[str, Any]) -> httpx2.Response:
    """Sends one event, and again if the answer says to come back later or there is none, as an SDK does."""
    for attempt in range(RETRIES):
        wait = random.uniform(0, 2.0**attempt)
        with contextlib.suppress(httpx2.TransportError):
            answer = client.post(url, json=body)
            if answer.status_code not in PASSING:
                return answer
            wait = float(answer.headers.get("Retry-After", wait))
        time.sleep(wait)
    try:
        return client.post(url, json=body)
    except httpx2.TransportError as error:
        raise SendingError(f"an event to {url} got no answer, {RETRIES + 1} times: {error!r}") from error


def _problem(answer: httpx2.Response) -> str:
    """Returns the first problem that an answer names."""
    try:
        return str(answer.json()["errors"][0]["detail"])
    except (ValueError, LookupError, TypeError):
        return answer.reason_phrase
