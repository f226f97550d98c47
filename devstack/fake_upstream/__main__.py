"""Runs the fake upstream until SIGTERM, SIGINT or the bound on its time:

`python -m devstack.fake_upstream`.
"""

import argparse
import asyncio
import errno
import os
import signal
import sys
from pathlib import Path

import msgspec

import devstack.fake_upstream as package
from devstack.fake_upstream.klaviyo import Klaviyo
from devstack.fake_upstream.pipeless import Pipeless
from devstack.fake_upstream.server import HOST, serve
from devstack.fake_upstream.settings import Settings


def _account(text: str) -> tuple[str, str]:
    site_id, _, key = text.partition(":")
    if not site_id or not key:
        raise argparse.ArgumentTypeError("an account is written SITE_ID:PRIVATE_KEY")
    return site_id, key


def _app(text: str) -> tuple[int, str]:
    app_id, _, key = text.partition(":")
    if not app_id.isdecimal() or not key:
        raise argparse.ArgumentTypeError("an app is written APP_ID:API_KEY, its id a number")
    return int(app_id), key


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.fake_upstream",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument(
        "--account",
        type=_account,
        action="append",
        default=[],
        metavar="SITE_ID:PRIVATE_KEY",
        help="an account of Klaviyo's and its key; repeatable",
    )
    parser.add_argument(
        "--app",
        type=_app,
        action="append",
        default=[],
        metavar="APP_ID:API_KEY",
        help="an app of Pipeless's and its key; repeatable",
    )
    parser.add_argument("--ready-file", type=Path, help='write {"url", "pid"} here once listening')
    parser.add_argument("--no-limits", action="store_true", help="start without rate limits")
    parser.add_argument("--max-seconds", type=float, help="end by itself after so many seconds")
    arguments = parser.parse_args()
    if not arguments.account and not arguments.app:
        parser.error("name an --account or an --app")
    return arguments


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if arguments.max_seconds is not None:
        loop.call_later(arguments.max_seconds, stop.set)

    def listening(url: str) -> None:
        if arguments.ready_file:
            # Renamed into place: whoever waits for the file never reads half of it.
            half = arguments.ready_file.with_suffix(".part")
            half.write_bytes(msgspec.json.encode({"url": url, "pid": os.getpid()}))
            half.replace(arguments.ready_file)
        print(f"Fake upstream listening on {url}", flush=True)

    settings = Settings.unlimited() if arguments.no_limits else Settings()
    klaviyo, pipeless = Klaviyo(dict(arguments.account), settings), Pipeless(dict(arguments.app))
    await serve(klaviyo, pipeless, arguments.port, stop, listening)


def main() -> None:
    arguments = _arguments()
    try:
        asyncio.run(_run(arguments))
    except OSError as problem:
        if problem.errno != errno.EADDRINUSE:
            raise
        sys.exit(f"Port {arguments.port} on {HOST} is already in use; choose another with --port.")


if __name__ == "__main__":
    main()
