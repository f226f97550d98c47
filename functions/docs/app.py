"""Serves the API's description and a page to read it, for anybody, with files and Python alone."""

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).parent
_VIEWER: Final = re.compile(r"{(viewer/[a-z.-]+)}")
_PART: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_CACHED_SECONDS: Final = 300
_METHODS: Final = ("GET", "HEAD")

type _Document = tuple[str, dict[str, str]]


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Handles a REST API's proxy request to one of the two routes, for Lambda."""
    if event["httpMethod"] not in _METHODS:
        return _not_allowed(event["requestContext"]["requestId"])
    body, headers = _description() if event["resource"] == "/openapi.json" else _page()
    asked = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    # A gateway on the way may have weakened the tag.
    if headers["ETag"] in asked.get("if-none-match", "").replace("W/", "").split(", "):
        return {"statusCode": 304, "headers": headers}
    return {"statusCode": 200, "headers": headers, "body": "" if event["httpMethod"] == "HEAD" else body}


@cache
def _description() -> _Document:
    return _document((_FOLDER / "openapi.json").read_text("utf-8"), "application/json")


@cache
def _page() -> _Document:
    """Returns the page with all its parts in it, so that nothing else may be loaded or run."""
    page = _VIEWER.sub(_included, (_FOLDER / "page.html").read_text("utf-8"))
    allowed = {"style": "", "script": ""}
    for kind, text in _PART.findall(page):
        allowed[kind] += f" 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    policy = (
        f"default-src 'none'; script-src{allowed['script']}; style-src{allowed['style']}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return _document(page, "text/html; charset=utf-8", {"Content-Security-Policy": policy})


def _included(found: re.Match[str]) -> str:
    # Within a page this text would end the script early.
    return (_FOLDER / found[1]).read_text("utf-8").replace("<!--", r"\x3c!--")


def _not_allowed(request: str) -> dict[str, Any]:
    allowed = ", ".join(_METHODS)
    error = {
        "id": request,
        "status": 405,
        "code": "method_not_allowed",
        "title": "Method not allowed.",
        "detail": f"Allowed here: {allowed}.",
        "source": {},
        "links": {},
        "meta": {},
    }
    headers = {"Content-Type": "application/vnd.api+json", "Allow": allowed}
    return {"statusCode": 405, "headers": headers, "body": json.dumps({"errors": [error]})}


def _document(body: str, media_type: str, further: dict[str, str] | None = None) -> _Document:
    return body, {
        "Content-Type": media_type,
        "ETag": f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"',
        "Cache-Control": f"public, max-age={_CACHED_SECONDS}",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        **(further or {}),
    }
