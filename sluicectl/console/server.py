"""Serves the console: the files of its page, and the calls that the page makes."""

import json
import secrets
import socket
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import uvicorn
from rich.console import Console as Terminal
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sluicectl.console.calls import Console
from sluicectl.console.guard import ADDRESS, TOKEN, Guard
from sluicectl.console.watch import Door, Watch
from sluicectl.deployment import Target, find
from sluicectl.errors import Failure, Unreachable
from sluicectl.operate_client import Denied, OperateClient
from sluicectl.screen import Screen

MAX_CALL_BYTES: Final = 32 * 2**20  # a payload twice: as it was shown, and as it was edited
_FOLDER: Final = Path(__file__).with_name("page")
_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_ROUTES: Final = (  # of the page, which its modules tell apart
    *("/", "/rejections", "/rejections/list", "/rejections/{id}"),
    *("/jobs", "/jobs/{id}", "/sources", "/accounts"),
)


def run(screen: Screen, target: Target, *, port: int) -> int:
    """Serves the console of a deployment until it is interrupted."""
    deployment = find(target)
    client = OperateClient(deployment)
    listener = _listen(port)
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(24)
    url = f"http://{ADDRESS}:{port}/?{TOKEN}={token}"
    screen.show(
        {"url": url, "deployment": deployment.name}, lambda terminal: _tell(terminal, deployment.name, url)
    )
    sys.stdout.flush()  # whoever reads it from a pipe waits for it
    config = uvicorn.Config(
        build(client, deployment.name, port=port, token=token),
        http="h11",
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,  # it would hold the token
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def build(client: Door, deployment: str, *, port: int, token: str) -> Guard:
    """Returns the application of a console, which answers nobody but its own page."""
    console = Console(client, deployment, Watch(client))

    async def call(request: Request) -> Response:
        name = request.path_params["name"]
        try:
            arguments = json.loads(await _body(request))
        except (ValueError, RecursionError):
            return _json({"error": "The arguments of a call are JSON."}, 400)
        return await run_in_threadpool(_answer, console, name, arguments)

    application = Starlette(
        routes=[
            Route("/api/{name:path}", call, methods=["POST"]),
            *(Route(path, _page, methods=["GET"]) for path in _ROUTES),
            Route("/page/{name}", _asset, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error},
    )
    return Guard(application, port, token)


def _answer(console: Console, name: str, arguments: object) -> Response:
    """Returns the answer to a call; an error of any kind is one sentence."""
    try:
        return _json(console.answer(name, arguments))
    except Denied as denied:
        return _json({"error": str(denied)}, 403)
    except Unreachable as failure:
        return _json({"error": str(failure)}, 502)
    except Failure as failure:
        return _json({"error": str(failure)}, 422)
    except Exception as error:
        # Its text may have what somebody sent.
        return _json({"error": f"The console failed unexpectedly ({type(error).__name__})."}, 500)


def _json(document: object, status: int = 200) -> Response:
    # All ASCII: names and messages may have half of a surrogate pair.
    return Response(json.dumps(document), status, media_type="application/json")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_CALL_BYTES:
            raise HTTPException(413, f"A call exceeds {MAX_CALL_BYTES} bytes.")
    return bytes(body)


async def _page(_: Request) -> Response:
    return _file("index.html")


async def _asset(request: Request) -> Response:
    return _file(request.path_params["name"])


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the application hands on no other
    said = "The console has no such page." if error.status_code == 404 else error.detail
    return _json({"error": said}, error.status_code)


def _file(name: str) -> Response:
    content = files().get(name)
    if content is None:
        raise HTTPException(404)
    return Response(content, headers={"content-type": _TYPES[Path(name).suffix]})


@cache
def files() -> Mapping[str, bytes]:
    """Returns the files of the page by name."""
    return {file.name: file.read_bytes() for file in _FOLDER.iterdir() if file.suffix in _TYPES}


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen()  # before the address is printed
    except OSError as error:
        listener.close()
        raise Failure(
            f"Port {port} of {ADDRESS} cannot be used: {error.strerror}. Give another --port."
        ) from None
    return listener


def _tell(terminal: Terminal, deployment: str, url: str) -> None:
    terminal.print(f"The console of {deployment}, for this machine only:", markup=False)
    terminal.print(url, markup=False, soft_wrap=True, style="bold")
    terminal.print("Ctrl+C ends it. Keep the address to yourself: with it, one has your permissions.")
