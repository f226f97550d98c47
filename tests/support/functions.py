"""Loads the functions as Lambda does."""

import importlib.util
from types import ModuleType


def load_app(function: str) -> ModuleType:
    """Loads a function's module, as a new process does."""
    spec = importlib.util.spec_from_file_location(f"{function}_app", f"functions/{function}/app.py")
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    return app
