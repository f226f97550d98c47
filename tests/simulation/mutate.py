"""Checks that the simulator notices broken code: `python -m tests.simulation.mutate`.

Two kinds of mutants are made of the package, one at a time, in a copy of its sources, and simulated until a
seed breaks an invariant. The first kind takes back the repair of a commit (`mutations/`, a file a commit).
The second is generated: a comparison, a condition, a constant, a returned value or a statement of the modules
on which delivery depends is changed. Survivors are listed, and docs/development.md explains each.
"""

import argparse
import ast
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.simulation.faults import UNEXPLAINED
from tests.simulation.image import ROOT, TREE
from tests.simulation.reach import Lines, Reach
from tests.simulation.runner import simulate
from tests.simulation.world import Plan, plan

MUTATIONS = Path(__file__).with_name("mutations")
GENERATED = 50
SEEDS = 40  # that a mutant must survive, of those that get to what it changes
SURVEYED = 200  # seeds of which it is known what they get to
DRAWN = 4_000  # seeds, of which the most eventful are chosen
PROCESSOR_SECONDS = (
    90  # that the seeds of a mutant may take: several times as long as those of the code as it is
)
PACKAGE = "layers/sluice/sluice"
MODULES = (
    f"{PACKAGE}/dispatch.py",
    f"{PACKAGE}/delivery/parking.py",
    f"{PACKAGE}/delivery/poison.py",
    f"{PACKAGE}/delivery/rate_limiter.py",
    f"{PACKAGE}/receipts.py",
    f"{PACKAGE}/delivery/lone_refusals.py",
)
_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
#: Two moments are equal by chance only, so to change `<` to `<=` would change nothing: it is turned round.
_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
}
_MOMENT = re.compile(
    r"\b(now|time\(\)|_clock\(\)|\w*until|\w*since|latest|last_\w+|slot|sent|\w*_at|reset|end)\b"
)
_PAUSES = ("uniform", "sleep")  # how long jitter and a pause between attempts take changes nothing
_SAID_ONLY = ("log", "logger", "metrics", "counts")  # what is logged or counted changes nothing


@dataclass(frozen=True)
class Mutant:
    """Holds one file of the package with a change in it, at these lines of what it was."""

    name: str
    file: str
    source: str
    lines: range


def reverted() -> Iterator[Mutant]:
    """Yields a mutant for each commit whose mending still can be taken back."""
    for path in sorted(MUTATIONS.glob("*.toml")):
        said = tomllib.loads(path.read_text())
        source = (ROOT / said["file"]).read_text()
        if source.count(said["mended"]) != 1:
            raise SystemExit(f"{path.name}: {said['file']} does not have, once, what the commit made of it")
        changed = source.replace(said["mended"], said["broken"])
        first = 1 + source[: source.index(said["mended"])].count("\n")
        lines = range(first, first + said["mended"].rstrip("\n").count("\n") + 1)
        yield Mutant(f"{path.stem}: {said['subject']}", said["file"], changed, lines)


def generated(count: int, ran: Lines, seed: int = 0) -> Iterator[Mutant]:
    """Yields so many mutants, drawn evenly from the modules' functions of which any line `ran`."""
    chance = random.Random(seed)
    sources = {file: (ROOT / file).read_text() for file in MODULES}
    lines_run = {file: {line for path, line in ran if path == ROOT / file} for file in MODULES}
    changes = {file: list(_changes(ast.parse(sources[file]), lines_run[file])) for file in MODULES}
    for number in range(count):
        file = MODULES[number % len(MODULES)]
        what, index, which = changes[file].pop(chance.randrange(len(changes[file])))
        tree = ast.parse(sources[file])
        node = list(ast.walk(tree))[index]
        lines = _lines(node, which)
        _change(node, which)
        source = ast.unparse(ast.fix_missing_locations(tree))
        yield Mutant(f"{file.removeprefix(PACKAGE + '/')}:{lines.start} {what}", file, source, lines)


def _changes(tree: ast.Module, ran: Set[int]) -> Iterator[tuple[str, int, int]]:
    """Yields every change of a module: what it is, the index of its node, and which change of that it is.

    Functions that only functions of Lambda call that are not simulated are left out, by the lines that `ran`.
    """
    idle = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and ran.isdisjoint(range(node.body[0].lineno, (node.end_lineno or 0) + 1))
    )
    said = (held for node in ast.walk(tree) for held in _said_about(node))
    left_out = {id(part) for whole in itertools.chain(idle, said) for part in ast.walk(whole)}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) not in left_out:
            for what, which in _possible(node):
                yield what, index, which


