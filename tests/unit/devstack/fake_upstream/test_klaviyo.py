"""Tests the fake Klaviyo's accounts: who may send, how fast, what is taken, and the faults on demand."""

import threading
from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
import pytest

from devstack.fake_upstream import Klaviyo, Settings, transport
from devstack.fake_upstream.answers import Answer
from devstack.fake_upstream.control import control
from devstack.fake_upstream.windows import FixedWindow, busiest

NOON = datetime(2026, 7, 20, 12, tzinfo=UTC).timestamp()
ROUTE = "/api/event-bulk-create-jobs"
SITE, KEY = "AbC123", "pk_test"
HEADERS = {
    "Authorization": f"Klaviyo-API-Key {KEY}",
    "revision": "2026-07-15",
    "Content-Type": "application/vnd.api+json",
}
ITEMS = "/data/attributes/events-bulk-create/data"


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def klaviyo(clock: Clock) -> Klaviyo:
    return Klaviyo({SITE: KEY, "XyZ789": "pk_other"}, clock=clock)


def entry(
    email: str = "ann@example.com", *unique_ids: str | None, metric: str = "Viewed Product", **event: object
) -> dict[str, Any]:
    return {
        "type": "event-bulk-create",
        "attributes": {
            "profile": {"data": {"type": "profile", "attributes": {"email": email}}},
            "events": {
                "data": [
                    {
                        "type": "event",
                        "attributes": {
                            "properties": {"n": n},
                            "metric": {"data": {"type": "metric", "attributes": {"name": metric}}},
                            **({"unique_id": unique_id} if unique_id else {}),
                            **event,
                        },
                    }
                    for n, unique_id in enumerate(unique_ids)
                ]
            },
        },
    }


def job(*entries: dict[str, Any]) -> bytes:
    return msgspec.json.encode(
        {
            "data": {
                "type": "event-bulk-create-job",
                "attributes": {"events-bulk-create": {"data": list(entries)}},
            }
        }
    )


def post(klaviyo: Klaviyo, *entries: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
    return klaviyo.handle("POST", ROUTE, HEADERS | (headers or {}), job(*entries))


def content(answer: Answer) -> bytes:
    assert isinstance(answer.body, bytes)
    return answer.body


def errors(answer: Answer) -> list[dict[str, Any]]:
    assert answer.headers["Content-Type"] == "application/vnd.api+json"
    found: list[dict[str, Any]] = msgspec.json.decode(content(answer))["errors"]
    return found


def pointers(answer: Answer) -> list[str]:
    return [error["source"].get("pointer") for error in errors(answer)]


def account(klaviyo: Klaviyo, site_id: str = SITE) -> dict[str, Any]:
    found: dict[str, Any] = klaviyo.summary()["accounts"][site_id]
    return found


@pytest.mark.parametrize("path", [ROUTE, ROUTE + "/"])
@pytest.mark.parametrize("content_type", ["application/json", "Application/vnd.api+json; charset=utf-8"])
def test_a_job_is_taken_with_an_empty_202(klaviyo: Klaviyo, path: str, content_type: str) -> None:
    answer = klaviyo.handle("POST", path, HEADERS | {"Content-Type": content_type}, job(entry("a@b.co", "1")))

    assert (answer.status, answer.body) == (202, b"")
    assert answer.headers == {
        "RateLimit-Limit": "150",
        "RateLimit-Remaining": "149",
        "RateLimit-Reset": "60",
    }


REFUSED_REQUESTS = {
    "no credentials": ({"Authorization": ""}, 401, "not_authenticated", {"pointer": "/data/"}),
    "other scheme": ({"Authorization": f"Bearer {KEY}"}, 401, "not_authenticated", {"pointer": "/data/"}),
    "unknown key": (
        {"Authorization": "Klaviyo-API-Key pk_wrong"},
        401,
        "authentication_failed",
        {"pointer": "/data/"},
    ),
    "no revision": ({"revision": ""}, 400, "invalid", {"parameter": "revision"}),
    "odd revision": ({"revision": "latest"}, 400, "invalid", {"parameter": "revision"}),
    "other type": ({"Content-Type": "text/plain"}, 415, "unsupported_media_type", {"pointer": "/data"}),
    "compressed": ({"Content-Encoding": "gzip"}, 415, "unsupported_media_type", {"pointer": "/data"}),
}


@pytest.mark.parametrize("case", REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys())
def test_a_request_with_wrong_headers_is_refused(
    klaviyo: Klaviyo, case: tuple[dict[str, str], int, str, dict[str, str]]
) -> None:
    headers, status, code, source = case

    answer = post(klaviyo, entry("a@b.co", "1"), headers=headers)

    [error] = errors(answer)
    assert (answer.status, error["status"], error["code"], error["source"]) == (status, status, code, source)
    assert list(klaviyo.events()) == []


def test_other_paths_and_methods_are_refused(klaviyo: Klaviyo) -> None:
    assert klaviyo.handle("POST", "/api/events", HEADERS, b"").status == 404
    answer = klaviyo.handle("GET", ROUTE, HEADERS, b"")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert klaviyo.summary()["unauthenticated"] == 2


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b'{"a": "\xff"}', b"[" * 100_000])
def test_what_is_not_json_is_a_parse_error(klaviyo: Klaviyo, body: bytes) -> None:
    answer = klaviyo.handle("POST", ROUTE, HEADERS, body)

    assert answer.status == 400
    assert [(error["code"], error["source"]) for error in errors(answer)] == [
        ("parse_error", {"pointer": "/"})
    ]


