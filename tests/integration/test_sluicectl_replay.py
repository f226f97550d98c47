"""Tests `sluicectl rejections replay` and its like, on the real functions, with AWS emulated in process."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sluice.operate.command import Arguments, Command
from sluice.operate.command import Result as CommandResult
from sluice.operate.job_commands import WORK
from sluicectl import jobs, replays
from sluicectl.cli import sluicectl
from sluicectl.errors import Failure, Unreachable
from tests.integration.test_rejections import wrong_currency
from tests.integration.test_replay import Desk
from tests.support.aws_stack import close_event_loop, cloud
from tests.support.factories import SITE_ID
from tests.support.operate import Operate

type Run = Callable[..., Result]
EUR = ("--fault", '"EUR"')


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with cloud(monkeypatch) as aws:
        yield Desk(aws, monkeypatch)
    close_event_loop()


class Hook:
    """Lets a test do something before a command is called."""

    def __init__(self, desk: Desk) -> None:
        self.before: Callable[[str], None] = lambda name: desk.deliver() if name == WORK.name else None


@pytest.fixture
def hook(desk: Desk) -> Hook:
    return Hook(desk)


@pytest.fixture
def run(desk: Desk, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Run:
    class Client:
        """Calls commands in this process; while one waits for a job, dispatch delivers."""

        def __init__(self, deployment: object) -> None:
            pass

        def call(self, command: Command[Any, Any], arguments: Arguments) -> CommandResult:
            hook.before(command.name)
            given = arguments.model_dump(mode="json", exclude_defaults=True)
            answer = Operate(desk.aws)(command.name, command.access, **given)
            if "error" in answer:
                raise Failure(answer["error"]["message"])
            found: CommandResult = command.result.model_validate(answer["result"])
            return found

    for module in (replays, jobs):
        monkeypatch.setattr(module, "OperateClient", Client)
        monkeypatch.setattr(module, "find", lambda target: target)
    monkeypatch.setattr(replays, "PAUSE_SECONDS", 0.0)

    def command(*arguments: str, answer: str = "") -> Result:
        return CliRunner().invoke(
            sluicectl, arguments, catch_exceptions=False, env={"COLUMNS": "120"}, input=answer
        )

    return command


def test_a_wrong_currency_is_replayed_by_its_group_in_one_command(run: Run, desk: Desk) -> None:
    refused = [wrong_currency(number) for number in range(20)]
    desk.archive(*refused)
    [group] = desk.ask("rejections groups", "read")["groups"]

    done = run("rejections", "replay", "--group", group["id"], *EUR, "--yes", "--json")

    document = json.loads(done.stdout)
    assert done.exit_code == 0
    assert document.keys() >= {"job", "matched", "sent", "still_refused", "not_addressable"}
    counts = {name: document[name] for name in ("matched", "sent", "still_refused", "not_addressable")}
    assert counts == {"matched": 20, "sent": 20, "still_refused": 0, "not_addressable": 0}
    assert (document["state"], document["delivered"], document["waiting"]) == ("done", 20, 0)
    assert desk.taken() == Counter(each.id for each in refused)

    again = run("rejections", "replay", "--group", group["id"], *EUR, "--yes", "--json")

    assert again.exit_code == 1
    assert (json.loads(again.stdout)["matched"], json.loads(again.stdout)["sent"]) == (0, 0)
    assert desk.taken() == Counter(each.id for each in refused)


def test_the_plan_shows_one_before_and_after_and_asks(run: Run, desk: Desk) -> None:
    desk.archive(*(wrong_currency(number) for number in range(3)))

    declined = run("rejections", "replay", "--account", SITE_ID, *EUR, answer="n\n")

    assert declined.exit_code == 1
    assert "3  open and meant" in declined.output
    assert '"EURO' in declined.output
    assert '"EUR"' in declined.output
    assert "Send 3 events again?" in declined.output
    assert "Nothing is changed" in declined.output
    assert desk.states() == {"open": 3}
    assert json.loads(run("jobs", "list", "--json").stdout)["jobs"][0]["state"] == "cancelled"

    agreed = run("rejections", "replay", "--account", SITE_ID, *EUR, answer="y\n")
    assert agreed.exit_code == 0
    assert "3  delivered" in agreed.output
    listed = run("jobs", "list").output
    assert ("replay" in listed, "done" in listed, "cancelled" in listed) == (True, True, True)
    assert desk.states() == {"delivered": 3}


def test_a_dry_run_sends_nothing_and_says_what_would_still_be_refused(run: Run, desk: Desk) -> None:
    desk.archive(wrong_currency(1), wrong_currency(2, pointer=None))

    looked = run("rejections", "replay", "--account", SITE_ID, *EUR, "--dry-run", "--json")
    without = run("rejections", "replay", "--account", SITE_ID, "--dry-run", "--json")

    document = json.loads(looked.stdout)
    assert looked.exit_code == 0
    assert (document["matched"], document["ready"], document["sent"]) == (2, 1, 0)
    assert document["not_addressable"] == 1
    assert document["sample"]["after"]["events"][0]["value_currency"] == "EUR"
    shown = run("rejections", "replay", "--account", SITE_ID, *EUR, "--dry-run").stdout
    assert '/events/0/value_currency  "EURO1" → "EUR"' in shown
    assert "mail.example" not in shown
    assert without.exit_code == 1
    assert json.loads(without.stdout)["still_refused"] == 2
    assert "ISO 4217" in json.loads(without.stdout)["error"]
    assert desk.states() == {"open": 2}


def test_records_are_mended_by_their_ids_and_by_a_patch(run: Run, desk: Desk, tmp_path: Path) -> None:
    refused = [wrong_currency(number) for number in range(3)]
    desk.archive(*refused)
    patch = tmp_path / "patch.json"
    patch.write_text('[{"op": "replace", "path": "/events/0/value_currency", "value": "SEK"}]')
    ids = [each.id for each in refused]

    set_one = ("--set", '/events/0/value_currency="USD"', "--set", "/events/0/value=5")
    assert run("rejections", "replay", ids[0], *set_one, "--yes").exit_code == 0
    assert run("rejections", "replay", ids[1], "--patch", str(patch), "--yes").exit_code == 0
    removed = ("--remove", "/events/0/value_currency")
    assert run("rejections", "replay", ids[2], *removed, "--yes").exit_code == 0

    by_id = {each.event["unique_id"]: each.event for each in desk.klaviyo.events()}
    assert [by_id[each].get("value_currency") for each in ids] == ["USD", "SEK", None]
    assert by_id[ids[0]]["value"] == 5


def test_what_is_rejected_again_is_told_by_the_exit_code(run: Run, desk: Desk) -> None:
    desk.klaviyo.configure(poison=[{"contains": "person1@"}])
    desk.archive(wrong_currency(1), wrong_currency(2))
    done = run("rejections", "replay", "--account", SITE_ID, *EUR, "--yes")
    assert done.exit_code == 1
    assert "1  rejected again" in done.output
    assert "1  delivered" in done.output


def test_whoever_stops_waiting_is_told_that_the_job_goes_on(run: Run, desk: Desk, hook: Hook) -> None:
    desk.archive(wrong_currency(1))

    def interrupt(name: str) -> None:
        if name == WORK.name:
            raise KeyboardInterrupt

    hook.before = interrupt
    stopped = run("rejections", "replay", "--account", SITE_ID, *EUR, "--yes")
    [job] = json.loads(run("jobs", "list", "--json").stdout)["jobs"]
    assert stopped.exit_code == 1
    for said in ("goes on", f"sluicectl jobs show {job['id']}", f"sluicectl jobs cancel {job['id']}"):
        assert said in stopped.output.replace("\n", " ")

    desk.deliver()
    desk.ask("jobs tick")
    assert json.loads(run("jobs", "show", job["id"], "--json").stdout)["state"] == "done"
    assert "delivered" in run("jobs", "show", job["id"]).output
    assert "It was done already" in run("jobs", "cancel", job["id"]).output


def test_a_deployment_that_is_away_for_a_moment_loses_no_job(run: Run, desk: Desk, hook: Hook) -> None:
    desk.archive(wrong_currency(1))

    def fail(name: str) -> None:
        if name == WORK.name:
            raise Unreachable("AWS cannot be reached.")

    hook.before = fail
    stopped = run("rejections", "replay", "--account", SITE_ID, *EUR, "--yes", "--json")
    assert stopped.exit_code == 3
    assert "goes on" in json.loads(stopped.stdout)["error"]


def test_a_job_without_any_outcome_is_not_waited_for_forever(
    run: Run, desk: Desk, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "PATIENCE_SECONDS", 0.2)
    hook.before = lambda _: None  # nothing is delivered
    desk.archive(wrong_currency(1))
    left = run("rejections", "replay", "--account", SITE_ID, *EUR, "--yes")
    assert left.exit_code == 0
    assert "The job goes on" in left.output
    [job] = json.loads(run("jobs", "list", "--json").stdout)["jobs"]
    assert (job["state"], job["waiting"]) == ("settling", 1)
    cancelled = run("jobs", "cancel", job["id"])
    assert "1 that are sent stay sent" in cancelled.output


def test_rejections_are_discarded_and_restored(run: Run, desk: Desk) -> None:
    refused = [wrong_currency(number) for number in range(3)]
    desk.archive(*refused)

    looked = run("rejections", "discard", "--account", SITE_ID, "--why", "a test", "--dry-run", "--json")
    assert json.loads(looked.stdout) == {"matched": 3, "discarded": 0}
    assert run("rejections", "discard", "--account", SITE_ID, "--why", "a test", answer="n\n").exit_code == 1
    assert desk.states() == {"open": 3}
    done = run("rejections", "discard", "--account", SITE_ID, "--why", "a test", "--yes", "--json")
    assert json.loads(done.stdout) == {"matched": 3, "discarded": 3}
    again = run("rejections", "discard", "--account", SITE_ID, "--why", "a test", "--yes")
    assert (again.exit_code, "No open rejection" in again.output) == (1, True)

    back = run("rejections", "restore", refused[0].id, "--json")
    assert json.loads(back.stdout) == {"matched": 1, "restored": 1}
    assert desk.states() == {"open": 1, "discarded": 2}
    assert run("rejections", "restore", refused[0].id).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("rejections", "replay", "--fault", "EUR", "--account", SITE_ID), 2, """'"EUR"'"""),
        (("rejections", "replay", "--set", "value", "--account", SITE_ID), 2, "POINTER=JSON"),
        (("rejections", "replay", "--set", "value=1", "--account", SITE_ID), 2, "no JSON pointer"),
        (("rejections", "replay", "--remove", "value", "--account", SITE_ID), 2, "no JSON pointer"),
        (("rejections", "replay", "not-an-id"), 2, "32 hexadecimal digits"),
        (("rejections", "replay"), 1, "which records are meant"),
        (("rejections", "replay", "--account", SITE_ID), 1, "No open rejection is meant"),
        (("rejections", "replay", "f" * 32, "--yes"), 1, "no such record"),
        (("rejections", "discard", "--account", SITE_ID), 2, "--why"),
        (("rejections", "discard", "--account", SITE_ID, "--why", "x" * 61), 2, "1 to 60 characters"),
        (("jobs", "show", "0" * 20), 1, "There is no job"),
        (("jobs", "cancel", "x"), 2, "20 hexadecimal digits"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    refused = run(*arguments)
    assert refused.exit_code == code
    assert said in " ".join(refused.output.split())


@pytest.mark.parametrize("content", ["{}", "not JSON", '[{"op": "eat", "path": ""}]'])
def test_a_file_that_is_no_patch_is_refused(run: Run, tmp_path: Path, content: str) -> None:
    patch = tmp_path / "patch.json"
    patch.write_text(content)
    refused = run("rejections", "replay", "--account", SITE_ID, "--patch", str(patch))
    assert refused.exit_code == 2


def test_a_patch_that_does_not_apply_says_so(run: Run, desk: Desk) -> None:
    desk.archive(wrong_currency(1))
    refused = run("rejections", "replay", "--account", SITE_ID, "--remove", "/nowhere", "--yes")
    assert refused.exit_code == 1
    assert "The payload has no such place: '/nowhere'." in " ".join(refused.output.split())


def test_a_program_has_to_say_yes(run: Run, desk: Desk) -> None:
    desk.archive(wrong_currency(1))
    refused = run("rejections", "replay", "--account", SITE_ID, *EUR, "--json")
    assert refused.exit_code == 1
    assert "--yes" in json.loads(refused.stdout)["error"]
    assert desk.states() == {"open": 1}


def test_without_a_job_the_list_says_so(run: Run) -> None:
    assert "There is no job" in run("jobs", "list").output
