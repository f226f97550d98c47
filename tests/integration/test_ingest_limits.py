"""Tests inbound limits: two fixed windows for each key and kind of route, told as Klaviyo tells them."""

import gzip
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice import contract, receipts, settings
from sluice.admission import rate_limit
from sluice.admission.metric_quota import MetricQuota
from sluice.admission.rate_limit import RemainingQuota
from sluice.contract import MAX_CLIENT_BODY_BYTES, Surface
from sluice.errors import Refused
from sluice.webhooks import object_records
from tests.support.aws_clients import aws_client
from tests.support.factories import SITE_ID, bulk, client_bulk, encoded, single
from tests.support.ingest_app import BULK, CLIENT_BULK, CLIENT_EVENT, EVENT, TABLE, Front
from tests.template.test_state_table import leading_keys

NOON = datetime(2026, 7, 20, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def limited(front: Front, monkeypatch: pytest.MonkeyPatch) -> Front:
    """Runs the function with its limits on."""
    monkeypatch.setenv("SLUICE_INBOUND_LIMITS", "documented")
    settings.load.cache_clear()
    return front


def count(
    times: int, now: datetime, surface: Surface = Surface.BULK, caller: str = "a"
) -> list[RemainingQuota]:
    return [rate_limit.consume(TABLE, caller, surface, now) for _ in range(times)]


def refusal(now: datetime, surface: Surface = Surface.BULK) -> int:
    """Returns the seconds that one more request is told to wait."""
    with pytest.raises(Refused) as raised:
        rate_limit.consume(TABLE, "a", surface, now)
    assert raised.value.status == 429
    seconds = raised.value.headers["Retry-After"]
    [problem] = raised.value.problems
    assert (problem.code, problem.pointer) == ("throttled", "/data/")
    assert f" {seconds} second" in problem.detail
    return int(seconds)


@pytest.mark.rule
@pytest.mark.parametrize("surface", [Surface.BULK, Surface.CLIENT_BULK])
def test_ten_bulk_requests_fit_a_second_and_the_next_second_is_new(front: Front, surface: Surface) -> None:
    late = NOON + timedelta(milliseconds=990)

    assert [each.remaining for each in count(10, late, surface)] == list(range(149, 139, -1))
    assert refusal(late, surface) == 1
    assert count(1, late + timedelta(milliseconds=10), surface) == [RemainingQuota(150, 139, 59)]


@pytest.mark.rule
def test_a_hundred_and_fifty_fit_a_minute_and_the_next_minute_is_new(front: Front) -> None:
    for number in range(15):
        count(10, NOON + number * SECOND)

    assert refusal(NOON + 20 * SECOND) == 40
    assert refusal(NOON + timedelta(seconds=59.5)) == 1
    assert count(1, NOON + 60 * SECOND) == [RemainingQuota(150, 149, 60)]


def test_what_is_refused_costs_nothing_of_the_minute(front: Front) -> None:
    count(10, NOON)
    for _ in range(5):
        assert refusal(NOON) == 1

    assert count(1, NOON + SECOND) == [RemainingQuota(150, 139, 59)]


@pytest.mark.rule
def test_single_events_have_limits_of_their_own(front: Front) -> None:
    count(10, NOON)

    assert count(350, NOON, Surface.EVENT)[-1] == RemainingQuota(3_500, 3_150, 60)
    assert refusal(NOON, Surface.EVENT) == 1


def test_callers_do_not_share(front: Front) -> None:
    count(10, NOON)

    assert count(1, NOON, caller="b") == [RemainingQuota(150, 149, 60)]


def test_what_is_counted_is_forgotten(front: Front) -> None:
    count(1, NOON)

    [item] = front.items()
    assert (
        timedelta(0)
        < datetime.fromtimestamp(int(item["expires_at"]["N"]), UTC) - NOON
        <= timedelta(minutes=5)
    )


def limit_headers(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("RateLimit-")}


@pytest.mark.parametrize(
    ("path", "document", "limit"),
    [(BULK, bulk(), 150), (BULK, b"{", 150), (EVENT, single(), 3_500), (CLIENT_BULK, client_bulk(), 150)],
)
def test_every_counted_request_is_told_what_is_left(
    limited: Front, path: str, document: Any, limit: int
) -> None:
    told = limit_headers(limited.send(path, document, query={"company_id": SITE_ID}).headers)

    assert (told["RateLimit-Limit"], told["RateLimit-Remaining"]) == (str(limit), str(limit - 1))
    assert 0 < int(told["RateLimit-Reset"]) <= 60


def test_who_was_not_let_in_is_not_told_what_another_has_left(limited: Front) -> None:
    limited.send()

    assert limit_headers(limited.send(Authorization="Bearer pk_unknown").headers) == {}


def test_one_too_many_is_answered_with_when_to_come_back(
    limited: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "STEADY_LIMIT", 1)

    answers = [limited.send() for _ in range(3)]  # of which a new minute lets in two at most

    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.codes == ["throttled"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert limit_headers(refused.headers) == {}
    assert len(limited.queued()) == len([answer for answer in answers if answer.status == 202])


def test_ingest_may_reach_the_items_it_counts_in(front: Front) -> None:
    """Checks the permission, because ingest goes on without these items and no other test would fail."""
    count(1, NOON)
    MetricQuota().reserve(TABLE, SITE_ID, ["metric"], partly=False)
    receipts.create(TABLE, "0" * 32, account=SITE_ID, created=NOON, total=1)
    object_records.mark_stored(TABLE, "shop", "order", [b"event"], NOON)

    reached = {item["pk"]["S"].partition("#")[0] + "#*" for item in front.items()}
    assert reached == leading_keys("IngestFunction")


def test_off_costs_nothing(front: Front) -> None:
    answers = [front.send(EVENT, single()) for _ in range(15)]

    assert front.items() == []
    assert [limit_headers(answer.headers) for answer in answers] == [{}] * 15


def test_without_the_table_requests_are_taken(limited: Front) -> None:
    aws_client("dynamodb").delete_table(TableName=TABLE)

    answer = limited.send(EVENT, single())

    assert (answer.status, limit_headers(answer.headers)) == (202, {})
    assert "RateLimitCheckFailures" in limited.said


@pytest.mark.trust("A browser's body has a limit of its own.")
@pytest.mark.rule
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("allowed", [None, 100_000, 5_242_880])
def test_a_body_of_a_client_route_has_a_limit_of_its_own(
    front: Front, monkeypatch: pytest.MonkeyPatch, allowed: int | None, packed: bool
) -> None:
    if allowed:
        monkeypatch.setenv("SLUICE_CLIENT_BODY_BYTES", str(allowed))
        settings.load.cache_clear()
    most = allowed or MAX_CLIENT_BODY_BYTES

    def sized(size: int) -> bytes:
        document = encoded(single(unique_id="x"))
        return document + b" " * (size - len(document))

    def status(path: str, size: int, **query: str) -> int:
        body = gzip.compress(sized(size)) if packed else sized(size)
        encoding = "gzip" if packed else None
        answer = front.send(path, body, query=query, encode=packed, Content_Encoding=encoding)
        return answer.status

    assert status(CLIENT_EVENT, most, company_id=SITE_ID) == 202
    assert status(CLIENT_EVENT, most + 1, company_id=SITE_ID) == 413
    assert status(EVENT, MAX_CLIENT_BODY_BYTES + 1) == 202
