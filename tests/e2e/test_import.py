"""Tests an import from a file to the fake upstream, on a stack that enforces each function's permissions."""

import json
from pathlib import Path
from typing import Any

from sluice.operate.command import Access
from tests.e2e.conftest import Stack, eventually
from tests.e2e.test_operate import operating
from tests.e2e.test_sluicectl import sluicectl

METRIC = "Points Given Before"
ROWS = 1_500


def test_the_rows_of_a_file_arrive_and_bad_ones_are_rejections(stack: Stack, tmp_path: Path) -> None:
    people = [f"import-{number}@mail.example" for number in range(ROWS)]
    lines = [f"{person},2026-01-0{1 + number % 9},{number}" for number, person in enumerate(people)]
    file, mapping = tmp_path / "points.csv", tmp_path / "points.yaml"
    file.write_text("\n".join(["email,day,points", *lines, "no address,2026-01-01,5", ""]))
    mapping.write_text(
        f"metric: {METRIC}\nprofile: {{email: email}}\n"
        "time: parse_time(day, '%Y-%m-%d')\nvalue: to_number(points)\n"
    )
    with operating(stack, Access.ADMIN) as operator:
        found = operator.session.get_credentials()
        assert found is not None
        key = found.get_frozen_credentials()
        identity = {"AWS_ACCESS_KEY_ID": str(key.access_key), "AWS_SECRET_ACCESS_KEY": str(key.secret_key)}

        def run(*arguments: str) -> Any:
            return json.loads(sluicectl(stack, tmp_path, *arguments, "--json", code=0, **identity))

        account = ("--account", stack.site_id)
        done = run("import", str(file), "--map", str(mapping), *account)
        assert (done["events"], done["bad_lines"]) == (ROWS, 1)
        [job] = [each for each in run("jobs", "list")["jobs"] if each["id"] == done["job"]]
        assert (job["kind"], job["state"], job["events"]) == ("import", "done", ROWS)

        def arrived() -> list[Any]:
            taken = [each for each in stack.taken() if each["profile"]["attributes"]["email"] in set(people)]
            return taken if len(taken) >= ROWS else []

        taken = eventually(arrived, 90)
        assert len(taken) == ROWS
        assert all(each["backfill"]["event"] for each in taken)
        again = run("import", str(file), "--map", str(mapping), *account)

    assert (again["events"], again["sent_before"]) == (ROWS, ROWS)
