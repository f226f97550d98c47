"""Runs once, prints one line and sets an exit status: `python -m tests.chaos`."""

import argparse
import random
import signal
import sys
import time
from typing import Any

import tests.chaos as package
from devstack import stack
from devstack.emulator import EmulatorError
from devstack.processes import ServiceError
from devstack.sam import SamError
from tests.chaos.plan import plan
from tests.chaos.run import PARAMETERS, Run
from tests.chaos.runtime import RuntimeMissingError

FOLDER = stack.WORKSPACE / "chaos"
SECONDS = 150.0
SHORT_SECONDS = 12.0
# Dispatch sends nothing in its last 28 seconds.
TIMEOUT = 36
SHORT_TIMEOUT = 34


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="repeat a run (default: another one each time)")
    parser.add_argument("--seconds", type=float, help=f"of load and faults (default {SECONDS:.0f})")
    parser.add_argument(
        "--short", action="store_true", help=f"{SHORT_SECONDS:.0f} s of it, without the poison"
    )
    return parser.parse_args()


def _terminated(_number: int, _frame: Any) -> None:
    sys.exit("ended by a signal")


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _terminated)
    seed = random.randrange(10_000) if arguments.seed is None else arguments.seed
    seconds = arguments.seconds or (SHORT_SECONDS if arguments.short else SECONDS)
    chosen = plan(seed, seconds, brief=arguments.short)
    print(
        f"chaos: seed={seed} plan={chosen.digest} ({len(chosen.sendings)} sendings, "
        f"{sum(len(each.marks) for each in chosen.sendings)} events)",
        flush=True,
    )
    began = time.monotonic()
    try:
        with stack.running(FOLDER, PARAMETERS) as up:
            timeout = SHORT_TIMEOUT if arguments.short else TIMEOUT
            result = Run(chosen, up, timeout, lambda line: print(line, flush=True)).carry_out()
    except (stack.StackError, EmulatorError, ServiceError, SamError, RuntimeMissingError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing is left running")
    for name, times in sorted(result.done.items()):
        print(f"  {name}: {times}")
    problems = result.count.faults + [f"not accepted: {each}" for each in result.not_accepted[:5]]
    if not result.kills or not result.timeouts:
        problems.append("there was no kill or no timeout, so this run shows little")
    print(
        f"chaos: seed={seed} {result.count} kills={result.kills} timeouts={result.timeouts} "
        f"faults={result.faults} seconds={time.monotonic() - began:.0f}",
        flush=True,
    )
    if problems:
        sys.exit("does not hold: " + "; ".join(problems))


if __name__ == "__main__":
    main()
