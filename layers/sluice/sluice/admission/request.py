"""Decides whether a request may come in and can be read at all: key, scope, revision, media type, size.

Each check raises `Refused` with the answer that the contract documents. Nothing here looks into events.
"""

import hashlib
import re
import zlib
from collections.abc import Mapping, Set
from datetime import date, datetime
from typing import Final

from sluice import contract
from sluice.accounts import Accounts, KlaviyoAccount
from sluice.contract import Surface
from sluice.errors import Refused
from sluice.jsonapi import Problem
from sluice.validation.json_text import encode_text

_AUTHORIZATION: Final = re.compile(r"(?:Klaviyo-API-Key|Bearer)[ ]+([^\s]+)", re.IGNORECASE)
_REVISION: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:\.[A-Za-z0-9]+)?")
_FALL_FORWARD_OPT_OUT: Final = "x-klaviyo-revision-fall-forward-opt-out"
_CHARSET: Final = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)
_JSON_OBJECT: Final = re.compile(rb"\s*{")  # nothing compressed begins like this
_WBITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's own codes for the formats


def admit(
    surface: Surface,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    accounts: Accounts,
) -> KlaviyoAccount:
    """Returns the account of a request; `headers` are by lower-case name."""
    if surface in {Surface.CLIENT_BULK, Surface.CLIENT_EVENT}:
        return _by_site_id(headers, query, accounts)
    return authorized(headers, accounts, {contract.SCOPE_EVENTS_WRITE})


def authorized(headers: Mapping[str, str], accounts: Accounts, scopes: Set[str]) -> KlaviyoAccount:
    """Returns the account of the key that a request shows, if the key has one of these scopes."""
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", "").strip())
    if match is None:
        detail = "Missing or invalid authorization scheme. Please use Klaviyo-API-Key."
        raise Refused(401, [Problem("not_authenticated", detail, "/data/")])
    found = accounts.by_key(match[1])
    if found is None:
        accounts.check_complete()
        raise Refused(401, [Problem("authentication_failed", "Incorrect API key.", "/data/")])
    account, key = found
    if key.scopes.isdisjoint(scopes):
        detail = f"This API key does not have the scope {' or '.join(sorted(scopes))}."
        raise Refused(403, [Problem("permission_denied", detail, "/data/")])
    return account


def caller(account: KlaviyoAccount, headers: Mapping[str, str]) -> str:
    """Returns who sends an admitted request: an account and one of its keys, or anybody with its site id."""
    match = _AUTHORIZATION.fullmatch(headers.get("authorization", "").strip())
    key = hashlib.sha256(encode_text(match[1])).hexdigest()[:16] if match else "anybody"
    return f"{account.site_id}#{key}"


def revision(headers: Mapping[str, str], now: datetime) -> str:
    """Returns the date (YYYY-MM-DD) of the revision that a request asks for."""
    given = headers.get("revision", "")
    match = _REVISION.fullmatch(given)
    if match is None or not (day := _date(match[1])):
        problem = "is required" if not given else "must have the form YYYY-MM-DD[.suffix]"
        raise _refused_revision(400, "invalid", f"The 'revision' header {problem}.")
    if day > now.date():
        raise _refused_revision(400, "invalid", "The 'revision' header names a date in the future.")
    retired = day < now.date() - contract.SUPPORTED_FOR
    if retired and headers.get(_FALL_FORWARD_OPT_OUT) == "1":
        raise _refused_revision(410, "gone", "This revision is retired and you opted out of a newer one.")
    return match[1]


def preferences(headers: Mapping[str, str]) -> frozenset[str]:
    """Returns a caller's preferences (RFC 7240), such as "return=minimal", without their parameters."""
    given = headers.get("prefer", "").lower().split(",")
    return frozenset(each.partition(";")[0].replace(" ", "").replace('"', "") for each in given)


def decode_body(
    headers: Mapping[str, str],
    body: bytes,
    media_types: Set[str] = contract.MEDIA_TYPES,
    *,
    most: int = contract.MAX_BODY_BYTES_IN,
) -> bytes:
    """Returns the body, decompressed, if its media type, encoding and size are accepted."""
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    charset = _CHARSET.search(parameters)
    if media_type.strip().lower() not in media_types:
        raise _unsupported(f"Send {' or '.join(sorted(media_types))}.")
    if charset and charset[1].lower() not in {"utf-8", "utf8"}:
        raise _unsupported("Send the body in UTF-8.")
    check_size(body, most)
    return _decompressed(headers.get("content-encoding", "").strip().lower(), body, most)


def check_size(body: bytes, most: int = contract.MAX_BODY_BYTES_IN) -> None:
    """Refuses a body above the limit."""
    if len(body) > most:
        raise _too_large(most)


def _by_site_id(headers: Mapping[str, str], query: Mapping[str, str], accounts: Accounts) -> KlaviyoAccount:
    site_id = query.get("company_id", "")
    if "authorization" in headers or site_id.startswith("pk_"):
        detail = (
            "A client route takes no API key, only 'company_id'. A private key in a browser or an app is"
            " readable by everybody: take it out there, and use the server-side route where you need it."
        )
        raise Refused(400, [Problem("invalid", detail, parameter="company_id")])
    account = accounts.by_site_id(site_id)
    if account is None:
        accounts.check_complete()
        detail = "'company_id' must be the public API key (site ID) of an account."
        raise Refused(400, [Problem("invalid", detail, parameter="company_id")])
    return account


def _decompressed(encoding: str, body: bytes, most: int) -> bytes:
    if encoding in {"", "identity"}:
        return body
    if encoding not in _WBITS:
        raise _unsupported("Send the body as it is, or compressed with gzip or deflate.")
    if _JSON_OBJECT.match(body):
        return body  # API Gateway has decompressed it, whatever the header says
    inflater = zlib.decompressobj(_WBITS[encoding])
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error:
        detail = f"The body is not valid {encoding}."
        raise Refused(400, [Problem("parse_error", detail, "/")]) from None
    if len(plain) > most:
        raise _too_large(most)
    if not inflater.eof or inflater.unused_data:
        fault = "has data after its end" if inflater.eof else "is cut off"
        raise Refused(400, [Problem("parse_error", f"The {encoding} body {fault}.", "/")])
    return plain


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _refused_revision(status: int, code: str, detail: str) -> Refused:
    return Refused(status, [Problem(code, detail, parameter="revision")])


def _unsupported(detail: str) -> Refused:
    return Refused(415, [Problem("unsupported_media_type", detail, "/data/")])


def _too_large(most: int) -> Refused:
    detail = f"A body must not exceed {most} bytes here, after decompression: send it in parts."
    return Refused(413, [Problem("payload_too_large", detail, "/data/")])
