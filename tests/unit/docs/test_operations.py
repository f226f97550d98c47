"""Tests that the page for operators lists what the functions measure."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

CODE = [*Path("layers/sluice/sluice").rglob("*.py"), *Path("functions").rglob("*.py")]
METRIC = re.compile(r"[A-Z][A-Za-z0-9]+")
COUNTERS = {"count", "add_metric", "optional", "_optional"}  # functions that take a metric's name first


def test_every_metric_is_explained_and_no_other() -> None:
    section = Path("docs/operations.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    named = [row.split("|")[2] for row in section.splitlines() if row.startswith("| ")]

    explained = set(re.findall(r"`(\w+)`", "".join(named)))

    assert explained == {name for path in CODE for name in metrics(ast.parse(path.read_text()))}


def metrics(module: ast.Module) -> Iterator[str]:
    """Yields the names under which a module counts."""
    for node in ast.walk(module):
        match node:
            case ast.Subscript(
                value=ast.Name("counts") | ast.Attribute(attr="counts" | "_counts"), slice=name
            ):
                yield from literals(name)
            case ast.Call(func=ast.Name("Counter"), keywords=keywords):
                yield from (keyword.arg for keyword in keywords if keyword.arg)
            case ast.Call(func=ast.Name(called) | ast.Attribute(attr=called), args=[name, *_]) if (
                called in COUNTERS
            ):
                yield from literals(name)
            case ast.Assign(targets=[ast.Name("counts")], value=ast.Dict(keys=keys)):
                yield from (name for key in keys if key is not None for name in literals(key))


def literals(node: ast.expr) -> Iterator[str]:
    """Yields the metrics' names that are written out in an expression, such as either of a condition."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and METRIC.fullmatch(each.value):
            yield each.value
