"""Tests what the page gets to its calls, from a deployment that is pretended."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from sluice.operate.commands import COMMANDS
from sluicectl.console.calls import CALLS
from tests.support.console import FakeDoor, ask, console

ID = "01a225cdc76fe6a7e70e38608ee73b96"
JOB = "0" * 20
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC).isoformat()
HOSTILE = "<script>alert(1)</script>\u202e"
COUNTS: dict[str, Any] = {
    **{"id": JOB, "kind": "replay", "state": "planned", "who": "ada", "created_at": NOW, "changed_at": None},
    **{"confirmed_by": None, "cancelled_by": None},
}
SHOWN: dict[str, Any] = {
    **{"id": ID, "group": "g", "account": "AbC123", "state": "open", "reason": "invalid", "code": "invalid"},
    **{"detail": "No.", "place": "/events/0/value", "metric": HOSTILE, "source": None, "surface": "bulk"},
    **{"receipt": None, "events": 1, "accepted_at": NOW, "rejected_at": NOW, "changed_at": None, "who": None},
    **{"why": None, "job": None, "predecessor": None, "successor": None, "words": "No.", "pointer": None},
    **{"line": None, "status": 400, "gone": False, "masked": True, "meaning": "M.", "advice": "A."},
    **{"history": [], "payload": {"profile": {"email": "***"}, "events": [{"value": "x", HOSTILE: 1}]}},
}
STATUS: dict[str, Any] = {
    **{
        "version": "1",
        "at": NOW,
        "unknown_accounts": 0,
        "last_hour": None,
        "open_groups": 1,
        "open_events": 5,
    },
    **{"jobs": [], "last_tick": None, "alarms": [], "not_known": []},
    "queues": [{"name": "events", "visible": 1, "in_flight": 2, "delayed": 3, "oldest_seconds": None}],
    "accounts": [
        {
            "id": "AbC123",
            "kind": "klaviyo",
            "circuit": "open",
            "pace": {"used": 7, "allowed": 150, "paused_until": None},
        },
        {"id": "DeF456", "kind": "klaviyo", "circuit": "closed", "parked": 4},
    ],
}
SOURCES = """{"sources": {"own": {"account": "AbC123", "secret": "own", "signature": {"scheme": "github"},
"events": {"signed-up": {"metric": "Signed Up", "profile": {"email": "user.email"},
"properties": {"n": "n"}}}}}}"""


@pytest.fixture
def door() -> FakeDoor:
    return FakeDoor(
        {
            "status": STATUS,
            "rejections show": {"rejection": SHOWN},
            "rejections replay check": {"passes": True, "events": 1},
            "rejections replay plan": {
                "job": COUNTS,
                "sample": {"id": ID, "before": {"a": 1}, "after": {"a": 2}},
            },
            "accounts pause": {"account": "AbC123", "changed": True, "since": NOW, "who": "ada", "why": "w"},
            "rejections list": {"rejections": [], "next": None},
            "sources show": {"text": SOURCES, "etag": "e"},
        }
    )


@pytest.fixture
def client(door: FakeDoor) -> Iterator[TestClient]:
    with console(door) as client:
        yield client


def edit(text: str, **changes: Any) -> dict[str, Any]:
    return {"id": ID, "shown": '{"email": "***", "value": 1}', "text": text, "masked": True, **changes}


def test_no_other_command_imports_the_web_server() -> None:
    code = (
        "import sys, sluicectl.cli; print([m for m in ('starlette', 'uvicorn', 'anyio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_the_console_cannot_do_what_it_does_not_show() -> None:
    offered = {name.replace("/", " ") for name in CALLS} & COMMANDS.keys()

    assert not {name for name in COMMANDS if name.startswith("accounts")} & offered - {
        *("accounts list", "accounts pause", "accounts resume")
    }
    assert "sources put" not in offered
    assert not any("export" in name or "import" in name or "parked" in name for name in offered)


def test_a_read_only_operator_is_known_as_one(client: TestClient, door: FakeDoor) -> None:
    door.changes = False

    assert ask(client, "about")["may_change"] is False


def test_several_pages_share_a_look_at_the_status_and_its_history(client: TestClient, door: FakeDoor) -> None:
    first, second = ask(client, "status"), ask(client, "status")

    assert len(door.called) == 1
    assert first == second
    assert first["samples"] == [
        {
            "at": NOW.replace("Z", "+00:00"),
            "queue": 6,
            "parked": 4,
            "used": 7,
            "allowed": 150,
            "open": 1,
            "refused": 5,
        }
    ]

    ask(client, "accounts/pause", account="AbC123", why="w")
    assert len(ask(client, "status")["samples"]) == 2


def test_a_record_comes_with_its_payload_as_text_and_the_line_of_its_bad_place(client: TestClient) -> None:
    shown = ask(client, "rejections/show", id=ID)

    lines = shown["text"].split("\n")
    assert '"value": "x"' in lines[shown["place_line"] - 1]
    assert "payload" not in shown
    assert shown["metric"] == HOSTILE
    assert "<script>alert(1)</script>\\u202e" in shown["text"]


def test_personal_data_is_shown_only_if_asked_for(client: TestClient, door: FakeDoor) -> None:
    ask(client, "rejections/show", id=ID)
    ask(client, "rejections/show", id=ID, reveal=True)

    assert [arguments for _, arguments in door.called] == [{"id": ID}, {"id": ID, "reveal": True}]


def test_half_of_a_surrogate_pair_can_be_shown(client: TestClient, door: FakeDoor) -> None:
    door.answers = {"rejections show": {"rejection": {**SHOWN, "payload": '{"a": "\\ud800"}'}}}

    assert ask(client, "rejections/show", id=ID)["text"] == '{\n  "a": "\\ud800"\n}'


class TestAnEdit:
    def test_is_judged_by_the_deployment(self, client: TestClient, door: FakeDoor) -> None:
        door.answers = {
            "rejections replay check": {"passes": False, "events": 0, "why": "Too small.", "place": "/value"}
        }

        judged = ask(client, "rejections/edit", **edit('{"email": "***",\n"value": 2}'))

        assert door.called == [
            (
                "rejections replay check",
                {"id": ID, "mend": {"patch": [{"op": "replace", "path": "/value", "value": 2}]}},
            )
        ]
        assert (judged["passes"], judged["why"], judged["line"]) == (False, "Too small.", 2)
        assert judged["changes"] == [{"op": "replace", "path": "/value", "value": "2"}]

    def test_that_is_no_json_is_judged_here(self, client: TestClient, door: FakeDoor) -> None:
        judged = ask(client, "rejections/edit", **edit('{"email": "***",\n"value": }'))

        assert (judged["passes"], judged["line"], judged["column"]) == (False, 2, 10)
        assert door.called == []

    def test_is_planned_as_it_was_judged(self, client: TestClient, door: FakeDoor) -> None:
        planned = ask(
            client, "rejections/replay/plan", edit=edit('{"email": "***", "value": 12345678901234567890}')
        )

        assert door.called == [
            (
                "rejections replay plan",
                {
                    "ids": [ID],
                    "mend": {"patch": [{"op": "replace", "path": "/value", "value": 12345678901234567890}]},
                },
            )
        ]
        assert planned["sample"] == {"id": ID, "changes": [["/a", "1", "2"]]}

    def test_of_a_hidden_text_is_refused(self, client: TestClient, door: FakeDoor) -> None:
        said = ask(client, "rejections/edit", **edit('{"mail": "***", "value": 1}'))

        assert said["error"].startswith("'/mail' would get a text that is hidden here")
        assert door.called == []

    def test_of_very_much_is_refused(self, client: TestClient) -> None:
        text = "{" + ",".join(f'"{n}": {n}' for n in range(101)) + "}"

        assert ask(client, "rejections/edit", **edit(text, shown="{}")) == {
            "error": "More than 100 changes at once cannot be planned."
        }

    def test_that_is_no_json_is_not_planned(self, client: TestClient, door: FakeDoor) -> None:
        assert "This is no JSON" in ask(client, "rejections/replay/plan", edit=edit("{"))["error"]
        assert door.called == []


class TestManyRecords:
    def test_are_mended_by_texts_of_json(self, client: TestClient, door: FakeDoor) -> None:
        changes = {
            "fault": ' "EUR"',
            "set": "/events/0/value=9.90\n\n/n=12345678901234567890",
            "remove": " /a\n",
        }

        ask(client, "rejections/replay/plan", group="g", changes=changes, trigger_flows=True)

        [(_, asked)] = door.called
        assert asked == {
            "group": "g",
            "mend": {
                "remove": ["/a"],
                "set": [
                    {"pointer": "/events/0/value", "value": 9.9},
                    {"pointer": "/n", "value": 12345678901234567890},
                ],
                "fault": {"value": "EUR"},
            },
            "trigger_flows": True,
        }

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"fault": "EUR"}, "A text is written with quotation marks."),
            ({"set": "/a"}, "A change is written POINTER=JSON, not '/a'."),
            ({"set": "a=1"}, "must be empty or begin with '/'"),
            ({"remove": "a"}, "must be empty or begin with '/'"),
            ({"patch": "[]"}, "patch: Extra inputs are not permitted."),
        ],
    )
    def test_are_not_planned_with_a_mistake(
        self, client: TestClient, door: FakeDoor, changes: dict[str, str], said: str
    ) -> None:
        assert said in ask(client, "rejections/replay/plan", group="g", changes=changes)["error"]
        assert door.called == []

    def test_are_sent_as_they_were_without_changes(self, client: TestClient, door: FakeDoor) -> None:
        ask(client, "rejections/replay/plan", group="g", changes={"fault": " ", "set": "", "remove": ""})

        assert door.called == [("rejections replay plan", {"group": "g"})]


def test_times_are_read_as_on_the_command_line(client: TestClient, door: FakeDoor) -> None:
    ask(client, "rejections/list", since="2026-11-20", until="12h")

    [(_, asked)] = door.called
    assert asked["since"] == "2026-11-20T00:00:00Z"
    assert datetime.fromisoformat(asked["until"]) < datetime.now(UTC)
    assert "'soon' is no time" in ask(client, "rejections/list", since="soon")["error"]
    assert "since" in ask(client, "rejections/list", since="999999d")["error"]


def test_a_mistaken_argument_is_one_sentence(client: TestClient) -> None:
    assert ask(client, "rejections/list", limit=0)["error"].startswith("limit: ")
    assert ask(client, "rejections/show", id="x")["error"].startswith("id: ")


def test_jobs_have_their_counts_in_the_words_of_the_command_line(client: TestClient, door: FakeDoor) -> None:
    job = {**COUNTS, "sent": 2, "delivered": 1}
    door.answers = {"jobs list": {"jobs": [job]}, "jobs work": {"job": job}}

    [listed] = ask(client, "jobs/list", limit=5)["jobs"]
    worked = ask(client, "jobs/work", job=JOB)["job"]

    assert listed == worked
    assert listed["summary"] == "2 sent, 1 delivered"
    assert listed["counts"] == [
        {"name": "sent", "count": 2, "words": "sent"},
        {"name": "delivered", "count": 1, "words": "delivered"},
    ]
    assert door.called == [("jobs list", {"limit": 5}), ("jobs work", {"job": JOB})]


class TestSources:
    def test_are_shown_with_their_document(self, client: TestClient) -> None:
        found = ask(client, "sources/show")

        assert found["sources"] == [
            {
                "name": "own",
                "account": "AbC123",
                "scheme": "github",
                "refuses": False,
                "events": ["signed-up"],
            }
        ]
        assert found["document"].startswith("sources:\n  own:\n")

    def test_that_are_not_there_are_none(self, client: TestClient, door: FakeDoor) -> None:
        door.answers = {"sources show": {"text": None, "etag": None}}

        assert ask(client, "sources/show") == {"sources": [], "flaws": {}, "document": None}
        assert ask(client, "sources/try", source="own", payload="{}") == {
            "error": "the stack has no sources document yet."
        }

    def test_are_tried(self, client: TestClient) -> None:
        payload = '{"user": {"email": "ada@example.com"}, "n": 9007199254740993}'

        tried = ask(client, "sources/try", source="own", payload=payload, headers="X-GitHub-Event: push\n")

        [event] = tried["events"]
        assert (event["valid"], event["metric"]) == (True, "Signed Up")
        assert '"n": 9007199254740993' in event["text"]

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"source": "other", "payload": "{}"}, "There is no source 'other'. Those there are: own."),
            ({"source": "own", "payload": "{"}, "This is no payload: "),
            ({"source": "own", "payload": "\ud800"}, "payload: Input should be a valid string"),
            ({"source": "own", "payload": "{}", "headers": "nonsense"}, "A header is written NAME: VALUE"),
        ],
    )
    def test_say_what_is_wrong_with_an_attempt(
        self, client: TestClient, asked: dict[str, str], said: str
    ) -> None:
        assert said in ask(client, "sources/try", **asked)["error"]
