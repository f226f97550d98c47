"""Tests that a rejection is made in one place."""

import ast
from pathlib import Path

PACKAGE = Path("layers/sluice/sluice")


def makers_of(name: str) -> set[str]:
    """Returns the modules that call a class by its name or as a module's attribute."""
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and name in {getattr(node.func, "id", None), getattr(node.func, "attr", None)}
    }


def test_a_rejection_is_made_in_one_module() -> None:
    assert makers_of("Rejection") == {"rejection.py"}
