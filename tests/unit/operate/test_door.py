"""Tests the door of operators: who may do what, what a bad request is told, and what the audit keeps."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest

from sluice import __version__
from sluice.accounts import Accounts
from sluice.errors import Misconfigured, Retryable
from sluice.operate import door
from sluice.operate.command import Access, Arguments, Command, Context, Failed, Result
from sluice.operate.commands import COMMANDS
from sluice.operate.jobs import JobStore
from sluice.operate.overview import Overview
from sluice.operate.ports import (
    AccountsStore,
    Archive,
    Backlog,
    Events,
    Files,
    Imports,
    Link,
    Parked,
    Pauses,
    Ports,
    PrivateKeySecrets,
    Records,
    Slices,
    StoredDocument,
)
from sluice.settings import OperateSettings
from tests.support.recorded_log import RecordedLog

FUNCTION = "arn:aws:lambda:eu-central-1:123456789012:function:sluice-operate"
SETTINGS = OperateSettings("q", "q", "q", "q", "q", "q", "t", "t", "b", "b", "b", "s", "k", "p", "h", 365)
ADA = "arn:aws:sts::123456789012:assumed-role/operators/ada"
EMAIL = "ada@mail.example"


class World:
    """Plays what commands reach."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: dict[str, bytes] = {}

    def read(self) -> StoredDocument | None:
        return None

    def replace(self, *, content: bytes, etag: str | None) -> None:
        raise AssertionError

    def accounts(self) -> Accounts:
        return Accounts(())

    def full_name(self, *, secret: str) -> str:
        return secret

    def has_value(self, *, secret: str) -> bool:
        return True

    def store_answer(self, *, content: bytes) -> Link:
        self.answers.append(content)
        return Link("k", "https://answers.example", datetime(2026, 3, 2, tzinfo=UTC))

    def offer_upload(self, *, size: int) -> Link:
        return Link("k", f"https://uploads.example/{size}", datetime(2026, 3, 2, tzinfo=UTC))

    def fetch_request(self, *, key: str) -> bytes | None:
        return self.requests.get(key)

    def whose(self, *, url: str) -> str | None:
        return ADA if url == "https://sts.example" else None


def ports_of(world: World) -> Ports:
    return Ports(
        records=Mock(spec_set=Records),
        archive=Mock(spec_set=Archive),
        hash_key=Mock(),
        jobs=Mock(spec_set=JobStore),
        slices=Mock(spec_set=Slices),
        files=Mock(spec_set=Files),
        events=Mock(spec_set=Events),
        outcomes=Mock(),
        lookups=Mock(),
        overview=Mock(spec_set=Overview),
        imports=Mock(spec_set=Imports),
        parked=Mock(spec_set=Parked),
        pauses=Mock(spec_set=Pauses),
        sources=world,
        accounts=Mock(spec_set=AccountsStore),
        private_keys=Mock(spec_set=PrivateKeySecrets),
        backlog=Mock(spec_set=Backlog),
        secrets=world,
        transfers=world,
        identities=world,
    )


class SayArguments(Arguments):
    text: str = ""
    times: int = 1
    unmasked: bool = False

    @property
    def reveals(self) -> bool:
        return self.unmasked


class SayResult(Result):
    text: str
    who: str

    def counts(self) -> dict[str, int]:
        return {"characters": len(self.text)}


def _say(arguments: SayArguments, context: Context) -> SayResult:
    return SayResult(text=arguments.text * arguments.times, who=context.who)


