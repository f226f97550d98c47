"""Tests what `make up` says and refuses; the end-to-end tests run it."""

import shlex
from dataclasses import replace

import pytest

from devstack import sam, stack
from devstack.stack import Stack, StackError

RUNNING = Stack(
    api="http://127.0.0.1:4566/_aws/execute-api/a1/v1",
    aws="http://127.0.0.1:4566",
    region="us-east-1",
    outputs={},
    upstream="http://127.0.0.1:4600",
    site_id="AbC123",
    key="pk_1",
    app_id=123,
    app_key="pl_1",
    pids={"emulator": 1, "standin": 2, "mapping": 3},
    sources="",
)


def test_the_next_steps_are_commands_of_a_shell_with_this_stacks_addresses() -> None:
    text = stack.next_steps(RUNNING)

    [send, look] = [line for line in text.replace("\\\n", "").splitlines() if not line.startswith("#")]
    words = shlex.split(send)
    assert words[:2] == ["curl", f"{RUNNING.api}/api/events"]
    assert "Authorization: Klaviyo-API-Key pk_1" in words
    assert shlex.split(look) == ["curl", "http://127.0.0.1:4600/_standin/events"]
    assert "make down" in text


def test_without_the_fake_upstream_nobody_is_sent_to_it() -> None:
    text = stack.next_steps(replace(RUNNING, upstream="https://a.klaviyo.com", pids={"emulator": 1}))

    assert "_standin" not in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ObjectBuckets", "the template has no parameter ObjectBuckets; it has AccessLogs, "),
        ("Architecture", "Architecture is decided by this machine"),
    ],
)
def test_a_parameter_that_cannot_be_set_is_one_sentence(name: str, said: str) -> None:
    with pytest.raises(StackError, match=said):
        stack.up(None, None, {name: "x"})


def test_what_this_machine_decides_are_parameters_of_the_template() -> None:
    known = stack.template_parameters()

    assert sam.parameters().keys() <= known
    assert "ImportBuckets" in known