def test_a_body_may_have_five_mebibytes_and_no_byte_more(klaviyo: Klaviyo) -> None:
    body = job(entry("a@b.co", "1"))
    largest = body + b" " * (5 * 1024 * 1024 - len(body))

    assert klaviyo.handle("POST", ROUTE, HEADERS, largest).status == 202
    assert klaviyo.handle("POST", ROUTE, HEADERS, largest + b" ").status == 413
    assert account(klaviyo)["largest_body"] == len(largest) + 1


BAD_JOB = [entry("nobody", "1"), entry("b@b.co", "2"), entry("c@b.co", "3", "4", time="yesterday")]
ATTRIBUTED = [
    f"{ITEMS}/0/attributes/profile/data/attributes/email",
    f"{ITEMS}/2/attributes/events/data/0/attributes/time",
    f"{ITEMS}/2/attributes/events/data/1/attributes/time",
]


@pytest.mark.parametrize(
    ("attribution", "expected"), [("all", ATTRIBUTED), ("first", ATTRIBUTED[:1]), ("none", ["/data"])]
)
def test_bad_items_are_attributed_as_set_and_nothing_is_taken(
    klaviyo: Klaviyo, attribution: str, expected: list[str]
) -> None:
    klaviyo.configure(attribution=attribution)

    answer = post(klaviyo, *BAD_JOB)

    assert (answer.status, pointers(answer)) == (400, expected)
    assert all(error["code"] == "invalid" for error in errors(answer))
    assert list(klaviyo.events()) == []
    assert post(klaviyo, BAD_JOB[1]).status == 202


REPEATS = {
    "in one entry": [entry("a@b.co", "1", "1")],
    "over entries": [entry("a@b.co", "1"), entry("a@b.co", "1")],
}


@pytest.mark.parametrize("entries", REPEATS.values(), ids=REPEATS.keys())
def test_a_unique_id_twice_in_a_job_fails_the_job(klaviyo: Klaviyo, entries: list[dict[str, Any]]) -> None:
    answer = post(klaviyo, *entries)

    [error] = errors(answer)
    assert (answer.status, error["code"], error["title"]) == (400, "invalid", "Duplicate unique_id.")
    assert "'1'" in error["detail"]
    assert error["source"]["pointer"].endswith("/attributes/unique_id")
    assert list(klaviyo.events()) == []
    assert account(klaviyo)["duplicates_refused"] == 1


