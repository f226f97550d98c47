"""Tests Pipeless's route over HTTP, through the whole stack, into the store of the fake Pipeless."""

import json
import uuid
from typing import Any

import httpx2
import pytest

from tests.e2e.conftest import Stack, eventually
from tests.support.factories import batch, happening

OLD, NEW = {"modified_on": "2026-01-01T00:00:00"}, {"modified_on": "2026-01-02T00:00:00"}


def post(stack: Stack, document: dict[str, Any], key: str | None = None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key or stack.app_key}"}
    url = f"{stack.api}/v1/apps/{stack.app_id}/events/batch"
    return httpx2.post(url, json=document, headers=headers, timeout=30)


def kept(stack: Stack, what: str) -> list[dict[str, Any]]:
    """Returns what the fake Pipeless keeps of the app: calls, objects or relationships."""
    url = f"{stack.upstream}/_standin/pipeless/{what}"
    return [json.loads(line) for line in httpx2.get(url).text.splitlines()]


def test_batches_are_written_in_full_calls_one_object_for_each_type_and_id(stack: Stack) -> None:
    user = uuid.uuid4().hex
    articles = [f"{user[:8]}-{n}" for n in range(20)]
    batches = [
        batch(*(happening(user, article, dates=OLD if n < 9 else NEW) for article in articles[n : n + 2]))
        for n in range(0, 20, 2)
    ]

    assert [post(stack, each).status_code for each in batches] == [202] * 10
    repeated = post(stack, batches[-1])

    assert repeated.status_code == 202
    assert repeated.json().keys() == {"receipt"}

    def related() -> list[Any]:
        found = [each for each in kept(stack, "relationships") if each["start"] == ["user", user]]
        return found if len(found) == 20 else []

    assert {each["end"][1] for each in eventually(related)} == set(articles)
    [one] = [each for each in kept(stack, "objects") if each["id"] == user]
    assert one["modified_on"] == NEW["modified_on"]
    events = [each for call in kept(stack, "calls") for each in call["events"]]
    mine = [each for each in events if each["start_object"]["id"] == user]
    assert 20 <= len(mine) <= 22
    assert all("created_on" in each["relationship"] for each in mine)


def test_a_synchronous_batch_is_written_when_it_is_answered(stack: Stack) -> None:
    user = uuid.uuid4().hex

    answer = post(stack, batch(happening(user), synchronous=True))

    assert answer.status_code == 201
    assert user in {each["id"] for each in kept(stack, "objects")}


@pytest.mark.parametrize(
    ("key", "document", "status"),
    [("nobody", batch(), 401), (None, batch(happening("")), 400), (None, {"events": []}, 400)],
)
def test_a_refusal_is_strings(stack: Stack, key: str | None, document: Any, status: int) -> None:
    answer = post(stack, document, key)

    assert answer.status_code == status
    assert all(isinstance(each, str) for each in answer.json()["errors"])


def test_what_pipeless_refuses_is_archived(stack: Stack) -> None:
    user = uuid.uuid4().hex
    settings = f"{stack.upstream}/_standin/pipeless/settings"
    httpx2.put(settings, json={"poison": [f"bad-{user[:8]}"]}).raise_for_status()

    receipt = post(stack, batch(happening(user), happening(f"bad-{user[:8]}"))).json()["receipt"]

    [rejection] = eventually(lambda: [each for each in stack.archived() if each.get("receipt") == receipt])
    assert (rejection["pointer"], rejection["account"]) == ("/events/1", f"pipeless-{stack.app_id}")
    assert user in {each["id"] for each in kept(stack, "objects")}
