"""Compares docs/architecture.md's page "Who is trusted with what" with the tests that quote its sentences."""

import ast
import re
from pathlib import Path

PAGE = Path("docs/architecture.md")
SENTENCE = re.compile(r"^- (.+)$", re.MULTILINE)
MARK = "pytest.mark.trust"


def sentences() -> set[str]:
    page = PAGE.read_text().partition("\n## Who is trusted with what\n")[2]
    return set(SENTENCE.findall(page.partition("\n## ")[0]))


def quoted() -> set[str]:
    """Returns the sentences that tests quote."""
    return {
        ast.literal_eval(decorator.args[0])
        for path in Path("tests").rglob("test_*.py")
        if MARK in (source := path.read_text())
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == MARK
    }


def test_each_sentence_is_held_by_a_test_that_quotes_it_and_none_is_made_up() -> None:
    assert len(sentences()) > 10
    assert quoted() == sentences()
