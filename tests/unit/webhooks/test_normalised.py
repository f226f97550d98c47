"""Tests the normalised form of the sources document: when it counts, and that nothing is validated then."""

import json
from typing import Any

import pytest

import sluice
from sluice.webhooks import normalised, presets, sources

WRITTEN = {"sources": {"shop": {"account": "AbC123", "secret": "shop", "preset": "shopify"}}}
DATA = json.dumps(WRITTEN).encode()


@pytest.fixture
def stored() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(sources.to_store(DATA))
    return document


def test_a_stored_document_is_used_without_validating_it(
    stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sources.decode(DATA)
    monkeypatch.delattr(sources, "_read")

    assert sources.decode(json.dumps(stored).encode()) == expected


def test_what_was_written_comes_back(stored: dict[str, Any]) -> None:
    assert normalised.without(stored) == json.loads(normalised.remove(json.dumps(stored).encode())) == WRITTEN
    assert normalised.remove(DATA) == DATA
    assert normalised.remove(b"not JSON") == b"not JSON"


def test_the_form_of_other_sources_does_not_count(stored: dict[str, Any]) -> None:
    stored["sources"]["shop"]["account"] = "XyZ789"

    assert normalised.find(stored) is None
    assert sources.decode(json.dumps(stored).encode()).sources["shop"].account == "XyZ789"


def test_the_form_of_other_presets_does_not_count(
    stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "digest", lambda: "other")

    assert normalised.find(stored) is None


def test_the_form_of_another_version_does_not_count(
    stored: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalised, "__version__", f"{sluice.__version__}.1")

    assert normalised.find(stored) is None


@pytest.mark.parametrize("form", [None, [], {}, {"seal": 1, "sources": {}}, {"seal": "", "sources": {}}])
def test_what_is_no_form_does_not_count(stored: dict[str, Any], form: object) -> None:
    stored["normalised"] = form

    assert normalised.find(stored) is None
    assert sources.decode(json.dumps(stored).encode()) == sources.decode(DATA)


@pytest.mark.parametrize("document", [None, [], {}, {"sources": {}}])
def test_a_document_without_a_form_has_none(document: object) -> None:
    assert normalised.find(document) is None
    assert normalised.without(document) == document


def test_nobody_writes_the_form(stored: dict[str, Any]) -> None:
    [problem] = sources.problems(stored)

    assert problem.pointer == "/normalised"


def test_a_document_is_stored_without_the_form_if_both_are_too_large() -> None:
    shop = WRITTEN["sources"]["shop"]
    written = {"sources": {f"shop-{number}": shop for number in range(100)}}

    stored = sources.to_store(json.dumps(written).encode())

    assert json.loads(stored) == written
    assert len(sources.decode(stored).sources) == 100