def test_a_unique_id_of_an_earlier_job_fails_the_job_and_takes_nothing(klaviyo: Klaviyo) -> None:
    post(klaviyo, entry("a@b.co", "1"))

    answer = post(klaviyo, entry("a@b.co", "2", "1"))

    assert pointers(answer) == [f"{ITEMS}/0/attributes/events/data/1/attributes/unique_id"]
    assert [event.event["unique_id"] for event in klaviyo.events()] == ["1"]
    assert post(klaviyo, entry("a@b.co", "2")).status == 202


def test_profile_metric_and_account_tell_equal_unique_ids_apart(klaviyo: Klaviyo) -> None:
    assert post(klaviyo, entry("a@b.co", "1"), entry("b@b.co", "1")).status == 202
    assert post(klaviyo, entry("a@b.co", "1", metric="Placed Order")).status == 202
    other = {"Authorization": "Klaviyo-API-Key pk_other"}
    assert post(klaviyo, entry("a@b.co", "1"), headers=other).status == 202
    assert account(klaviyo, "XyZ789")["events"] == 1


def test_duplicates_can_be_set_to_be_ignored_the_first_one_wins(klaviyo: Klaviyo) -> None:
    klaviyo.configure(duplicates="ignore")

    assert post(klaviyo, entry("a@b.co", "1", "1", "2")).status == 202
    assert post(klaviyo, entry("a@b.co", "2")).status == 202

    assert [(event.event["unique_id"], event.event["properties"]["n"]) for event in klaviyo.events()] == [
        ("1", 0),
        ("2", 2),
    ]
    assert (account(klaviyo)["fill"], account(klaviyo)["silently_lost"]) == ([2, 0], 2)


def test_without_unique_id_one_event_a_second_lives(klaviyo: Klaviyo, clock: Clock) -> None:
    times = ["2026-07-01T10:00:00.1Z", "2026-07-01T10:00:00.9Z", "2026-07-01T10:00:01Z", None, None]

    assert post(klaviyo, *(entry("a@b.co", None, time=time) for time in times)).status == 202

    assert [event.event["time"] for event in klaviyo.events()] == [times[0], times[2], None]
    assert account(klaviyo)["silently_lost"] == 2
    clock.sleep(1)
    assert post(klaviyo, entry("a@b.co", None)).status == 202
    assert account(klaviyo)["events"] == 4


def test_a_second_takes_ten_requests_and_the_next_second_ten_more(klaviyo: Klaviyo, clock: Clock) -> None:
    clock.now = NOON + 0.75
    assert [post(klaviyo).status for _ in range(11)] == [202] * 10 + [429]

    clock.now = NOON + 0.999
    assert post(klaviyo).status == 429

    clock.now = NOON + 1
    assert post(klaviyo).status == 202


def test_a_throttled_answer_has_a_whole_retry_after_and_no_ratelimit_headers(
    klaviyo: Klaviyo, clock: Clock
) -> None:
    clock.now = NOON + 0.75
    for _ in range(10):
        post(klaviyo)

    answer = post(klaviyo)

    assert answer.headers["Retry-After"] == "1"
    assert not [name for name in answer.headers if name.startswith("RateLimit")]
    [error] = errors(answer)
    assert (error["code"], error["source"]) == ("throttled", {"pointer": "/data/"})
    assert error["detail"] == "Request was throttled. Expected available in 1 second(s)."


def test_a_minute_takes_150_requests_whatever_their_answers(klaviyo: Klaviyo, clock: Clock) -> None:
    statuses = []
    for _ in range(15):
        statuses += [post(klaviyo, *BAD_JOB[:1]).status for _ in range(10)]
        clock.sleep(2)
    assert statuses == [400] * 150

    answer = post(klaviyo)

    assert (answer.status, answer.headers["Retry-After"]) == (429, "30")
    clock.now = NOON + 60
    answer = post(klaviyo)
    assert (answer.status, answer.headers["RateLimit-Remaining"]) == (202, "149")


def test_throttled_requests_count_too(klaviyo: Klaviyo, clock: Clock) -> None:
    klaviyo.configure(burst_limit=None, steady_limit=2)
    assert [post(klaviyo).headers.get("RateLimit-Remaining") for _ in range(4)] == ["1", "0", None, None]

    klaviyo.configure(steady_limit=4)

    assert post(klaviyo).status == 429


