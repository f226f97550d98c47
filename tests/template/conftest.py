"""Provides the template as written, and as SAM expands it before anything is deployed."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
from samtranslator.translator.transform import transform  # type: ignore[import-untyped]
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

type Template = dict[str, Any]

CODE = {"AWS::Serverless::Function": "CodeUri", "AWS::Serverless::LayerVersion": "ContentUri"}


class NoManagedPolicies:
    """Plays an account without managed policies:

    SAM asks for them only when a template names one by its short name.
    """

    def load(self) -> dict[str, str]:
        raise AssertionError("the template names a managed policy")


@pytest.fixture(scope="session")
def source() -> Template:
    """Reads the template as written."""
    parsed: Template = yaml_parse(Path("template.yaml").read_text())
    return parsed


@pytest.fixture(scope="session")
def expanded(source: Template) -> Template:
    """Expands the template as CloudFormation gets it, with everything that SAM adds by itself."""
    packaged = copy.deepcopy(source)
    for resource in packaged["Resources"].values():
        if resource["Type"] in CODE:
            resource["Properties"][CODE[resource["Type"]]] = "s3://bucket/key"
    logging.getLogger("samtranslator").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        result: Template = transform(packaged, {}, NoManagedPolicies(), passthrough_metadata=True)
    return result
