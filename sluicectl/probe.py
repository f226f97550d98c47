"""Implements `sluicectl probe`: asks an account at Klaviyo what Klaviyo's documents leave open."""

import gzip
import json
import os
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import httpx2
from rich.console import Console

from sluice import accounts
from sluice.accounts import is_site_id
from sluice.contract import BULK_CREATE_JOBS_PATH, KLAVIYO_BASE_URL, UPSTREAM_REVISION
from sluice.jsonapi import MEDIA_TYPE
from sluicectl.errors import Failure, Unreachable
from sluicectl.questions import (
    MAX_QUESTIONS,
    METRIC,
    OTHER_METRIC,
    Answer,
    Document,
    Finding,
    Questions,
    settings_of,
)
from sluicectl.screen import Screen, table

KEY_VARIABLE: Final = "KLAVIYO_PRIVATE_KEY"
MAX_TRIES: Final = 3  # of a job that is answered 429
MAX_WAIT_SECONDS: Final = 65.0
TIMEOUT_SECONDS: Final = 30.0
_KEPT_HEADERS: Final = ("content-type", "retry-after", "ratelimit-", "x-klaviyo-")


@dataclass(frozen=True)
class AskedAccount:
    """Holds the account at Klaviyo that is asked."""

    site_id: str
    private_key: str = field(repr=False)
    base_url: str


@dataclass(frozen=True)
class Exchange:
    """Holds one question as it was sent, without the key, and its answer."""

    question: str
    request: dict[str, Any]
    response: dict[str, Any]


def probe(
    screen: Screen,
    account_id: str,
    *,
    file: str | None,
    base_url: str | None,
    email_domain: str,
    pause: float,
    directory: str | None,
    sure: bool,
) -> int:
    """Asks an account, shows which assumptions hold, and writes settings and answers down."""
    account = _account(account_id, file, base_url)
    run = uuid.uuid4().hex[:12]
    email = f"sluice-probe-{run}@{email_domain}"
    _ask_operator(screen, account, email, sure=sure)
    exchanges: list[Exchange] = []
    findings = Questions(
        lambda question, job, zipped: _exchange(account, exchanges, question, job, zipped),
        run,
        email,
        lambda: time.sleep(pause),
    ).investigate()
    folder = Path(directory or f"probe-{account.site_id}-{datetime.now(UTC):%Y-%m-%d}")
    written = _write(folder, findings, exchanges)
    document = {
        "account": account.site_id,
        "run": run,
        "findings": [{**asdict(finding), "holds": finding.holds} for finding in findings],
        "written": written,
    }
    screen.show(document, lambda console: _draw(console, findings, written))
    return 0


def _account(account_id: str, file: str | None, base_url: str | None) -> AskedAccount:
    """Returns the account to ask: from an accounts document, or with a key that the operator gives."""
    if not is_site_id(account_id):
        raise Failure(f"'{account_id}' is no site id of a Klaviyo account. Pipeless's apps cannot be asked.")
    if file is not None:
        with click.open_file(file, "rb") as stream:
            content = stream.read()
        found = accounts.read_written(content).accounts.by_site_id(account_id)
        if found is None:
            raise Failure(f"{file} has no valid account {account_id}: see sluicectl accounts check.")
        entries = json.loads(content)["accounts"]
        key = next(each["private_key"] for each in entries if accounts.id_of(each) == account_id)
        at = base_url or found.base_url
    else:
        key = os.environ.get(KEY_VARIABLE) or _ask_for_key(account_id)
        at = base_url or KLAVIYO_BASE_URL
    url = urllib.parse.urlsplit(at)
    if url.scheme != "https" and url.hostname not in {"127.0.0.1", "localhost"}:
        raise Failure(f"The private key is sent to https addresses only, not to {at}.")
    return AskedAccount(account_id, key, at)


def _ask_for_key(account_id: str) -> str:
    try:
        return str(click.prompt(f"Private key of {account_id}", hide_input=True, err=True))
    except click.Abort:
        raise Failure(
            f"There is no private key: set {KEY_VARIABLE}, or name an accounts document with --accounts."
        ) from None


def _ask_operator(screen: Screen, account: AskedAccount, email: str, *, sure: bool) -> None:
    """Raises `Failure` unless the operator agrees. A script says so with --yes."""
    what = (
        f"This sends up to {MAX_QUESTIONS} jobs to account {account.site_id} at {account.base_url}. They"
        f" record about a dozen events of the metrics '{METRIC}' and '{OTHER_METRIC}' for {email} and one"
        " more profile, all with backfill: true, so that no flow starts. They cannot be taken back."
    )
    if not sure and (screen.as_json or not screen.agrees(f"{what} Ask?")):
        raise Failure(f"Nothing was sent. {what} Agree, or give --yes.")


def _exchange(
    account: AskedAccount, exchanges: list[Exchange], question: str, job: Document, zipped: bool
) -> Answer:
    """Sends one question and keeps it with its answer. It waits out a 429."""
    body = json.dumps(job).encode()
    headers = {"revision": UPSTREAM_REVISION, "Accept": MEDIA_TYPE, "Content-Type": MEDIA_TYPE}
    if zipped:
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body)
    for _ in range(MAX_TRIES):
        answer = _post(account, headers, body)
        if answer.status != 429:
            break
        time.sleep(_pause_seconds(answer))
    if answer.status in {401, 403}:
        raise Failure(
            f"Klaviyo refuses the key of {account.site_id} (HTTP {answer.status}): it needs events:write."
        )
    if answer.status == 429 or not 200 <= answer.status < 500:
        raise Unreachable(f"Klaviyo answers HTTP {answer.status} to '{question}'. Ask again later.")
    kept = {name: value for name, value in answer.headers.items() if name.startswith(_KEPT_HEADERS)}
    request = {"headers": headers, "body": job}
    exchanges.append(
        Exchange(question, request, {"status": answer.status, "headers": kept, "body": answer.body})
    )
    return answer


def _post(account: AskedAccount, headers: Mapping[str, str], body: bytes) -> Answer:
    url = account.base_url.rstrip("/") + BULK_CREATE_JOBS_PATH
    shown = {**headers, "Authorization": f"Klaviyo-API-Key {account.private_key}"}
    try:
        response = httpx2.post(url, content=body, headers=shown, timeout=TIMEOUT_SECONDS)
    except httpx2.HTTPError as error:
        raise Unreachable(f"{account.base_url} gives no answer ({type(error).__name__}: {error}).") from None
    return Answer(response.status_code, dict(response.headers), response.text)


def _pause_seconds(answer: Answer) -> float:
    try:
        return min(MAX_WAIT_SECONDS, float(answer.headers.get("retry-after", "")) + 0.5)
    except ValueError:
        return 10.0


def _write(folder: Path, findings: Iterable[Finding], exchanges: Iterable[Exchange]) -> list[str]:
    """Writes the fake upstream's settings and all questions with their answers, and returns the files."""
    documents = {
        "settings.json": settings_of(findings),
        "exchanges.json": [asdict(each) for each in exchanges],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, document in documents.items():
            (folder / name).write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise Failure(f"{folder} cannot be written: {error.strerror}") from None
    return [str(folder / name) for name in documents]


def _draw(console: Console, findings: Iterable[Finding], written: Iterable[str]) -> None:
    words = {True: "yes", False: "no", None: "unknown"}
    rows = [(each.question, each.assumed, each.found, words[each.holds]) for each in findings]
    console.print(table(("question", "assumed", "found", "holds"), rows))
    for path in written:
        console.print(path, markup=False, soft_wrap=True)