def test_accounts_are_limited_apart_and_strangers_not_at_all(klaviyo: Klaviyo) -> None:
    for _ in range(11):
        post(klaviyo)

    assert post(klaviyo, headers={"Authorization": "Klaviyo-API-Key pk_other"}).status == 202
    assert post(klaviyo, headers={"Authorization": "Klaviyo-API-Key pk_wrong"}).status == 401
    assert account(klaviyo)["throttled_by_limit"] == 1
    assert account(klaviyo, "XyZ789")["throttled_by_limit"] == 0


def test_limits_can_be_off(clock: Clock) -> None:
    klaviyo = Klaviyo({SITE: KEY}, Settings.unlimited(), clock)

    answers = [post(klaviyo) for _ in range(200)]

    assert {answer.status for answer in answers} == {202}
    assert answers[0].headers == {}


def test_arrival_decides_the_window_not_the_handling(klaviyo: Klaviyo, clock: Clock) -> None:
    for _ in range(10):
        post(klaviyo)
    clock.sleep(1)

    assert klaviyo.handle("POST", ROUTE, HEADERS, job(), arrived=NOON + 0.5).status == 429
    assert post(klaviyo).status == 202


@pytest.mark.parametrize(("now", "seconds"), [(120.0, 60), (120.1, 60), (121.0, 59), (179.9, 1), (180.0, 60)])
def test_a_window_ends_in_whole_seconds_never_too_early(now: float, seconds: int) -> None:
    assert FixedWindow(60).ends_in(now) == seconds


@pytest.mark.parametrize(
    ("times", "most"),
    [([], 0), ([5.0], 1), ([0.0, 1.0], 1), ([0.0, 0.999, 1.0], 2), ([1.4, 0.5, 3.0, 0.9, 1.49], 4)],
)
def test_the_busiest_second_is_found_at_any_alignment(times: list[float], most: int) -> None:
    assert busiest(times, 1) == most


def test_the_summary_sees_bursts_across_the_fixed_windows(klaviyo: Klaviyo, clock: Clock) -> None:
    clock.now = NOON + 0.9
    for _ in range(10):
        post(klaviyo)
    clock.now = NOON + 1.1
    for _ in range(10):
        post(klaviyo)

    seen = account(klaviyo)
    assert (seen["by_status"], seen["max_in_1s"], seen["max_in_60s"]) == ({"202": 20}, 20, 20)


def test_taken_events_are_kept_in_order_with_where_they_came_from(klaviyo: Klaviyo) -> None:
    first, second = entry("a@b.co", "1", "2"), entry("b@b.co", "3", backfill=True)
    second["attributes"]["backfill"] = False
    post(klaviyo, first, second)
    post(klaviyo, entry("a@b.co", "4"))

    taken = list(klaviyo.events(SITE))

    assert [(each.job, each.entry, each.index, each.event["unique_id"]) for each in taken] == [
        (1, 0, 0, "1"),
        (1, 0, 1, "2"),
        (1, 1, 0, "3"),
        (2, 0, 0, "4"),
    ]
    assert taken[2].profile == second["attributes"]["profile"]["data"]
    assert taken[2].event == second["attributes"]["events"]["data"][0]["attributes"]
    assert taken[2].backfill == {"entry": False, "event": True}
    assert (taken[0].backfill, taken[0].time, taken[0].site_id) == (
        {"entry": None, "event": None},
        NOON,
        SITE,
    )
    assert list(klaviyo.events("XyZ789")) == []


def test_the_summary_counts_jobs_entries_and_events(klaviyo: Klaviyo) -> None:
    post(klaviyo, entry("a@b.co", "1", "2"), entry("b@b.co", "3"))
    post(klaviyo, entry("a@b.co", "4"))
    post(klaviyo, *BAD_JOB)

    seen = account(klaviyo)

    assert (seen["requests"], seen["by_status"]) == (3, {"202": 2, "400": 1})
    assert (seen["jobs"], seen["entries"], seen["events"]) == (2, 3, 4)
    assert (seen["fill"], seen["events_per_job"]) == ([3, 1], 2.0)
    assert seen["largest_body"] == len(job(*BAD_JOB))


