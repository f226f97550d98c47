"""Runs deployed SQS event source mappings against an emulator, until SIGTERM or Ctrl-C.

    python -m devstack.event_source_mapping --all --endpoint http://127.0.0.1:4566

Writes one line of JSON to stderr for each invocation: counts and durations, no contents. Settings are looked
at again every few seconds, so a deployment may change or re-enable a mapping while this runs.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from devstack.emulator import REGION, ROOT_CREDENTIALS

from .runner import DELETERS, RECEIVERS, Invoke, Runner, through
from .settings import (
    RefusedError,
    Settings,
    enforces_policies,
    keep_disabled,
    read,
    require_permissions,
    sqs_mappings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient

LOOK_SECONDS = 3.0
GRACE_SECONDS = 30.0
# Beyond the function's own timeout, for its cold start and for moving 6 MB.
ANSWER_SECONDS = 30


class Clients:
    """Makes clients for one endpoint, with the emulator's own credentials: never the user's."""

    def __init__(self, endpoint: str, region: str) -> None:
        self.endpoint = endpoint
        self._session = boto3.Session(
            region_name=region,
            aws_access_key_id=ROOT_CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ROOT_CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )
        self.functions: LambdaClient = self._session.client("lambda", endpoint_url=endpoint)
        self.iam: Any = self._session.client("iam", endpoint_url=endpoint)
        self.sqs = self.poller()

    def poller(self) -> SQSClient:
        """Returns a client for a mapping's queue."""
        config = Config(
            retries={"mode": "standard", "max_attempts": 4}, max_pool_connections=RECEIVERS + DELETERS
        )
        client: SQSClient = self._session.client("sqs", endpoint_url=self.endpoint, config=config)
        return client

    def invoker(self, settings: Settings) -> Invoke:
        """Returns a function that invokes a mapping's function, asking once and waiting for the answer."""
        config = Config(
            retries={"total_max_attempts": 1},
            read_timeout=settings.function_timeout + ANSWER_SECONDS,
            max_pool_connections=settings.concurrency,
        )
        return through(self._session.client("lambda", endpoint_url=self.endpoint, config=config))


def report(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), file=sys.stderr, flush=True)


def start(clients: Clients, uuids: Iterable[str]) -> list[Runner]:
    """Takes mappings over, all of them or none, and starts their runners."""
    mappings = [read(uuid, clients.functions, clients.sqs) for uuid in uuids]
    if enforces_policies(clients.endpoint):
        for settings in mappings:
            require_permissions(settings, clients.functions, clients.iam)
    runners = []
    for settings in mappings:
        keep_disabled(settings.uuid, clients.functions)
        runner = Runner(settings, clients.poller(), clients.invoker(settings), report)
        runner.start()
        runners.append(runner)
        report("started", mapping=settings.label, uuid=settings.uuid)
    return runners


def look_again(clients: Clients, runner: Runner) -> None:
    """Keeps the emulator's own mapping disabled and follows changed settings."""
    try:
        keep_disabled(runner.settings.uuid, clients.functions)
        settings = read(runner.settings.uuid, clients.functions, clients.sqs)
    except (RefusedError, BotoCoreError, ClientError) as error:
        report("settings not read", mapping=runner.settings.label, error=str(error))
        return
    if settings != runner.settings:
        runner.adopt(settings, clients.invoker(settings))
        report("settings changed", mapping=settings.label)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.event_source_mapping", description=__doc__.split("\n")[0]
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("uuid", nargs="*", default=[], help="mappings to run")
    which.add_argument("--all", action="store_true", help="all mappings whose source is a queue")
    parser.add_argument("--endpoint", required=True, help="where the emulator answers")
    parser.add_argument("--region", default=REGION)
    parser.add_argument("--ready-file", type=Path, help="written once all mappings are taken over")
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE_SECONDS,
        help="how many seconds running invocations get to finish at the end",
    )
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    clients = Clients(chosen.endpoint, chosen.region)
    try:
        runners = start(clients, chosen.uuid or sqs_mappings(clients.functions))
    except (RefusedError, BotoCoreError, ClientError) as error:
        print(error, file=sys.stderr)
        return 1
    if chosen.ready_file:
        chosen.ready_file.write_text("\n".join(runner.settings.uuid for runner in runners) + "\n")
    while not ended.wait(LOOK_SECONDS):
        for runner in runners:
            look_again(clients, runner)
    for runner in runners:
        runner.ask_to_stop()
    finished = [runner.stop(chosen.grace) for runner in runners]
    report("ended", finished=all(finished))
    return 0 if all(finished) else 1


if __name__ == "__main__":
    sys.exit(main())
