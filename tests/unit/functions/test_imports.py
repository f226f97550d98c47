"""Tests what a cold start loads: Lambda bills it, so no function imports what it does not use."""

import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import pytest

from sluice.webhooks import sources

FUNCTIONS = ["docs", "ingest", "dispatch", "reject", "resume"]
PACKAGES = ["boto3", "requests", "aws_xray_sdk", "phonenumbers", "moto", "devstack"]


@cache
def loaded(function: str) -> frozenset[str]:
    """Returns the modules that importing a function's handler loads."""
    return after("import app", f"functions/{function}")


def after(code: str, *paths: str) -> frozenset[str]:
    """Returns the modules that a process has loaded after this."""
    code = f"import sys; sys.path[:0] = {['layers/sluice', *paths]}; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(done.stdout.split())


@pytest.mark.parametrize("function", [*FUNCTIONS, "operate"])
@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_loads(function: str, package: str) -> None:
    assert package not in loaded(function)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_only_operate_loads_pydantic(function: str) -> None:
    assert "pydantic" not in loaded(function)
    assert "pydantic" in loaded("operate")


@pytest.mark.parametrize("function", ["ingest", "reject", "resume", "operate"])
@pytest.mark.parametrize("package", ["httpx2", "sluice.delivery.http", "sluice.dispatch"])
def test_only_dispatch_speaks_http(function: str, package: str) -> None:
    assert package not in loaded(function)
    assert package in loaded("dispatch")


@pytest.mark.parametrize(
    ("function", "modules"),
    [
        ("ingest", ["delivery", "dispatch", "webhooks"]),
        ("dispatch", ["admission", "archive", "ingest", "resume", "webhooks"]),
        ("reject", ["delivery", "dispatch", "producers", "klaviyo"]),
        (
            "resume",
            ["archive", "delivery.rate_limiter", "producers", "klaviyo", "receipts", "rejection"],
        ),
    ],
)
def test_a_function_loads_none_of_the_others_work(function: str, modules: list[str]) -> None:
    others = [f"sluice.{module}" for module in modules]
    assert all(map(find_spec, others))
    assert not [name for name in loaded(function) if name.startswith(tuple(others))]


@pytest.mark.parametrize("function", ["ingest", "dispatch", "reject", "resume", "operate"])
def test_no_function_loads_a_resolver(function: str) -> None:
    assert "aws_lambda_powertools.event_handler" not in loaded(function)
    assert ("sluice.http_api" in loaded(function)) == (function == "ingest")


@pytest.mark.parametrize("package", ["sluice", "msgspec", "aws_lambda_powertools"])
def test_docs_loads_nothing_but_python(package: str) -> None:
    """Checks the docs function, which has no layers."""
    assert package not in loaded("docs")


def test_only_phone_numbers_load_their_library() -> None:
    mapping = (
        "from sluice.webhooks import accept, expressions as e; "
        "e.Evaluation({}, {}).of(e.parse('[lower(\"A\"), e164(%s)]'), {})"
    )

    assert "phonenumbers" not in after(mapping % "phone")
    assert "phonenumbers" in after(mapping % "`1`")


def test_pydantic_comes_only_with_a_sources_document_that_has_to_be_validated() -> None:
    other_work = (
        "import sluice.ingest, sluice.dispatch, sluice.archive, sluice.resume, sluice.pipeless.ingest"
    )
    written = b'{"sources":{"shop":{"account":"AbC123","secret":"shop","preset":"shopify"}}}'
    delivery = "from sluice.webhooks import accept, sources; sources.decode(%r)"

    assert "pydantic" not in after(other_work)
    assert "pydantic" not in after(delivery % sources.to_store(written))
    assert "pydantic" in after(delivery % written)
