"""Verifies that a webhook was sent by a holder of the source's secret: over the raw bytes, failing closed.

Every scheme that signs is one row of a table: where the signature stands, how it is written, and what is
signed. Comparisons take the same time whether they match or not, and all of them are made.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import msgspec

from sluice.errors import Misconfigured
from sluice.validation.json_text import encode_text

TOLERANCE: Final = timedelta(minutes=5)  # between the time of signing and ours, either way
MAX_SIGNATURES: Final = 10  # in one header; senders give one for each secret that is live
_PLACEHOLDER: Final = re.compile(r"\{(body|timestamp|id)\}")
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_MILLISECONDS: Final = 10**11


class Hmac(msgspec.Struct, frozen=True):
    """Describes a scheme that signs; names of headers are in lower case.

    `signed` is a template of `{body}`, `{timestamp}` and `{id}`. The header may hold several elements,
    separated by `separator`: signatures are those that begin with `prefix`, and the time is the one that
    begins with `timestamp_prefix`. Else the time is in `timestamp_header`. A signed time must be about now.
    With `sent_path` the time at that path in the JSON body counts instead.
    """

    header: str
    algorithm: Literal["sha256", "sha1", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    separator: str = ""
    signed: str = "{body}"
    timestamp_header: str = ""
    timestamp_prefix: str = ""
    id_header: str = ""
    whsec: bool = False  # the secret is "whsec_" and the key in base64
    sent_path: tuple[str, ...] = ()


class Token(msgspec.Struct, frozen=True):
    """Describes a scheme that shows the secret itself, after `prefix`, which may have any case."""

    header: str = "authorization"
    prefix: str = "Bearer "
    encoded: bool = False  # in base64, as HTTP Basic has user:password


type Scheme = Hmac | Token


def _standard(kind: str) -> Hmac:
    return Hmac(
        f"{kind}-signature",
        encoding="base64",
        prefix="v1,",
        separator=" ",
        signed="{id}.{timestamp}.{body}",
        timestamp_header=f"{kind}-timestamp",
        id_header=f"{kind}-id",
        whsec=True,
    )


# If there are several schemes, the first whose header is present counts.
SCHEMES: Final[dict[str, tuple[Scheme, ...]]] = {
    "shopify": (Hmac("x-shopify-hmac-sha256", encoding="base64"),),
    "stripe": (
        Hmac(
            "stripe-signature",
            prefix="v1=",
            separator=",",
            signed="{timestamp}.{body}",
            timestamp_prefix="t=",
        ),
    ),
    "standard-webhooks": (_standard("svix"), _standard("webhook")),
    "woocommerce": (Hmac("x-wc-webhook-signature", encoding="base64"),),
    "github": (Hmac("x-hub-signature-256", prefix="sha256="),),
    # The header's date has been seen to be hours off, so the time in the signed body counts.
    "klaviyo": (
        Hmac(
            "klaviyo-signature",
            signed="{body}{timestamp}",
            timestamp_header="klaviyo-timestamp",
            sent_path=("meta", "timestamp"),
        ),
    ),
    "bearer": (Token(),),
    "basic": (Token(prefix="Basic ", encoded=True),),
}
# Where each sender puts the id of a delivery, as an expression.
DELIVERY_IDS: Final = {
    "shopify": "header('x-shopify-webhook-id')",
    "stripe": "id",
    "standard-webhooks": "not_null(header('svix-id'), header('webhook-id'))",
    "woocommerce": "header('x-wc-webhook-delivery-id')",
    "github": "header('x-github-delivery')",
}
# Where each sender puts the topic, as an expression.
TOPICS: Final = {
    "shopify": "header('x-shopify-topic')",
    "stripe": "type",
    "standard-webhooks": "type",
    "woocommerce": "header('x-wc-webhook-topic')",
    "github": "header('x-github-event')",
}


def live_secrets(text: str) -> list[str]:
    """Returns the secrets of a source: the text itself, or each of a JSON array while one replaces another.

    Raises `Misconfigured` if there is none, because everybody would know an empty secret.
    """
    found = [text]
    if text.lstrip().startswith("["):
        with contextlib.suppress(msgspec.MsgspecError):
            found = msgspec.json.decode(text, type=list[str])
    if not found or not all(secret.strip() for secret in found):
        raise Misconfigured("a webhook's secret is empty")
    forms = ((secret, secret.strip("\r\n"), secret.strip()) for secret in found)
    return list(dict.fromkeys(form for each in forms for form in each))


def verified(
    schemes: Sequence[Scheme],
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> bool:
    """Tells whether one of the live `secrets` vouches for a request; `headers` are by lower-case name."""
    scheme = next((each for each in schemes if headers.get(each.header)), None)
    match scheme:
        case Hmac():
            return _signed(scheme, secrets, headers, body, now)
        case Token():
            return _shown(scheme, secrets, headers[scheme.header])
        case _:
            return False


def _signed(
    scheme: Hmac, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: datetime
) -> bool:
    given = headers[scheme.header]
    elements = (
        [each.strip() for each in given.split(scheme.separator)] if scheme.separator else [given.strip()]
    )
    timestamp = headers.get(scheme.timestamp_header, "")
    if scheme.timestamp_prefix:
        times = [each for each in elements if each.startswith(scheme.timestamp_prefix)]
        timestamp = times[0].removeprefix(scheme.timestamp_prefix) if len(times) == 1 else ""
    values = {"timestamp": _bytes(timestamp), "id": _bytes(headers.get(scheme.id_header, ""))}
    needed = set(_PLACEHOLDER.findall(scheme.signed)) - {"body"}
    if not all(values[name] for name in needed):
        return False
    message = _filled(scheme.signed, {**values, "body": body})
    signatures = [
        _decoded(each.removeprefix(scheme.prefix), scheme)
        for each in elements
        if each.startswith(scheme.prefix)
    ]
    digests = [hmac.digest(_key(secret, scheme), message, scheme.algorithm) for secret in secrets]
    matches = [
        hmac.compare_digest(digest, signature)
        for digest in digests
        for signature in signatures[:MAX_SIGNATURES]
    ]
    return any(matches) and ("timestamp" not in needed or _is_now(scheme, timestamp, body, now))


def _bytes(text: str) -> bytes:
    return encode_text(text)


def _filled(template: str, values: Mapping[str, bytes]) -> bytes:
    parts = _PLACEHOLDER.split(template)  # text and names alternate
    return b"".join(values[part] if at % 2 else part.encode() for at, part in enumerate(parts))


def _decoded(signature: str, scheme: Hmac) -> bytes:
    """Returns a signature's bytes; none, which match nothing, if it is not written as the scheme has it."""
    try:
        if scheme.encoding == "hex":
            return binascii.unhexlify(signature)
        return base64.b64decode(signature, validate=True)
    except ValueError:
        return b""


