"""Gives a process its own copy of the package: everything that a Lambda environment has imported, and keeps.

Simulated processes must not share what modules remember: accounts, clients, failing services, the event loop.
The package keeps such things in modules, because one Lambda environment runs one invocation at a time. So
each process gets its own modules. They are executed once from shared code objects, under an `__import__` of
their own. It also puts the seams in place of boto3, the HTTP client and Powertools' output. Nothing has to be
swapped when strands change.

A cold start forgets what the modules remember (`forget`), instead of executing them anew, which would take
longer than the rest of a run. A test holds that a forgotten image equals a new one.
"""

import builtins
import copy
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
TREE = "SIMULATED_TREE"  # names another tree whose functions are run, as the check by mutants does
PACKAGE = "sluice"
#: What these remember follows from the code alone, and takes longer to find out than a cold start simulates.
PURE = ("sluice.validation.schema_errors",)
_CACHED = type(cache(lambda: None))
_TREE = Path(os.environ.get(TREE, ROOT))
_SOURCES = _TREE / "layers" / "sluice"


class Image:
    """Holds the modules of one function in one process; `seams` are modules that replace others, by name."""

    def __init__(self, function: str, seams: Mapping[str, ModuleType]) -> None:
        self.modules: dict[str, ModuleType] = {}
        self._cached: list[Any] = []
        self._held: list[tuple[Any, Any]] = []
        self._seams = seams
        self._builtins = {**vars(builtins), "__import__": self._import}
        self.app = self._execute(f"{function}_app", _TREE / "functions" / function / "app.py")

    def module(self, name: str) -> ModuleType:
        """Returns a module of the package, which is loaded if it is not yet."""
        return self._load(f"{PACKAGE}.{name}" if name else PACKAGE)

    def forget(self) -> None:
        """Forgets all that the modules remember, as a cold start does."""
        for cached in self._cached:
            cached.cache_clear()
        for held, initial in self._held:
            if held != initial:
                held.clear()
                (held.extend if isinstance(held, list) else held.update)(copy.deepcopy(initial))

    def _learn(self, module: ModuleType) -> None:
        """Finds what a module can remember: cached calls, containers, objects of the package's classes."""
        known = {id(held) for held, _ in self._held} | {id(cached) for cached in self._cached}
        for name, value in vars(module).items():
            if name.startswith("__") or id(value) in known:
                continue
            if isinstance(value, _CACHED):
                if module.__name__ not in PURE:
                    self._cached.append(value)
            elif isinstance(value, dict | list | set):
                self._held.append((value, copy.copy(value)))
            elif type(value).__module__.startswith(PACKAGE) and hasattr(value, "__dict__"):
                self._held.append((vars(value), copy.deepcopy(vars(value))))

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: tuple[str, ...] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level:
            raise NotImplementedError("relative imports")
        if name in self._seams:
            return self._seams[name]
        if name != PACKAGE and not name.startswith(f"{PACKAGE}."):
            return builtins.__import__(name, globals, locals, fromlist or (), 0)
        module = self._load(name)
        for each in fromlist or ():
            if not hasattr(module, each) and hasattr(module, "__path__"):
                self._load(f"{name}.{each}")
        return module if fromlist else self.modules[PACKAGE]

    def _load(self, name: str) -> ModuleType:
        if name in self.modules:
            return self.modules[name]
        parent, _, last = name.rpartition(".")
        if parent:
            self._load(parent)
        path, is_package = _find(name)
        module = self._execute(name, path, package=is_package)
        if parent:
            setattr(self.modules[parent], last, module)
        return module

    def _execute(self, name: str, path: Path, *, package: bool = False) -> ModuleType:
        module = ModuleType(name)
        content = vars(module)
        content["__file__"] = str(path)
        content["__builtins__"] = self._builtins
        content["__package__"] = name if package else name.rpartition(".")[0]
        if package:
            content["__path__"] = [str(path.parent)]
        if name.startswith(PACKAGE):
            self.modules[name] = module
        before = sys.modules.get(name)
        sys.modules[name] = module  # where msgspec and dataclasses look up what annotations name
        try:
            exec(code_of(path), content)
        finally:
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before
        self._learn(module)
        return module


@cache
def _find(name: str) -> tuple[Path, bool]:
    path = _SOURCES.joinpath(*name.split("."))
    if path.is_dir():
        return path / "__init__.py", True
    return path.with_suffix(".py"), False


@cache
def code_of(path: Path) -> CodeType:
    """Returns the code of a module, which all images share."""
    return compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
