"""Tests settings: everything needed, nothing unknown, nothing read before it is used."""

import pytest

from sluice import settings
from sluice.errors import Misconfigured
from sluice.settings import IngestSettings

ENVIRONMENT = {
    "SLUICE_EVENTS_QUEUE_URL": "https://queue",
    "SLUICE_REJECTED_QUEUE_URL": "https://rejected",
    "SLUICE_STATE_TABLE": "state",
    "SLUICE_CLAIM_BUCKET": "claims",
    "SLUICE_ACCOUNT_SECRETS": "secret",
    "SLUICE_SEALING_SECRET": "sealing",
    "SLUICE_CONFIG_BUCKET": "configuration",
    "SLUICE_WEBHOOK_SECRETS": "sluice/webhooks/",
    "SLUICE_ALLOWED_ORIGINS": "*",
    "SLUICE_INBOUND_LIMITS": "off",
    "AWS_REGION": "us-east-1",
}


def test_settings_are_read_from_the_environment() -> None:
    assert settings.parse(IngestSettings, ENVIRONMENT) == IngestSettings(
        "https://queue",
        "https://rejected",
        "state",
        "claims",
        "secret",
        "sealing",
        "configuration",
        "sluice/webhooks/",
        "*",
        "off",
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"SLUICE_CLAIM_BUCKET": ""}, "SLUICE_CLAIM_BUCKET is not set"),
        ({"SLUICE_CLAIM_BUCKET": "  "}, "SLUICE_CLAIM_BUCKET is not set"),
        (
            {"SLUICE_INBOUND_LIMITS": "on"},
            "a setting is not valid: Invalid enum value 'on' - at `$.inbound_limits`",
        ),
        ({"SLUICE_CLAIM_BUKET": "x"}, "SLUICE_CLAIM_BUKET is not a setting of this function"),
        (
            {"SLUICE_CLAIM_BUCKET": "", "SLUICE_ACCOUNT_SECRETS": ""},
            "SLUICE_ACCOUNT_SECRETS is not set; SLUICE_CLAIM_BUCKET is not set",
        ),
    ],
)
def test_everything_wrong_is_named_in_one_error(changes: dict[str, str], complaint: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        settings.parse(IngestSettings, ENVIRONMENT | changes)

    assert str(raised.value) == complaint


def test_the_environment_is_read_once_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    settings.load.cache_clear()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    first = settings.load(IngestSettings)
    monkeypatch.setenv("SLUICE_CLAIM_BUCKET", "other")

    assert settings.load(IngestSettings) is first
    settings.load.cache_clear()