def test_the_log_has_a_line_for_every_request(klaviyo: Klaviyo, clock: Clock) -> None:
    post(klaviyo, entry("a@b.co", "1"))
    clock.sleep(1)
    post(klaviyo, headers={"Authorization": ""})

    first, second = klaviyo.requests()

    assert (first.time, first.site_id, first.status, first.events) == (NOON, SITE, 202, 1)
    assert first.bytes == len(job(entry("a@b.co", "1")))
    assert (second.time, second.site_id, second.status, second.events) == (NOON + 1, None, 401, 0)
    assert klaviyo.requests(SITE) == [first]


def test_reset_forgets_everything_and_returns_to_the_first_settings(klaviyo: Klaviyo) -> None:
    klaviyo.configure(attribution="none", faults=[{"kind": "json", "status": 500}])
    for _ in range(20):
        post(klaviyo)

    klaviyo.reset()

    assert klaviyo.settings == Settings()
    assert (klaviyo.requests(), list(klaviyo.events()), account(klaviyo)["requests"]) == ([], [], 0)
    assert post(klaviyo, entry("a@b.co", "1")).status == 202


def strike(klaviyo: Klaviyo, **fault: object) -> Answer:
    klaviyo.configure(faults=[fault])
    return post(klaviyo, entry("a@b.co", "1"))


@pytest.mark.parametrize(
    ("retry_after_as", "value"),
    [("seconds", "7"), ("date", "Mon, 20 Jul 2026 12:00:07 GMT"), ("absent", None)],
)
def test_throttling_on_demand(klaviyo: Klaviyo, retry_after_as: str, value: str | None) -> None:
    answer = strike(klaviyo, kind="throttle", retry_after=7, retry_after_as=retry_after_as)

    assert answer.headers.get("Retry-After") == value
    assert answer.status == 429
    assert not [name for name in answer.headers if name.startswith("RateLimit")]
    assert (account(klaviyo)["throttled_by_fault"], account(klaviyo)["throttled_by_limit"]) == (1, 0)
    assert list(klaviyo.events()) == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid"),
        (401, "authentication_failed"),
        (403, "permission_denied"),
        (404, "not_found"),
        (410, "gone"),
        (500, "error"),
        (503, "error"),
    ],
)
def test_json_errors_on_demand_point_at_the_whole(klaviyo: Klaviyo, status: int, code: str) -> None:
    answer = strike(klaviyo, kind="json", status=status)

    [error] = errors(answer)
    assert (answer.status, error["code"], error["source"]) == (status, code, {"pointer": "/data"})
    assert list(klaviyo.events()) == []


@pytest.mark.parametrize("status", [403, 502])
def test_html_errors_on_demand(klaviyo: Klaviyo, status: int) -> None:
    answer = strike(klaviyo, kind="html", status=status)

    assert (answer.status, answer.headers["Content-Type"]) == (status, "text/html; charset=UTF-8")
    assert content(answer).startswith(b"<!DOCTYPE html>")
    assert list(klaviyo.events()) == []


@pytest.mark.parametrize("kind", ["reset", "hang"])
@pytest.mark.parametrize("taken", [False, True])
def test_an_answer_that_never_comes(klaviyo: Klaviyo, kind: str, taken: bool) -> None:
    answer = strike(klaviyo, kind=kind, taken=taken)

    assert answer.ending == {"reset": "reset", "hang": "hung"}[kind]
    assert len(list(klaviyo.events())) == taken
    [line] = klaviyo.requests()
    assert (line.status, line.events, line.faults) == (None, int(taken), (kind,))
    assert account(klaviyo)["by_status"] == {"no answer": 1}


def test_latency_delays_an_answer_that_was_handled(klaviyo: Klaviyo) -> None:
    answer = strike(klaviyo, kind="latency", seconds=2.5)

    assert (answer.status, answer.delay, len(list(klaviyo.events()))) == (202, 2.5, 1)


