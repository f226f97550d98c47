"""Each preset turns its sample payloads into the expected events, which keep every rule of the contract."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from sluice import contract
from sluice.contract import Surface
from sluice.reading import intake
from sluice.webhooks import sources
from tests.deliveries import Sample, document, mapped, samples, source

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def attributes(sample: Sample) -> list[dict[str, Any]]:
    of = source(document(preset=sample.preset))
    outcome = mapped(of, sample.payload, sample.headers)
    assert outcome.problems == []
    return [event["data"]["attributes"] for event in outcome.events]


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: f"{sample.preset}-{sample.name}")
def test_a_sample_becomes_the_expected_events(sample: Sample) -> None:
    found = attributes(sample)

    assert found == json.loads(sample.expected.read_text())


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: f"{sample.preset}-{sample.name}")
def test_what_a_sample_becomes_is_acceptable(sample: Sample) -> None:
    for event in attributes(sample):
        body = json.dumps({"data": {"type": "event", "attributes": event}}).encode()

        assert intake.read(Surface.EVENT, body, contract.UPSTREAM_REVISION, NOW).events == 1


@pytest.mark.parametrize("sample", samples(), ids=lambda sample: f"{sample.preset}-{sample.name}")
def test_a_sample_delivered_again_becomes_the_same(sample: Sample) -> None:
    again = {name: f"{value}-again" if "id" in name else value for name, value in sample.headers.items()}

    assert attributes(Sample(sample.preset, sample.name, sample.body)) == attributes(sample)
    of = source(document(preset=sample.preset))
    assert [each["data"]["attributes"] for each in mapped(of, sample.payload, again).events] == attributes(
        sample
    )


@pytest.mark.parametrize("preset", sources.presets())
def test_every_event_of_a_preset_has_a_sample(preset: str) -> None:
    of = source(document(preset=preset))
    seen = {
        each["metric"]["data"]["attributes"]["name"]
        for sample in samples()
        if sample.preset == preset
        for each in attributes(sample)
    }

    assert seen == {mapping.metric for mapping in of.mappings}


def test_a_topic_nobody_asked_for_becomes_nothing() -> None:
    of = source(document(preset="shopify"))

    outcome = mapped(of, {"id": 1}, {"x-shopify-topic": "products/create"})

    assert (outcome.events, outcome.problems) == ([], [])