class Door:
    """Sends requests through the door to two commands, `say` (read) and `shout` (admin)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.world = World()
        self.log = RecordedLog()
        self.does(_say)

    def does(self, run: Callable[[SayArguments, Context], SayResult]) -> None:
        for name, access in (("say", Access.READ), ("shout", Access.ADMIN)):
            self._monkeypatch.setitem(COMMANDS, name, Command(name, access, SayArguments, SayResult, run))

    def raw(self, request: object, alias: str = ":admin") -> Any:
        world = self.world
        answer = door.answer(request, door.access_of(FUNCTION + alias), SETTINGS, ports_of(world), self.log)
        assert json.loads(json.dumps(answer)) == answer
        assert (answer["version"], answer["sluice"]) == (1, __version__)
        assert len(answer.keys() & {"result", "result_at", "error"}) == 1
        return answer

    def call(self, command: str, alias: str = ":admin", **arguments: Any) -> Any:
        return self.raw({"version": 1, "command": command, "arguments": arguments}, alias)


@pytest.fixture
def through(monkeypatch: pytest.MonkeyPatch) -> Door:
    return Door(monkeypatch)


def test_a_command_is_answered(through: Door) -> None:
    assert through.call("say", text="hello")["result"] == {"text": "hello", "who": "claimed:unknown"}


@pytest.mark.parametrize("alias", [":read", ":admin"])
def test_both_aliases_may_look(through: Door, alias: str) -> None:
    assert "result" in through.call("say", alias)


def test_read_can_do_nothing_of_admin(through: Door) -> None:
    through.does(lambda *_: pytest.fail("it was done"))
    of_admin = [name for name, command in COMMANDS.items() if command.access is Access.ADMIN]

    answers = [through.call(name, ":read")["error"] for name in of_admin]

    assert {"shout", "sources put"} <= set(of_admin)
    assert {each["code"] for each in answers} == {"forbidden"}
    assert "needs lambda:InvokeFunction on the alias admin" in answers[0]["message"]


@pytest.mark.parametrize("alias", ["", ":$LATEST", ":7", ":reader", ":Admin", ":admin:admin"])
def test_nothing_but_the_two_aliases_is_a_way_in(through: Door, alias: str) -> None:
    error = through.call("say", alias)["error"]

    assert error["code"] == "forbidden"
    assert "Invoke the alias read or admin" in error["message"]


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_told_which_side_to_upgrade(through: Door, version: int) -> None:
    error = through.raw({"version": version, "another": "form"})["error"]

    assert error["code"] == "other_version"
    assert (
        f"has version {version}, and this deployment of Sluice {__version__} understands version 1"
        in (error["message"])
    )
    side = "Deploy this command line's version of the template." if version else "Install the command line"
    assert side in error["message"]


def test_an_unknown_command_is_told_so(through: Door) -> None:
    error = through.call("fly")["error"]

    assert error["code"] == "unknown_command"
    assert "no command 'fly'" in error["message"]


@pytest.mark.parametrize(
    ("arguments", "field"), [({"times": EMAIL}, "times"), ({"txt": EMAIL}, "txt"), ({"text": 1}, "text")]
)
def test_a_bad_argument_is_named_and_its_value_is_not_quoted(
    through: Door, arguments: dict[str, Any], field: str
) -> None:
    error = through.call("say", **arguments)["error"]

    assert error["code"] == "invalid_arguments"
    assert error["message"].startswith(f"The arguments of 'say' are not valid: {field}: ")
    assert error["message"].endswith(".")
    assert EMAIL not in error["message"]


@pytest.mark.parametrize(
    "request_",
    [
        None,
        [],
        "say",
        {},
        {"command": "say"},
        {"version": "1.5", "command": "say"},
        {"version": 1},
        {"version": 1, "command": 1},
        {"version": 1, "command": "say", "arguments": []},
        {"version": 1, "command": "say", "other": 1},
        {"version": 1, "command": "say", "who": {"name": "a" * 101}},
        {"version": 1, "command": "say", "arguments_key": "operate/answers/" + "0" * 32},
        {"version": 1, "command": "say", "arguments_key": "operate/requests/../" + "0" * 32},
    ],
)
def test_what_is_no_request_is_told_so(through: Door, request_: object) -> None:
    error = through.raw(request_)["error"]

    assert error["code"] == "invalid_request"
    assert error["message"].startswith("The request is not valid: ")


def test_what_does_not_answer_is_to_be_tried_again(through: Door) -> None:
    def fail(*_: Any) -> Any:
        raise Retryable("the records table cannot be reached") from ValueError("throttled")

    through.does(fail)

    assert through.call("say")["error"] == {
        "code": "unavailable",
        "message": "The records table cannot be reached. Try again.",
    }
    assert through.log.lines == [("command not done", {"cause": "throttled"})]


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (Misconfigured("the secret is not JSON"), "misconfigured", "The secret is not JSON."),
        (Failed("not_found", "There is no such record."), "not_found", "There is no such record."),
        (
            KeyError(EMAIL),
            "failed",
            "The command 'shout' failed unexpectedly (KeyError). The log of operate says where.",
        ),
    ],
)
def test_what_cannot_be_done_is_told_and_audited(
    through: Door, raised: Exception, code: str, message: str
) -> None:
    def fail(*_: Any) -> Any:
        raise raised

    through.does(fail)

    assert through.call("shout")["error"] == {"code": code, "message": message}
    assert through.log.lines[-1][1]["outcome"] == code
    assert EMAIL not in repr(through.log.lines)


def test_what_changes_something_is_audited_with_who_and_counts_and_no_argument(through: Door) -> None:
    who = {"url": "https://sts.example"}
    through.raw({"version": 1, "command": "shout", "arguments": {"text": EMAIL}, "who": who})

    assert through.log.lines == [
        ("command started", {"command": "shout", "who": ADA, "access": "admin"}),
        (
            "command ended",
            {"command": "shout", "who": ADA, "outcome": "done", "counts": {"characters": len(EMAIL)}},
        ),
    ]


def test_looking_is_audited_only_where_it_reveals_something(through: Door) -> None:
    through.call("say", ":read")
    assert through.log.lines == []

    through.call("say", ":read", unmasked=True)
    assert [line for line, _ in through.log.lines] == ["command started", "command ended"]


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ({"url": "https://sts.example", "name": "eve"}, ADA),
        ({"url": "https://other.example", "name": "eve"}, "claimed:eve"),
        ({"name": "eve"}, "claimed:eve"),
        ({}, "claimed:unknown"),
    ],
)
def test_who_asks_is_what_sts_says_or_else_a_claim(through: Door, who: dict[str, str], said: str) -> None:
    assert through.raw({"version": 1, "command": "say", "who": who})["result"]["who"] == said


@pytest.mark.parametrize("character", ["a", "é", "\N{PINCHING HAND}"])
def test_an_answer_that_exceeds_an_invocation_is_stored(through: Door, character: str) -> None:
    written = len(json.dumps(character)) - 2
    fits = (door.INVOCATION_BYTES - door.ENVELOPE_BYTES - 100) // written
    small = through.call("say", text=character, times=fits)
    assert len(json.dumps(small)) <= door.INVOCATION_BYTES
    assert through.world.answers == []

    large = through.call("say", text=character, times=door.INVOCATION_BYTES // written)

    assert large["result_at"] == {"url": "https://answers.example", "expires_at": "2026-03-02T00:00:00Z"}
    [stored] = through.world.answers
    assert json.loads(stored)["text"] == character * (door.INVOCATION_BYTES // written)


def test_arguments_may_be_uploaded(through: Door) -> None:
    key = "operate/requests/" + "0" * 32
    request = {"version": 1, "command": "say", "arguments_key": key}
    assert "are not there" in through.raw(request)["error"]["message"]

    through.world.requests[key] = b'{"text": "hello"}'
    assert through.raw(request)["result"]["text"] == "hello"

    for bad, code in (
        (b"{", "invalid_request"),
        (b"[" * 200_000, "invalid_request"),
        (b"[]", "invalid_arguments"),
    ):
        through.world.requests[key] = bad
        assert through.raw(request)["error"]["code"] == code


@pytest.mark.parametrize("size", [0, 64 * 2**20 + 1])
def test_an_upload_has_a_size_within_bounds(through: Door, size: int) -> None:
    assert through.call("upload", size=5)["result"]["url"] == "https://uploads.example/5"
    assert "size: " in through.call("upload", size=size)["error"]["message"]


def test_a_name_of_the_registry_is_the_commands_own() -> None:
    assert {name: command.name for name, command in COMMANDS.items()} == {name: name for name in COMMANDS}
