"""Tests `sluicectl` without a deployment: documents by line and column, payloads tried, how it fails."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from sluicectl import deployment, documents
from sluicectl.cli import sluicectl
from sluicectl.documents import Place, Unreadable

GOOD = """\
# Ours
sources:
  shop:
    preset: shopify
    account: AbC123
    secret: shop
  own:
    account: AbC123
    secret: own
    signature: {scheme: github}
    events:
      signed-up:
        metric: Signed Up
        when: type == 'signup'
        profile: {email: user.email}
        value: amount
"""
SAMPLE = "tests/webhooks/shopify/orders_create.json"

type Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in a folder with the documents named by the keywords, dots written as underscores."""
    sample = Path(SAMPLE).absolute()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deployment, "LOCAL", tmp_path / "none.json")
    (tmp_path / "order.json").write_bytes(sample.read_bytes())

    def command(*arguments: str, stdin: str | None = None, **files: str | bytes) -> Result:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / name.replace("_", ".")).write_bytes(data)
        return CliRunner().invoke(sluicectl, [*arguments], stdin, catch_exceptions=False)

    return command


def test_a_good_document_is_good(run: Run) -> None:
    result = run("sources", "check", "s.yaml", s_yaml=GOOD)

    assert (result.exit_code, result.output) == (0, "s.yaml is good: own, shop.\n")


BAD: dict[str, tuple[str, list[str]]] = {
    "unknown field": (
        GOOD.replace("    secret: own", "    secret: own\n    colour: blue"),
        ["s.yaml:10:5: 'colour' is not a valid field for the resource 'source'."],
    ),
    "missing field": (GOOD.replace("    secret: own\n", ""), ["s.yaml:7:3: 'secret' is a required field"]),
    "expression": (GOOD.replace("amount", "amount["), ["s.yaml:16:9: "]),
    "several": (
        GOOD.replace("AbC123", "nobody"[:5]),
        ["s.yaml:5:5: 'account' must be a site id", "s.yaml:8:5: 'account' must be a site id"],
    ),
    "repeated key": (GOOD + "  shop: {}\n", ["s.yaml:17:3: 'shop' stands here a second time."]),
    "no YAML": (GOOD + "  : : [\n", ["s.yaml:17:"]),
    "tab": (GOOD + "\t\tx: {a: b\n", ["s.yaml:"]),
    "empty": ("# nothing\n", ["s.yaml:1:1: There is nothing in it."]),
    "a list": ("- sources\n", ["s.yaml:1:1: "]),
    "tag": ("sources: !!python/object:os.system {}\n", ["s.yaml:1:10: Tags such as"]),
    "tagged text": ("sources: !secret x\n", ["s.yaml:1:10: Tags such as"]),
    "a number too long": (f"a: {'9' * 5_000}\n", ["s.yaml:1:4: This number is too large."]),
    "a number too large": ("a: 1e999\n", ["s.yaml:1:4: This number is too large."]),
    "two documents": ("a: 1\n---\nb: 2\n", ["s.yaml:2:1: "]),
    "alias": ("sources: &a\n  x: *a\n", ["s.yaml:2:6: Aliases mean nothing here."]),
    "deep": ("[" * 60 + "]" * 60, ["s.yaml:1:52: This is nested too deeply."]),
    "very deep": ("[" * 5_000, ["s.yaml:"]),
    "control character": ("a: 1\nb: \x07\n", ["s.yaml:2:4: The character U+0007 may not stand here."]),
}


@pytest.mark.parametrize("name", BAD)
def test_each_problem_is_told_with_its_line_and_column(run: Run, name: str) -> None:
    document, expected = BAD[name]

    result = run("sources", "check", "s.yaml", s_yaml=document)

    assert result.exit_code == 1
    *found, count = result.output.splitlines()
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected
    assert count == f"{len(expected)} problem{'s' if len(expected) > 1 else ''} in s.yaml"