def _key(secret: str, scheme: Hmac) -> bytes:
    if not scheme.whsec:
        return secret.encode()
    try:
        key = base64.b64decode(secret.strip().removeprefix("whsec_") + "==")
    except ValueError:
        key = b""
    if not key:
        raise Misconfigured("a webhook's secret is not whsec_ and a key in base64")
    return key


def _is_now(scheme: Hmac, timestamp: str, body: bytes, now: datetime) -> bool:
    if scheme.sent_path:
        timestamp = _at(body, scheme.sent_path)
    return abs(_time(timestamp) - now) <= TOLERANCE


def _at(body: bytes, path: tuple[str, ...]) -> str:
    try:
        # Bytes elsewhere in the body that are not UTF-8 do not make a signature wrong.
        value = msgspec.json.decode(body.decode("utf-8", "replace"))
        for name in path:
            value = value[name]
    except (msgspec.MsgspecError, RecursionError, LookupError, TypeError):
        return ""
    return value if isinstance(value, str) else ""


def _time(text: str) -> datetime:
    """Reads a time as senders write it: seconds or milliseconds of Unix, ISO 8601, or a date of HTTP."""
    try:
        if re.fullmatch(r"[0-9]{1,15}", text):
            number = int(text)
            return datetime.fromtimestamp(number / 1_000 if number >= _MILLISECONDS else number, UTC)
        moment = datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
    except (ValueError, OverflowError, OSError, TypeError, IndexError):
        return _NEVER
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _shown(scheme: Token, secrets: Sequence[str], given: str) -> bool:
    if scheme.encoded and not all(secret.partition(":")[2] for secret in secrets):
        raise Misconfigured("a webhook's secret is not user:password")
    if given[: len(scheme.prefix)].lower() != scheme.prefix.lower():
        return False
    shown = _bytes(given[len(scheme.prefix) :].strip())
    if scheme.encoded:
        try:
            shown = base64.b64decode(shown, validate=True)
        except ValueError:
            return False
    # Hashes are compared, so that the time does not even reveal the length of a secret.
    digest = hashlib.sha256(shown).digest()
    matches = [hmac.compare_digest(digest, hashlib.sha256(each.encode()).digest()) for each in secrets]
    return any(matches)
