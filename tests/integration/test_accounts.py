"""Tests the commands `accounts …` of operate, with AWS emulated in process."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sluice.aws import secrets
from tests.support.aws_stack import PRIVATE_KEY, account_secrets, cloud, read_accounts
from tests.support.factories import SITE_ID
from tests.support.operate import Operate

ONE, TWO = "1" * 64, "2" * 64
OTHER = "pk_of_another"


def refusal(code: str, call: str) -> ClientError:
    """Returns a refusal of Secrets Manager's."""
    kind: type[ClientError] = getattr(secrets.client().exceptions, code)
    return kind({"Error": {"Code": code}}, call)


class Keeper(Operate):
    """Invokes the function, and looks at the accounts that it stores."""

    def done(self, command: str, **arguments: Any) -> Any:
        answer = self(f"accounts {command}", **arguments)
        assert "error" not in answer, answer
        return answer["result"]

    def refused(self, command: str, **arguments: Any) -> str:
        code: str = self(f"accounts {command}", **arguments)["error"]["code"]
        return code

    def stored(self) -> Any:
        return read_accounts()

    def interrupt(self, call: str, other: Callable[[], None], times: int = 1) -> None:
        """Lets somebody else do something just before this function makes a call."""
        left = [other] * times

        def hook(_: dict[str, Any], real: Callable[[], Any]) -> Any:
            if left:
                left.pop()()
            return real()

        self.aws.calls.instead(call, hook)


@pytest.fixture
def operate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeper]:
    with cloud(monkeypatch) as aws:
        yield Keeper(aws)


def test_accounts_are_listed_without_any_key(operate: Keeper) -> None:
    operate.aws.write_accounts(
        json.dumps(
            {
                "accounts": [
                    {
                        "site_id": "AbC123",
                        "private_key": PRIVATE_KEY,
                        "keys": [{"sha256": ONE, "scopes": ["events:write", "events:read"]}],
                    },
                    {"site_id": "XyZ789", "private_ky": OTHER},
                ],
                "pipeless": [{"app_id": 7, "api_key": OTHER}],
            }
        )
    )

    answer = operate("accounts list", "read")

    assert answer["result"]["accounts"] == [
        {
            "id": "AbC123",
            "kind": "klaviyo",
            "base_url": "https://a.klaviyo.com",
            "keys": [{"id": ONE[:12], "scopes": ["events:read", "events:write"]}],
        },
        {"id": "pipeless-7", "kind": "pipeless", "base_url": "https://api.pipeless.io", "keys": []},
    ]
    [problem] = answer["result"]["problems"]
    assert "accounts[1]" in problem
    for key in (PRIVATE_KEY, OTHER, ONE):
        assert key not in json.dumps(answer)


def test_an_account_is_added_beside_the_others(operate: Keeper) -> None:
    before = operate.stored()["accounts"]

    added = operate.done("add", account="NeW456", private_key=OTHER, limit_metrics=True)
    app = operate.done("add", account="pipeless-7", private_key=OTHER, calls_per_minute=300)

    assert added["changes"] == [{"account": "NeW456", "how": "added", "what": None}]
    assert app["problems"] == []
    assert operate.stored() == {
        "accounts": [*before, {"site_id": "NeW456", "private_key": OTHER, "limit_metrics": True}],
        "pipeless": [{"app_id": 7, "api_key": OTHER, "calls_per_minute": 300}],
    }


def test_the_first_account_is_added_to_the_document_that_the_stack_creates(operate: Keeper) -> None:
    operate.aws.write_accounts('{"accounts": []}')

    operate.done("add", account="NeW456", private_key=OTHER)

    assert [each["id"] for each in operate.done("list")["accounts"]] == ["NeW456"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"account": SITE_ID}, "exists"),
        ({"account": "shop"}, "invalid_arguments"),
        ({"account": "pipeless-0"}, "invalid_arguments"),
        ({"account": "NeW456", "base_url": "http://a.klaviyo.com"}, "invalid_arguments"),
        ({"account": "NeW456", "calls_per_minute": 300}, "invalid_arguments"),
        ({"account": "pipeless-7", "calls_per_minute": 1}, "invalid_arguments"),
        ({"account": "NeW456", "private_key": "two words"}, "invalid_arguments"),
        ({"account": "NeW456", "private_key": OTHER * 99}, "invalid_arguments"),
    ],
)
def test_a_bad_account_is_refused_without_quoting_its_key(
    operate: Keeper, arguments: dict[str, Any], code: str
) -> None:
    before = operate.stored()

    answer = operate("accounts add", **{"private_key": OTHER} | arguments)

    assert answer["error"]["code"] == code
    assert OTHER not in answer["error"]["message"]
    assert operate.stored() == before