def test_a_partial_failure_is_announced_on_a_success_only(klaviyo: Klaviyo) -> None:
    answer = strike(klaviyo, kind="partial_failure")
    assert (answer.status, answer.headers["X-Klaviyo-Partial-Failure"]) == (202, "phone_number")

    assert "X-Klaviyo-Partial-Failure" not in post(klaviyo, *BAD_JOB).headers


def test_a_fault_strikes_as_often_as_told_and_only_its_account(klaviyo: Klaviyo) -> None:
    klaviyo.configure(faults=[{"kind": "json", "status": 500, "count": 2, "site_id": SITE}])

    assert post(klaviyo, headers={"Authorization": "Klaviyo-API-Key pk_other"}).status == 202
    assert [post(klaviyo).status for _ in range(4)] == [500, 500, 202, 202]


def test_chance_is_repeatable_by_its_seed(klaviyo: Klaviyo) -> None:
    def statuses(seed: int) -> list[int]:
        klaviyo.reset()
        klaviyo.configure(
            burst_limit=None, seed=seed, faults=[{"kind": "json", "status": 500, "probability": 0.3}]
        )
        return [post(klaviyo).status for _ in range(100)]

    assert statuses(1) == statuses(1) != statuses(2)
    assert 15 <= statuses(1).count(500) <= 45


def test_faults_add_up_until_one_takes_the_answers_place(klaviyo: Klaviyo) -> None:
    latency, failure = {"kind": "latency", "seconds": 1}, {"kind": "json", "status": 500, "count": 1}
    klaviyo.configure(faults=[latency, failure, {"kind": "html", "status": 403, "count": 1}])

    answers = [post(klaviyo) for _ in range(3)]

    assert [(answer.status, answer.delay) for answer in answers] == [(500, 1), (403, 1), (202, 1)]
    assert klaviyo.requests()[0].faults == ("latency", "json")


def test_the_limits_come_before_the_faults(klaviyo: Klaviyo) -> None:
    klaviyo.configure(burst_limit=1, faults=[{"kind": "json", "status": 500}])

    assert [post(klaviyo).status for _ in range(2)] == [500, 429]
    assert account(klaviyo)["throttled_by_limit"] == 1


def test_poison_refuses_chosen_items_that_are_valid(klaviyo: Klaviyo) -> None:
    klaviyo.configure(poison=[{"contains": "poison"}])
    good, by_email = entry("a@b.co", "1"), entry("poison@b.co", "2")
    by_metric = entry("c@b.co", "3", metric="A poisonous metric")

    answer = post(klaviyo, good, by_email, by_metric)

    assert pointers(answer) == [
        f"{ITEMS}/1/attributes/profile/data/attributes/email",
        f"{ITEMS}/2/attributes/events/data/0/attributes/metric/data/attributes/name",
    ]
    assert post(klaviyo, good).status == 202


def test_poison_can_be_unattributed(klaviyo: Klaviyo) -> None:
    klaviyo.configure(poison=[{"contains": "poison", "attributed": False}])

    assert pointers(post(klaviyo, entry("a@b.co", "1"), entry("poison@b.co", "2"))) == ["/data"]
    assert post(klaviyo, entry("a@b.co", "1")).status == 202


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (b'{"burst": 1}', "burst"),
        (b'{"self": 1}', "self"),
        (b'{"burst_limit": 0}', "burst_limit"),
        (b'{"attribution": "some"}', "attribution"),
        (b'{"faults": [{"kind": "flood"}]}', "flood"),
        (b'{"faults": [{"kind": "json", "status": 200}]}', "status"),
        (b'{"faults": [{"kind": "json", "status": 500, "times": 2}]}', "times"),
        (b'{"faults": [{"kind": "hang", "probability": 0}]}', "probability"),
        (b'{"poison": [{"contains": ""}]}', "contains"),
        (b"[]", "object"),
        (b"nothing", "JSON"),
        (b'{"\xff": 1}', "utf-8"),
    ],
)
def test_a_wrong_setting_is_named_and_changes_nothing(klaviyo: Klaviyo, settings: bytes, named: str) -> None:
    answer = control(klaviyo, "PUT", "/_standin/settings", "", settings)

    assert answer.status == 400
    assert named in errors(answer)[0]["detail"]
    assert klaviyo.settings == Settings()


