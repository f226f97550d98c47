"""Tests the files that let `sam local` work on a running stack; an end-to-end test runs it."""

import tomllib
from pathlib import Path

import yaml

from devstack import sam, sam_local

BUILT = """
Parameters: {Architecture: {Type: String, Default: arm64}}
Globals: {Function: {Environment: {Variables: {POWERTOOLS_METRICS_NAMESPACE: Sluice}}}}
Resources: {F: {Type: "AWS::Serverless::Function", Properties: {Role: {"Fn::GetAtt": [R, Arn]}}}}
"""


def test_the_template_declares_what_leads_to_the_emulator_and_is_for_this_processor() -> None:
    made = yaml.safe_load(sam_local.template(BUILT))

    variables = made["Globals"]["Function"]["Environment"]["Variables"]
    assert variables.keys() == {"POWERTOOLS_METRICS_NAMESPACE", *sam_local.connection("")}
    assert made["Parameters"]["Architecture"]["Default"] == sam.parameters()["Architecture"]
    assert made["Resources"] == yaml.safe_load(BUILT)["Resources"]


def test_a_container_meets_its_own_network_and_nothing_else() -> None:
    written = sam_local.configuration(Path("/w"), Path("/w/build"), "172.18.0.1")

    for command in ("local_invoke", "local_start_api", "local_start_lambda"):
        settings = tomllib.loads(written)["default"][command]["parameters"]
        assert settings["docker_network"] == sam_local.NETWORK
        assert settings["add_host"] == [f"{sam_local.MACHINE}:172.18.0.1"]
        assert settings["env_vars"] == "/w/sam-local.json"


def test_without_docker_there_is_no_network() -> None:
    assert "docker_network" not in sam_local.configuration(Path("/w"), Path("/w/build"), None)


def test_only_addresses_of_this_machine_are_changed() -> None:
    document = {
        "accounts": [{"site_id": "AbC123", "base_url": "http://127.0.0.1:4600"}],
        "pipeless": [{"app_id": 1, "base_url": "https://api.pipeless.io"}],
    }

    assert sam_local.accounts_in_a_container(document) == {
        "accounts": [{"site_id": "AbC123", "base_url": "http://machine.localhost:4600"}],
        "pipeless": [{"app_id": 1, "base_url": "https://api.pipeless.io"}],
    }
