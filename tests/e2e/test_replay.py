"""Tests how an operator deals with a wrong currency, with a stack that enforces the one permission."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

from sluice.operate.command import Access
from tests.e2e.conftest import Stack, eventually
from tests.e2e.test_operate import operating
from tests.e2e.test_sluicectl import sluicectl
from tests.support.factories import bulk, entry, event, metric, profile

METRIC = "Paid in Euro"
COUNT = 40


def send(stack: Stack, name: str, currencies: list[str]) -> None:
    """Sends an event for each currency, of a customer each; the bad ones are rejected."""
    entries = [
        entry(
            event(metric=metric(METRIC), value=5.0, value_currency=currency, unique_id=f"{name}-{number}"),
            of=profile(email=f"{name}-{number}@mail.example"),
        )
        for number, currency in enumerate(currencies)
    ]
    answer = httpx2.post(
        f"{stack.api}/api/event-bulk-create-jobs",
        json=bulk(*entries),
        timeout=60,
        headers={
            "authorization": f"Klaviyo-API-Key {stack.key}",
            "content-type": "application/vnd.api+json",
            "revision": "2026-07-15",
            "prefer": "handling=lenient",
        },
    )
    assert answer.status_code == 202


def test_a_wrong_currency_is_found_mended_and_delivered_in_one_command(stack: Stack, tmp_path: Path) -> None:
    send(stack, "euro", ["EUR", *["EURO"] * COUNT])
    with operating(stack, Access.ADMIN) as operator:
        found = operator.session.get_credentials()
        assert found is not None
        key = found.get_frozen_credentials()
        identity = {"AWS_ACCESS_KEY_ID": str(key.access_key), "AWS_SECRET_ACCESS_KEY": str(key.secret_key)}

        def run(*arguments: str, code: int = 0) -> Any:
            return json.loads(sluicectl(stack, tmp_path, *arguments, "--json", code=code, **identity))

        def group() -> Any:
            groups = run("rejections", "groups", "--account", stack.site_id)["groups"]
            mine = [each for each in groups if METRIC in each["metrics"]]
            return mine[0] if mine and mine[0]["open"] == COUNT else None

        refused = eventually(group, 60)
        assert refused["pointer"].endswith("/value_currency")
        replay = ("rejections", "replay", "--group", refused["id"], "--fault", '"EUR"')

        planned = run(*replay, "--dry-run")
        assert (planned["matched"], planned["ready"], planned["sent"]) == (COUNT, COUNT, 0)
        begin = time.monotonic()
        done = run(*replay, "--yes")
        seconds = time.monotonic() - begin
        again = run(*replay, "--yes", code=1)

    assert {name: done[name] for name in ("matched", "sent", "still_refused", "not_addressable")} == {
        "matched": COUNT,
        "sent": COUNT,
        "still_refused": 0,
        "not_addressable": 0,
    }
    assert (done["state"], done["delivered"]) == ("done", COUNT)
    assert again["matched"] == 0
    taken = [each["event"] for each in stack.taken() if each["event"]["unique_id"].startswith("euro-")]
    assert Counter(each["unique_id"] for each in taken) == {f"euro-{n}": 1 for n in range(COUNT + 1)}
    assert {each["value_currency"] for each in taken} == {"EUR"}
    assert seconds < 60


def test_a_job_goes_on_by_its_schedule(stack: Stack, tmp_path: Path) -> None:
    """Replays without anybody who waits; the emulator's schedule forgets the alias, so it is called here."""
    send(stack, "pound", ["EUR", "POUND"])

    def run(*arguments: str) -> Any:
        return json.loads(sluicectl(stack, tmp_path, *arguments, "--json"))

    def refused() -> Any:
        try:
            return run("rejections", "list", "--metric", METRIC, "--state", "open")["rejections"]
        except AssertionError:  # a filter that means nothing yet ends with a status of its own
            return None

    [record] = eventually(refused, 60)
    function = stack.outputs["OperateFunctionName"]
    client = stack.client("lambda")

    def ask(request: dict[str, Any]) -> Any:
        answer = client.invoke(FunctionName=f"{function}:admin", Payload=json.dumps(request).encode())
        return json.loads(answer["Payload"].read())["result"]

    def command(name: str, **arguments: Any) -> Any:
        return ask({"version": 1, "command": name, "arguments": arguments})

    mend = {"set": [{"pointer": "/events/0/value_currency", "value": "GBP"}]}
    job = command("rejections replay plan", ids=[record["id"]], mend=mend)["job"]["id"]
    command("rejections replay run", job=job)
    rules = stack.client("events")
    targets = [
        target
        for rule in rules.list_rules()["Rules"]
        for target in rules.list_targets_by_rule(Rule=rule["Name"])["Targets"]
        if target["Id"] == "jobs"
    ]
    assert [target["Arn"] for target in targets] == [stack.outputs["OperateAdminAliasArn"]]

    def is_done() -> bool:
        ask(json.loads(targets[0]["Input"]))
        return bool(run("jobs", "show", job)["state"] == "done")

    assert eventually(is_done, 90)
    assert run("rejections", "show", record["id"])["state"] == "delivered"
