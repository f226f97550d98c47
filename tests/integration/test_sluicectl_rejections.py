"""Tests `sluicectl rejections` on the real commands of operate, with AWS emulated in process."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sluice.operate import index
from sluice.operate.command import Arguments, Command
from sluice.operate.command import Result as CommandResult
from sluicectl import rejections
from sluicectl.cli import sluicectl
from sluicectl.moments import MOMENT
from tests.integration.test_rejections import Operator, wrong_currency
from tests.support.aws_stack import Cloud, forget
from tests.support.factories import SITE_ID

type Run = Callable[..., Result]


@pytest.fixture
def operator(cloud: Cloud) -> Operator:
    return Operator(cloud)


@pytest.fixture
def run(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> Run:
    class Client:
        """Calls commands in this process."""

        def __init__(self, deployment: object) -> None:
            pass

        def call(self, command: Command[Any, Any], arguments: Arguments) -> CommandResult:
            found = operator.ask(command.name, **arguments.model_dump(mode="json", exclude_defaults=True))
            answer: CommandResult = command.result.model_validate(found)
            return answer

    monkeypatch.setattr(rejections, "OperateClient", Client)
    monkeypatch.setattr(rejections, "find", lambda target: target)

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(
            sluicectl, ["rejections", *arguments], catch_exceptions=False, env={"COLUMNS": "100"}
        )

    return command


def test_groups_are_one_line_each(run: Run, operator: Operator) -> None:
    operator.archive(*(wrong_currency(number) for number in range(30)))

    shown, document = run("groups"), json.loads(run("groups", "--json").stdout)

    assert shown.exit_code == 0
    [group] = document["groups"]
    assert group.keys() >= {
        *("id", "account", "reason", "code", "detail", "open", "total", "first_seen", "last_seen"),
    }
    [line] = [line for line in shown.stdout.splitlines() if group["id"] in line]
    assert line.split()[1:4] == ["30", "30", SITE_ID]


def test_nothing_open_is_said(run: Run) -> None:
    assert "Nothing is open" in run("groups").stdout
    assert json.loads(run("groups", "--json").stdout) == {"groups": []}


def test_a_list_goes_on_where_the_last_one_ended(run: Run, operator: Operator) -> None:
    made = [wrong_currency(number, hours=number) for number in range(5)]
    operator.archive(*made)

    first = json.loads(run("list", "--limit", "3", "--json").stdout)
    rest = json.loads(run("list", "--after", first["next"], "--json").stdout)

    assert [each["id"] for each in first["rejections"] + rest["rejections"]] == [
        each.id for each in reversed(made)
    ]
    assert rest["next"] is None
    assert first["next"] in run("list", "--limit", "3").stdout


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--account", SITE_ID], 3),
        (["--metric", "Placed Order", "--state", "open"], 3),
        (["--profile", "person1@mail.example"], 1),
        (["--receipt", "r1"], 1),
        (["--reason", "refused_by_upstream", "--since", "7d"], 3),
        (["--until", "7d"], 0),
        (["--source", "shop"], 0),
    ],
)
def test_filters(run: Run, operator: Operator, filters: list[str], found: int) -> None:
    operator.archive(*(wrong_currency(number) for number in range(3)))

    result = run("list", *filters, "--json")

    assert len(json.loads(result.stdout)["rejections"]) == found
    assert result.exit_code == (0 if found else 1)


def test_a_list_of_nothing_says_so(run: Run) -> None:
    empty, none = run("list"), run("list", "--group", "000000000000")

    assert (empty.exit_code, none.exit_code) == (0, 1)
    assert "No rejection" in none.stdout


def test_one_is_shown_with_the_place_marked(run: Run, operator: Operator) -> None:
    made = wrong_currency(2)
    operator.archive(made)

    shown = run("show", made.id).stdout

    [marked] = [line for line in shown.splitlines() if "← here" in line]
    assert '"value_currency": "EURO2"' in marked
    assert f"sluicectl rejections replay {made.id}" in shown
    assert "mail.example" not in shown
    assert "person2@mail.example" in run("show", made.id, "--reveal").stdout
    assert json.loads(run("show", made.id, "--json").stdout)["place"] == "/events/0/value_currency"


def test_a_place_that_is_missing_is_named(run: Run, operator: Operator) -> None:
    made = wrong_currency(2, pointer="/data/attributes/time")
    operator.archive(made)

    assert "/events/0/time is missing" in run("show", made.id).stdout


def test_an_export_is_json_lines(run: Run, operator: Operator) -> None:
    operator.archive(*(wrong_currency(number, hours=number) for number in range(4)))

    all_lines, some = run("export").stdout.splitlines(), run("export", "--limit", "2", "--reveal").stdout

    assert [json.loads(line)["payload"]["events"][0]["value_currency"] for line in all_lines] == [
        *("EURO3", "EURO2", "EURO1", "EURO0"),
    ]
    assert "mail.example" not in "".join(all_lines)
    assert len(some.splitlines()) == 2
    assert "person3@mail.example" in some
    assert run("export", "--group", "000000000000").exit_code == 1


@pytest.mark.parametrize("text", ["yesterday", "7", "2026-13-01", "7 weeks", ""])
def test_a_time_that_is_none_is_told(run: Run, text: str) -> None:
    result = run("list", "--since", text)

    assert result.exit_code == 2
    assert "is no time" in result.output


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ("2026-11-20T08:15+01:00", "2026-11-20T08:15:00+01:00"),
    ],
)
def test_times(text: str, iso: str) -> None:
    assert MOMENT.convert(text, None, None).isoformat() == iso


def test_records_are_written_anew_from_the_archive(
    run: Run, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [wrong_currency(number, hours=-30 * number) for number in range(4)]
    for each in made:
        operator.archive(each)
    before = json.loads(run("list", "--json").stdout)
    items = operator.cloud.dynamodb.scan(TableName="records")["Items"]
    for item in items:
        operator.cloud.dynamodb.delete_item(TableName="records", Key={"pk": item["pk"], "sk": item["sk"]})
    forget()
    monkeypatch.setattr(index, "SECONDS", 0.0)  # so that each call reads one object

    first, again = run("index", "--json"), run("index", "--json")

    assert json.loads(first.stdout) == {"objects": 4, "lines": 4, "added": 4, "unreadable": 0}
    assert json.loads(again.stdout) == {"objects": 4, "lines": 4, "added": 0, "unreadable": 0}
    assert json.loads(run("list", "--json").stdout) == before
    [group] = json.loads(run("groups", "--json").stdout)["groups"]
    assert (group["open"], group["total"]) == (4, 4)


def test_a_line_that_is_no_rejection_costs_no_other(run: Run, operator: Operator) -> None:
    operator.archive(wrong_currency(1))
    operator.cloud.s3.put_object(
        Bucket="archive", Key="rejections/account=x/day=2026-01-01/0.jsonl", Body=b'{"id": 1}\nnot JSON\n'
    )

    result = run("index")

    assert result.exit_code == 1
    assert "2 unreadable" in result.stdout
    assert len(json.loads(run("list", "--json").stdout)["rejections"]) == 1


def test_the_names_that_strangers_chose_are_shown_as_they_are(run: Run, operator: Operator) -> None:
    made = wrong_currency(1, metric="[/] \x1b[2J\x07", source="[red]", line="s3://drops/[/a].jsonl:1")
    operator.archive(made)

    for shown in (run("groups"), run("list"), run("show", made.id, "--reveal")):
        assert shown.exit_code == 0
        assert "[/] \\x1b[2J\\x07" in shown.stdout
        assert "[red]" in shown.stdout
        assert not {"\x1b", "\x07"} & set(shown.stdout)