def test_settings_named_are_replaced_and_the_others_stay(klaviyo: Klaviyo) -> None:
    control(
        klaviyo, "PUT", "/_standin/settings", "", b'{"attribution": "first", "faults": [{"kind": "hang"}]}'
    )
    control(klaviyo, "PUT", "/_standin/settings", "", b'{"burst_limit": null}')

    shown = msgspec.json.decode(content(control(klaviyo, "GET", "/_standin/settings", "", b"")))

    assert (shown["attribution"], shown["burst_limit"], shown["steady_limit"]) == ("first", None, 150)
    assert [fault["kind"] for fault in shown["faults"]] == ["hang"]


def test_control_shows_what_the_core_knows(klaviyo: Klaviyo) -> None:
    post(klaviyo, entry("a@b.co", "1", "2"))

    def get(name: str, query: str = "") -> bytes:
        answer = control(klaviyo, "GET", f"/_standin/{name}", query, b"")
        return answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)

    assert msgspec.json.decode(get("health"))["status"] == "ok"
    assert msgspec.json.decode(get("summary")) == klaviyo.summary()
    assert [line["status"] for line in msgspec.json.decode(get("requests"))] == [202]
    events = [msgspec.json.decode(line) for line in get("events", f"site_id={SITE}").splitlines()]
    assert events == [msgspec.to_builtins(event) for event in klaviyo.events()]
    assert get("events", "site_id=XyZ789") == b""


def test_control_refuses_what_it_does_not_know(klaviyo: Klaviyo) -> None:
    assert control(klaviyo, "GET", "/_standin/nothing", "", b"").status == 404
    answer = control(klaviyo, "DELETE", "/_standin/settings", "", b"")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, PUT")


def test_control_resets(klaviyo: Klaviyo) -> None:
    post(klaviyo)

    assert control(klaviyo, "POST", "/_standin/reset", "", b"").status == 204
    assert klaviyo.requests() == []


def test_a_client_reaches_the_core_without_a_socket(klaviyo: Klaviyo, clock: Clock) -> None:
    with httpx2.Client(transport=transport(klaviyo, clock.sleep), base_url="https://a.klaviyo.com") as client:
        klaviyo.configure(faults=[{"kind": "latency", "seconds": 2}])
        answer = client.post(ROUTE, content=job(entry("a@b.co", "1")), headers=HEADERS)
        assert (answer.status_code, answer.headers["RateLimit-Remaining"]) == (202, "149")
        assert clock.now == NOON + 2

        klaviyo.configure(faults=[{"kind": "latency", "seconds": 6}])
        with pytest.raises(httpx2.ReadTimeout):
            client.post(ROUTE, content=job(entry("a@b.co", "2")), headers=HEADERS)

        klaviyo.configure(faults=[{"kind": "reset"}])
        with pytest.raises(httpx2.ReadError):
            client.post(ROUTE, content=job(entry("a@b.co", "3")), headers=HEADERS)

        klaviyo.configure(faults=[{"kind": "hang"}])
        with pytest.raises(httpx2.ReadTimeout):
            client.post(ROUTE, content=job(entry("a@b.co", "4")), headers=HEADERS)

    assert [event.event["unique_id"] for event in klaviyo.events()] == ["1", "2", "4"]


def test_threads_share_an_account_safely(clock: Clock) -> None:
    klaviyo = Klaviyo({SITE: KEY}, Settings(burst_limit=40, steady_limit=None), clock)
    statuses: list[int] = []

    def send(name: int) -> None:
        statuses.extend(post(klaviyo, entry("a@b.co", f"{name}-{n}")).status for n in range(20))

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (statuses.count(202), statuses.count(429)) == (40, 40)
    assert sorted({event.job for event in klaviyo.events()}) == list(range(1, 41))
