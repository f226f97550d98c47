"""Tests the fake Pipeless's apps: who may write, what is refused, and what an upsert does."""

from datetime import UTC, datetime
from typing import Any

import httpx2
import msgspec
import pytest

from devstack.fake_upstream import Pipeless, PipelessSettings, transport
from devstack.fake_upstream.answers import Answer
from devstack.fake_upstream.control import control_pipeless

NOON = datetime(2026, 7, 20, 12, tzinfo=UTC).timestamp()
APP, KEY = 123, "pl_test"
ROUTE = f"/v1/apps/{APP}/events/batch"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


@pytest.fixture
def pipeless() -> Pipeless:
    return Pipeless({APP: KEY, 124: "pl_other"}, clock=lambda: NOON)


def event(
    start: str = "u1",
    end: str = "a1",
    *,
    of: object = "liked",
    single: object = None,
    created_on: str | None = None,
    **dates: str,
) -> dict[str, Any]:
    """Makes an event in which `u1` likes `a1`; dates are the start object's."""
    relationship = {"type": of, "single": single, "created_on": created_on}
    return {
        "start_object": {"id": start, "type": "user", **dates},
        "relationship": {name: value for name, value in relationship.items() if value is not None},
        "end_object": {"id": end, "type": "article"},
    }


def post(
    pipeless: Pipeless, *events: object, path: str = ROUTE, method: str = "POST", **document: Any
) -> Answer:
    body = msgspec.json.encode({"events": events, **document})
    return pipeless.handle(method, path, HEADERS, body)


def errors(answer: Answer) -> list[str]:
    assert answer.headers["Content-Type"] == "application/json"
    assert isinstance(answer.body, bytes)
    found = msgspec.json.decode(answer.body, type=dict[str, list[str]])
    assert found.keys() == {"errors"}
    return found["errors"]


@pytest.mark.parametrize(("synchronous", "status"), [({}, 202), ({"synchronous": True}, 201)])
def test_a_call_is_taken(pipeless: Pipeless, synchronous: dict[str, Any], status: int) -> None:
    assert post(pipeless, event(), event(end="a2"), **synchronous).status == status

    [call] = pipeless.calls(APP)
    assert [each["end_object"]["id"] for each in call.events] == ["a1", "a2"]
    assert [(each.type, each.id) for each in pipeless.objects()] == [
        ("user", "u1"),
        ("article", "a1"),
        ("article", "a2"),
    ]
    assert pipeless.summary()["apps"]["123"]["fill"] == [2]


def test_one_object_for_each_type_and_id(pipeless: Pipeless) -> None:
    post(pipeless, event(), event(created_on="2026-01-01T00:00:00"))
    post(pipeless, event(created_on="2026-01-02T00:00:00", modified_on="2026-02-01T00:00:00"))

    [user, article] = pipeless.objects()
    assert (user.created_on, user.modified_on, user.writes) == (
        "2026-07-20T12:00:00",
        "2026-02-01T00:00:00",
        3,
    )
    assert (article.created_on, article.modified_on) == ("2026-07-20T12:00:00",) * 2


def test_a_new_object_is_modified_when_it_was_created(pipeless: Pipeless) -> None:
    body = event()
    body["end_object"]["created_on"] = "2020-01-01T00:00:00"

    post(pipeless, body)

    [_, article] = pipeless.objects()
    assert (article.created_on, article.modified_on) == ("2020-01-01T00:00:00",) * 2


@pytest.mark.parametrize(("single", "count"), [(None, 1), (True, 1), (False, 3)])
def test_a_single_relationship_exists_once(pipeless: Pipeless, single: bool | None, count: int) -> None:
    post(pipeless, *(event(single=single) for _ in range(3)), event(of="viewed"), event(end="a2"))

    assert len(list(pipeless.relationships(APP))) == count + 2


BAD = {
    "no event": [],
    "eleven events": [event()] * 11,
    "no object": [{"relationship": {"type": "liked"}, "end_object": {"id": "a", "type": "tag"}}],
    "an empty id": [event("")],
    "a long id": [event("u" * 41)],
    "an unknown object": [event() | {"end_object": {"id": "a", "type": "planet"}}],
    "an unknown relationship": [event(of="hated")],
    "a type that is no text": [event(of=["liked"])],
    "a date with an offset": [event(created_on="2026-01-01T00:00:00Z")],
    "a date that is none": [event(modified_on="2026-02-30T00:00:00")],
    "single that is no boolean": [event(single="yes")],
    "an event that is none": ["event"],
}


