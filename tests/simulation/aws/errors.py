"""Defines errors of AWS as botocore raises them."""

from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError


class ConditionalCheckFailedException(ClientError):
    """Says that the condition of a write does not hold."""


class NoSuchKey(ClientError):
    """Says that an S3 object does not exist."""


class ReceiptHandleIsInvalid(ClientError):
    """Says that no message of the queue was ever received with this receipt handle."""


class ResourceNotFoundException(ClientError):
    """Says that a table or a secret does not exist."""


_TYPED: dict[str, type[ClientError]] = {
    each.__name__: each
    for each in (
        ConditionalCheckFailedException,
        NoSuchKey,
        ReceiptHandleIsInvalid,
        ResourceNotFoundException,
    )
}

#: What a client offers as `client.exceptions`.
EXCEPTIONS = SimpleNamespace(**_TYPED, ClientError=ClientError)


def error(code: str, operation: str, message: str = "", *, status: int = 400, **more: Any) -> ClientError:
    """Makes the error of a code; `more` are further members of the response."""
    response: Any = {
        "Error": {"Code": code, "Message": message or code},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **more,
    }
    return _TYPED.get(code, ClientError)(response, operation)
