"""Asks STS whose presigned `GetCallerIdentity` this is.

An operator presigns that call and gives away the URL, never a credential. The name of the function that it is
meant for is a signed header, so a URL that was made for something else proves nothing here.
"""

import re
import urllib.parse
from typing import Final

from sluice.aws import clients

FUNCTION_HEADER: Final = "x-sluice-function"
TIMEOUT_SECONDS: Final = 3.0
_ARN: Final = re.compile(r"<Arn>(arn:[^<]{1,2048})</Arn>")


def caller_arn(url: str, *, function: str) -> str | None:
    """Returns the ARN of who presigned the URL for this function. None if STS does not say so."""
    if not _is_ours(url):
        return None
    import httpx2  # noqa: PLC0415 - only this call of operate speaks HTTP itself

    try:
        # STS alone is asked: a redirection is not followed, and no proxy of the environment is used.
        said = httpx2.get(
            url,
            headers={FUNCTION_HEADER: function},
            timeout=TIMEOUT_SECONDS,
            follow_redirects=False,
            trust_env=False,
        )
    except httpx2.HTTPError:
        return None
    found = _ARN.search(said.text) if said.status_code == 200 else None
    return found[1] if found else None


def _is_ours(url: str) -> bool:
    """Tells whether a URL is this call, at STS itself, with our header among the signed ones."""
    try:
        given = urllib.parse.urlsplit(url)
        query = urllib.parse.parse_qs(given.query, strict_parsing=True)
    except ValueError:
        return False
    endpoint = urllib.parse.urlsplit(clients.sts_endpoint())
    signed = ";".join(query.get("X-Amz-SignedHeaders", [])).split(";")
    return (
        (given.scheme, given.netloc) == (endpoint.scheme, endpoint.netloc)
        and given.path in {"", "/"}
        and query.get("Action") == ["GetCallerIdentity"]
        and FUNCTION_HEADER in signed
    )
