"""Models Secrets Manager: texts by name."""

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

from tests.simulation.aws.errors import error

_WRITTEN: Final = datetime(2026, 10, 1, tzinfo=UTC)


class SecretsManager:
    """Holds the current text of each secret, by its name; there are no older ones."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self.secrets = secrets

    def get_secret_value(self, **given: Any) -> dict[str, Any]:
        """Reads a secret."""
        if unknown := given.keys() - {"SecretId", "VersionStage"}:
            raise NotImplementedError(f"parameters {sorted(unknown)}")
        try:
            if given.get("VersionStage", "AWSCURRENT") != "AWSCURRENT":
                raise KeyError
            text = self.secrets[given["SecretId"]]
        except KeyError:
            raise error("ResourceNotFoundException", "GetSecretValue") from None
        return {
            "Name": given["SecretId"],
            "SecretString": text,
            "VersionId": hashlib.sha256(text.encode()).hexdigest()[:32],
            "CreatedDate": _WRITTEN,
        }