@pytest.mark.parametrize("events", BAD.values(), ids=BAD.keys())
def test_a_bad_call_writes_nothing(pipeless: Pipeless, events: list[object]) -> None:
    answer = post(pipeless, *([event("fine"), *events] if 0 < len(events) < 10 else events))

    assert answer.status == 400
    assert errors(answer)
    assert list(pipeless.objects()) == []


def test_an_id_of_forty_characters_and_ten_events_are_taken(pipeless: Pipeless) -> None:
    assert post(pipeless, *([event("u" * 40)] * 10)).status == 202


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        (ROUTE, KEY, 202),
        (ROUTE, "", 401),
        (ROUTE, "Bearer other", 401),
        (ROUTE, "Bearer pl_other", 403),
        (ROUTE.replace("123", "999"), f"Bearer {KEY}", 404),
        (ROUTE.replace("123", "x"), f"Bearer {KEY}", 404),
        ("/v1/apps/123/events", f"Bearer {KEY}", 404),
    ],
)
def test_who_may_write(pipeless: Pipeless, path: str, authorization: str, status: int) -> None:
    body = msgspec.json.encode({"events": [event()]})

    answer = pipeless.handle("POST", path, HEADERS | {"Authorization": authorization}, body)

    assert answer.status == status
    assert status == 202 or errors(answer)


def test_other_methods_types_and_texts_are_refused(pipeless: Pipeless) -> None:
    assert post(pipeless, event(), method="GET").status == 405
    assert pipeless.handle("POST", ROUTE, HEADERS | {"Content-Type": "text/plain"}, b"{}").status == 415
    assert pipeless.handle("POST", ROUTE, HEADERS, b"{").status == 400
    assert pipeless.handle("POST", ROUTE, HEADERS, b"[]").status == 400


def test_poison_refuses_what_is_valid(pipeless: Pipeless) -> None:
    pipeless.configure(poison=["bad"])

    assert post(pipeless, event(), event(end="a-bad-1")).status == 400
    assert post(pipeless, event()).status == 202


def test_a_limit_counts_the_calls_of_a_second(pipeless: Pipeless) -> None:
    pipeless.configure(limit=2)

    assert [post(pipeless, event()).status for _ in range(3)] == [202, 202, 429]


def test_faults_speak_as_pipeless_does(pipeless: Pipeless) -> None:
    faults = [
        {"kind": "json", "status": 500, "count": 1},
        {"kind": "throttle", "retry_after": 3, "count": 1},
        {"kind": "html", "status": 502, "count": 1},
        {"kind": "reset", "taken": True, "count": 1},
        {"kind": "json", "status": 401, "site_id": "124"},
    ]
    pipeless.configure(faults=faults)

    broken, throttled, page, cut, fine = (post(pipeless, event()) for _ in range(5))

    assert (broken.status, errors(broken)) == (500, ["A fault that was switched on at the fake upstream."])
    assert (throttled.status, throttled.headers["Retry-After"]) == (429, "3")
    assert errors(throttled)
    assert page.headers["Content-Type"].startswith("text/html")
    assert (cut.ending, fine.status) == ("reset", 202)
    assert [line.status for line in pipeless.requests(APP)] == [500, 429, 502, None, 202]
    assert len(list(pipeless.calls())) == 2


def test_control_shows_sets_and_forgets(pipeless: Pipeless) -> None:
    post(pipeless, event())

    def ask(name: str, method: str = "GET", query: str = "", body: bytes = b"") -> tuple[int, bytes]:
        answer = control_pipeless(pipeless, method, f"/_standin/pipeless/{name}", query, body)
        content = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
        return answer.status, content

    assert [ask(name)[1].count(b"\n") for name in ("calls", "objects", "relationships")] == [1, 2, 1]
    assert ask("objects", query="app_id=124")[1] == ask("objects", query="app_id=x")[1] == b""
    assert msgspec.json.decode(ask("summary")[1])["apps"]["123"]["calls"] == 1
    assert len(msgspec.json.decode(ask("requests", query="app_id=123")[1])) == 1
    status, settings = ask("settings", "PUT", body=b'{"limit": 5}')
    assert (status, msgspec.json.decode(settings)["limit"]) == (200, 5)
    assert ask("settings", "PUT", body=b'{"unheard": 5}')[0] == 400
    assert (ask("nothing")[0], ask("reset")[0], ask("reset", "POST")[0]) == (404, 405, 204)
    assert msgspec.json.decode(ask("settings")[1], type=PipelessSettings) == PipelessSettings()
    assert ask("objects")[1] == b""


def test_a_client_reaches_it_without_a_socket(pipeless: Pipeless) -> None:
    with httpx2.Client(transport=transport(pipeless)) as client:
        answer = client.post(f"https://api.pipeless.io{ROUTE}", headers=HEADERS, json={"events": [event()]})

    assert answer.status_code == 202
