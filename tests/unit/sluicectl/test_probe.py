"""Tests `sluicectl probe` against the fake upstream, in each of its manners."""

import gzip
import itertools
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from devstack.fake_upstream import Klaviyo, Settings
from sluice.contract import BULK_CREATE_JOBS_PATH, UPSTREAM_REVISION
from sluicectl import probe
from sluicectl.cli import sluicectl
from sluicectl.errors import Failure
from sluicectl.questions import MAX_QUESTIONS, Answer, Finding, Questions, settings_of

SITE, KEY = "AbC123", "pk_never_said"
MANNERS: Final = {
    "rate_limit_headers": ["steady", "binding", "none"],
    "attribution": ["all", "first", "none", "entry", "events", "parameter"],
    "duplicates": ["fail", "ignore"],
    "duplicate_scope": ["metric", "profile", "account"],
    "duplicate_pointer": ["unique_id", "event", "entry", "events", "none"],
    "unreal_phone_numbers": ["take", "ignore", "refuse"],
    "nulls": ["take", "refuse"],
    "unknown_fields": ["take", "refuse"],
    "gzipped_bodies": ["take", "refuse"],
}


def fake(**manner: str) -> Klaviyo:
    # Its clock goes on with each look, so that no question meets the limit of a second.
    seconds = itertools.count(datetime(2026, 11, 29, tzinfo=UTC).timestamp())
    made = Klaviyo({SITE: KEY}, Settings(), clock=lambda: next(seconds))
    made.configure(**manner)
    return made


def ask(klaviyo: Klaviyo) -> list[Finding]:
    """Asks a fake upstream all questions, without a network."""

    def exchange(question: str, job: dict[str, Any], zipped: bool) -> Answer:
        body = json.dumps(job).encode()
        headers = {
            "authorization": f"Klaviyo-API-Key {KEY}",
            "revision": UPSTREAM_REVISION,
            "content-type": "application/json",
        }
        if zipped:
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body)
        given = klaviyo.handle("POST", BULK_CREATE_JOBS_PATH, headers, body)
        assert isinstance(given.body, bytes)
        lower = {name.lower(): value for name, value in given.headers.items()}
        return Answer(given.status, lower, given.body.decode())

    return Questions(exchange, "run", "probe@mail.example").investigate()


@pytest.mark.parametrize(
    ("setting", "value"), [(setting, value) for setting, values in MANNERS.items() for value in values]
)
def test_each_manner_is_found_out(setting: str, value: str) -> None:
    found = {finding.setting: finding.found for finding in ask(fake(**{setting: value})) if finding.setting}

    assert found[setting] in {value, None}
    if found[setting] is None:  # a repeat that is ignored shows nothing of its scope and pointer
        assert setting in {"duplicate_scope", "duplicate_pointer"}


def test_every_assumption_of_the_fake_is_asked_about_and_holds() -> None:
    findings = ask(fake())

    assert {finding.setting for finding in findings if finding.setting} == MANNERS.keys()
    assert all(finding.holds for finding in findings)
    defaults = msgspec.to_builtins(Settings())
    assert settings_of(findings) == {setting: defaults[setting] for setting in MANNERS}


@given(st.fixed_dictionaries({setting: st.sampled_from(values) for setting, values in MANNERS.items()}))
@hypothesis_settings(max_examples=150, deadline=None)
def test_the_fake_behaves_as_the_account_did_with_what_was_found(manner: dict[str, str]) -> None:
    findings = ask(fake(**manner))

    assert ask(fake(**settings_of(findings))) == findings


def test_an_ignored_repeat_says_nothing_of_scope_and_pointer() -> None:
    findings = {finding.setting: finding for finding in ask(fake(duplicates="ignore"))}

    assert findings["duplicates"].holds is False
    assert findings["duplicate_scope"].holds is findings["duplicate_pointer"].holds is None


