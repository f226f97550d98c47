"""The control side, `/_standin/...`: look at what was taken, change the settings, start over."""

import os
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs

import msgspec

from local.standin.answers import Answer, error
from local.standin.klaviyo import Klaviyo

PREFIX = "/_standin/"
_JSON = {"Content-Type": "application/json"}

type _Route = Callable[[Klaviyo, str | None, bytes], Answer]


def control(klaviyo: Klaviyo, method: str, path: str, query: str, body: bytes) -> Answer:
    """Answer a request to a path under PREFIX; `query` may name one account as `site_id=`."""
    routes = _ROUTES.get(path.removeprefix(PREFIX))
    if routes is None:
        return error(404, "There is no such path.")
    if method not in routes:
        return error(405, f"Method '{method}' not allowed.", headers={"Allow": ", ".join(routes)})
    site_id = parse_qs(query).get("site_id", [None])[0]
    return routes[method](klaviyo, site_id, body)


def _json(content: object) -> Answer:
    return Answer(200, _JSON, msgspec.json.encode(content))


def _health(_klaviyo: Klaviyo, _site_id: str | None, _body: bytes) -> Answer:
    return _json({"status": "ok", "pid": os.getpid()})


def _summary(klaviyo: Klaviyo, _site_id: str | None, _body: bytes) -> Answer:
    return _json(klaviyo.summary())


def _requests(klaviyo: Klaviyo, site_id: str | None, _body: bytes) -> Answer:
    return _json(klaviyo.requests(site_id))


def _events(klaviyo: Klaviyo, site_id: str | None, _body: bytes) -> Answer:
    def lines() -> Iterator[bytes]:
        for event in klaviyo.events(site_id):
            yield msgspec.json.encode(event) + b"\n"

    return Answer(200, {"Content-Type": "application/x-ndjson"}, lines())


def _settings(klaviyo: Klaviyo, _site_id: str | None, _body: bytes) -> Answer:
    return _json(klaviyo.settings)


def _configure(klaviyo: Klaviyo, _site_id: str | None, body: bytes) -> Answer:
    try:
        return _json(klaviyo.configure(**msgspec.json.decode(body, type=dict[str, object])))
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        return error(400, str(problem))


def _reset(klaviyo: Klaviyo, _site_id: str | None, _body: bytes) -> Answer:
    klaviyo.reset()
    return Answer(204)


_ROUTES: dict[str, dict[str, _Route]] = {
    "health": {"GET": _health},
    "summary": {"GET": _summary},
    "events": {"GET": _events},
    "requests": {"GET": _requests},
    "settings": {"GET": _settings, "PUT": _configure},
    "reset": {"POST": _reset},
}
