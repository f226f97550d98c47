"""Tests that a person is erased, with a stack that enforces each function's permissions."""

import json
from pathlib import Path
from typing import Any

from sluice.operate.command import Access
from tests.e2e.conftest import Stack, eventually
from tests.e2e.test_operate import operating
from tests.e2e.test_replay import send
from tests.e2e.test_sluicectl import sluicectl


def test_what_is_stored_of_a_person_goes_and_does_not_come_back(stack: Stack, tmp_path: Path) -> None:
    ann, bob = (f"erase-{number}@mail.example" for number in range(2))
    send(stack, "erase", ["EURO", "EURO", "EUR"])
    with operating(stack, Access.ADMIN) as operator:
        found = operator.session.get_credentials()
        assert found is not None
        key = found.get_frozen_credentials()
        identity = {"AWS_ACCESS_KEY_ID": str(key.access_key), "AWS_SECRET_ACCESS_KEY": str(key.secret_key)}

        def run(*arguments: str, code: int = 0) -> Any:
            return json.loads(sluicectl(stack, tmp_path, *arguments, "--json", code=code, **identity))

        def rejections(person: str) -> Any:
            try:
                return run("rejections", "list", "--profile", person)["rejections"]
            except AssertionError:  # a filter that means nothing yet ends with a status of its own
                return None

        eventually(lambda: rejections(ann) and rejections(bob), 60)

        done = run("erase", "--profile", ann.upper(), "--yes")

        assert (done["state"], done["archived"]) == ("done", 1)
        run("rejections", "list", "--profile", ann, code=1)
        assert len(rejections(bob)) == 1
        send(stack, "erase", ["EURO", "EUR"])  # accepted later: the person has come back

        eventually(lambda: rejections(ann), 60)
        for person in (ann, bob):  # other tests count what is open of the same cause
            run("erase", "--profile", person, "--yes")