def test_it_records_marked_test_events_only_and_no_more_than_it_says() -> None:
    klaviyo = fake()
    ask(klaviyo)

    events = list(klaviyo.events())
    assert len(klaviyo.requests()) == MAX_QUESTIONS
    assert 0 < len(events) <= 12
    for taken in events:
        assert taken.event["properties"] == {"sluice_probe": "run"}
        assert taken.backfill["entry"] is True
        assert taken.profile["attributes"]["email"].endswith("probe@mail.example")


def test_an_account_that_refuses_a_plain_event_cannot_be_asked() -> None:
    with pytest.raises(Failure, match=r"HTTP 400 to a plain event.*Invalid metric"):
        ask(fake(refused_fields=["metric"]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<html>", "none"),
        ('{"errors": 5}', "none"),
        ('{"errors": [{"source": null}]}', "none"),
        ('{"errors": [{"source": {"pointer": 5}}]}', "none"),
        ('{"errors": [{"source": {"header": "x"}}]}', "none"),
    ],
)
def test_a_refusal_in_no_known_form_names_nothing(body: str, found: str) -> None:
    klaviyo = fake()

    class Odd(Klaviyo):
        def handle(self, *arguments: Any, **named: Any) -> Any:
            given = klaviyo.handle(*arguments, **named)
            return given if given.status == 202 else type(given)(400, {}, body.encode())

    findings = {finding.setting: finding.found for finding in ask(Odd({SITE: KEY}))}

    assert findings["attribution"] == findings["duplicate_pointer"] == found


# The command.


@pytest.fixture
def klaviyo() -> Klaviyo:
    return fake(attribution="first", unreal_phone_numbers="ignore")


@pytest.fixture
def url(klaviyo: Klaviyo, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets the command's requests reach the fake upstream without a network."""

    def post(url: str, *, content: bytes, headers: dict[str, str], timeout: float) -> httpx2.Response:
        assert url.startswith("http://127.0.0.1:9/")
        given = klaviyo.handle("POST", url.removeprefix("http://127.0.0.1:9"), headers, content)
        assert isinstance(given.body, bytes)
        return httpx2.Response(given.status, headers=dict(given.headers), content=given.body)

    monkeypatch.setattr(httpx2, "post", post)
    return "http://127.0.0.1:9"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Returns the seconds that the command slept, without sleeping."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def run(*arguments: str, key: str | None = KEY, typed: str | None = None) -> Result:
    return CliRunner().invoke(
        sluicectl, ["probe", *arguments], catch_exceptions=False, input=typed, env={probe.KEY_VARIABLE: key}
    )


def test_the_command_writes_what_it_found(klaviyo: Klaviyo, url: str, tmp_path: Path) -> None:
    document = tmp_path / "accounts.json"
    account = {"site_id": SITE, "private_key": KEY, "base_url": url}
    document.write_text(json.dumps({"accounts": [account]}))
    folder = tmp_path / "found"

    result = run(
        SITE, "--accounts", str(document), "--pause", "0", "--write", str(folder), "--yes", "--json", key=None
    )

    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["account"] == SITE
    assert [finding["setting"] for finding in told["findings"] if finding["holds"] is False] == [
        "attribution",
        "unreal_phone_numbers",
    ]
    written = json.loads((folder / "settings.json").read_text())
    assert (written["attribution"], written["unreal_phone_numbers"]) == ("first", "ignore")
    assert fake(**written).settings.attribution == "first"
    exchanges = json.loads((folder / "exchanges.json").read_text())
    assert len(exchanges) == len(klaviyo.requests()) == MAX_QUESTIONS
    assert exchanges[1]["response"]["status"] == 400
    assert "pointer" in exchanges[1]["response"]["body"]
    assert told["written"] == [str(folder / "settings.json"), str(folder / "exchanges.json")]
    assert KEY not in result.output + (folder / "exchanges.json").read_text()


def test_people_get_a_table(url: str, tmp_path: Path) -> None:
    result = run(SITE, "--base-url", url, "--pause", "0", "--write", str(tmp_path), typed="y\n")

    assert result.exit_code == 0
    assert "They cannot be taken back. Ask? [y/N]" in result.stderr
    assert "a gzipped body" in result.stdout
    assert "no" in result.stdout


@pytest.mark.parametrize("typed", ["n\n", ""])
def test_nothing_is_sent_without_the_operators_word(klaviyo: Klaviyo, url: str, typed: str) -> None:
    result = run(SITE, "--base-url", url, typed=typed)

    assert (result.exit_code, klaviyo.requests()) == (1, [])
    assert "Nothing was sent." in result.stderr


def test_a_program_has_to_say_yes(klaviyo: Klaviyo, url: str) -> None:
    result = run(SITE, "--base-url", url, "--json", typed="y\n")

    assert (result.exit_code, klaviyo.requests()) == (1, [])
    assert "--yes" in json.loads(result.stdout)["error"]


def test_the_key_is_asked_for(klaviyo: Klaviyo, url: str, tmp_path: Path) -> None:
    options = ("--base-url", url, "--pause", "0", "--write", str(tmp_path), "--yes")
    assert run(SITE, *options, key=None, typed=f"{KEY}\n").exit_code == 0
    result = run(SITE, *options, key=None, typed="")

    assert result.exit_code == 1
    assert probe.KEY_VARIABLE in result.stderr
    assert KEY not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pipeless-7",), "no site id"),
        ((SITE, "--base-url", "http://klaviyo.example"), "https addresses only"),
    ],
)
def test_a_mistake_is_told(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments, "--yes")

    assert result.exit_code == 1
    assert said in result.stderr
    assert KEY not in result.output


