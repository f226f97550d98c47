"""Models Secrets Manager: texts by name."""

from typing import Any

from tests.simulation.aws.errors import error


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
            return {"Name": given["SecretId"], "SecretString": self.secrets[given["SecretId"]]}
        except KeyError:
            raise error("ResourceNotFoundException", "GetSecretValue") from None
