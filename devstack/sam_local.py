"""Prepares `sam local invoke` and `sam local start-api` to do real work on a running stack.

SAM runs a function in a container, with the variables that its template declares and no others. So a template
beside the build declares the emulator's address and credentials, too. A file has the values of all variables,
as they are deployed. A configuration file for SAM names both.

Containers get a network of their own, in which this machine has an address. Where there is no Docker, the
files are written all the same.
"""

import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import msgspec
import yaml

from devstack.emulator import HOST, REGION, ROOT_CREDENTIALS
from devstack.sam import STACK, parameters
from sluice import accounts, private_keys

NETWORK = "sluice-local"
TEMPLATE = "sam-local.yaml"  # beside the built template, whose paths it shares
VARIABLES = "sam-local.json"
CONFIGURATION = "sam-local.toml"
# This machine in a container. Sluice sends keys without TLS to its own machine alone, such as a name below
# localhost; the emulator is called by its address, because a bucket's name would come before its name.
MACHINE = "machine.localhost"


def gateway() -> str | None:
    """Returns this machine's address in the containers' network, which is made if need be; None without
    Docker.
    """
    if shutil.which("docker") is None or _docker("info") is None:
        return None
    place = ("network", "inspect", NETWORK, "--format", "{{(index .IPAM.Config 0).Gateway}}")
    return _docker(*place) or (_docker("network", "create", NETWORK) and _docker(*place))


def remove_network() -> None:
    if shutil.which("docker") is not None:
        _docker("network", "rm", NETWORK)


def write(folder: Path, build: Path, aws: str, address: str | None) -> None:
    """Writes the files for a stack whose emulator answers at `aws`.

    address: this machine's in the containers' network.
    """
    (build / TEMPLATE).write_text(template((build / "template.yaml").read_text()))
    (folder / CONFIGURATION).write_text(configuration(folder, build, address))
    endpoint = as_seen_at(address, aws) if address else aws
    deployed = {name: {**values, **connection(endpoint)} for name, values in _deployed_variables().items()}
    if address:
        ingest = deployed["IngestFunction"]
        copies = {
            "SLUICE_CONFIG_BUCKET": _copy_configuration(ingest["SLUICE_CONFIG_BUCKET"]),
            "SLUICE_ACCOUNT_SECRETS": _copy_private_keys(ingest["SLUICE_ACCOUNT_SECRETS"]),
        }
        for values in deployed.values():
            values.update({name: copy for name, copy in copies.items() if name in values})
    (folder / VARIABLES).touch(mode=0o600)
    (folder / VARIABLES).write_text(json.dumps(deployed, indent=2) + "\n")


def template(built: str) -> str:
    """Returns a built template with what a container needs beside: declared variables, this processor."""
    content = yaml.safe_load(built)
    content["Parameters"]["Architecture"]["Default"] = parameters()["Architecture"]
    content["Globals"]["Function"]["Environment"]["Variables"].update(dict.fromkeys(connection(""), ""))
    text: str = yaml.safe_dump(content, sort_keys=False)
    return text


def configuration(folder: Path, build: Path, address: str | None) -> str:
    """Returns SAM's configuration file for both commands."""
    settings: dict[str, object] = {
        "template_file": str(build / TEMPLATE),
        "env_vars": str(folder / VARIABLES),
        "skip_pull_image": True,
    }
    if address:
        settings |= {"docker_network": NETWORK, "add_host": [f"{MACHINE}:{address}"]}
    # JSON's strings, lists and booleans are TOML's, too.
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    commands = ("local_invoke", "local_start_api", "local_start_lambda")
    return "version = 0.1\n" + "".join(f"\n[default.{each}.parameters]\n{lines}" for each in commands)


def connection(endpoint: str) -> dict[str, str]:
    """Returns the variables that lead a function's AWS clients to the emulator, and only there."""
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": REGION, "AWS_SESSION_TOKEN": "", **ROOT_CREDENTIALS}


def as_seen_at(host: str, url: str) -> str:
    """Returns a URL of this machine's loopback address with another host; any other URL stays."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=f"{host}:{parts.port}").geturl() if parts.hostname == HOST else url


def accounts_in_a_container(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an accounts document whose upstreams are reached from a container."""
    return {
        kind: [{**each, "base_url": as_seen_at(MACHINE, each["base_url"])} for each in accounts]
        for kind, accounts in document.items()
    }


def _deployed_variables() -> dict[str, dict[str, str]]:
    """Returns the environment of each deployed function that has one, by its name in the template."""
    resources = boto3.client("cloudformation").describe_stack_resources(StackName=STACK)["StackResources"]
    functions = {
        each["LogicalResourceId"]: each["PhysicalResourceId"]
        for each in resources
        if each["ResourceType"] == "AWS::Lambda::Function"
    }
    client = boto3.client("lambda")
    found = {
        name: client.get_function_configuration(FunctionName=deployed).get("Environment", {})
        for name, deployed in functions.items()
    }
    return {name: dict(each["Variables"]) for name, each in found.items() if each.get("Variables")}


def _copy_configuration(bucket: str) -> str:
    """Writes the configuration for containers into a bucket of its own, and returns its name."""
    client, copy = boto3.client("s3"), f"{STACK}-sam-local"
    client.create_bucket(Bucket=copy)
    for listed in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        content = client.get_object(Bucket=bucket, Key=listed["Key"])["Body"].read()
        if listed["Key"] == accounts.KEY:
            content = json.dumps(accounts_in_a_container(json.loads(content))).encode()
        client.put_object(Bucket=copy, Key=listed["Key"], Body=content)
    return copy


def _copy_private_keys(prefix: str) -> str:
    """Writes the private keys for containers into secrets of their own, and returns their names' prefix."""
    client, copy = boto3.client("secretsmanager"), f"{STACK}/sam-local/accounts/"
    names = [
        secret["Name"]
        for page in client.get_paginator("list_secrets").paginate()
        for secret in page["SecretList"]
        if secret["Name"].startswith(prefix)
    ]
    for name in names:
        keys = private_keys.decode(client.get_secret_value(SecretId=name)["SecretString"])
        text = private_keys.encode(
            {
                id: msgspec.structs.replace(key, base_url=as_seen_at(MACHINE, key.base_url))
                for id, key in keys.items()
            }
        )
        copied = copy + name.removeprefix(prefix)
        try:
            client.create_secret(Name=copied, SecretString=text)
        except client.exceptions.ResourceExistsException:
            client.put_secret_value(SecretId=copied, SecretString=text)
    return copy


def _docker(*arguments: str) -> str | None:
    """Runs Docker's command line; returns what it prints, or None if it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