def test_an_upstream_that_gives_no_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def post(*_: Any, **__: Any) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused")

    monkeypatch.setattr(httpx2, "post", post)

    result = run(SITE, "--yes")

    assert result.exit_code == 3
    assert "https://a.klaviyo.com gives no answer (ConnectError: connection refused)." in result.stderr


def test_an_account_that_the_document_does_not_have_is_told(tmp_path: Path) -> None:
    document = tmp_path / "accounts.json"
    document.write_text('{"accounts": []}')

    result = run(SITE, "--accounts", str(document), "--yes")

    assert "has no valid account AbC123" in result.stderr


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ({"kind": "json", "status": 401}, 1, "refuses the key"),
        ({"kind": "json", "status": 503}, 3, "HTTP 503"),
        ({"kind": "throttle", "retry_after": 0}, 3, "HTTP 429"),
        ({"kind": "throttle", "retry_after_as": "absent"}, 3, "HTTP 429"),
        ({"kind": "json", "status": 400}, 1, "nothing can be learned"),
    ],
)
def test_an_upstream_that_cannot_be_asked_is_told(
    klaviyo: Klaviyo,
    url: str,
    fault: dict[str, Any],
    code: int,
    said: str,
    slept: list[float],
) -> None:
    klaviyo.configure(faults=[fault])

    result = run(SITE, "--base-url", url, "--yes")

    assert result.exit_code == code
    assert said in result.stderr
    assert len(slept) == (probe.MAX_TRIES if fault["kind"] == "throttle" else 0)


def test_a_429_is_waited_out(klaviyo: Klaviyo, url: str, tmp_path: Path, slept: list[float]) -> None:
    klaviyo.configure(faults=[{"kind": "throttle", "retry_after": 3, "count": 2}])

    result = run(SITE, "--base-url", url, "--yes", "--write", str(tmp_path), "--pause", "7")

    assert result.exit_code == 0
    assert slept == [3.5, 3.5, 7.0]


def test_a_folder_that_cannot_be_written_is_told(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = run(SITE, "--base-url", url, "--yes", "--pause", "0", "--write", str(tmp_path / "file"))

    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
