"""Reads secrets."""

import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluice import runtime
from sluice.accounts_cache import CACHE_SECONDS, SecretVersion
from sluice.errors import Retryable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

_PREVIOUS: Final = "AWSPREVIOUS"


class _CachedSecret(msgspec.Struct, frozen=True):
    """Holds a secret's text, and until when it is believed, in seconds of the monotonic clock."""

    text: str
    until: float


_secrets: Final[dict[tuple[str, bool], _CachedSecret]] = {}


def read_secret(secret: str, otherwise: str, *, previous: bool = False) -> str:
    """Reads a secret's text by its name or ARN, or that of the version before, cached.

    Raises `Retryable` with `otherwise` if there is none.
    """
    cached = _secrets.get((secret, previous))
    if cached is not None and runtime.monotonic() < cached.until:
        return cached.text
    text = read_version(secret, otherwise, previous=previous).text
    _secrets[secret, previous] = _CachedSecret(text, runtime.monotonic() + CACHE_SECONDS)
    return text


def read_version(secret: str, otherwise: str, *, previous: bool = False) -> SecretVersion:
    """Reads a secret's current version, or the one before; raises `Retryable` with `otherwise` if there is
    none.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    which: Any = {"VersionStage": _PREVIOUS} if previous else {}
    try:
        found = client().get_secret_value(SecretId=secret, **which)
    except (BotoCoreError, ClientError) as error:
        raise Retryable(otherwise) from error
    written = found.get("CreatedDate", datetime.fromtimestamp(0, UTC))
    return SecretVersion(found["SecretString"], written.timestamp())


def forget() -> None:
    """Empties the cache of secrets."""
    _secrets.clear()


@functools.cache
def client() -> "SecretsManagerClient":
    """Returns the process's Secrets Manager client."""
    # Imported on first use, as no pure code needs it.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    # Its own timeouts are minutes. A function that waited for them would time out, and its messages would
    # look like poison.
    retries: Any = {"mode": "standard", "total_max_attempts": 3}
    return boto3.client("secretsmanager", config=Config(connect_timeout=2, read_timeout=3, retries=retries))
