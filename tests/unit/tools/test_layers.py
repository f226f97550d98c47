"""Tests what a lean build has lost, and what it keeps."""

import importlib.util
from pathlib import Path

import pytest

from tools.layers import LayerError, make_lean, services

KEPT = (
    "boto3/__init__.py",
    "botocore/data/endpoints.json",
    "botocore/data/sqs/2012-11-05/service-2.json.gz",
    "zstandard/backend_c.so",
    "aws_lambda_powertools/logging/logger.py",
)
LOST = (
    "boto3/data/s3/resources-1.json",
    "botocore/data/ec2/2016-11-15/service-2.json.gz",
    "zstandard/_cffi.so",
    "zstandard/backend_cffi.py",
    "jmespath/tests/test_parser.py",
    "pydantic/v1/main.py",
)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Makes a build of two layers and a function that uses SQS."""
    packages = tmp_path / "DependenciesLayer" / "python"
    files = {packages / name: "" for name in (*KEPT, *LOST)}
    files[tmp_path / "SluiceLayer" / "python" / "sluice" / "clients.py"] = (
        'def sqs():\n    return _client("sqs", read_timeout=2)\n'
    )
    files[tmp_path / "IngestFunction" / "app.py"] = "import sluice\n"
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def test_only_what_may_be_loaded_is_kept(build: Path) -> None:
    make_lean(build)

    packages = build / "DependenciesLayer" / "python"
    assert [name for name in KEPT if not (packages / name).exists()] == []
    assert [name for name in LOST if (packages / name).exists()] == []


def test_all_that_is_kept_is_compiled_and_never_checked_against_its_source(build: Path) -> None:
    make_lean(build)

    sources = list(build.rglob("*.py"))
    assert len(sources) >= 3
    for source in sources:
        compiled = Path(importlib.util.cache_from_source(str(source)))
        assert compiled.read_bytes()[4] == 0b01  # by hash, unchecked


def test_a_service_that_botocore_does_not_have_is_told(build: Path) -> None:
    (build / "IngestFunction" / "app.py").write_text('boto3.client(\n    "nowhere",\n)\n')

    with pytest.raises(LayerError, match="no service nowhere"):
        make_lean(build)


def test_source_that_does_not_compile_is_told(build: Path) -> None:
    (build / "IngestFunction" / "app.py").write_text("def handler(:\n")

    with pytest.raises(LayerError, match="IngestFunction does not compile"):
        make_lean(build)


def test_the_services_of_the_real_code_are_found(tmp_path: Path) -> None:
    layer = tmp_path / "SluiceLayer" / "python"
    layer.mkdir(parents=True)
    (layer / "sluice").symlink_to(Path("layers/sluice/sluice").absolute())

    assert {"dynamodb", "s3", "secretsmanager", "sqs"} <= services(tmp_path)
