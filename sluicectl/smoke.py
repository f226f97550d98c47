"""Implements `sluicectl smoke`: sends one event the whole way, and says how far it came."""

import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import click
import httpx2

from sluice.accounts import is_site_id
from sluice.contract import (
    BULK_CREATE_JOBS_PATH,
    SCOPE_EVENTS_READ,
    SCOPE_EVENTS_WRITE,
    UPSTREAM_REVISION,
)
from sluice.jsonapi import MEDIA_TYPE
from sluice.operate import rejections
from sluice.operate.accounts import ADD_KEY, REVOKE_KEY, AddKeyArguments, RevokeKeyArguments
from sluice.operate.rejections import RecordShown
from sluicectl.deployment import Target, api_of, find
from sluicectl.errors import FAULTY, Failure, Unreachable
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen

METRIC: Final = "Sluice smoke test"
# A process uses its copy of the accounts for a minute, and the key has to be good for a minute after that.
KNOWN_SECONDS: Final = 75.0
DELIVERY_SECONDS: Final = 60.0
KEY_SECONDS: Final = round(KNOWN_SECONDS + DELIVERY_SECONDS)
ARCHIVE_SECONDS: Final = 30.0
POLL_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Step:
    """Describes how far the event is, and after how many seconds."""

    name: str
    seconds: float
    detail: str


class _Journey:
    """Keeps the steps of an event, and shows each when it is reached."""

    def __init__(self, screen: Screen) -> None:
        self.steps: list[Step] = []
        self._screen = screen
        self._begin = time.monotonic()

    def reach(self, name: str, detail: str) -> None:
        """Adds a step."""
        step = Step(name, round(time.monotonic() - self._begin, 1), detail)
        self.steps.append(step)
        self._screen.draw(
            lambda console: console.print(f"{step.seconds:6.1f} s  {name}: {detail}", markup=False)
        )


def smoke(screen: Screen, target: Target, account: str, *, profile: str, api: str | None, sure: bool) -> int:
    """Sends an event for a profile, and follows it until it is delivered or refused."""
    if not is_site_id(account):
        raise Failure(f"'{account}' is no site id of a Klaviyo account. Pipeless's apps are not tried so.")
    url = (api or api_of(target)).rstrip("/")
    what = (
        f"This sends one event of the metric '{METRIC}' to account {account}, with backfill: true, so that "
        f"no flow starts. It creates a profile for {profile} there, unless there is one. It cannot be taken "
        "back."
    )
    if not sure and (screen.as_json or not screen.agrees(f"{what} Send?")):
        raise Failure(f"Nothing was sent. {what} Agree, or give --yes.")
    client = OperateClient(find(target))
    journey = _Journey(screen)
    with _short_lived_key(client, account) as key:
        journey.reach("key", f"an ingest key that expires by itself within {KEY_SECONDS} s")
        receipt = _send(url, key, profile)
        journey.reach("accepted", f"receipt {receipt}")
        outcome = _follow(url, key, receipt, journey)
    rejected = _find_rejection(client, account, receipt) if outcome == "rejected" else None
    if outcome == "rejected":
        journey.reach("refused", _words(rejected))
    document = {
        "account": account,
        "receipt": receipt,
        "outcome": outcome,
        "steps": [asdict(step) for step in journey.steps],
        "rejection": rejected and rejected.model_dump(mode="json"),
        "error": _error(outcome, rejected),
    }
    if document["error"] is not None and not screen.as_json:
        raise Failure(document["error"])
    screen.show(document, lambda console: console.print(f"It came through to {account}.", markup=False))
    return 0 if document["error"] is None else FAULTY


def _error(outcome: str, rejected: RecordShown | None) -> str | None:
    """Says in one sentence why the event did not arrive; None if it did."""
    match outcome:
        case "delivered":
            return None
        case "rejected":
            return f"The event was refused: {_words(rejected)}"
    return (
        f"The event was accepted, and is not delivered after {DELIVERY_SECONDS:.0f} s. It waits, and is "
        "not lost: sluicectl status says for what."
    )


