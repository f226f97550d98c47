"""Decides which requests the console answers: those of its own page, in the operator's own browser.

Any web page may send requests to 127.0.0.1, and any name may be made to lead there. So each request has to
name the console's own address as `Host`, and as `Origin` if it names one. It also has to have the token,
which only the operator knows: in the address at first, then in a cookie.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESS: Final = "127.0.0.1"  # the one that the console listens at
TOKEN: Final = "token"  # noqa: S105 - the name of the parameter
_SAFE: Final = frozenset({"GET", "HEAD"})
# Nothing inline, nothing from elsewhere, and no text that becomes markup.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
LACKS_TOKEN: Final = "Open the address that sluicectl console has printed: this one lacks its token."  # noqa: S105


@dataclass(frozen=True)
class Guard:
    """Lets those requests through to an application that come from the console's own page."""

    app: ASGIApp
    port: int
    token: str

    @property
    def host(self) -> str:
        """Returns the one `Host` by which the console may be called."""
        return f"{ADDRESS}:{self.port}"

    @property
    def cookie(self) -> str:
        """Returns the name of the cookie. Browsers give all ports of a host the same ones."""
        return f"sluice-console-{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request itself, or hands it on; every answer gets the headers that protect the page."""
        if scope["type"] != "http":
            raise RuntimeError(f"the console speaks HTTP only, not {scope['type']}")
        request = HTTPConnection(scope)
        given = request.query_params.get(TOKEN)

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if given is not None and self._is_token(given):
                    headers.append("set-cookie", self._set_cookie())
            await send(message)

        why = self.refusal(scope["method"], request.headers, given, request.cookies.get(self.cookie))
        answer = self.app if why is None else _refused(why, request.headers)
        await answer(scope, receive, protected)

    def refusal(self, method: str, headers: Headers, given: str | None, cookie: str | None) -> str | None:
        """Returns why a request is not answered; None if it is."""
        if headers.getlist("host") != [self.host]:
            return f"The console answers at http://{self.host} only."
        origins = headers.getlist("origin")
        if origins not in ([], [f"http://{self.host}"]) or (not origins and method not in _SAFE):
            return "The console answers its own page only."
        if not any(each is not None and self._is_token(each) for each in (given, cookie)):
            return LACKS_TOKEN
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _set_cookie(self) -> str:
        return f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"


def _refused(why: str, headers: Headers) -> Response:
    """Returns a refusal, in the form that was asked for.

    A link on another site brings no cookie with it, but the same link on this page does.
    """
    if "text/html" not in headers.get("accept", ""):
        return JSONResponse({"error": why}, 403)
    again = (
        '<p><a href="">Open this page again</a>, if a link has led you here.' if why is LACKS_TOKEN else ""
    )
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>Sluice</title><p>{why}{again}</html>",
        403,
    )
