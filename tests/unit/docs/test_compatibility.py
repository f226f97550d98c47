"""Compares the rules in docs/compatibility.md with the tests that hold them and the constants they name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from sluice import contract

TABLE = Path("docs/compatibility.md")
ROW = re.compile(r"^\| (?!Rule \||-)(?P<rule>.+) \| (?P<source>.+) \| (?P<tests>.+) \|$", re.MULTILINE)
CONSTANT = re.compile(r"`([A-Z][A-Z0-9_]+)`")
TEST = re.compile(r"`(tests/[^`]+)`")
MARK = "pytest.mark.rule"
SOURCES = {"seed", "specification", "decision"}


def rows() -> list[re.Match[str]]:
    return list(ROW.finditer(TABLE.read_text().partition("\n## Rules\n")[2]))


def listed() -> set[str]:
    return {test for row in rows() for test in TEST.findall(row["tests"])}


def marked() -> set[str]:
    """Returns the node ids of all tests that have the mark."""
    return {
        f"{path}::{name}"
        for path in Path("tests").rglob("test_*.py")
        if MARK in (source := path.read_text())
        for name in _marked(ast.parse(source))
    }


def _marked(holder: ast.Module | ast.ClassDef, within: str = "") -> Iterator[str]:
    for each in holder.body:
        if isinstance(each, ast.ClassDef):
            yield from _marked(each, f"{each.name}::")
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and MARK in _decorators(each):
            yield within + each.name


def _decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [ast.unparse(each) for each in function.decorator_list]


def test_the_table_lists_the_tests_that_are_marked_and_no_others() -> None:
    assert listed() == marked()


def test_a_mark_is_on_what_is_run_as_a_test() -> None:
    names = [test.rpartition("::")[2] for test in marked()]

    assert [name for name in names if not name.startswith("test_")] == []


def test_each_rule_has_a_source_and_a_test() -> None:
    assert len(rows()) > 50
    for row in rows():
        assert set(row["source"].split(", ")) <= SOURCES, row["rule"]
        assert re.fullmatch(rf"{TEST.pattern}(<br>{TEST.pattern})*", row["tests"]), row["rule"]


def test_the_table_names_every_constant_of_the_contract_and_no_others() -> None:
    named = {name for row in rows() for name in CONSTANT.findall(row["rule"])}

    assert named == set(contract.__annotations__)
