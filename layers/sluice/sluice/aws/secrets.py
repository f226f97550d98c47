"""Reads, makes and replaces secrets."""

import functools
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluice import runtime
from sluice.accounts_cache import CACHE_SECONDS
from sluice.aws import clients
from sluice.errors import Retryable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

MAX_SECRET_BYTES: Final = 65_536  # of one secret; AWS's limit
_CURRENT: Final = "AWSCURRENT"
_PREVIOUS: Final = "AWSPREVIOUS"
_NEXT: Final = "SLUICE_NEXT"  # of a version that is to become the current one


class SecretVersion(msgspec.Struct, frozen=True):
    """Holds the text of a secret's version, and its id."""

    text: str
    id: str


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

    try:
        found = client().get_secret_value(SecretId=secret, VersionStage=_PREVIOUS if previous else _CURRENT)
    except (BotoCoreError, ClientError) as error:
        raise Retryable(otherwise) from error
    return SecretVersion(found["SecretString"], found["VersionId"])


def find_version(secret: str, otherwise: str) -> SecretVersion | None:
    """Reads a secret's current version, or returns None if there is no such secret; raises `Retryable` with
    `otherwise` if it cannot be read now.
    """
    try:
        return read_version(secret, otherwise)
    except Retryable as error:
        if isinstance(error.__cause__, client().exceptions.ResourceNotFoundException):
            return None
        raise


class SecretChanged(Exception):
    """Says that a secret has another current version than the one that was read."""


def create(secret: str, text: str, otherwise: str) -> None:
    """Makes a secret of this name; raises `SecretChanged` if there is one, and `Retryable` with `otherwise`
    if it cannot be made now.
    """
    with clients.translating_errors(otherwise):
        try:
            client().create_secret(Name=secret, SecretString=text)
        except client().exceptions.ResourceExistsException:
            raise SecretChanged from None


def replace_version(secret: str, text: str, otherwise: str, *, version: str) -> None:
    """Writes a secret's text in place of the version with this id; raises `SecretChanged` if another one is
    current, and `Retryable` with `otherwise` if it cannot be written now.
    """
    with clients.translating_errors(otherwise):
        try:
            # It gets a label of its own. AWSCURRENT stays where it is until it is moved, on a condition.
            new = client().put_secret_value(SecretId=secret, SecretString=text, VersionStages=[_NEXT])
        except client().exceptions.LimitExceededException as error:
            raise Retryable("a secret takes about a hundred changes a day, and this is above that") from error
        try:
            client().update_secret_version_stage(
                SecretId=secret,
                VersionStage=_CURRENT,
                RemoveFromVersionId=version,
                MoveToVersionId=new["VersionId"],
            )
        except client().exceptions.InvalidParameterException:
            current = read_version(secret, otherwise).id
            if current == version:
                raise
            # The first of two tries may have moved it, and only its answer may have been lost.
            if current != new["VersionId"]:
                raise SecretChanged from None


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
