"""Runs many seeds and says which break an invariant: `python -m tests.simulation --seeds 10000`."""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.simulation.faults import Fault, possible
from tests.simulation.runner import Report, report, simulate
from tests.simulation.shrinking import Shrinker
from tests.simulation.world import Result

LEAST = 20  # times that each fault must meet each call over a long run
LONG_RUN = 5_000  # seeds from which that is asked for
TRACED_LINES = 80


def main() -> int:
    """Runs what the arguments say; returns 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--only", type=int, nargs="+", help="these, in this order")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that run them")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails, and do not shrink")
    parser.add_argument("--seed", type=int, help="one seed, with its trace")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of texts is a part of the run.
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, "PYTHONHASHSEED": "0"})
    if arguments.seed is not None:
        return _run_one(arguments.seed)
    seeds = arguments.only or range(arguments.first, arguments.first + arguments.seeds)
    return _run_many(seeds, arguments.jobs, arguments.stop)


def _run_one(seed: int) -> int:
    result = simulate(seed)
    print("\n".join(result.trace.text()))
    if result.broken is None:
        print(f"seed {seed}: {result.events} events, {result.hours:.1f} h, all holds")
        return 0
    _explain(result)
    return 1


def _run_many(seeds: Sequence[int], jobs: int, stop: bool) -> int:
    begin = told = time.monotonic()
    met: Counter[tuple[str, Fault]] = Counter()
    calls: Counter[str] = Counter()
    exceptions: Counter[str] = Counter()
    failed: list[Report] = []
    hours = events = 0.0
    for done, each in enumerate(_reports(seeds, jobs), 1):
        met.update(each.met)
        calls.update(each.calls)
        exceptions.update(each.exceptions)
        hours += each.hours
        events += each.events
        if each.broken:
            failed.append(each)
            print(f"seed {each.seed}: {each.broken}", flush=True)
            if stop:
                return 1
        now = time.monotonic()
        if now - told > 5 or done == len(seeds):
            told, seconds = now, now - begin
            print(
                f"{done} of {len(seeds)} seeds, {len(failed)} failed; {done / seconds:.1f} seeds/s,"
                f" {hours / seconds * 60:.0f} world-hours/min, {events / seconds:.0f} events/s",
                flush=True,
            )
    _print_coverage(met, calls)
    for name, count in exceptions.items():
        print(f"exception that the README names: {name}: {count}")
    missing = _too_few(met, calls)
    if missing and len(seeds) >= LONG_RUN:
        print(f"met fewer than {LEAST} times: {', '.join(missing)}")
    for each in failed[:1]:
        _explain(simulate(each.seed))
    if failed:
        print(f"failed: {' '.join(str(each.seed) for each in failed)}")
    return 1 if failed or (missing and len(seeds) >= LONG_RUN) else 0


def _reports(seeds: Sequence[int], jobs: int) -> Iterator[Report]:
    if jobs == 1:
        yield from map(report, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=500) as pool:
        yield from pool.imap_unordered(report, seeds, chunksize=4)


def _print_coverage(met: Counter[tuple[str, Fault]], calls: Counter[str]) -> None:
    """Prints how often each fault met each call."""
    faults = [fault for fault in Fault if any(fault in possible(call) for call in calls)]
    width = max(map(len, faults))
    names = sorted(calls)
    print("\ncalls, and how often each fault met them")
    for number, name in enumerate(names):
        print(f"  [{number}] {name}: {calls[name]}")
    print(" " * width + "".join(f"{f'[{number}]':>8}" for number in range(len(names))))
    for fault in faults:
        cells = (f"{met[name, fault]:>8}" if fault in possible(name) else f"{'-':>8}" for name in names)
        print(f"{fault:<{width}}" + "".join(cells))


def _too_few(met: Counter[tuple[str, Fault]], calls: Counter[str]) -> list[str]:
    return [
        f"{name} {fault} ({met[name, fault]})"
        for name in sorted(calls)
        for fault in possible(name)
        if met[name, fault] < LEAST
    ]


def _explain(result: Result) -> None:
    """Prints the shortest way to what is broken, and the state of the event in question."""
    print(f"\nseed {result.seed}: {result.broken}\n{result.state}")
    shrinker = Shrinker(result)
    shortest = shrinker.shrink()
    lines = list(shortest.trace.text())
    print(
        f"shortest: {shortest.actions} requests, {len(shortest.faults.numbers)} faults, {len(lines)} lines"
        f" ({shrinker.cut})\n{shortest.broken}\n{shortest.state}"
    )
    first = max(0, len(lines) - TRACED_LINES)
    print("\n".join([line for line in lines[:first] if "[" in line] + lines[first:]))


if __name__ == "__main__":
    sys.exit(main())
