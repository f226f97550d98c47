"""Decides which web pages may call the client routes: the headers that make a browser allow it (Fetch
standard).

The server routes have none: they take keys, and a key has no place in a web page. No answer allows cookies
either, because the client routes know callers by a public site id alone.
"""

from collections.abc import Mapping
from typing import Final

_CLIENT_ROUTES: Final = "/client/"
_ANY: Final = "*"
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": (
        "content-encoding, content-type, prefer, revision, x-klaviyo-revision-fall-forward-opt-out"
    ),
    "Access-Control-Max-Age": "86400",
}
_READABLE: Final = {
    "Access-Control-Expose-Headers": (
        "Preference-Applied, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After,"
        " X-Klaviyo-Partial-Failure"
    )
}


def headers(path: str, origin: str | None, allowed: str) -> Mapping[str, str]:
    """Returns the headers of an answer at `path` to a page of `origin`; `allowed` is the setting."""
    if not path.startswith(_CLIENT_ROUTES):
        return {}
    if allowed == _ANY:
        return {"Access-Control-Allow-Origin": _ANY, **_READABLE}
    if origin not in allowed.split(","):
        return {"Vary": "Origin"}
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", **_READABLE}


def preflight(path: str, origin: str | None, allowed: str) -> Mapping[str, str]:
    """Returns the further headers of an answer to a browser that asks first."""
    is_allowed = "Access-Control-Allow-Origin" in headers(path, origin, allowed)
    return _PREFLIGHT if is_allowed else {}
