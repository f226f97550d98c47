"""Tests the status and the pause of an account with a stack that enforces each function's permissions."""

import httpx2

from sluice.operate.command import Access
from sluice.operate.pauses import PAUSE, RESUME, PauseArguments, ResumeArguments
from sluice.operate.status import STATUS, AccountShown, StatusArguments
from tests.e2e.conftest import Stack, eventually
from tests.e2e.test_operate import Operator, operating
from tests.support.factories import encoded, profile, single


def account(operator: Operator) -> AccountShown:
    found = operator.operate().call(STATUS, StatusArguments())
    return next(each for each in found.accounts if each.id == operator.stack.site_id)


def test_a_paused_account_is_shown_and_sent_once_it_is_resumed(stack: Stack) -> None:
    email = "paused@mail.example"
    with operating(stack, Access.ADMIN) as admin:
        operate = admin.operate()
        operate.call(PAUSE, PauseArguments(account=stack.site_id, why="a migration"))
        try:
            answer = httpx2.post(
                f"{stack.api}/api/events",
                content=encoded(single(of=profile(email=email))),
                headers={
                    "Authorization": f"Klaviyo-API-Key {stack.key}",
                    "Content-Type": "application/vnd.api+json",
                    "revision": "2025-01-15",
                },
            )
            assert answer.status_code == 202
            assert eventually(lambda: account(admin).parked == 1, seconds=60)
            shown = account(admin)
            assert (shown.circuit, shown.why) == ("paused", "a migration")
            assert shown.who is not None
            assert stack.taken_of(email) == []
        finally:
            operate.call(RESUME, ResumeArguments(account=stack.site_id))
        stack.client("lambda").invoke(FunctionName=stack.outputs["ResumeFunctionName"], Payload=b"{}")
        assert eventually(lambda: len(stack.taken_of(email)) == 1, seconds=60)


def test_who_only_looks_sees_the_whole_status(stack: Stack) -> None:
    with operating(stack, Access.READ) as reader:
        found = reader.operate().call(STATUS, StatusArguments())

    assert found.queues[0].name == "events"
    # The emulator makes no metrics of what functions log.
    assert [each for each in found.not_known if not each.startswith("The last hour: ")] == []
    assert (found.alarms is not None, found.jobs is not None, found.open_groups is not None) == (True,) * 3
