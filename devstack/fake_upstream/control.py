"""Serves the control routes `/_standin/...`: they show the events taken, change the settings, and start
over.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import parse_qs

import msgspec

from devstack.fake_upstream.answers import Answer, error
from devstack.fake_upstream.klaviyo import Klaviyo
from devstack.fake_upstream.pipeless import Pipeless

PREFIX = "/_standin/"
PIPELESS_PREFIX = f"{PREFIX}pipeless/"
_JSON = {"Content-Type": "application/json"}

type _Route[Vendor] = Callable[[Vendor, str | None, bytes], Answer]


def control(klaviyo: Klaviyo, method: str, path: str, query: str, body: bytes) -> Answer:
    """Answers a request to a path under PREFIX; `query` may name one account as `site_id=`."""
    site_id = parse_qs(query).get("site_id", [None])[0]
    return _answer(_ROUTES.get(path.removeprefix(PREFIX)), klaviyo, method, site_id, body)


def control_pipeless(pipeless: Pipeless, method: str, path: str, query: str, body: bytes) -> Answer:
    """Answers a request to a path under PIPELESS_PREFIX; `query` may name one app as `app_id=`."""
    app_id = parse_qs(query).get("app_id", [None])[0]
    return _answer(_PIPELESS_ROUTES.get(path.removeprefix(PIPELESS_PREFIX)), pipeless, method, app_id, body)


def _answer[Vendor](
    routes: Mapping[str, _Route[Vendor]] | None, vendor: Vendor, method: str, of: str | None, body: bytes
) -> Answer:
    if routes is None:
        return error(404, "There is no such path.")
    if method not in routes:
        return error(405, f"Method '{method}' not allowed.", headers={"Allow": ", ".join(routes)})
    return routes[method](vendor, of, body)


def _json(content: object) -> Answer:
    return Answer(200, _JSON, msgspec.json.encode(content))


def _lines(content: Iterable[object]) -> Answer:
    lines = (msgspec.json.encode(each) + b"\n" for each in content)
    return Answer(200, {"Content-Type": "application/x-ndjson"}, lines)


def _health(_klaviyo: Klaviyo, _site_id: str | None, _body: bytes) -> Answer:
    return _json({"status": "ok", "pid": os.getpid()})


def _summary(klaviyo: Klaviyo, _site_id: str | None, _body: bytes) -> Answer:
    return _json(klaviyo.summary())


def _requests(klaviyo: Klaviyo, site_id: str | None, _body: bytes) -> Answer:
    return _json(klaviyo.requests(site_id))


def _events(klaviyo: Klaviyo, site_id: str | None, _body: bytes) -> Answer:
    return _lines(klaviyo.events(site_id))


def _settings(vendor: Klaviyo | Pipeless, _of: str | None, _body: bytes) -> Answer:
    return _json(vendor.settings)


def _configure(vendor: Klaviyo | Pipeless, _of: str | None, body: bytes) -> Answer:
    try:
        return _json(vendor.configure(**msgspec.json.decode(body, type=dict[str, object])))
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        return error(400, str(problem))


def _reset(vendor: Klaviyo | Pipeless, _of: str | None, _body: bytes) -> Answer:
    vendor.reset()
    return Answer(204)


def _pipeless_summary(pipeless: Pipeless, _app_id: str | None, _body: bytes) -> Answer:
    return _json(pipeless.summary())


def _pipeless_requests(pipeless: Pipeless, app_id: str | None, _body: bytes) -> Answer:
    return _json(pipeless.requests(_number(app_id)))


def _calls(pipeless: Pipeless, app_id: str | None, _body: bytes) -> Answer:
    return _lines(pipeless.calls(_number(app_id)))


def _objects(pipeless: Pipeless, app_id: str | None, _body: bytes) -> Answer:
    return _lines(pipeless.objects(_number(app_id)))


def _relationships(pipeless: Pipeless, app_id: str | None, _body: bytes) -> Answer:
    return _lines(pipeless.relationships(_number(app_id)))


def _number(app_id: str | None) -> int | None:
    """Returns an app's id as a number; None if it is none, which is no app's."""
    return None if app_id is None else int(app_id) if app_id.isdecimal() else 0


_ROUTES: dict[str, dict[str, _Route[Klaviyo]]] = {
    "health": {"GET": _health},
    "summary": {"GET": _summary},
    "events": {"GET": _events},
    "requests": {"GET": _requests},
    "settings": {"GET": _settings, "PUT": _configure},
    "reset": {"POST": _reset},
}
_PIPELESS_ROUTES: dict[str, dict[str, _Route[Pipeless]]] = {
    "summary": {"GET": _pipeless_summary},
    "calls": {"GET": _calls},
    "objects": {"GET": _objects},
    "relationships": {"GET": _relationships},
    "requests": {"GET": _pipeless_requests},
    "settings": {"GET": _settings, "PUT": _configure},
    "reset": {"POST": _reset},
}
