"""Runs the demo: a stack of its own, real purchases, and proof of the outcome of each.

Exit status 0 says that every accepted event has exactly one outcome: delivered once with its values intact,
or rejected with a reason. One of the rejected events is then mended, sent again, and arrives. Nothing is left
but the logs in .local/demo/logs, whatever happens.
"""

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import httpx2
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from devstack import stack
from devstack.demo import mending, plan, proof, purchases, screen, sending
from devstack.demo.outcomes import Outcomes, OutcomesError
from devstack.demo.plan import Plan
from devstack.demo.purchases import Purchase
from devstack.demo.result import Result
from devstack.demo.screen import Bars
from devstack.demo.sending import Sent
from devstack.emulator import EmulatorError
from devstack.processes import ServiceError
from devstack.sam import SamError
from devstack.stack import Stack, StackError

FOLDER = stack.WORKSPACE / "demo"
# Dispatch gets all messages together, however slow the machine is: a batch is as large as what was sent.
# Should messages be missing, it goes after this window, AWS's longest.
WINDOW_SECONDS = 300
LARGEST_BATCH = 10_000
NO_PROGRESS_SECONDS = 60

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAILURES = (
    StackError,
    EmulatorError,
    ServiceError,
    SamError,
    sending.SendingError,
    OutcomesError,
    httpx2.HTTPError,
    BotoCoreError,
    ClientError,
)
IN_BULK = "official SDK, in bulk"
ONE_BY_ONE = f"{sending.CLIENTS} clients, one by one"
UPSTREAM = "arrived upstream"


def run(planned: Plan, window: int, console: Console) -> Result:
    """Sends everything to a stack of its own, mends a refused event, and returns the outcome."""
    gathering = {
        "DispatchBatchSize": str(min(planned.messages, LARGEST_BATCH)),
        "DispatchBatchingWindow": str(window),
        "RejectBatchingWindow": "1",
    }
    with stack.running(FOLDER, gathering, polls=False) as running:
        bars = Bars(
            {
                IN_BULK: len(planned.bulk),
                ONE_BY_ONE: len(planned.one_by_one) + len(planned.invalid),
                UPSTREAM: len(planned.bulk) + len(planned.single),
            },
            console,
        )
        with bars:
            result = send_and_wait(running, planned, window + NO_PROGRESS_SECONDS, bars)
        if not result.succeeded:
            return result
        mending.send_at_once(running)
        with stack.polling(running):
            return replace(result, replayed=mending.mend_one(running, Outcomes(running), console))


def send_and_wait(running: Stack, planned: Plan, patience: float, bars: Bars) -> Result:
    """Sends everything, lets it be dispatched, waits until each event has an outcome, and collects those.

    The queues are polled only then: an emulator that does both at once is twice as slow.
    """
    outcomes = Outcomes(running)
    outcomes.refuse_upstream(plan.REFUSED_EMAIL)
    sent = Sent()

    began = time.monotonic()
    sending.in_bulk(running, planned.bulk, sent, partial(bars.add, IN_BULK))
    sending.one_by_one(running, planned.one_by_one, planned.invalid, sent, partial(bars.add, ONE_BY_ONE))
    with stack.polling(running):
        queued = outcomes.wait(len(sent.accepted), patience, partial(bars.set, UPSTREAM), bars.say)
    seconds = time.monotonic() - began

    counts = outcomes.summary()
    return Result(
        proof=proof.prove(sent.accepted, outcomes.arrivals(), outcomes.rejections()),
        requests=sent.requests,
        repeats=sent.repeats,
        refused=dict(sent.refused),
        jobs=counts["fill"],
        answers=counts["by_status"],
        seconds=seconds,
        queued=queued,
    )


def introduce(rows: Sequence[Purchase], console: Console) -> None:
    """Prints how much is sent, and the mistakes that are made on purpose."""
    customers = len({row.sample_id for row in rows})
    console.print(
        f"{len(rows):,} purchases of {customers:,} real customers (CDNOW, 1997-98) go through Sluice to a\n"
        "fake Klaviyo, some in bulk, some one by one.\n"
        f"Wrong on purpose: {plan.REFUSED} e-mails that the fake Klaviyo is told to refuse,\n"
        f"{plan.REPEATS} repeats, a bad e-mail, an event of nobody.\n"
        "Sluice stores all of it first, as in an outage, and then sends it on.\n",
        highlight=False,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=at_least(8), metavar="N", help="send the first N purchases only")
    parser.add_argument(
        "--window",
        type=at_least(1),
        metavar="SECONDS",
        default=WINDOW_SECONDS,
        help=f"how long dispatch waits for events that are missing (default {WINDOW_SECONDS})",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, all else to stderr")
    return parser.parse_args()


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{least} is the least")
        return int(text)

    return number


def interrupted(_number: int, _frame: Any) -> None:
    # Once: a second one must not interrupt the clearing up.
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    chosen = arguments()
    for number in ENDING:
        signal.signal(number, interrupted)
    console = Console(stderr=chosen.json)
    rows = purchases.read()[: chosen.rows]
    try:
        with contextlib.redirect_stdout(console.file):
            introduce(rows, console)
            result = run(plan.plan(rows), chosen.window, console)
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing is left running")
    except FAILURES as error:
        screen.verdict("the demo could not be finished", succeeded=False, console=console)
        sys.exit(f"{error}\nlogs are in {FOLDER / 'logs'}; nothing is left running")
    if chosen.json:
        print(json.dumps(result.document(), indent=2))
    else:
        screen.table(result.table(), console)
        screen.verdict(result.verdict, succeeded=result.succeeded, console=console)
        print(result.last_line)
    sys.exit(not result.succeeded)


if __name__ == "__main__":
    main()