@contextmanager
def _short_lived_key(client: OperateClient, account: str) -> Iterator[str]:
    """Makes an ingest key, and revokes it at the end. Without that it expires."""
    key = f"pk_{secrets.token_hex(17)}"
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    scopes = frozenset({SCOPE_EVENTS_READ, SCOPE_EVENTS_WRITE})
    arguments = AddKeyArguments.model_validate(
        {"account": account, "sha256": sha256, "scopes": scopes, "seconds": KEY_SECONDS}
    )
    made = client.call(ADD_KEY, arguments)
    mine = next(each.id for each in made.keys if sha256.startswith(each.id))
    try:
        yield key
    finally:
        try:
            client.call(REVOKE_KEY, RevokeKeyArguments(account=account, key=mine))
        except Failure as failure:
            click.echo(
                f"The ingest key {mine} could not be revoked, and expires by itself: {failure}", err=True
            )


def _send(url: str, key: str, profile: str) -> str:
    """Sends the event until the API knows the key, and returns the receipt."""
    body = json.dumps(_event(profile))
    end = time.monotonic() + KNOWN_SECONDS
    while True:
        answer = _ask("POST", url + BULK_CREATE_JOBS_PATH, key, body)
        if answer.status_code == 202:
            receipt: str = answer.json()["data"]["id"]
            return receipt
        if answer.status_code != 401 or time.monotonic() > end:
            raise Failure(f"The API did not accept the event: HTTP {answer.status_code}, {_told(answer)}")
        time.sleep(POLL_SECONDS)


def _follow(url: str, key: str, receipt: str, journey: _Journey) -> str:
    """Asks about the receipt until the event has an outcome: delivered, rejected, or still waiting."""
    end = time.monotonic() + DELIVERY_SECONDS
    is_told = False
    while time.monotonic() < end:
        answer = _ask("GET", f"{url}{BULK_CREATE_JOBS_PATH}/{receipt}", key)
        # Another process of the API may not know the key yet.
        attributes = answer.json()["data"]["attributes"] if answer.status_code == 200 else {}
        if attributes.get("completed_count"):
            journey.reach("delivered", "the upstream has taken it")
            return "delivered"
        if attributes.get("failed_count"):
            return "rejected"
        if attributes and not is_told:
            journey.reach("queued", "it is on the queue")
            is_told = True
        time.sleep(POLL_SECONDS)
    return "waiting"


def _find_rejection(client: OperateClient, account: str, receipt: str) -> RecordShown | None:
    end = time.monotonic() + ARCHIVE_SECONDS
    wanted = rejections.ListArguments(account=account, receipt=receipt, limit=1)
    while time.monotonic() < end:
        if found := client.call(rejections.LIST, wanted).rejections:
            return found[0]
        time.sleep(POLL_SECONDS)
    return None


def _words(rejected: RecordShown | None) -> str:
    if rejected is None:
        return "its record is not there yet; sluicectl rejections list will show it."
    return f"{rejected.detail} (sluicectl rejections show {rejected.id})"


def _event(profile: str) -> Mapping[str, Any]:
    event = {
        "type": "event",
        "attributes": {
            "metric": {"data": {"type": "metric", "attributes": {"name": METRIC}}},
            "properties": {"sent by": "sluicectl smoke"},
            "unique_id": f"sluice-smoke-{uuid.uuid4().hex}",
        },
    }
    person = {"data": {"type": "profile", "attributes": {"email": profile}}}
    entry = {
        "type": "event-bulk-create",
        "attributes": {"profile": person, "events": {"data": [event]}, "backfill": True},
    }
    return {
        "data": {
            "type": "event-bulk-create-job",
            "attributes": {"events-bulk-create": {"data": [entry]}},
        }
    }


def _ask(method: str, url: str, key: str, body: str | None = None) -> httpx2.Response:
    headers = {"Authorization": f"Klaviyo-API-Key {key}", "revision": UPSTREAM_REVISION}
    if body is not None:
        headers["Content-Type"] = MEDIA_TYPE
    try:
        return httpx2.request(method, url, headers=headers, content=body, timeout=TIMEOUT_SECONDS)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unreachable(f"The API at {url} gives no answer ({type(error).__name__}).") from None


def _told(answer: httpx2.Response) -> str:
    try:
        return str(answer.json()["errors"][0]["detail"])
    except (ValueError, LookupError, TypeError):
        return "without a reason."