def _lines(node: ast.AST, which: int) -> range:
    """Returns the lines of what a change changes."""
    match node:
        case ast.If() | ast.While():
            node = node.test
        case (
            ast.FunctionDef() | ast.AsyncFunctionDef() | ast.For() | ast.With() | ast.AsyncWith() | ast.Try()
        ):
            node = node.body[which]
    assert isinstance(node, ast.expr | ast.stmt)
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _said_about(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the parts of a node that decide nothing.

    These are types, defaults, constants of a module or struct, texts, jitter, how well something is
    compressed, and what is counted or logged.
    """
    match node:
        case ast.JoinedStr() | ast.keyword(arg="counts" | "level"):
            yield node
        case ast.Call(func=ast.Attribute(attr=name)) if name in _PAUSES:
            yield node
        case ast.Expr() | ast.AugAssign() if _is_said_only(node):
            yield node
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.args
            yield from [node.returns] if node.returns else []
        case ast.Module():
            yield from (each for each in node.body if isinstance(each, ast.Assign | ast.AnnAssign))
        case ast.ClassDef():
            yield from (each for each in node.body if isinstance(each, ast.Assign | ast.AnnAssign))
            yield from node.keywords
        case ast.AnnAssign():
            yield node.annotation


def _possible(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Yields the changes that a node allows, each with a number that `_change` knows."""
    match node:
        case ast.Compare(ops=[operator]):
            how = "turned round" if _is_of_moments(node) else "flipped"
            yield f"{ast.unparse(node)}: {type(operator).__name__} {how}", 0
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(node.test, ast.Compare):
            yield f"condition {ast.unparse(node.test)} negated", 0
        case ast.BoolOp():
            yield f"{ast.unparse(node)}: and, or swapped", 0
        case ast.Constant(value=bool() as value):
            yield f"{value} swapped", 0
        case ast.Constant(value=int() | float() as value):
            yield f"{value} + 1", 0
            yield f"{value} - 1", 1
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            yield f"{ast.unparse(node)}: + and - swapped", 0
        case (
            ast.FunctionDef() | ast.AsyncFunctionDef() | ast.For() | ast.With() | ast.AsyncWith() | ast.Try()
        ):
            for number, statement in enumerate(node.body):
                if _matters(statement):
                    yield f"without {ast.unparse(statement).splitlines()[0]}", number


def _matters(statement: ast.stmt) -> bool:
    """Tells whether a statement does something that can be left out."""
    if not isinstance(statement, ast.Expr | ast.AugAssign | ast.Delete):
        return False
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name))) if name in _PAUSES:
            return False
        case ast.Expr(value=value) if not isinstance(value, ast.Call | ast.Await):
            return False
    return not _is_said_only(statement)


def _is_said_only(statement: ast.stmt) -> bool:
    names = {
        each.attr if isinstance(each, ast.Attribute) else each.id
        for each in ast.walk(statement)
        if isinstance(each, ast.Attribute | ast.Name)
    }
    return not names.isdisjoint(_SAID_ONLY)


def _is_of_moments(node: ast.Compare) -> bool:
    return type(node.ops[0]) in _TURNED and _MOMENT.search(ast.unparse(node)) is not None


def _change(node: ast.AST, number: int) -> None:
    match node:
        case ast.Compare(ops=[operator]):
            node.ops = [(_TURNED if _is_of_moments(node) else _FLIPPED)[type(operator)]()]
        case ast.If() | ast.While() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.BoolOp(op=operator):
            node.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
        case ast.Constant(value=bool() as value):
            node.value = not value
        case ast.Constant(value=int() | float() as value):
            node.value = value + 1 if number == 0 else value - 1
        case ast.BinOp(op=operator):
            node.op = ast.Sub() if isinstance(operator, ast.Add) else ast.Add()
        case (
            ast.FunctionDef() | ast.AsyncFunctionDef() | ast.For() | ast.With() | ast.AsyncWith() | ast.Try()
        ):
            node.body[number] = ast.Pass()