def test_a_mistake_elsewhere_hinders_no_change(operate: Keeper) -> None:
    bad = {"site_id": "XyZ789", "private_ky": OTHER}
    operate.aws.name_accounts(bad, {"site_id": SITE_ID, "private_key": "k"})

    changed = operate.done("keys add", account=SITE_ID, sha256=ONE, scopes=["events:write"])

    assert "accounts[0]" in changed["problems"][0]
    assert operate.stored()["accounts"][0] == bad


def test_a_document_that_is_no_json_is_not_changed(operate: Keeper) -> None:
    operate.aws.write_accounts("{")

    assert operate.refused("add", account="NeW456", private_key=OTHER) == "misconfigured"


def test_an_ingest_key_is_stored_as_its_hash_and_revoked_by_its_id(operate: Keeper) -> None:
    operate.done("keys add", account=SITE_ID, sha256=ONE, scopes=["events:write"])
    both = operate.done("keys add", account=SITE_ID, sha256=TWO, scopes=["events:read"])
    left = operate.done("keys revoke", account=SITE_ID, key=ONE[:12])

    assert [each["id"] for each in both["keys"]] == [ONE[:12], TWO[:12]]
    assert left["changes"] == [
        {"account": SITE_ID, "how": "removed", "what": f"ingest key {ONE[:12]} (events:write)"}
    ]
    [account] = operate.stored()["accounts"]
    assert account["keys"] == [{"sha256": TWO, "scopes": ["events:read"]}]
    assert account["private_key"] == PRIVATE_KEY