def test_a_document_that_is_not_utf_8_is_told_so(run: Run) -> None:
    result = run("sources", "check", "s.yaml", s_yaml=b"sources:\n  caf\xe9: 1\n")

    assert result.output.splitlines()[0] == "s.yaml:2:6: This is not UTF-8."


def test_a_document_that_no_function_would_take_is_told_so(run: Run) -> None:
    signature = f"{{scheme: hmac, header: X-Signature, prefix: {'x' * 2**20}}}"

    result = run("sources", "check", "s.yaml", s_yaml=GOOD.replace("{scheme: github}", signature))

    assert result.exit_code == 1
    assert result.output.startswith("s.yaml:1:1: the sources document exceeds 1048576 bytes.")


def test_a_document_may_come_by_standard_input(run: Run) -> None:
    assert run("sources", "check", "-", stdin=GOOD).output == "- is good: own, shop.\n"
    assert run("sources", "check", "-", stdin="").output.startswith("-:1:1: There is nothing in it.")


def test_a_document_is_read_once_as_a_pipe_can_be(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s.yaml")
    with ThreadPoolExecutor(1) as writer:
        writer.submit((tmp_path / "s.yaml").write_text, GOOD)
        result = run("sources", "check", "s.yaml")

    assert result.output == "s.yaml is good: own, shop.\n"


def test_json_is_read_with_its_tabs_and_places(run: Run) -> None:
    document = '{\n\t"sources": {\n\t\t"own": {\n\t\t\t"colour": "\\ud83d\\ude00"\n\t\t}\n\t}\n}\n'

    result = run("sources", "check", "s.json", s_json=document)

    assert "s.json:4:4: 'colour' is not a valid field" in result.output


def test_programs_are_told_the_same(run: Run) -> None:
    bad = run("sources", "check", "s.yaml", "--json", s_yaml=GOOD.replace("AbC123", "x", 1))
    good = run("sources", "check", "s.yaml", "--json", s_yaml=GOOD)

    [problem] = json.loads(bad.output)["problems"]
    assert (problem["line"], problem["column"], problem["pointer"]) == (5, 5, "/sources/shop/account")
    assert (bad.exit_code, json.loads(bad.output)["valid"]) == (1, False)
    assert json.loads(good.output) == {
        "file": "s.yaml",
        "valid": True,
        "sources": ["own", "shop"],
        "problems": [],
    }


def test_a_payload_is_tried(run: Run) -> None:
    header = ("--header", "X-Shopify-Topic: orders/create")

    result = run("sources", "try", "shop", "order.json", "--file", "s.yaml", *header, s_yaml=GOOD)
    told = run("sources", "try", "shop", "order.json", "--file", "s.yaml", "--json", *header)

    assert result.exit_code == 0
    assert result.output.startswith("shop makes 6 events of it, for AbC123.\n")
    assert "1  Placed Order" in result.output
    assert "404.95" in result.output
    document = json.loads(told.output)
    attributes = [each["body"]["data"]["attributes"] for each in document["events"]]
    names = [each["metric"]["data"]["attributes"]["name"] for each in attributes]
    assert names == ["Placed Order", *["Ordered Product"] * 5]
    assert all(each["valid"] for each in document["events"])


def test_a_form_is_tried_as_it_would_be_taken(run: Run) -> None:
    document = GOOD.replace("user.email", "powertools_json(payload).email").replace(
        "type == 'signup'", "payload"
    )
    form = "payload=%7B%22email%22%3A%22ann%40mail.example%22%7D"
    arguments = ("try", "own", "-", "--file", "s.yaml", "--header")

    result = run(
        "sources", *arguments, "Content-Type: application/x-www-form-urlencoded", s_yaml=document, stdin=form
    )

    assert result.exit_code == 0
    assert "ann@mail.example" in result.output


def test_a_mapping_that_is_tried_sees_no_more_than_it_will(run: Run) -> None:
    document = GOOD.replace("user.email", "header('x-hub-signature-256')").replace("type == 'signup'", "id")
    header = ("--header", "X-Hub-Signature-256: a@b.example")

    result = run("sources", "try", "own", "order.json", "--file", "s.yaml", *header, s_yaml=document)

    assert "refused: " in result.output
    assert "a@b.example" not in result.output


def test_what_of_a_payload_is_bad_is_shown_with_why(run: Run) -> None:
    payload = '{"type": "signup", "user": {"email": "no address"}, "amount": 5}'

    result = run("sources", "try", "own", "p.json", "--file", "s.yaml", s_yaml=GOOD, p_json=payload)

    assert result.exit_code == 1
    assert "refused: /data/attributes/profile/data/attributes/email" in result.output.replace("\n│ ", " ")
    assert "1 rejection would be kept; the sender is answered 2xx." in result.output


def test_a_payload_that_no_mapping_is_meant_for_becomes_nothing(run: Run) -> None:
    result = run(
        "sources", "try", "own", "p.json", "--file", "s.yaml", s_yaml=GOOD, p_json='{"type": "other"}'
    )

    assert result.exit_code == 0
    assert "No mapping of this source is meant for this payload." in result.output


def test_a_payload_is_tried_with_the_topics_of_its_source(run: Run) -> None:
    header = ("--header", "X-Shopify-Topic: products/update")
    arguments = ("sources", "try", "shop", "order.json", "--file", "s.yaml", *header)

    result = run(*arguments, s_yaml=GOOD)
    told = json.loads(run(*arguments, "--json").output)

    assert result.exit_code == 0
    shown = " ".join(result.output.split())
    assert "topic products/update topics of this source: checkouts/create, checkouts/update," in shown
    assert "No mapping of this source is meant for this payload." in shown
    assert told["topic"] == "products/update"
    assert {"orders/create", "orders/updated", "refunds/create"} <= set(told["topics"])


def test_a_source_that_does_not_choose_by_topic_has_none(run: Run) -> None:
    payload = '{"type": "signup", "user": {"email": "ann@mail.example"}, "amount": 5}'
    arguments = ("sources", "try", "own", "p.json", "--file", "s.yaml")

    result = run(*arguments, s_yaml=GOOD, p_json=payload)

    assert "topic" not in result.output
    assert json.loads(run(*arguments, "--json").output)["topics"] is None


def test_what_an_event_goes_without_is_shown(run: Run) -> None:
    payload = r'{"type": "signup", "user": {"email": "ann@mail.example"}, "amount": "much \ud83c"}'
    arguments = ("sources", "try", "own", "p.json", "--file", "s.yaml")

    result = run(*arguments, s_yaml=GOOD, p_json=payload)
    told = json.loads(run(*arguments, "--json").output)

    assert result.exit_code == 1
    shown = " ".join(result.output.replace("│", "").split())
    assert "left out: /events/signed-up/value: " in shown
    assert "replaced: Half a surrogate pair" in shown
    [event] = told["events"]
    assert (event["valid"], event["waits"]) == (True, False)
    assert [each["pointer"] for each in event["left_out"]] == ["/events/signed-up/value"]
    assert len(told["replaced"]) == 1


def test_an_event_of_nobody_is_shown_to_wait(run: Run) -> None:
    header = ("--header", "X-Shopify-Topic: checkouts/create")
    arguments = ("sources", "try", "shop", "p.json", "--file", "s.yaml", *header)

    result = run(*arguments, s_yaml=GOOD, p_json='{"token": "c-1", "email": null}')

    assert result.exit_code == 0
    assert "waits: a later delivery may say whose this is" in result.output
    assert "refused: " not in result.output


FAILURES: list[tuple[list[str], int, str]] = [
    (
        ["try", "none", "order.json", "--file", "s.yaml"],
        1,
        "There is no source 'none'. Those there are: own, shop.",
    ),
    (["try", "own", "s.yaml", "--file", "s.yaml"], 1, "s.yaml is no payload: The body cannot be read: JSON"),
    (["try", "own", "order.json", "--file", "s.yaml", "--header", "x"], 2, "a header is written NAME:VALUE"),
    (["try", "own", ".", "--file", "s.yaml"], 2, "is a directory"),
    (["try", "own", "order.json", "--file", "bad.yaml"], 1, "bad.yaml:2:5: "),
    (["check", "missing.yaml"], 2, "does not exist"),
    (["put", "s.yaml", "--local"], 3, "No local stack is running. make up starts one."),
    (["show", "--local"], 3, "No local stack is running. make up starts one."),
    (["show", "--aws-profile", "nobody"], 3, "The config profile (nobody) could not be found"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "says"), FAILURES, ids=[" ".join(each[0]) for each in FAILURES]
)
def test_a_mistake_is_told_in_a_sentence(run: Run, arguments: list[str], code: int, says: str) -> None:
    bad = "sources:\n    own: 5\n"

    result = run("sources", *arguments, s_yaml=GOOD, bad_yaml=bad)
    told = run("sources", *arguments, "--json")

    assert (result.exit_code, told.exit_code) == (code, code)
    assert says in result.stderr
    assert "Traceback" not in result.output
    if code != 2:
        assert says in json.loads(told.stdout)["error"]


def test_every_command_explains_itself(run: Run) -> None:
    assert "Exit codes:" in run("--help").output
    for command in ("check", "put", "show", "try"):
        shown = run("sources", command, "--help").output
        assert "--json" in shown
        assert command in run("sources", "--help").output


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_terminal_that_has_not_every_character_is_told_all_the_same(
    tmp_path: Path, form: list[str]
) -> None:
    (tmp_path / "s.yaml").write_text(GOOD.replace("Signed Up", "Signed Up \u2013 \U0001f389"))
    (tmp_path / "p.json").write_text('{"type": "signup", "user": {"email": "ann@mail.example"}, "amount": 5}')
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    files = (str(tmp_path / "p.json"), "--file", str(tmp_path / "s.yaml"))

    done = subprocess.run(
        [sys.executable, "-m", "sluicectl", "sources", "try", "own", *files, *form],
        env={**os.environ, **ascii_only, "PYTHONPATH": "layers/sluice"},
        capture_output=True,
        check=True,
    )

    assert b"Signed Up \\u2013" in done.stdout
    if form:
        [event] = json.loads(done.stdout)["events"]
        name = event["body"]["data"]["attributes"]["metric"]["data"]["attributes"]["name"]
        assert name == "Signed Up \u2013 \U0001f389"


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aü :#-'\"\\\n{}[]&*!|>%@`,?0.1eE~"),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("ab~/ :1", max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, 2, "\t"]))
def test_all_json_is_read_as_json(value: Any, indent: Any) -> None:
    assert documents.parse(json.dumps(value, indent=indent)).value == value


def test_yaml_scalars_are_what_they_look_like() -> None:
    text = "[no, on, 12:30, 0x1F, 1_000, 2026-11-21, ~, null, '', 007, 1.5, -3, 1e3, .5, =, <<]"

    assert documents.parse(text).value == [
        *("no", "on", "12:30", "0x1F", "1_000", "2026-11-21"),
        *(None, None, "", "007", 1.5, -3, 1000.0, ".5", "=", "<<"),
    ]


def test_what_is_missing_stands_where_it_would() -> None:
    found = documents.parse("a:\n  b:\n    - c\n    - d~/: 1\n")

    assert found.place("/a/b/1/d~0~1") == Place(4, 7)
    assert found.place("/a/b/1/none") == Place(4, 7)
    assert found.place("/a/b/9/x") == Place(2, 3)
    assert found.place("/none") == found.place(None) == Place(1, 1)


def test_what_cannot_be_read_is_said_at_its_place() -> None:
    with pytest.raises(Unreadable) as raised:
        documents.parse("a: 1\n? [b]\n: 2\n")

    assert raised.value.place == Place(2, 3)