class Survey:
    """Knows which lines of some files each of many seeds gets to, with the code as it is."""

    def __init__(self, files: Iterable[str], count: int) -> None:
        self.broken = ""  # the first invariant that the code as it is breaks
        self._reached: dict[int, Lines] = {}
        reach = Reach(ROOT / file for file in files)
        for seed in _drawn(count):
            self._reached[seed] = reach.of(partial(self._run, seed))
        reach.close()

    @property
    def ran(self) -> Lines:
        """Returns the lines that any of the seeds gets to."""
        return frozenset().union(*self._reached.values())

    def seeds_for(self, mutant: Mutant, count: int) -> list[int]:
        """Returns seeds for a mutant: those that get to what is changed, or any if all run it on import."""
        if not _is_in_function(mutant):
            return list(self._reached)[:count]
        changed = {(ROOT / mutant.file, line) for line in mutant.lines}
        return [seed for seed, lines in self._reached.items() if not changed.isdisjoint(lines)][:count]

    def _run(self, seed: int) -> None:
        result = simulate(seed)
        if result.broken is not None and not self.broken:
            self.broken = f"seed {seed}: {result.broken}"


def _is_in_function(mutant: Mutant) -> bool:
    tree = ast.parse((ROOT / mutant.file).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return any(node.lineno <= mutant.lines.start <= (node.end_lineno or 0) for node in functions)


def is_found(mutant: Mutant, seeds: list[int]) -> str:
    """Simulates a mutant; returns how it was found, or nothing if it survives."""
    if not seeds:
        return ""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        tree = Path(name)
        for part in ("layers/sluice", "functions"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "viewer"))
        (tree / mutant.file).write_text(mutant.source)
        command = [sys.executable, "-m", "tests.simulation", "--jobs", "1", "--stop", "--only"]
        run = subprocess.run(
            [*command, *map(str, seeds)],
            env={**os.environ, TREE: name, "PYTHONHASHSEED": "0"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=_limit,
        )
        if run.returncode == 0:
            return ""
        if run.returncode == -signal.SIGXCPU:
            return "it takes for ever"
        said = [line for line in run.stdout.splitlines() if line.startswith("seed ")]
        return said[0] if said else (run.stderr.strip().splitlines() or ["it ends"])[-1]


def _drawn(count: int) -> list[int]:
    """Returns seeds to survey: by turns any, and one in whose world much goes wrong in a short time.

    Some mutants show only where faults meet. Others show only where nothing but they can be the cause.
    """
    eventful = sorted(range(DRAWN), key=lambda seed: (-_eventfulness(plan(seed)), seed))
    by_turns = itertools.chain.from_iterable(zip(range(DRAWN), eventful, strict=True))
    return list(itertools.islice(dict.fromkeys(by_turns), count))


def _eventfulness(drawn: Plan) -> int:
    weather, mix = drawn.weather, drawn.mix
    return sum(
        (
            weather.aws >= 0.03,
            weather.upstream >= 0.1,
            weather.crashes >= 0.002,
            60.0 <= weather.until <= 900.0,
            bool(weather.outages),
            mix.refused >= 0.05,
            mix.spoiled > 0,
            drawn.attribution != "all",
            any(outage.fault in UNEXPLAINED for outage in weather.outages),
            drawn.limits_hold,
            len(drawn.knobs) >= 3,
        )
    )


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_SECONDS, PROCESSOR_SECONDS + 5))


def main() -> int:
    """Runs all mutants; returns 1 if more than one in ten survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="that a mutant must survive")
    parser.add_argument("--generated", type=int, default=GENERATED, help="mutants that are made up")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--match", default="", help="only mutants with this in their names")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of texts is a part of the run.
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, "PYTHONHASHSEED": "0"})
    taken_back = list(reverted())
    survey = Survey({*MODULES, *(each.file for each in taken_back)}, SURVEYED)
    made_up = generated(arguments.generated, survey.ran)
    mutants = [each for each in (*taken_back, *made_up) if arguments.match in each.name]
    if survey.broken:
        print(f"the code as it is breaks an invariant, so mutants say nothing: {survey.broken}")
        return 1
    survivors: list[str] = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        outcomes = pool.map(
            lambda mutant: is_found(mutant, survey.seeds_for(mutant, arguments.seeds)), mutants
        )
        for number, (mutant, found) in enumerate(zip(mutants, outcomes, strict=True), 1):
            print(f"{number} of {len(mutants)}: {mutant.name}: {found or 'SURVIVES'}", flush=True)
            if not found:
                survivors.append(mutant.name)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} found")
    for name in survivors:
        print(f"survives: {name}")
    return 1 if len(survivors) * 10 > len(mutants) else 0


if __name__ == "__main__":
    sys.exit(main())