@pytest.mark.parametrize(
    ("command", "arguments", "code"),
    [
        ("keys add", {"account": "NeW456", "sha256": ONE, "scopes": []}, "unknown_account"),
        ("keys add", {"account": SITE_ID, "sha256": TWO, "scopes": []}, "invalid_arguments"),
        ("keys add", {"account": SITE_ID, "sha256": ONE, "scopes": ["all"]}, "invalid_arguments"),
        ("keys add", {"account": SITE_ID, "sha256": "pk_1", "scopes": []}, "invalid_arguments"),
        ("keys revoke", {"account": "NeW456", "key": ONE[:12]}, "unknown_account"),
        ("keys revoke", {"account": SITE_ID, "key": ONE[:12]}, "unknown_key"),
        ("keys revoke", {"account": SITE_ID, "key": TWO}, "invalid_arguments"),
        ("rotate", {"account": "NeW456", "private_key": OTHER}, "unknown_account"),
        ("rotate", {"account": SITE_ID, "private_key": "two words"}, "invalid_arguments"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    operate: Keeper, command: str, arguments: dict[str, Any], code: str
) -> None:
    operate.done("keys add", account=SITE_ID, sha256=TWO, scopes=[])
    before = operate.stored()

    assert operate.refused(command, **arguments) == code
    assert operate.stored() == before


def test_a_key_of_an_account_with_a_mistake_can_be_revoked(operate: Keeper) -> None:
    entry = {"site_id": SITE_ID, "private_ky": "k", "keys": [7, {"sha256": ONE, "scopes": ["events:write"]}]}
    operate.aws.name_accounts(entry)

    operate.done("keys revoke", account=SITE_ID, key=ONE[:12])

    assert operate.stored()["accounts"] == [entry | {"keys": [7]}]


def test_the_private_key_is_replaced(operate: Keeper) -> None:
    operate.done("add", account="pipeless-7", private_key="old")

    for account in (SITE_ID, "pipeless-7"):
        rotated = operate.done("rotate", account=account, private_key=OTHER)
        assert [each["how"] for each in rotated["changes"]] == ["changed"]
        assert operate.done("rotate", account=account, private_key=OTHER)["changes"] == []

    stored = operate.stored()
    assert (stored["accounts"][0]["private_key"], stored["pipeless"][0]["api_key"]) == (OTHER, OTHER)


def test_two_operators_at_once_lose_nothing(operate: Keeper) -> None:
    def other() -> None:
        stored = operate.stored()
        stored["accounts"].append({"site_id": "XyZ789", "private_key": "k"})
        operate.aws.write_accounts(json.dumps(stored))

    operate.interrupt("PutObject", other)
    operate.done("add", account="NeW456", private_key=OTHER)

    assert [each["site_id"] for each in operate.stored()["accounts"]] == [SITE_ID, "XyZ789", "NeW456"]


def test_a_change_that_others_always_overtake_is_given_up(operate: Keeper) -> None:
    numbers = itertools.count(1)

    def other() -> None:
        operate.aws.name_accounts({"site_id": f"oth{next(numbers):03}", "private_key": "k"})

    operate.interrupt("PutObject", other, times=9)

    assert operate.refused("add", account="NeW456", private_key=OTHER) == "conflict"
    assert [each["site_id"] for each in operate.stored()["accounts"]] == ["oth005"]
    assert "NeW456" not in " ".join(account_secrets().values())


@pytest.mark.parametrize("call", ["UpdateSecretVersionStage", "PutObject"])
def test_what_came_to_be_while_its_answer_was_lost_counts(operate: Keeper, call: str) -> None:
    def lose(_: dict[str, Any], real: Callable[[], Any]) -> Any:
        real()
        return real()  # as the SDK does after an answer that did not arrive

    operate.aws.calls.instead(call, lose)
    operate.done("add", account="NeW456", private_key=OTHER)

    assert [each["site_id"] for each in operate.stored()["accounts"]] == [SITE_ID, "NeW456"]


@pytest.mark.parametrize(
    "call", ["GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage", "PutObject"]
)
def test_a_document_that_cannot_be_written_now_is_left_as_it_is(operate: Keeper, call: str) -> None:
    before = operate.stored()
    operate.aws.calls.fail(call)

    assert operate.refused("add", account="NeW456", private_key=OTHER) == "unavailable"
    operate.aws.calls.clear()
    assert operate.stored() == before


def test_a_refusal_that_is_no_conflict_is_no_conflict(operate: Keeper) -> None:
    def refuse(_: dict[str, Any], __: Callable[[], Any]) -> Any:
        raise refusal("InvalidParameterException", "UpdateSecretVersionStage")

    operate.aws.calls.instead("UpdateSecretVersionStage", refuse)

    assert operate.refused("add", account="NeW456", private_key=OTHER) == "unavailable"


def test_too_many_changes_a_day_are_told(operate: Keeper) -> None:
    def refuse(_: dict[str, Any], __: Callable[[], Any]) -> Any:
        raise refusal("LimitExceededException", "PutSecretValue")

    operate.aws.calls.instead("PutSecretValue", refuse)

    message = operate("accounts add", account="NeW456", private_key=OTHER)["error"]["message"]
    assert message == "A secret takes about a hundred changes a day, and this is above that. Try again."


def test_a_document_that_is_too_large_is_refused(operate: Keeper) -> None:
    keys = [{"sha256": f"{number:064x}"} for number in range(26_000)]
    operate.aws.name_accounts({"site_id": SITE_ID, "private_key": "k", "keys": keys})

    answer = operate("accounts keys add", account=SITE_ID, sha256=ONE, scopes=["events:write"])

    assert answer["error"] == {
        "code": "too_large",
        "message": "The accounts document would have 2,028,225 bytes, and may have 2,000,000.",
    }


def test_a_document_is_shown_mended_and_put_again(operate: Keeper) -> None:
    operate.done("keys add", account=SITE_ID, sha256=ONE, scopes=["events:write"])
    shown = operate.done("show")
    assert PRIVATE_KEY not in json.dumps(shown)

    document = shown["document"]
    document["accounts"][0]["limit_metrics"] = True
    document["accounts"].append({"site_id": "NeW456", "private_key": OTHER})
    put = operate.done("put", text=json.dumps(document), etag=shown["etag"])

    assert (put["stored"], put["changed"], put["problems"]) == (True, True, [])
    assert [(each["how"], each["account"], each["what"]) for each in put["changes"]] == [
        ("changed", SITE_ID, "limit_metrics: default to true"),
        ("added", "NeW456", None),
    ]
    assert [each["private_key"] for each in operate.stored()["accounts"]] == [PRIVATE_KEY, OTHER]


def test_only_admin_sees_the_hashes_of_keys(operate: Keeper) -> None:
    assert operate("accounts show", "read")["error"]["code"] == "forbidden"


def test_the_same_document_is_not_stored_again(operate: Keeper) -> None:
    shown = operate.done("show")

    put = operate.done("put", text=json.dumps(shown["document"], indent=2), etag=shown["etag"])

    assert (put["stored"], put["changed"], put["changes"]) == (False, False, [])
    assert operate.aws.calls.of("PutSecretValue") == []


@pytest.mark.parametrize("seen", [True, False])
def test_a_document_is_put_only_in_place_of_the_one_that_was_read(operate: Keeper, seen: bool) -> None:
    etag = operate.done("show")["etag"]
    operate.done("add", account="NeW456", private_key=OTHER)
    before = operate.stored()

    arguments: dict[str, Any] = {"etag": etag} if seen else {}
    assert operate.refused("put", text='{"accounts": []}', remove=True, **arguments) == "conflict"
    assert operate.stored() == before


def test_a_document_that_is_stored_meanwhile_is_not_replaced(operate: Keeper) -> None:
    etag = operate.done("show")["etag"]
    other = '{"accounts": [], "n": 1}'
    operate.interrupt("PutObject", lambda: operate.aws.write_accounts(other))

    assert operate.refused("put", text='{"accounts": []}', etag=etag, remove=True) == "conflict"
    assert operate.stored() == json.loads(other)


def test_a_dry_run_tells_everything_and_stores_nothing(operate: Keeper) -> None:
    before = operate.stored()

    told = operate.done("put", text='{"accounts": []}', dry_run=True)

    assert told["changes"] == [{"account": SITE_ID, "how": "removed", "what": None}]
    assert (told["stored"], told["changed"], told["etag"]) == (False, True, operate.done("show")["etag"])
    assert operate.stored() == before


def test_an_account_or_a_key_is_removed_only_where_that_is_meant(operate: Keeper) -> None:
    operate.done("keys add", account=SITE_ID, sha256=ONE, scopes=[])
    etag = operate.done("show")["etag"]

    smaller: tuple[dict[str, Any], ...] = (
        {"accounts": []},
        {"accounts": [{"site_id": SITE_ID}]},
    )
    for less in smaller:
        assert operate.refused("put", text=json.dumps(less), etag=etag) == "would_remove"
    put = operate.done("put", text='{"accounts": []}', etag=etag, remove=True)

    assert put["stored"]
    assert operate.stored() == {"accounts": []}


def test_every_mistake_of_a_document_is_told_and_nothing_stored(operate: Keeper) -> None:
    before = operate.stored()
    bad = {"accounts": [{"site_id": "NeW456"}, {"site_id": SITE_ID, "keys": 5}]}

    put = operate.done("put", text=json.dumps(bad), etag=operate.done("show")["etag"], remove=True)

    assert not put["stored"]
    assert [each.partition(": ")[2].partition(":")[0] for each in put["problems"]] == [
        "accounts[0]",
        "accounts[1]",
    ]
    assert operate.refused("put", text="[]", dry_run=True) == "invalid_arguments"
    assert operate.stored() == before


@pytest.mark.parametrize(
    ("stored", "lost"),
    [
        ("{", "All of the stored document is replaced: the accounts document is not valid: it is not JSON."),
        ('{"accounts": [5, {}]}', "Entries that name no account are removed: 2."),
    ],
)
def test_what_is_lost_of_a_document_with_mistakes_is_told(operate: Keeper, stored: str, lost: str) -> None:
    operate.aws.write_accounts(stored)
    etag = operate.done("put", text='{"accounts": []}', dry_run=True)["etag"]

    assert operate.refused("put", text='{"accounts": []}', etag=etag) == "would_remove"
    put = operate.done("put", text='{"accounts": []}', etag=etag, remove=True)

    assert put["lost"] == [lost]
    assert operate.stored() == {"accounts": []}


def test_the_log_says_who_changed_what_and_has_no_key(operate: Keeper) -> None:
    operate.done("add", account="NeW456", private_key=OTHER, base_url="https://user:word@a.example")
    operate.done("rotate", account="NeW456", private_key="pk_newer")
    etag = operate.done("show")["etag"]
    operate.done("put", text='{"accounts": [{"site_id": "NeW456"}]}', etag=etag, remove=True)

    lines = operate.function.lines("accounts document changed")
    assert [(each["account"], each["how"], each.get("what")) for each in lines] == [
        ("NeW456", "added", None),
        ("NeW456", "changed", "private_key"),
        (SITE_ID, "removed", None),
        ("NeW456", "changed", "base_url"),
    ]
    assert {each["who"] for each in lines} == {"claimed:unknown"}
    for secret in (OTHER, "pk_newer", "user:word", PRIVATE_KEY):
        assert secret not in operate.function.said


@pytest.mark.parametrize(("producers", "warned"), [(None, True), ([], False), (["queue"], False)])
def test_an_account_that_is_not_alone_any_more_is_warned_of(
    operate: Keeper, producers: list[str] | None, warned: bool
) -> None:
    entry: dict[str, Any] = {"site_id": SITE_ID, "private_key": "k"}
    entry |= {} if producers is None else {"producers": producers}
    operate.aws.name_accounts(entry)

    new = {"accounts": [entry, {"site_id": "NeW456", "private_key": "k"}]}
    dry = operate.done("put", text=json.dumps(new), dry_run=True)
    app = operate.done("add", account="pipeless-7", private_key=OTHER)
    added = operate.done("add", account="NeW456", private_key=OTHER)
    third = operate.done("add", account="XyZ789", private_key=OTHER)

    said = [f"{SITE_ID} is not the only account any more, and it names no producers"] if warned else []
    for result in (dry, added):
        assert [each.partition(":")[0] for each in result["warnings"]] == said
    assert (app["warnings"], third["warnings"]) == ([], [])


def park(operate: Keeper, *keys: str) -> None:
    for key in keys:
        operate.aws.s3.put_object(Bucket="claims", Key=key, Body=b"")


def test_what_there_is_of_an_account_is_told_before_it_is_removed(operate: Keeper) -> None:
    operate.done("keys add", account=SITE_ID, sha256=ONE, scopes=["events:write"])
    park(operate, f"parked/{SITE_ID}/1", f"unknown/{SITE_ID}/2", f"unknown/{SITE_ID}/3", "parked/XyZ789/4")
    operate.aws.send("one", "two")
    document = {"sources": {"shop": {"account": SITE_ID}, "pay": {"account": "XyZ789"}, "bad": 5}}
    operate.aws.s3.put_object(Bucket="configuration", Key="sources.json", Body=json.dumps(document).encode())
    before = operate.stored()

    plan = operate.done("remove", account=SITE_ID, dry_run=True)

    assert (plan["removed"], plan["queued"], plan["parked"], plan["open"]) == (False, 2, 3, 0)
    assert plan["sources"] == ["shop"]
    assert [each["how"] for each in plan["changes"]] == ["removed", "removed"]
    assert operate.stored() == before

    done = operate.done("remove", account=SITE_ID, etag=plan["etag"])
    assert done["removed"]
    assert operate.stored() == {"accounts": []}


def test_an_account_is_removed_only_from_the_document_that_was_looked_at(operate: Keeper) -> None:
    etag = operate.done("remove", account=SITE_ID, dry_run=True)["etag"]
    assert operate.refused("remove", account="NeW456", etag=etag) == "unknown_account"
    assert operate.refused("remove", account=SITE_ID) == "conflict"

    operate.interrupt("PutObject", lambda: operate.aws.write_accounts('{"accounts": []}'))
    assert operate.refused("remove", account=SITE_ID, etag=etag) == "conflict"
    assert operate.refused("remove", account=SITE_ID, etag=etag) == "conflict"
